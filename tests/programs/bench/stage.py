"""What every section runs on: a broker, a folder, sizes, turns; and fresh topics for every turn."""

import asyncio
import itertools
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition

from learner_worker.brokers import Broker
from learner_worker.contract.topics import TopicNames, Topics
from learner_worker.kafka.admin import connected
from learner_worker.kafka.connection import Connection
from tests.programs.bench.figures import Goal
from tests.support.forked import clean_environment
from tests.support.workers import WorkerProcess, running_worker

PARTITIONS = 12
"""The default of `learner-worker topics create`."""
_INTERNAL = ("requests", "replies", "outcomes", "metrics", "rerouted", "dead_letters", "topology")
_FIELDS = ("bid_placed", "auction_closed", "task_finished", *_INTERNAL)
_CHILD_SECONDS = 900.0
T = TypeVar("T")


class ChildError(Exception):
    """A process of the bench failed; the message has its last words."""


@dataclass(slots=True)
class Stage:
    """Where a section plays.

    Attributes:
        turns: how often each side is measured, in alternation.
        scale: what all sizes are multiplied with; 1 is the published bench.
        settings: of every worker, besides what a section sets.
        broker_pids: the processes of the broker.
        other: whose program the workers run, if not this one.
    """

    broker: Broker
    folder: Path
    turns: int
    scale: float
    settings: Mapping[str, str]
    say: Callable[[str], None]
    broker_pids: Sequence[int] = ()
    other: "OtherProgram | None" = None
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    @property
    def servers(self) -> str:
        """Where the broker listens."""
        return self.broker.bootstrap_servers

    def scaled(self, full: int, *, least: int = 1) -> int:
        """A size of this run."""
        return max(least, round(full * self.scale))

    def full_size_goal(self, goal: Goal) -> Goal | None:
        """A goal that means something only at full size; none in a smaller trial."""
        return goal if self.scale >= 1 else None

    def new_name(self, what: str) -> str:
        """A name that nothing on this broker has yet."""
        return f"{what}-{next(self._numbers)}"

    def new_folder(self, what: str) -> Path:
        """An empty folder."""
        folder = self.folder / self.new_name(what)
        folder.mkdir(parents=True)
        return folder

    async def new_topics(self, what: str, *, advice_log: bool = False) -> "Setting":
        """All topics under a prefix of their own."""
        setting = Setting(Topics(prefix=f"{self.new_name(what)}-", advice_log=advice_log))
        await self._create(setting.names)
        return setting

    async def new_internals(self, load: "Setting", *, keep: Sequence[str] = ()) -> "Setting":
        """The load's source topics, to be read again: everything that the learner writes is new and empty.

        `keep` names fields of `Topics` that stay the load's, too.
        """
        renamed: dict[str, Any] = {
            name: self.new_name(name.replace("_", "-")) for name in _INTERNAL if name not in keep
        }
        kept = {name: getattr(load.topics, name) for name in keep}
        setting = Setting(Topics(prefix=load.topics.prefix, **renamed, **kept), self.new_name("group"))
        await self._create(setting.names)
        return setting

    async def _create(self, names: TopicNames) -> None:
        """Creates topics and waits until every partition has its leader: nobody measured waits for that."""
        async with connected(Connection(self.servers), patience_seconds=30) as cluster:
            await cluster.create_topics(names, partitions=PARTITIONS, replication_factor=1)
            counts = await cluster.partitions(names.all)
        async with AIOKafkaConsumer(bootstrap_servers=self.servers) as consumer:
            await consumer.end_offsets(
                [TopicPartition(topic, number) for topic, count in counts.items() for number in range(count)]
            )

    @asynccontextmanager
    async def worker(
        self,
        setting: "Setting",
        state_dir: Path,
        *,
        settings: Mapping[str, str] | None = None,
        wait: bool = True,
    ) -> AsyncIterator[WorkerProcess]:
        """A worker started by its command line, with default settings but for those given."""
        flags = {**setting.flags(), **self.settings, **(settings or {})}
        other: dict[str, Any] = {}
        if self.other is not None:
            flags = {name: value for name, value in flags.items() if name in self.other.options}
            other = {"program": self.other.program, "environment": self.other.environment}
        async with running_worker(
            self.servers, setting.topics.prefix, state_dir, settings=flags, wait=wait, fresh=True, **other
        ) as worker:
            yield worker


@dataclass(frozen=True, slots=True)
class OtherProgram:
    """The worker of another source tree, run by this Python.

    Attributes:
        options: those of its `run`; others are not passed to it.
    """

    options: frozenset[str]
    program: Sequence[str]
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Setting:
    """A worker's topics and group."""

    topics: Topics
    group: str | None = None

    @property
    def names(self) -> TopicNames:
        """The topics' full names."""
        return self.topics.named()

    @property
    def group_id(self) -> str:
        """The consumer group."""
        return self.group or f"{self.topics.prefix}learner"

    def flags(self) -> dict[str, str]:
        """What makes a worker use them: names only."""
        defaults = Topics()
        renamed = {
            f"--topic-{name.replace('_', '-')}": getattr(self.topics, name)
            for name in _FIELDS
            if getattr(self.topics, name) != getattr(defaults, name)
        }
        return {"--group-id": self.group_id, **renamed}


async def in_turns(turns: int, *sides: Callable[[], Awaitable[T]]) -> list[list[T]]:
    """Every side once a turn, so that what the machine does meanwhile meets all; each side's results."""
    results: list[list[T]] = [[] for _ in sides]
    for turn in range(turns):
        places = range(len(sides))
        for place in places if turn % 2 == 0 else reversed(places):
            results[place].append(await sides[place]())
    return results


@asynccontextmanager
async def running_child(module: str, **options: object) -> AsyncIterator[asyncio.subprocess.Process]:
    """A module of the bench in a process of its own; its options are its one argument, as JSON."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, json.dumps(options)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=clean_environment(),
        limit=2**26,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def child(module: str, **options: object) -> Any:
    """What a module of the bench, run in a process of its own, says as JSON on its last line.

    Raises:
        ChildError: it failed, or took too long.
    """
    async with running_child(module, **options) as process:
        try:
            said, _ = await asyncio.wait_for(process.communicate(), _CHILD_SECONDS)
        except TimeoutError as error:
            raise ChildError(f"{module} took longer than {_CHILD_SECONDS:.0f} s") from error
        if process.returncode:
            raise ChildError(f"{module} ended with {process.returncode}")
        return json.loads(said.splitlines()[-1])


async def said_ready(process: asyncio.subprocess.Process) -> None:
    """Waits for a running child's word that it has begun.

    Raises:
        ChildError: it ended before.
    """
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), _CHILD_SECONDS)
    if line.strip() != b"ready":
        raise ChildError(f"a child ended before it was ready: {line!r}")


async def last_words(process: asyncio.subprocess.Process) -> Any:
    """Closes a running child's input, and waits for its end and what it says on its last line."""
    said, _ = await asyncio.wait_for(process.communicate(b""), _CHILD_SECONDS)
    if process.returncode:
        raise ChildError(f"a child ended with {process.returncode}")
    return json.loads(said.splitlines()[-1])


def resident_bytes(worker: WorkerProcess) -> int:
    """The memory a worker holds now."""
    return int(Path(f"/proc/{worker.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
