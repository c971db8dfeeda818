"""A row of `task_outcomes` becomes events, or says why not."""

import sqlite3
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.times import parse_time
from learner_worker.operations.swarm_rows import COLUMNS, REASONS, Refusal, SwarmRow, read_row, sqlite_micros
from tests.support.seed import BAD_VALUES

GOOD = (7, "t-1", "echo", 100, "parse invoices", 1, 1, "2025-03-01 12:00:00")
_parts = st.tuples(
    st.dates().map(str),
    st.sampled_from([" ", "T"]),
    st.times().map(lambda time: time.strftime("%H:%M:%S")),
    st.sampled_from([5, 8]),
    st.sampled_from(["", ".5", ".250"]),
    st.sampled_from(["", "Z", "+00:00", "+05:30", "-11:00", " +01:00"]),
)


NOON = parse_time("2025-03-01T12:00:00Z")


def with_value(column: str, value: object) -> tuple[object, ...]:
    """A good row but for one value."""
    place = COLUMNS.index(column)
    return (*GOOD[:place], value, *GOOD[place + 1 :])


def test_a_good_row_is_read_with_the_types_of_the_contract() -> None:
    """Flags become booleans, the time microseconds in UTC."""
    assert read_row(GOOD) == SwarmRow(
        7, TaskId("t-1"), AgentId("echo"), 100, "parse invoices", True, True, NOON
    )


@pytest.mark.parametrize(
    ("column", "value"), [(name, bad) for name, (_, all_) in BAD_VALUES.items() for bad in all_]
)
def test_every_bad_value_is_refused_by_its_column(column: str, value: object) -> None:
    """The reason names the column, and the value is kept for the report."""
    refusal = read_row(with_value(column, value))
    assert isinstance(refusal, Refusal)
    assert (refusal.id, refusal.reason, refusal.value) == (7, column, value)
    assert refusal.reason in REASONS


def test_limits_of_the_contract_are_still_taken() -> None:
    """256 characters of four bytes, 16,384 of description, 2^53-1 sats, no sats at all."""
    read = read_row((1, "🤖" * 256, "é" * 256, 2**53 - 1, "x" * 16_384, 0, None, "1970-01-01"))
    assert isinstance(read, SwarmRow)
    assert read.placed_at == 0
    free = read_row(with_value("bid_sats", 0))
    assert isinstance(free, SwarmRow)
    assert free.bid_sats == 0


def test_a_null_description_is_an_empty_one() -> None:
    """It has no keywords either way."""
    read = read_row(with_value("description", None))
    assert isinstance(read, SwarmRow)
    assert read.description == ""


@pytest.mark.parametrize("result", [0, 1, None, "yes", 5])
def test_a_result_counts_for_the_winner_only(result: object) -> None:
    """Whatever stands in a lost bid's row."""
    read = read_row((*GOOD[:5], 0, result, GOOD[7]))
    assert isinstance(read, SwarmRow)
    assert (read.won, read.succeeded) == (False, None)


@pytest.mark.parametrize(
    ("won", "doubtful"), [(0, None), (1, "t-1"), (None, "t-1"), (2, "t-1"), ("0", "t-1")]
)
def test_a_refused_row_makes_its_task_doubtful_unless_it_is_a_lost_bid(won: object, doubtful: object) -> None:
    """It may have been the winner's."""
    refusal = read_row((7, "t-1", "echo", -1, "", won, None, GOOD[7]))
    assert isinstance(refusal, Refusal)
    assert refusal.doubtful_task == doubtful


@given(_parts)
def test_times_are_those_of_sqlites_own_functions(parts: tuple[str, str, str, int, str, str]) -> None:
    """With seconds or without, a fraction, an offset; as fine as SQLite's are."""
    date, between, time, length, fraction, offset = parts
    text = f"{date}{between}{time[:length]}{fraction if length == 8 else ''}{offset}"
    with closing(sqlite3.connect(":memory:")) as connection:
        ((by_sqlite,),) = connection.execute(
            "SELECT CAST(round((julianday(?) - 2440587.5) * 86400000) AS INTEGER)", (text,)
        )
    found = sqlite_micros(text)
    if found is None:
        assert not 0 <= by_sqlite < parse_time("9998-12-31T23:59:59Z") // 1000
    else:
        assert found == by_sqlite * 1000


@pytest.mark.parametrize(
    "text",
    [
        *("", "now", "12:00", "2025-3-1", "2025-02-30", "2025-03-01 24:00:00", "2025-03-01 12", "20250301"),
        *(
            "2016-12-31 23:59:60",
            "2025-03-01 12:00:00 UTC",
            "2025-03-01 12:00:00\n",
            " 2025-03-01",
            "2460736.5",
        ),
        *(
            "9999-01-01 00:00:00",
            "1970-01-01 00:00:00+00:01",
            "٢٠٢٥-03-01 12:00:00",
            None,
            5,
            1.5,
            b"2025-03-01",
        ),
    ],
)
def test_what_names_no_moment_of_these_years_is_no_time(text: object) -> None:
    """Also where SQLite would make something of it that depends on the day it is read."""
    assert sqlite_micros(text) is None
