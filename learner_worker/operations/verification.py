"""Verifies that a shard's file equals its changelog, up to the file's own position."""

import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from learner_worker.contract.facts import Fact, ForgetMarker, decode_outcome_record
from learner_worker.contract.fields import AgentId, ShardId
from learner_worker.contract.times import Micros
from learner_worker.contract.topology import KEEP_FOLDERS
from learner_worker.domain.outcomes import join
from learner_worker.errors import RecordError, StateError, UnreadableFileError
from learner_worker.kafka.offsets import OffsetRange
from learner_worker.kafka.records import Record
from learner_worker.operations.changelog import Changelog
from learner_worker.operations.comparison import FileComparison, ValueDifference, compare
from learner_worker.shard.pacing import Pacing
from learner_worker.shard.replay import ChangelogReplay
from learner_worker.store.shard_file import ShardFile, shard_path
from learner_worker.store.snapshot import Snapshot, snapshot_of
from learner_worker.store.state_folder import wanted_files


class ShardVerdict(msgspec.Struct, frozen=True):
    """The result of verifying a shard.

    Attributes:
        position: the file's changelog position, up to which everything was compared.
        digest: digest of the file's rows; replicas with equal rows have equal digests.
        findings: problems other than single values, as one sentence each.
        notes: observations that are no problems.
        difference_count: number of all differences; `differences` holds the first ones.
    """

    shard: int
    verified: bool
    position: int = 0
    outcomes: int = 0
    invisible: int = 0
    agents: int = 0
    digest: str = ""
    findings: list[str] = []
    notes: list[str] = []
    differences: list[ValueDifference] = []
    difference_count: int = 0


class _Extent(NamedTuple):
    """The changelog's offset range and the file's position in it."""

    start: int
    end: int
    position: int

    @property
    def until(self) -> int:
        return min(self.position, self.end)

    @property
    def compared(self) -> OffsetRange:
        return OffsetRange(self.start, self.until)


async def verify(
    state_dir: Path, shards: Sequence[ShardId], changelog: Changelog
) -> AsyncIterator[ShardVerdict]:
    """Verifies the given shards, or all shards that have a file in the folder.

    Raises:
        ConfigurationError: there is no such file, or it belongs to another cluster.
        BrokerError: Kafka stopped answering.
        StateError: a file cannot be read, or the temporary file cannot be written.
    """
    for shard, file in wanted_files(state_dir, shards).items():
        yield await _verify(shard, file, changelog)


async def _verify(shard: ShardId, path: Path, changelog: Changelog) -> ShardVerdict:
    with tempfile.TemporaryDirectory(prefix="learner-verify-") as folder:
        file = await ShardFile.open(shard_path(Path(folder), shard), changelog.identity(shard))
        try:
            return await _compared(shard, path, changelog, file)
        except UnreadableFileError as error:
            return ShardVerdict(shard, verified=False, findings=[str(error)])
        finally:
            await file.close()


async def _compared(shard: ShardId, path: Path, changelog: Changelog, file: ShardFile) -> ShardVerdict:
    """Replays the changelog, then compares.

    The long replay precedes the read transaction, because the worker's log only grows while that is open.
    """
    with snapshot_of(path) as snapshot:
        changelog.require_same(snapshot, shard)
        position = snapshot.position(changelog.topic)
    extent = _Extent(*await changelog.range_of(shard), position)
    replay = await ChangelogReplay.open(
        file, changelog.topic, cached_agents=changelog.cached_agents, pacing=Pacing()
    )
    await changelog.replay(replay, shard, extent.compared)
    with snapshot_of(path) as snapshot:
        position = snapshot.position(changelog.topic)
        if position < extent.position:
            raise StateError(f"{path} went back in the changelog while it was verified: try again")
        extent = _Extent(extent.start, (await changelog.range_of(shard)).end, position)
        await changelog.replay(replay, shard, extent.compared)
        comparison = _compare(snapshot, file.path, changelog)
        if comparison.count and replay.records < extent.until:
            later = await _take_later_copies(shard, snapshot, replay, changelog, extent)
            comparison = _compare(snapshot, file.path, changelog, later)
    return _verdict(shard, extent, replay, comparison, changelog)


def _compare(
    snapshot: Snapshot,
    replayed_path: Path,
    changelog: Changelog,
    forgotten_later: Mapping[AgentId, Micros] | None = None,
) -> FileComparison:
    with snapshot_of(replayed_path) as replayed:
        return compare(snapshot, replayed, forgotten_later=forgotten_later, strategies=changelog.strategies)


async def _take_later_copies(
    shard: ShardId, snapshot: Snapshot, replay: ChangelogReplay, changelog: Changelog, extent: _Extent
) -> dict[AgentId, Micros]:
    """Adds facts that compaction has left only after the file's position; returns the markers found there.

    Compaction keeps the last of several facts with one key. The file may have read an earlier one that is
    gone: only such a later fact adds nothing to the file's row. For a wrong row the replay may lack facts, in
    which case more of its fields, and its agent's metrics, are listed.
    """
    later = OffsetRange(extent.until, (await changelog.range_of(shard)).end)
    forgotten: dict[AgentId, Micros] = {}
    async for batch in changelog.records(shard, later):
        contents = list(_contents(batch))
        await replay.take(_held(snapshot, contents))
        for _, found in contents:
            if isinstance(found, ForgetMarker):
                until = max(found.forget_until, forgotten.get(found.agent_id, found.forget_until))
                forgotten[found.agent_id] = until
    await replay.write()
    return forgotten


def _contents(batch: Sequence[Record]) -> Iterable[tuple[Record, Fact | ForgetMarker]]:
    for record in batch:
        try:
            yield record, decode_outcome_record(record.value or b"")
        except RecordError:
            continue


def _held(snapshot: Snapshot, contents: Sequence[tuple[Record, Fact | ForgetMarker]]) -> list[Record]:
    """The records whose facts the file's rows already hold."""
    facts = [(record, found) for record, found in contents if isinstance(found, Fact)]
    rows = snapshot.outcomes([(fact.task_id, fact.agent_id) for _, fact in facts])
    return [
        record
        for record, fact in facts
        if (row := rows.get((fact.task_id, fact.agent_id))) is not None and join(row, fact) is row
    ]


def _verdict(
    shard: ShardId,
    extent: _Extent,
    replay: ChangelogReplay,
    comparison: FileComparison,
    changelog: Changelog,
) -> ShardVerdict:
    findings = list(_findings(extent, changelog.misplaced(shard)))
    notes = [*_notes(extent, replay), *changelog.unreadable(shard)]
    return ShardVerdict(
        shard,
        verified=not findings and not comparison.count,
        position=extent.position,
        outcomes=comparison.outcomes,
        invisible=comparison.rows - comparison.outcomes,
        agents=comparison.agents,
        digest=comparison.digest,
        findings=findings,
        notes=notes,
        differences=comparison.differences,
        difference_count=comparison.count,
    )


def _findings(extent: _Extent, misplaced: int) -> Iterator[str]:
    if extent.position > extent.end:
        yield (
            f"the changelog ends at offset {extent.end}, but the file has read up to {extent.position}: "
            "Kafka lost records; when a worker next opens this file, it writes all of its rows into the "
            "changelog again"
        )
    if misplaced:
        yield (
            f"{misplaced:,} changelog records are about agents that belong to other shards: the topics had "
            f"another number of partitions when these were written; {KEEP_FOLDERS}"
        )


def _notes(extent: _Extent, replay: ChangelogReplay) -> list[str]:
    notes = []
    if extent.start > extent.position:
        notes.append(
            f"the changelog begins at offset {extent.start}, after all that the file has read; unless "
            "later copies of everything follow, it was deleted: check the topic's cleanup.policy"
        )
    elif extent.start > 0:
        notes.append(
            f"the changelog begins at offset {extent.start}: what stood before is gone by compaction"
        )
    if replay.unreadable:
        notes.append(f"{replay.unreadable} records are no facts: passed over, as the worker passes over them")
    return notes
