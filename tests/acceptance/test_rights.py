"""Exactly the printed rights are enough, and each of them is needed: who lacks one is told which.

On Apache Kafka with TLS, logins and its authorizer, started once. Each role has a user of its own, which may
do what the table of rights says and nothing else.
"""

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, get_args

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from learner_worker import BlockingLearnerClient, EventPublisher, LearnerClient
from learner_worker.client import kafka_options
from learner_worker.contract.topics import Topics
from learner_worker.doctor import Level, examine
from learner_worker.doctor.examination import CHECKS
from learner_worker.errors import BrokerError, RefusedError, SuggestionError
from learner_worker.group.topology_view import create_topics as create_owned
from learner_worker.group.topology_view import topology_view
from learner_worker.interface.rights import GrantedRight, RightOperation, Role, rights_of
from learner_worker.kafka.admin import connected
from learner_worker.kafka.connection import Connection
from learner_worker.kafka.rights import OPERATIONS, needed_rights, require_rights
from learner_worker.operations.reshard_kafka import KafkaAccess, kafka_access
from learner_worker.operations.reshard_plan import delete_replaced, plan
from learner_worker.settings import load_settings
from tests.support import forked
from tests.support.commands import (
    AFTER_IT,
    AGENT,
    BESIDE_A_WORKER,
    Caller,
    problem,
    send_dead_letters,
    write_swarm_file,
)
from tests.support.forked import Call, Ended
from tests.support.forwarder import create_agent_topic, running_forwarder
from tests.support.insights import InsightsProcess, running_insights
from tests.support.secured import PASSWORD, SecuredKafka, grant, taken_away
from tests.support.tokens import secret_file
from tests.support.workers import WorkerProcess, running_worker, until

PREFIX = "rights-"
GROUP_ID = f"{PREFIX}learner"
TOPICS = Topics(prefix=PREFIX, advice_log=True)
PARTITIONS = 4
INSTANCE = "one"
NAMES = TOPICS.named()
AGENT_TOPIC = f"{NAMES.requests}.{AGENT}"
SECONDS = 20.0  # for an answer: far above what one takes, on a busy machine

Cell = tuple[GrantedRight, RightOperation]


def user(role: Role) -> str:
    return f"only-{role}"


def granted_to(role: Role) -> list[GrantedRight]:
    """What a role is granted."""
    return rights_of(role, NAMES, GROUP_ID, agent_topics=[AGENT_TOPIC])


def cells(role: Role) -> list[Cell]:
    """Every operation on every resource that a role is granted."""
    return cells_of(granted_to(role))


def cells_of(rights: Sequence[GrantedRight]) -> list[Cell]:
    """Every operation on every resource among some rights."""
    return [(right, operation) for right in rights for operation in right.operations]


def flags(role: Role, kafka: SecuredKafka) -> dict[str, Any]:
    """The settings of a role's user."""
    return {
        "bootstrap_servers": kafka.login_tls,
        "topic_prefix": PREFIX,
        "group_id": GROUP_ID,
        "advice_log": "true",
        "agent_topic": f"{AGENT_TOPIC}={AGENT}",
        "security_protocol": "SASL_SSL",
        "ssl_cafile": str(kafka.certificate),
        "sasl_username": user(role),
        "sasl_password": PASSWORD,
    }


def environment(role: Role, kafka: SecuredKafka) -> dict[str, str]:
    """The same as variables of a command."""
    return {f"LEARNER_{name.upper()}": value for name, value in flags(role, kafka).items()}


@pytest.fixture(scope="module")
def granted(secured: SecuredKafka, tmp_path_factory: pytest.TempPathFactory) -> SecuredKafka:
    """Kafka where each role's user has exactly its rights; the topics are created by the operator's."""

    async def grant_all() -> None:
        await create_agent_topic(secured.open, AGENT_TOPIC)
        for role in get_args(Role):
            for right in granted_to(role):
                await grant(secured.open, user(role), right)

    async def refused() -> None:
        (right,) = (right for right, _ in cells("operator") if right.kind == "cluster")
        async with taken_away(secured.open, user("operator"), right, OPERATIONS["Create"]):
            assert (await asyncio.to_thread(create.run))[0] == 2

    asyncio.run(grant_all())
    arguments = ("topics", "create", "--partitions", str(PARTITIONS), "--replication-factor", "1")
    create = Call(arguments, environment("operator", secured), tmp_path_factory.mktemp("operator"))
    asyncio.run(refused())
    code, *said = create.run()
    assert code == 0, said
    return secured


async def named_by_doctor(kafka: SecuredKafka, role: Role, *looked_at: str) -> list[str]:
    """What doctor says a role's user lacks, by some of its checks."""
    settings = load_settings(flags(role, kafka))
    checks = [check for check in CHECKS if check.name in looked_at]
    report = await examine(settings, checks=checks, role=role)
    return [finding.what for _, finding in report.findings if finding.level == Level.ERROR]


async def named_at_the_start(kafka: SecuredKafka) -> str:
    """What a worker's check at its start says that its user lacks; empty if it lacks nothing."""
    connection = load_settings(flags("worker", kafka)).connection()
    async with connected(connection, patience_seconds=SECONDS) as cluster:
        try:
            await require_rights(connection, cluster, needed_rights(NAMES, GROUP_ID))
        except RefusedError as refused:
            return str(refused)
    return ""


@pytest.mark.parametrize("role", get_args(Role))
async def test_each_right_that_is_taken_away_is_named(granted: SecuredKafka, role: Role) -> None:
    """One after the other, of every role: it and no other, by doctor; a worker's at its start, too."""
    assert await named_by_doctor(granted, role, "addresses", "listener", "login", "rights") == []
    if role == "worker":
        assert await named_at_the_start(granted) == ""
    for right, operation in cells(role):
        if right.kind == "cluster":
            continue
        async with taken_away(granted.open, user(role), right, OPERATIONS[operation]):
            (what,) = await named_by_doctor(granted, role, "addresses", "rights")
            refused = await named_at_the_start(granted) if role == "worker" else ""
        # A topic that is hidden then lacks the others, too: none of them says that it is there.
        assert what.startswith(f"user {user(role)} may not ")
        assert operation in what
        assert what.endswith(f" {right.kind} {right.name}")
        if role == "worker":
            words = f"lacks rights that a worker needs: {operation} on {right.kind} {right.name}:"
            assert words in refused
    sys.stdout.write(f"{role}: {len(cells(role))} rights\n")


async def test_exactly_the_printed_rights_are_enough(granted: SecuredKafka, tmp_path: Path) -> None:
    """Each role does its work beside a worker with a worker's rights; without one it is told which."""
    settings = {
        f"--{name.replace('_', '-')}": value
        for name, value in flags("worker", granted).items()
        if name not in {"bootstrap_servers", "topic_prefix", "group_id", "agent_topic"}
    }
    settings["--group-instance-id"] = INSTANCE
    write_swarm_file(tmp_path)
    state = {"LEARNER_STATE_DIR": str(tmp_path / "state"), "LEARNER_GROUP_INSTANCE_ID": INSTANCE}
    operator = Operator(granted, Caller(0, {**environment("operator", granted), **state}, tmp_path))

    async with running_worker(granted.login_tls, PREFIX, tmp_path / "state", settings=settings) as worker:
        await _publishes_and_asks(granted)
        dead_letters = await send_dead_letters(granted.open, NAMES, PARTITIONS, 1)
        await until(lambda: _at_least(worker, "learner_outcomes_total", 1), "the outcome is learned")
        await until(
            lambda: _at_least(worker, "learner_dead_letters_total", dead_letters), "dead letters are written"
        )
        await operator.run(name for name in BESIDE_A_WORKER if name not in OF_OTHERS)
        for (name, operation), commands in NEEDED.items():
            await operator.lacks(name, operation, commands)
        await _insights_shows_everything(granted, tmp_path)
        await _an_agent_asks_on_its_own_topic(granted, tmp_path)
        assert await worker.stop() == 0
    await operator.lacks(GROUP_ID, "Read", ("leave",))
    await operator.run(name for name in ("leave", *AFTER_IT) if name not in OF_OTHERS)
    assert worker.logged("kafka.refused") == []


async def _at_least(worker: WorkerProcess, metric: str, value: float) -> bool:
    return await worker.metric(metric) >= value


OF_OTHERS: Final = {"topics create", "forward-requests", "reshard"}
"""Commands that were run before, or have a role of their own."""
NEEDED: Final[Mapping[tuple[str, RightOperation], tuple[str, ...]]] = {
    (NAMES.topology, "Read"): ("topics check",),
    (NAMES.requests, "Write"): ("suggest",),
    (NAMES.replies, "Read"): ("suggest",),
    (NAMES.outcomes, "Read"): ("outcomes list", "outcomes export", "lab replay", "state verify"),
    (NAMES.outcomes, "Write"): ("forget",),
    (NAMES.dead_letters, "Read"): ("dead-letters list", "dead-letters show", "dead-letters drop"),
    (NAMES.dead_letters, "Write"): ("dead-letters replay",),
    (NAMES.rerouted, "Write"): ("dead-letters replay",),
    (NAMES.advice, "Read"): ("lab league",),
    **{
        (name, "Write"): ("import",) for name in (NAMES.bid_placed, NAMES.auction_closed, NAMES.task_finished)
    },
}
"""Rights of an operator, and commands that end with the name of what they lack."""


class Operator:
    """Runs commands as the user with exactly an operator's rights."""

    def __init__(self, kafka: SecuredKafka, caller: Caller) -> None:
        self._kafka = kafka
        self._caller = caller

    async def run(self, names: Iterable[str]) -> None:
        """Runs commands at the same time; they succeed."""
        ended = await self._ended(names)
        problems = {name: problem(name, each) for name, each in ended.items()}
        assert not any(problems.values()), problems

    async def lacks(self, resource: str, operation: RightOperation, names: Iterable[str]) -> None:
        """Runs commands without a right; they end with exit code 2 and name it."""
        right = next(right for right, one in cells("operator") if (right.name, one) == (resource, operation))
        async with taken_away(self._kafka.open, user("operator"), right, OPERATIONS[operation]):
            ended = await self._ended(names)
        unnamed = {name: each for name, each in ended.items() if each[0] != 2 or resource not in each[2]}
        assert not unnamed, (resource, operation, unnamed)

    async def _ended(self, names: Iterable[str]) -> dict[str, Ended]:
        chosen = list(names)
        calls = [self._caller.call(name) for name in chosen]
        return dict(zip(chosen, await asyncio.to_thread(forked.run_all, calls), strict=True))


async def _insights_shows_everything(kafka: SecuredKafka, folder: Path) -> None:
    """Every route of insights, with the rights of its role."""
    login = environment("insights", kafka)
    log = folder / "insights.log"
    async with running_insights(
        kafka.login_tls, PREFIX, log, "--allow-writes", environment=login
    ) as insights:
        await insights.ready()
        assert AGENT in (await insights.json("/swarm/insights"))["agents"]
        assert (await insights.agent(AGENT))["total_bids"] > 0
        page = await insights.post_form(f"/agent?id={AGENT}", {"description": "d", "base": "5", "cost": ""})
        assert "5 sats</strong> by classic" in page
        await until(lambda: _everything_is_read(insights), "every part of the page of workers is there")
        failed = await insights.session.post(f"{insights.url}/swarm/tasks/t-1/fail", json={"agent_id": AGENT})
        assert failed.status < 300, await failed.text()
        assert await insights.stop() == 0


async def _an_agent_asks_on_its_own_topic(kafka: SecuredKafka, folder: Path) -> None:
    """By a forwarder with the rights of its role; without one of them it does not start, and names it."""
    secret = {"LEARNER_IDENTITY_SECRET_FILE": str(secret_file(folder))}
    login = {**environment("forwarder", kafka), **secret}
    own = replace(TOPICS, requests=AGENT_TOPIC.removeprefix(PREFIX))
    async with (
        running_forwarder(kafka.login_tls, PREFIX, folder, environment=login) as forwarder,
        LearnerClient(kafka.open, topics=own, timeout_seconds=SECONDS) as learner,
    ):
        await learner.suggest_bid(AGENT, description="d", base_bid_sats=5)
        assert await forwarder.stop() == 0
    for right, operation in cells("forwarder"):
        async with taken_away(kafka.open, user("forwarder"), right, OPERATIONS[operation]):
            code, _, said = await asyncio.to_thread(Call(("forward-requests",), login, folder).run)
        assert (code, f"{operation} on {right.kind} {right.name}" in said) == (2, True), said


async def _everything_is_read(insights: InsightsProcess) -> bool:
    """Whether the page of workers shows the group, dead letters and findings, each without a problem."""
    page = (await insights.get("/workers"))[1]
    return "Not known now" not in page and "the topics are as recorded" in page and "wrong-partition" in page


async def test_a_reshard_needs_exactly_its_rights(granted: SecuredKafka, tmp_path: Path) -> None:
    """Without any of them it changes nothing and names it; with all of them it ends.

    What was set on the old topics is set on the new ones, and the user of the command may not see more.
    """
    grown = Topics(prefix="grown-").named()
    rights = rights_of("resharder", grown, "grown-learner")
    settings = load_settings({**flags("resharder", granted), "topic_prefix": "grown-"})

    async def refusal(act: Callable[[KafkaAccess], Awaitable[object]]) -> str:
        async with kafka_access(settings.connection(), grown, patience_seconds=SECONDS) as access:
            with pytest.raises(RefusedError) as refused:
                await act(access)
        return str(refused.value)

    async def command(*arguments: str) -> tuple[int, str]:
        own = {"LEARNER_TOPIC_PREFIX": "grown-", "LEARNER_ADVICE_LOG": "false"}
        given = {**environment("resharder", granted), **own}
        del given["LEARNER_GROUP_ID"]
        code, out, err = await asyncio.to_thread(
            lambda: forked.run("reshard", *arguments, environment=given, folder=tmp_path)
        )
        return code, out + err

    async with topology_view(Connection(granted.open), grown, patience_seconds=SECONDS) as view:
        await create_owned(view, partitions=2, replication_factor=1, group_id="grown-learner")
        await configure(granted.open, grown.outcomes, _CONFIGURED)
        for right in rights:
            await grant(granted.open, user("resharder"), right)
        for right, operation in cells_of(rights):
            async with taken_away(granted.open, user("resharder"), right, OPERATIONS[operation]):
                said = await refusal(lambda access: plan(access, 4, None))
            assert right.name in said
            named = rf"{operation} on {right.kind} {re.escape(right.name)}[;:]"
            assert right.name == grown.topology or re.search(named, said)
        first = (await view.look()).topology
        assert first is not None
        assert (first.generation, first.reshard) == (1, None)
        code, said = await command("--partitions", "4", "--yes", "--replication-factor", "1")
        assert (code, "done: 4 shards in layout 2" in said) == (0, True), said
        new = grown.of_layout(2)
        assert await view.cluster.own_configuration(new.of_one_layout) == {
            new.outcomes: _CONFIGURED,
            new.metrics: grown.configuration(grown.metrics),
            new.rerouted: grown.configuration(grown.rerouted),
        }
        for right in rights:
            if "Delete" in right.operations:
                async with taken_away(granted.open, user("resharder"), right, OPERATIONS["Delete"]):
                    said = await refusal(lambda access: delete_replaced(access, settings.connection()))
                assert re.search(rf"Delete on {right.kind} {re.escape(right.name)}[;:]", said)
        code, said = await command("--finish")
        assert (code, f"deleted {grown.outcomes}" in said) == (0, True), said


_CONFIGURED = {
    "cleanup.policy": "compact",
    "min.compaction.lag.ms": "60000",
    "max.message.bytes": "3000000",
    "min.insync.replicas": "1",
}
"""Another time and size than `topics create` gives, and what it gives to no topic."""


async def configure(address: str, topic: str, settings: dict[str, str]) -> None:
    """Sets all settings of a topic, as an operator would."""
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    try:
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, settings)])
    finally:
        await admin.close()


async def _publishes_and_asks(kafka: SecuredKafka) -> None:
    """A publisher and an agent with their rights, and without each of them."""
    publishing, asking = (
        kafka_options(
            security_protocol="SASL_SSL",
            sasl_username=f"only-{role}",
            sasl_password=PASSWORD,
            ssl_cafile=kafka.certificate,
        )
        for role in ("publisher", "agent")
    )

    async def publish() -> None:
        async with EventPublisher(kafka.login_tls, topics=TOPICS, kafka_options=publishing) as events:
            await (await events.bid_placed("t-1", "ann", bid_sats=5, description="d"))
            await (await events.auction_closed("t-1", winner_agent_id="ann", winning_bid_sats=5))
            await (await events.task_finished("t-1", "ann", succeeded=True))

    async def ask() -> None:
        async with LearnerClient(
            kafka.login_tls, topics=TOPICS, kafka_options=asking, timeout_seconds=SECONDS
        ) as learner:
            await learner.suggest_bid(AGENT, description="d", base_bid_sats=5, task_id="t-1")

    def ask_blocking() -> None:
        with BlockingLearnerClient(
            kafka.login_tls, topics=TOPICS, kafka_options=asking, timeout_seconds=SECONDS
        ) as learner:
            learner.suggest_bid("ann", description="d", base_bid_sats=5)

    await asyncio.to_thread(ask_blocking)
    work: tuple[tuple[Role, Callable[[], Awaitable[None]]], ...] = (("publisher", publish), ("agent", ask))
    for role, works in work:
        await works()
        for right, operation in cells(role):
            async with taken_away(kafka.open, user(role), right, OPERATIONS[operation]):
                assert right.name in await _refusal(works)


async def _refusal(work: Callable[[], Awaitable[None]]) -> str:
    with pytest.raises((BrokerError, SuggestionError)) as refused:
        await work()
    return str(refused.value)
