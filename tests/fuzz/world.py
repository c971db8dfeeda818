"""One simulated worker that reads events and answers requests, and whatever lies in its topics afterwards."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.simulation.checks import require
from tests.simulation.clients import REPLY_PARTITIONS
from tests.simulation.environment import simulated
from tests.simulation.log import Entry, Sent
from tests.simulation.worker import SOURCES, TOPICS, Process, instruments
from tests.simulation.world import CALM, World

SHARDS = 2
PARTITIONS: Mapping[str, int] = {**dict.fromkeys(TOPICS.all, SHARDS), **REPLY_PARTITIONS}
_EXAMPLES_A_WORLD = 50
_TURNS = 2_000
_QUIET_TURNS = 2


class AnsweringProcess(Process):
    """A worker that answers requests, too."""

    without = Process.without - {"requests"}


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
        shards, committable = self.worker.shards, self.worker.worker.requests.consumer.committable
        return (
            not self.broker.pending()
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
    counters = (
        instruments().shards.events,
        instruments().requests.by_code,
        instruments().shards.dead_letters,
    )
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
