"""A small deterministic log in place of Kafka: partitions of records, compaction, a group's commits."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from learner_worker.contract.headers import Headers
from learner_worker.kafka.admin import Committed


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
    """What a partition holds now, and everything it ever held.

    Attributes:
        first: the first offset that Kafka still answers for.
        end: the next offset.
    """

    live: list[Entry] = field(default_factory=list)
    history: list[Entry] = field(default_factory=list)
    first: int = 0
    end: int = 0

    def holds(self, position: int) -> bool:
        """Whether a fetch from there is answered; otherwise the offset is out of range."""
        return self.first <= position <= self.end

    def append(self, entry: Entry) -> None:
        """Adds the record with the next offset."""
        self.live.append(entry)
        self.history.append(entry)
        self.end = entry.offset + 1

    def lose_beginning(self, first: int) -> list[Entry]:
        """Retention: what lies below an offset is gone; which records those were."""
        gone = [entry for entry in self.live if entry.offset < first]
        self.live = [entry for entry in self.live if entry.offset >= first]
        self.first = max(self.first, first)
        return gone

    def lose_end(self, end: int) -> None:
        """An unclean leader: what lies from an offset on was never replicated; its offsets come again."""
        self.live = [entry for entry in self.live if entry.offset < end]
        self.end = min(self.end, end)

    def read(self, position: int, limit: int) -> list[Entry]:
        """Up to `limit` records from a position on."""
        found = [entry for entry in self.live if entry.offset >= position]
        return found[:limit]

    def compact(self, *, drop_tombstones: bool = False) -> None:
        """Of records with equal keys only the last stays, a tombstone for a while; offsets keep gaps."""
        last = {entry.key: entry.offset for entry in self.live}
        self.live = [
            entry
            for entry in self.live
            if last[entry.key] == entry.offset and not (drop_tombstones and entry.value is None)
        ]


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
        there.append(entry)
        return entry

    def end(self, topic: str, partition: int) -> int:
        """The next offset of a partition."""
        return self.partitions[topic, partition].end
