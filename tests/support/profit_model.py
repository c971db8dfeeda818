"""The expected-profit strategy, naively: everything is computed anew from all events for every answer.

Written from the strategy's definition alone; like model.py it imports nothing of the program.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tests.support import model

FEWEST_BIDS = 3
GREATEST = 2**53 - 1


@dataclass(frozen=True)
class Request:
    """What an agent asks, and when the swarm pays."""

    description: str
    base: int
    cost: int | None = None
    failure_cost: int = 0
    paid_on_win: bool = False


@dataclass(frozen=True)
class Answer:
    """The bid, its factor, and the multipliers of the three steps by name."""

    bid: int
    factor: float
    steps: dict[str, float]


def bin_of(sats: int) -> int:
    """Exact below 16, then sixteen bins an octave."""
    if sats < 16:
        return sats
    exponent = sats.bit_length() - 1
    return 16 * (exponent - 3) + ((sats >> (exponent - 4)) & 15)


def edge(number: int) -> int:
    """The least sats of a bin."""
    return number if number < 16 else (16 + number % 16) << (number // 16 - 1)


def prices_of(events: Iterable[model.Event], agent: str) -> dict[tuple[int, int], tuple[int, int]]:
    """(class of the own bid, bin of the price) -> (lost, won), counted over all outcomes of the agent."""
    events = list(events)
    counted: dict[tuple[int, int], tuple[int, int]] = {}
    for (task, who), outcome in model.outcomes(events).items():
        if who != agent:
            continue
        own = outcome.bid_sats
        price = own if outcome.won else winning_price(events, task)
        if not own or not price:
            continue
        cell = (bin_of(own) // 8, bin_of(price))
        lost, won = counted.get(cell, (0, 0))
        counted[cell] = (lost, won + 1) if outcome.won else (lost + 1, won)
    return counted


def winning_price(events: Iterable[model.Event], task: str) -> int | None:
    """What the task's standing close says the winner bid; None if nobody won or it does not say."""
    closes = [event for event in events if isinstance(event, model.AuctionClosed) and event.task_id == task]
    closes.sort(
        key=lambda close: (
            -close.closed_at,
            close.winner_agent_id is not None,
            close.winner_agent_id or "",
            close.winning_bid_sats is not None,
            close.winning_bid_sats or 0,
        )
    )
    return None if closes[0].winner_agent_id is None else closes[0].winning_bid_sats


def answer(events: Iterable[model.Event], agent: str, request: Request) -> Answer:
    """What expected-profit answers to the agent after these events."""
    events = list(events)
    known = model.metrics(model.outcomes(events)).get(agent, model.NO_HISTORY)
    base = request.base
    if known.total_bids < FEWEST_BIDS or base < 1:
        return Answer(base, 1.0, {})
    overall = overall_chance(known)
    chance = chance_by_words(known, overall, request.description)
    mine = bin_of(base) // 8
    cells: dict[int, tuple[int, int]] = {}
    for (group, number), (lost, won) in prices_of(events, agent).items():
        if group in {mine - 1, mine, mine + 1}:
            before = cells.get(number, (0, 0))
            cells[number] = (before[0] + lost, before[1] + won)
    bid = best(request, chance, overall, cells)
    without_prices = best(request, chance, overall, {})
    alone = best(request, overall, overall, {})
    steps = {
        "prior_margin": alone / base,
        "chance_to_deliver": without_prices / alone,
        "rivals_prices": bid / without_prices,
    }
    return Answer(bid, bid / base, {name: step for name, step in steps.items() if step != 1})


def overall_chance(known: model.Metrics) -> float:
    """The share of won tasks that get done, with eight results' worth of 0.6."""
    done, failed = known.tasks_completed, known.tasks_failed
    return (done + 0.6 * 8.0) / (done + failed + 8.0)


def chance_by_words(known: model.Metrics, overall: float, description: str) -> float:
    """The same for a task of this text."""
    odds = overall / (1 - overall)
    r = 1.0
    seen: list[str] = []
    for word in model.keywords(description):
        if word in seen:
            continue
        seen.append(word)
        s, f = known.keyword_wins.get(word, 0), known.keyword_failures.get(word, 0)
        if s == 0 and f == 0:
            continue
        r *= ((s + 1.5 * overall) / (f + 1.5 * (1 - overall))) / odds
        r = min(max(r, 2.0**-40), 2.0**40)
    od = odds * math.sqrt(r)
    return od / (1 + od)


def best(request: Request, p: float, pb: float, cells: Mapping[int, tuple[int, int]]) -> int:
    """The bid of the greatest expected profit."""
    base = request.base
    if request.cost is None:
        a, c = p / math.sqrt(pb), 0.6 * base
    else:
        a, c = p, request.cost + (1 - p) * request.failure_cost
    if request.paid_on_win:
        a = 1.0
    low = max(1, int(base * 0.8))
    high = min(GREATEST, max(low, int(base * 2.0)))
    total = sum(lost + won for lost, won in cells.values())
    start = min([bin_of(low), *cells])
    sp = survival(start, base)
    win = (total + 8.0 * sp) / (total + 8.0)
    greatest, bid = -math.inf, base
    for k in range(start, bin_of(high) + 2):
        b = edge(k) - 1
        if low <= b <= high:
            u = win * (a * b - c)
            if u > greatest:
                greatest, bid = u, b
        sn = survival(k + 1, base)
        lost, won = cells.get(k, (0, 0))
        win *= 1 - (lost + 8.0 * (sp - sn)) / (total + 8.0 * sp)
        total -= lost + won
        sp = sn
    if greatest <= 0 and c > 0:
        bid = high
    return bid


def survival(k: int, base: int) -> float:
    """The assumed chance that the others' lowest bid is not below the bin."""
    omega = 1 / ((1 - 0.6) * 6.0 - 1)
    x = edge(k) / base
    x *= x
    return 1.0 / (1.0 + omega * (x * x * x))
