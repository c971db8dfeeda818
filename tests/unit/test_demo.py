"""The demo's pure parts: its draws, its auctions, its comparison and the sentences on it."""

import dataclasses
from collections.abc import Iterable
from io import StringIO
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from learner_worker.client import BidAdvice
from learner_worker.commands.demo import demo
from learner_worker.contract.events import AuctionClosed, BidPlaced, Event, TaskFinished
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.suggestions import Adjustment, AgentMetrics, SuggestBidReply
from learner_worker.demo import audit
from learner_worker.demo.auctions import Award, DemoAuction, award, demo_auctions
from learner_worker.demo.audit import AgentCounts, counted_by_hand, disagreements
from learner_worker.demo.comparison import (
    Figures,
    bids_by_agent,
    compare,
    figures,
    finished_auctions,
)
from learner_worker.demo.earnings import (
    CONTENDERS,
    SITUATIONS,
    Earning,
    Earnings,
    Simulation,
    earned,
    simulated,
)
from learner_worker.demo.headline import headline
from learner_worker.demo.market import Market, SilentLearnerError
from learner_worker.demo.personas import PERSONAS, WAYS, Way, demo_market, way_of
from learner_worker.demo.run import DemoOptions
from learner_worker.demo.view import PlainView, Scene, comparison_table, figure, opened_view
from learner_worker.domain.metrics import Metrics
from learner_worker.laboratory.auctions import Player, play
from learner_worker.laboratory.bidders import StaticBidder
from learner_worker.laboratory.families import families
from learner_worker.laboratory.findings import Findings
from learner_worker.laboratory.intervals import Interval, interval
from learner_worker.laboratory.luck import draw_auctions
from learner_worker.laboratory.trials import ORACLE, run_trials
from learner_worker.strategies.classic import classic
from tests.support.conditions import becomes_true

README = Path(__file__).parents[2] / "README.md"
ECHO, ECHO_STATIC = AgentId("echo-classic"), AgentId("echo-static")
HELM, HELM_STATIC = AgentId("helm-classic"), AgentId("helm-static")
COSTS = {TaskId("task-1"): 40, TaskId("task-2"): 45, TaskId("task-3"): 50, TaskId("task-4"): 55}


def _auctions(seed: int, count: int) -> list[DemoAuction]:
    return demo_auctions(demo_market(count), seed)


def asks(agent_id: AgentId) -> bool:
    return way_of(agent_id) == "classic"


def is_static(agent_id: AgentId) -> bool:
    return way_of(agent_id) == "static"


def _events(task: str, bids: dict[AgentId, int], winner: AgentId, succeeded: bool) -> list[Event]:
    task_id = TaskId(task)
    return [
        *(
            BidPlaced(task_id=task_id, agent_id=agent_id, bid_sats=bid_sats, description="")
            for agent_id, bid_sats in bids.items()
        ),
        AuctionClosed(task_id=task_id, winner_agent_id=winner, winning_bid_sats=bids[winner]),
        TaskFinished(task_id=task_id, agent_id=winner, succeeded=succeeded),
    ]


HISTORY: list[Event] = [
    *_events("task-1", {ECHO: 90, ECHO_STATIC: 100}, ECHO, succeeded=True),
    *_events("task-2", {ECHO: 110, ECHO_STATIC: 100, HELM: 120}, ECHO_STATIC, succeeded=True),
    *_events("task-3", {HELM: 80, HELM_STATIC: 100}, HELM, succeeded=False),
    *_events("task-4", {HELM: 60, HELM_STATIC: 100}, HELM, succeeded=True),
]


def test_the_same_seed_draws_the_same_auctions() -> None:
    """Tasks, base bids, luck and arrival depend on the seed alone; another seed draws others."""
    assert _auctions(7, 50) == _auctions(7, 50)
    assert _auctions(7, 50) != _auctions(8, 50)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--bootstrap-servers", "kafka:9092"], "--bootstrap-servers is used only with --broker given"),
        (["--broker", "given"], "--broker given needs --bootstrap-servers"),
    ],
)
def test_a_cluster_is_touched_only_on_request(arguments: list[str], words: str) -> None:
    """An address without `--broker given`, and the reverse: exit code 2 and what to add."""
    ended = CliRunner(env={"LEARNER_BOOTSTRAP_SERVERS": ""}).invoke(demo, arguments)
    assert (ended.exit_code, words in ended.output) == (2, True)


def test_siblings_meet_in_every_auction_with_one_draw() -> None:
    """All siblings of a persona bid in the same auctions, from one base bid and with one luck."""
    for auction in _auctions(7, 100):
        members = {agent for entry in auction.entries for agent in entry.siblings}
        assert set(auction.arrival) == members
        assert len(auction.arrival) == len(WAYS) * len(auction.entries)


@pytest.mark.parametrize("way", WAYS)
def test_the_luck_is_that_of_the_persona(way: Way) -> None:
    """Whichever sibling wins, the task ends and costs as the draw says."""
    for auction in _auctions(7, 50):
        for entry in auction.entries:
            winner = entry.persona.sibling(way)
            won = award(auction, dict.fromkeys(auction.arrival, 100) | {winner: 1})
            assert won == Award(winner, 1, entry.would_deliver, entry.cost_sats)


def test_equal_bids_are_decided_by_a_fair_arrival() -> None:
    """Among equal bids the first to arrive wins, and in the long run each sibling is as often first."""
    auctions = _auctions(7, 2000)
    winners = [award(auction, dict.fromkeys(auction.arrival, 100)).agent_id for auction in auctions]
    assert winners == [auction.arrival[0] for auction in auctions]
    for way in WAYS:
        assert 580 < sum(way_of(winner) == way for winner in winners) < 760


def test_the_live_run_is_the_laboratorys() -> None:
    """Bidding the base wins, delivers and spends what the laboratory's run of this seed does."""
    market = demo_market(60)
    players = [Player(agent, StaticBidder()) for agent in range(len(PERSONAS))]
    play(market, draw_auctions(market, 3), players)
    live = dict.fromkeys(PERSONAS, Figures())
    for auction in demo_auctions(market, 3):
        bids = {entry.persona.sibling("static"): entry.base_bid_sats for entry in auction.entries}
        alone = dataclasses.replace(auction, arrival=tuple(a for a in auction.arrival if a in bids))
        won = award(alone, bids)
        persona = next(one for one in PERSONAS if one.sibling("static") == won.agent_id)
        before = live[persona]
        live[persona] = dataclasses.replace(
            before,
            auctions_won=before.auctions_won + 1,
            paid_sats=before.paid_sats + won.bid_sats * won.succeeded,
            cost_sats=before.cost_sats + won.cost_sats,
        )
    assert [(one.auctions_won, one.paid_sats, one.cost_sats) for one in live.values()] == [
        (player.ledger.won, player.ledger.paid, player.ledger.cost) for player in players
    ]


def test_figures_are_those_computed_by_hand() -> None:
    """Won, completed, failed, paid and spent, for the agents that ask: a failed task earns nothing."""
    assert figures(finished_auctions(HISTORY, COSTS), asks) == Figures(
        auctions_won=3, tasks_completed=2, tasks_failed=1, paid_sats=150, cost_sats=145
    )
    assert bids_by_agent(HISTORY) == {ECHO: 2, ECHO_STATIC: 2, HELM: 3, HELM_STATIC: 2}


def test_the_comparison_is_that_computed_by_hand() -> None:
    """The figures of four auctions, group against group, with what chance alone would do."""
    compared = {line.name: line for line in compare(finished_auctions(HISTORY, COSTS), asks, is_static)}
    assert {name: (line.asking, line.static) for name, line in compared.items()} == {
        "auctions won": (3, 1),
        "success rate": (pytest.approx(200 / 3), 100),
        "sats paid": (150, 100),
        "effort spent": (145, 45),
        "profit": (5, 55),
    }
    assert compared["auctions won"].by_chance == pytest.approx(2 * 4**0.5)
    assert compared["sats paid"].by_chance == pytest.approx(2 * (90**2 + 100**2 + 60**2) ** 0.5)
    assert compared["profit"].by_chance == pytest.approx(2 * (50**2 + 55**2 + 50**2 + 5**2) ** 0.5)
    assert compared["success rate"].by_chance == pytest.approx(100 * 2 * (0.75 * 0.25 * (1 / 3 + 1)) ** 0.5)


def test_what_a_third_group_won_is_left_out() -> None:
    """Two groups are compared by their own auctions alone."""
    other = _events("task-5", {AgentId("echo-expected-profit"): 70}, AgentId("echo-expected-profit"), True)
    both = compare(finished_auctions([*HISTORY, *other], COSTS), asks, is_static)
    assert both == compare(finished_auctions(HISTORY, COSTS), asks, is_static)


def test_only_auctions_with_a_winner_and_its_result_are_compared() -> None:
    """An auction nobody won, one without a result, and a result of somebody else count for nothing."""
    task = [TaskId(name) for name in ("nobody", "open", "other")]
    events: list[Event] = [
        AuctionClosed(task_id=task[0], winner_agent_id=None, winning_bid_sats=None),
        AuctionClosed(task_id=task[1], winner_agent_id=ECHO, winning_bid_sats=1),
        AuctionClosed(task_id=task[2], winner_agent_id=ECHO, winning_bid_sats=1),
        TaskFinished(task_id=task[2], agent_id=HELM, succeeded=True),
    ]
    assert finished_auctions(events) == []


def test_an_empty_group_is_compared_without_a_division() -> None:
    """Where one group won nothing its rates are 0 and no difference of means is beyond chance."""
    compared = {line.name: line for line in compare(finished_auctions(HISTORY[:4]), asks, is_static)}
    assert compared["success rate"].static == 0
    assert not compared["success rate"].beyond_chance


def test_the_simulation_counts_what_the_laboratory_does() -> None:
    """A row for each situation and strategy: paired differences of profit over the seeds, none left out."""
    simulation = Simulation(range(4, 7), 20)
    earnings = simulation.play()
    assert simulation.finished == simulation.runs
    assert (earnings.own.seeds, earnings.others.seeds) == (3, 1)
    assert len(earnings.others.markets) == len(families()) - 1
    trials = [
        trial
        for seed in range(4, 7)
        for trial in run_trials(demo_market(20), seed, CONTENDERS, SITUATIONS)
        if trial.contender != ORACLE
    ]
    assert len(earnings.rows) == len(SITUATIONS) * len(CONTENDERS)
    for row in earnings.rows:
        own = [one for one in trials if (one.population, one.contender) == (row.situation, row.contender)]
        assert row.more == interval([float(one.asking.profit - one.static.profit) for one in own])
        assert row.asking - row.static == pytest.approx(row.more.mean)


async def test_a_simulation_that_nobody_waits_for_ends() -> None:
    """Leaving early ends it after the runs that are being simulated."""
    simulation = Simulation(range(1, 1_000), 10)
    async with simulated(simulation):
        await becomes_true(lambda: simulation.finished > 0, seconds=100)
    assert simulation.finished < simulation.runs


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (10.0, 30.0, "pays: +20 (95 %"),
        (-30.0, -10.0, "costs: -20 (95 %"),
        (-5.0, 45.0, "may pay or not: +20"),
    ],
)
def test_the_headline_claims_what_the_interval_allows(low: float, high: float, said: str) -> None:
    """Paying, costing, or neither is clear; always with the interval and the number of seeds."""
    more, alone = Interval((low + high) / 2, low, high, 30), Interval(7.0, -1.0, 15.0, 30)
    own = Findings(30, 1, {}, (), (), (), ())
    rows = [
        Earning("siblings", "classic", 100.0, 120.0, more, 0.8),
        Earning("one", "classic", 100.0, 107.0, alone, 0.6),
    ]
    text = headline(Earnings(rows, own, own))
    assert f"classic {said}" in text
    assert f"(95 % interval {low:+.0f} to {high:+.0f})" in text
    assert "ahead in 80 % of 30 seeds; +7 (95 % interval -1 to +15) for one agent" in text


def test_the_readme_says_what_is_simulated() -> None:
    """The table of the README has the figures of the demo's own seeds: whoever runs it sees them."""
    market = demo_market(DemoOptions().auctions)
    trials = [
        trial
        for seed in range(DemoOptions().seed, DemoOptions().seed + DemoOptions().seeds)
        for trial in run_trials(market, seed, CONTENDERS, SITUATIONS[:2])
    ]
    classic, profit, classic_alone, profit_alone = (
        f"{row.more.mean:+.0f} ±{row.more.high - row.more.mean:.0f}" for row in earned(trials)
    )
    text = README.read_text(encoding="utf-8")
    assert f"| {classic} | {profit} |" in text
    assert f"| {classic_alone} | {profit_alone} |" in text


@pytest.mark.parametrize(
    ("value", "unit", "sign", "text"),
    [
        (1234.4, "", False, "1 234"),
        (61.3, "%", False, "61 %"),
        (44, "", True, "+44"),
        (-3, "", True, "-3"),
        (-0.4, "", True, "+0"),
    ],
)
def test_a_figure_reads_easily(value: float, unit: str, sign: bool, text: str) -> None:
    """Thousands stand apart, units follow, differences carry their sign."""
    assert figure(value, unit, sign=sign) == text


def test_plain_output_has_one_line_for_every_so_many_auctions() -> None:
    """Without a terminal a run prints about a dozen lines of progress, the last auction's among them."""
    output = StringIO()
    view = PlainView(Console(file=output), total=40)
    for number, auction in enumerate(_auctions(7, 40), start=1):
        won = award(auction, dict.fromkeys(auction.arrival, 100))
        view.show(Scene(number, 40, auction, won, finished_auctions(HISTORY, COSTS), {}))
    lines = output.getvalue().splitlines()
    assert [line.split()[1] for line in lines][-2:] == ["39/40", "40/40"]
    assert lines[-1].endswith("profit so far: static 55, classic 5, expected-profit 0")
    assert len(lines) == 14


def test_the_comparison_prints_every_figure() -> None:
    """The table has a line for each figure: static, then the group that asks and the difference."""
    output = StringIO()
    auctions = finished_auctions(HISTORY, COSTS)
    table = comparison_table({"classic": compare(auctions, asks, is_static)})
    Console(file=output, width=80).print(table)
    won = next(line for line in output.getvalue().splitlines() if "auctions won" in line)
    assert won.split() == ["auctions", "won", "1", "3", "+2", "±4"]


class HistoryLearner:
    """Answers from the published history by the default strategy, without Kafka; or not at all."""

    def __init__(self) -> None:
        self.market: Market | None = None
        self.miscounts = 0
        self.asked: list[tuple[str, str, str | None, int | None]] = []

    async def suggest_bid_or_base(
        self,
        agent_id: str,
        *,
        description: str,
        base_bid_sats: int,
        strategy: str | None = None,
        task_id: str | None = None,
        cost_sats: int | None = None,
    ) -> BidAdvice:
        if strategy is not None:
            self.asked.append((agent_id, strategy, task_id, cost_sats))
        if self.market is None:
            return BidAdvice(base_bid_sats, None, "TIMEOUT: no reply")
        history = self.market.history
        counts = counted_by_hand(history).get(AgentId(agent_id), AgentCounts(0, 0, 0, 0))
        metrics = Metrics(*counts._replace(auctions_won=counts.auctions_won + self.miscounts))
        suggestion = classic(metrics, {}, description, base_bid_sats)
        reply = SuggestBidReply(
            agent_id=AgentId(agent_id),
            base_bid_sats=base_bid_sats,
            suggested_bid_sats=suggestion.suggested_bid_sats,
            strategy="classic",
            factor=suggestion.factor,
            adjustments=[
                Adjustment(rule=advice.rule, multiplier=advice.multiplier, reason=advice.reason)
                for advice in suggestion.rules
            ],
            metrics=AgentMetrics(
                total_bids=metrics.total_bids,
                auctions_won=metrics.auctions_won,
                tasks_completed=metrics.tasks_completed,
                tasks_failed=metrics.tasks_failed,
                win_rate=metrics.win_rate,
                success_rate=metrics.success_rate,
                avg_winning_bid_sats=0.0,
            ),
            as_of=None,
            stale=False,
        )
        return BidAdvice(reply.suggested_bid_sats, reply, None)


class RecordingPublisher:
    """Writes down what it is told to publish."""

    def __init__(self) -> None:
        self.published: list[Event] = []

    async def bid_placed(self, task_id: str, agent_id: str, *, bid_sats: int, description: str) -> None:
        self.published.append(
            BidPlaced(
                task_id=TaskId(task_id),
                agent_id=AgentId(agent_id),
                bid_sats=bid_sats,
                description=description,
            )
        )

    async def auction_closed(
        self, task_id: str, *, winner_agent_id: str | None, winning_bid_sats: int | None
    ) -> None:
        winner = None if winner_agent_id is None else AgentId(winner_agent_id)
        self.published.append(
            AuctionClosed(task_id=TaskId(task_id), winner_agent_id=winner, winning_bid_sats=winning_bid_sats)
        )

    async def task_finished(self, task_id: str, agent_id: str, *, succeeded: bool) -> None:
        self.published.append(
            TaskFinished(task_id=TaskId(task_id), agent_id=AgentId(agent_id), succeeded=succeeded)
        )


async def _play_all(market: Market, auctions: Iterable[DemoAuction]) -> None:
    for auction in auctions:
        await market.play(auction)


async def _played(auctions: int) -> tuple[HistoryLearner, RecordingPublisher, Market]:
    learner, publisher = HistoryLearner(), RecordingPublisher()
    market = learner.market = Market(learner, publisher)
    await _play_all(market, _auctions(7, auctions))
    return learner, publisher, market


async def test_the_history_is_what_was_published() -> None:
    """The comparison is made from the very events that went to Kafka, in their order."""
    _, publisher, market = await _played(30)
    assert market.history == publisher.published
    assert len(finished_auctions(market.history)) == 30


async def test_static_siblings_keep_their_bid_and_the_others_take_the_advice() -> None:
    """A static bid is always the drawn one; an asking one is the base times the factor of the reply."""
    learner, _, market = await _played(30)
    bids = {(bid.task_id, bid.agent_id): bid.bid_sats for bid in market.history if isinstance(bid, BidPlaced)}
    expected = []
    for auction in _auctions(7, 30):
        for entry in auction.entries:
            assert bids[auction.task_id, entry.persona.sibling("static")] == entry.base_bid_sats
            for way, cost_sats in (("classic", None), ("expected-profit", entry.cost_sats)):
                expected.append((f"{entry.persona.name}-{way}", way, auction.task_id, cost_sats))
    assert any(advice.factor != 1 for advice in market.advice.values())
    assert learner.asked == expected


async def test_a_learner_that_counts_right_agrees() -> None:
    """No agent's metrics differ from the history."""
    learner, _, market = await _played(10)
    assert await disagreements(learner, market.history) == []


async def test_a_learner_that_miscounts_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every agent whose metrics stay wrong is named, with both counts."""
    monkeypatch.setattr(audit, "CATCH_UP_SECONDS", 0.05)
    learner, _, market = await _played(10)
    learner.miscounts = 1
    wrong = await disagreements(learner, market.history)
    assert [sentence.split(":")[0] for sentence in wrong] == sorted(bids_by_agent(market.history))


async def test_an_unanswered_agent_bids_its_base_and_a_silent_learner_ends_the_demo() -> None:
    """Without a reply the base bid is placed; after a run of silence the demo gives up and says why."""
    market = Market(HistoryLearner(), RecordingPublisher())
    auctions = iter(_auctions(7, 50))
    first = next(auctions)
    await market.play(first)
    placed = {bid.agent_id: bid.bid_sats for bid in market.history if isinstance(bid, BidPlaced)}
    assert placed == {agent: entry.base_bid_sats for entry in first.entries for agent in entry.siblings}
    with pytest.raises(SilentLearnerError, match="TIMEOUT"):
        await _play_all(market, auctions)


@pytest.mark.parametrize("width", [80, 160])
async def test_the_live_table_tells_of_every_agent(width: int) -> None:
    """On a narrow and on a wide terminal: every persona, the factor and the gist of the reason."""
    _, _, market = await _played(30)
    output = StringIO()
    console = Console(file=output, width=width, height=30, force_terminal=True)
    last = _auctions(7, 30)[-1]
    finished = finished_auctions(market.history, market.costs_sats)
    with opened_view(console, 30) as view:
        view.show(Scene(30, 30, last, Award(ECHO, 90, succeeded=True, cost_sats=1), finished, market.advice))
    shown = output.getvalue()
    for persona in PERSONAS:
        assert persona.name in shown
    assert "be more competitive" in shown
    assert ("x0.85 be more" in shown) == (width == 160)
