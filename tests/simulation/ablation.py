"""Takes each safeguard out of the real code and counts who notices: `python -m tests.simulation.ablation`.

`python -m tests.simulation.ablation known` prints what stands in known.py.
"""

import asyncio
import dataclasses
import functools
import itertools
import sys
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple, cast
from unittest import mock

import msgspec
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from learner_worker.contract import facts
from learner_worker.contract.facts import Bid, Close, Fact, ForgetMarker
from learner_worker.contract.fields import AgentId, ShardId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import TopicName, TopicNames
from learner_worker.domain import retention
from learner_worker.domain.auctions import Auction
from learner_worker.domain.metrics import change
from learner_worker.domain.outcomes import Cutoff, Outcome, OutcomeKey, living_fact
from learner_worker.domain.retention import Retention
from learner_worker.domain.sums import Cells
from learner_worker.errors import SendError
from learner_worker.group import assignor
from learner_worker.group.frontier import Frontier
from learner_worker.group.offsets import BrokerOffsets
from learner_worker.group.placement import Claim, Placement, place
from learner_worker.kafka.admin import Committed
from learner_worker.kafka.batching import BatchWriter
from learner_worker.shard import changelog, publishing, resume, shard, watermark
from learner_worker.shard.changelog import MarkerFilter
from learner_worker.shard.context import ShardContext
from learner_worker.shard.publishing import MetricsPublisher
from learner_worker.shard.resume import ResumedState
from learner_worker.shard.shard import Shard, ShardSnapshot
from learner_worker.shard.standby import StandbyState
from learner_worker.snapshots.manifest import SnapshotManifest
from learner_worker.stages import forgetting, learn, strategy_sums
from learner_worker.stages.forgetting import RowChange
from learner_worker.stages.learn import Learn, LearnChanges
from learner_worker.stages.strategy_sums import StrategySums
from learner_worker.store import shard_file, strategies
from learner_worker.store.database import Database
from learner_worker.store.shard_file import ShardFile
from learner_worker.store.statements import SqlRow
from learner_worker.strategies.protocol import Addend
from learner_worker.worker import snapshots, standbys
from learner_worker.worker.consumer import EventConsumer
from learner_worker.worker.ownership import Ownership
from learner_worker.worker.rollback import Rollback
from learner_worker.worker.standbys import Standbys
from tests.simulation import world
from tests.simulation.checks import InvariantError
from tests.simulation.driver import run_seed
from tests.simulation.environment import simulated
from tests.simulation.known import KNOWN
from tests.simulation.loop import SteppedLoop
from tests.simulation.snapshot_sequences import OF_SNAPSHOTS as FIRST_OF_SNAPSHOTS
from tests.simulation.snapshot_sequences import SCENARIOS
from tests.simulation.world import World

Patch = tuple[object, str, object]
ABLATIONS: dict[str, list[Patch]] = {}
"""What replaces what, by the safeguard's name."""
OF_RETENTION: dict[str, list[Patch]] = {}
"""Those that worlds with a retention need."""
OF_FORGETTING: dict[str, list[Patch]] = {}
"""Those that worlds with forgotten agents need."""
OF_SUMS: dict[str, list[Patch]] = {}
"""Those that strategies' sums need."""
OF_SNAPSHOTS: dict[str, list[Patch]] = {}
"""Those that worlds with snapshots need."""


# --- the checkpoint --------------------------------------------------------------------------------------

_transact = Database.transact
_snapshot = Shard.snapshot


async def _positions_apart(database: Database, writes: Iterable[tuple[str, Iterable[SqlRow]]]) -> None:
    found = [(name, list(rows)) for name, rows in writes]
    await _transact(database, [write for write in found if write[0] == "save_position"])
    await _transact(database, [write for write in found if write[0] != "save_position"])


async def _nothing_awaited(writer: BatchWriter, generation: int) -> None:
    await asyncio.sleep(0)


_to_last_checkpoint = Rollback.to_last_checkpoint


def _nothing_sent_back(rollback: Rollback, error: BaseException) -> None:
    if isinstance(error, SendError):
        rollback.writer.reset()
    else:
        _to_last_checkpoint(rollback, error)


def _every_open_shard(ownership: Ownership) -> list[tuple[ShardId, Shard]]:
    return list(ownership.shards.items())


def _positions_later(state: Shard) -> ShardSnapshot:
    snapshot = _snapshot(state)

    class Later(ShardSnapshot):
        async def write(self) -> None:
            positions = {**self.checkpoint.positions, **state.positions}
            await self.file.write(dataclasses.replace(self.checkpoint, positions=positions))

    return Later(snapshot.file, snapshot.checkpoint, snapshot.publishing, snapshot.commits)


def _auctions_later(state: Shard) -> ShardSnapshot:
    snapshot = _snapshot(state)

    class Later(ShardSnapshot):
        async def write(self) -> None:
            auctions = {**self.checkpoint.auctions, **state.events.settle.snapshot()}
            await self.file.write(dataclasses.replace(self.checkpoint, auctions=auctions))

    return Later(snapshot.file, snapshot.checkpoint, snapshot.publishing, snapshot.commits)


ABLATIONS["rows and positions in one transaction"] = [(Database, "transact", _positions_apart)]
ABLATIONS["waiting for acknowledgements before writing"] = [
    (BatchWriter, "until_acknowledged", _nothing_awaited)
]
ABLATIONS["a failed send takes the shards back"] = [(Rollback, "to_last_checkpoint", _nothing_sent_back)]
ABLATIONS["only shards opened in this epoch are read"] = [(Ownership, "readable", _every_open_shard)]
ABLATIONS["positions captured with the rows, not after"] = [(Shard, "snapshot", _positions_later)]
ABLATIONS["auctions captured with the positions, not after"] = [(Shard, "snapshot", _auctions_later)]


# --- facts -----------------------------------------------------------------------------------------------


def _last_writer_wins(outcome: Outcome, fact: Fact) -> Outcome:
    return Outcome(outcome.task_id, outcome.agent_id, fact.close, fact.bid, fact.result)


def _task_and_agent(fact: Fact) -> tuple[object, ...]:
    return (fact.task_id, fact.agent_id)


ABLATIONS["facts merged part by part"] = [(learn, "join", _last_writer_wins)]
ABLATIONS["versions in the fact's key"] = [(facts, "version_of", _task_and_agent)]


# --- resuming and forgetting -----------------------------------------------------------------------------

_resume_positions = resume.resume_positions


def _no_rewind(committed: Committed | None, first: int) -> int:
    return first if committed is None else committed.offset


def _mixed(
    filed: Mapping[str, int], offsets: BrokerOffsets, topics: TopicNames
) -> tuple[dict[TopicName, int], bool]:
    positions, rewound = _resume_positions(filed, offsets, topics)
    if not rewound or not filed:
        return positions, rewound
    further = {
        topic: max(filed.get(topic, 0), found.offset)
        for topic, found in offsets.committed.items()
        if topic not in {topics.outcomes, topics.metrics}
    }
    return {**positions, **further}, False


def _newest(sources: Iterable[Micros | None]) -> Micros | None:
    return max((micros for micros in sources if micros is not None), default=None)


def _wall_clock(sources: Iterable[Micros | None]) -> Micros | None:
    loop = cast("SteppedLoop", asyncio.get_running_loop())
    return Micros(round(loop.time() * 1_000_000))


ABLATIONS["the rewind"] = [(resume, "rewound_position", _no_rewind)]
ABLATIONS["file auctions never with others' positions"] = [(resume, "resume_positions", _mixed)]
ABLATIONS["the watermark, not the newest record"] = [(watermark, "watermark_of", _newest)]
ABLATIONS["the watermark, not the wall clock"] = [(watermark, "watermark_of", _wall_clock)]


_passed = Frontier.passed


def _everybody_has_read_all(frontier: Frontier, asked: Micros) -> Micros | None:
    return asked


def _known_too_late(frontier: Frontier, asked: Micros) -> Micros | None:
    return _passed(frontier, Micros(asked + 10**15))


ABLATIONS["the frontier: other shards' unread events"] = [(Frontier, "passed", _everybody_has_read_all)]
ABLATIONS["moved events read to an end asked for afterwards"] = [(Frontier, "passed", _known_too_late)]


# --- logs that lose records ------------------------------------------------------------------------------


async def _memory_lost(events: EventConsumer, error: OffsetOutOfRangeError) -> None:
    events.rollback.to_last_checkpoint(error)


async def _same_position_again(_: EventConsumer, error: OffsetOutOfRangeError) -> None:
    assert error.args
    await asyncio.sleep(1.0)


def _unnoticed(filed: Mapping[str, int], offsets: BrokerOffsets, topics: TopicNames) -> dict[TopicName, int]:
    return {}


def _text_and_all(outcome: Outcome) -> list[Fact]:
    return [Fact(*msgspec.structs.astuple(outcome))]


_republish_changelog = publishing.republish_changelog


async def _nothing_published_again(
    shard_id: ShardId,
    context: ShardContext,
    file: ShardFile,
    resumed: ResumedState,
    on_progress: Callable[[], None],
) -> None:
    await asyncio.sleep(0)


ABLATIONS["a position that Kafka refuses reloads the shards"] = [
    (EventConsumer, "on_offset_out_of_range", _same_position_again)
]
ABLATIONS["memory is written before that reload"] = [(EventConsumer, "on_offset_out_of_range", _memory_lost)]
ABLATIONS["rows are published again after a lost end"] = [
    (shard, "republish_changelog", _nothing_published_again)
]
ABLATIONS["rows published again have their facts' content"] = [(publishing, "facts_of", _text_and_all)]
ABLATIONS["records lost unread are said"] = [(resume, "lost_unread", _unnoticed)]


# --- metrics ---------------------------------------------------------------------------------------------


def _metrics_position_as_read(publisher: MetricsPublisher) -> int:
    return publisher.position_read


ABLATIONS["the metrics position waits for what is due"] = [
    (MetricsPublisher, "position_to_note", _metrics_position_as_read)
]


# --- standbys and placement ------------------------------------------------------------------------------

_standby_checkpoint = StandbyState.checkpoint
_standby_start_anew = StandbyState.start_anew


_release = Standbys.release


async def _unwanted_not_released(_: Standbys) -> None:
    await asyncio.sleep(0)


async def _not_released(_: Standbys, shard_id: ShardId) -> None:
    assert shard_id >= 0
    await asyncio.sleep(0)


def _nothing_in_use(_: Ownership) -> Collection[ShardId]:
    return ()


async def _released_for_good(standbys: Standbys, shard_id: ShardId) -> None:
    await _release(standbys, shard_id)
    standbys.follow(standbys.wanted - {shard_id})


async def _after_a_torn_one(standby: StandbyState) -> None:
    standby.torn = False
    await _standby_checkpoint(standby)


def _end_forgotten(standby: StandbyState, first: int, end: int) -> None:
    standby.skip_to(first)


def _never_anew(standby: StandbyState, first: int, end: int) -> None:
    standby.skip_to(standby.position)


def _without_terms(shards: Sequence[ShardId], claims: Mapping[str, Claim]) -> dict[str, Placement]:
    return place(shards, {key: msgspec.structs.replace(claim, term=0) for key, claim in claims.items()})


ABLATIONS["a standby is let go of before the owner opens"] = [
    (Standbys, "release_unwanted", _unwanted_not_released),
    (Standbys, "release", _not_released),
]
ABLATIONS["a shard in use is not followed yet"] = [(Ownership, "in_use", property(_nothing_in_use))]
ABLATIONS["a released standby may be wanted again"] = [(Standbys, "release", _released_for_good)]
ABLATIONS["a standby writes nothing after a torn checkpoint"] = [
    (StandbyState, "checkpoint", _after_a_torn_one)
]
ABLATIONS["a standby remembers that its rows are ahead"] = [(StandbyState, "start_anew", _end_forgotten)]
ABLATIONS["a standby out of range starts anew"] = [(StandbyState, "start_anew", _never_anew)]
ABLATIONS["a standby's consumer may not start at first"] = [(standbys, "BrokerError", KafkaError)]
ABLATIONS["terms in claims"] = [(assignor, "place", _without_terms)]


# --- auctions --------------------------------------------------------------------------------------------

_close = Auction.close
_notify_all = Auction.notify_all
_admit_pending = Auction.admit_pending


def _superseded_untold(auction: Auction, close: Close, tolerance_micros: int) -> list[Fact]:
    before = auction.standing
    facts = _close(auction, close, tolerance_micros)
    return [] if before is not None and auction.standing is before else facts


def _superseded_winners_unremembered(auction: Auction, close: Close, tolerance_micros: int) -> Iterator[Fact]:
    remembered = set(auction.notified)
    yield from _notify_all(auction, close, tolerance_micros)
    if close.winner is not None and close.winner not in remembered:
        auction.notified.discard(close.winner)


def _no_losses_without_a_bid(auction: Auction, close: Close, tolerance_micros: int) -> Iterator[Fact]:
    for fact in _notify_all(auction, close, tolerance_micros):
        if fact.bid is not None or close.winner == fact.agent_id:
            yield fact


def _late_bids_dropped(auction: Auction, close: Close, tolerance_micros: int) -> dict[AgentId, Bid]:
    admitted = _admit_pending(auction, close, tolerance_micros)
    auction.pending_bids = {}
    return admitted


ABLATIONS["a superseded close's winner is told the standing one"] = [(Auction, "close", _superseded_untold)]
ABLATIONS["winners of superseded closes are remembered"] = [
    (Auction, "notify_all", _superseded_winners_unremembered)
]
ABLATIONS["an explicit fact: no outcome"] = [(Auction, "notify_all", _no_losses_without_a_bid)]
ABLATIONS["bids above the cutoff wait"] = [(Auction, "admit_pending", _late_bids_dropped)]


# --- retention -------------------------------------------------------------------------------------------

_filter_read = Retention.filter_read
_take_due_tombstones = Retention.take_due_tombstones
_advance = Retention.advance
_retention_snapshot = Retention.snapshot
_retention_written = Retention.on_checkpoint_written


def _note_nothing(cutoff: Cutoff | None) -> str:
    return ""


def _unfiltered(retention: Retention, fact: Fact) -> Fact | None:
    _filter_read(retention, fact)
    return fact


def _all_sent(retention: Retention, facts: Iterable[Fact]) -> list[Fact]:
    return list(facts)


def _untold(retention: Retention, fact: Fact) -> Fact | None:
    return fact if retention.cutoff is None else living_fact(fact, retention.cutoff)


def _nothing_left_of(retention: Retention, *, restored: bool) -> Iterator[list[tuple[bytes, Fact | None]]]:
    for due in _take_due_tombstones(retention, restored=restored):
        yield [(key, None) for key, _ in due]


def _swept_before_written(retention: Retention, newest: Micros) -> None:
    _advance(retention, newest)
    _retention_snapshot(retention)
    _retention_written(retention)


def _cutoff_unwritten(retention: Retention) -> Cutoff | None:
    _retention_snapshot(retention)
    return None


OF_RETENTION["an empty disk finds the cutoff with the commit"] = [(resume, "cutoff_note", _note_nothing)]
OF_RETENTION["expired parts are not joined"] = [(Retention, "filter_read", _unfiltered)]
OF_RETENTION["expired facts are not sent"] = [(Retention, "filter_outgoing", _all_sent)]
OF_RETENTION["expired facts that are read are tombstoned"] = [(Retention, "filter_read", _untold)]
OF_RETENTION["what lives of an expired fact is sent first"] = [
    (Retention, "take_due_tombstones", _nothing_left_of)
]
OF_RETENTION["rows are swept once the cutoff is written"] = [(Retention, "advance", _swept_before_written)]
OF_RETENTION["the cutoff in the file"] = [(Retention, "snapshot", _cutoff_unwritten)]


# --- forgotten agents ------------------------------------------------------------------------------------

_learn_snapshot = Learn.snapshot
_keys_of_agents = Learn.keys_of_agents
_later_markers = forgetting.later_markers


def _markers_unwritten(learning: Learn) -> LearnChanges:
    return _learn_snapshot(learning)._replace(forgotten={})


def _only_applied(
    agent_id: AgentId, cutoff: Cutoff | None, forgotten: Mapping[AgentId, Micros]
) -> Cutoff | None:
    return cutoff


def _only_refused(learning: Learn, ids: Collection[AgentId]) -> AsyncIterator[list[OutcomeKey]]:
    return _keys_of_agents(learning, ())


def _last_marker_stands(
    markers: Sequence[ForgetMarker], known: Mapping[AgentId, Micros]
) -> tuple[dict[AgentId, Micros], list[ForgetMarker]]:
    _, superseded = _later_markers(markers, known)
    return {marker.agent_id: marker.forget_until for marker in markers}, superseded


def _agent_alone(marker: ForgetMarker) -> tuple[bytes, bytes]:
    return msgspec.json.encode(("forget", marker.agent_id)), msgspec.json.encode(marker)


def _rows_of_the_file(learning: Learn, ids: Collection[AgentId]) -> AsyncIterator[list[OutcomeKey]]:
    return learning.rows.keys_of_agents(list(ids))


def _standby_remembers(markers: MarkerFilter, fact: Fact) -> Fact | None:
    return fact


async def _rows_alone_published_again(
    shard_id: ShardId,
    context: ShardContext,
    file: ShardFile,
    resumed: ResumedState,
    on_progress: Callable[[], None],
) -> None:
    await _republish_changelog(shard_id, context, file, resumed._replace(forgotten={}), on_progress)


def _nobody_erased(retention: Retention, agent_id: AgentId) -> bool:
    return retention.cutoff is not None


def _nothing_tombstoned(retention: Retention, row: Outcome, cutoff: Cutoff) -> None:
    """Its facts stay in the changelog."""


OF_FORGETTING["the marker is kept in the file, not only applied"] = [(Learn, "snapshot", _markers_unwritten)]
OF_FORGETTING["the marker is kept in memory, not only applied"] = [
    (changelog, "agents_cutoff", _only_applied),
    (retention, "agents_cutoff", _only_applied),
]
OF_FORGETTING["the marker is applied, not only kept"] = [(Learn, "keys_of_agents", _only_refused)]
OF_FORGETTING["the marker is applied to rows in memory, too"] = [(Learn, "keys_of_agents", _rows_of_the_file)]
OF_FORGETTING["the latest marker stands"] = [(learn, "later_markers", _last_marker_stands)]
OF_FORGETTING["a marker's key names its moment"] = [
    (world, "encode_marker", _agent_alone),
    (retention, "encode_marker", _agent_alone),
    (publishing, "encode_marker", _agent_alone),
]
OF_FORGETTING["a standby refuses what is forgotten"] = [(MarkerFilter, "filter_read", _standby_remembers)]
OF_FORGETTING["markers are published again after a lost end"] = [
    (shard, "republish_changelog", _rows_alone_published_again)
]
OF_FORGETTING["a forgotten agent's record becomes a tombstone"] = [(Retention, "erases", _nobody_erased)]
OF_FORGETTING["the facts behind forgotten rows are tombstoned"] = [
    (Retention, "on_row_swept", _nothing_tombstoned)
]


# --- strategies' sums ------------------------------------------------------------------------------------

_claim_strategies = strategies.claim_strategies


def _nothing_taken_out(cells: Cells, addends: Iterable[Addend]) -> None:
    """What was counted stays."""


async def _sums_apart(database: Database, writes: Iterable[tuple[str, Iterable[SqlRow]]]) -> None:
    found = [(name, list(rows)) for name, rows in writes]
    of_sums = {"save_sums", "delete_sums", "save_counted_to"}
    await _transact(database, [write for write in found if write[0] in of_sums])
    await _transact(database, [write for write in found if write[0] not in of_sums])


async def _counted_to_apart(database: Database, writes: Iterable[tuple[str, Iterable[SqlRow]]]) -> None:
    found = [(name, list(rows)) for name, rows in writes]
    await _transact(database, [write for write in found if write[0] != "save_counted_to"])
    await _transact(database, [write for write in found if write[0] == "save_counted_to"])


def _every_row(sums: StrategySums, row: Outcome) -> bool:
    return True


async def _taken_for_counted(database: Database, versions: Mapping[str, int]) -> dict[str, OutcomeKey | None]:
    return dict.fromkeys(await _claim_strategies(database, versions))


async def _kept_while_off(database: Database, versions: Mapping[str, int]) -> dict[str, OutcomeKey | None]:
    kept = {str(name): 1 for name, *_ in await database.read("load_strategies")}
    found = await _claim_strategies(database, {**kept, **versions})
    return {name: found[name] for name in versions}


async def _file_alone(
    after: OutcomeKey, memory: object, file: learn.Rows, limit: int
) -> tuple[list[Outcome], OutcomeKey | None]:
    return await _rows_after(after, tuple, file, limit)


def _expired_unnoticed(learning: Learn, before: Outcome | None, after: Outcome) -> RowChange:
    return RowChange(change(before, after), [None for _ in learning.sums])


_rows_after = learn.rows_after

OF_SUMS["a corrected price is taken out of the sums"] = [(strategy_sums, "subtract", _nothing_taken_out)]
OF_SUMS["sums in the transaction of their rows"] = [(Database, "transact", _sums_apart)]
OF_SUMS["how far rows are counted, in the transaction of the sums"] = [
    (Database, "transact", _counted_to_apart)
]
OF_SUMS["rows that are still to be counted change no sums"] = [(StrategySums, "counts", _every_row)]
OF_SUMS["a file without a strategy's stamp is counted"] = [
    (shard_file, "claim_strategies", _taken_for_counted)
]
OF_SUMS["sums and stamp go when a strategy is off"] = [(shard_file, "claim_strategies", _kept_while_off)]
OF_SUMS["rows in memory are counted, too"] = [(learn, "rows_after", _file_alone)]
OF_SUMS["what expires and what is forgotten leaves the sums"] = [(Learn, "difference", _expired_unnoticed)]


# --- snapshots -------------------------------------------------------------------------------------------


def _no_obstacle(*_: object, **__: object) -> None:
    """In place of a reason against a snapshot."""


def _yes(*_: object) -> bool:
    return True


def _none(*_: object) -> list[SnapshotManifest]:
    return []


def _one_name(shard_id: ShardId, created_ms: int) -> str:
    return f"shard-{shard_id:05d}/{0 * created_ms:013d}-{0:032x}.sqlite3"


OF_SNAPSHOTS["a snapshot of another incarnation is refused"] = [(snapshots, "foreign", _no_obstacle)]
OF_SNAPSHOTS["a snapshot that the changelog does not know is refused"] = [(snapshots, "recognized", _yes)]
OF_SNAPSHOTS["a snapshot beyond the changelog's end is refused"] = [
    (snapshots, "beyond", _no_obstacle),
    (snapshots, "recognized", _yes),
]
OF_SNAPSHOTS["no two snapshots have the same name"] = [(snapshots, "new_name", _one_name)]
OF_SNAPSHOTS["a snapshot made while an agent is forgotten is taken back"] = [
    (snapshots, "is_still_true", _yes),
    (snapshots, "of_other_markers", _none),
]
OF_SNAPSHOTS["a snapshot from before a marker that nobody took back is deleted"] = [
    (snapshots, "of_other_markers", _none)
]


_KINDS: tuple[dict[str, bool], ...] = (
    {},
    {"forgetful": True},
    {"forgetting": True},
    {"snapshots": True},
)
ABLATIONS.update(OF_RETENTION | OF_FORGETTING | OF_SUMS | OF_SNAPSHOTS)


# --- who notices -----------------------------------------------------------------------------------------


class Run(NamedTuple):
    """What may notice that a safeguard is missing: a seed or a directed sequence."""

    name: str
    play: Callable[[], None]


class Without(ExitStack):
    """The worker's code without one safeguard."""

    def __init__(self, name: str) -> None:
        super().__init__()
        for owner, attribute, replacement in ABLATIONS[name]:
            self.enter_context(mock.patch.object(owner, attribute, replacement))


def seeds_that_notice(seeds: Iterable[int], **kind: bool) -> Iterator[int]:
    """Those of the seeds that fail in worlds of a kind, as `run_seed` has it."""
    run = functools.partial(run_seed, **kind)
    return (seed for seed in seeds if fails(functools.partial(run, seed)))


def who_notices(name: str, count: int) -> str | None:
    """A directed sequence that fails, or one of so many seeds of each kind; None if all of them pass.

    First the one that is known to, then a seed of the kind that needs the safeguard and a sequence by turns.
    """
    own = _kind_of(name)
    kinds = sorted(_KINDS, key=lambda kind: kind != own)
    likely = [seed_runs(kinds[0], count), _sequence_runs(_first_sequence(name))]
    by_turns = (run for runs in itertools.zip_longest(*likely) for run in runs if run is not None)
    others = (run for kind in kinds[1:] for run in seed_runs(kind, count))
    return first_to_fail(itertools.chain(by_turns, others), KNOWN.get(name))


def first_to_fail(runs: Iterable[Run], known: str | None) -> str | None:
    """The name of a run that fails, the known one if it does, else the first one; None if all pass."""
    in_order = sorted(runs, key=lambda run: run.name != known)
    return next((run.name for run in in_order if fails(run.play)), None)


def seed_runs(kind: Mapping[str, bool], count: int, play: Callable[..., None] = run_seed) -> Iterator[Run]:
    """So many seeds of a kind."""
    words = "".join(f" {word}" for word, given in kind.items() if given)
    return (Run(f"seed {seed}{words}", functools.partial(play, seed, **kind)) for seed in range(count))


def _kind_of(name: str) -> Mapping[str, bool]:
    """The kind of worlds that a safeguard of this name is for."""
    of_kinds = {"forgetful": OF_RETENTION, "forgetting": OF_FORGETTING, "snapshots": OF_SNAPSHOTS}
    return {kind: True for kind, safeguards in of_kinds.items() if name in safeguards}


def _first_sequence(name: str) -> str:
    """The first of the sequences that were written for safeguards of this kind."""
    if name in OF_RETENTION:
        return "outcomes_age_away_everywhere"
    if name in OF_FORGETTING:
        return "an_agent_is_forgotten_everywhere"
    if name in OF_SNAPSHOTS:
        return FIRST_OF_SNAPSHOTS
    return "a_price_is_corrected" if name in OF_SUMS else next(iter(SCENARIOS))


def _sequence_runs(first: str) -> Iterator[Run]:
    names = list(SCENARIOS)
    begin = names.index(first)
    return (Run(name, functools.partial(_run_scenario, name)) for name in names[begin:] + names[:begin])


def scenarios_that_notice() -> Iterator[str]:
    """Those of the directed sequences that fail."""
    return (name for name in SCENARIOS if fails(functools.partial(_run_scenario, name)))


def leaves_a_worker() -> bool:
    """Whether some sequence passes: where all fail it is the replacement that fails, and shows nothing."""
    return any(not fails(functools.partial(_run_scenario, name)) for name in SCENARIOS)


def _run_scenario(name: str) -> None:
    run_sequence(SCENARIOS[name])


def run_sequence(play: Callable[[], World]) -> None:
    """Plays a directed sequence and judges what it comes to.

    Raises:
        InvariantError: it does not hold.
    """
    world = play()
    try:
        world.check()
    finally:
        world.close()


def fails(run: Callable[[], None]) -> bool:
    """Whether a run ends in a broken invariant."""
    try:
        run()
    except InvariantError:
        return True
    return False


@dataclass(frozen=True, slots=True)
class Noticed:
    """Who fails without a safeguard: seeds, in each kind of world, and directed sequences."""

    seeds: Sequence[int]
    with_a_retention: Sequence[int]
    with_forgotten_agents: Sequence[int]
    with_snapshots: Sequence[int]
    sequences: Sequence[str]

    def __bool__(self) -> bool:
        """Whether anything fails."""
        of_seeds = (self.seeds, self.with_a_retention, self.with_forgotten_agents, self.with_snapshots)
        return any((*of_seeds, self.sequences))

    @property
    def is_broken(self) -> bool:
        """Whether all sequences fail: see `leaves_a_worker`."""
        return len(self.sequences) == len(SCENARIOS)

    def __str__(self) -> str:
        """In numbers."""
        return (
            f"{len(self.seeds)} seeds, {len(self.with_a_retention)} with a retention, "
            f"{len(self.with_forgotten_agents)} with forgotten agents, {len(self.with_snapshots)} with "
            f"snapshots, {len(self.sequences)} sequences"
        )


def noticed(name: str, count: int) -> Noticed:
    """Runs so many seeds of each kind, and every directed sequence, without a safeguard."""
    seeds = range(count)
    with simulated(), Without(name):
        return Noticed(
            list(seeds_that_notice(seeds)),
            list(seeds_that_notice(seeds, forgetful=True)),
            list(seeds_that_notice(seeds, forgetting=True)),
            list(seeds_that_notice(seeds, snapshots=True)),
            list(scenarios_that_notice()),
        )


def print_known(count: int) -> None:
    """Prints a sequence that notices the loss of each safeguard, else one of so many seeds."""
    for name in ABLATIONS:
        kinds = [run for kind in _KINDS for run in seed_runs(kind, count)]
        with simulated(), Without(name):
            found = first_to_fail([*_sequence_runs(next(iter(SCENARIOS))), *kinds], None)
        sys.stdout.write(f'    "{name}": "{found}",\n')
        sys.stdout.flush()


def main(count: int) -> None:
    """Prints by how many seeds of each kind, and by which directed sequences, each ablation is found."""
    for name in ABLATIONS:
        found = noticed(name, count)
        sys.stdout.write(f"{name:60} of {count}: {found}  {', '.join(found.sequences)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1:] == ["known"]:
        print_known(1_000)
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000)
