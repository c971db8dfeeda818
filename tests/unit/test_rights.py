"""The rights that a user lacks: one rule, for a worker's start and for doctor."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest

from learner_worker.contract.topics import TopicName, Topics
from learner_worker.doctor.case import Case
from learner_worker.doctor.findings import Level
from learner_worker.doctor.kafka import Group, Partition, Topic
from learner_worker.doctor.rights import check_rights
from learner_worker.interface.rights import ResourceKind
from learner_worker.kafka.admin import NO_ERROR
from learner_worker.kafka.rights import OPERATIONS, Permissions, Right, missing_rights, needed_rights
from learner_worker.settings import Settings

TOPIC = TopicName("bids.layout2")
NEEDED = [Right("Create", "topic", TOPIC), Right("Write", "topic", TOPIC), Right("Read", "group", "g")]
GROUP = Permissions(forbidden=False, operations=frozenset({OPERATIONS["Read"]}))
DONE: Mapping[str, frozenset[int]] = {
    "nothing": frozenset(),
    "write": frozenset({OPERATIONS["Write"]}),
    "both": frozenset({OPERATIONS["Write"], OPERATIONS["Create"]}),
}


@pytest.mark.parametrize(
    ("allowed", "creatable", "expected"),
    [
        ("both", False, []),
        ("write", False, ["Create"]),
        ("write", True, []),
        ("nothing", True, ["Write"]),
        ("nothing", False, ["Create", "Write"]),
    ],
)
async def test_a_topic_is_created_by_a_right_on_it_or_on_the_cluster(
    allowed: str, *, creatable: bool, expected: list[str]
) -> None:
    """Kafka is only asked for the topics whose own rights do not allow it."""
    asked: list[TopicName] = []

    async def may_create(topics: Collection[TopicName]) -> Collection[TopicName]:
        asked.extend(topics)
        return topics if creatable else ()

    said: dict[tuple[ResourceKind, str], Permissions] = {
        ("topic", TOPIC): Permissions(forbidden=False, operations=DONE[allowed], exists=False),
        ("group", "g"): GROUP,
    }
    missing = await missing_rights(NEEDED, said, may_create)
    assert [right.operation for right in missing] == expected
    assert asked == ([] if allowed == "both" else [TOPIC])


class CreatorsKafka:
    """A cluster whose user may do everything but create a topic by a right on that topic."""

    def __init__(self, creatable: Collection[TopicName]) -> None:
        self._creatable = creatable

    async def topics(self, names: Sequence[TopicName]) -> Mapping[TopicName, Topic]:
        """All of them; those of the next layout do not exist."""
        operations = frozenset(OPERATIONS.values()) - {OPERATIONS["Create"]}
        there = [Partition(0, 1, [1], [1])]
        return {name: Topic(NO_ERROR, [] if "layout2" in name else there, operations) for name in names}

    async def group(self, _: str) -> Group:
        """A group that may be used."""
        return Group(NO_ERROR, "Stable", (), frozenset(OPERATIONS.values()))

    async def creatable(self, topics: Collection[TopicName]) -> set[TopicName]:
        """By a right on the cluster."""
        return set(topics) & set(self._creatable)


class CreatorsCase(Case):
    """An examination of that cluster."""

    def __init__(self, stack: AsyncExitStack, creatable: Collection[TopicName]) -> None:
        super().__init__(Settings(), stack, "resharder")
        self._creatable = creatable

    async def kafka(self) -> Any:
        """The cluster."""
        return CreatorsKafka(self._creatable)


async def test_doctor_asks_for_no_right_that_the_cluster_gives() -> None:
    """Whoever may create any topic needs no right to create this one; without it each is named."""
    needed = needed_rights(Topics().named(), Settings().group_id, "resharder")
    to_create = {TopicName(right.name) for right in needed if right.operation == "Create"}
    assert to_create
    async with AsyncExitStack() as stack:
        [found] = await check_rights(CreatorsCase(stack, to_create))
        lacking = await check_rights(CreatorsCase(stack, ()))
    assert found.level is Level.OK
    assert [finding.level for finding in lacking] == [Level.ERROR] * len(to_create)
    assert all("may not Create topic" in finding.what for finding in lacking)
