"""What the learner knew before an import is compared with the file: what stands is said, and only that."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner_worker.contract.facts import Bid, Close, Fact, Result, encode_fact
from learner_worker.contract.fields import AgentId, ShardId, TaskId
from learner_worker.contract.times import Micros
from learner_worker.domain.outcomes import Cutoff
from learner_worker.operations.cutoffs import Cutoffs
from learner_worker.operations.import_differences import differences, not_counted
from learner_worker.operations.import_report import ReportedRows
from learner_worker.operations.import_staging import Staging, StandingRow
from tests.support import model

HOUR = 3_600_000_000
NOTHING_FORGOTTEN = Cutoffs(1, {}, None, {})
Row = tuple[str, str, int, str, int, int | None, int]
"""task, agent, sats, description, won, succeeded, hour"""


def staged(staging: Staging, rows: Iterable[Row]) -> Staging:
    """A staging with these rows."""
    staging.add(
        [
            (number, task, agent, sats, text, won, succeeded, f"1970-01-01 {hour:02}:00:00")
            for number, (task, agent, sats, text, won, succeeded, hour) in enumerate(rows)
        ]
    )
    staging.group()
    return staging


def facts_of(rows: Iterable[Row]) -> list[Fact]:
    """The facts that an import of these rows makes."""
    with Staging.open() as staging:
        found = [row for of_task in staged(staging, rows).tasks() for row in of_task]
    facts = []
    for row in found:
        close = Close(row.closed_at, row.winner, row.winning_bid_sats)
        facts.append(
            Fact(row.task_id, row.agent_id, close, Bid(row.placed_at, row.bid_sats, row.description))
        )
        if row.winner == row.agent_id and row.succeeded is not None:
            result = Result(row.closed_at, bool(row.succeeded))
            facts.append(Fact(row.task_id, row.agent_id, result=result))
    return facts


def found_between(
    before: Iterable[Row], after: Iterable[Row], cutoffs: Cutoffs = NOTHING_FORGOTTEN
) -> list[ReportedRows]:
    """What an import of `after` reports when `before` was imported first."""
    return found_against(facts_of(before), after, cutoffs)


def found_against(
    facts: Iterable[Fact], after: Iterable[Row], cutoffs: Cutoffs = NOTHING_FORGOTTEN
) -> list[ReportedRows]:
    """What an import of `after` reports when the changelog holds these facts."""
    with Staging.open() as staging:
        staged(staging, after)
        staging.add_facts((fact.task_id, fact.agent_id, encode_fact(fact)[1]) for fact in facts)
        return differences(staging, cutoffs)


def row(sats: int = 10, *, text: str = "", won: int = 1, succeeded: int | None = 1, hour: int = 1) -> Row:
    """A row of the agent `a` in the task `t`."""
    return ("t", "a", sats, text, won, succeeded, hour)


def test_the_same_file_again_differs_in_nothing() -> None:
    """Wins, losses, results, nobody's tasks."""
    rows: list[Row] = [row(), ("t", "b", 20, "x", 0, None, 2), ("u", "b", 20, "x", 0, None, 2)]
    assert found_between(rows, rows) == []


@pytest.mark.parametrize(
    ("before", "after", "reason", "example"),
    [
        (
            row(succeeded=1),
            row(succeeded=0),
            "result_flipped",
            "completed at 1970-01-01T01:00:00.000000Z, in the file failed at 1970-01-01T01:00:00.000000Z",
        ),
        (
            row(succeeded=0),
            row(succeeded=1),
            "result_flipped",
            "failed at 1970-01-01T01:00:00.000000Z, in the file completed at 1970-01-01T01:00:00.000000Z",
        ),
        (
            row(succeeded=0),
            row(succeeded=None),
            "result",
            "failed at 1970-01-01T01:00:00.000000Z, in the file no result",
        ),
        (row(won=0), row(won=1), "close", "won by nobody, in the file won by a with 10 sats"),
        (row(9, won=0, succeeded=None), row(10, won=0, succeeded=None), "bid", None),
        (row(won=1, succeeded=None, hour=3), row(won=0, succeeded=None, hour=2), "close", None),
    ],
)
def test_what_stands_against_the_file_is_said(
    before: Row, after: Row, reason: str, example: str | None
) -> None:
    """The reason, the task and the agent, and both sides."""
    findings = {finding.reason: finding for finding in found_between([before], [after])}
    assert findings[reason].rows == 1
    (said,) = findings[reason].examples
    assert said.startswith("task t, agent a: ")
    if example is not None:
        assert said == f"task t, agent a: {example}"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (row(won=1), row(won=0)),
        (row(10, won=0), row(9, won=0)),
        (row(succeeded=None), row(succeeded=0)),
        (row(succeeded=0), row(succeeded=1, hour=2)),
        (row(won=1, hour=2), row(won=0, hour=3)),
    ],
)
def test_what_the_file_corrects_is_not_said(before: Row, after: Row) -> None:
    """Later, or as late and first in the contract's order."""
    assert found_between([before], [after]) == []


_version = st.tuples(
    st.integers(1, 3), st.sampled_from(["", "parse"]), st.sampled_from([None, 0, 1]), st.integers(1, 3)
)
_versions = st.tuples(st.tuples(_version, _version), st.sampled_from([None, 0, 1]))


@given(_versions, _versions)
def test_exactly_what_does_not_end_as_the_file_says_is_reported(before: Any, after: Any) -> None:
    """Two versions of a task with two bidders: the model of the contract over the events of both imports."""
    earlier, later = rows_of(before), rows_of(after)
    together = model.outcomes([*events_of(earlier), *events_of(later)])
    alone = model.outcomes(events_of(later))
    wrong = {agent for agent in ("a", "b") if _bid_of(alone, agent) != _bid_of(together, agent)}
    findings = found_between(earlier, later)
    said = {finding.reason: _agents_in(finding) for finding in findings}
    flipped = said.pop("result_flipped", set())
    assert set().union(*said.values()) | (flipped & wrong) == wrong


def _agents_in(finding: ReportedRows) -> set[str]:
    return {example.removeprefix("task t, agent ").split(":")[0] for example in finding.examples}


def _bid_of(outcomes: Mapping[tuple[str, str], model.Outcome], agent: str) -> tuple[Any, ...]:
    """All that a file says of an agent's bid but the times."""
    winners = [(name, outcome.bid_sats) for (_, name), outcome in outcomes.items() if outcome.won]
    outcome = outcomes["t", agent]
    return (winners, outcome.bid_sats, outcome.description, outcome.succeeded)


def rows_of(version: Any) -> list[Row]:
    """A task's rows: of two bidders the one with this number won, or nobody."""
    bids, winner = version
    return [
        ("t", agent, sats, text, int(winner == number), succeeded if winner == number else None, hour)
        for number, (agent, (sats, text, succeeded, hour)) in enumerate(zip("ab", bids, strict=True))
    ]


def events_of(rows: Sequence[Row]) -> list[model.Event]:
    """The events that the contract of the import names for these rows."""
    closed_at = max(hour for *_, hour in rows) * HOUR
    bids: list[model.Event] = [
        model.BidPlaced(task, agent, sats, text, hour * HOUR) for task, agent, sats, text, _, _, hour in rows
    ]
    winners = [found for found in rows if found[4]]
    if not winners:
        return [*bids, model.AuctionClosed("t", None, None, closed_at)]
    ((_, agent, sats, _, _, succeeded, _),) = winners
    close = model.AuctionClosed("t", agent, sats, closed_at)
    results = [] if succeeded is None else [model.TaskFinished("t", agent, bool(succeeded), closed_at)]
    return [*bids, close, *results]


def test_facts_of_others_and_of_tasks_that_the_file_does_not_have_are_passed_over() -> None:
    """The changelog may hold much more than the file."""
    close = Close(Micros(5 * HOUR), AgentId("z"), 3)
    others = [Fact(TaskId("t"), AgentId("z"), close), Fact(TaskId("u"), AgentId("a"), close)]
    assert found_against(others, [row()]) == []


def test_what_is_forgotten_stands_against_nothing() -> None:
    """A result before the cutoff, or of a forgotten agent, is as if it had never been."""
    before, after = row(succeeded=0, hour=1), row(succeeded=1, hour=1)
    passed = Cutoff(Micros(2 * HOUR), Micros(2 * HOUR))
    for cutoffs in (
        Cutoffs(1, {ShardId(0): passed}, None, {}),
        Cutoffs(1, {}, passed, {}),
        Cutoffs(1, {}, None, {AgentId("a"): Micros(HOUR)}),
    ):
        assert found_between([before], [after], cutoffs) == []


def test_why_a_row_will_not_count() -> None:
    """Its close or its bid is before the cutoff of its shard, or the agent is forgotten until later."""
    found = StandingRow(TaskId("t"), AgentId("a"), 1, "", Micros(2), Micros(4), None, None, None)
    assert not_counted(found, NOTHING_FORGOTTEN) is None
    assert not_counted(found, Cutoffs(1, {}, Cutoff(Micros(4), Micros(2)), {})) is None
    assert not_counted(found, Cutoffs(1, {}, Cutoff(Micros(5), Micros(2)), {})) == "retention"
    assert not_counted(found, Cutoffs(1, {}, Cutoff(Micros(4), Micros(3)), {})) == "retention"
    assert not_counted(found, Cutoffs(1, {ShardId(0): Cutoff(Micros(5), Micros(1))}, None, {})) == "retention"
    assert not_counted(found, Cutoffs(1, {}, None, {AgentId("a"): Micros(2)})) == "forgotten"
    assert not_counted(found, Cutoffs(1, {}, None, {AgentId("a"): Micros(1)})) is None
