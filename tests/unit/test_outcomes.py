"""Outcomes: the join of facts and its laws, and the tie-breaks of every part."""

from itertools import permutations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner_worker.contract.facts import (
    Bid,
    Close,
    Fact,
    Result,
    decode_fact,
    description_digest,
    encode_fact,
)
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.times import Micros
from learner_worker.domain.outcomes import (
    Outcome,
    greater_bid,
    greater_close,
    greater_result,
    join,
    supersedes,
)

TASK, ME, OTHER = TaskId("t"), AgentId("me"), AgentId("other")


def closed(at: int, winner: AgentId | None = None, sats: int | None = None, text: str | None = None) -> Close:
    return Close(Micros(at), winner, sats, None if text is None else description_digest(text), text)


def without_text(close: Close) -> Close:
    return Close(close.closed_at, close.winner, close.winning_bid_sats, close.description_digest)


times = st.integers(0, 2).map(Micros)
full_closes = st.builds(
    closed,
    times,
    st.sampled_from((None, ME, OTHER)),
    st.sampled_from((None, 0, 1)),
    st.sampled_from((None, "", "parse", "label")),
)
closes = full_closes | full_closes.map(without_text)
bids = st.builds(Bid, times, st.integers(0, 2), st.sampled_from(("", "a", "b")))
results = st.builds(Result, times, st.booleans())
facts = st.builds(Fact, st.just(TASK), st.just(ME), st.none() | closes, st.none() | bids, st.none() | results)


def joined(*parts: Fact) -> Outcome:
    outcome = Outcome(TASK, ME)
    for part in parts:
        outcome = join(outcome, part)
    return outcome


def as_fact(outcome: Outcome) -> Fact:
    return Fact(*msgspec.structs.astuple(outcome))


@given(facts, facts)
def test_the_join_is_commutative(one: Fact, other: Fact) -> None:
    """Two facts end in the same outcome in either order."""
    assert joined(one, other) == joined(other, one)


@given(facts, facts, facts)
def test_the_join_is_associative(one: Fact, two: Fact, three: Fact) -> None:
    """It does not matter which facts were joined first."""
    assert joined(as_fact(joined(one, two)), three) == joined(one, as_fact(joined(two, three)))


@given(facts, facts)
def test_the_join_is_idempotent(one: Fact, other: Fact) -> None:
    """A fact that is known already changes nothing: the very same object comes back."""
    outcome = joined(one, other)

    assert outcome is join(outcome, one)
    assert outcome is join(outcome, other)


@given(st.lists(facts, max_size=4))
def test_any_order_of_facts_ends_in_the_same_outcome(several: list[Fact]) -> None:
    """All permutations of up to four facts agree."""
    assert len({joined(*order) for order in permutations(several)}) == 1


@given(facts, facts)
def test_equal_keys_have_equal_content(one: Fact, other: Fact) -> None:
    """Where the close carries its text as settle sends it, two facts of one key are the same record."""
    (first_key, first_value), (second_key, second_value) = map(encode_fact, map(_as_sent, (one, other)))

    if first_key == second_key:
        assert first_value == second_value


def _as_sent(fact: Fact) -> Fact:
    close = fact.close
    if close is None or (fact.bid is None and close.winner == ME and close.description is not None):
        return fact
    if fact.bid is None and close.winner == ME and close.description_digest is not None:
        texts = {description_digest(text): text for text in ("", "parse", "label")}
        text = texts[close.description_digest]
        return Fact(TASK, ME, closed(close.closed_at, ME, close.winning_bid_sats, text), None, fact.result)
    return Fact(TASK, ME, without_text(close), fact.bid, fact.result)


@given(facts)
def test_a_fact_survives_its_record(fact: Fact) -> None:
    """What is written to learner-outcomes is what is read back."""
    assert fact == decode_fact(encode_fact(fact)[1])


@pytest.mark.parametrize(
    ("smaller", "greater"),
    [
        (closed(1, ME), closed(2, OTHER)),
        (closed(2, AgentId("b")), closed(2, AgentId("a"))),
        (closed(2, ME), closed(2, None)),
        (closed(2, None, 3), closed(2, None)),
        (closed(2, ME, 0), closed(2, ME)),
        (closed(2, ME, 4), closed(2, ME, 3)),
        (closed(2, ME, 3), closed(2, AgentId("m"), 4)),
        (closed(2, ME, 3, "x"), closed(2, ME, 3)),
        (closed(2, ME, 3, ""), closed(2, ME, 3)),
    ],
)
def test_which_close_stands(smaller: Close, greater: Close) -> None:
    """The later one; at equal times the smaller winner, null first, then the smaller winning bid, no text."""
    assert greater == greater_close(smaller, greater) == greater_close(greater, smaller)
    assert supersedes(greater, smaller)
    assert not supersedes(smaller, greater)


def test_of_equal_closes_the_smaller_digest_stands() -> None:
    """Where only the text differs its digest decides, so that closes without their text compare the same."""
    parse, label = closed(1, ME, 2, "parse"), closed(1, ME, 2, "label")
    smaller = min(parse, label, key=lambda close: close.description_digest or "")

    assert smaller == greater_close(parse, label) == greater_close(label, parse)
    assert without_text(smaller) == greater_close(without_text(parse), without_text(label))


def test_a_close_with_its_text_is_kept_over_one_without() -> None:
    """A copy without the text neither replaces nor supersedes the close that has it."""
    full = closed(1, ME, 2, "parse")

    assert full == greater_close(without_text(full), full) == greater_close(full, without_text(full))
    assert [supersedes(full, without_text(full)), supersedes(without_text(full), full)] == [False, False]


def test_any_close_supersedes_none_and_a_copy_supersedes_nothing() -> None:
    """The first close is new, its copy is not."""
    assert supersedes(closed(1), None)
    assert not supersedes(closed(1, ME), closed(1, ME))


@pytest.mark.parametrize(
    ("smaller", "greater"),
    [
        (Bid(Micros(1), 1, "a"), Bid(Micros(2), 9, "z")),
        (Bid(Micros(2), 5, "a"), Bid(Micros(2), 4, "z")),
        (Bid(Micros(2), 4, "b"), Bid(Micros(2), 4, "a")),
        (Bid(Micros(2), 4, "a"), Bid(Micros(2), 4, "")),
        (Bid(Micros(2), 4, "a"), Bid(Micros(2), 4, "Z")),
        (Bid(Micros(2), 4, "\U0001f600"), Bid(Micros(2), 4, "\uffff")),
    ],
)
def test_which_bid_counts(smaller: Bid, greater: Bid) -> None:
    """The last one; at equal times the lower, then the smaller description, by code points."""
    assert greater == greater_bid(smaller, greater) == greater_bid(greater, smaller)


@pytest.mark.parametrize(
    ("smaller", "greater"),
    [
        (Result(Micros(1), succeeded=False), Result(Micros(2), succeeded=True)),
        (Result(Micros(1), succeeded=True), Result(Micros(2), succeeded=False)),
        (Result(Micros(2), succeeded=True), Result(Micros(2), succeeded=False)),
    ],
)
def test_which_result_stands(smaller: Result, greater: Result) -> None:
    """The latest; at equal times failed stands."""
    assert greater == greater_result(smaller, greater) == greater_result(greater, smaller)


def test_absent_is_least() -> None:
    """Any part is greater than none."""
    close, bid, result = closed(0), Bid(Micros(0), 0, ""), Result(Micros(0), succeeded=True)

    assert close == greater_close(None, close) == greater_close(close, None)
    assert bid == greater_bid(None, bid) == greater_bid(bid, None)
    assert result == greater_result(None, result) == greater_result(result, None)
    assert (
        greater_close(None, None),
        greater_bid(None, None),
        greater_result(None, None),
    ) == (None, None, None)


BID = Bid(Micros(1), 70, "bid's")


@pytest.mark.parametrize(
    ("outcome", "counts", "won", "sats", "text"),
    [
        (Outcome(TASK, ME), False, False, None, ""),
        (Outcome(TASK, ME, None, BID), False, False, 70, "bid's"),
        (Outcome(TASK, ME, closed(2, OTHER)), False, False, None, ""),
        (Outcome(TASK, ME, closed(2)), False, False, None, ""),
        (Outcome(TASK, ME, closed(2, OTHER, 5), BID), True, False, 70, "bid's"),
        (Outcome(TASK, ME, closed(2, None), BID), True, False, 70, "bid's"),
        (Outcome(TASK, ME, closed(2, ME)), True, True, None, ""),
        (Outcome(TASK, ME, closed(2, ME, 0)), True, True, 0, ""),
        (Outcome(TASK, ME, closed(2, ME, 5, "close's"), BID), True, True, 5, "bid's"),
        (Outcome(TASK, ME, closed(2, ME, None, "close's"), BID), True, True, 70, "bid's"),
        (Outcome(TASK, ME, closed(2, ME, 5, "close's")), True, True, 5, "close's"),
        (Outcome(TASK, ME, closed(2, ME, 5, "close's"), Bid(Micros(1), 70, "")), True, True, 5, ""),
    ],
)
def test_what_an_outcome_says(outcome: Outcome, counts: bool, won: bool, sats: int | None, text: str) -> None:
    """A row counts with a close and a bid or the win; the close's price goes first, the bid's text does."""
    assert (counts, won, sats, text) == (outcome.counts, outcome.won, outcome.bid_sats, outcome.description)
