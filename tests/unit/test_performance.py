"""The bench's own arithmetic: readings, goals, progress, and the picture made of them."""

import os
import platform
import sqlite3
import subprocess
import sys
import uuid
import xml.etree.ElementTree as ET
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from learner_worker.contract.topics import Topics
from tests.programs.bench.bill_log import Log, fill
from tests.programs.bench.bill_pieces import Piece, processing
from tests.programs.bench.figures import Better, Figure, Goal
from tests.programs.bench.load import Auctions, Ids, mean_outcome, past_fact, task_id
from tests.programs.bench.peers_section import rate_said
from tests.programs.bench.picture import picture_of
from tests.programs.bench.processor import Used, descendants, used_by
from tests.programs.bench.progress import Course, Point, count_outcomes
from tests.programs.bench.readings import percentile, ratios, reading
from tests.programs.bench.report import BEGIN, END, details_of, header_of, quantity, write_page


@pytest.mark.parametrize(("percent", "expected"), [(50, 5), (90, 9), (99, 10), (100, 10), (1, 1)])
def test_percentile_is_the_smallest_sample_that_so_many_reach(percent: float, expected: float) -> None:
    """Nearest rank: always a sample that was measured."""
    assert percentile([7, 3, 9, 1, 5, 10, 2, 8, 4, 6], percent) == expected


def test_percentile_of_nothing_is_refused() -> None:
    """A side that answered nothing has no latency."""
    with pytest.raises(ValueError, match="no samples"):
        percentile([], 99)


def test_a_ratio_is_taken_turn_by_turn() -> None:
    """A machine that was slow in one turn was slow for both sides."""
    ours, beside = reading([10, 20, 30]), reading([20, 40, 60])

    assert ratios(ours, beside) == reading([0.5, 0.5, 0.5])


def test_nothing_is_any_number_of_times_as_much_as_nothing() -> None:
    """A floor of 0 is no floor: such turns say nothing, and without others there is no verdict."""
    goal = Goal(Better.MORE, 0.6)

    assert ratios(reading([5, 6]), reading([0, 3])) == reading([2])
    assert Figure("a", "b", "/s", reading([5]), reading([0]), goal=goal).verdict == "no reading"


def test_spread_is_half_the_range_as_a_share_of_the_median() -> None:
    """It reads: give or take."""
    assert reading([90, 100, 130]).spread == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("goal", "ours", "beside", "verdict"),
    [
        (Goal(Better.MORE, 0.4, 0.5), 39, 100, "missed"),
        (Goal(Better.MORE, 0.4, 0.5), 41, 100, "met"),
        (Goal(Better.MORE, 0.4, 0.5), 50, 100, "stretch"),
        (Goal(Better.LESS, 1.3, 1.15), 140, 100, "missed"),
        (Goal(Better.LESS, 1.3, 1.15), 120, 100, "met"),
        (Goal(Better.LESS, 1.3, 1.15), 110, 100, "stretch"),
        (Goal(Better.LESS, 25), 20, None, "met"),
        (None, 20, None, ""),
    ],
)
def test_verdict_says_whether_the_goal_is_met(
    goal: Goal | None, ours: float, beside: float | None, verdict: str
) -> None:
    """A goal is one of the ratio where something stands beside, else of the reading itself."""
    other = None if beside is None else reading([beside])

    assert Figure("section", "name", "ms", reading([ours]), other, goal=goal).verdict == verdict


def test_a_figure_without_a_reading_meets_nothing() -> None:
    """What could not be measured is said, never passed over."""
    figure = Figure("peers", "name", "/s", None, goal=Goal(Better.MORE, 2), failure="not installed")

    assert figure.verdict == "no reading"


def test_the_rate_leaves_out_start_and_end() -> None:
    """Ten slow seconds to start, ten even seconds of work, a slow end: the middle says how fast it is."""
    points = [Point(0, 0), Point(10, 5), Point(20, 95), Point(40, 100)]
    course = Course(0, points)

    assert course.rate() == pytest.approx(0.9 / 10)
    assert course.seconds == 40


def test_moments_lie_on_a_straight_line_between_two_looks() -> None:
    """Offsets are committed about once a second; in between progress is taken as even."""
    course = Course(100, [Point(100, 0), Point(110, 50), Point(120, 100)])

    assert [course.moment(share).at for share in (0.1, 0.5, 0.75)] == [102, 110, 115]


def test_processor_time_leaves_out_start_and_end() -> None:
    """An event's processor time is extrapolated from what was used between 5 and 95 % of the records."""
    points = [Point(0, 0), Point(1, 5, Used(loops=30)), Point(2, 95, Used(loops=39, others=18, broker=9))]
    course = Course(0, [*points, Point(3, 100, Used(loops=90, others=18, broker=9))])

    assert course.used() == pytest.approx(Used(loops=10, others=20, broker=10))


def test_what_was_read_before_the_watch_does_not_count() -> None:
    """A worker that was already running when the watch began has used some processor time before."""
    course = Course(0, [Point(0, 0, Used(loops=7)), Point(10, 100, Used(loops=17))])

    assert course.used() == pytest.approx(Used(loops=10))


def test_this_process_has_used_processor_time() -> None:
    """The processor time of this process is read, and a child of it is found."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert child.pid in descendants(os.getpid())
        used = used_by([os.getpid()], [child.pid])
        child.kill()

    assert used.loops > 0
    assert used.others >= 0


@pytest.mark.parametrize("ids", list(Ids))
def test_ids_of_tasks_are_uuids_in_the_order_asked_for(ids: Ids) -> None:
    """Each task has a UUID of its own, always the same; only the ascending ids are in order."""
    found = [task_id("task", number, ids) for number in range(1_000)]

    assert len(set(found)) == 1_000
    assert found == [task_id("task", number, ids) for number in range(1_000)]
    assert all(uuid.UUID(each).version == 4 for each in found)
    assert (found == sorted(found)) is (ids is Ids.ASCENDING)


@pytest.mark.parametrize("level", [Piece.STAGES, Piece.SHARDS, Piece.SUMS])
async def test_every_level_of_a_bill_processes_the_same_events(level: Piece) -> None:
    """Only metrics records are left to be read; a close that is read before its winner's bid adds a fact."""
    load, names = Auctions(30, 1_767_225_600_000_000), Topics().named()
    log = Log(decode=level.has(Piece.RECORDS))
    fill(log, load, names)

    async with processing(level, log, names) as process:
        await process()

    log.fetch()
    assert {place.topic for place in log.poll(load.events)} <= {names.metrics}
    assert load.facts <= log.appended(names.outcomes) <= load.facts + load.auctions


def test_the_header_names_the_interpreter_and_the_floors() -> None:
    """The header says which Python both sides ran on, how it was built, and the rates of the floors."""
    floor = Figure(
        "a", "b", "events/s", reading([5]), reading([100_000]), "raw: read", Goal(Better.MORE, 0.2)
    )

    interpreter_line, floors_line = header_of([floor, Figure("c", "d", "ms", reading([1]))])

    assert platform.python_version() in interpreter_line
    assert "PGO" in interpreter_line
    assert floors_line == "The floors on it: read 100,000 events/s."


def test_an_auction_has_ten_different_bidders() -> None:
    """So every bid is one outcome."""
    load = Auctions(1_000, 0)

    assert all(len({load.bidder(auction, place) for place in range(10)}) == 10 for auction in range(1_000))


def test_the_facts_of_a_changelog_are_all_different() -> None:
    """So a restore of so many records has to end in as many rows."""
    facts = [past_fact(number) for number in range(1_000)]

    assert len({(fact.task_id, fact.agent_id) for fact in facts}) == 1_000


def test_an_outcome_weighs_what_the_learner_writes() -> None:
    """The floor writes records of this size: a key and a value of JSON."""
    key_bytes, value_bytes = mean_outcome(Auctions(100, 1_767_225_600_000_000))

    assert 100 < key_bytes < 200 < value_bytes < 400


def test_the_picture_has_a_bar_for_each_figure_with_a_goal() -> None:
    """It is well-formed SVG; what was not measured is not drawn."""
    goal = Goal(Better.MORE, 0.4)
    figures = [
        Figure("a", "first <b>", "/s", reading([30]), reading([100]), "raw", goal),
        Figure("b", "second", "/s", reading([50]), reading([100]), "raw", goal),
        Figure("c", "for information", "/s", reading([50])),
        Figure("d", "failed", "/s", None, goal=goal, failure="why"),
    ]

    root = ET.fromstring(picture_of(figures, "title"))  # noqa: S314 (our own)

    bars = [float(bar.attrib["width"]) for bar in root.iter("{http://www.w3.org/2000/svg}rect")][1:]
    assert bars == [150, 200 * 1.25]
    assert all(shorter < longer for shorter, longer in pairwise(bars))


def test_sizes_are_told_once_a_section() -> None:
    """Two figures of one measurement have the same sizes."""
    figures = [Figure("a", name, "/s", reading([1]), sizes={"bids": 1_000_000}) for name in ("x", "y")]

    assert details_of(figures) == ["a: bids 1,000,000"]


def test_the_page_keeps_what_stands_around_the_marks(tmp_path: Path) -> None:
    """A second run replaces the first one's table, and nothing else."""
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    figure = Figure("a", "one|two", "/s", reading([30]), reading([100]), "raw", Goal(Better.MORE, 0.4))

    write_page(page, [figure], "first")
    write_page(page, [figure], "second")

    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n\nsecond.")
    assert text.endswith(f"{END}\nafter\n")
    assert "| a | one\\|two | 30 /s | 100 /s | raw | 0.3 | >= 0.4 | missed |" in text
    assert "first" not in text


def test_quantities_have_three_digits_and_their_spread() -> None:
    """More would be noise."""
    assert quantity(reading([1.2345]), "ms") == "1.23 ms"
    assert quantity(reading([9_000, 10_000, 11_000]), "events/s") == "10,000 events/s ±10%"


@pytest.mark.parametrize("frame", ["{}\n", "starting\n{}\nbye\n", "\x1b[?25l\x08\x1b[?25h{}\x1b[0m\n"])
def test_a_peers_rate_is_found_among_its_frameworks_words(frame: str) -> None:
    """Lines before and after it do not matter, nor codes for the terminal."""
    assert rate_said(frame.replace("{}", '{"rate": 1843.15, "events": 36000}')) == 1843.15


def test_a_peer_without_a_rate_is_an_error() -> None:
    """Its last words are in the message."""
    with pytest.raises(LookupError, match=r"no rate, at last .*Traceback"):
        rate_said("starting\nTraceback\n")


def test_a_shard_that_moved_to_another_process_counts_once(tmp_path: Path) -> None:
    """The process that had it first keeps a file of what it had learned by then."""
    for place, rows in {
        "process-0/shard-00000": 2,
        "process-1/shard-00000": 7,
        "process-1/shard-00001": 4,
    }.items():
        path = tmp_path / f"{place}.sqlite3"
        path.parent.mkdir(exist_ok=True)
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("CREATE TABLE outcomes (number INTEGER)")
            connection.executemany("INSERT INTO outcomes VALUES (?)", [(number,) for number in range(rows)])
    assert count_outcomes(tmp_path) == 7 + 4
