"""A small deterministic log in place of Kafka: partitions of records, compaction, a group's commits."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from learner_worker.stream.cluster import Committed

Headers = Sequence[tuple[str, bytes]]


class Entry(NamedTuple):
    """A record as a consumer sees it."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class Sent(NamedTuple):
    """A record on its way into the log."""

    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    timestamp_ms: int | None = None


@dataclass(slots=True)
class Partition:
    """What a partition holds now, and everything it ever held."""

    live: list[Entry] = field(default_factory=list)
    history: list[Entry] = field(default_factory=list)

    @property
    def end(self) -> int:
        """The next offset."""
        return len(self.history)

    def read(self, position: int, limit: int) -> list[Entry]:
        """Up to `limit` records from a position on."""
        found = [entry for entry in self.live if entry.offset >= position]
        return found[:limit]

    def compact(self) -> None:
        """Of records with equal keys only the last stays; offsets keep their gaps."""
        last = {entry.key: entry.offset for entry in self.live}
        self.live = [entry for entry in self.live if last[entry.key] == entry.offset]


class Log:
    """All topics."""

    def __init__(self) -> None:
        self.partitions: defaultdict[tuple[str, int], Partition] = defaultdict(Partition)
        self.committed: dict[tuple[str, int], Committed] = {}

    def append(self, topic: str, partition: int, sent: Sent, now_ms: int) -> Entry:
        """Appends a record; its time is its producer's, or now."""
        there = self.partitions[topic, partition]
        timestamp = now_ms if sent.timestamp_ms is None else sent.timestamp_ms
        entry = Entry(topic, partition, there.end, timestamp, sent.key, sent.value, sent.headers)
        there.live.append(entry)
        there.history.append(entry)
        return entry

    def end(self, topic: str, partition: int) -> int:
        """The next offset of a partition."""
        return self.partitions[topic, partition].end
