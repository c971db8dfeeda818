"""All chance of a run, drawn before anybody bids.

Every strategy meets the same tasks, entrants, base bids and luck: two runs of one seed differ in bids only.
"""

import math
import random
from collections.abc import Sequence
from typing import Final, NamedTuple

from learner_worker.contract.fields import MAX_SATS
from learner_worker.laboratory.market import MarketAgent, MarketModel
from learner_worker.laboratory.questions import all_questions

PAIR: Final = 2  # of each agent: enough for all but the siblings of several ways of bidding
_HALF = 0.5  # of the auctions: a skill that changes does so in the middle of a run


class Contestant(NamedTuple):
    """An agent in an auction: what it would bid, and what would become of the task in its hands.

    Attributes:
        agent: its place in the market's list.
        chance: its true chance to deliver.
        luck: it delivers if this is below `chance`.
        whim: the random-factor baseline's draw.
        arrivals: the order of its bid and of its siblings': of equal bids the first wins.
        seen: what buyers multiply its bid by, and its siblings'.
    """

    agent: int
    base_bid_sats: int
    cost_sats: int
    failure_cost_sats: int
    chance: float
    luck: float
    whim: float
    arrivals: tuple[float, ...]
    seen: tuple[float, ...]


class DrawnAuction(NamedTuple):
    """A task and who would bid for it. `number` counts from 0, `progress` is its share of the run."""

    number: int
    description: str
    contestants: tuple[Contestant, ...]
    price_told: bool


class Task(NamedTuple):
    """What is to be done.

    Attributes:
        trades: of its verb and of its thing; empty for a question.
        size: what it is worth, of the usual.
        right: of a question, whether model 1 and model 2 answer it right.
    """

    trades: tuple[str, ...]
    description: str
    size: float
    right: tuple[bool, bool]


def draw_auctions(market: MarketModel, seed: int, *, siblings: int = PAIR) -> list[DrawnAuction]:
    """The run of this seed; it depends on nothing but the market and the seed.

    Args:
        siblings: how often each agent exists at most; more change nothing for those before them.
    """
    chance = random.Random(f"learner-worker lab {market.name} {seed}")
    tasks = _draw_questions(chance, market) if market.tasks == "mmlu" else _draw_tasks(chance, market)
    auctions = [_draw_auction(chance, market, number, task) for number, task in enumerate(tasks)]
    if market.markup_spread:
        markups = _draw_markups(market, seed)
        auctions = [_with_markups(auction, markups) for auction in auctions]
    if siblings <= PAIR:
        return auctions
    more = random.Random(f"learner-worker lab {market.name} {seed} siblings")
    return [_with_siblings(more, market, auction, siblings - PAIR) for auction in auctions]


def _draw_markups(market: MarketModel, seed: int) -> list[float]:
    """What each agent's base bids are multiplied by in this run; what its effort costs stays."""
    chance = random.Random(f"learner-worker lab {market.name} {seed} markups")
    return [math.exp(chance.gauss(0, market.markup_spread)) for _ in market.agents]


def _with_markups(auction: DrawnAuction, markups: Sequence[float]) -> DrawnAuction:
    return auction._replace(
        contestants=tuple(
            one._replace(base_bid_sats=whole_sats(one.base_bid_sats * markups[one.agent]))
            for one in auction.contestants
        )
    )


def _with_siblings(
    chance: random.Random, market: MarketModel, auction: DrawnAuction, more: int
) -> DrawnAuction:
    def joined(one: Contestant) -> Contestant:
        arrivals = [chance.random() for _ in range(more)]
        seen = [math.exp(chance.gauss(0, market.buyers_noise)) for _ in range(more)]
        return one._replace(arrivals=(*one.arrivals, *arrivals), seen=(*one.seen, *seen))

    return auction._replace(contestants=tuple(joined(one) for one in auction.contestants))


def _draw_tasks(chance: random.Random, market: MarketModel) -> list[Task]:
    weights = [trade.weight for trade in market.trades]
    return [_draw_task(chance, market, weights) for _ in range(market.auctions)]


def _draw_task(chance: random.Random, market: MarketModel, weights: Sequence[float]) -> Task:
    (home,) = chance.choices(market.trades, weights)
    away = home if chance.random() < market.same_trade else chance.choice(market.trades)
    text = f"{chance.choice(home.verbs)} the {chance.choice(away.things)}"
    occasion = chance.choice(market.occasions) if market.occasions else ""
    size = math.exp(chance.gauss(0, market.size_spread))
    return Task((home.name, away.name), f"{text} {occasion}".rstrip(), size, (False, False))


def _draw_questions(chance: random.Random, market: MarketModel) -> list[Task]:
    return [
        Task((), question.description, 1.0, question.right)
        for question in chance.choices(all_questions(), k=market.auctions)
    ]


def _draw_auction(chance: random.Random, market: MarketModel, number: int, task: Task) -> DrawnAuction:
    progress = number / market.auctions
    drawn = [_draw_contestant(chance, market, index, task, progress) for index in range(len(market.agents))]
    priced = chance.random() < market.prices_told
    return DrawnAuction(number, task.description, tuple(one for one in drawn if one is not None), priced)


def _draw_contestant(
    chance: random.Random, market: MarketModel, index: int, task: Task, progress: float
) -> Contestant | None:
    """The agent in the auction, if it enters; the same number of draws either way."""
    agent = market.agents[index]
    entry, luck, whim = chance.random(), chance.random(), chance.random()
    stray = 1 + agent.jitter * chance.uniform(-1, 1)
    arrivals = chance.random(), chance.random()
    seen = math.exp(chance.gauss(0, market.buyers_noise)), math.exp(chance.gauss(0, market.buyers_noise))
    if progress < agent.arrives_at or entry >= _chance_to_enter(agent, task):
        return None
    price = agent.base_bid_sats * task.size
    return Contestant(
        agent=index,
        base_bid_sats=whole_sats(price * stray * agent.trend**progress),
        cost_sats=round(price * agent.cost_share),
        failure_cost_sats=round(price * agent.failure_cost_share),
        chance=_chance_to_deliver(agent, task, progress),
        luck=luck,
        whim=whim,
        arrivals=arrivals,
        seen=seen,
    )


def _chance_to_enter(agent: MarketAgent, task: Task) -> float:
    return max([agent.entries.get(trade, agent.enters) for trade in task.trades], default=agent.enters)


def _chance_to_deliver(agent: MarketAgent, task: Task, progress: float) -> float:
    if not task.trades:
        return float(task.right[agent.model - 1])
    share = 1.0 if progress < _HALF else agent.later_skill_share
    return share * sum([agent.skills.get(trade, agent.skill) for trade in task.trades]) / len(task.trades)


def whole_sats(price: float) -> int:
    """A price as a bid."""
    return min(MAX_SATS, max(1, round(price)))
