"""The shards that this replica owns, each with its status.

    ASSIGNED -> OPENING -> RESTORING -> RUNNING -> CLOSING

Every revocation of shards, every assignment and every return to the last checkpoint begins a new epoch:
shards that stay go back to ASSIGNED with their memory, until it is known to be still valid. A shard that is
lost, or whose memory is invalid, is CLOSING from that moment on: nothing of it is written, and its file is
closed as soon as no batch and no checkpoint is in progress.

Every change happens on the event loop between two awaits, so no other task sees it half made.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from enum import StrEnum

from aiokafka import TopicPartition

from learner_worker.contract.fields import ShardId
from learner_worker.contract.topics import TopicName
from learner_worker.shard.shard import Shard


class ShardStatus(StrEnum):
    """The status of a shard on this replica."""

    ASSIGNED = "assigned"
    """The group has assigned it to this replica; none of its partitions is being read in this epoch."""
    OPENING = "opening"
    """Its file is being opened."""
    RESTORING = "restoring"
    """It is open; its changelog is being read up to the end offset that it had when the shard was opened."""
    RUNNING = "running"
    """Its changelog is restored: answers are current."""
    CLOSING = "closing"
    """Its memory is invalid; its file is being closed."""


_READABLE = frozenset({ShardStatus.RESTORING, ShardStatus.RUNNING})
_HOLDS_FILE = frozenset({ShardStatus.OPENING, ShardStatus.CLOSING})


class Ownership:
    """The shards of this replica.

    Attributes:
        epoch: raised by each revocation of shards, assignment and return to the last checkpoint; batches of
            earlier epochs are dropped.
        assignment_number: number of assignments that the group has made.
        term: the term of the last placement, known before its assignment; 0 before the first one.
        assigned: the shards that the group has assigned to this replica; None before the first assignment.
        shards: the open shards, with their memory.
        log_ends: the end offsets of their partitions when they were opened.
        reading: the partitions sought and resumed in this epoch: only their batches may be processed.
        processing: held while a batch is processed.
        checkpointing: held while a checkpoint is in progress.
        changed: set when shards have to be closed or opened.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.assignment_number = 0
        self.term = 0
        self.assigned: frozenset[ShardId] | None = None
        self.shards: dict[ShardId, Shard] = {}
        self.log_ends: dict[TopicPartition, int] = {}
        self.reading: set[TopicPartition] = set()
        self.processing = asyncio.Lock()
        self.checkpointing = asyncio.Lock()
        self.changed = asyncio.Event()
        self._statuses: dict[ShardId, ShardStatus] = {}

    @property
    def statuses(self) -> Mapping[ShardId, ShardStatus]:
        """The status of each shard that is assigned or whose file is in use."""
        return self._statuses

    @property
    def in_use(self) -> Collection[ShardId]:
        """The shards whose files are open, being opened or being closed."""
        return self.shards.keys() | {
            shard_id for shard_id, status in self._statuses.items() if status in _HOLDS_FILE
        }

    @property
    def all_read(self) -> bool:
        """Whether the group has made an assignment and all of its shards are being read."""
        return self.assigned is not None and all(
            self._statuses[shard_id] in _READABLE for shard_id in self.assigned
        )

    @property
    def discarding(self) -> bool:
        """Whether an assigned shard's memory is still to be dropped: until then no checkpoint is made."""
        return any(self._is_closing(shard_id) for shard_id in self.shards if self._is_assigned(shard_id))

    def readable(self) -> list[tuple[ShardId, Shard]]:
        """The shards that may be read: opened, or found to be still valid, in this epoch."""
        return [
            (shard_id, shard)
            for shard_id, shard in self.shards.items()
            if self._statuses[shard_id] in _READABLE
        ]

    def writable(self) -> dict[ShardId, Shard]:
        """The shards whose memory is valid: those that a checkpoint writes."""
        return {shard_id: shard for shard_id, shard in self.shards.items() if not self._is_closing(shard_id)}

    def to_close(self) -> list[ShardId]:
        """The open shards that are lost or discarded."""
        return [shard_id for shard_id in self.shards if self._is_closing(shard_id)]

    def positions(self) -> dict[TopicPartition, int]:
        """The next offset of every partition that is being read."""
        return {
            partition: self.shards[ShardId(partition.partition)].positions[TopicName(partition.topic)]
            for partition in self.reading
        }

    @asynccontextmanager
    async def at_rest(self) -> AsyncIterator[None]:
        """Waits until no batch and no checkpoint is in progress, and holds off the next until exit."""
        async with self.processing, self.checkpointing:
            yield

    def begin_epoch(self) -> None:
        """Invalidates every batch polled so far; nothing is read before it is sought again."""
        self.epoch += 1
        self.reading.clear()
        for shard_id, _ in self.readable():
            self._statuses[shard_id] = ShardStatus.ASSIGNED

    def assign(self, shard_ids: frozenset[ShardId]) -> None:
        """Takes the group's assignment: new shards become ASSIGNED, open shards that are lost CLOSING."""
        self.assigned = shard_ids
        self.assignment_number += 1
        for shard_id, status in list(self._statuses.items()):
            if shard_id in self.shards and shard_id not in shard_ids:
                self._statuses[shard_id] = ShardStatus.CLOSING
            elif status is ShardStatus.ASSIGNED and shard_id not in shard_ids:
                del self._statuses[shard_id]
        for shard_id in shard_ids:
            self._statuses.setdefault(shard_id, ShardStatus.ASSIGNED)

    def discard(self) -> None:
        """Invalidates the memory of all open shards: they are closed and reopened from their files."""
        for shard_id in self.shards:
            self._statuses[shard_id] = ShardStatus.CLOSING

    def begin_opening(self, shard_id: ShardId) -> None:
        """Notes that a shard's file is about to be opened."""
        self._statuses[shard_id] = ShardStatus.OPENING

    def opened(self, shard_id: ShardId, shard: Shard) -> None:
        """Notes that a shard is open, or that its memory is still valid: it may be read."""
        self.shards[shard_id] = shard
        self._statuses[shard_id] = ShardStatus.RESTORING
        self.note_restored()

    def note_restored(self) -> None:
        """Moves the shards whose changelog is restored to RUNNING."""
        for shard_id, shard in self.readable():
            if shard.restored:
                self._statuses[shard_id] = ShardStatus.RUNNING

    def begin_closing(self, shard_ids: Iterable[ShardId]) -> dict[ShardId, Shard]:
        """Takes open shards out of use and returns them; their files are about to be closed."""
        closing = {shard_id: self.shards.pop(shard_id) for shard_id in shard_ids}
        self._statuses.update(dict.fromkeys(closing, ShardStatus.CLOSING))
        return closing

    def closed(self, shard_ids: Iterable[ShardId]) -> None:
        """Notes that files are closed: their shards are gone, or have to be reopened."""
        for shard_id in shard_ids:
            if self._is_assigned(shard_id):
                self._statuses[shard_id] = ShardStatus.ASSIGNED
            else:
                del self._statuses[shard_id]

    def _is_closing(self, shard_id: ShardId) -> bool:
        return self._statuses[shard_id] is ShardStatus.CLOSING

    def _is_assigned(self, shard_id: ShardId) -> bool:
        return self.assigned is not None and shard_id in self.assigned
