"""The store's SQL statements and their rows, independent of how they are run."""

import functools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Final, NamedTuple

import msgspec

from learner_worker.contract.facts import Bid, Close, Result
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import TopicName
from learner_worker.domain.agents import AgentRow
from learner_worker.domain.auctions import AuctionState
from learner_worker.domain.keywords import Tally
from learner_worker.domain.metrics import Metrics
from learner_worker.domain.outcomes import Cutoff, Outcome, OutcomeKey
from learner_worker.domain.sums import KeptSums
from learner_worker.store.identity import LAST_RECORD, LastRecord

SqlRow = tuple[object, ...]
ROWS_AT_ONCE: Final = 250  # with twelve columns far below SQLite's limit of 32,766 parameters
_VALUES = re.compile(r"VALUES (\([?, ]+\))")
_MARK = "-- name: "


@dataclass(slots=True)
class Checkpoint:
    """The content of a shard's checkpoint: the positions, and every row that changed since the last one.

    A value of None means that the row is deleted, and so does an outcome without parts.

    Attributes:
        keywords: by agent, the keywords that changed; a keyword whose counts are zero is deleted.
        forgotten: the time until which agents are forgotten, where it changed.
        sums: what strategies have counted, by strategy and agent.
        counted_to: by strategy, the last row in its sums; None: all rows are.
        leaving: published agents whose row is deleted if they have no outcomes.
        last_record: the last changelog record below the position, if it has changed.
    """

    positions: Mapping[TopicName, int]
    auctions: Mapping[TaskId, AuctionState | None] = field(default_factory=dict)
    outcomes: Mapping[OutcomeKey, Outcome] = field(default_factory=dict)
    agents: Mapping[AgentId, AgentRow] = field(default_factory=dict)
    keywords: Mapping[AgentId, Mapping[str, Tally]] = field(default_factory=dict)
    forgotten: Mapping[AgentId, Micros] = field(default_factory=dict)
    sums: Mapping[tuple[str, AgentId], KeptSums] = field(default_factory=dict)
    counted_to: Mapping[str, OutcomeKey | None] = field(default_factory=dict)
    published: Collection[AgentId] = ()
    cutoff: Cutoff | None = None
    leaving: Collection[AgentId] = ()
    last_record: LastRecord | None = None


class _OutcomeColumns(NamedTuple):
    task_id: TaskId
    agent_id: AgentId
    closed_at: int | None
    winner_agent_id: AgentId | None
    winning_bid_sats: int | None
    close_digest: str | None
    close_description: str | None
    placed_at: int | None
    bid_sats: int | None
    description: str | None
    finished_at: int | None
    succeeded: int | None


OUTCOME_COLUMNS: Final = _OutcomeColumns._fields
"""The columns of an outcome's row: its key, then the fields of its parts in their order."""
_KEY_COLUMNS: Final = ("task_id", "agent_id")
_NO_KEY: Final = (None, None)


@functools.cache
def statement(name: str) -> str:
    """The SQL of a named statement in queries.sql."""
    return _statements()[name]


@functools.cache
def rows_at_once(name: str) -> str | None:
    """A statement that inserts `ROWS_AT_ONCE` rows at once; None if the named statement is no insert.

    After every statement the file's thread has to wait for the GIL, which the event loop holds: row by row,
    a checkpoint would spend most of its time waiting.
    """
    found = _VALUES.search(statement(name))
    if found is None:
        return None
    return _VALUES.sub(f"VALUES {', '.join([found[1]] * ROWS_AT_ONCE)}", statement(name))


@functools.cache
def _statements() -> dict[str, str]:
    text = resources.files(__package__).joinpath("queries.sql").read_text("utf-8")
    for name, sql in _written_out().items():
        text = text.replace(f"{{{name}}}", sql)
    parts = (part.split("\n", 1) for part in text.split(_MARK)[1:])
    return {name.strip(): sql.strip() for name, sql in parts}


def _written_out() -> dict[str, str]:
    """The replacements for the names in braces in queries.sql."""
    updated = (column for column in OUTCOME_COLUMNS if column not in _KEY_COLUMNS)
    return {
        "outcome columns": ", ".join(OUTCOME_COLUMNS),
        "a parameter for each outcome column": ", ".join("?" for _ in OUTCOME_COLUMNS),
        "each outcome column as excluded": ", ".join(f"{name} = excluded.{name}" for name in updated),
    }


_encode = msgspec.json.Encoder().encode
_fields = msgspec.structs.astuple
_NO_CLOSE, _NO_BID, _NO_RESULT = ((None,) * len(part.__struct_fields__) for part in (Close, Bid, Result))
_decode_auction = msgspec.json.Decoder(AuctionState).decode


def writes_of(checkpoint: Checkpoint) -> Iterator[tuple[str, Iterable[SqlRow]]]:
    """A checkpoint as pairs of statement and rows, in the order in which one transaction runs them.

    Rows are made on demand, for one statement at a time, so that no step makes all of them.
    """
    yield from _saved_or_deleted("save_outcome", "delete_outcome", _outcome_rows(checkpoint.outcomes))
    yield "save_agent", (_agent_row(agent_id, row) for agent_id, row in checkpoint.agents.items())
    yield "mark_published", ((agent_id,) for agent_id in checkpoint.published)
    yield "forget_agent", ((agent_id,) for agent_id in checkpoint.leaving)
    yield from _saved_or_deleted("save_keyword", "delete_keyword", _keyword_rows(checkpoint.keywords))
    sums = checkpoint.sums
    yield "save_sums", ((who, name, kept.pack()) for (name, who), kept in sums.items() if kept.read())
    yield "delete_sums", ((who, name) for (name, who), kept in sums.items() if not kept.read())
    yield "save_counted_to", ((*(key or _NO_KEY), name) for name, key in checkpoint.counted_to.items())
    gone: list[SqlRow] = []
    yield "save_auction", _held_auctions(checkpoint.auctions, gone)
    yield "delete_auction", gone
    yield "save_position", checkpoint.positions.items()
    yield "save_cutoff", () if checkpoint.cutoff is None else (checkpoint.cutoff,)
    last = checkpoint.last_record
    yield "save_identity", () if last is None else ((LAST_RECORD, last.text()),)
    yield "save_forgotten", checkpoint.forgotten.items()


def _outcome_rows(outcomes: Mapping[OutcomeKey, Outcome]) -> Iterator[tuple[bool, SqlRow]]:
    """Rows, each with whether it is saved or, by its key, deleted."""
    for key, outcome in outcomes.items():
        yield (True, outcome_row(outcome)) if outcome.known else (False, key)


def _keyword_rows(keywords: Mapping[AgentId, Mapping[str, Tally]]) -> Iterator[tuple[bool, SqlRow]]:
    """Rows, each with whether it is saved or, by its key, deleted."""
    for agent_id, tallies in keywords.items():
        for keyword, tally in tallies.items():
            yield (True, (agent_id, keyword, *tally)) if any(tally) else (False, (agent_id, keyword))


def _saved_or_deleted(
    saving: str, deleting: str, rows: Iterable[tuple[bool, SqlRow]]
) -> Iterator[tuple[str, Sequence[SqlRow]]]:
    """Rows in statements of `ROWS_AT_ONCE`, so that no step handles many more, saved or deleted."""
    saved: list[SqlRow] = []
    deleted: list[SqlRow] = []
    for is_saved, row in rows:
        (saved if is_saved else deleted).append(row)
        if len(saved) == ROWS_AT_ONCE:
            yield saving, saved
            saved = []
        elif len(deleted) == ROWS_AT_ONCE:
            yield deleting, deleted
            deleted = []
    yield saving, saved
    yield deleting, deleted


def _held_auctions(auctions: Mapping[TaskId, AuctionState | None], gone: list[SqlRow]) -> Iterator[SqlRow]:
    """The rows of remembered auctions; adds the keys of forgotten ones to `gone`."""
    for task_id, state in auctions.items():
        if state is None:
            gone.append((task_id,))
        else:
            yield task_id, _encode(state)


def pairs_parameter(keys: Sequence[OutcomeKey]) -> str:
    """Encodes the parameter of `load_outcomes`."""
    return _encode(keys).decode()


def ids_parameter(ids: Sequence[AgentId]) -> str:
    """Encodes the parameter of `load_agents` and `load_keywords`."""
    return _encode(ids).decode()


def auction_of(row: Sequence[object]) -> tuple[TaskId, AuctionState]:
    """Decodes a row of `load_auctions`."""
    task_id, state = row
    return msgspec.convert(task_id, TaskId), _decode_auction(msgspec.convert(state, bytes))


def outcome_row(outcome: Outcome) -> SqlRow:
    """Encodes an outcome as the columns of its row."""
    close, bid, result = outcome.close, outcome.bid, outcome.result
    return (
        outcome.task_id,
        outcome.agent_id,
        *(_NO_CLOSE if close is None else _fields(close)),
        *(_NO_BID if bid is None else _fields(bid)),
        *(_NO_RESULT if result is None else _fields(result)),
    )


def outcome_of(row: Sequence[object]) -> Outcome:
    """Decodes a row of `load_outcomes`."""
    columns = msgspec.convert(row, _OutcomeColumns)
    close = bid = result = None
    if columns.closed_at is not None:
        close = Close(
            Micros(columns.closed_at),
            columns.winner_agent_id,
            columns.winning_bid_sats,
            columns.close_digest,
            columns.close_description,
        )
    if columns.placed_at is not None and columns.bid_sats is not None:
        bid = Bid(Micros(columns.placed_at), columns.bid_sats, columns.description or "")
    if columns.finished_at is not None:
        result = Result(Micros(columns.finished_at), bool(columns.succeeded))
    return Outcome(columns.task_id, columns.agent_id, close, bid, result)


def _agent_row(agent_id: AgentId, row: AgentRow) -> SqlRow:
    metrics = row.metrics
    return (
        agent_id,
        metrics.total_bids,
        metrics.auctions_won,
        metrics.tasks_completed,
        metrics.tasks_failed,
        metrics.priced_wins,
        str(metrics.priced_sats),
        row.as_of_ms,
        row.outcome_offset,
    )


class _AgentColumns(NamedTuple):
    agent_id: AgentId
    total_bids: int
    auctions_won: int
    tasks_completed: int
    tasks_failed: int
    priced_wins: int
    priced_sats: str
    as_of_ms: int
    outcome_offset: int


def agent_of(row: Sequence[object]) -> tuple[AgentId, AgentRow]:
    """Decodes a row of `load_agents`."""
    columns = msgspec.convert(row, _AgentColumns)
    metrics = Metrics(
        total_bids=columns.total_bids,
        auctions_won=columns.auctions_won,
        tasks_completed=columns.tasks_completed,
        tasks_failed=columns.tasks_failed,
        priced_wins=columns.priced_wins,
        priced_sats=int(columns.priced_sats),
    )
    return columns.agent_id, AgentRow(metrics, columns.as_of_ms, columns.outcome_offset)


class KeywordRow(NamedTuple):
    """A row of `load_keywords`."""

    agent_id: AgentId
    keyword: str
    wins: int
    failures: int


def keyword_of(row: Sequence[object]) -> KeywordRow:
    """Decodes a row of `load_keywords`."""
    return msgspec.convert(row, KeywordRow)


class SumsRow(NamedTuple):
    """A row of `load_sums` and `sums_in_order`."""

    agent_id: AgentId
    strategy: str
    cells: bytes


def sums_of(row: Sequence[object]) -> SumsRow:
    """A row of `load_sums` or `sums_in_order`."""
    return msgspec.convert(row, SumsRow)


class StrategyRow(NamedTuple):
    """A row of `load_strategies`."""

    name: str
    version: int
    counted_task: TaskId | None
    counted_agent: AgentId | None

    @property
    def counted_to(self) -> OutcomeKey | None:
        """The last row that is counted; None: all are."""
        if self.counted_task is None or self.counted_agent is None:
            return None
        return self.counted_task, self.counted_agent


def strategy_of(row: Sequence[object]) -> StrategyRow:
    """A row of `load_strategies`."""
    return msgspec.convert(row, StrategyRow)
