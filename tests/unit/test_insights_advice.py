"""What an agent's advice came to, on its page: kept from the advice log, joined as `lab league` joins it."""

import random
from collections import Counter
from collections.abc import Sequence
from urllib.parse import quote

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer
from aiokafka import TopicPartition

from learner_worker.client import LearnerClient
from learner_worker.contract.advice import AdviceRecord, ExperimentArm, encode_advice
from learner_worker.contract.encode import AlternativeAdvice
from learner_worker.contract.facts import Bid, Close, Fact, Result, encode_fact
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.times import Micros, format_time
from learner_worker.errors import LearnerError
from learner_worker.insights import reader as reader_module
from learner_worker.insights.advice import AdviceReader, AgentAdvice, agent_advice
from learner_worker.insights.advice_store import ANSWERS, AdviceStore, advice_store
from learner_worker.insights.facts import FactStore, fact_store
from learner_worker.insights.history import standing_outcomes
from learner_worker.insights.sending import Sending
from learner_worker.kafka.records import Record, Unreadable
from learner_worker.laboratory.advice import advice_results, advised_auctions
from learner_worker.laboratory.regret import UNADVISED
from learner_worker.settings import Settings
from tests.support import advice_model, model
from tests.support.advice_model import Answer
from tests.support.html_pages import Page
from tests.support.insights import fact_records, pages_of, reader_of

AGENTS = ("echo", "mace", "helm", "dart")
ECHO = AgentId("echo")
AT = 1_800_000_000_000_000
HOSTILE = "<script>alert(1)</script>"
EVENTS_APART = 1_000


def record_of(answer: Answer) -> AdviceRecord:
    """The record of the log; alternatives are the base and what was suggested."""
    experiment = answer.experiment
    return AdviceRecord(
        task_id=TaskId(answer.task_id),
        agent_id=AgentId(answer.agent_id),
        advised_at=format_time(Micros(answer.advised_at)),
        base_bid_sats=answer.base_sats,
        suggested_bid_sats=answer.suggested_sats,
        strategy=answer.strategy,
        factor=1.0,
        costs=False,
        alternatives={
            answer.strategy: AlternativeAdvice(answer.suggested_sats, 1.0),
            "patient": AlternativeAdvice(answer.base_sats, 1.0),
        },
        experiment=None if experiment is None else ExperimentArm(experiment, answer.strategy),
    )


def logged(answers: Sequence[Answer], *, partitions: int = 1) -> list[Record]:
    """The records of answers, in their order, on the partitions in turn."""
    return [
        Unreadable(
            "advice", number % partitions, number // partitions, value=encode_advice(record_of(answer))
        )
        for number, answer in enumerate(answers)
    ]


class Swarm:
    """Auctions drawn by chance: who asked, bid, won and did the task; as answers, events and facts."""

    def __init__(self, seed: int, tasks: int) -> None:
        self.answers: list[Answer] = []
        self.events: list[model.Event] = []
        self.facts: list[Fact] = []
        self._draw = random.Random(seed)
        for number in range(tasks):
            self._auction(f"task-{number}", AT + number * EVENTS_APART)

    def _auction(self, task: str, at: int) -> None:
        draw, bids = self._draw, dict[str, model.BidPlaced]()
        words = draw.choice(["parse mail", "label images", "to be"])
        for agent in draw.sample(AGENTS, draw.randint(1, len(AGENTS))):
            base, suggested = draw.randint(80, 120), draw.randint(80, 120)
            strategy, experiment = draw.choice(
                [("classic", None), ("classic", "spring"), ("expected-profit", "spring")]
            )
            for again in range(draw.choice([0, 1, 1, 1, 2])):
                asked = at + draw.randint(0, 40) + again * 10
                self.answers.append(Answer(task, agent, asked, base, suggested + again, strategy, experiment))
            if draw.random() < 0.85:
                sats = draw.choice([suggested, base, draw.randint(80, 120)])
                bids[agent] = model.BidPlaced(task, agent, sats, words, at + 20 + draw.randint(0, 20))
        self.events += bids.values()
        if draw.random() < 0.85:
            self._close(task, at, bids)

    def _close(self, task: str, at: int, bids: dict[str, model.BidPlaced]) -> None:
        draw = self._draw
        closes = [
            model.AuctionClosed(
                task, draw.choice([*AGENTS, None]), draw.choice([None, 85]), at + 100 + number
            )
            for number in range(draw.choice([1, 1, 2]))
        ]
        winner = closes[-1].winner_agent_id
        finished = (
            [model.TaskFinished(task, winner, draw.random() < 0.6, at + 200)]
            if winner is not None and draw.random() < 0.8
            else []
        )
        self.events += [*closes, *finished]
        named = {one.winner_agent_id for one in closes} - {None}
        for agent in sorted({*bids, *named} - {None}, key=str):
            self._facts(AgentId(str(agent)), closes, bids.get(str(agent)))
        for one in finished:
            result = Result(Micros(one.finished_at), one.succeeded)
            self.facts.append(Fact(TaskId(task), AgentId(one.agent_id), result=result))

    def _facts(
        self, agent: AgentId, closes: Sequence[model.AuctionClosed], placed: model.BidPlaced | None
    ) -> None:
        bid = None if placed is None else Bid(Micros(placed.placed_at), placed.bid_sats, placed.description)
        for one in closes:
            winner = None if one.winner_agent_id is None else AgentId(one.winner_agent_id)
            close = Close(Micros(one.closed_at), winner, one.winning_bid_sats)
            self.facts.append(Fact(TaskId(one.task_id), agent, close, bid))


class ReadAdvice(AdviceReader):
    """A reader whose log is read."""

    def _is_read(self) -> bool:
        return True


def reader(facts: FactStore, store: AdviceStore, kind: type[AdviceReader] = ReadAdvice) -> AdviceReader:
    """A reader of both stores."""
    return kind(Settings(), reader_of(facts), store)


def counts(advice: AgentAdvice) -> dict[tuple[str | None, str], Counter[str]]:
    """The league as the model has it."""
    names = ("advised", "ended", "bid", "followed", "won", "done", "failed", "earned_sats")
    return {
        (row.experiment, row.strategy): +Counter({name: getattr(row, name) for name in names})
        for row in advice.league.standings
    }


def regrets(advice: AgentAdvice) -> dict[tuple[str, str], Counter[str]]:
    """The ledger as the model has it."""
    names = ("auctions", "won", "left_sats", "missed", "missed_sats")
    return {
        (row.strategy, row.kind): +Counter({name: getattr(row, name) for name in names})
        for row in advice.regret
    }


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("paid_on", ["success", "win"])
async def test_an_agents_results_are_the_models(seed: int, paid_on: str) -> None:
    """Questions repeated, before the bid and after it, corrected closes, no bid, no end: counted naively."""
    swarm = Swarm(seed, 60)
    outcomes = model.outcomes(swarm.events)
    random.Random(seed).shuffle(swarm.facts)
    async with fact_store() as facts, advice_store() as store:
        await facts.take(fact_records(swarm.facts))
        await store.take(logged(swarm.answers, partitions=3))
        settings = Settings(paid_on="win" if paid_on == "win" else "success")
        advice = ReadAdvice(settings, reader_of(facts), store)
        for agent in AGENTS:
            found = await advice.results_of(AgentId(agent))
            assert found is not None
            expected = advice_model.league(agent, swarm.answers, outcomes, paid_for_wins=paid_on == "win")
            assert counts(found) == expected
            assert regrets(found) == advice_model.regret(agent, swarm.answers, outcomes)
            own = [one for one in swarm.answers if one.agent_id == agent]
            assert (found.answers, found.left_out) == (len(own), 0)
            assert sum(row.left_sats for row in found.totals) == sum(row.left_sats for row in found.regret)


async def test_the_results_are_those_of_lab_league() -> None:
    """Of the agent's own advice every figure; of the whole ledger the agent's rows of advised auctions."""
    swarm = Swarm(11, 120)
    every = [record_of(answer) for answer in swarm.answers]
    outcomes = standing_outcomes([encode_fact(fact)[1] for fact in swarm.facts], lambda _: None)
    whole = advice_results(every, advised_auctions(outcomes, every), "success")
    own = [record for record in every if record.agent_id == ECHO]
    async with fact_store() as facts, advice_store() as store:
        await facts.take(fact_records(swarm.facts))
        await store.take(logged(swarm.answers))
        found = await reader(facts, store).results_of(ECHO)
    assert found is not None
    assert found.league == advice_results(own, advised_auctions(outcomes, own), "success").league
    assert len(found.league.differences) == 1
    assert all(row.others for row in found.league.standings)
    assert found.regret == [row for row in whole.ledger if row.agent_id == ECHO and row.strategy != UNADVISED]


def answers_of(count: int, *, agent: str = "echo", first: int = 0) -> list[Answer]:
    """Answers for one task each, in the order of time."""
    return [
        Answer(f"task-{number}", agent, AT + number, 100, 90, "classic")
        for number in range(first, first + count)
    ]


async def test_of_every_agent_the_newest_answers_are_kept_whatever_comes_between() -> None:
    """From two partitions with the same offsets, late and in any batches; junk is skipped."""
    async with advice_store() as store:
        late, early = answers_of(ANSWERS, first=150), answers_of(150)
        junk = [
            Unreadable("advice", 0, 1_000 + number, value=value) for number, value in enumerate((None, b"{"))
        ]
        await store.take([*logged(late, partitions=2), *junk])
        await store.take(logged([*early, *answers_of(3, agent="mace")]))
        for start in range(0, 30, 7):
            await store.take(logged(early)[start : start + 7])
        assert await store.newest_of(ECHO) == [record_of(one) for one in reversed(late)]
        assert [one.task_id for one in await store.newest_of(AgentId("mace"))] == [
            "task-2",
            "task-1",
            "task-0",
        ]
        assert await store.newest_of(AgentId("nobody")) == []


async def test_what_kafka_has_deleted_is_deleted() -> None:
    """Of one partition its first records, of the other none; then everything."""
    async with advice_store() as store:
        await store.take(logged(answers_of(10), partitions=2))
        await store.expire({TopicPartition("advice", 0): 3, TopicPartition("advice", 1): 0})
        left = [one.task_id for one in await store.newest_of(ECHO)]
        assert left == [f"task-{number}" for number in (9, 8, 7, 6, 5, 3, 1)]
        await store.clear()
        assert await store.newest_of(ECHO) == []


async def test_auctions_of_too_many_bidders_are_left_out() -> None:
    """And said so: an auction is read whole or not at all, and one too large by itself is passed over."""
    close = Close(Micros(AT), ECHO, 5)
    facts = [
        Fact(TaskId(f"task-{number}"), AgentId(f"a{bidder}"), close, Bid(Micros(1), 7, ""))
        for number, bidders in enumerate((3, 9, 3, 4))
        for bidder in range(bidders)
    ]
    async with fact_store() as store:
        await store.take(fact_records(facts))
        swarm = reader_of(store)
        tasks = [TaskId(f"task-{number}") for number in (3, 2, 1, 0)]
        for most, read in ((100, 4), (16, 3), (15, 2), (7, 2), (6, 1), (0, 0)):
            found = await swarm.outcomes_of(tasks, most_facts=most)
            assert (found.tasks, len(found.outcomes)) == (tasks[:read], (0, 4, 7, 16, 19)[read])
        found = await swarm.outcomes_of([tasks[2], *tasks], most_facts=8)
        assert (found.tasks, len(found.outcomes)) == (tasks[:2], 7)
        known = await swarm.outcomes_of(tasks, most_facts=15)
    records = [record_of(one) for one in reversed(answers_of(4))]
    advice = agent_advice(ECHO, records, known.tasks, known.outcomes, "success")
    assert (advice.answers, advice.left_out, counts(advice)[None, "classic"]["advised"]) == (2, 2, 2)


async def test_a_bounded_number_of_facts_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks are counted in the order in which they are named, each once, and none after the bound."""
    close = Close(Micros(AT), ECHO, 5)
    large, small, gone = TaskId("b-large"), TaskId("a-small"), TaskId("c-gone")
    bidders = [(large, 9), (small, 2)]
    facts = [Fact(task, AgentId(f"a{one}"), close) for task, number in bidders for one in range(number)]
    async with fact_store() as store:
        await store.take(fact_records(facts))
        tasks = [large, gone, large, small]
        for in_total, expected in ((100, [5, 0, 2]), (6, [5, 0, 2]), (5, [5]), (1, [5])):
            counts = await store.counts_of(tasks, 5, in_total=in_total)
            assert list(counts.items()) == list(zip((large, gone, small), expected, strict=False))
        assert await store.counts_of([], 5, in_total=100) == {}
        swarm = reader_of(store)
        assert (await swarm.outcomes_of(tasks, most_facts=4)).tasks == [gone, small]
        monkeypatch.setattr(reader_module, "_COUNTED_FACTS", 5)
        assert (await swarm.outcomes_of(tasks, most_facts=4)).tasks == []


async def agents_page(facts: FactStore, advice: AdviceReader, agent: str = "echo") -> Page:
    """The page of an agent."""
    app = pages_of(reader_of(facts), advice, Sending(LearnerClient("localhost:1"), None))
    async with (
        TestServer(app) as server,
        ClientSession() as session,
        session.get(server.make_url(f"/agent?id={quote(agent)}")) as answer,
    ):
        page = Page(await answer.text())
    assert (answer.status, page.wrong) == (200, [])
    return page


async def test_the_page_has_the_figures_and_names_as_text() -> None:
    """The league's and the regret's; a strategy and an experiment of any name; nobody's advice."""
    async with fact_store() as facts, advice_store() as store:
        close = Close(Micros(AT + 9), ECHO, 5_090)
        bids = (Fact(TaskId("t"), AgentId(one), close, Bid(Micros(AT + 5), 6_001, "parse")) for one in AGENTS)
        result = Fact(TaskId("t"), ECHO, result=Result(Micros(AT + 10), succeeded=True))
        await facts.take(fact_records([*bids, result]))
        await store.take(logged([Answer("t", "echo", AT, 5_000, 5_090, HOSTILE, f"{HOSTILE}2")]))
        page = await agents_page(facts, reader(facts, store))
        assert {HOSTILE, f"{HOSTILE}2"} <= set(page.isolated)
        assert '<td class="number">5,090</td><td class="number">5,090.0</td>' in page.text
        assert '<th scope="row">parse</th>' in page.text
        assert page.text.count('<td class="number">911</td>') == 2
        text = (await agents_page(facts, reader(facts, store), "mace")).text
        assert "No answers to it are recorded" in text


class NoLog(AdviceReader):
    """A reader that has found no advice log."""

    def _is_read(self) -> bool:
        return False


async def test_without_a_log_the_page_says_which_setting_records_it() -> None:
    """And before Kafka was asked, that it is not known; neither is a failure."""
    async with fact_store() as facts, advice_store() as store:
        page = await agents_page(facts, reader(facts, store, NoLog))
        assert "Not recorded" in page.text
        assert "<code>--advice-log</code>" in page.text
        unasked = reader(facts, store, AdviceReader)
        with pytest.raises(LearnerError, match="still being looked at"):
            await unasked.results_of(ECHO)
        assert "Not known now: whether Kafka has an advice log" in (await agents_page(facts, unasked)).text
