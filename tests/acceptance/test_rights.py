"""Exactly the printed rights are enough, and each of them is needed: who lacks one is told which.

On Apache Kafka with logins and its authorizer, started once. Each role has a user of its own, which may do
what the table of rights says and nothing else.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
from aiokafka import AIOKafkaProducer
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
from tests.support.secured import PASSWORD, SecuredKafka, grant, taken_away
from tests.support.workers import create_topics, running_worker, until

PREFIX = "rights-"
GROUP_ID = f"{PREFIX}learner"
TOPICS = Topics(prefix=PREFIX)
NAMES = TOPICS.named()
SECONDS = 20.0  # for an answer: far above what one takes, on a busy machine
_LOOKED_AT = ("addresses", "listener", "login", "rights")

Cell = tuple[GrantedRight, RightOperation]


def user(role: Role) -> str:
    return f"only-{role}"


def cells(role: Role) -> list[Cell]:
    """Every operation on every resource that a role is granted."""
    return cells_of(rights_of(role, NAMES, GROUP_ID))


def cells_of(rights: Sequence[GrantedRight]) -> list[Cell]:
    """Every operation on every resource among some rights."""
    return [(right, operation) for right in rights for operation in right.operations]


def flags(role: Role, servers: str) -> dict[str, Any]:
    """The settings of a role's user."""
    return {
        "bootstrap_servers": servers,
        "topic_prefix": PREFIX,
        "group_id": GROUP_ID,
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_username": user(role),
        "sasl_password": PASSWORD,
    }


@pytest.fixture(scope="module")
def granted(secured: SecuredKafka) -> SecuredKafka:
    """Kafka with the topics, where each role's user has exactly its rights."""

    async def prepare() -> None:
        await create_topics(secured.open, PREFIX)
        for role in get_args(Role):
            for right in rights_of(role, NAMES, GROUP_ID):
                await grant(secured.open, user(role), right)

    asyncio.run(prepare())
    return secured


async def named_by_doctor(kafka: SecuredKafka, role: Role) -> list[str]:
    """What doctor says a role's user lacks."""
    settings = load_settings(flags(role, kafka.login))
    checks = [check for check in CHECKS if check.name in _LOOKED_AT]
    report = await examine(settings, checks=checks, role=role)
    return [finding.what for _, finding in report.findings if finding.level == Level.ERROR]


@pytest.mark.parametrize("role", get_args(Role))
async def test_doctor_names_each_right_that_is_taken_away(granted: SecuredKafka, role: Role) -> None:
    """One after the other, of every role: this right, and no other."""
    assert await named_by_doctor(granted, role) == []
    for right, operation in cells(role):
        if right.kind == "cluster":
            continue
        async with taken_away(granted.open, user(role), right, OPERATIONS[operation]):
            (what,) = await named_by_doctor(granted, role)
        # A topic that is hidden then lacks the others, too: none of them says that it is there.
        assert what.startswith(f"user {user(role)} may not ")
        assert operation in what
        assert what.endswith(f" {right.kind} {right.name}")


async def test_a_worker_does_not_start_without_a_right(granted: SecuredKafka) -> None:
    """The check at its start names the one that is taken away, of all of them."""
    connection = load_settings(flags("worker", granted.login)).connection()
    async with connected(connection, patience_seconds=SECONDS) as cluster:
        needed = needed_rights(NAMES, GROUP_ID)
        await require_rights(connection, cluster, needed)
        for right, operation in cells("worker"):
            async with taken_away(granted.open, user("worker"), right, OPERATIONS[operation]):
                with pytest.raises(RefusedError) as refused:
                    await require_rights(connection, cluster, needed)
            words = f"lacks rights that a worker needs: {operation} on {right.kind} {right.name}:"
            assert words in str(refused.value)


async def test_exactly_the_printed_rights_are_enough(granted: SecuredKafka, tmp_path: Path) -> None:
    """Each role does its work beside a worker with a worker's rights; without one it is told which."""
    settings = {
        f"--{name.replace('_', '-')}": value
        for name, value in flags("worker", granted.login).items()
        if name not in {"bootstrap_servers", "topic_prefix", "group_id"}
    }
    operator = {f"LEARNER_{name.upper()}": value for name, value in flags("operator", granted.login).items()}

    async def command(*arguments: str) -> tuple[int, str]:
        code, out, err = await asyncio.to_thread(
            lambda: forked.run(*arguments, environment=operator, folder=tmp_path)
        )
        return code, out + err

    async with running_worker(granted.login, PREFIX, tmp_path / "state", settings=settings) as worker:
        await _publishes_and_asks(granted)
        async with AIOKafkaProducer(bootstrap_servers=granted.open) as producer:
            await producer.send_and_wait(NAMES.bid_placed, b"{}")

        async def learned() -> bool:
            return await worker.metric("learner_outcomes_total") >= 1

        async def set_aside() -> bool:
            return await worker.metric("learner_dead_letters_total") >= 1

        await until(learned, "the outcome is learned")
        await until(set_aside, "the event that is none is a dead letter")
        for arguments, right in _OPERATORS:
            assert (await command(*arguments))[0] == 0, arguments
            taken = next(cell for cell in cells("operator") if (cell[0].name, cell[1]) == right)
            async with taken_away(granted.open, user("operator"), taken[0], OPERATIONS[taken[1]]):
                code, said = await command(*arguments)
            assert (code, right[0] in said) == (2, True), said
        assert await worker.stop() == 0
    assert worker.logged("kafka.refused") == []


_OPERATORS = (
    (("topics", "check"), (NAMES.topology, "Read")),
    (("outcomes", "list", "ann"), (NAMES.outcomes, "Read")),
    (("forget", "bob", "--yes", "--wait", "0"), (NAMES.outcomes, "Write")),
    (("dead-letters", "list"), (NAMES.dead_letters, "Read")),
)
"""Commands of an operator, and a right that each needs."""


async def test_a_reshard_needs_exactly_its_rights(granted: SecuredKafka, tmp_path: Path) -> None:
    """Without any of them it changes nothing and names it; with all of them it ends.

    What was set on the old topics is set on the new ones, and the user of the command may not see more.
    """
    grown = Topics(prefix="grown-").named()
    rights = rights_of("resharder", grown, "grown-learner")
    settings = load_settings({**flags("resharder", granted.login), "topic_prefix": "grown-"})

    async def refusal(act: Callable[[KafkaAccess], Awaitable[object]]) -> str:
        async with kafka_access(settings.connection(), grown, patience_seconds=SECONDS) as access:
            with pytest.raises(RefusedError) as refused:
                await act(access)
        return str(refused.value)

    async def command(*arguments: str) -> tuple[int, str]:
        environment = {
            **{f"LEARNER_{name.upper()}": value for name, value in flags("resharder", granted.login).items()},
            "LEARNER_TOPIC_PREFIX": "grown-",
        }
        environment.pop("LEARNER_GROUP_ID")
        code, out, err = await asyncio.to_thread(
            lambda: forked.run("reshard", *arguments, environment=environment, folder=tmp_path)
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
            security_protocol="SASL_PLAINTEXT", sasl_username=f"only-{role}", sasl_password=PASSWORD
        )
        for role in ("publisher", "agent")
    )

    async def publish() -> None:
        async with EventPublisher(kafka.login, topics=TOPICS, kafka_options=publishing) as events:
            await (await events.bid_placed("t-1", "ann", bid_sats=5, description="d"))
            await (await events.auction_closed("t-1", winner_agent_id="ann", winning_bid_sats=5))
            await (await events.task_finished("t-1", "ann", succeeded=True))

    async def ask() -> None:
        async with LearnerClient(
            kafka.login, topics=TOPICS, kafka_options=asking, timeout_seconds=SECONDS
        ) as learner:
            await learner.suggest_bid("ann", description="d", base_bid_sats=5)

    def ask_blocking() -> None:
        with BlockingLearnerClient(
            kafka.login, topics=TOPICS, kafka_options=asking, timeout_seconds=SECONDS
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
