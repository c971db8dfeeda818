"""The demo's pure parts: its draws, its auctions, its comparison and the sentences on it."""

from collections.abc import Callable, Iterable
from io import StringIO
from typing import Literal

import pytest
from click.testing import CliRunner
from rich.console import Console

from learner_worker.client import BidAdvice
from learner_worker.commands.demo import demo
from learner_worker.contract.events import AuctionClosed, BidPlaced, Event, TaskFinished
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.suggestions import Adjustment, AgentMetrics, LearnedKeyword, SuggestBidReply
from learner_worker.demo import audit
from learner_worker.demo.auctions import Award, DemoAuction, award, draw_auction
from learner_worker.demo.audit import AgentCounts, counted_by_hand, disagreements
from learner_worker.demo.comparison import (
    FigureDifference,
    Figures,
    bids_by_agent,
    compare,
    figures,
    finished_auctions,
)
from learner_worker.demo.market import Market, SilentLearnerError
from learner_worker.demo.personas import PERSONAS, asks
from learner_worker.demo.verdict import figure, verdict
from learner_worker.demo.view import PlainView, Scene, Standing, comparison_table, opened_view
from learner_worker.domain.metrics import Metrics
from learner_worker.strategies.classic import classic

ECHO, ECHO_STATIC = AgentId("echo"), AgentId("echo-static")
HELM, HELM_STATIC = AgentId("helm"), AgentId("helm-static")


def _auctions(seed: int, count: int) -> list[DemoAuction]:
    return [draw_auction(seed, number) for number in range(1, count + 1)]


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


def test_a_longer_run_starts_like_a_shorter_one() -> None:
    """An auction depends on its number, not on how many there are."""
    assert _auctions(7, 60)[:20] == _auctions(7, 20)


def test_twins_meet_in_every_auction_with_one_draw() -> None:
    """Both twins of a persona bid in the same auctions, from one base bid and with one luck."""
    for auction in _auctions(7, 100):
        members = {
            agent for entry in auction.entries for agent in (entry.persona.asking, entry.persona.static)
        }
        assert set(auction.arrival) == members
        assert len(auction.arrival) == 2 * len(auction.entries)


@pytest.mark.parametrize("member", [lambda persona: persona.asking, lambda persona: persona.static])
def test_the_luck_is_that_of_the_persona(member: Callable[..., AgentId]) -> None:
    """Whichever twin wins, the task ends as the draw says."""
    for auction in _auctions(7, 50):
        for entry in auction.entries:
            bids_sats = dict.fromkeys(auction.arrival, 100) | {member(entry.persona): 1}
            won = award(auction, bids_sats)
            assert (won.agent_id, won.bid_sats, won.succeeded) == (
                member(entry.persona),
                1,
                entry.would_deliver,
            )


def test_equal_bids_are_decided_by_a_fair_arrival() -> None:
    """Among equal bids the first to arrive wins, and in the long run that is either twin as often."""
    auctions = _auctions(7, 2000)
    winners = [award(auction, dict.fromkeys(auction.arrival, 100)).agent_id for auction in auctions]
    assert winners == [auction.arrival[0] for auction in auctions]
    assert 900 < sum(asks(winner) for winner in winners) < 1100


def test_every_persona_bids_on_its_favourite_words() -> None:
    """A task with a favourite word is never passed over, and every persona gets its share of auctions."""
    for auction in _auctions(7, 200):
        verb, _, thing, *_ = auction.description.split()
        bidders = {entry.persona for entry in auction.entries}
        assert {persona for persona in PERSONAS if persona.known_words(verb, thing)} <= bidders


def test_the_chance_to_deliver_grows_with_the_words_known() -> None:
    """No favourite word, one, two: from the skill elsewhere to the full skill."""
    echo = PERSONAS[0]
    chances = [
        echo.chance_to_deliver("deploy", "cluster"),
        echo.chance_to_deliver("deploy", "meeting"),
        echo.chance_to_deliver("digest", "meeting"),
    ]
    assert chances == pytest.approx([0.30, 0.61, 0.92])


def test_figures_are_those_computed_by_hand() -> None:
    """Won, completed, failed and paid, for the agents that ask: a failed task earns nothing."""
    assert figures(finished_auctions(HISTORY), asks) == Figures(
        auctions_won=3, tasks_completed=2, tasks_failed=1, sats_earned=150
    )
    assert bids_by_agent(HISTORY) == {ECHO: 2, ECHO_STATIC: 2, HELM: 3, HELM_STATIC: 2}


def test_the_comparison_is_that_computed_by_hand() -> None:
    """The six figures of four auctions, group against group, with what chance alone would do."""
    compared = {line.name: line for line in compare(finished_auctions(HISTORY), asks)}
    assert {name: (line.asking, line.static) for name, line in compared.items()} == {
        "auctions won": (3, 1),
        "tasks completed": (2, 1),
        "tasks failed": (1, 0),
        "success rate": (pytest.approx(200 / 3), 100),
        "sats earned": (150, 100),
        "sats per win": (50, 100),
    }
    assert compared["auctions won"].by_chance == pytest.approx(2 * 4**0.5)
    assert compared["sats earned"].by_chance == pytest.approx(2 * (90**2 + 100**2 + 60**2) ** 0.5)
    assert compared["success rate"].by_chance == pytest.approx(100 * 2 * (0.75 * 0.25 * (1 / 3 + 1)) ** 0.5)


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
    compared = {line.name: line for line in compare(finished_auctions(HISTORY[:4]), asks)}
    assert compared["success rate"].static == 0
    assert not compared["success rate"].beyond_chance


def _line(name: str, asking: float, static: float, by_chance: float = 1.0) -> FigureDifference:
    return FigureDifference(name, "", True, asking, static, by_chance)


def test_the_verdict_names_what_did_not_help() -> None:
    """The first sentence tells the gains, the second the losses, and either admits what may be chance."""
    lines = [
        _line("auctions won", 140, 100),
        _line("success rate", 61, 60, by_chance=9),
        _line("sats earned", 1000, 1200),
        _line("sats per win", 12, 12),
    ]
    gain, loss = verdict(lines)
    assert gain == (
        "Agents that asked the learner did better in auctions won (140 against 100)"
        " and success rate (61 against 60, which may be chance)."
    )
    assert loss == (
        "Learning did not help in sats earned (1 000 against 1 200) and sats per win (12 against 12)."
    )


def test_the_verdict_of_a_clear_case_has_two_sentences_too() -> None:
    """Nothing gained and nothing lost are said in words."""
    assert verdict([_line("auctions won", 1, 3)])[0] == "Asking the learner improved none of the figures."
    assert verdict([_line("auctions won", 3, 1)])[1] == "They were worse in none of the figures."


def test_fewer_failures_are_better() -> None:
    """For failed tasks less is a gain."""
    failed = FigureDifference("tasks failed", "", False, 1, 5, by_chance=2)
    assert failed.helped
    assert failed.beyond_chance


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
    nothing = Figures(0, 0, 0, 0)
    standings = [Standing(persona, nothing, nothing, None) for persona in PERSONAS]
    for number, auction in enumerate(_auctions(7, 40), start=1):
        won = award(auction, dict.fromkeys(auction.arrival, 100))
        view.show(Scene(number, 40, auction, won, standings))
    lines = output.getvalue().splitlines()
    assert [line.split()[1] for line in lines][-2:] == ["39/40", "40/40"]
    assert len(lines) == 14


def test_the_comparison_prints_every_figure() -> None:
    """The table has a line for each of the six figures and both halves of the run."""
    output = StringIO()
    auctions = finished_auctions(HISTORY)
    table = comparison_table(
        compare(auctions, asks), compare(auctions[:2], asks), compare(auctions[2:], asks)
    )
    Console(file=output, width=80).print(table)
    won = next(line for line in output.getvalue().splitlines() if "auctions won" in line)
    assert won.split() == ["auctions", "won", "3", "1", "+2", "±4", "1", ":", "1", "2", ":", "0"]


class HistoryLearner:
    """Answers from the published history by the default strategy, without Kafka; or not at all."""

    def __init__(self) -> None:
        self.market: Market | None = None
        self.miscounts = 0

    async def suggest_bid_or_base(
        self,
        agent_id: str,
        *,
        description: str,
        base_bid_sats: int,
        include: Iterable[Literal["learned_keywords"]] = (),
    ) -> BidAdvice:
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
            learned_keywords=[LearnedKeyword(keyword="digest", wins=3, failures=1, net=2)] * bool(include),
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


async def test_static_twins_keep_their_bid_and_asking_ones_take_the_advice() -> None:
    """A static bid is always the drawn one; an asking one is the base times the factor of the reply."""
    _, _, market = await _played(30)
    bids = {(bid.task_id, bid.agent_id): bid.bid_sats for bid in market.history if isinstance(bid, BidPlaced)}
    for auction in _auctions(7, 30):
        for entry in auction.entries:
            assert bids[auction.task_id, entry.persona.static] == entry.base_bid_sats
    assert any(advice.factor != 1 for advice in market.advice.values())


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
    assert placed == {
        agent: entry.base_bid_sats
        for entry in first.entries
        for agent in (entry.persona.asking, entry.persona.static)
    }
    with pytest.raises(SilentLearnerError, match="TIMEOUT"):
        await _play_all(market, auctions)


@pytest.mark.parametrize("width", [80, 160])
async def test_the_live_table_tells_of_every_agent(width: int) -> None:
    """On a narrow and on a wide terminal: every twin, the factor, the gist of the reason and a word."""
    _, _, market = await _played(30)
    output = StringIO()
    console = Console(file=output, width=width, height=30, force_terminal=True)
    auctions = finished_auctions(market.history)
    standings = [
        Standing(
            persona,
            figures(auctions, persona.asking.__eq__),
            figures(auctions, persona.static.__eq__),
            market.advice.get(persona.asking),
        )
        for persona in PERSONAS
    ]
    last = draw_auction(7, 30)
    with opened_view(console, 30) as view:
        view.show(Scene(30, 30, last, Award(ECHO, 90, succeeded=True), standings))
    shown = output.getvalue()
    for persona in PERSONAS:
        assert persona.asking in shown
        assert persona.static in shown
    assert "be more competitive" in shown
    assert "digest +2" in shown
    assert ("x0.85 be more" in shown) == (width == 160)
