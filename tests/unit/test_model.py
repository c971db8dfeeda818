"""The oracle itself, against examples worked out by hand from the contract."""

import ast
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import model, swarm
from tests.support.model import (
    MAX_SATS,
    AuctionClosed,
    BidPlaced,
    Event,
    LearnedKeyword,
    Metrics,
    Outcome,
    Suggestion,
    TaskFinished,
    classic,
    keywords,
    learned_keywords,
    metrics,
    outcomes,
    rfc3339,
    strongest_keywords,
)
from tests.support.swarm import events, shuffled_with_duplicates, swarm_history, swarm_timeline

SECOND = 1_000_000
TOLERANCE = SECOND


def bid(agent: str, sats: int, at: int, description: str = "", task: str = "t") -> BidPlaced:
    return BidPlaced(task, agent, sats, description, at)


def close(
    winner: str | None, at: int, sats: int | None = None, description: str | None = None, task: str = "t"
) -> AuctionClosed:
    return AuctionClosed(task, winner, sats, at, description)


def result(agent: str, succeeded: bool, at: int, task: str = "t") -> TaskFinished:
    return TaskFinished(task, agent, succeeded, at)


def lost(sats: int, placed_at: int, closed_at: int, description: str = "") -> Outcome:
    return Outcome(
        won=False,
        bid_sats=sats,
        description=description,
        succeeded=None,
        closed_at=closed_at,
        placed_at=placed_at,
        finished_at=None,
    )


def won(
    sats: int | None,
    placed_at: int | None,
    closed_at: int,
    description: str = "",
    result: tuple[bool, int] | None = None,
) -> Outcome:
    return Outcome(
        won=True,
        bid_sats=sats,
        description=description,
        succeeded=None if result is None else result[0],
        closed_at=closed_at,
        placed_at=placed_at,
        finished_at=None if result is None else result[1],
    )


def assert_in_any_order(
    history: Sequence[Event], expected: dict[str, Outcome], tolerance_us: int = TOLERANCE
) -> None:
    """Every permutation of the history of task "t", and of it with one event twice, has these outcomes."""
    by_key = {("t", agent): outcome for agent, outcome in expected.items()}
    for delivered in ([*history], *([*history, event] for event in history)):
        for order in itertools.permutations(delivered):
            assert by_key == outcomes(order, tolerance_us)


# --- independence and wire form -------------------------------------------------------------------


@pytest.mark.parametrize("module", [model, swarm])
def test_oracle_imports_nothing_of_the_program(module: object) -> None:
    """Neither the model nor its histories import anything from the program they judge."""
    tree = ast.parse(Path(str(vars(module)["__file__"])).read_text(encoding="utf-8"))
    imported = {
        name
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert set() == {name for name in imported if name.startswith("learner_worker")}


@pytest.mark.parametrize(
    ("time_us", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1, "1970-01-01T00:00:00.000001Z"),
        (1_767_225_600_123_456, "2026-01-01T00:00:00.123456Z"),
        (253_370_764_799_999_999, "9998-12-31T23:59:59.999999Z"),
    ],
)
def test_times_travel_as_rfc3339_with_microseconds(time_us: int, text: str) -> None:
    """A time is exact to the microsecond over the whole range the contract allows."""
    assert text == rfc3339(time_us)


@pytest.mark.parametrize(
    ("event", "wire"),
    [
        (
            bid("é", MAX_SATS, 1, "čti", task="🧾"),
            (
                '{"task_id": "🧾", "agent_id": "é", "bid_sats": 9007199254740991, "description": "čti", '
                '"placed_at": "1970-01-01T00:00:00.000001Z"}'
            ),
        ),
        (
            close(None, 0),
            (
                '{"task_id": "t", "winner_agent_id": null, "winning_bid_sats": null, '
                '"closed_at": "1970-01-01T00:00:00.000000Z"}'
            ),
        ),
        (
            close("a", 0, 0, ""),
            (
                '{"task_id": "t", "winner_agent_id": "a", "winning_bid_sats": 0, '
                '"closed_at": "1970-01-01T00:00:00.000000Z", "description": ""}'
            ),
        ),
        (
            result("a", False, SECOND),
            (
                '{"task_id": "t", "agent_id": "a", "succeeded": false, '
                '"finished_at": "1970-01-01T00:00:01.000000Z"}'
            ),
        ),
    ],
)
def test_events_travel_as_the_contract_says(event: Event, wire: str) -> None:
    """Each event is the contract's JSON in UTF-8, nulls written, an absent description left out."""
    assert wire.encode() == event.to_json()


# --- outcomes -------------------------------------------------------------------------------------


def test_nothing_counts_before_the_close() -> None:
    """Bids and a result without a close make no outcome."""
    assert_in_any_order([bid("a", 5, 1), bid("b", 6, 2), result("a", True, 3)], {})


def test_every_bidder_has_one_outcome() -> None:
    """A close makes one outcome for each bidder, won by its winner only."""
    assert_in_any_order(
        [bid("a", 5, 1, "x"), bid("b", 6, 2, "y"), close("a", 3)],
        {"a": won(5, 1, 3, "x"), "b": lost(6, 2, 3, "y")},
    )


def test_tasks_do_not_mix() -> None:
    """The outcomes of one task take nothing from another task's events."""
    history: list[Event] = [
        bid("a", 5, 1, task="t1"),
        close("a", 2, task="t1"),
        bid("a", 7, 1, task="t2"),
        result("a", True, 3, task="t2"),
    ]
    assert {("t1", "a"): won(5, 1, 2)} == outcomes(history)


def test_last_bid_counts() -> None:
    """An agent's last bid by `placed_at` counts, not its lowest or the last to arrive."""
    assert_in_any_order(
        [bid("a", 5, 1, "first"), bid("a", 9, 2, "last"), close(None, 3)],
        {"a": lost(9, 2, 3, "last")},
    )


def test_bids_of_equal_time_lower_counts() -> None:
    """At equal times the lower bid counts, whatever its description."""
    assert_in_any_order([bid("a", 5, 1, "z"), bid("a", 6, 1, "a"), close(None, 3)], {"a": lost(5, 1, 3, "z")})


def test_bids_of_equal_time_and_sats_smaller_description_counts() -> None:
    """At equal times and sats the smaller description counts, by code points and not by digest."""
    assert_in_any_order([bid("a", 5, 1, "b"), bid("a", 5, 1, "a"), close(None, 3)], {"a": lost(5, 1, 3, "a")})
    assert_in_any_order([bid("a", 5, 1, "a"), bid("a", 5, 1, ""), close(None, 3)], {"a": lost(5, 1, 3, "")})
    # In UTF-16 the emoji (U+1F916) would sort before U+FF5E.
    history: list[Event] = [bid("a", 5, 1, "🤖"), bid("a", 5, 1, "\uff5e"), close(None, 3)]
    assert_in_any_order(history, {"a": lost(5, 1, 3, "\uff5e")})


@pytest.mark.parametrize(
    ("placed_at", "counts"),
    [
        (10 * SECOND, True),
        (10 * SECOND + 1, True),
        (11 * SECOND - 1, True),
        (11 * SECOND, True),
        (11 * SECOND + 1, False),
    ],
)
def test_late_bid_counts_up_to_the_tolerance(placed_at: int, counts: bool) -> None:
    """A bid counts up to and including `closed_at` plus one second, and no microsecond longer."""
    expected = {"a": lost(5, placed_at, 10 * SECOND)} if counts else {}
    assert_in_any_order([bid("a", 5, placed_at), close(None, 10 * SECOND)], expected)


def test_tolerance_is_configurable() -> None:
    """With no tolerance a bid one microsecond after the close is late, one at the close is not."""
    assert_in_any_order([bid("a", 5, 10), close(None, 10)], {"a": lost(5, 10, 10)}, tolerance_us=0)
    assert_in_any_order([bid("a", 5, 11), close(None, 10)], {}, tolerance_us=0)


def test_late_bid_does_not_displace_an_earlier_one() -> None:
    """After a bid that came too late the agent's last bid in time still counts."""
    assert_in_any_order(
        [bid("a", 5, 1), bid("a", 3, 5 * SECOND), close(None, 2)],
        {"a": lost(5, 1, 2)},
    )


@pytest.mark.parametrize("sats", [0, 4, 6])
def test_winning_bid_is_the_winners_bid(sats: int) -> None:
    """A winning bid, 0 included, replaces the winner's own and touches no loser's."""
    assert_in_any_order(
        [bid("a", 5, 1, "x"), bid("b", 6, 1), close("a", 3, sats, "close")],
        {"a": won(sats, 1, 3, "x"), "b": lost(6, 1, 3)},
    )


def test_winning_bid_without_a_winner_is_nobodys() -> None:
    """A winning bid on a close without a winner changes no outcome."""
    assert_in_any_order([bid("a", 5, 1), close(None, 3, 4)], {"a": lost(5, 1, 3)})


@pytest.mark.parametrize(
    ("closed", "expected"),
    [
        (close("a", 3, 7, "from the close"), won(7, None, 3, "from the close")),
        (close("a", 3, None, "from the close"), won(None, None, 3, "from the close")),
        (close("a", 3, 7), won(7, None, 3)),
        (close("a", 3), won(None, None, 3)),
    ],
)
def test_winner_without_a_bid(closed: AuctionClosed, expected: Outcome) -> None:
    """A winner whose bid never arrives has an outcome from the close: its winning bid and its description."""
    assert_in_any_order([closed], {"a": expected})


def test_winner_with_a_late_bid_only() -> None:
    """A winner whose only bid came too late has its outcome from the close, nothing of it from that bid."""
    assert_in_any_order(
        [bid("a", 5, 2 * SECOND, "late"), close("a", 3, None, "close")], {"a": won(None, None, 3, "close")}
    )


def test_bids_empty_description_is_a_description() -> None:
    """The close's description does not replace a bid's, even if that one is empty."""
    assert_in_any_order([bid("a", 5, 1, ""), close("a", 3, None, "close")], {"a": won(5, 1, 3, "")})


def test_latest_result_stands() -> None:
    """The result with the latest `finished_at` stands, so a result may flip either way."""
    assert_in_any_order(
        [close("a", 3), result("a", False, 4), result("a", True, 5)],
        {"a": won(None, None, 3, result=(True, 5))},
    )
    assert_in_any_order(
        [close("a", 3), result("a", True, 4), result("a", False, 5)],
        {"a": won(None, None, 3, result=(False, 5))},
    )


def test_failed_stands_at_equal_times() -> None:
    """Of two results of equal time the failed one stands."""
    assert_in_any_order(
        [close("a", 3), result("a", True, 4), result("a", False, 4)],
        {"a": won(None, None, 3, result=(False, 4))},
    )


def test_result_before_the_close_counts() -> None:
    """A result counts even if it finished before the auction closed."""
    assert_in_any_order([close("a", 3), result("a", True, 1)], {"a": won(None, None, 3, result=(True, 1))})


def test_losers_result_counts_for_nothing() -> None:
    """A result for a loser leaves its outcome without one and makes none for a stranger."""
    assert_in_any_order(
        [bid("a", 5, 1), close("b", 3), result("a", True, 4), result("c", True, 4)],
        {"a": lost(5, 1, 3), "b": won(None, None, 3)},
    )


def test_result_counts_once_a_later_close_names_its_agent() -> None:
    """A result for an agent that had not won counts when a later close says that it did."""
    assert_in_any_order(
        [close("b", 3), result("a", True, 4), close("a", 5)],
        {"a": won(None, None, 5, result=(True, 4))},
    )


@pytest.mark.parametrize(
    ("standing", "replaced"),
    [
        (close("z", 4, 9, "z"), close(None, 3)),
        (close("z", 4, 9, "z"), close("a", 3, 1)),
        (close(None, 3, 9, "z"), close("a", 3)),
        (close("a", 3, 9, "z"), close("b", 3)),
        (close("a", 3, None, "z"), close("a", 3, 0)),
        (close("a", 3, 0, "z"), close("a", 3, 1)),
        (close("a", 3, 1), close("a", 3, 1, "b")),
        # SHA-256 begins with 3e for "b", with ca for "a" and with e3 for "".
        (close("a", 3, 1, "b"), close("a", 3, 1, "a")),
        (close("a", 3, 1, "a"), close("a", 3, 1, "")),
    ],
)
def test_standing_close(standing: AuctionClosed, replaced: AuctionClosed) -> None:
    """The later close stands; at equal times the smaller winner, winning bid and description digest."""
    expected = outcomes([standing])
    assert expected != outcomes([replaced])
    assert_in_any_order([standing, replaced], {agent: outcome for (_, agent), outcome in expected.items()})


def test_corrected_close_moves_the_win() -> None:
    """After a correction the earlier winner has lost with its own bid, and the results follow the win."""
    assert_in_any_order(
        [bid("a", 5, 1), close("a", 3, 4), close("b", 6, 8), result("a", True, 7), result("b", False, 8)],
        {"a": lost(5, 1, 6), "b": won(8, None, 6, result=(False, 8))},
    )


def test_corrected_close_admits_and_excludes_bids() -> None:
    """The standing close alone decides which bids are late, so a later close admits more of them."""
    history: list[Event] = [bid("a", 5, 1), bid("a", 4, 4 * SECOND), close(None, 1 * SECOND)]
    assert_in_any_order(history, {"a": lost(5, 1, 1 * SECOND)})
    assert_in_any_order([*history, close(None, 3 * SECOND)], {"a": lost(4, 4 * SECOND, 3 * SECOND)})


# --- directed cases about order -------------------------------------------------------------------


def test_older_close_after_a_newer_one() -> None:
    """Closed at 12 for W1, then the older close (5, W2): W1 stands and W2 has no outcome."""
    assert_in_any_order([close("W1", 12), close("W2", 5)], {"W1": won(None, None, 12)})


def test_bid_between_and_bid_after_the_close() -> None:
    """Bid at 9, bid at 11, close at 9: the bid at 9 counts."""
    assert_in_any_order(
        [bid("a", 5, 9 * SECOND), bid("a", 4, 11 * SECOND), close(None, 9 * SECOND)],
        {"a": lost(5, 9 * SECOND, 9 * SECOND)},
    )


def test_winner_of_a_superseded_close_only() -> None:
    """Close (0, A), then close (7, B), neither bid: A has no outcome any more, nor a result."""
    assert_in_any_order(
        [close("A", 0), result("A", True, 3), close("B", 7)],
        {"B": won(None, None, 7)},
    )


def test_close_with_and_without_its_bid() -> None:
    """(close, no bid) and (close, bid) of one winner end in the outcome with the bid."""
    assert_in_any_order(
        [close("a", 3, None, "close"), bid("a", 5, 1, "bid"), result("a", True, 4)],
        {"a": won(5, 1, 3, "bid", result=(True, 4))},
    )


def test_results_around_the_auction() -> None:
    """One result before the auction, one long after it: the later one stands."""
    much_later = 90 * 24 * 3600 * SECOND
    assert_in_any_order(
        [result("a", True, 0), bid("a", 5, 1), close("a", 3), result("a", False, much_later)],
        {"a": won(5, 1, 3, result=(False, much_later))},
    )


def test_new_bid_and_its_old_close() -> None:
    """A new bid that is delivered before the old close it came too late for does not count."""
    assert_in_any_order(
        [bid("b", 2, 20 * SECOND), bid("a", 5, 1), close("a", 3)],
        {"a": won(5, 1, 3)},
    )


def test_two_bids_of_equal_time_with_a_duplicate() -> None:
    """Two bids of equal time with a duplicate of the first end alike in every order."""
    assert_in_any_order(
        [bid("a", 5, 1, "x"), bid("a", 7, 1, "y"), bid("a", 5, 1, "x"), close("a", 3)],
        {"a": won(5, 1, 3, "x")},
    )


# --- metrics --------------------------------------------------------------------------------------


def test_metrics_of_a_small_history() -> None:
    """Every field of the metrics, worked out by hand for a winner and a loser."""
    history: list[Event] = [
        bid("a", 10, 1, "parse the invoices", task="t1"),
        bid("b", 20, 1, "parse", task="t1"),
        close("a", 2, task="t1"),
        result("a", True, 3, task="t1"),
        bid("a", 11, 1, "parse PDFs, parse fast", task="t2"),
        close("a", 2, 15, task="t2"),
        result("a", False, 3, task="t2"),
        bid("a", 12, 1, "label images", task="t3"),
        close("a", 2, task="t3"),
        bid("a", 13, 1, "label", task="t4"),
        close("b", 2, task="t4"),
        bid("a", 99, 1, "still open", task="t5"),
    ]
    expected = {
        "a": Metrics(
            total_bids=4,
            auctions_won=3,
            tasks_completed=1,
            tasks_failed=1,
            win_rate=0.75,
            success_rate=0.5,
            avg_winning_bid_sats=37 / 3,
            keyword_wins={"parse": 1, "invoices": 1},
            keyword_failures={"parse": 2, "pdfs": 1, "fast": 1},
        ),
        "b": Metrics(total_bids=2, auctions_won=1, win_rate=0.5),
    }
    assert expected == metrics(outcomes(history))


def test_metrics_of_nothing() -> None:
    """Without outcomes there are no metrics, and an agent that never won has rates and average 0.0."""
    assert metrics(outcomes([])) == {}
    expected = {"a": Metrics(total_bids=1)}
    assert expected == metrics(outcomes([bid("a", 5, 1, "parse"), close(None, 2), result("a", True, 3)]))


def test_rebids_are_one_outcome() -> None:
    """`total_bids` counts outcomes: three bids for one task are one."""
    history: list[Event] = [bid("a", 5, 1), bid("a", 4, 2), bid("a", 3, 3), close("a", 4)]
    expected = {"a": Metrics(total_bids=1, auctions_won=1, win_rate=1.0, avg_winning_bid_sats=3.0)}
    assert expected == metrics(outcomes(history))


def test_unknown_bids_do_not_enter_the_average() -> None:
    """A win without a known bid counts as a win and leaves the average of the others alone; 0 is known."""
    history: list[Event] = [
        close("a", 1, 7, task="t1"),
        close("a", 1, None, task="t2"),
        close("a", 1, 0, task="t3"),
        close("b", 1, None, task="t4"),
    ]
    by_agent = metrics(outcomes(history))
    assert Metrics(total_bids=3, auctions_won=3, win_rate=1.0, avg_winning_bid_sats=3.5) == by_agent["a"]
    assert Metrics(total_bids=1, auctions_won=1, win_rate=1.0, avg_winning_bid_sats=0.0) == by_agent["b"]


def test_average_is_an_exact_sum_divided_once() -> None:
    """(2^53 - 1 + 7 x 1) / 8 is 2^50 + 0.75; adding the bids one by one as doubles would lose the 0.75."""
    wins = [MAX_SATS, 1, 1, 1, 1, 1, 1, 1]
    history: list[Event] = [close("a", 1, sats, task=f"t{number}") for number, sats in enumerate(wins)]
    assert metrics(outcomes(history))["a"].avg_winning_bid_sats == 1_125_899_906_842_624.75
    in_doubles = 0.0
    for sats in wins:
        in_doubles += sats
    assert in_doubles / 8 == 1_125_899_906_842_624.0


def test_winners_keywords_come_from_the_close_without_a_bid() -> None:
    """A winner without a bid learns from the close's description."""
    history: list[Event] = [close("a", 1, None, "Translate German"), result("a", True, 2)]
    assert metrics(outcomes(history))["a"].keyword_wins == {"translate": 1, "german": 1}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("ab abc ABCD", ["abc", "abcd"]),
        ("please get the task and make it", []),
        ("forthe gets tasks", ["forthe", "gets", "tasks"]),
        ("parse parse Parse", ["parse", "parse", "parse"]),
        ("can't don't well-known snake_case", ["don", "well", "known", "snake", "case"]),
        ("utf8encoded x2abc3", ["utf", "encoded", "abc"]),
        ("café Überprüfe", ["caf", "berpr"]),
        ("\u212aafka", ["kafka"]),  # the Kelvin sign's lower case is an ASCII k
        ("\u0130nvoice", ["nvoice"]),  # its lower case is i and a combining dot, which ends the match
        ("an to of is me my we up", []),
    ],
)
def test_keywords(text: str, expected: list[str]) -> None:
    """Keywords are runs of three or more ASCII letters in the lower-cased text that are no stop words."""
    assert expected == keywords(text)


def test_stop_words_are_the_contracts() -> None:
    """The contract lists 47 stop words, 15 of them before "is"; none of them is a keyword."""
    assert len(model.STOP_WORDS) == 47
    assert keywords(" ".join(sorted(model.STOP_WORDS))) == []


# --- learned keywords -----------------------------------------------------------------------------


def test_learned_keywords_order() -> None:
    """By net descending, then wins descending, then keyword."""
    of_agent = Metrics(
        keyword_wins={"good": 3, "mixed": 4, "bbb": 1, "aaa": 1, "even": 2},
        keyword_failures={"mixed": 3, "even": 2, "bad": 1, "worse": 5},
    )
    expected = [
        LearnedKeyword("good", 3, 0, 3),
        LearnedKeyword("mixed", 4, 3, 1),
        LearnedKeyword("aaa", 1, 0, 1),
        LearnedKeyword("bbb", 1, 0, 1),
        LearnedKeyword("even", 2, 2, 0),
        LearnedKeyword("bad", 0, 1, -1),
        LearnedKeyword("worse", 0, 5, -5),
    ]
    assert expected == learned_keywords(of_agent)
    assert expected == strongest_keywords(of_agent)


def test_learned_keywords_tie_by_keyword() -> None:
    """Keywords of equal wins and failures come in alphabetical order."""
    names = ["zebra", "mango", "apple", "lemon", "berry", "olive", "grape", "peach", "cocoa", "thyme"]
    learned = learned_keywords(Metrics(keyword_wins=dict.fromkeys(names, 1)))
    assert sorted(names) == [one.keyword for one in learned]


def test_strongest_keywords_are_cut_by_absolute_net() -> None:
    """The 50 of greatest absolute net stay, in the contract's order; the weak ones of either sign go."""
    of_agent = Metrics(
        keyword_wins={f"plus{chr(97 + n)}": n + 2 for n in range(25)} | {"weak": 1},
        keyword_failures={f"minus{chr(97 + n)}": n + 2 for n in range(25)} | {"feeble": 1},
    )
    strongest = strongest_keywords(of_agent)
    assert [*range(26, 1, -1), *range(-2, -27, -1)] == [learned.net for learned in strongest]
    assert len(learned_keywords(of_agent)) == 52


def test_ties_at_the_cut_follow_the_contracts_order() -> None:
    """At equal absolute net the first in the contract's order stay: positive, more wins, then keyword."""
    of_agent = Metrics(keyword_wins={"ddd": 1, "bbb": 2, "aaa": 1}, keyword_failures={"bbb": 1, "ccc": 1})
    in_order = [
        LearnedKeyword("bbb", 2, 1, 1),
        LearnedKeyword("aaa", 1, 0, 1),
        LearnedKeyword("ddd", 1, 0, 1),
        LearnedKeyword("ccc", 0, 1, -1),
    ]
    for limit in range(5):
        assert in_order[:limit] == strongest_keywords(of_agent, limit=limit)


# --- the classic strategy -------------------------------------------------------------------------


def rated(
    wins: int,
    total: int,
    completed: int = 0,
    failed: int = 0,
    *,
    keyword_wins: int = 0,
    keyword_failures: int = 0,
) -> Metrics:
    """Metrics with these counts and their rates; the keyword counts are those of "parse"."""
    results = completed + failed
    return Metrics(
        total_bids=total,
        auctions_won=wins,
        tasks_completed=completed,
        tasks_failed=failed,
        win_rate=wins / total,
        success_rate=completed / results if results else 0.0,
        keyword_wins={"parse": keyword_wins} if keyword_wins else {},
        keyword_failures={"parse": keyword_failures} if keyword_failures else {},
    )


def test_agent_without_history_gets_its_base_bid() -> None:
    """No metrics at all leave the base bid unchanged."""
    assert Suggestion(500, 1.0, []) == classic(None, "parse", 500)
    assert Suggestion(500, 1.0, []) == classic(Metrics(), "parse", 500)


def test_two_outcomes_are_too_few() -> None:
    """With 2 total bids no rule applies, however clear the record; with 3 all of them do."""
    two = rated(2, 2, completed=2, keyword_wins=2)
    assert Suggestion(1000, 1.0, []) == classic(two, "parse", 1000)
    three = replace(two, total_bids=3, auctions_won=3)
    rules = [("win_rate_high", 1.15), ("success_rate_high", 0.90), ("keywords_proven", 0.90)]
    assert Suggestion(931, 0.9315, rules) == classic(three, "parse", 1000)


@pytest.mark.parametrize(
    ("wins", "total", "expected"),
    [
        (4, 5, []),
        (799, 1000, []),
        (801, 1000, [("win_rate_high", 1.15)]),
        (3, 3, [("win_rate_high", 1.15)]),
        (1, 5, []),
        (201, 1000, []),
        (199, 1000, [("win_rate_low", 0.85)]),
        (0, 3, [("win_rate_low", 0.85)]),
    ],
)
def test_win_rate_rule(wins: int, total: int, expected: list[tuple[str, float]]) -> None:
    """Over 0.8 asks for more, under 0.2 for less; exactly 0.8 and 0.2 for neither."""
    assert expected == classic(rated(wins, total), "", 1000).rules


@pytest.mark.parametrize(
    ("completed", "failed", "expected"),
    [
        (0, 0, []),
        (0, 1, []),
        (1, 0, []),
        (0, 2, [("success_rate_low", 1.25)]),
        (2, 0, [("success_rate_high", 0.90)]),
        (1, 1, []),
        (499, 501, [("success_rate_low", 1.25)]),
        (501, 499, []),
        (4, 1, []),
        (799, 201, []),
        (801, 199, [("success_rate_high", 0.90)]),
    ],
)
def test_success_rate_rule(completed: int, failed: int, expected: list[tuple[str, float]]) -> None:
    """From two results on: under 0.5 asks for more, over 0.8 for less; exactly 0.5 and 0.8 for neither."""
    assert expected == classic(rated(1000, 2000, completed, failed), "", 1000).rules


@pytest.mark.parametrize(
    ("keyword_wins", "keyword_failures", "expected"),
    [
        (0, 0, []),
        (1, 0, []),
        (2, 0, [("keywords_proven", 0.90)]),
        (2, 1, [("keywords_proven", 0.90)]),
        (2, 2, []),
        (1, 2, [("keywords_weak", 1.15)]),
        (0, 2, [("keywords_weak", 1.15)]),
        (0, 1, []),
        (1, 1, []),
        (9, 9, []),
    ],
)
def test_keyword_rule(keyword_wins: int, keyword_failures: int, expected: list[tuple[str, float]]) -> None:
    """More wins than failures and at least two ask for less, the reverse for more, equality for neither."""
    of_agent = rated(1, 2, keyword_wins=keyword_wins, keyword_failures=keyword_failures)
    of_agent = replace(of_agent, total_bids=4, win_rate=0.5)
    assert expected == classic(of_agent, "parse", 1000).rules


def test_each_occurrence_of_an_asked_keyword_counts() -> None:
    """One win counts twice when the keyword is asked twice, in any case; other keywords count nothing."""
    of_agent = rated(2, 4, keyword_wins=1)
    assert classic(of_agent, "parse unknown words", 1000).rules == []
    assert classic(of_agent, "parse, then PARSE", 1000).rules == [("keywords_proven", 0.90)]


def test_asked_keywords_are_summed() -> None:
    """Wins and failures are summed over different keywords before they are compared."""
    of_agent = replace(
        rated(2, 4), keyword_wins={"parse": 1, "label": 1}, keyword_failures={"label": 3, "images": 1}
    )
    assert classic(of_agent, "parse", 1000).rules == []
    assert classic(of_agent, "parse label", 1000).rules == [("keywords_weak", 1.15)]


def test_completed_and_failed_are_counted_together() -> None:
    """One completed and two failed tasks are three results, of which a third succeeded."""
    of_agent = rated(2, 4, completed=1, failed=2)
    assert classic(of_agent, "", 1000).rules == [("success_rate_low", 1.25)]


def test_suggestion_is_truncated() -> None:
    """100 x 1.15 is 114.99999999999999 in doubles and becomes 114; 7 x 0.85 = 5.95 becomes 5."""
    assert classic(rated(3, 3), "", 100).suggested_bid_sats == 114
    assert classic(rated(0, 3), "", 7).suggested_bid_sats == 5


def test_suggestion_is_at_least_one_sat() -> None:
    """0.85 sats would be 0 and 0 x 1.0 is 0: with a history both become 1."""
    assert classic(rated(0, 3), "", 1).suggested_bid_sats == 1
    assert Suggestion(1, 1.0, []) == classic(rated(2, 4), "", 0)


def test_base_bid_is_unchanged_below_three_outcomes_even_if_zero() -> None:
    """Below 3 total bids the base bid is returned unchanged, so a base of 0 stays 0."""
    assert Suggestion(0, 1.0, []) == classic(rated(1, 2), "", 0)


def test_suggestion_is_capped() -> None:
    """No suggestion exceeds 2^53 - 1, and a base at the cap without a rule stays exact."""
    assert MAX_SATS == 9_007_199_254_740_991
    assert classic(rated(3, 3), "", MAX_SATS).suggested_bid_sats == MAX_SATS
    assert classic(rated(2, 4), "", MAX_SATS).suggested_bid_sats == MAX_SATS
    assert classic(rated(2, 4), "", MAX_SATS - 1).suggested_bid_sats == MAX_SATS - 1


def test_factors_multiply_in_the_contracts_order() -> None:
    """1.15 x 1.25 x 1.15 in that order makes 529 of 320 sats; win, keywords, success would make 528."""
    of_agent = rated(9, 10, completed=1, failed=3, keyword_failures=2)
    rules = [("win_rate_high", 1.15), ("success_rate_low", 1.25), ("keywords_weak", 1.15)]
    assert Suggestion(529, 1.653125, rules) == classic(of_agent, "parse", 320)
    assert 1.6531249999999997 == 1.0 * 1.15 * 1.15 * 1.25
    assert int(320 * 1.6531249999999997) == 528


def test_factor_is_complete_before_the_base_is_multiplied() -> None:
    """960 x (the factor) is 1587; multiplying the base by one rule after another would make 1586."""
    of_agent = rated(9, 10, completed=1, failed=3, keyword_failures=2)
    assert classic(of_agent, "parse", 960).suggested_bid_sats == 1587
    assert int(960 * 1.15 * 1.25 * 1.15) == 1586


# --- the model and the histories ------------------------------------------------------------------


@given(history=events(), data=st.data())
def test_order_never_matters_to_the_model(history: list[Event], data: st.DataObject) -> None:
    """Any permutation with any duplicates ends in the same outcomes and metrics."""
    copies = data.draw(st.lists(st.sampled_from(history), max_size=10) if history else st.just([]))
    delivered = data.draw(st.permutations([*history, *copies]))
    assert outcomes(history) == outcomes(delivered)
    assert metrics(outcomes(history)) == metrics(outcomes(delivered))


@given(history=events())
def test_outcomes_are_consistent(history: list[Event]) -> None:
    """Every outcome has a bid or the win, a result only with the win, and each task one winner at most."""
    found = outcomes(history)
    assert all(outcome.won or outcome.placed_at is not None for outcome in found.values())
    assert all(outcome.won or outcome.succeeded is None for outcome in found.values())
    winners = [task for (task, _), outcome in found.items() if outcome.won]
    assert sorted(set(winners)) == sorted(winners)


@given(history=events(), seed=st.integers(), share=st.sampled_from([0.0, 0.2, 1.0]))
def test_shuffling_loses_nothing(history: list[Event], seed: int, share: float) -> None:
    """A shuffled history holds every event once or twice, the same for the same seed."""
    delivered = shuffled_with_duplicates(history, seed, share)
    assert set(history) == set(delivered)
    assert len(history) <= len(delivered) <= 2 * len(history)
    assert delivered == shuffled_with_duplicates(history, seed, share)


def test_swarm_history_in_any_order() -> None:
    """A realistic history ends in the same outcomes however it is shuffled and duplicated."""
    history = swarm_history(seed=3, auctions=200)
    for seed in range(5):
        assert outcomes(history) == outcomes(shuffled_with_duplicates(history, seed))


def test_swarm_history_is_seeded() -> None:
    """The same seed makes the same history, another seed one with other tasks and the same agents."""
    first, again, other = (swarm_history(seed=seed, auctions=100) for seed in (1, 1, 2))
    assert first == again
    assert set() == {event.task_id for event in first} & {event.task_id for event in other}
    by_first, by_other = metrics(outcomes(first)), metrics(outcomes(other))
    assert set(by_first) == set(by_other)


def test_swarm_timeline_is_causal() -> None:
    """Events are published in order, never before their own time, results only after a close."""
    closed: set[str] = set()
    timeline = swarm_timeline(seed=5, auctions=300)
    assert sorted(published.at for published in timeline) == [published.at for published in timeline]
    for published in timeline:
        match published.event:
            case BidPlaced(placed_at=placed_at):
                assert placed_at <= published.at
            case AuctionClosed(task_id=task_id):
                closed.add(task_id)
            case TaskFinished(task_id=task_id, finished_at=finished_at):
                assert finished_at <= published.at
                assert task_id in closed


def test_swarm_timeline_keeps_auctions_within_the_horizon() -> None:
    """Bids and closes of one auction are published, and carry times, within 15 minutes."""
    times: dict[str, list[int]] = {}
    for published in swarm_timeline(seed=6, auctions=300):
        event = published.event
        if not isinstance(event, TaskFinished):
            own = event.placed_at if isinstance(event, BidPlaced) else event.closed_at
            times.setdefault(event.task_id, []).extend([published.at, own])
    assert max(max(of_task) - min(of_task) for of_task in times.values()) <= 15 * 60 * SECOND


def test_swarm_history_reaches_every_rule() -> None:
    """A history of 300 auctions has agents for which each of the six rules applies."""
    by_agent = metrics(outcomes(swarm_history(seed=1, auctions=300)))
    reached = {
        rule
        for of_agent in by_agent.values()
        for topic in swarm.TOPICS
        for rule, _ in classic(of_agent, topic, 1000).rules
    }
    expected = {
        "win_rate_high",
        "win_rate_low",
        "success_rate_low",
        "success_rate_high",
        "keywords_proven",
        "keywords_weak",
    }
    assert expected == reached


def test_swarm_history_has_every_variety() -> None:
    """A history of 300 auctions has each kind of trouble the contract speaks of."""
    history = swarm_history(seed=1, auctions=300)
    found = outcomes(history)
    bids = [event for event in history if isinstance(event, BidPlaced)]
    closes = [event for event in history if isinstance(event, AuctionClosed)]
    results = [event for event in history if isinstance(event, TaskFinished)]
    closed_at = {key: outcome.closed_at for key, outcome in found.items()}
    after_close = [
        one.placed_at - closed_at[one.task_id, one.agent_id]
        for one in bids
        if (one.task_id, one.agent_id) in closed_at
    ]
    varieties = {
        "tied bids": len({(one.task_id, one.agent_id, one.placed_at) for one in bids}) < len(set(bids)),
        "re-bids": len({(one.task_id, one.agent_id) for one in bids})
        < len({(one.task_id, one.agent_id, one.placed_at) for one in bids}),
        "late within tolerance": any(0 < late <= TOLERANCE for late in after_close),
        "late beyond tolerance": any(late > TOLERANCE for late in after_close),
        "corrected closes": len({one.task_id for one in closes}) < len(closes),
        "tied closes": len({(one.task_id, one.closed_at) for one in closes}) < len(closes),
        "open auctions": bool({one.task_id for one in bids} - {one.task_id for one in closes}),
        "winners without a bid": any(one.won and one.placed_at is None for one in found.values()),
        "unknown bids": any(one.bid_sats is None for one in found.values()),
        "no winner": any(one.winner_agent_id is None for one in closes),
        "winning bid absent": any(one.winner_agent_id and one.winning_bid_sats is None for one in closes),
        "winning bid given": any(one.winning_bid_sats is not None for one in closes),
        "described closes": any(one.description for one in closes),
        "flipped results": len({(one.task_id, one.agent_id) for one in results}) < len(results),
        "tied results": len({(one.task_id, one.agent_id, one.finished_at) for one in results}) < len(results),
        "results for losers": any(
            not found[one.task_id, one.agent_id].won
            for one in results
            if (one.task_id, one.agent_id) in found
        ),
        "unicode ids": any(not one.agent_id.isascii() and not one.task_id.isascii() for one in bids),
    }
    assert {name: reached for name, reached in varieties.items() if not reached} == {}


# --- retention ------------------------------------------------------------------------------------


def test_retention_leaves_what_is_not_before_its_times() -> None:
    """Closes from one time on, bids and results from another; the times themselves stay."""
    at = (9, 10, 11)
    closes = [model.AuctionClosed("t", "a", None, time_us) for time_us in at]
    bids = [model.BidPlaced("t", "a", 1, "", time_us) for time_us in at]
    results = [model.TaskFinished("t", "a", True, time_us) for time_us in at]

    left = model.remembered([*closes, *bids, *results], closes_from_us=11, others_from_us=10)

    assert [closes[2], *bids[1:], *results[1:]] == left
