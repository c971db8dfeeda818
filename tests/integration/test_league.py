"""Two workers with an experiment on live traffic: the league counts what was published, to the last bid."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from learner_worker.brokers import Broker
from learner_worker.cli import cli
from learner_worker.client import EventPublisher, LearnerClient
from learner_worker.contract.fields import TaskId
from learner_worker.contract.suggestions import SuggestBidReply
from learner_worker.contract.topics import Topics
from learner_worker.laboratory.families import families
from learner_worker.laboratory.luck import Contestant, DrawnAuction, draw_auctions
from learner_worker.operations.recorded import logged_advice, recorded_outcomes
from learner_worker.settings import load_settings
from learner_worker.strategies.experiment import parse_experiment
from tests.support.workers import create_topics, running_worker, until

SHARES = "classic=0.5,expected-profit=0.5"
MARKET = families()["few bidders"].model_copy(update={"auctions": 60})
LOGGED = ("--advice-log",)
SECRET = 7_654_321
"""A cost that appears nowhere else."""


class LiveMarket:
    """Auctions whose bidders ask first, and what was published of them, counted on the side."""

    def __init__(self, learner: LearnerClient, publisher: EventPublisher) -> None:
        self._learner = learner
        self._publisher = publisher
        self._experiment = parse_experiment("spring", SHARES)
        self.counts: dict[tuple[str | None, str], Counter[str]] = {}
        self.bids = self.ended = 0

    async def play(self, auction: DrawnAuction) -> None:
        """One auction: all bid, every seventh its base; every fifth asks with its costs."""
        task_id = f"task-{auction.number}"
        replies = await asyncio.gather(*(self._asked(task_id, auction, one) for one in auction.contestants))
        bids = [
            (one.base_bid_sats if self.bids % 7 == 0 else reply.suggested_bid_sats, one, reply)
            for self.bids, (one, reply) in enumerate(
                zip(auction.contestants, replies, strict=True), self.bids + 1
            )
        ]
        champion = min(bids, key=lambda bid: (bid[0], bid[1].arrivals[0]))
        for bid_sats, one, _ in bids:
            await self._publisher.bid_placed(
                task_id, _name(one), bid_sats=bid_sats, description=auction.description
            )
        done = champion[1].luck < champion[1].chance
        await self._publisher.auction_closed(
            task_id, winner_agent_id=_name(champion[1]), winning_bid_sats=champion[0]
        )
        await self._publisher.task_finished(task_id, _name(champion[1]), succeeded=done)
        self.ended += 1
        for bid_sats, one, reply in bids:
            won = one is champion[1]
            self._count(auction, one, reply, bid_sats, won=won, done=won and done)

    async def _asked(self, task_id: str, auction: DrawnAuction, one: Contestant) -> SuggestBidReply:
        tells = {"strategy": "expected-profit", "cost_sats": SECRET} if _tells_costs(auction, one) else {}
        asked: dict[str, Any] = {
            "description": auction.description,
            "base_bid_sats": one.base_bid_sats,
            **tells,
        }
        return await self._learner.suggest_bid(_name(one), task_id=task_id, **asked)

    def _count(
        self,
        auction: DrawnAuction,
        one: Contestant,
        reply: SuggestBidReply,
        bid_sats: int,
        *,
        won: bool,
        done: bool,
    ) -> None:
        outside = _tells_costs(auction, one)
        key = (None if outside else "spring", reply.strategy)
        if not outside:
            assert reply.strategy == self._experiment.arm_of(TaskId(f"task-{auction.number}"))
        self.counts.setdefault(key, Counter()).update(
            advised=1,
            with_costs=int(outside),
            ended=1,
            bid=1,
            followed=int(bid_sats == reply.suggested_bid_sats),
            won=int(won),
            done=int(done),
            failed=int(won and not done),
            earned_sats=bid_sats if done else 0,
        )


def _tells_costs(auction: DrawnAuction, one: Contestant) -> bool:
    return (auction.number + one.agent) % 5 == 0


def _name(one: Contestant) -> str:
    return MARKET.agents[one.agent].name


@pytest.mark.timeout(300)
async def test_the_league_counts_what_was_published(broker: Broker, prefix: str, tmp_path: Path) -> None:
    """Both arms and what is outside: advised, followed, won, done and paid; no cost is in the log's topic."""
    servers = broker.bootstrap_servers
    await create_topics(servers, prefix, advice_log=True)
    settings = {"--experiment": SHARES, "--experiment-name": "spring"}
    async with (
        running_worker(servers, prefix, tmp_path / "one", settings=settings, flags=LOGGED) as first,
        running_worker(servers, prefix, tmp_path / "two", settings=settings, flags=LOGGED) as second,
        LearnerClient(servers, topics=Topics(prefix=prefix), timeout_seconds=30) as learner,
        EventPublisher(servers, topics=Topics(prefix=prefix)) as publisher,
    ):
        market = LiveMarket(learner, publisher)
        for auction in draw_auctions(MARKET, 1):
            if auction.contestants:
                await market.play(auction)
        configured = load_settings({"bootstrap_servers": servers, "topic_prefix": prefix})

        async def is_all_known() -> bool:
            outcomes = await recorded_outcomes(configured, _say_nothing)
            results = sum(outcome.result is not None for outcome in outcomes)
            return (len(outcomes), results) == (market.bids, market.ended)

        await until(is_all_known, "all outcomes are in the changelog")
        assert [await worker.metric("learner_advice_lost_total") for worker in (first, second)] == [0, 0]
        assert [await worker.stop() for worker in (first, second)] == [0, 0]
    advice = await logged_advice(configured, _say_nothing)
    assert len(advice) == market.bids
    assert str(SECRET) not in repr(advice)
    flags = ["--bootstrap-servers", servers, "--topic-prefix", prefix]
    written = tmp_path / "league.json"
    ran = await asyncio.to_thread(
        CliRunner().invoke, cli, ["lab", "league", *flags, "--json", str(written)], catch_exceptions=False
    )
    assert "would have won" in ran.output
    found = json.loads(written.read_text())
    assert len(market.counts) == 3
    counted = {(row["experiment"], row["strategy"]): row for row in found["standings"]}
    assert {
        key: {name: counted[key][name] for name in of} for key, of in market.counts.items()
    } == market.counts
    assert counted.keys() == market.counts.keys()
    assert [one["experiment"] for one in found["differences"]] == ["spring"]
    ran = await asyncio.to_thread(CliRunner().invoke, cli, ["lab", "replay", *flags], catch_exceptions=False)
    assert sum(line.startswith((" echo,", " mace,", " helm,")) for line in ran.output.splitlines()) == 6


def _say_nothing(_line: str) -> None:
    """Progress is for people."""
