"""The parts of the fault harness that judge: each is shown to notice what it is there for."""

import contextlib
import dataclasses
import json
import sqlite3
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from learner_worker.contract.facts import encode_fact
from learner_worker.contract.topics import Topics
from tests.programs.chaos import faults, load
from tests.programs.chaos.group import generation_in
from tests.programs.chaos.judge import Verdict, expected_outcomes
from tests.programs.chaos.prober import Asked, Prober, longest_gap, problems_of
from tests.programs.chaos.sections import WORLDS, failing_seeds, seeds_of_worlds
from tests.programs.chaos.table import Row
from tests.programs.chaos.wal import unfinished_frames
from tests.simulation import checks
from tests.simulation.ablation import Without
from tests.simulation.log import Entry
from tests.support import model

# --- write-ahead logs ------------------------------------------------------------------------------------


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A database whose pages do not fit into its cache, so that a transaction spills into the log."""
    with contextlib.closing(sqlite3.connect(tmp_path / "file", isolation_level=None)) as connection:
        for pragma in ("journal_mode = WAL", "cache_size = 5", "wal_autocheckpoint = 0"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("CREATE TABLE numbers (number INTEGER, text TEXT)")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        yield connection


def _fill(connection: sqlite3.Connection, rows: int) -> None:
    connection.executemany("INSERT INTO numbers VALUES (?, ?)", ((row, "x" * 500) for row in range(rows)))


def _frames(tmp_path: Path) -> int:
    return unfinished_frames(tmp_path / "file-wal")


def test_a_transaction_in_the_middle_leaves_unfinished_frames(
    database: sqlite3.Connection, tmp_path: Path
) -> None:
    """Frames behind the last commit are counted while it is open, and none once it is committed."""
    database.execute("BEGIN")
    _fill(database, 1_000)
    assert _frames(tmp_path) > 10
    database.execute("COMMIT")
    assert _frames(tmp_path) == 0


def test_what_a_rollback_left_in_the_log_is_no_open_transaction(
    database: sqlite3.Connection, tmp_path: Path
) -> None:
    """Frames of a transaction that was rolled back stay in the file; a commit over them ends the chain."""
    database.execute("BEGIN")
    _fill(database, 1_000)
    database.execute("ROLLBACK")
    _fill(database, 1)
    assert _frames(tmp_path) == 0


def test_frames_of_an_earlier_log_are_no_open_transaction(
    database: sqlite3.Connection, tmp_path: Path
) -> None:
    """After a checkpoint the log starts over with other salts: what lies behind is not of this one."""
    _fill(database, 100)
    database.execute("PRAGMA wal_checkpoint(RESTART)")
    _fill(database, 1)
    assert _frames(tmp_path) == 0


def test_a_torn_log_ends_where_it_is_torn(database: sqlite3.Connection, tmp_path: Path) -> None:
    """Half a frame at the end does not count, nor do frames behind a damaged one."""
    database.execute("BEGIN")
    _fill(database, 1_000)
    frames = _frames(tmp_path)
    whole = (tmp_path / "file-wal").read_bytes()[: 32 + frames * (24 + 4_096)]
    torn = tmp_path / "torn"
    for end in (b"", bytes(100)):
        torn.write_bytes(whole[:-100] + end)
        assert unfinished_frames(torn) == frames - 1


def test_no_log_holds_no_transaction(tmp_path: Path) -> None:
    """A missing and an empty log: nothing unfinished."""
    (tmp_path / "empty").touch()
    assert [unfinished_frames(tmp_path / name) for name in ("missing", "empty")] == [0, 0]


# --- the load --------------------------------------------------------------------------------------------


def test_a_block_is_delivered_whole_out_of_order_and_a_fifth_of_it_twice() -> None:
    """Delivery changes the order and repeats a fifth, and loses nothing."""
    events, delivered = load.block_events(1, 3), load.delivery(1, 3)
    assert set(delivered) == set(events)
    assert len(delivered) == len(events) + round(0.2 * len(events))
    assert list(dict.fromkeys(delivered)) != events


def test_what_was_preloaded_is_judged_as_what_its_facts_amount_to() -> None:
    """The facts that are written, folded by the judge, are the outcomes that are expected of them."""
    facts = map(encode_fact, load.past_facts(2_000))
    entries = [Entry("", 0, offset, 0, key, value) for offset, (key, value) in enumerate(facts)]
    assert load.past_outcomes(2_000) == checks.counted(checks.join_facts(entries))
    assert len(load.past_outcomes(2_000)) == 2_000


def test_judging_block_by_block_is_judging_everything_at_once() -> None:
    """No task has events in two blocks, so the blocks' outcomes together are the history's."""
    blocks = [load.block_events(2, block) for block in range(5)]
    assert expected_outcomes(blocks) == model.outcomes([event for block in blocks for event in block])


# --- the prober ------------------------------------------------------------------------------------------

_ASKED = Asked(
    shard=1,
    agent_id="a",
    base_bid_sats=1_000,
    description="parse invoices",
    asked_at=0.0,
    deadline=10.0,
    known_as_of=None,
)


def _reply(**changes: Any) -> dict[str, Any]:
    """A right answer for an agent that wins too easily and is good at this."""
    return {
        "request_id": "1-1",
        "agent_id": "a",
        "base_bid_sats": 1_000,
        "suggested_bid_sats": 1_035,
        "factor": 1.15 * 0.9,
        "adjustments": [
            {"rule": "win_rate_high", "multiplier": 1.15},
            {"rule": "keywords_proven", "multiplier": 0.9},
        ],
        "metrics": {
            "total_bids": 4,
            "auctions_won": 4,
            "tasks_completed": 1,
            "tasks_failed": 0,
            "win_rate": 1.0,
            "success_rate": 1.0,
            "avg_winning_bid_sats": 5.0,
        },
        "learned_keywords": [{"keyword": "parse", "wins": 2, "failures": 0, "net": 2}],
        "stale": False,
        **changes,
    }


def _counts(**changes: Any) -> dict[str, Any]:
    return {"metrics": {**_reply()["metrics"], **changes}}


@pytest.mark.parametrize(
    ("changes", "problems"),
    [
        ({}, 0),
        ({"request_id": "1-2"}, 1),
        ({"agent_id": "b"}, 1),
        ({"base_bid_sats": 1_001}, 1),
        ({"suggested_bid_sats": 1_034}, 1),
        ({"factor": 1.0}, 1),
        ({"adjustments": []}, 1),
        ({"learned_keywords": []}, 1),
        ({"stale": True}, 1),
        (_counts(win_rate=0.9), 1),
        (_counts(success_rate=0.0), 1),
    ],
)
def test_a_wrong_reply_is_noticed(changes: dict[str, Any], problems: int) -> None:
    """Who was asked, the base bid, and whatever does not follow from the metrics shown."""
    assert len(list(problems_of(_reply(**changes), _ASKED, "1-1"))) == problems


def test_the_longest_gap_touches_the_fault() -> None:
    """A gap counts from the last answer before the fault to the first after it, never one far away."""
    times = [0.0, 1.0, 2.0, 9.0, 10.0, 30.0]
    assert longest_gap(times, 3.0, 8.0) == 7.0
    assert longest_gap(times, 1.5, 2.5) == 7.0
    assert longest_gap(times, 0.5, 1.5) == 1.0
    assert longest_gap([], 1.0, 5.0) == 4.0


def test_a_reply_from_an_older_state_is_noticed() -> None:
    """A request made after a newer answer was read must not be answered from before that."""
    prober = Prober("localhost:1", Topics().named(), partitions=2, asks_a_second=1, deadline_seconds=10)
    newer, older = "2026-01-01T00:00:02Z", "2026-01-01T00:00:01Z"
    first, second = dataclasses.replace(_ASKED, asked_at=time.monotonic()), dataclasses.replace(_ASKED)
    prober.note_as_of({"as_of": newer}, first)
    second.known_as_of = prober.newest_as_of["a"]
    prober.note_as_of({"as_of": older}, second)
    assert (first.older, second.older) == (False, True)


# --- the judge -------------------------------------------------------------------------------------------


def test_the_verdict_counts_lost_doubled_and_different_outcomes() -> None:
    """One missing, one too many, one that differs."""
    expected = expected_outcomes([load.block_events(1, 0)])
    first, second, *_ = expected
    found = {**expected, ("nobody's", "agent"): expected[first]}
    del found[first]
    found[second] = dataclasses.replace(expected[second], closed_at=0)
    verdict = Verdict()
    verdict.compare("here", expected, expected)
    assert (verdict.lost, verdict.duplicated, verdict.failures) == (set(), set(), [])
    for place in ("the file", "the changelog"):
        verdict.compare(place, found, expected)
    assert (verdict.lost, verdict.duplicated) == ({first}, {("nobody's", "agent")})
    assert len(verdict.failures) == 6


def test_a_row_with_a_failure_does_not_hold() -> None:
    """Each count and each failure alone makes the run fail."""
    assert Row("fault", 1).holds
    assert Row("fault", 1, lost=0, duplicated=0, wrong=0).holds
    assert not Row("fault", 1, lost=1).holds
    assert not Row("fault", 1, duplicated=1).holds
    assert not Row("fault", 1, wrong=1).holds
    assert not Row("fault", 1, failures=["broke off"]).holds
    assert json.dumps(Row("fault", 1, silent_seconds=[1.5]).as_json())


# --- the simulation --------------------------------------------------------------------------------------


def test_the_seeds_are_shared_among_all_kinds_of_worlds() -> None:
    """Three of five are plain, and none is lost on the way."""
    assert list(seeds_of_worlds(20_000).values()) == [12_000, 4_000, 4_000]
    assert list(seeds_of_worlds(9).values()) == [7, 1, 1]
    assert list(seeds_of_worlds(1).values()) == [1, 0, 0]


@pytest.mark.parametrize(
    ("kind", "safeguard"),
    [
        ("with a retention", "the cutoff in the file"),
        ("with forgotten agents", "a marker's key names its moment"),
    ],
)
def test_each_kind_of_world_is_what_it_is_called(kind: str, safeguard: str) -> None:
    """Without a safeguard that only one kind needs, only seeds of that kind fail, and say which they are."""
    with Without(safeguard):
        found = {name: failing_seeds(name, range(4)) for name in WORLDS}
    assert {name: bool(failing) for name, failing in found.items()} == {name: name == kind for name in WORLDS}
    assert all(f", {kind}: " in failing for failing in found[kind])


# --- Kafka away ------------------------------------------------------------------------------------------


def test_a_log_that_does_not_say_an_outage_once_is_noticed() -> None:
    """Once each holds; never, or again and again, does not."""
    assert faults.unsaid("one", {"kafka.away": 1, "kafka.back": 1}) == []
    assert len(faults.unsaid("one", {"kafka.away": 2, "kafka.back": 1})) == 1
    assert len(faults.unsaid("one", {"kafka.away": 1, "kafka.back": 0})) == 1


# --- groups and shares -----------------------------------------------------------------------------------


def test_the_generation_is_read_from_both_formats_of_a_groups_record() -> None:
    """Before and since compact strings came."""
    old = struct.pack(">hh", 3, 8) + b"consumer" + struct.pack(">i", 7) + b"rest"
    new = struct.pack(">hb", 4, 9) + b"consumer" + struct.pack(">i", 8) + b"rest"
    assert [generation_in(old), generation_in(new)] == [7, 8]


@pytest.mark.parametrize(
    ("before", "after", "least"),
    [
        ("aabb", "aabc", 1),
        ("aaabbb", "aabbcc", 2),
        ("aabbcc", "aaabbb", 2),
        ("aabb", "aaaa", 2),
        ("ab", "ba", 0),
    ],
)
def test_the_fewest_shards_that_have_to_move(before: str, after: str, least: int) -> None:
    """Even shares for the owners after, kept from the owners before."""
    assert faults.least_moves(dict(enumerate(before)), dict(enumerate(after))) == least
