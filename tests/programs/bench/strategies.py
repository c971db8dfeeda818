"""What expected-profit costs: an answer by it, and keeping its sums while nobody asks by it."""

import itertools
import time

from learner_worker.contract.decode import decode_request
from learner_worker.contract.encode import encode_reply
from learner_worker.contract.fields import AgentId
from learner_worker.domain.agents import Agent
from learner_worker.domain.keywords import Tally
from learner_worker.domain.sums import Cells, KeptSums
from learner_worker.stages.advise import Advise
from learner_worker.strategies.classic import CLASSIC
from learner_worker.strategies.expected_profit import EXPECTED_PROFIT
from learner_worker.strategies.price_bins import price_bin, price_class
from tests.programs.bench.figures import Better, Figure, Goal
from tests.programs.bench.held import KEYWORDS, agent_row, keywords_of_agent, write_sums
from tests.programs.bench.holding import Holder
from tests.programs.bench.load import preload_auctions, recent_auctions
from tests.programs.bench.readings import Reading, reading
from tests.programs.bench.stage import PARTITIONS, Stage, in_turns
from tests.programs.bench.whole_way import worker_run

SECTION = "strategies"
ANSWERS = 20_000
BIDS = 300_000
AGENTS = 100_000
CELLS = 70
ANSWER_GOAL = Goal(Better.LESS, 60, 45)
CLASSIC_GOAL = Goal(Better.LESS, 10, 2)
INGEST_GOAL = Goal(Better.MORE, 0.95, 0.98)
MEMORY_GOAL = Goal(Better.LESS, 300, 100)
_BASE = 1_200
_PIECE = 20
_OFF = {"--strategies": "classic"}
_AGENT = AgentId("agent-000001")
_WORDS = ("parse", "scanned", "invoices", "spreadsheet", "totals", "checked")
_BOTH = Advise([CLASSIC, EXPECTED_PROFIT])
_ALONE = Advise([CLASSIC])


async def measure(stage: Stage) -> list[Figure]:
    """The section's figures."""
    return [*await _answers(stage), await _ingest(stage), await _memory(stage)]


async def _answers(stage: Stage) -> list[Figure]:
    """Request bytes to reply bytes, processor time, in one process without Kafka."""
    answers = stage.scaled(ANSWERS, least=2_000)
    with_sums, without = _agent(_cells_of(_AGENT)), _agent(None)

    async def by_profit() -> float:
        return _micros(_BOTH, with_sums, ',"strategy":"expected-profit","cost_sats":550', answers)

    async def classic_beside() -> float:
        return _micros(_BOTH, with_sums, "", answers)

    async def classic_alone() -> float:
        return _micros(_ALONE, without, "", answers)

    profit, beside, alone = await in_turns(stage.turns, by_profit, classic_beside, classic_alone)
    sizes = {"answers": answers, "cells": CELLS, "keywords": KEYWORDS + len(_WORDS)}
    compared = (
        f"{reading(beside).median:.1f} µs, by a worker without the strategy {reading(alone).median:.1f}"
    )
    return [
        Figure(
            SECTION,
            f"an answer by expected-profit with its reasons, {CELLS} price cells",
            "µs",
            reading(profit),
            goal=ANSWER_GOAL,
            sizes=sizes,
        ),
        Figure(
            SECTION,
            "an answer by classic, more where the sums of expected-profit are kept",
            "µs",
            _differences(beside, alone),
            goal=CLASSIC_GOAL,
            sizes=sizes,
            notes=[compared],
        ),
    ]


def _differences(ours: list[float], beside: list[float]) -> Reading:
    return reading([mine - other for mine, other in zip(ours, beside, strict=True)])


def _agent(cells: Cells | None) -> Agent:
    tallies = {**keywords_of_agent(_AGENT), **{word: Tally(3, 1) for word in _WORDS}}
    sums = {} if cells is None else {EXPECTED_PROFIT.name: KeptSums.of(KeptSums(cells, None).pack())}
    return Agent(_AGENT, agent_row(1_000), tallies, sums)


def _cells_of(agent_id: AgentId) -> Cells:
    """Seventy prices around the base bid, in the three classes that an answer looks at."""
    number, middle, group = int(agent_id.removeprefix("agent-")), price_bin(_BASE), price_class(_BASE)
    return {
        group + place: {
            middle - 12 + cell: (1 + (number + cell) % 9, cell % 4)
            for cell in range(CELLS // 3 + (place < 0))
        }
        for place in (-1, 0, 1)
    }


def _micros(advise: Advise, agent: Agent, more: str, answers: int) -> float:
    """The least of many short pieces' means: what else the machine does makes the others slower."""
    requests = itertools.cycle(
        f'{{"agent_id":"{agent.agent_id}","base_bid_sats":{_BASE},"request_id":"{number}",'
        f'"description":"Parse {number} scanned invoices into a spreadsheet, totals checked"{more}}}'.encode()
        for number in range(answers)
    )
    pieces = []
    for _ in range(max(1, answers // _PIECE)):
        asked = list(itertools.islice(requests, _PIECE))
        began = time.process_time()
        for request in asked:
            encode_reply(advise.answer(decode_request(request), agent))
        pieces.append((time.process_time() - began) / _PIECE)
    return min(pieces) * 1e6


async def _ingest(stage: Stage) -> Figure:
    """New events with the strategy's sums kept, and without."""
    load = recent_auctions(stage.scaled(BIDS, least=20_000))
    setting = await stage.new_topics("strategies")
    await preload_auctions(stage.servers, setting.names, load)

    async def on() -> float:
        return (await worker_run(stage, setting, load)).rate

    async def off() -> float:
        return (await worker_run(stage, setting, load, _OFF)).rate

    with_sums, without = await in_turns(stage.turns, on, off)
    return Figure(
        SECTION,
        "events to durable outcomes, 5 to 95 %",
        "events/s",
        reading(with_sums),
        reading(without),
        "the worker with --strategies classic",
        stage.full_size_goal(INGEST_GOAL),
        {"bids": load.bids, "events": load.events, "agents": load.agents, "partitions": PARTITIONS},
    )


async def _memory(stage: Stage) -> Figure:
    """Resident memory with every agent in the cache, with prices and without."""
    agents = stage.scaled(AGENTS, least=1_000)
    holders = [await Holder.filled(stage, 0, agents) for _ in range(2)]
    ids = [AgentId(f"agent-{number:06d}") for number in range(agents)]
    cells = {agent_id: _cells_of(agent_id) for agent_id in ids}
    await write_sums(stage, holders[0].setting, holders[0].state_dir, EXPECTED_PROFIT, cells)
    del cells

    async def on() -> float:
        return (await holders[0].resident_megabytes(agents))[1]

    async def off() -> float:
        return (await holders[1].resident_megabytes(agents, _OFF))[1]

    with_sums, without = await in_turns(stage.turns, on, off)
    for holder in holders:
        holder.remove()
    return Figure(
        SECTION,
        f"resident with {agents:,} agents cached, more with {CELLS} price cells each",
        "MB",
        _differences(with_sums, without),
        goal=stage.full_size_goal(MEMORY_GOAL),
        sizes={"agents": agents, "cells_each": CELLS, "keywords_each": KEYWORDS},
        notes=[
            f"{reading(with_sums).median:.0f} MB, with --strategies classic {reading(without).median:.0f}"
        ],
    )
