"""The event loop's longest step with an agent of very many keywords: processor time, no Kafka."""

import asyncio
import gc
import itertools
import string
import time
import types
from collections.abc import Coroutine, Generator, Iterator, Mapping
from typing import Any, NamedTuple

from learner_worker.contract.decode import decode_request
from learner_worker.contract.encode import encode_metrics, encode_reply
from learner_worker.contract.facts import (
    Bid,
    Close,
    Fact,
    ForgetMarker,
    Result,
    encode_fact,
    encode_marker,
)
from learner_worker.contract.fields import MAX_DESCRIPTION_CHARACTERS, AgentId, ShardId, TaskId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import TopicName
from learner_worker.shard.pacing import Pacing
from learner_worker.shard.replay import ChangelogReplay
from learner_worker.stages.advise import Advise
from learner_worker.store.identity import shard_identity
from learner_worker.store.shard_file import ShardFile, shard_path
from learner_worker.strategies.classic import CLASSIC
from learner_worker.worker.event_loop import collect_young_only
from tests.programs.bench.figures import Better, Figure, Goal
from tests.programs.bench.readings import reading
from tests.programs.bench.stage import Stage

SECTION = "long-histories"
KEYWORDS = 500_000
GOAL = Goal(Better.LESS, 25, 10)
STEPS = ("learn", "ask", "record", "checkpoint", "load", "forget", "write what is forgotten", "close")
_WORD = 6  # characters
_WORDS = MAX_DESCRIPTION_CHARACTERS // (_WORD + 1)  # as many as a description holds
_FORGOTTEN = 100  # later than any part of the first facts
_TOPIC = TopicName("learner-outcomes")
_AGENT, _OTHER = AgentId("agent-000001"), AgentId("agent-000002")
_ASKED = (
    b'{"agent_id":"agent-000001","base_bid_sats":1200,"description":"Parse invoices",'
    b'"include":["learned_keywords"]}'
)


async def measure(stage: Stage) -> list[Figure]:
    """The section's figures, each the longest step of one kind of work."""
    keywords = stage.scaled(KEYWORDS, least=2 * _WORDS)
    thresholds = gc.get_threshold()
    collect_young_only()  # as in a worker: this process would traverse all keywords again and again
    try:
        turns = [await _turn(stage, keywords) for _ in range(stage.turns)]
    finally:
        gc.set_threshold(*thresholds)
    sizes = {"keywords": keywords, "keywords_a_description": _WORDS}
    return [
        Figure(
            SECTION,
            f"the event loop's longest step, {what}",
            "ms",
            reading([turn[what] for turn in turns]),
            goal=GOAL,
            sizes=sizes,
        )
        for what in STEPS
    ]


async def _turn(stage: Stage, keywords: int) -> Mapping[str, float]:
    path = shard_path(stage.new_folder("long"), ShardId(0))
    identity = shard_identity(cluster_id="none", topic_prefix="", partitions=1, shard=ShardId(0))
    file = await ShardFile.open(path, identity)
    replay = await ChangelogReplay.open(file, _TOPIC, cached_agents=1, pacing=Pacing())
    agents, found = replay.learn.agents, dict[str, float]()
    with Steps() as steps:

        async def note(what: str, work: Coroutine[Any, Any, object]) -> None:
            steps.longest = 0.0
            await asyncio.create_task(work)
            found[what] = steps.longest * 1_000
            stage.say(f"{what}: {found[what]:.1f} ms")

        await _ask(replay, _OTHER)  # what is made at a first use is made
        await _record(replay, _OTHER)
        await note("learn", replay.take(list(_records(keywords // _WORDS))))
        await note("ask", _ask(replay))
        await note("record", _record(replay))
        await note("checkpoint", replay.write())
        agents.pin(())
        await agents.load([_OTHER])
        agents.trim(())
        await agents.unused.release(Pacing().give_way)
        await note("load", _ask(replay))
        forgetting = encode_marker(ForgetMarker(_AGENT, Micros(_FORGOTTEN)))
        await note("forget", replay.take([_Read(keywords, *forgetting)]))
        await note("write what is forgotten", replay.write())
        await replay.take(list(_records(keywords // _WORDS, first=keywords + 1, after=_FORGOTTEN)))
        await note("close", replay.free())
    await file.close()
    return found


async def _ask(replay: ChangelogReplay, agent_id: AgentId = _AGENT) -> None:
    request, agents = decode_request(_ASKED), replay.learn.agents
    agent = agents.get(agent_id) or (await agents.load([agent_id]))[agent_id]
    encode_reply(Advise([CLASSIC]).answer(request, agent))


async def _record(replay: ChangelogReplay, agent_id: AgentId = _AGENT) -> None:
    encode_metrics((await replay.learn.agents.load([agent_id]))[agent_id].record())


class _Read(NamedTuple):
    """A record as a consumer gives it."""

    offset: int
    key: bytes
    value: bytes
    topic: str = _TOPIC
    partition: int = 0
    timestamp: int = 1_000
    headers: tuple[tuple[str, bytes], ...] = ()


def _records(tasks: int, first: int = 0, after: int = 0) -> Iterator[_Read]:
    """Won tasks, each with a description of as many words as fit, all of them new."""
    words = ("q" + "".join(tail) for tail in itertools.product(string.ascii_lowercase, repeat=_WORD - 1))
    for number in range(tasks):
        text = " ".join(itertools.islice(words, _WORDS))
        at = Micros(first + number)
        bid = Bid(Micros(after + 5), 70, text)
        done = Result(Micros(after + 20), succeeded=number % 3 > 0)
        fact = Fact(TaskId(f"task-{at}"), _AGENT, Close(Micros(after + 9), _AGENT, 60), bid, done)
        yield _Read(first + number, *encode_fact(fact))


class Steps:
    """Measures each step of every task that is made meanwhile.

    Attributes:
        longest: the longest step so far, in seconds of this thread's processor time.
    """

    def __init__(self) -> None:
        self.longest = 0.0

    def __enter__(self) -> "Steps":
        asyncio.get_running_loop().set_task_factory(self._task)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().set_task_factory(None)

    def _task(self, loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> "asyncio.Task[Any]":
        return asyncio.Task(self._measured(work), loop=loop, **options)

    async def _measured(self, work: Coroutine[Any, Any, object]) -> object:
        return await self._stepped(work)

    @types.coroutine
    def _stepped(self, work: Coroutine[Any, Any, object]) -> Generator[Any, None, object]:
        """Does the work step by step, and lets its caller wait for what the work waits for."""
        error: BaseException | None = None
        while True:
            began = time.thread_time()
            try:
                waited_for = work.send(None) if error is None else work.throw(error)
            except StopIteration as end:
                return end.value
            finally:
                self.longest = max(self.longest, time.thread_time() - began)
            error = None
            try:
                yield waited_for
            except BaseException as thrown:  # noqa: BLE001 (the work's own matter)
                error = thrown
