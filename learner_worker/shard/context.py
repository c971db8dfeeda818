"""The shard context: what all shards of a worker share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from learner_worker.contract.headers import Headers
from learner_worker.contract.times import LAST_MICROS, Micros
from learner_worker.contract.topics import TopicName, TopicNames
from learner_worker.domain.retention import Policy
from learner_worker.kafka.batching import Fallback
from learner_worker.kafka.records import Outgoing
from learner_worker.observability import ShardInstruments, Tracer
from learner_worker.shard.pacing import Pacing
from learner_worker.strategies.protocol import Strategy

_FOR_EVER = Policy(None, 1, 0, lambda: LAST_MICROS)  # no retention, and a clock that no record is ahead of


class RecordSink(Protocol):
    """Takes a shard's outgoing records; they are acknowledged before the next checkpoint is written."""

    def append(
        self, topic: str, partition: int, key: bytes, value: bytes | None, headers: Headers = ()
    ) -> None:
        """Adds a record to its partition's batch; a tombstone has no value."""
        ...

    def single(self, record: Outgoing, fallback: Fallback | None = None) -> None:
        """Adds one record with any headers; its fallback replaces it if Kafka will never take it."""
        ...

    async def send(self) -> None:
        """Sends what was added."""
        ...

    async def flush(self) -> None:
        """Sends what was added and waits until Kafka has acknowledged all of it."""
        ...


@dataclass(frozen=True, slots=True)
class ShardSettings:
    """The settings of every shard.

    Attributes:
        tolerance_micros: how long after its close a bid may be placed and still count.
        horizon_micros: how far apart the events of one auction may arrive.
        cached_agents: how many agents a shard keeps in memory.
        retention: the policy of how long outcomes count.
        strategies: the worker's strategies, whose sums are kept.
        tracer: traces a share of the events, if anything does.
    """

    tolerance_micros: int
    horizon_micros: int
    cached_agents: int
    retention: Policy = _FOR_EVER
    strategies: Sequence[Strategy] = ()
    tracer: Tracer | None = None


@dataclass(frozen=True, slots=True)
class ShardContext:
    """The parts and settings that all shards of a worker share.

    Attributes:
        partition_of: maps an id to its partition.
        owner: identifies this run of this process in the metrics records that it writes.
        others_passed: maps a record time to the time up to which the whole group is known to have read.
        pacing: the worker's, which knows whether agents ask.
    """

    topics: TopicNames
    partition_of: Callable[[str], int]
    sink: RecordSink
    instruments: ShardInstruments
    owner: str
    settings: ShardSettings
    others_passed: Callable[[Micros], Micros | None]
    pacing: Pacing

    @property
    def sources(self) -> tuple[TopicName, TopicName, TopicName]:
        """The topics whose events settle remembers."""
        return self.topics.bid_placed, self.topics.auction_closed, self.topics.rerouted
