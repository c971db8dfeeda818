"""Insights with a hundred thousand agents: memory, start, and each route beside the same bytes."""

import asyncio
import itertools
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import aiohttp

from learner_worker.contract.advice import AdviceRecord, encode_advice
from learner_worker.contract.encode import encode_metrics
from learner_worker.contract.fields import AgentId
from learner_worker.contract.times import Micros, format_time
from learner_worker.contract.topics import TopicName
from learner_worker.domain.agents import Agent
from learner_worker.insights.advice_store import ANSWERS
from learner_worker.kafka.partitioner import partitioner
from tests.programs.bench.auction_indexes import index_figures
from tests.programs.bench.figures import Figure
from tests.programs.bench.held import agent_row, keywords_of_agent
from tests.programs.bench.load import BIDDERS, past_fact, preload_changelog
from tests.programs.bench.readings import Reading, percentile, reading
from tests.programs.bench.stage import PARTITIONS, Stage, running_child, said_ready
from tests.support.batches import batches_to
from tests.support.insights import InsightsProcess, running_insights
from tests.support.workers import until

SECTION = "insights"
AGENTS = 100_000
OUTCOMES = 1_000_000
_ASKED = 300  # of each route in a turn: three samples are above the 99th percentile
_WARM_UP = 20
_MEGABYTE = 2**20
_BEFORE_THE_CLOSE = 2_000_000  # microseconds: before the bids, which are placed a second before it
_AGENT, _ADVISED = "agent-000007", AgentId("agent-000014")
_ROUTES = {
    "the page of agents": "/?sort=-win_rate",
    "the page of an agent": f"/agent?id={_AGENT}",
    "50 agents as JSON": "/swarm/insights?limit=50&sort=-win_rate",
    "one agent as JSON": f"/swarm/insights/{_AGENT}",
    "the page of an agent with its advice": f"/agent?id={_ADVISED}",
    "the latest auctions": "/auctions",
    "auctions of long ago": "/auctions?before={half_way}",
    "the page of an auction": "/auction?id={task_id}",
}
"""`half_way` is a time with as many closes before it as after it, and `task_id` the last task then."""
_ALL = "/swarm/insights"
_NOTE = "one client, one request after the other; beside it the same bytes from a bare aiohttp handler"


async def measure(stage: Stage) -> list[Figure]:
    """The section's figures."""
    agents, outcomes = stage.scaled(AGENTS, least=100), stage.scaled(OUTCOMES, least=1_000)
    setting = await stage.new_topics("insights", advice_log=True)
    await preload_changelog(stage.servers, setting.names.outcomes, outcomes, agents=agents)
    await preload_advice(stage.servers, setting.names.advice, outcomes)
    await preload_metrics(stage.servers, setting.names.metrics, outcomes // agents, agents)
    sizes = {"agents": agents, "outcomes": outcomes, "partitions": PARTITIONS}
    middle = past_fact(outcomes // 2, agents)
    assert middle.close is not None
    places = {"half_way": middle.close.closed_at, "task_id": middle.task_id}
    routes = {name: path.format_map(places) for name, path in _ROUTES.items()}
    runs = [await _run(stage, setting.topics.prefix, routes) for _ in range(stage.turns)]
    said = [
        ("from the start of the process to the first page", "s", [run.first_page_seconds for run in runs]),
        ("from the start of the process to any agent's history", "s", [run.ready_seconds for run in runs]),
        ("resident memory", "MB", [run.megabytes for run in runs]),
        ("temporary file", "MB", [run.file_megabytes for run in runs]),
    ]
    return [
        *await index_figures(SECTION, outcomes=outcomes, agents=agents, turns=stage.turns),
        *(Figure(SECTION, name, unit, reading(samples), sizes=sizes) for name, unit, samples in said),
        *(figure for name in (*_ROUTES, "all agents as JSON") for figure in _of_route(name, runs, sizes)),
    ]


def _of_route(name: str, runs: Sequence["_Run"], sizes: Mapping[str, float]) -> list[Figure]:
    return [
        Figure(
            SECTION,
            f"{name}, p{percent}",
            "ms",
            _percentiles(percent, [run.ours[name] for run in runs]),
            _percentiles(percent, [run.bare[name] for run in runs]),
            "bare aiohttp",
            sizes=sizes,
            notes=[f"{runs[0].sizes[name]:,} bytes; {_NOTE}"],
        )
        for percent in (50, 99)
    ]


def _percentiles(percent: float, turns: Sequence[Sequence[float]]) -> Reading:
    return reading([percentile(samples, percent) for samples in turns])


class _Run:
    """What one process was measured with: samples in milliseconds, by route."""

    def __init__(self) -> None:
        self.first_page_seconds = self.ready_seconds = self.megabytes = self.file_megabytes = 0.0
        self.ours: dict[str, list[float]] = {}
        self.bare: dict[str, list[float]] = {}
        self.sizes: dict[str, int] = {}


async def _run(stage: Stage, prefix: str, routes: Mapping[str, str]) -> _Run:
    run = _Run()
    folder = stage.new_folder("scratch")
    began = time.perf_counter()
    async with running_insights(
        stage.servers, prefix, folder / "insights.log", environment={"TMPDIR": str(folder)}, fresh=True
    ) as insights:

        async def shows_agents() -> bool:
            return (await insights.get("/swarm/insights?limit=1"))[0] == 200

        await until(shows_agents, "the agents are read", seconds=600)
        await insights.get("/")
        run.first_page_seconds = time.perf_counter() - began
        await insights.ready(seconds=900)
        run.ready_seconds = time.perf_counter() - began

        async def has_read_advice() -> bool:
            return "Of its newest" in (await insights.get(f"/agent?id={_ADVISED}"))[1]

        await until(has_read_advice, "the advice log is read", seconds=60)
        for name, path in (*routes.items(), ("all agents as JSON", _ALL)):
            await _measure_route(run, insights, name, path)
        run.megabytes = _resident_megabytes(insights.process.pid)
        run.file_megabytes = sum(file.stat().st_size for file in folder.rglob("*.sqlite3")) / _MEGABYTE
        await insights.stop()
    stage.say(
        f"first page {run.first_page_seconds:.1f} s, ready {run.ready_seconds:.1f} s, {run.megabytes:.0f} MB"
    )
    return run


async def _measure_route(run: _Run, insights: InsightsProcess, name: str, path: str) -> None:
    count = _ASKED if name in _ROUTES else 5
    _, body = await insights.get(path)
    run.sizes[name] = len(body.encode())
    run.ours[name] = await _timed(insights.session, insights.url + path, count)
    async with running_child("tests.programs.bench.bare_answers", size=run.sizes[name]) as bare:
        await said_ready(bare)
        assert bare.stdout is not None
        url = (await bare.stdout.readline()).decode().strip()
        run.bare[name] = await _timed(insights.session, url, count)


async def _timed(session: aiohttp.ClientSession, url: str, count: int) -> list[float]:
    samples: list[float] = []
    for number in itertools.count(-min(_WARM_UP, count)):
        if number == count:
            return samples
        began = time.perf_counter()
        async with session.get(url) as answer:
            await answer.read()
        if number >= 0:
            samples.append((time.perf_counter() - began) * 1000)
    raise AssertionError


def _resident_megabytes(process: int) -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / _MEGABYTE


async def preload_advice(servers: str, topic: TopicName, outcomes: int) -> None:
    """Writes as many answers to one agent as insights keep, each for another one of the changelog's tasks."""
    partition = partitioner(PARTITIONS)(_ADVISED)
    async with batches_to(servers) as batches:
        for auction in range(min(ANSWERS, outcomes // BIDDERS)):
            fact = past_fact(auction * BIDDERS)
            assert fact.close is not None
            record = AdviceRecord(
                task_id=fact.task_id,
                agent_id=_ADVISED,
                advised_at=format_time(Micros(fact.close.closed_at - _BEFORE_THE_CLOSE)),
                base_bid_sats=1_000,
                suggested_bid_sats=900,
                strategy="classic",
                factor=0.9,
                costs=False,
            )
            await batches.add(topic, partition, _ADVISED.encode(), encode_advice(record))


async def preload_metrics(servers: str, topic: TopicName, outcomes_each: int, agents: int) -> None:
    """Writes a metrics record of every agent."""
    partition_of = partitioner(PARTITIONS)
    async with batches_to(servers) as batches:
        for number in range(agents):
            agent_id = AgentId(f"agent-{number:06d}")
            agent = Agent(agent_id, agent_row(outcomes_each), keywords_of_agent(agent_id))
            value = encode_metrics(agent.record())
            await batches.add(topic, partition_of(agent_id), agent_id.encode(), value)
            if number % 1_000 == 0:
                await asyncio.sleep(0)
