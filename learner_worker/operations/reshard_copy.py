"""Copies what one layout's topics hold to the next layout's, and compares it, agent by agent.

Outcomes are copied as the join of their facts, in the facts that make it, under those facts' own keys: a copy
that is made twice, or beside the original, changes nothing: rule 1 (docs/protocol.md). A changelog is read up
to its first barrier: everything that the old layout's commits cover is before it.

An agent moves as a whole. With `shared` the greatest common divisor of both shard counts, its old and its new
partition are equal modulo `shared`. So the changelog is copied and compared class by class.
"""

import hashlib
import math
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

from aiokafka import TopicPartition

from learner_worker.contract.decode import decode_event
from learner_worker.contract.facts import ForgetMarker, agent_of_key, encode_fact, encode_marker, is_barrier
from learner_worker.contract.fields import AgentId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import TopicName, TopicNames
from learner_worker.domain.outcomes import Cutoff, Outcome, facts_of, living
from learner_worker.domain.retention import read_cutoff_note
from learner_worker.errors import LearnerError, RecordError
from learner_worker.kafka.admin import Committed
from learner_worker.kafka.offsets import OffsetRange
from learner_worker.kafka.partitioner import partitioner
from learner_worker.kafka.records import EVENT_KINDS, Outgoing, Record, hop_of
from learner_worker.operations.progress import RecordProgress
from learner_worker.operations.reshard_access import ClusterAccess
from learner_worker.shard.pacing import Pacing
from learner_worker.shard.replay import ChangelogReplay
from learner_worker.shard.resume import rewound_position
from learner_worker.store.shard_file import ShardFile

_CACHED_AGENTS = 10_000  # a copy reads each agent's facts mostly together
_DIGEST_BYTES = 16  # two agents' sums of digests are never equal by chance


class _MisplacedError(Exception):
    """A fact lies on another partition than its agent's: its class cannot be copied by itself."""


class AgentDigests:
    """A digest of each agent's facts and marker; the order in which they come does not matter."""

    def __init__(self) -> None:
        self._sums: Counter[AgentId] = Counter()

    def add_row(self, row: Outcome) -> Sequence[tuple[bytes, bytes]]:
        """Adds a row; returns the records that make it."""
        records = [encode_fact(fact) for fact in facts_of(row)]
        for _, value in records:
            self.add(row.agent_id, value)
        return records

    def add_marker(self, agent_id: AgentId, until: Micros) -> tuple[bytes, bytes]:
        """Adds a forget marker; returns its record."""
        record = encode_marker(ForgetMarker(agent_id, until))
        self.add(agent_id, record[1])
        return record

    def add(self, agent_id: AgentId, content: bytes) -> None:
        """Adds a record of an agent; the order does not matter."""
        digest = hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()
        self._sums[agent_id] += int.from_bytes(digest, "big")

    def __len__(self) -> int:
        return len(self._sums)

    def differing(self, other: "AgentDigests") -> list[AgentId]:
        """The agents whose digests are not equal."""
        known = self._sums.keys() | other._sums.keys()
        return sorted(agent_id for agent_id in known if self._sums[agent_id] != other._sums[agent_id])


class LayoutCopy:
    """Copies from an old layout to a new one.

    Args:
        commits: the old layout's commits, as they were before its barriers.
        shards: the old and the new shard count.
        partitions: the number of partitions of the old changelog, more than shards if somebody raised it.
        progress: is told how many records were read.

    Attributes:
        outcomes, agents: how many were copied and found equal.
    """

    def __init__(
        self,
        access: ClusterAccess,
        names: tuple[TopicNames, TopicNames],
        commits: Mapping[TopicPartition, Committed],
        *,
        shards: tuple[int, int],
        partitions: int,
        progress: RecordProgress,
    ) -> None:
        self._access = access
        self._progress = progress
        self._old, self._new = names
        self._before, self._after = shards
        self._partitions = partitions
        self._old_partition_of, self._partition_of = map(partitioner, shards)
        self._cutoffs = cutoffs_of(commits, self._old.outcomes)
        self.outcomes = self.agents = 0

    # --- outcomes ----------------------------------------------------------------------------------------

    async def outcomes_and_markers(self) -> AsyncIterator[tuple[int, int]]:
        """Copies and compares class by class; yields how many of how many classes are done.

        Raises:
            LearnerError: an agent's rows are not equal in both layouts, or a barrier is gone.
        """
        shared = math.gcd(self._before, self._after)
        await self._begin_progress()
        try:
            async for progress in self._classes(shared):
                yield progress
        except _MisplacedError:
            self.outcomes = self.agents = 0
            await self._begin_progress()
            async for progress in self._classes(1):
                yield progress

    async def _begin_progress(self) -> None:
        """Every record is read once in the old changelog, and what is living of it once in the new one."""
        changelog = [TopicPartition(self._old.outcomes, number) for number in range(self._partitions)]
        held = await self._access.ranges(changelog)
        self._progress.begin(2 * sum(end - start for start, end in held.values()))

    async def _classes(self, shared: int) -> AsyncIterator[tuple[int, int]]:
        for number in range(shared):
            expected = await self._copy_class(number, shared)
            found = await self._digests_of_copy(number, shared)
            if differing := expected.differing(found):
                raise LearnerError(
                    f"the copy in {self._new.outcomes} differs from {self._old.outcomes} in {len(differing)} "
                    f"agents, {differing[0]!r} for one; nothing was switched: start the command again, and "
                    "keep its output if it says this twice"
                )
            self.agents += len(expected)
            yield number + 1, shared

    async def _copy_class(self, number: int, shared: int) -> AgentDigests:
        digests, forgotten = AgentDigests(), dict[AgentId, Micros]()
        async with self._access.empty_file() as file:
            for partition in range(number, self._partitions, shared):
                await self.replay_old(file, partition, forgotten, shared)
            await self._access.send(list(self.markers(forgotten, digests)))
            async for rows in file.all_outcomes():
                left = list(self._living(rows))
                await self._access.send(
                    [self._outcome(row.agent_id, record) for row in left for record in digests.add_row(row)]
                )
                self.outcomes += len(left)
        return digests

    def markers(self, forgotten: Mapping[AgentId, Micros], digests: AgentDigests) -> Iterator[Outgoing]:
        """The latest marker of each agent: it moves with its agent."""
        for agent_id, until in forgotten.items():
            yield self._outcome(agent_id, digests.add_marker(agent_id, until))

    async def replay_old(
        self, file: ShardFile, partition: int, forgotten: dict[AgentId, Micros], shared: int
    ) -> None:
        """Restores a file from a partition of the old changelog, up to its barrier."""
        place = TopicPartition(self._old.outcomes, partition)
        offsets = (await self._access.ranges([place]))[place]
        replay = self._replay(file, self._old.outcomes, offsets, forgotten)
        async for batch in self._access.records(place, offsets):
            self._progress.advance(len(batch))
            until = next((at for at, record in enumerate(batch) if is_barrier(record.key)), None)
            wanted = batch[:until]
            if shared > 1:
                self._require_placed(wanted, partition)
            await replay.take(wanted)
            if until is not None:
                await replay.write()
                return
        raise LearnerError(
            f"partition {partition} of {self._old.outcomes} has lost its end, and the barrier with it: keep "
            "every state folder, and see the broker's log"
        )

    def _require_placed(self, records: Sequence[Record], partition: int) -> None:
        for record in records:
            agent_id = agent_of_key(record.key)
            if agent_id is not None and self._old_partition_of(agent_id) != partition:
                raise _MisplacedError

    async def _digests_of_copy(self, number: int, shared: int) -> AgentDigests:
        digests, forgotten = AgentDigests(), dict[AgentId, Micros]()
        async with self._access.empty_file() as file:
            for partition in range(number, self._after, shared):
                place = TopicPartition(self._new.outcomes, partition)
                offsets = (await self._access.ranges([place]))[place]
                replay = self._replay(file, self._new.outcomes, offsets, forgotten)
                async for batch in self._access.records(place, offsets):
                    self._progress.advance(len(batch))
                    await replay.take([record for record in batch if self._is_placed(record)])
                await replay.write()
            for agent_id, until in forgotten.items():
                digests.add_marker(agent_id, until)
            async for rows in file.all_outcomes():
                for row in rows:
                    digests.add_row(row)
        return digests

    def _is_placed(self, record: Record) -> bool:
        """Whether a record is where its agent's shard looks for it: nothing else counts as copied."""
        agent_id = agent_of_key(record.key)
        return agent_id is not None and self._partition_of(agent_id) == record.partition

    def _replay(
        self, file: ShardFile, topic: TopicName, offsets: OffsetRange, forgotten: dict[AgentId, Micros]
    ) -> ChangelogReplay:
        return ChangelogReplay(
            file,
            topic,
            position=offsets.start,
            cached_agents=_CACHED_AGENTS,
            forgotten=forgotten,
            pacing=Pacing(),
        )

    def _living(self, rows: Sequence[Outcome]) -> Iterator[Outcome]:
        """The rows without the parts that had expired in their old shard."""
        for row in rows:
            cutoff = self._cutoffs.get(self._old_partition_of(row.agent_id))
            left = row if cutoff is None else living(row, cutoff)
            if left.known:
                yield left

    def _outcome(self, agent_id: AgentId, record: tuple[bytes, bytes]) -> Outgoing:
        return Outgoing(self._new.outcomes, self._partition_of(agent_id), *record)

    # --- rerouted events ---------------------------------------------------------------------------------

    async def rerouted_events(self, partitions: int, commits: Mapping[TopicPartition, Committed]) -> int:
        """Copies the rerouted events that the new layout has to read; returns their number."""
        count = 0
        for partition in range(partitions):
            place = TopicPartition(self._old.rerouted, partition)
            start, end = (await self._access.ranges([place]))[place]
            committed = commits.get(place)
            first = max(start, rewound_position(committed, start))
            position = start if committed is None else committed.offset
            if first >= end:
                continue
            async for batch in self._access.records(place, OffsetRange(first, end)):
                copies = [copy for record in batch if (copy := self._copied(record, position)) is not None]
                await self._access.send(copies)
                count += len(copies)
        return count

    def _copied(self, record: Record, position: int) -> Outgoing | None:
        """A rerouted event for its partition, with its record time and headers.

        One that the old layout found misplaced or unreadable stays so, on the partition of the same number;
        below the position it became a dead letter already.
        """
        partition = self._event_partition(record)
        if partition is None and record.offset < position:
            return None
        return Outgoing(
            self._new.rerouted,
            record.partition if partition is None else partition,
            record.key,
            record.value,
            record.headers,
            max(record.timestamp, 0),
        )

    def _event_partition(self, record: Record) -> int | None:
        kind = EVENT_KINDS.get(hop_of(record) or b"")
        if kind is None:
            return None
        try:
            task_id = decode_event(kind, record.value).task_id
        except RecordError:
            return None
        misplaced = self._old_partition_of(task_id) != record.partition
        return None if misplaced else self._partition_of(task_id)


def cutoffs_of(commits: Mapping[TopicPartition, Committed], changelog: TopicName) -> dict[int, Cutoff]:
    """The cutoffs of retention that shards committed with their changelog's position, by shard."""
    notes = {
        place.partition: read_cutoff_note(one.metadata)
        for place, one in commits.items()
        if place.topic == changelog
    }
    return {shard: cutoff for shard, cutoff in notes.items() if cutoff is not None}


def earliest_cutoff(shard: int, cutoffs: Mapping[int, Cutoff], shards: tuple[int, int]) -> Cutoff | None:
    """The cutoff of a new shard: the earliest of the old shards whose agents it has; None if one has none.

    With a later one, outcomes of a shard that had not come so far would be missing.
    """
    before, after = shards
    shared = math.gcd(before, after)
    found = [cutoffs.get(old) for old in range(shard % shared, before, shared)]
    known = [cutoff for cutoff in found if cutoff is not None]
    if not found or len(known) < len(found):
        return None
    return Cutoff(min(one.closes for one in known), min(one.others for one in known))
