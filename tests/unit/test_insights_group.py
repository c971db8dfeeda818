"""The workers' group as insights see it: whoever is a member, by clients that are kept between two looks."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from aiokafka import TopicPartition
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata
from aiokafka.errors import KafkaConnectionError

from learner_worker.contract.fields import ShardId
from learner_worker.contract.topics import Topics
from learner_worker.contract.topology import OwnTopics, Topology
from learner_worker.group.placement import Claim
from learner_worker.group.topology_view import Layout
from learner_worker.insights import group_view, workers
from learner_worker.insights.group_view import GroupLook, MemberView
from learner_worker.insights.workers import WorkersWatch
from learner_worker.kafka.admin import Committed, GroupMember
from learner_worker.settings import Settings

NAMES = Topics().named()
SHARDS = 2
TOPOLOGY = Topology(
    generation=1,
    shards=SHARDS,
    cluster_id="cluster",
    incarnation="i",
    owner_group="learner",
    topics=OwnTopics.of(NAMES),
)
LAYOUT = Layout("cluster", SHARDS, TOPOLOGY, NAMES)
CLAIM = msgspec.json.encode(Claim("run", name="replica-0"))
METADATA = ConsumerProtocolMemberMetadata(0, list(NAMES.subscribed), CLAIM).encode()


class PlayedKafka:
    """The clients of looks, as the test has them answer; counts those that are opened and closed."""

    def __init__(self, members: Sequence[GroupMember] = ()) -> None:
        self.members = members
        self.commits: Mapping[TopicPartition, Committed] = {}
        self.opened = self.closed = 0
        self.failures: list[Exception] = []
        self.hanging = asyncio.Event()
        self.hangs = False

    @asynccontextmanager
    async def connected(self, *_: object, **__: object) -> AsyncIterator["PlayedKafka"]:
        """Stands for an admin client's connection."""
        self.opened += 1
        try:
            yield self
        finally:
            self.closed += 1

    async def committed(self, group_id: str) -> Mapping[TopicPartition, Committed]:
        """The commits, or what fails next."""
        assert group_id
        if self.hangs:
            self.hanging.set()
            await asyncio.get_running_loop().create_future()
        if self.failures:
            raise self.failures.pop(0)
        return {} if group_id.endswith(".requests") else self.commits

    async def stable_members(self, _: str) -> Sequence[GroupMember]:
        """The members."""
        return self.members

    async def beginning_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Zeros."""
        return dict.fromkeys(partitions, 0)

    async def end_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Three records in each."""
        return dict.fromkeys(partitions, 3)


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> PlayedKafka:
    """Every client of a look."""
    played = PlayedKafka()

    @asynccontextmanager
    async def running(*_: Any) -> AsyncIterator[PlayedKafka]:
        yield played

    monkeypatch.setattr(group_view, "connected", played.connected)
    monkeypatch.setattr(group_view, "running", running)
    monkeypatch.setattr(group_view, "range_consumer", lambda _: None)
    return played


def new_look() -> GroupLook:
    """A look at the default group."""
    return GroupLook(Settings(), LAYOUT, "learner")


async def test_the_clients_of_one_look_serve_the_next_until_they_fail(kafka: PlayedKafka) -> None:
    """A connection that has ended is replaced within the same look; new clients that fail are closed."""
    look = new_look()
    for _ in range(3):
        assert [shard.unread[0].records for shard in (await look.look()).lag] == [3] * SHARDS
    assert (kafka.opened, kafka.closed) == (1, 0)

    kafka.failures = [KafkaConnectionError("ended")]
    await look.look()
    assert (kafka.opened, kafka.closed) == (2, 1)

    kafka.failures = [KafkaConnectionError("ended"), KafkaConnectionError("still away")]
    with pytest.raises(KafkaConnectionError, match="still away"):
        await look.look()
    assert (kafka.opened, kafka.closed) == (3, 3)

    await look.look()
    await look.close()
    assert (kafka.opened, kafka.closed) == (4, 4)


async def test_commits_that_a_mirror_has_copied_have_read_nothing(kafka: PlayedKafka) -> None:
    """They name the original's topics: a worker of these begins at the start."""
    own, copied = (TopicPartition(NAMES.bid_placed, shard) for shard in range(SHARDS))
    kafka.commits = {own: Committed(2, "incarnation=i;"), copied: Committed(2, "incarnation=of-another;")}
    assert [shard.unread[0].records for shard in (await new_look().look()).lag] == [1, 3]


async def test_the_clients_of_a_look_that_is_interrupted_are_closed(kafka: PlayedKafka) -> None:
    """What a client has asked for may still come: the next look would take it for its own answer."""
    kafka.hangs = True
    looking = asyncio.create_task(new_look().look())
    await kafka.hanging.wait()
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking
    assert (kafka.opened, kafka.closed) == (1, 1)


async def test_the_watch_goes_on_after_a_mistake_and_closes_its_clients_at_the_end(
    kafka: PlayedKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Insights serve on, whatever a look meets; at the end a look that goes on is interrupted."""
    monkeypatch.setattr(workers, "_LOOK_SECONDS", 0)
    monkeypatch.setattr(workers, "_VIEW_SECONDS", -1)
    kafka.failures = [TypeError("a mistake")]
    running = asyncio.create_task(WorkersWatch(Settings(), LAYOUT).run())
    while kafka.opened < 2:
        assert not running.done()
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert kafka.opened == kafka.closed


UNREADABLE = (b"", b"\xff", b"\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff", METADATA[:9], b"\x00" * 6 + b"\x80")
"""Nothing, too little, null arrays, a part, and what is too short for its own length."""


@pytest.mark.parametrize("metadata", [*UNREADABLE, METADATA])
@pytest.mark.parametrize("assignment", UNREADABLE)
async def test_members_of_any_kind_are_shown(kafka: PlayedKafka, metadata: bytes, assignment: bytes) -> None:
    """Whoever joins the group chooses its metadata, and its leader the assignments: workers stay visible."""
    owned = ConsumerProtocolMemberAssignment(0, [(NAMES.outcomes, [1]), ("other", [0])], b"").encode()
    null = ConsumerProtocolMemberAssignment(0, [(NAMES.outcomes, None)], b"").encode()
    kafka.members = [
        GroupMember("worker", "/10.0.0.1", METADATA, owned),
        GroupMember("stranger", "/10.0.0.2", metadata, assignment),
        GroupMember("null", "/10.0.0.3", metadata, null),
    ]
    view = await new_look().look()
    assert view.members is not None
    assert MemberView("replica-0", "10.0.0.1", [ShardId(1)]) in view.members
    assert [list(member.shards) for member in view.members if member.host != "10.0.0.1"] == [[], []]
    assert [shard.owner for shard in view.lag] == [None, "replica-0"]
