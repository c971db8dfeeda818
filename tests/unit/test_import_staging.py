"""Rows that come in any order leave task by task, and what does not stand is refused and counted."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner_worker.errors import StateError
from learner_worker.operations import import_statements
from learner_worker.operations.import_staging import Staging, StandingRow

HOUR = 3_600_000_000
NAMES = ("a", "b", "é", "🤖")


def raw(
    number: Any,
    task: str,
    agent: str,
    *,
    sats: int = 100,
    won: int = 0,
    succeeded: int | None = None,
    hour: int = 0,
) -> tuple[Any, ...]:
    """A row as it is read."""
    return (number, task, agent, sats, "parse", won, succeeded, f"1970-01-01 {hour:02}:00:00")


def grouped(rows: Sequence[tuple[Any, ...]]) -> tuple[list[list[StandingRow]], dict[str, int]]:
    """The tasks, and the count of refused rows by reason."""
    with Staging.open() as staging:
        staging.add(rows)
        staging.group()
        tasks = [list(of_task) for of_task in staging.tasks()]
        refused = {finding.reason: finding.rows for finding in staging.refused()}
        totals = staging.totals()
    closes = [of_task[0] for of_task in tasks]
    results = [row for row in closes if row.succeeded is not None]
    assert totals == (len(rows), sum(map(len, tasks)), len(tasks), len(results))
    assert sum(refused.values()) + totals.bids == totals.rows
    return tasks, refused


def test_a_task_closes_with_its_winner_at_the_latest_time_of_its_rows() -> None:
    """The winner's bid is the winning bid; the result is the winner's."""
    rows = [
        raw(1, "t-1", "a", sats=90, won=1, succeeded=0, hour=2),
        raw(2, "t-2", "a", hour=9),
        raw(3, "t-1", "b", sats=80, hour=5),
    ]
    (first, second), refused = grouped(rows)
    assert first == [
        ("t-1", "a", 90, "parse", 2 * HOUR, 5 * HOUR, "a", 90, 0),
        ("t-1", "b", 80, "parse", 0 + 5 * HOUR, 5 * HOUR, "a", 90, 0),
    ]
    assert second == [("t-2", "a", 100, "parse", 9 * HOUR, 9 * HOUR, None, None, None)]
    assert refused == {}


def test_of_a_row_twice_the_last_stands_whatever_its_time() -> None:
    """The earlier one still says when the auction was open: its time counts for the close."""
    rows = [raw(1, "t-1", "a", sats=5, won=1, hour=7), raw(2, "t-1", "a", sats=6, hour=3), raw(3, "t-1", "b")]
    ((first, second),), refused = grouped(rows)
    assert (first.bid_sats, first.winner, first.closed_at) == (6, None, 7 * HOUR)
    assert second.agent_id == "b"
    assert refused == {"replaced": 1}


def test_a_win_that_a_later_row_takes_back_leaves_one_winner() -> None:
    """Two agents have won rows, but only one of them still stands."""
    rows = [raw(1, "t-1", "a", won=1), raw(2, "t-1", "a"), raw(3, "t-1", "b", won=1)]
    ((first, _),), refused = grouped(rows)
    assert first.winner == "b"
    assert refused == {"replaced": 1}


def test_a_task_with_two_winners_is_left_out_whole() -> None:
    """Who of them won is not known; the other tasks go on."""
    rows = [raw(1, "t-1", "a", won=1), raw(2, "t-1", "b", won=1), raw(3, "t-1", "c"), raw(4, "t-2", "c")]
    tasks, refused = grouped(rows)
    assert [of_task[0].task_id for of_task in tasks] == ["t-2"]
    assert refused == {"two_winners": 3}


def test_a_task_whose_winner_was_refused_is_left_out_whole() -> None:
    """A close that says that nobody won would stand against the corrected file."""
    rows = [
        raw(1, "t-1", "a", won=1, sats=-1),
        raw(2, "t-1", "b"),
        raw(3, "t-2", "a", sats=-1),
        raw(4, "t-2", "b"),
    ]
    tasks, refused = grouped(rows)
    assert [[row.agent_id for row in of_task] for of_task in tasks] == [["b"]]
    assert refused == {"bid_sats": 2, "winner_refused": 1}


def test_examples_name_rows_and_values() -> None:
    """Five of each kind, in one line, whatever the value is."""
    with Staging.open() as staging:
        staging.add([raw(f"\udcff{number}", "t-1", "a", sats=-number) for number in range(1, 9)])
        staging.add([raw(1, "t-2", "a", won=1), raw(2, "t-2", "b", won=1)])
        staging.group()
        bids, winners = staging.refused()
    assert (bids.rows, bids.examples[0]) == (8, "id '\\udcff1': bid_sats is -1")
    assert len(bids.examples) == 5
    assert winners.examples == ["id 1: task t-2", "id 2: task t-2"]


_rows = st.lists(
    st.tuples(
        st.sampled_from(NAMES),
        st.sampled_from(NAMES),
        st.integers(-1, 3),
        st.sampled_from([0, 0, 0, 1]),
        st.integers(0, 9),
    ),
    max_size=25,
)


@given(_rows)
def test_any_rows_are_grouped_as_by_hand(found: list[tuple[str, str, int, int, int]]) -> None:
    """Beside a fold over dictionaries, with repeated rows, several winners and refused ones."""
    rows = [
        raw(number, task, agent, sats=sats, won=won, hour=hour)
        for number, (task, agent, sats, won, hour) in enumerate(found)
    ]
    tasks, refused = grouped(rows)
    expected, reasons = by_hand(found)
    assert {of_task[0].task_id: of_task for of_task in map(sorted, tasks)} == expected
    assert refused == reasons


def by_hand(
    found: list[tuple[str, str, int, int, int]],
) -> tuple[dict[str, list[tuple[Any, ...]]], Counter[str]]:
    """What stands of each task, and what is refused."""
    reasons: Counter[str] = Counter()
    standing: dict[str, dict[str, tuple[int, int, int]]] = {}
    closed: dict[str, int] = {}
    doubtful = {task for task, _, sats, won, _ in found if sats < 0 and won}
    for task, agent, sats, won, hour in found:
        if sats < 0:
            reasons["bid_sats"] += 1
            continue
        reasons["replaced"] += agent in standing.setdefault(task, {})
        standing[task][agent] = (sats, won, hour)
        closed[task] = max(closed.get(task, 0), hour)
    expected = {}
    for task, rows in standing.items():
        winners = sorted(agent for agent, (_, won, _) in rows.items() if won)
        if task in doubtful:
            reasons["winner_refused"] += len(rows)
        elif len(winners) > 1:
            reasons["two_winners"] += len(rows)
        else:
            expected[task] = list(_standing(task, rows, closed[task], winners))
    return expected, +reasons


def _standing(
    task: str, rows: dict[str, tuple[int, int, int]], closed: int, winners: list[str]
) -> Iterator[tuple[Any, ...]]:
    winner = winners[0] if winners else None
    winning_sats = rows[winner][0] if winner is not None else None
    for agent, (sats, _, hour) in sorted(rows.items()):
        yield (task, agent, sats, "parse", hour * HOUR, closed * HOUR, winner, winning_sats, None)


def test_a_temporary_database_that_cannot_grow_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the setting that gives it room."""
    small = import_statements.PRAGMAS + "PRAGMA max_page_count = 20;"
    monkeypatch.setattr(import_statements, "PRAGMAS", small)
    with pytest.raises(StateError, match="SQLITE_TMPDIR"), Staging.open() as staging:
        staging.add([raw(number, f"t-{number}", "a") for number in range(10_000)])
