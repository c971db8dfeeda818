"""One simulated worker that reads events and answers requests, and whatever lies in its topics afterwards."""

from collections import Counter
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

from aiokafka import TopicPartition
from aiokafka.structs import OffsetAndMetadata, OffsetAndTimestamp

from learner_worker.contract.fields import ShardId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import ReplyTopics
from learner_worker.kafka.outage import Outage
from learner_worker.requests.clock import Clock
from learner_worker.requests.path import RequestClients, RequestPath
from learner_worker.requests.settings import RequestSettings
from learner_worker.shard.pacing import Pacing
from learner_worker.shard.shard import Shard
from learner_worker.stages.advise import Advise
from learner_worker.strategies.classic import CLASSIC
from tests.simulation import loop
from tests.simulation.broker import Broker
from tests.simulation.checks import require
from tests.simulation.clients import Follower, Producer
from tests.simulation.disk import Disk
from tests.simulation.environment import simulated
from tests.simulation.log import Entry, Sent
from tests.simulation.worker import SECOND, SOURCES, TOPICS, Habits, Process, instruments
from tests.simulation.world import CALM, World

SHARDS = 2
TTL_SECONDS = 10
REPLY_PARTITIONS: Mapping[str, int] = {
    "suggest-bid-replies": 3,
    "suggest-bid-replies.team": 1,
    "suggest-bid-requests.reply": 2,
}
"""The topics on the allow-list that exist; of the learner's own topics every one does."""
PARTITIONS: Mapping[str, int] = {**dict.fromkeys(TOPICS.all, SHARDS), **REPLY_PARTITIONS}
_EXAMPLES_A_WORLD = 50
_TURNS = 2_000
_POLL_MS = 500
"""Fewer idle polls, faster examples."""
_NEVER_SECONDS = 1e9
_QUIET_TURNS = 2


class SimulatedClock(Clock):
    """The world's clock."""

    def __init__(self, clock: loop.Clock) -> None:
        self._clock = clock

    def now(self) -> Micros:
        return Micros(self._clock.micros)

    def monotonic(self) -> float:
        return self._clock.micros / SECOND


class AssignedConsumer(Follower):
    """An AIOKafkaConsumer with a group's commits, assigned by hand."""

    commits: dict[TopicPartition, int]

    @property
    def now_us(self) -> int:
        """The broker's time."""
        return self._broker.clock.micros

    def lay(self, topic: str, partition: int, sent: Sent) -> None:
        """Somebody else's record arrives."""
        self._broker.log.append(topic, partition, sent, self._broker.clock.milliseconds)

    async def offsets_for_times(
        self, times: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        found: dict[TopicPartition, OffsetAndTimestamp | None] = dict.fromkeys(times)
        for place, oldest_ms in times.items():
            for entry in reversed(self._broker.log.partitions[place.topic, place.partition].live):
                if entry.timestamp >= oldest_ms:
                    found[place] = OffsetAndTimestamp(entry.offset, entry.timestamp)
        await self._latency()
        return found

    async def committed(self, partition: TopicPartition) -> int | None:
        return self.commits.get(partition)

    async def commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        self.commits.update({partition: found.offset for partition, found in offsets.items()})

    async def topics(self) -> set[str]:
        return set(PARTITIONS)


class ReplyProducer(Producer):
    """An AIOKafkaProducer that knows which partitions there are."""

    async def partitions_for(self, topic: str) -> set[int]:
        return set(range(PARTITIONS[topic]))


class AnsweringProcess(Process):
    """A worker with its request path."""

    def __init__(self, name: str, broker: Broker, disk: Disk, habits: Habits) -> None:
        super().__init__(name, broker, disk, habits)
        consumer = AssignedConsumer(
            self, broker, habits.latency, habits.fetch_limit, habits.refuses, idle_seconds=0.5
        )
        consumer.commits = {}
        producer = ReplyProducer(self, broker, habits.latency, habits.batch_limit, habits.refuses)
        self.requests = self.loop.inside(
            lambda: RequestPath(
                RequestSettings(
                    topics=TOPICS,
                    reply_topics=ReplyTopics(TOPICS.reply_patterns, (*TOPICS.sharded, TOPICS.dead_letters)),
                    shards=broker.shards,
                    ttl_seconds=TTL_SECONDS,
                    stall_seconds=_NEVER_SECONDS,
                    poll_ms=_POLL_MS,
                ),
                RequestClients(cast("Any", consumer), cast("Any", producer), Outage()),
                advise=Advise(CLASSIC),
                instruments=instruments(),
                pacing=Pacing(),
                is_member=_is_member,
                on_failure=self.ingest.fail,
                clock=SimulatedClock(broker.clock),
            )
        )

    def own(self, shards: Mapping[ShardId, Shard], assigned: frozenset[ShardId]) -> None:
        self.requests.own(shards, assigned, self.ingest.ownership.placement)

    def more_loops(self) -> Iterable[tuple[str, Coroutine[Any, Any, None]]]:
        return [("requests", self.requests.read(self.stopping))]


async def _is_member() -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Change:
    """What a few records changed: the counters, and the records written, by topic."""

    counts: Counter[tuple[str, str]]
    written: Mapping[str, list[Entry]]

    def counted(self, name: str) -> Counter[str]:
        """One counter's labels that name what became of a record, and how many did."""
        found = {label: count for (counter, label), count in self.counts.items() if counter == name}
        return Counter(found)


class FuzzWorld(World):
    """One worker with two shards, to which records are handed, whatever they are."""

    def __init__(self) -> None:
        super().__init__(["w0"], SHARDS, CALM)
        self.worker = AnsweringProcess("w0", self.broker, self.disks["w0"], CALM)
        self.processes["w0"] = self.worker

    def take(self, records: Sequence[tuple[str, int, Sent]]) -> Change:
        """Lays records into their topics and lets the worker finish with them; what that changed.

        Raises:
            InvariantError: it ended, or does not come to rest: a record is stuck.
        """
        before, ends = _counts(), self._ends()
        for topic, partition, sent in records:
            self.broker.log.append(topic, partition, sent, self.clock.milliseconds)
        self._come_to_rest()
        after = _counts()
        after.subtract(before)
        counts = Counter({key: count for key, count in after.items() if count})
        return Change(counts, {topic: list(self._since(topic, ends)) for topic in PARTITIONS})

    def _come_to_rest(self) -> None:
        """Lets the worker go on until everything is read, and everything written has arrived."""
        quiet = 0
        for _ in range(_TURNS):
            self.turn()
            quiet = quiet + 1 if self._is_done() else 0
            if quiet == _QUIET_TURNS:
                return
        require(False, "a record is stuck")

    def _is_done(self) -> bool:
        shards = self.worker.ingest.ownership.shards
        committable = self.worker.requests.consumer.committable
        return (
            not self.broker.waiting()
            and not self.broker.acknowledgements
            and len(shards) == SHARDS
            and all(
                committable(number) == self.broker.log.end(TOPICS.requests, number)
                and all(shard.positions[topic] >= self.broker.log.end(topic, number) for topic in SOURCES)
                for number, shard in shards.items()
            )
        )

    def _ends(self) -> dict[tuple[str, int], int]:
        return {place: there.end for place, there in self.broker.log.partitions.items()}

    def _since(self, topic: str, ends: Mapping[tuple[str, int], int]) -> Iterator[Entry]:
        for place, there in list(self.broker.log.partitions.items()):
            if place[0] == topic:
                yield from (entry for entry in there.live if entry.offset >= ends.get(place, 0))


def _counts() -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    counters = (instruments().events, instruments().requests, instruments().dead_letters)
    for sample in (
        sample for counter in counters for metric in counter.collect() for sample in metric.samples
    ):
        if sample.name.endswith("_total"):
            labels = [value for name, value in sample.labels.items() if name != "topic"]
            found[sample.name, labels[0]] += round(sample.value)
    return found


class Worlds:
    """A world for a few dozen examples, then the next: what one costs to start is shared.

    Whoever fails gets a new one the next time, so that an example that is tried again begins afresh.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._world: FuzzWorld | None = None
        self._left = 0

    def current(self) -> FuzzWorld:
        """The world of this example, at rest."""
        if self._left == 0:
            self.judge()
        if self._world is None:
            self._world = self._new()
            self._left = _EXAMPLES_A_WORLD
        self._left -= 1
        return self._world

    def judge(self) -> None:
        """Ends the world: whatever was read, the outcomes are the model's."""
        world, self._world = self._world, None
        if world is not None:
            world.settle()
            world.check()
        self.close()

    def close(self) -> None:
        """Ends it without a word."""
        self._world, self._left = None, 0
        self._stack.close()

    @contextmanager
    def example(self) -> Iterator[FuzzWorld]:
        """The world of this example; it does not outlive a failure."""
        try:
            yield self.current()
        except BaseException:
            self.close()
            raise

    @contextmanager
    def doubtful(self) -> Iterator[FuzzWorld]:
        """A world of its own for what the contract leaves open: the model cannot judge it afterwards."""
        self.judge()
        try:
            yield self.current()
        finally:
            self.close()

    def _new(self) -> FuzzWorld:
        self._stack.enter_context(simulated())
        world = FuzzWorld()
        world.settle()
        world.take([])
        return world
