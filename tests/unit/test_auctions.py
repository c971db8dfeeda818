"""An auction: which facts a bid or a close brings about, and what is remembered until then."""

from itertools import permutations

from learner_worker.contract.facts import Bid, Close, Fact, description_digest
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.times import Micros
from learner_worker.domain.auctions import Auction
from learner_worker.domain.outcomes import Outcome, join

TASK, A, B, C = TaskId("t"), AgentId("a"), AgentId("b"), AgentId("c")
TOLERANCE = 2


def bid(at: int, sats: int = 70, text: str = "parse") -> Bid:
    return Bid(Micros(at), sats, text)


def closed(at: int, winner: AgentId | None = None, sats: int | None = None, text: str | None = None) -> Close:
    return Close(Micros(at), winner, sats, None if text is None else description_digest(text), text)


def fact(agent_id: AgentId, close: Close, counted: Bid | None = None) -> Fact:
    return Fact(TASK, agent_id, close, counted)


def test_nothing_is_sent_before_the_close() -> None:
    """Bids wait, all of them, whatever their number."""
    auction = Auction(TASK)

    assert auction.place(A, bid(1), TOLERANCE) == []
    assert auction.place(A, bid(2), TOLERANCE) == []
    assert auction.place(B, bid(1), TOLERANCE) == []
    assert {A: [bid(1), bid(2)], B: [bid(1)]} == auction.pending_bids


def test_a_close_sends_every_bidders_last_bid() -> None:
    """Each bidder gets one fact, in the order of their names, with the last bid that counts."""
    auction = Auction(TASK)
    for agent_id, placed in ((B, bid(1)), (A, bid(5, 60)), (A, bid(4, 50)), (B, bid(3))):
        auction.place(agent_id, placed, TOLERANCE)

    assert [fact(A, closed(9, B), bid(5, 60)), fact(B, closed(9, B), bid(3))] == auction.close(
        closed(9, B), TOLERANCE
    )
    assert ({A, B}, {}) == (auction.notified, auction.pending_bids)


def test_a_bid_up_to_the_tolerance_after_the_close_counts() -> None:
    """Placed at the close plus the tolerance counts, one microsecond later waits."""
    auction = Auction(TASK)
    auction.place(A, bid(11), TOLERANCE)
    auction.place(B, bid(12), TOLERANCE)

    assert [fact(A, closed(9), bid(11))] == auction.close(closed(9), TOLERANCE)
    assert {B: [bid(12)]} == auction.pending_bids


def test_a_bid_after_the_close_is_settled_at_once_or_waits() -> None:
    """Under a standing close the same boundary holds for bids that arrive later."""
    auction = Auction(TASK)
    auction.close(closed(9), TOLERANCE)

    assert [fact(A, closed(9), bid(11))] == auction.place(A, bid(11), TOLERANCE)
    assert auction.place(A, bid(12), TOLERANCE) == []
    assert ({A: [bid(12)]}, {A}) == (auction.pending_bids, auction.notified)


def test_a_corrected_close_admits_bids_that_waited() -> None:
    """Bid at 9, bid at 11, close at 9, then corrected to 11: the later bid counts after all."""
    auction = Auction(TASK)
    auction.place(A, bid(9), 0)
    auction.place(A, bid(11), 0)

    assert [fact(A, closed(9), bid(9))] == auction.close(closed(9), 0)
    assert [fact(A, closed(11), bid(11))] == auction.close(closed(11), 0)


def test_a_newer_close_is_sent_to_everybody_told_before() -> None:
    """Counted bidders hear of every newer close, without their bid: learn has it already."""
    auction = Auction(TASK)
    auction.place(A, bid(1), TOLERANCE)
    auction.close(closed(9, A), TOLERANCE)

    assert [fact(A, closed(10, B)), fact(B, closed(10, B))] == auction.close(closed(10, B), TOLERANCE)


def test_an_agent_that_only_an_earlier_close_named_is_told_of_no_outcome() -> None:
    """Close (0, A), then close (7, B), neither bid: A gets the standing close that does not name it."""
    auction = Auction(TASK)

    assert [fact(A, closed(0, A))] == auction.close(closed(0, A), TOLERANCE)
    assert [fact(A, closed(7, B)), fact(B, closed(7, B))] == auction.close(closed(7, B), TOLERANCE)


def test_a_superseded_close_that_comes_late_sends_the_standing_one_to_its_winner() -> None:
    """Closed at 12 for A, then the older close at 5 for B: B hears of the standing one, once."""
    auction = Auction(TASK)
    auction.close(closed(12, A), TOLERANCE)

    assert [fact(B, closed(12, A))] == auction.close(closed(5, B), TOLERANCE)
    assert auction.close(closed(5, B), TOLERANCE) == []
    assert auction.close(closed(4, None), TOLERANCE) == []
    assert ({A, B}, closed(12, A)) == (auction.notified, auction.standing)


def test_a_copy_of_the_standing_close_sends_nothing() -> None:
    """Its bidders and its winner know it already."""
    auction = Auction(TASK)
    auction.place(A, bid(1), TOLERANCE)
    auction.close(closed(9, A), TOLERANCE)

    assert auction.close(closed(9, A), TOLERANCE) == []


def test_a_superseded_close_admits_nothing() -> None:
    """A pending bid is measured by the standing close alone."""
    auction = Auction(TASK)
    auction.place(A, bid(14), 0)
    auction.close(closed(12), 0)

    assert [fact(B, closed(12))] == auction.close(closed(5, B), 0)
    assert {A: [bid(14)]} == auction.pending_bids


def test_one_bid_waits_for_each_time_of_placing() -> None:
    """Two bids of equal time with a duplicate of the first: in any order the lower one is left."""
    dear, cheap = bid(5, 60), bid(5, 50)
    for order in permutations((dear, cheap, dear)):
        auction = Auction(TASK)
        for placed in order:
            auction.place(A, placed, TOLERANCE)
        assert {A: [cheap]} == auction.pending_bids


def test_the_closes_text_travels_only_to_a_winner_without_a_bid() -> None:
    """Where a bid brings its own text, or the agent did not win, the digest alone is sent."""
    full = closed(9, A, 7, "label")
    bare = Close(full.closed_at, full.winner, full.winning_bid_sats, full.description_digest)
    auction = Auction(TASK)
    auction.place(B, bid(1), TOLERANCE)

    assert [fact(A, full), fact(B, bare, bid(1))] == auction.close(full, TOLERANCE)
    assert [fact(A, bare, bid(2))] == auction.place(A, bid(2), TOLERANCE)
    assert [fact(C, bare)] == auction.close(closed(3, C), TOLERANCE)


def test_a_copy_changes_on_its_own() -> None:
    """Nothing that happens to a copy shows in the original, and the reverse."""
    auction = Auction(TASK)
    auction.place(A, bid(20), TOLERANCE)
    auction.close(closed(9, B), TOLERANCE)
    copy = auction.copy()
    copy.place(A, bid(21), TOLERANCE)
    copy.place(C, bid(22), TOLERANCE)
    copy.close(closed(10, C), TOLERANCE)
    auction.close(closed(5, AgentId("d")), TOLERANCE)

    assert (closed(9, B), {B, AgentId("d")}, {A: [bid(20)]}) == (
        auction.standing,
        auction.notified,
        auction.pending_bids,
    )
    assert (closed(10, C), {B, C}, {A: [bid(20), bid(21)], C: [bid(22)]}) == (
        copy.standing,
        copy.notified,
        copy.pending_bids,
    )


def test_every_order_of_bids_and_closes_ends_in_the_same_outcomes() -> None:
    """All 720 orders of three bids and three closes join to the same outcomes, agent by agent."""
    events: list[tuple[AgentId, Bid] | Close] = [
        (A, bid(9, 60)),
        (A, bid(9, 50)),
        (B, bid(11)),
        closed(8, A),
        closed(9, B, 40),
        closed(9, C, 40, "label"),
    ]
    expected = {
        A: Outcome(TASK, A, closed(9, B, 40), bid(9, 50)),
        B: Outcome(TASK, B, closed(9, B, 40), bid(11)),
        C: Outcome(TASK, C, closed(9, B, 40)),
    }

    for order in permutations(events):
        assert expected == _outcomes(order)


def _outcomes(order: tuple[tuple[AgentId, Bid] | Close, ...]) -> dict[AgentId, Outcome]:
    auction = Auction(TASK)
    outcomes: dict[AgentId, Outcome] = {}
    for event in order:
        if isinstance(event, Close):
            facts = auction.close(event, TOLERANCE)
        else:
            facts = auction.place(*event, TOLERANCE)
        for sent in facts:
            known = outcomes.get(sent.agent_id, Outcome(TASK, sent.agent_id))
            outcomes[sent.agent_id] = join(known, sent)
    return outcomes
