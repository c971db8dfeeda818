"""Compares a shard's file with its replayed changelog: rows by field, metrics with a recount of the rows.

Both sides are read in key order, in parallel; memory holds one row of each side and one agent.
"""

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import structs

from learner_worker.contract.fields import AgentId
from learner_worker.contract.times import Micros
from learner_worker.domain.metrics import Metrics, change, plus
from learner_worker.domain.outcomes import Cutoff, Outcome, OutcomeKey, agents_cutoff, living
from learner_worker.domain.sums import Cells, KeptSums
from learner_worker.store.snapshot import Snapshot
from learner_worker.store.statements import OUTCOME_COLUMNS, SqlRow, outcome_of, outcome_row
from learner_worker.strategies.protocol import Strategy
from learner_worker.strategies.sums import settled_bid, update

LISTED: Final = 10
"""Differences kept as examples: enough to find the cause; all are counted."""
_PLACED_AT = OUTCOME_COLUMNS.index("placed_at")
_COUNTS = Metrics.__struct_fields__
_NO_TALLY = (0, 0)  # a keyword that is missing counts nothing
_encode = msgspec.json.Encoder().encode


def _row_of(metrics: Metrics) -> SqlRow:
    """The columns of _COUNTS as in the file: a sum of bids may exceed SQLite's integers, so it is text."""
    return tuple(
        str(value) if name == "priced_sats" else value for name, value in structs.asdict(metrics).items()
    )


_NO_COUNTS = _row_of(Metrics())


class ValueDifference(msgspec.Struct, frozen=True):
    """One value that differs from the changelog's.

    Attributes:
        task: the outcome's task; None for an agent's metrics.
        field: a column, "row" for a whole row, "keyword ..." for a keyword's wins and failures, "sums of ..."
            for what a strategy has counted.
    """

    task: str | None
    agent: str
    field: str
    file: object
    changelog: object


class FileComparison:
    """The result of a comparison.

    Attributes:
        rows: number of rows in the file; `outcomes` of them count.
        digest: SHA-256 of all rows of the file in key order: equal digests mean equal rows.
        count: number of all differences; `differences` holds the first ones.
    """

    def __init__(self) -> None:
        self.differences: list[ValueDifference] = []
        self.count = 0
        self.rows = 0
        self.outcomes = 0
        self.agents = 0
        self._digest = hashlib.sha256()

    @property
    def digest(self) -> str:
        """The digest of the rows so far."""
        return self._digest.hexdigest()

    def row(self, in_file: SqlRow | None, in_changelog: SqlRow | None) -> None:
        """Compares a row of the file with the changelog's row of the same key."""
        if in_file is not None:
            self.rows += 1
            self.outcomes += _counts(in_file)
            self._digest.update(_encode(in_file))
        if in_file == in_changelog:
            return
        task, agent = (in_file or in_changelog or ("", ""))[:2]
        if in_file is None or in_changelog is None:
            self._add(task, agent, "row", _presence(in_file), _presence(in_changelog))
            return
        for field, found, expected in zip(OUTCOME_COLUMNS, in_file, in_changelog, strict=True):
            if found != expected:
                self._add(task, agent, field, found, expected)

    def agent(self, in_file: "_Agent | None", in_changelog: "_Agent | None") -> None:
        """Compares an agent of the file with the recount of its outcomes."""
        found, expected = in_file or _Agent(), in_changelog or _Agent()
        name = (in_file or in_changelog or _Agent()).agent_id
        self.agents += 1
        for field, one, other in zip(_COUNTS, found.counts, expected.counts, strict=True):
            if one != other:
                self._add(None, name, field, one, other)
        for keyword in sorted(found.tallies.keys() | expected.tallies.keys()):
            tally, counted = found.tallies.get(keyword, _NO_TALLY), expected.tallies.get(keyword, _NO_TALLY)
            if tally != counted:
                self._add(None, name, f"keyword {keyword}", _named(tally), _named(counted))
        for strategy in sorted(found.sums.keys() | expected.sums.keys()):
            cells, counted_cells = found.sums.get(strategy, {}), expected.sums.get(strategy, {})
            if cells != counted_cells:
                self._add(None, name, f"sums of {strategy}", cells, counted_cells)

    def _add(self, task: object, agent: object, field: str, in_file: object, in_changelog: object) -> None:
        self.count += 1
        if len(self.differences) < LISTED:
            task_id = None if task is None else str(task)
            self.differences.append(ValueDifference(task_id, str(agent), field, in_file, in_changelog))


class _Agent(msgspec.Struct, frozen=True):
    """An agent's metrics and keywords as stored, not validated, because the file may be damaged."""

    agent_id: str = ""
    counts: SqlRow = _NO_COUNTS
    tallies: dict[str, SqlRow] = {}
    sums: dict[str, Cells] = {}


class CountedSums(msgspec.Struct, frozen=True):
    """A strategy whose sums are compared, and up to which row the file has counted."""

    strategy: Strategy
    counted_to: OutcomeKey | None


def compare(
    file: Snapshot,
    replayed: Snapshot,
    *,
    forgotten_later: Mapping[AgentId, Micros] | None = None,
    strategies: Sequence[Strategy] = (),
) -> FileComparison:
    """Compares a file with one into which the changelog was replayed up to the same position.

    With a cutoff, expired parts may be in either file and are ignored. The file's metrics, which count its
    rows until they are swept, are then compared with its own rows.

    Args:
        forgotten_later: the time until which agents are forgotten by markers after that position: their
            outcomes may have left the changelog already, and are ignored, too.
        strategies: the strategies whose sums are compared, where the file keeps them.
    """
    counted_sums = _compared_sums(file, strategies)
    comparison, cutoff, later = FileComparison(), file.cutoff(), forgotten_later or {}
    ours, theirs = _living(file, cutoff, later), _living(replayed, cutoff, later)
    for pair in side_by_side(ours, theirs, _row_key):
        comparison.row(*pair)
    rows = replayed if cutoff is None and not later else file
    for agents in side_by_side(_stored(file, counted_sums), _counted(rows, counted_sums), _agent_key):
        comparison.agent(*agents)
    return comparison


def _compared_sums(file: Snapshot, strategies: Sequence[Strategy]) -> list[CountedSums]:
    """The strategies by which the file has counted, and whose rule of counting is known here."""
    known = {(strategy.name, strategy.version): strategy for strategy in strategies}
    kept = {(row.name, row.version): row for row in file.strategies()}
    return [
        CountedSums(strategy, kept[stamp].counted_to) for stamp, strategy in known.items() if stamp in kept
    ]


def _living(rows: Snapshot, cutoff: Cutoff | None, forgotten: Mapping[AgentId, Micros]) -> Iterator[SqlRow]:
    for row in rows.outcomes_by_task():
        theirs = agents_cutoff(AgentId(str(row[1])), cutoff, forgotten)
        if theirs is None:
            yield row
        elif (left := living(outcome_of(row), theirs)).known:
            yield outcome_row(left)


def _stored(file: Snapshot, compared: Sequence[CountedSums]) -> Iterator[_Agent]:
    """Every agent, as stored in its tables."""
    agents = ((str(row[0]), row) for row in file.agents())
    keywords = itertools.groupby(file.keywords(), key=lambda row: str(row[0]))
    tallies = ((agent_id, _tallies(rows)) for agent_id, rows in keywords)
    known = side_by_side(agents, tallies, lambda item: item[0])
    sums = _sums(file, {counted.strategy.name for counted in compared})
    for both, of_strategies in side_by_side(known, sums, _first_id):
        agent, words = both or (None, None)
        agent_id = (agent or words or of_strategies)[0]
        counts = _NO_COUNTS if agent is None else agent[1][1:]
        yield _Agent(
            agent_id,
            counts,
            {} if words is None else words[1],
            {} if of_strategies is None else of_strategies[1],
        )


def _first_id(item: Any) -> str:
    """Of an agent's pair of counts and words, of which one may be missing, or of its sums."""
    found = item if isinstance(item[0], str) else item[0] or item[1]
    return str(found[0])


def _sums(file: Snapshot, names: Collection[str]) -> Iterator[tuple[str, dict[str, Cells]]]:
    for agent_id, rows in itertools.groupby(file.sums(), key=lambda row: row.agent_id):
        found = {row.strategy: KeptSums.of(row.cells).read() for row in rows if row.strategy in names}
        if found:
            yield agent_id, found


def _tallies(rows: Iterator[SqlRow]) -> dict[str, SqlRow]:
    return {str(keyword): (wins, failures) for _, keyword, wins, failures in rows}


def _counted(rows_of: Snapshot, compared: Sequence[CountedSums]) -> Iterator[_Agent]:
    """Every agent, recounted from all of its outcomes."""
    for agent_id, rows in itertools.groupby(rows_of.outcomes_by_agent(), key=lambda row: str(row[1])):
        metrics, wins, failures = Metrics(), Counter[str](), Counter[str]()
        sums: dict[str, Cells] = {}
        for outcome in map(outcome_of, rows):
            part = change(None, outcome)
            _count_sums(sums, outcome, compared)
            metrics = plus(metrics, part.metrics)
            wins.update(part.wins)
            failures.update(part.failures)
        words = wins.keys() | failures.keys()
        tallies: dict[str, SqlRow] = {word: (wins[word], failures[word]) for word in words}
        yield _Agent(agent_id, _row_of(metrics), tallies, sums)


def _count_sums(sums: dict[str, Cells], outcome: Outcome, compared: Sequence[CountedSums]) -> None:
    settled = settled_bid(outcome)
    for counted in compared:
        to, strategy = counted.counted_to, counted.strategy
        if settled is not None and (to is None or (outcome.task_id, outcome.agent_id) <= to):
            cells: Cells = sums.get(strategy.name, {})
            update(strategy, cells, settled)
            if cells:
                sums[strategy.name] = cells


def side_by_side(
    left: Iterator[Any], right: Iterator[Any], key: Callable[[Any], Any]
) -> Iterator[tuple[Any, Any]]:
    """Pairs the items of two ordered iterators by key; None where one side lacks a key."""
    one, other = next(left, None), next(right, None)
    while one is not None or other is not None:
        before = other is None or (one is not None and key(one) < key(other))
        after = one is None or (other is not None and key(other) < key(one))
        yield (None if after else one), (None if before else other)
        if not after:
            one = next(left, None)
        if not before:
            other = next(right, None)


def _row_key(row: SqlRow) -> tuple[object, object]:
    return row[0], row[1]


def _agent_key(agent: _Agent) -> str:
    return agent.agent_id


def _counts(row: SqlRow) -> bool:
    _, agent_id, closed_at, winner_agent_id, *_ = row
    return closed_at is not None and (row[_PLACED_AT] is not None or winner_agent_id == agent_id)


def _named(tally: SqlRow) -> dict[str, object]:
    wins, failures = tally
    return {"wins": wins, "failures": failures}


def _presence(row: SqlRow | None) -> str:
    return "missing" if row is None else "present"
