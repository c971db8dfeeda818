"""What one answer costs by itself: from a request's bytes to its reply's, in one process, no Kafka."""

import sqlite3
import statistics
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from learner_worker.contract.decode import decode_request
from learner_worker.contract.encode import encode_reply
from learner_worker.contract.fields import AgentId, ShardId
from learner_worker.contract.headers import reply_address, reply_headers
from learner_worker.contract.topics import TopicName
from learner_worker.stages.advise import Advise
from learner_worker.stages.learn import Learn
from learner_worker.store.identity import shard_identity
from learner_worker.store.shard_file import ShardFile, shard_path
from learner_worker.store.statements import Checkpoint
from learner_worker.strategies.classic import CLASSIC
from tests.programs.bench.figures import Better, Figure, Goal
from tests.programs.bench.held import KEYWORDS, agent_row, keywords_of_agent, outcomes_of_one
from tests.programs.bench.micros import micros_of_each
from tests.programs.bench.readings import reading
from tests.programs.bench.stage import Stage, in_turns

SECTION = "answer-cost"
FEW = 10
MANY = 1_000_000
ANSWERS = 20_000
GOAL = Goal(Better.LESS, 50, 25)
_WRITTEN = 50_000
_AGENT = AgentId("agent-000001")
REQUESTS = [
    f'{{"agent_id":"agent-000001","base_bid_sats":1200,"request_id":"{number}",'
    f'"description":"Parse {number // 10} scanned invoices into a spreadsheet, totals checked"}}'.encode()
    for number in range(20_000)
]
"""Ten questions a text, as in an auction."""
_HEADERS = [("correlation_id", b"17"), ("reply_to", b"suggest-bid-replies")]
_REPLIES = TopicName("suggest-bid-replies")
_SCAN = """
SELECT count(*), sum(winner_agent_id = agent_id), sum(winner_agent_id = agent_id AND succeeded = 1),
       sum(winner_agent_id = agent_id AND succeeded = 0),
       avg(CASE WHEN winner_agent_id = agent_id THEN winning_bid_sats END)
FROM outcomes WHERE agent_id = ?
"""


async def measure(stage: Stage) -> list[Figure]:
    """The section's figures: an agent with few outcomes and one with very many, in turns."""
    answers = stage.scaled(ANSWERS, least=2_000)
    few = await AskedAgent.of(stage, FEW, answers)
    many = await AskedAgent.of(stage, stage.scaled(MANY), answers)
    of_few, of_many = await in_turns(stage.turns, few.micros, many.micros)
    figures = [
        Figure(
            SECTION,
            f"request bytes to reply bytes, an agent of {asked.outcomes:,} outcomes",
            "µs",
            reading(found),
            goal=GOAL,
            sizes={"answers": answers, "outcomes": asked.outcomes, "keywords": KEYWORDS},
            notes=[_beside_a_scan(asked)],
        )
        for asked, found in ((few, of_few), (many, of_many))
    ]
    await few.file.close()
    await many.file.close()
    name = f"the same, {many.outcomes:,} outcomes beside {FEW}"
    return [*figures, Figure(SECTION, name, "µs", reading(of_many), reading(of_few), f"{FEW} outcomes")]


@dataclass(frozen=True, slots=True)
class AskedAgent:
    """An agent with so many outcomes, in the cache."""

    stage: Stage
    file: ShardFile
    learn: Learn
    advise: Advise
    outcomes: int
    answers: int

    @classmethod
    async def of(cls, stage: Stage, outcomes: int, answers: int) -> "AskedAgent":
        """An agent that has the outcomes in a file of its own, and is to be asked about so often a turn."""
        file = await _file(stage, outcomes)
        learn = Learn(file, cached_agents=100)
        await learn.agents.load([_AGENT])
        return cls(stage, file, learn, Advise([CLASSIC]), outcomes, answers)

    async def micros(self) -> float:
        """Of one answer."""
        micros = micros_of_each(self.answer, REQUESTS, self.answers)
        self.stage.say(f"{self.outcomes:,} outcomes: {micros:.1f} µs an answer")
        return micros

    def answer(self, asked: bytes) -> bytes:
        """A reply's bytes, from those of one of `REQUESTS`."""
        address = reply_address(_HEADERS, _REPLIES)
        request = decode_request(asked)
        agent = self.learn.agents.get(request.agent_id)
        assert agent is not None
        value = encode_reply(self.advise.answer(request, agent))
        reply_headers(address, error=None)
        return value


def _beside_a_scan(asked: AskedAgent) -> str:
    micros = _micros_of_scan(asked.file.path)
    return f"a SQLite scan of {asked.outcomes:,} outcomes instead: {micros:,.0f} µs each"


async def _file(stage: Stage, outcomes: int) -> ShardFile:
    path = shard_path(stage.new_folder("cost"), ShardId(0))
    identity = shard_identity(cluster_id="none", topic_prefix="", partitions=1, shard=ShardId(0))
    file = await ShardFile.open(path, identity)
    rows = {}
    for outcome in outcomes_of_one(_AGENT, outcomes):
        rows[outcome.task_id, outcome.agent_id] = outcome
        if len(rows) == _WRITTEN:
            await file.write(Checkpoint({}, outcomes=rows))
            rows = {}
    keywords = {_AGENT: keywords_of_agent(_AGENT)}
    await file.write(Checkpoint({}, outcomes=rows, agents={_AGENT: agent_row(outcomes)}, keywords=keywords))
    return file


def _micros_of_scan(path: Path) -> float:
    with closing(sqlite3.connect(path)) as connection:
        pieces = []
        for _ in range(5):
            began = time.process_time()
            connection.execute(_SCAN, (_AGENT,)).fetchone()
            pieces.append(time.process_time() - began)
    return statistics.median(pieces) * 1e6
