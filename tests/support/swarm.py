"""What a swarm publishes: seeded realistic histories, and small adversarial ones for Hypothesis."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

from tests.support.model import MAX_SATS, AuctionClosed, BidPlaced, Event, TaskFinished

START_US = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z
SECOND_US = 1_000_000
TICK_US = 100_000  # coarse, so that times tie
AGENT_NAMES = ("agent-{}", "агент-{}", "agent-é-{}", "エージェント-{}", "agent {}/ж", "🤖-{}")
TASK_NAMES = ("task-{}", "task-{}", "заказ-{}", "🧾 {}")
TOPICS = (
    "parse invoices",
    "Translate the contract from German",
    "scrape product pages",
    "summarize legal documents",
    "write unit tests for the parser",
    "classify support tickets",
    "label images",
    "Überprüfe the invoices, please",
)
EXTRAS = ("", " urgently", " with python", " python PYTHON", ", need it by 17:00", " — très vite", " task")


# --- realistic histories --------------------------------------------------------------------------


@dataclass(frozen=True)
class Published:
    """An event and when its publisher sent it, in microseconds since the epoch."""

    at: int
    event: Event


@dataclass(frozen=True)
class _Auction:
    """What is decided before an auction's first event."""

    task_id: str
    opened_at: int
    closed_at: int
    description: str
    crowd: tuple[int, ...]
    """The agents' numbers; the higher the number, the dearer the agent."""


def swarm_history(
    seed: int,
    auctions: int,
    *,
    agents: int = 24,
    bids_per_auction: int = 4,
    start_us: int = START_US,
    spacing_us: int = 2 * SECOND_US,
    tolerance_us: int = SECOND_US,
) -> list[Event]:
    """The events of `swarm_timeline` in the order they were published."""
    timeline = swarm_timeline(
        seed,
        auctions,
        agents=agents,
        bids_per_auction=bids_per_auction,
        start_us=start_us,
        spacing_us=spacing_us,
        tolerance_us=tolerance_us,
    )
    return [published.event for published in timeline]


def swarm_timeline(
    seed: int,
    auctions: int,
    *,
    agents: int = 24,
    bids_per_auction: int = 4,
    start_us: int = START_US,
    spacing_us: int = 2 * SECOND_US,
    tolerance_us: int = SECOND_US,
) -> list[Published]:
    """A seeded history in causal order: of each auction bids, close, results, interleaved over the auctions.

    Auctions open `spacing_us` apart and bid for 30 s. Bids and closes of one auction are published, and carry
    times, within 15 minutes, well inside the auction horizon; results come up to two hours later. Some bids
    are late (around the close plus `tolerance_us`), some closes are corrected, some events never come. The
    agents are the same for every seed, the tasks are not.
    """
    rng = random.Random(f"{seed}/{auctions}")
    timeline: list[Published] = []
    for number in range(auctions):
        opened_at = start_us + number * spacing_us
        crowd_size = min(agents, rng.randint(0, 2 * bids_per_auction))
        auction = _Auction(
            task_id=rng.choice(TASK_NAMES).format(f"{seed}-{number}"),
            opened_at=opened_at,
            closed_at=opened_at + 30 * SECOND_US,
            description=rng.choice(TOPICS) + rng.choice(EXTRAS),
            crowd=tuple(rng.sample(range(agents), crowd_size)),
        )
        timeline.extend(_events_of_auction(rng, auction, agents, tolerance_us))
    return sorted(timeline, key=lambda published: published.at)


def agent_id(number: int) -> str:
    """The id of the swarm's agent with this number, from 0."""
    return AGENT_NAMES[number % len(AGENT_NAMES)].format(number)


def _events_of_auction(
    rng: random.Random, auction: _Auction, agents: int, tolerance_us: int
) -> Iterator[Published]:
    bids = [bid for number in auction.crowd for bid in _bids_of_agent(rng, auction, number, tolerance_us)]
    yield from bids
    if rng.random() < 0.03:
        return  # the auction never closes
    closes = list(_closes(rng, auction, bids, agents))
    yield from closes
    for published in closes:
        yield from _results(rng, auction, published)


def _bids_of_agent(
    rng: random.Random, auction: _Auction, number: int, tolerance_us: int
) -> Iterator[Published]:
    """A bid; sometimes one more, later or at the same time; sometimes one after the close."""
    if rng.random() < 0.03:
        return  # this bid is never published, though its agent may win
    first = _bid(rng, auction, number, auction.opened_at + TICK_US * rng.randint(1, 290))
    yield Published(first.placed_at, first)
    if rng.random() < 0.25:
        placed_at = rng.choice([first.placed_at, auction.closed_at - TICK_US * rng.randint(0, 9)])
        again = _bid(rng, auction, number, placed_at)
        yield Published(min(auction.closed_at, placed_at + rng.randint(1, SECOND_US)), again)
    if rng.random() < 0.12:
        after = rng.choice([0, 1, tolerance_us - 1, tolerance_us, tolerance_us + 1, 3 * tolerance_us])
        late = _bid(rng, auction, number, auction.closed_at + max(0, after))
        yield Published(late.placed_at + rng.randint(2 * SECOND_US, 300 * SECOND_US), late)


def _bid(rng: random.Random, auction: _Auction, number: int, placed_at: int) -> BidPlaced:
    description = auction.description if rng.random() < 0.9 else auction.description + rng.choice(EXTRAS)
    return BidPlaced(
        task_id=auction.task_id,
        agent_id=agent_id(number),
        bid_sats=max(0, round((250 + 60 * number) * rng.uniform(0.85, 1.15) / 5) * 5),
        description=rng.choice([description] * 19 + [""]),
        placed_at=placed_at,
    )


def _closes(
    rng: random.Random, auction: _Auction, bids: Sequence[Published], agents: int
) -> Iterator[Published]:
    """A close; sometimes a correction: later, at the same time, or an older one that arrives late."""
    close = _close(rng, auction, bids, agents, auction.closed_at)
    yield Published(auction.closed_at + rng.randint(1, SECOND_US), close)
    if rng.random() < 0.12:
        moved = rng.choice([0, 0, 1, SECOND_US, 5 * SECOND_US, -1, -5 * SECOND_US])
        correction = _close(rng, auction, bids, agents, auction.closed_at + moved)
        yield Published(auction.closed_at + rng.randint(10 * SECOND_US, 600 * SECOND_US), correction)


def _close(
    rng: random.Random, auction: _Auction, bids: Sequence[Published], agents: int, closed_at: int
) -> AuctionClosed:
    winner, lowest_sats = _lowest_bidder(bids, closed_at)
    chance = rng.random()
    if chance < 0.03:
        winner, lowest_sats = None, None  # called off
    elif chance < 0.10:
        winner = agent_id(rng.randrange(agents))  # settled otherwise, often for somebody who never bid
    given = lowest_sats if rng.random() < 0.8 else rng.randint(1, 2_000)
    return AuctionClosed(
        task_id=auction.task_id,
        winner_agent_id=winner,
        winning_bid_sats=given if winner is not None and rng.random() < 0.6 else None,
        closed_at=closed_at,
        description=auction.description if rng.random() < 0.3 else None,
    )


def _lowest_bidder(bids: Sequence[Published], closed_at: int) -> tuple[str | None, int | None]:
    placed = [published.event for published in bids if isinstance(published.event, BidPlaced)]
    in_time = [bid for bid in placed if bid.placed_at <= closed_at]
    best = min(in_time, key=lambda bid: (bid.bid_sats, bid.agent_id), default=None)
    return (None, None) if best is None else (best.agent_id, best.bid_sats)


def _results(rng: random.Random, auction: _Auction, published_close: Published) -> Iterator[Published]:
    """The winner's result, if any; sometimes it flips; sometimes a loser gets one too."""
    close = published_close.event
    if not isinstance(close, AuctionClosed):
        return
    if close.winner_agent_id is not None and rng.random() < 0.85:
        yield from _results_of_agent(rng, auction, published_close, close.winner_agent_id)
    if auction.crowd and rng.random() < 0.05:
        yield from _results_of_agent(rng, auction, published_close, agent_id(rng.choice(auction.crowd)))


def _results_of_agent(
    rng: random.Random, auction: _Auction, published_close: Published, agent: str
) -> Iterator[Published]:
    """A result by the agent's skill at this kind of work; one in twelve flips, at the same time or later."""
    succeeded = rng.random() < _skill(agent, auction.description)
    finished_at = published_close.at + TICK_US * rng.randint(10, 36_000)
    yield Published(
        finished_at + rng.randint(1, SECOND_US),
        TaskFinished(auction.task_id, agent, succeeded, finished_at),
    )
    if rng.random() < 0.08:
        flipped_at = finished_at + rng.choice([0, 0, 1, 60 * SECOND_US])
        yield Published(
            flipped_at + rng.randint(2 * SECOND_US, 3_000 * SECOND_US),
            TaskFinished(auction.task_id, agent, not succeeded, flipped_at),
        )


def _skill(agent: str, description: str) -> float:
    """An agent's chance to succeed: the same in every history, so that there is something to learn."""
    overall = random.Random(agent).choice([0.15, 0.6, 0.75, 0.98])
    is_weak_spot = random.Random(agent + description.split(maxsplit=1)[0]).random() < 0.2
    return overall * 0.3 if is_weak_spot else overall


# --- adversarial histories ------------------------------------------------------------------------

_TASKS = ("t1", "t2", "задача", "t4")
_AGENTS = ("a", "b", "é", "🤖")
_SATS = (0, 1, 2, 100, MAX_SATS)
_DESCRIPTIONS = ("", "a", "b", "parse invoices", "parse the parser", "Invoices INVOICES", "žluť task")
_CLOSE_OFFSETS = (0, 1, SECOND_US, 5 * SECOND_US)
_TIMES = tuple(
    sorted(
        START_US + close + offset
        for close in _CLOSE_OFFSETS
        for offset in (-1, 0, 1, SECOND_US - 1, SECOND_US, SECOND_US + 1)
    )
)


def bids() -> st.SearchStrategy[BidPlaced]:
    """Bids at few times, most of them at or around a close or a close plus the tolerance of 1 s."""
    return st.builds(
        BidPlaced,
        task_id=st.sampled_from(_TASKS),
        agent_id=st.sampled_from(_AGENTS),
        bid_sats=st.sampled_from(_SATS),
        description=st.sampled_from(_DESCRIPTIONS),
        placed_at=st.sampled_from(_TIMES),
    )


def closes() -> st.SearchStrategy[AuctionClosed]:
    """Closes at few times, with and without a winner, a winning bid and a description."""
    return st.builds(
        AuctionClosed,
        task_id=st.sampled_from(_TASKS),
        winner_agent_id=st.sampled_from((None, *_AGENTS)),
        winning_bid_sats=st.sampled_from((None, *_SATS)),
        closed_at=st.sampled_from([START_US + offset for offset in _CLOSE_OFFSETS]),
        description=st.sampled_from((None, *_DESCRIPTIONS)),
    )


def results() -> st.SearchStrategy[TaskFinished]:
    """Results at few times."""
    return st.builds(
        TaskFinished,
        task_id=st.sampled_from(_TASKS),
        agent_id=st.sampled_from(_AGENTS),
        succeeded=st.booleans(),
        finished_at=st.sampled_from([START_US + offset for offset in _CLOSE_OFFSETS]),
    )


def events(max_size: int = 40) -> st.SearchStrategy[list[Event]]:
    """Small histories in no order: few tasks, agents and times, so that ties and boundaries are common."""
    return st.lists(st.one_of(bids(), closes(), results()), max_size=max_size)


# --- delivery -------------------------------------------------------------------------------------


def shuffled_with_duplicates(events: Sequence[Event], seed: int, share: float = 0.2) -> list[Event]:
    """The same events in any order, with `share` of them (at least one, if there are any) delivered twice."""
    rng = random.Random(seed)
    copies = min(len(events), max(1, round(share * len(events)))) if share > 0 else 0
    delivered = [*events, *rng.sample(list(events), copies)]
    rng.shuffle(delivered)
    return delivered
