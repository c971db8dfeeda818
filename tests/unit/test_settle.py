"""settle: what it sends, how long it remembers, from where it would have to read again."""

import pytest

from learner_worker.contract.decode import Closed, Finished, Placed
from learner_worker.contract.facts import Bid, Close, Fact, Result, description_digest
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.times import Micros
from learner_worker.domain.auctions import AuctionState
from learner_worker.stages.settle import ExpiredTasks, Place, Settle, watermark_of

HORIZON = 100
A, B = AgentId("a"), AgentId("b")
T1, T2, T3 = TaskId("t1"), TaskId("t2"), TaskId("t3")
BIDS, CLOSES = "bid-placed", "auction-closed"


def new_settle(tolerance: int = 0) -> Settle:
    return Settle(tolerance_micros=tolerance, horizon_micros=HORIZON)


def place(offset: int, micros: int, topic: str = BIDS) -> Place:
    return Place(topic, offset, Micros(micros))


def bid(task_id: TaskId, agent_id: AgentId = A, at: int | None = None, sats: int = 7) -> Placed:
    return Placed(task_id, agent_id, sats, "d", None if at is None else Micros(at))


def close(
    task_id: TaskId, at: int | None = None, winner: AgentId | None = A, text: str | None = None
) -> Closed:
    return Closed(task_id, winner, None, None if at is None else Micros(at), text)


def result(task_id: TaskId, at: int | None = None) -> Finished:
    return Finished(task_id, A, succeeded=True, finished_at=None if at is None else Micros(at))


# --- facts ----------------------------------------------------------------------------------------


def test_events_become_facts() -> None:
    """A bid waits for its close, the close sends it, the result goes through at once."""
    settle = new_settle()

    assert settle.bid(bid(T1, at=5), place(0, 50)) == []
    assert [Fact(T1, A, Close(Micros(6), A), Bid(Micros(5), 7, "d"))] == settle.close(
        close(T1, 6), place(0, 60, CLOSES)
    )
    assert [Fact(T1, A, result=Result(Micros(8), succeeded=True))] == settle.result(
        result(T1, 8), place(0, 80)
    )


def test_a_missing_time_is_the_records_own() -> None:
    """Bids, closes and results without a time take their record's."""
    settle = new_settle()
    settle.bid(bid(T1), place(0, 50))

    assert [Fact(T1, A, Close(Micros(60), A), Bid(Micros(50), 7, "d"))] == settle.close(
        close(T1), place(0, 60, CLOSES)
    )
    assert [Fact(T1, A, result=Result(Micros(80), succeeded=True))] == settle.result(result(T1), place(0, 80))


def test_the_tolerance_is_the_settings() -> None:
    """A bid placed so long after the close still counts; a microsecond later it does not."""
    settle = new_settle(tolerance=3)
    settle.close(close(T1, 10, winner=None), place(0, 10, CLOSES))

    assert [Fact(T1, A, Close(Micros(10)), Bid(Micros(13), 7, "d"))] == settle.bid(
        bid(T1, A, 13), place(0, 13)
    )
    assert settle.bid(bid(T1, B, 14), place(1, 14)) == []


def test_a_closes_text_is_named_by_its_digest() -> None:
    """A close with a description carries the text's digest as its version, an empty text too."""
    settle = new_settle()

    assert [Fact(T1, A, Close(Micros(6), A, None, description_digest("x"), "x"))] == settle.close(
        close(T1, 6, text="x"), place(0, 60, CLOSES)
    )
    assert [Fact(T2, A, Close(Micros(6), A, None, description_digest(""), ""))] == settle.close(
        close(T2, 6, text=""), place(1, 60, CLOSES)
    )


def test_results_are_not_remembered() -> None:
    """A result leaves nothing behind: no task, no rewind offset, no row."""
    settle = new_settle()
    settle.result(result(T1, 8), place(3, 80, "task-finished"))

    assert (settle.remembered, settle.rewind_offset("task-finished", 9), settle.snapshot()) == (0, 9, {})


# --- forgetting -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("watermark", "forgotten", "remembered"),
    [
        (0, ExpiredTasks(0, 0), 3),
        (149, ExpiredTasks(0, 0), 3),
        (150, ExpiredTasks(0, 0), 3),
        (151, ExpiredTasks(1, 1), 2),
        (160, ExpiredTasks(1, 1), 2),
        (161, ExpiredTasks(2, 1), 1),
        (171, ExpiredTasks(3, 2), 0),
    ],
)
def test_a_task_is_forgotten_once_the_watermark_has_passed_its_horizon(
    watermark: int, forgotten: ExpiredTasks, remembered: int
) -> None:
    """First event plus horizon itself still remembers; open and closed tasks alike, told apart."""
    settle = new_settle()
    settle.bid(bid(T1), place(0, 50))
    settle.close(close(T2), place(0, 60, CLOSES))
    settle.bid(bid(T3), place(1, 70))

    assert forgotten == settle.expire_tasks(Micros(watermark))
    assert remembered == settle.remembered


def test_the_first_event_counts_not_the_last() -> None:
    """Later events of a task do not make it live longer."""
    settle = new_settle()
    settle.bid(bid(T1), place(0, 50))
    settle.close(close(T1), place(0, 149, CLOSES))

    assert ExpiredTasks(1, 0) == settle.expire_tasks(Micros(151))


def test_tasks_are_forgotten_by_age_not_by_arrival() -> None:
    """A task that arrived later with an older record time goes first."""
    settle = new_settle()
    settle.bid(bid(T1), place(0, 80))
    settle.bid(bid(T2), place(1, 50))

    assert ExpiredTasks(1, 1) == settle.expire_tasks(Micros(151))
    assert {T1} == {task_id for task_id, state in settle.snapshot().items() if state is not None}


def test_a_forgotten_task_begins_anew() -> None:
    """An event after the horizon opens the task again, with an age and an offset of its own."""
    settle = new_settle()
    settle.bid(bid(T1), place(0, 50))
    settle.expire_tasks(Micros(151))
    settle.bid(bid(T1, at=170), place(7, 170))

    assert (settle.remembered, settle.rewind_offset(BIDS, 8)) == (1, 7)
    assert ExpiredTasks(0, 0) == settle.expire_tasks(Micros(270))
    assert ExpiredTasks(1, 1) == settle.expire_tasks(Micros(271))


@pytest.mark.parametrize(
    ("sources", "expected"),
    [([], None), ([5], 5), ([5, 3, 4], 3), ([5, None, 4], None), ([None], None), ([0, 7], 0)],
)
def test_the_watermark_is_the_slowest_sources(sources: list[Micros | None], expected: int | None) -> None:
    """The smallest of all sources' times; unknown while one of them is unknown."""
    assert expected == watermark_of(sources)


# --- rewind offsets -------------------------------------------------------------------------------


def test_the_rewind_offset_is_the_smallest_of_any_remembered_task() -> None:
    """Per topic: the first event of the oldest task that is still remembered, else the position."""
    settle = new_settle()
    assert settle.rewind_offset(BIDS, 4) == 4
    settle.bid(bid(T1), place(4, 50))
    settle.bid(bid(T2), place(5, 60))
    settle.bid(bid(T1, B), place(6, 70))
    settle.close(close(T2), place(9, 70, CLOSES))

    assert (
        settle.rewind_offset(BIDS, 7),
        settle.rewind_offset(CLOSES, 10),
        settle.rewind_offset("learner-rerouted", 2),
    ) == (4, 9, 2)
    settle.expire_tasks(Micros(151))
    assert (settle.rewind_offset(BIDS, 7), settle.rewind_offset(CLOSES, 10)) == (5, 9)
    settle.expire_tasks(Micros(161))
    assert (settle.rewind_offset(BIDS, 7), settle.rewind_offset(CLOSES, 10)) == (7, 10)


def test_the_rewind_offset_is_never_past_the_position() -> None:
    """A task from a topic's earlier life does not point beyond the position."""
    settle = new_settle()
    settle.bid(bid(T1), place(40, 50))

    assert settle.rewind_offset(BIDS, 3) == 3


def test_a_task_forgotten_out_of_order_does_not_hide_an_older_offset() -> None:
    """The younger offset may go first; the older one keeps the rewind back, and the reverse."""
    settle = new_settle()
    settle.bid(bid(T1), place(4, 80))
    settle.bid(bid(T2), place(5, 50))
    settle.bid(bid(T3), place(6, 90))
    settle.expire_tasks(Micros(151))
    assert settle.rewind_offset(BIDS, 7) == 4
    settle.expire_tasks(Micros(181))
    assert settle.rewind_offset(BIDS, 7) == 6


def test_rewind_offsets_survive_a_restore() -> None:
    """The restored tasks' offsets count, in whatever order the rows come."""
    settle = new_settle()
    for offset, task_id in enumerate((T1, T2, T3)):
        settle.bid(bid(task_id), place(offset, 50 + offset))
    rows = states_of(settle)
    restored = new_settle()
    restored.restore({task_id: rows[task_id] for task_id in (T3, T1, T2)})
    restored.finish_restore()

    assert (restored.remembered, restored.rewind_offset(BIDS, 3)) == (3, 0)
    assert ExpiredTasks(2, 2) == restored.expire_tasks(Micros(152))
    assert restored.rewind_offset(BIDS, 3) == 2


# --- snapshots -----------------------------------------------------------------------------------------


def states_of(settle: Settle) -> dict[TaskId, AuctionState]:
    return {task_id: state for task_id, state in settle.snapshot().items() if state is not None}


def test_a_cut_has_what_changed_since_the_last() -> None:
    """Changed tasks as rows, forgotten ones as deletions, and each only once."""
    settle = new_settle()
    settle.bid(bid(T1, at=5), place(3, 50))
    settle.close(close(T2, 6, winner=B), place(4, 60, CLOSES))

    assert {
        T1: AuctionState(50, {BIDS: 3}, None, [], {A: [Bid(Micros(5), 7, "d")]}),
        T2: AuctionState(60, {CLOSES: 4}, Close(Micros(6), B), [B], {}),
    } == settle.snapshot()
    assert settle.snapshot() == {}
    settle.expire_tasks(Micros(151))
    assert settle.snapshot() == {T1: None}


def test_changes_after_a_cut_do_not_show_in_it() -> None:
    """A snapshot that is turned into rows later still holds the moment it was taken."""
    settle = new_settle()
    settle.bid(bid(T1, at=5), place(3, 50))
    settle.bid(bid(T2, at=5), place(4, 50))
    frozen = settle.snapshot()
    settle.bid(bid(T1, B, at=6), place(5, 51))
    settle.bid(bid(T1, A, at=7), place(6, 52))
    settle.close(close(T2, 9), place(0, 53, CLOSES))
    settle.expire_tasks(Micros(151))
    settle.bid(bid(T1, B, at=99), place(7, 152))

    assert {
        T1: AuctionState(50, {BIDS: 3}, None, [], {A: [Bid(Micros(5), 7, "d")]}),
        T2: AuctionState(50, {BIDS: 4}, None, [], {A: [Bid(Micros(5), 7, "d")]}),
    } == frozen
    assert {
        T1: AuctionState(152, {BIDS: 7}, None, [], {B: [Bid(Micros(99), 7, "d")]}),
        T2: None,
    } == settle.snapshot()


def test_two_cuts_on_their_way_do_not_disturb_each_other() -> None:
    """Each of two unwritten snapshots keeps its own moment of the same task."""
    settle = new_settle()
    settle.bid(bid(T1, at=5), place(3, 50))
    first = settle.snapshot()
    settle.bid(bid(T1, B, at=6), place(4, 51))
    second = settle.snapshot()
    settle.close(close(T1, 9), place(0, 53, CLOSES))

    one, two = first[T1], second[T1]
    assert one is not None
    assert two is not None
    assert (sorted(one.pending_bids), sorted(two.pending_bids)) == ([A], [A, B])
    assert (one.standing, two.standing) == (None, None)


def test_a_restored_settle_goes_on_where_the_other_stopped() -> None:
    """Standing close, notified agents and pending bids are all back, and change like any others."""
    settle = new_settle()
    settle.bid(bid(T1, A, at=5), place(0, 50))
    settle.close(close(T1, 9, winner=B), place(0, 60, CLOSES))
    settle.bid(bid(T1, A, at=11), place(1, 61))
    restored = new_settle()
    restored.restore(states_of(settle))
    restored.finish_restore()

    assert restored.snapshot() == {}
    assert [
        Fact(T1, A, Close(Micros(12)), Bid(Micros(11), 7, "d")),
        Fact(T1, B, Close(Micros(12))),
    ] == restored.close(close(T1, 12, winner=None), place(1, 70, CLOSES))
    assert {T1: AuctionState(50, {BIDS: 0, CLOSES: 0}, Close(Micros(12)), [A, B], {})} == restored.snapshot()
