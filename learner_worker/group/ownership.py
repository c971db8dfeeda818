"""What a replica owns: its shards as the reading loop sees them, and how far the group came with them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from aiokafka import TopicPartition

from learner_worker.contract.fields import ShardId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import TopicName
from learner_worker.kafka.admin import Committed
from learner_worker.kafka.records import Record


@dataclass(frozen=True, slots=True)
class BrokerOffsets:
    """What Kafka knows of a shard's partitions when it is taken over.

    Attributes:
        committed: what the group committed, by topic.
        ends: the first and the next offset, by topic.
    """

    committed: Mapping[TopicName, Committed]
    ends: Mapping[TopicName, tuple[int, int]]


class StreamSnapshot(Protocol):
    """A shard's consistent snapshot, on its way to disk."""

    async def publish(self) -> None:
        """Hands what the snapshot implies for other topics to the writer."""
        ...

    async def write(self) -> None:
        """Writes rows and positions in one transaction."""
        ...

    @property
    def commits(self) -> Mapping[TopicName, Committed]:
        """What to tell Kafka of it afterwards."""
        ...


class StreamShard(Protocol):
    """What the reading loop needs of a shard."""

    @property
    def positions(self) -> dict[TopicName, int]:
        """The next offset of each topic; the loop moves it only over offsets that hold no record."""
        ...

    @property
    def restored(self) -> bool:
        """Whether it is as far as its changelog was when it came here."""
        ...

    def wanted(self, *, all_restored: bool) -> Collection[TopicName]:
        """The topics it wants records of now: only the changelog while it, or a neighbour, is restored."""
        ...

    async def process(self, topic: TopicName, records: Sequence[Record]) -> None:
        """Takes records in, moving the position with each."""
        ...

    def step_over(self, topic: TopicName, first: int, following: int) -> None:
        """Moves the position over records that cannot be read, and leaves word of them."""
        ...

    def reached(self, topic: TopicName, confirmed: Micros | None) -> None:
        """Says whether a topic was read to its end, and when Kafka last confirmed that."""
        ...

    def still_valid(self, marks: BrokerOffsets) -> bool:
        """Whether its memory may go on after a rebalance: nobody else came further meanwhile."""
        ...

    def snapshot(self) -> StreamSnapshot:
        """Freezes positions and changed rows, without an await."""
        ...

    def on_checkpoint_written(self) -> None:
        """The last snapshot is in the file."""
        ...

    async def close(self) -> None:
        """Lets go of the file, which stays on disk."""
        ...


ShardT = TypeVar("ShardT", bound=StreamShard)


@dataclass(slots=True)
class Ownership(Generic[ShardT]):
    """Which shards this replica owns.

    Attributes:
        epoch: counts rebalances and reloads.
        placement: counts the assignments that the group made.
        assigned: the shards Kafka's group gave this replica; None before the first assignment.
        shards: those that are open.
        prepared: those opened in this epoch that the reading loop has not sought yet.
        sought: those the reading loop has sought in this epoch.
        active: the partitions whose batches may be taken.
        rejoining: this member is between two generations of the group: a commit now would carry the old
            one, and the refusal makes aiokafka forget who it is in the group.
    """

    epoch: int = 0
    placement: int = 0
    assigned: frozenset[ShardId] | None = None
    shards: dict[ShardId, ShardT] = field(default_factory=dict)
    prepared: list[ShardId] = field(default_factory=list)
    sought: set[ShardId] = field(default_factory=set)
    active: set[TopicPartition] = field(default_factory=set)
    rejoining: bool = False
