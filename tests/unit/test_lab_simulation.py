"""The laboratory's markets: the same luck for everybody, exact books, baselines that are what they say."""

import random
from collections.abc import Sequence

import pytest

from learner_worker.contract.facts import Bid, Close, Result
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.times import Micros
from learner_worker.domain.outcomes import Outcome
from learner_worker.laboratory.auctions import Player, payment, play
from learner_worker.laboratory.bidders import RANDOM, Contender, StaticBidder
from learner_worker.laboratory.families import families
from learner_worker.laboratory.hindsight import best_in_hindsight
from learner_worker.laboratory.luck import Contestant, DrawnAuction, draw_auctions
from learner_worker.laboratory.market import MarketAgent, MarketModel
from learner_worker.laboratory.memory import AgentMemory
from learner_worker.laboratory.questions import all_questions
from learner_worker.laboratory.simulation import Plan, simulate
from learner_worker.laboratory.trials import POPULATIONS, Trial, run_trials
from learner_worker.strategies.expected_profit import EXPECTED_PROFIT
from learner_worker.strategies.protocol import SettledBid
from learner_worker.strategies.sums import GrowingSums, settled_bid, update
from tests.support.totals import totals
from tests.unit.lab_strategies import DEAR, STILL

STILL_ONE = Contender("still", "tests.unit.lab_strategies:STILL")
CLASSIC_ONE = Contender("classic", "classic")
SMALL = families()["skills by word"].model_copy(update={"auctions": 40})


def named(name: str, **changes: object) -> MarketModel:
    return families()[name].model_copy(update={"auctions": 40, **changes})


def only(trials: Sequence[Trial], population: str, contender: str) -> Trial:
    (trial,) = [one for one in trials if (one.population, one.contender) == (population, contender)]
    return trial


def test_there_are_families_of_both_kinds() -> None:
    """At least fifteen, at least eight held out, and every strategy finishes each of them."""
    markets = families()
    assert len(markets) >= 15
    assert sum(market.held_out for market in markets.values()) >= 8
    for market in markets.values():
        short = market.model_copy(update={"auctions": 12})
        run_trials(short, 1, [RANDOM, Contender("expected-profit", "expected-profit")], POPULATIONS)


def test_a_seed_is_a_run() -> None:
    """The same seed draws the same auctions, another one others."""
    assert draw_auctions(SMALL, 3) == draw_auctions(SMALL, 3)
    assert draw_auctions(SMALL, 3) != draw_auctions(SMALL, 4)


def test_who_stays_away_changes_nobody_elses_luck() -> None:
    """Every agent's draws are made whether it enters or not."""
    absent = [
        agent.model_copy(update={"enters": 0.0, "entries": {}}) if place == 2 else agent
        for place, agent in enumerate(SMALL.agents)
    ]
    without = draw_auctions(SMALL.model_copy(update={"agents": tuple(absent)}), 5)
    for full, less in zip(draw_auctions(SMALL, 5), without, strict=True):
        assert less.contestants == tuple(one for one in full.contestants if one.agent != 2)


def test_bidding_the_base_changes_nothing() -> None:
    """A strategy that suggests the base gains exactly 0, alone, together and in a mixture."""
    trials = run_trials(SMALL, 1, [STILL_ONE], ("one", "all", "mixed"))
    for population in ("one", "all", "mixed"):
        trial = only(trials, population, "still")
        assert (trial.gain, set(trial.curve), trial.cold) == (0.0, {0.0}, 0.0)
        assert trial.asking == trial.static


def test_agents_misjudge_the_market_anew_in_every_run() -> None:
    """An agent's base bids are off by one factor in a run, by another in the next; luck and costs stay."""
    spread = SMALL.model_copy(update={"markup_spread": 0.3})
    factors = set()
    for seed in (1, 2):
        for plain, off in zip(draw_auctions(SMALL, seed), draw_auctions(spread, seed), strict=True):
            for one, other in zip(plain.contestants, off.contestants, strict=True):
                assert other._replace(base_bid_sats=one.base_bid_sats) == one
                if one.agent == 0:
                    factors.add((seed, round(other.base_bid_sats / one.base_bid_sats, 1)))
    assert {seed for seed, _ in factors} == {1, 2}
    assert len(factors) <= 4  # one for each seed, but for rounding


def test_siblings_meet_with_one_luck() -> None:
    """Siblings that all bid the base win equally often in the long run; more change no earlier seat."""
    market = named("demo", auctions=1_500)
    trials = run_trials(market, 1, [STILL_ONE, Contender("again", STILL_ONE.strategy)], ("siblings",))
    wins = [trials[0].static.won, trials[0].asking.won, trials[1].asking.won]
    assert sum(wins) == sum(bool(auction.contestants) for auction in draw_auctions(market, 1))
    assert all(430 < won < 570 for won in wins)
    assert len({one.base for one in (trials[0].static, trials[0].asking, trials[1].asking)}) == 1
    for pairs, siblings in zip(draw_auctions(market, 1), draw_auctions(market, 1, siblings=3), strict=True):
        for one, more in zip(pairs.contestants, siblings.contestants, strict=True):
            assert more._replace(arrivals=more.arrivals[:2], seen=more.seen[:2]) == one
            assert (len(more.arrivals), len(more.seen)) == (3, 3)


def test_the_books_balance() -> None:
    """Every auction has one winner, who is paid its bid for a done task; segments and totals agree."""
    auctions = draw_auctions(SMALL, 7)
    players = [Player(place, StaticBidder()) for place in range(len(SMALL.agents))]
    play(SMALL, auctions, players)
    ledgers = [player.ledger for player in players]
    winners = [min(one.contestants, key=lambda c: (c.base_bid_sats, c.arrivals[0])) for one in auctions]
    assert sum(ledger.won for ledger in ledgers) == len(auctions)
    assert sum(ledger.done for ledger in ledgers) == sum(one.luck < one.chance for one in winners)
    assert sum(ledger.paid for ledger in ledgers) == sum(
        payment(SMALL, one, one.base_bid_sats)[0] for one in winners
    )
    for ledger in ledgers:
        assert sum(ledger.segment_profit) == ledger.profit
        assert ledger.bids <= 20 or ledger.cold_base < ledger.base


def test_who_is_paid_on_winning_is_paid_for_failures() -> None:
    """And a failure costs what it costs besides."""
    agent = Contestant(0, 100, 40, 30, 0.5, 0.7, 0.0, (0.1, 0.2), (1.0, 1.0))
    assert payment(named("paid on win"), agent, 90) == (90, 70)
    assert payment(SMALL, agent, 90) == (0, 70)
    assert payment(SMALL, agent._replace(luck=0.3), 90) == (90, 40)


def test_a_strategy_is_told_what_the_market_tells() -> None:
    """Its own bid, who won, the price if the close says it; in bursts nothing until the last auction."""
    STILL.settled.clear()
    run_trials(named("silent closes", prices_told=0.0), 1, [STILL_ONE], ("all",))
    assert STILL.settled
    assert all(bid.winning_bid_sats is None for bid in STILL.settled)
    assert all((bid.succeeded is not None) == bid.won for bid in STILL.settled)
    STILL.settled.clear()
    run_trials(named("bursts", burst=1_000), 1, [STILL_ONE], ("all",))
    assert STILL.settled == []


@pytest.mark.parametrize(
    ("contender", "words", "costs"),
    [
        (STILL_ONE, True, False),
        (Contender("x", STILL_ONE.strategy, tells_costs=True), True, True),
        (Contender("x", STILL_ONE.strategy, words=False), False, False),
    ],
)
def test_a_contender_says_what_it_is_to_say(contender: Contender, words: bool, costs: bool) -> None:
    """Costs only where they are told, no text without words."""
    STILL.asked.clear()
    run_trials(SMALL, 1, [contender], ("all",))
    assert {bool(text) for text, *_ in STILL.asked} == {words}
    assert {cost is not None for _, _, cost, _ in STILL.asked} == {costs}


def test_without_prices_a_strategy_sees_no_sums() -> None:
    """The ablation leaves the metrics and words."""
    STILL.asked.clear()
    run_trials(SMALL, 1, [Contender("x", STILL_ONE.strategy, prices=False)], ("one",))
    assert all(not sums for _, sums, _, _ in STILL.asked)


@pytest.mark.parametrize(
    ("family", "expected"), [("paid on win", "win"), ("paid on win untold", "success"), ("demo", "success")]
)
def test_the_learner_is_told_when_it_is_paid(family: str, expected: str) -> None:
    """Or not, where the family says so."""
    STILL.asked.clear()
    run_trials(named(family), 1, [STILL_ONE], ("one",))
    assert {paid_on for *_, paid_on in STILL.asked} == {expected}


def test_twins_share_all_but_the_coin() -> None:
    """With equal bids the twins divide what they win; one that asks more wins less often."""
    asking_more = Contender("dear", "tests.unit.lab_strategies:DEAR")
    trials = run_trials(SMALL, 1, [STILL_ONE, asking_more], ("twins",))
    even, dear = only(trials, "twins", "still"), only(trials, "twins", "dear")
    assert even.asking.base == even.static.base
    assert even.asking.won + even.static.won == dear.asking.won + dear.static.won
    assert dear.asking.won < even.asking.won
    assert DEAR.settled


def test_a_mixture_deals_every_hand() -> None:
    """Over the seeds each agent bids each way, and its gain is against itself without asking."""
    static = run_trials(SMALL, 1, [STILL_ONE], ("all",))[0].static
    mixed = [run_trials(SMALL, seed, [STILL_ONE, CLASSIC_ONE], ("mixed",)) for seed in (1, 2, 3)]
    assert all(only(trials, "mixed", "still").asking.base < static.base for trials in mixed)


def test_the_oracle_bids_the_best_price_that_wins() -> None:
    """Against every bid tried out one by one in the same auctions."""
    for name in ("few bidders", "noisy buyers", "paid on win", "dear failures"):
        market = named(name)
        auctions = draw_auctions(market, 2)
        tried = sum(_best_by_trial(market, auction, agent=0) for auction in auctions)
        assert tried == best_in_hindsight(market, auctions, 0), name


def _best_by_trial(market: MarketModel, auction: DrawnAuction, agent: int) -> int:
    own = next((one for one in auction.contestants if one.agent == agent), None)
    if own is None:
        return 0
    best, profit = 0.0, 0
    for bid in range(1, 2 * own.base_bid_sats + 1):
        offers = [
            (one.base_bid_sats * one.seen[0], one.arrivals[0]) for one in auction.contestants if one != own
        ]
        if min([(bid * own.seen[0], own.arrivals[0]), *offers])[1] != own.arrivals[0]:
            continue
        share = 1.0 if market.paid_on == "win" else own.chance
        expected = share * bid - own.cost_sats - (1 - own.chance) * own.failure_cost_sats
        if expected > best:
            paid, cost = payment(market, own, bid)
            best, profit = expected, paid - cost
    return profit


def test_memory_is_what_the_learner_keeps() -> None:
    """Metrics, keywords and sums of random bids equal those that outcomes make."""
    chance = random.Random("memory")
    memory, outcomes = AgentMemory(EXPECTED_PROFIT), [_drawn_outcome(chance, one) for one in range(200)]
    sums: GrowingSums = {}
    for outcome in outcomes:
        settled = settled_bid(outcome)
        assert settled is not None
        memory.learn(settled)
        update(EXPECTED_PROFIT, sums, settled)
    assert (memory.metrics, memory.tallies, memory.sums) == (*totals(outcomes), sums)


def _drawn_outcome(chance: random.Random, number: int) -> Outcome:
    agent, task = AgentId("echo"), TaskId(f"task-{number}")
    won, price = chance.random() < 0.5, chance.choice((None, 80, 120))
    text = " ".join(chance.choices(("parse", "label", "the"), k=3))
    return Outcome(
        task,
        agent,
        Close(Micros(number), agent if won else AgentId("mace"), price),
        Bid(Micros(number), chance.randrange(200), text),
        Result(Micros(number), chance.random() < 0.5) if won and chance.random() < 0.8 else None,
    )


def test_the_cores_do_not_matter() -> None:
    """Two processes find what one finds, in the same order, and say when each run is over."""
    finished: list[int] = []
    plan = Plan((SMALL, named("mmlu")), (RANDOM, CLASSIC_ONE), ("one", "twins"), range(1, 4))
    alone = simulate(plan, processes=1, finished=lambda: finished.append(1))
    assert simulate(plan, processes=2, finished=lambda: finished.append(2)) == alone
    assert finished == [1] * 6 + [2] * 6


def test_questions_are_tasks() -> None:
    """Right answers are certain, wrong ones too; the texts are keywords."""
    questions = all_questions()
    assert len(questions) == 14_042
    auctions = draw_auctions(named("mmlu"), 1)
    models = [agent.model for agent in families()["mmlu"].agents]
    rights = {question.description: question.right for question in questions}
    for auction in auctions:
        for one in auction.contestants:
            assert one.chance in {0.0, 1.0}
        assert auction.description in rights
    assert sorted(models) == [1, 1, 2, 2]


def test_a_late_agent_and_a_trend_show() -> None:
    """Newcomers do not bid before their time; falling prices end lower than they began."""
    newcomers = draw_auctions(families()["newcomers"], 1)
    assert not [one for auction in newcomers[:79] for one in auction.contestants if one.agent == 1]
    assert [one for auction in newcomers[79:] for one in auction.contestants if one.agent == 1]
    falling = draw_auctions(families()["falling prices"], 1)
    bids = [one.base_bid_sats for auction in falling for one in auction.contestants if one.agent == 1]
    assert sum(bids[-20:]) < 0.75 * sum(bids[:20])


def test_settled_bids_are_plain() -> None:
    """What simulate tells is what a worker would."""
    assert SettledBid(100, True, 100, "parse", True, 5) == settled_bid(
        Outcome(
            TaskId("t"),
            AgentId("echo"),
            Close(Micros(5), AgentId("echo"), 100),
            Bid(Micros(1), 90, "parse"),
            Result(Micros(6), True),
        )
    )
    assert settled_bid(Outcome(TaskId("t"), AgentId("echo"))) is None


def test_agents_have_sane_defaults() -> None:
    """A market needs names and base bids only."""
    agent = MarketAgent(name="a", base_bid_sats=100)
    assert (agent.skill, agent.cost_share, agent.enters, agent.asks) == (0.6, 0.45, 1.0, True)
