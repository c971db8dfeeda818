"""Every command that talks to Kafka, with arguments that end in success where a learner has some history.

Two tests run them: by each way to log in, and with exactly an operator's rights.
"""

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
from aiokafka import AIOKafkaProducer

from learner_worker.cli import cli
from learner_worker.contract.topics import HOP_HEADER, TopicNames
from learner_worker.kafka.partitioner import partitioner
from tests.support.forked import Call
from tests.support.seed import INSERT, SCHEMA
from tests.support.tokens import secret_file

AGENT: Final = "ann"
SECONDS: Final = 30.0  # for an answer: far above what one takes, on a busy machine
_OF_EACH: Final = 2  # dead letters of each caller: one to send back, one to drop
_PREFIX: Final = "LEARNER_TOPIC_PREFIX"


@dataclass(frozen=True)
class Caller:
    """Somebody who runs commands.

    Attributes:
        number: says which dead letters are its own, and which topics.
        environment: its settings; the state folder among them.
    """

    number: int
    environment: Mapping[str, str]
    folder: Path

    def letter(self, which: int) -> str:
        """One of its dead letters."""
        return f"0/{self.number * _OF_EACH + which}"

    def call(self, name: str) -> Call:
        """One of `COMMANDS`, as it runs it."""
        return Call(COMMANDS[name](self), self.environment, self.folder, STOPPED_AT.get(name))


Arguments = Callable[[Caller], Sequence[str]]


def _fixed(*arguments: str) -> Arguments:
    return lambda _: arguments


def _own(*arguments: str) -> Arguments:
    """In a set of topics of the caller's own, with a group."""

    def of(caller: Caller) -> Sequence[str]:
        prefix = f"{caller.environment[_PREFIX]}{caller.number}-"
        return (*arguments, "--topic-prefix", prefix, "--group-id", f"{prefix}learner")

    return of


def _forwarding(caller: Caller) -> Sequence[str]:
    """From a topic of the caller's own set, which is an agent's among the worker's topics."""
    topic = f"{caller.environment[_PREFIX]}{caller.number}-suggest-bid-requests"
    secret = str(secret_file(caller.folder))
    return ("forward-requests", "--agent-topic", f"{topic}={AGENT}", "--identity-secret-file", secret)


BESIDE_A_WORKER: Final[Mapping[str, Arguments]] = {
    "topics create": _own("topics", "create", "--partitions", "1", "--replication-factor", "1"),
    "topics check": _fixed("topics", "check"),
    "suggest": _fixed("suggest", AGENT, "--description", "d", "--base", "5", "--timeout", f"{SECONDS:g}"),
    "outcomes list": _fixed("outcomes", "list", AGENT),
    "outcomes export": _fixed("outcomes", "export", AGENT),
    "dead-letters list": _fixed("dead-letters", "list"),
    "dead-letters show": lambda caller: ("dead-letters", "show", caller.letter(0)),
    "dead-letters replay": lambda caller: ("dead-letters", "replay", caller.letter(0)),
    "dead-letters drop": lambda caller: ("dead-letters", "drop", caller.letter(1)),
    "doctor": _fixed("doctor", "--role", "operator"),
    "forget": _fixed("forget", "nobody", "--yes", "--wait", "0"),
    "import": lambda caller: ("import", str(caller.folder / "swarm.db")),
    "lab replay": _fixed("lab", "replay"),
    "lab league": _fixed("lab", "league"),
    "insights": _fixed("insights", "--http-port", "0"),
    "state verify": _fixed("state", "verify"),
    "forward-requests": _forwarding,
}
"""While workers run."""
AFTER_IT: Final[Mapping[str, Arguments]] = {
    "state rebuild": _fixed("state", "rebuild", "--all"),
    "reshard": _own("reshard", "--partitions", "2", "--replication-factor", "1", "--yes"),
}
"""When they are stopped."""
COMMANDS: Final[Mapping[str, Arguments]] = {
    **BESIDE_A_WORKER,
    **AFTER_IT,
    "leave": lambda caller: ("leave", "--instance", caller.environment["LEARNER_GROUP_INSTANCE_ID"]),
}
"""All of them; `leave` is for one worker that has stopped and was a static member."""
STOPPED_AT: Final = {"insights": "Insights: http", "forward-requests": "Forwarding requests from"}
"""What a command prints that ends by a signal only, when it is connected to Kafka."""
WITH_WARNINGS: Final = frozenset({"doctor"})
"""Exit code 1 is what they found, as that nobody has published lately."""
WITHOUT_KAFKA: Final = frozenset({"acls print", "demo", "run"})
"""Commands that take the address of Kafka and are none of these: one prints it, two are tested as workers."""


def commands_of_kafka() -> set[str]:
    """The names of all commands of the program that take the address of Kafka."""
    return {
        name
        for name, command in _commands(cli, "")
        if any(each.name == "bootstrap_servers" for each in command.params)
    } - WITHOUT_KAFKA


def _commands(group: click.Group, before: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from _commands(command, f"{before}{name} ")
        elif command is not None:
            yield f"{before}{name}", command


def problem(name: str, ended: tuple[int, str, str]) -> str:
    """What is wrong with how a command ended; empty if nothing is."""
    code, out, err = ended
    return "" if code == 0 or (code == 1 and name in WITH_WARNINGS) else f"exit code {code}: {out}{err}"


def write_swarm_file(folder: Path) -> None:
    """The file that `import` reads: one task and its winner."""
    with closing(sqlite3.connect(folder / "swarm.db")) as database, database:
        database.execute(SCHEMA)
        database.execute(INSERT, ("imported", AGENT, "d", 5, 1, 1, "2026-01-01 00:00:00"))


async def send_dead_letters(servers: str, names: TopicNames, partitions: int, callers: int) -> int:
    """Sends events that were moved once and are still wrong, as many as callers handle; returns how many."""
    shard_of, ids = partitioner(partitions), [str(number) for number in range(partitions * 10)]
    key = next(each for each in ids if shard_of(each) == 0)  # where the dead letters are written, too
    task = next(each for each in ids if shard_of(each) != 0)
    value = json.dumps({"task_id": task, "agent_id": AGENT, "bid_sats": 5, "description": "d"}).encode()
    count, headers = callers * _OF_EACH, [(HOP_HEADER, b"bid-placed")]
    async with AIOKafkaProducer(bootstrap_servers=servers) as producer:
        for _ in range(count):
            await producer.send_and_wait(names.rerouted, value, key.encode(), partition=0, headers=headers)
    return count
