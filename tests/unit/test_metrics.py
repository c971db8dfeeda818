"""An agent's metrics: what an outcome adds, and what a changed outcome takes back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner_worker.contract.facts import Bid, Close, Result
from learner_worker.contract.fields import MAX_SATS, AgentId, TaskId
from learner_worker.contract.times import Micros
from learner_worker.domain.metrics import Change, Metrics, change, plus
from learner_worker.domain.outcomes import Outcome

TASK, ME, OTHER = TaskId("t"), AgentId("me"), AgentId("other")
BID = Bid(Micros(5), 70, "parse the invoices, parse")
WON, LOST = Close(Micros(10), ME), Close(Micros(10), OTHER)
DONE, FAILED = Result(Micros(20), succeeded=True), Result(Micros(20), succeeded=False)
NOTHING = Change(Metrics(), {}, {})


def outcome(close: Close | None = None, bid: Bid | None = None, result: Result | None = None) -> Outcome:
    return Outcome(TASK, ME, close, bid, result)


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (outcome(), NOTHING),
        (outcome(bid=BID), NOTHING),
        (outcome(result=DONE), NOTHING),
        (outcome(bid=BID, result=DONE), NOTHING),
        (outcome(LOST), NOTHING),
        (outcome(LOST, result=DONE), NOTHING),
        (outcome(LOST, BID), Change(Metrics(total_bids=1), {}, {})),
        (outcome(LOST, BID, DONE), Change(Metrics(total_bids=1), {}, {})),
        (outcome(WON), Change(Metrics(1, 1), {}, {})),
        (outcome(WON, BID), Change(Metrics(1, 1, 0, 0, 1, 70), {}, {})),
        (outcome(WON, BID, DONE), Change(Metrics(1, 1, 1, 0, 1, 70), {"parse": 2, "invoices": 1}, {})),
        (outcome(WON, BID, FAILED), Change(Metrics(1, 1, 0, 1, 1, 70), {}, {"parse": 2, "invoices": 1})),
        (outcome(Close(Micros(10), ME, 0)), Change(Metrics(1, 1, 0, 0, 1, 0), {}, {})),
        (outcome(Close(Micros(10), ME, 60), BID), Change(Metrics(1, 1, 0, 0, 1, 60), {}, {})),
        (
            outcome(Close(Micros(10), ME, None, "digest", "label images"), None, DONE),
            Change(Metrics(1, 1, 1), {"label": 1, "images": 1}, {}),
        ),
    ],
)
def test_what_a_new_outcome_adds(after: Outcome, expected: Change) -> None:
    """Only a row with a close and a bid or the win counts; only the winner's result and words count."""
    assert expected == change(None, after)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (outcome(WON, BID, DONE), outcome(WON, BID, DONE), NOTHING),
        (
            outcome(WON, BID, DONE),
            outcome(WON, BID, FAILED),
            Change(
                Metrics(tasks_completed=-1, tasks_failed=1),
                {"parse": -2, "invoices": -1},
                {"parse": 2, "invoices": 1},
            ),
        ),
        (
            outcome(WON, BID, DONE),
            outcome(LOST, BID, DONE),
            Change(Metrics(0, -1, -1, 0, -1, -70), {"parse": -2, "invoices": -1}, {}),
        ),
        (outcome(WON), outcome(LOST), Change(Metrics(-1, -1), {}, {})),
        (
            outcome(WON, BID, DONE),
            outcome(WON, Bid(Micros(6), 80, "parse images"), DONE),
            Change(Metrics(priced_sats=10), {"parse": -1, "invoices": -1, "images": 1}, {}),
        ),
        (
            outcome(WON, BID, DONE),
            outcome(WON, Bid(Micros(6), 80, "INVOICES parse: parse"), DONE),
            Change(Metrics(priced_sats=10), {}, {}),
        ),
        (outcome(WON, BID, DONE), outcome(WON, BID, Result(Micros(21), succeeded=True)), NOTHING),
        (outcome(WON), outcome(WON, BID), Change(Metrics(priced_wins=1, priced_sats=70), {}, {})),
    ],
)
def test_what_a_changed_outcome_changes(before: Outcome, after: Outcome, expected: Change) -> None:
    """The difference takes the earlier state back, to the last word."""
    assert expected == change(before, after)


def test_no_difference_is_false() -> None:
    """A change is true exactly when a count, a win or a failure differs."""
    assert [
        bool(NOTHING),
        bool(Change(Metrics(tasks_failed=-1), {}, {})),
        bool(Change(Metrics(), {"parse": 1}, {})),
        bool(Change(Metrics(), {}, {"parse": -1})),
    ] == [False, True, True, True]


def test_rates_of_nothing_are_zero() -> None:
    """With nothing to divide by, the rates and the mean are 0.0."""
    metrics = Metrics()

    assert (metrics.win_rate, metrics.success_rate, metrics.avg_winning_bid_sats) == (0.0, 0.0, 0.0)


def test_rates_and_mean() -> None:
    """win_rate is won / total, success_rate completed / results, the mean is over priced wins alone."""
    metrics = Metrics(
        total_bids=7, auctions_won=4, tasks_completed=2, tasks_failed=1, priced_wins=3, priced_sats=100
    )

    assert (metrics.win_rate, metrics.success_rate, metrics.avg_winning_bid_sats) == (4 / 7, 2 / 3, 100 / 3)
    assert metrics.tasks_with_result == 3


def test_the_mean_is_an_exact_sum_divided_once() -> None:
    """Sums beyond what a double holds stay exact until the division."""
    metrics = Metrics(priced_wins=3, priced_sats=3 * MAX_SATS)

    assert float(MAX_SATS) == metrics.avg_winning_bid_sats


def test_plus_adds_every_count() -> None:
    """Each count has its own sum."""
    assert Metrics(11, 22, 33, 44, 55, 66) == plus(Metrics(1, 2, 3, 4, 5, 6), Metrics(10, 20, 30, 40, 50, 60))


times = st.integers(0, 3).map(Micros)
outcomes = st.builds(
    outcome,
    st.none()
    | st.builds(
        Close,
        times,
        st.sampled_from((None, ME, OTHER)),
        st.none() | st.integers(0, 3),
        st.just("digest"),
        st.sampled_from(("parse", "label label")),
    ),
    st.none() | st.builds(Bid, times, st.integers(0, 3), st.sampled_from(("", "parse parse", "parse label"))),
    st.none() | st.builds(Result, times, st.booleans()),
)


@given(st.lists(outcomes, min_size=1, max_size=6))
def test_differences_add_up_to_the_last_state(history: list[Outcome]) -> None:
    """However an outcome got where it is, the sum of its changes is what it would have added at once."""
    metrics = Metrics()
    wins: dict[str, int] = {}
    failures: dict[str, int] = {}
    for before, after in zip([None, *history], history, strict=False):
        difference = change(before, after)
        metrics = plus(metrics, difference.metrics)
        for counts, added in ((wins, difference.wins), (failures, difference.failures)):
            for word, count in added.items():
                counts[word] = counts.get(word, 0) + count

    assert change(None, history[-1]) == Change(
        metrics,
        {word: count for word, count in wins.items() if count},
        {word: count for word, count in failures.items() if count},
    )
