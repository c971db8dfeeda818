"""One seed of one market: every contender in every population, beside the same run without it."""

from collections.abc import Iterator, Sequence
from typing import Final, Literal, get_args

import msgspec

from learner_worker.laboratory.auctions import SEGMENTS, Ledger, Player, play
from learner_worker.laboratory.bidders import Contender, StaticBidder
from learner_worker.laboratory.hindsight import best_in_hindsight
from learner_worker.laboratory.luck import DrawnAuction, draw_auctions
from learner_worker.laboratory.market import MarketModel
from learner_worker.strategies.protocol import PaidOn

Population = Literal["one", "all", "twins", "mixed", "siblings"]
"""Who asks: one agent among static ones; all; one of each pair of twins; a part by each way of bidding; of
each agent one sibling by each way of bidding, beside a static one."""
POPULATIONS: Final[tuple[Population, ...]] = get_args(Population)
ORACLE: Final = "oracle"


class Totals(msgspec.Struct, frozen=True):
    """Sums over some agents of a run, in sats and tasks."""

    profit: int = 0
    base: int = 0
    won: int = 0
    done: int = 0
    paid: int = 0
    cost: int = 0

    @classmethod
    def of(cls, ledgers: Sequence[Ledger]) -> "Totals":
        """The totals of these."""
        return cls(
            profit=sum(one.profit for one in ledgers),
            base=sum(one.base for one in ledgers),
            won=sum(one.won for one in ledgers),
            done=sum(one.done for one in ledgers),
            paid=sum(one.paid for one in ledgers),
            cost=sum(one.cost for one in ledgers),
        )


class Trial(msgspec.Struct, frozen=True):
    """What a contender made of a run.

    Gains are sats of profit more than without it, per 100 sats of base bid of the auctions entered.

    Attributes:
        curve: the gain in each tenth of the run.
        cold: the gain in each agent's first bids.
        asking: the figures of the agents that bid its way.
        static: those of the same agents without it, or of their static siblings.
        buyers: what all agents of the run did, and in the run where nobody asks; for `all` only.
        regret: what the oracle would have earned more; None where rivals are not static.
    """

    market: str
    seed: int
    population: Population
    contender: str
    gain: float
    curve: tuple[float, ...]
    cold: float
    asking: Totals
    static: Totals
    buyers: tuple[Totals, Totals] | None = None
    regret: float | None = None


def run_trials(
    market: MarketModel, seed: int, contenders: Sequence[Contender], populations: Sequence[Population]
) -> list[Trial]:
    """All trials of a seed."""
    return list(_Run(market, seed).trials(contenders, populations))


class _Run:
    """The drawn run, and how it goes when nobody asks."""

    def __init__(self, market: MarketModel, seed: int) -> None:
        self._market = market
        self._seed = seed
        self._auctions: Sequence[DrawnAuction] = draw_auctions(market, seed)
        self._paid_on: PaidOn = market.paid_on if market.paid_on_told else "success"
        self._agents = range(len(market.agents))
        self._asking = [place for place in self._agents if market.agents[place].asks]
        self._static = self._ledgers({})

    def trials(self, contenders: Sequence[Contender], populations: Sequence[Population]) -> Iterator[Trial]:
        if "one" in populations:
            yield from self._one(contenders)
        if "mixed" in populations:
            yield from self._mixed(contenders)
        if "siblings" in populations:
            yield from self._siblings(contenders)
        for contender in contenders:
            if "all" in populations:
                yield self._all(contender)
            if "twins" in populations:
                yield self._pairs(contender)

    def _one(self, contenders: Sequence[Contender]) -> Iterator[Trial]:
        """One agent asks, another one in each seed."""
        focal = self._asking[self._seed % len(self._asking)]
        before = [self._static[focal]]
        best = best_in_hindsight(self._market, self._auctions, focal)
        for contender in contenders:
            after = [self._ledgers({focal: contender})[focal]]
            trial = self._trial("one", contender.label, after, before)
            regret = _per_base(best - trial.asking.profit, trial.asking.base)
            yield msgspec.structs.replace(trial, regret=regret)
        yield self._oracle(best, Totals.of(before))

    def _oracle(self, best: int, static: Totals) -> Trial:
        return Trial(
            market=self._market.name,
            seed=self._seed,
            population="one",
            contender=ORACLE,
            gain=_per_base(best - static.profit, static.base),
            curve=(),
            cold=0.0,
            asking=msgspec.structs.replace(static, profit=best),
            static=static,
        )

    def _mixed(self, contenders: Sequence[Contender]) -> Iterator[Trial]:
        """The agents are dealt to bidding the base and to every contender, otherwise in each seed."""
        hands: Sequence[Contender | None] = [None, *contenders]
        dealt = {
            agent: contender
            for place, agent in enumerate(self._asking)
            if (contender := hands[(place + self._seed) % len(hands)]) is not None
        }
        after = self._ledgers(dealt)
        for contender in contenders:
            own = [agent for agent, dealt_one in dealt.items() if dealt_one is contender]
            if own:
                mine = [after[agent] for agent in own]
                yield self._trial("mixed", contender.label, mine, [self._static[agent] for agent in own])

    def _all(self, contender: Contender) -> Trial:
        """All who may ask do."""
        after = self._ledgers(dict.fromkeys(self._asking, contender))
        own, before = (
            [after[agent] for agent in self._asking],
            [self._static[agent] for agent in self._asking],
        )
        trial = self._trial("all", contender.label, own, before)
        return msgspec.structs.replace(trial, buyers=(Totals.of(after), Totals.of(self._static)))

    def _pairs(self, contender: Contender) -> Trial:
        """Every asking agent has a static twin with the same base, skill and luck."""
        others = [Player(agent, StaticBidder()) for agent in self._agents]
        asking = [Player(agent, contender.bidder(self._paid_on), seat=1) for agent in self._asking]
        play(self._market, self._auctions, [*others, *asking])
        own, partners = [one.ledger for one in asking], [others[agent].ledger for agent in self._asking]
        return self._trial("twins", contender.label, own, partners)

    def _siblings(self, contenders: Sequence[Contender]) -> Iterator[Trial]:
        """Every asking agent exists once for each way of bidding, in one market and with one luck."""
        auctions = draw_auctions(self._market, self._seed, siblings=1 + len(contenders))
        static = [Player(agent, StaticBidder()) for agent in self._agents]
        groups = [
            [Player(agent, contender.bidder(self._paid_on), seat=seat) for agent in self._asking]
            for seat, contender in enumerate(contenders, 1)
        ]
        play(self._market, auctions, [*static, *(player for group in groups for player in group)])
        partners = [static[agent].ledger for agent in self._asking]
        for contender, group in zip(contenders, groups, strict=True):
            yield self._trial("siblings", contender.label, [player.ledger for player in group], partners)

    def _ledgers(self, asking: dict[int, Contender]) -> list[Ledger]:
        players = [
            Player(agent, asking[agent].bidder(self._paid_on) if agent in asking else StaticBidder())
            for agent in self._agents
        ]
        play(self._market, self._auctions, players)
        return [player.ledger for player in players]

    def _trial(
        self, population: Population, label: str, asking: Sequence[Ledger], static: Sequence[Ledger]
    ) -> Trial:
        after, before = Totals.of(asking), Totals.of(static)
        return Trial(
            market=self._market.name,
            seed=self._seed,
            population=population,
            contender=label,
            gain=_per_base(after.profit - before.profit, after.base),
            curve=tuple(_segment_gain(asking, static, segment) for segment in range(SEGMENTS)),
            cold=_per_base(
                sum(one.cold_profit for one in asking) - sum(one.cold_profit for one in static),
                sum(one.cold_base for one in asking),
            ),
            asking=after,
            static=before,
        )


def _segment_gain(asking: Sequence[Ledger], static: Sequence[Ledger], segment: int) -> float:
    profit = sum(one.segment_profit[segment] for one in asking)
    without = sum(one.segment_profit[segment] for one in static)
    return _per_base(profit - without, sum(one.segment_base[segment] for one in asking))


def _per_base(sats: int, base: int) -> float:
    return 100 * sats / base if base else 0.0
