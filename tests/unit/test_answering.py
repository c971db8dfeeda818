"""A shard that is closed while its requests are answered: they wait for it, or are left to its new owner."""

import asyncio
import itertools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import pytest

from learner_worker.contract.decode import Request
from learner_worker.contract.encode import Reply
from learner_worker.contract.fields import AgentId
from learner_worker.domain.agents import Agent, AgentRow
from learner_worker.errors import ClosedFileError, StateError
from learner_worker.stages.advise import Advise
from learner_worker.strategies.classic import CLASSIC
from tests.support.conditions import ended
from tests.support.requests import REQUEST, OpenShard, Requests
from tests.unit.test_long_histories import turns_until_done

CLOSED = ClosedFileError("closed")
MOST_PARKED = 10_000  # requests that wait for agents to be loaded


async def test_a_request_waits_while_its_shard_is_opened_anew() -> None:
    """Nothing is said before the shard can be read again; then the answer."""
    requests = Requests(OpenShard(CLOSED))

    assert await requests.ask() == []
    assert requests.offsets.committable == 0

    requests.own(OpenShard())
    (reply,) = await requests.replies()
    assert reply["suggested_bid_sats"] == 100
    assert requests.offsets.committable == 1


async def test_a_request_is_left_to_the_new_owner_of_a_closed_shard() -> None:
    """It stays unanswered and uncommitted here: who has the shard now reads it again."""
    requests = Requests(OpenShard(CLOSED))
    requests.read()

    requests.lose()
    assert await requests.replies() == []
    requests.own(OpenShard())
    assert await requests.replies() == []

    assert requests.offsets.committable == 0


async def test_a_queued_request_that_is_read_again_is_not_answered_twice() -> None:
    """Its partition was left while it was queued: its next reading gets the answer."""
    requests = Requests(OpenShard())
    requests.read()
    requests.offsets.owned = False

    assert await requests.replies() == []


async def test_a_parked_request_that_is_read_again_is_not_answered_twice() -> None:
    """Its partition was left while it waited for the restore: not even the end of the replica answers it."""
    requests = Requests(OpenShard(restored=False))
    requests.read()
    requests.offsets.owned = False
    requests.own(OpenShard())

    assert await requests.replies() == []
    assert await requests.end() == []


async def test_a_queued_request_whose_shard_is_to_be_restored_again_waits() -> None:
    """It was queued for an answer; an answer from half of the outcomes would be a wrong one."""
    requests = Requests(OpenShard())
    requests.read()
    requests.own(OpenShard(restored=False))
    assert await requests.replies() == []

    requests.own(OpenShard())
    (reply,) = await requests.replies()
    assert reply["stale"] is False


async def test_a_file_that_cannot_be_read_ends_the_worker() -> None:
    """Not with an error reply for every request about its agents: the worker says why, and restarts."""
    damaged = StateError("damaged")
    requests = Requests(OpenShard(damaged))

    assert await requests.ask() == []
    assert requests.failures == [damaged]
    assert requests.offsets.committable == 0


async def test_any_error_of_a_load_ends_the_worker_also_of_a_long_one() -> None:
    """Who asked has stopped waiting for the load; its error is not lost, and the request is not committed."""
    failed = KeyError("no such column")
    shard = LongHistory(failed)
    requests = Requests(shard)
    assert (await requests.ask(), requests.failures) == ([], [])

    shard.may_end.set()
    await ended("load-agents")
    assert (requests.failures, requests.offsets.committable) == ([failed], 0)


class LongHistory(OpenShard):
    """Has one agent in memory; to load another one takes until a test says so."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__(error)
        self.loads = 0
        self.may_end = asyncio.Event()
        self.on_look: Callable[[], None] = lambda: None
        self._in_memory = {AgentId("bob")}

    def get(self, agent_id: AgentId) -> Agent | None:
        self.on_look()
        return Agent(agent_id, AgentRow(), {}) if agent_id in self._in_memory else None

    async def load(self, ids: Collection[AgentId]) -> Mapping[AgentId, Agent]:
        self.loads += 1
        await self.may_end.wait()
        self._in_memory |= set(ids)
        return await super().load(ids)


async def test_an_agent_that_takes_long_to_load_keeps_no_other_agent_waiting() -> None:
    """Others are answered meanwhile, it is loaded once, and its own request is answered when it is there."""
    shard = LongHistory()
    requests = Requests(shard)
    requests.read()
    for number in range(3):
        (reply,) = await requests.ask(REQUEST.replace(b"ann", b"bob").replace(b'"r"', b'"%d"' % number))
        assert (reply["agent_id"], reply["request_id"]) == ("bob", str(number))
    assert (shard.loads, requests.offsets.committable) == (1, 0)

    shard.may_end.set()
    await ended("load-agents")
    (reply,) = await requests.replies()
    assert (reply["agent_id"], shard.loads, requests.offsets.committable) == ("ann", 1, 4)


async def test_another_agent_is_loaded_beside_one_that_takes_long() -> None:
    """A load of its own begins for it; the first agent's goes on, and is not begun again."""
    shard = LongHistory()
    requests = Requests(shard)
    await requests.ask()
    assert await requests.ask(REQUEST.replace(b"ann", b"cid")) == []
    assert shard.loads == 2


async def test_a_request_whose_agent_is_still_being_loaded_is_refused_at_the_end() -> None:
    """The replica stops before the agent is there: it says so, and the request is finished."""
    requests = Requests(LongHistory())
    requests.read()

    (reply,) = await requests.end()
    assert (reply["request_id"], reply["error"]["code"]) == ("r", "RESTORING")
    assert requests.offsets.committable == 1


@pytest.mark.parametrize("asked", [2_500, 12_000])
async def test_more_requests_than_are_queued_wait_for_an_agent_to_be_loaded(asked: int) -> None:
    """All that there is room for are answered when it is there, however many; only others are refused.

    When to ask again follows from the rate of answers: so far there was one, which took a millisecond.
    """
    shard = LongHistory()
    requests = Requests(shard)
    shard.on_look = lambda: requests.clock.advance(0.001)
    await requests.ask(REQUEST.replace(b"ann", b"bob"))
    refused: list[dict[str, Any]] = []
    for _ in range(0, asked, 500):
        for _ in range(500):
            requests.read()
        refused += await requests.replies()
    errors = [(reply["error"]["code"], reply["error"]["retry_after_ms"]) for reply in refused]
    assert errors == [("OVERLOADED", pytest.approx(20_000, rel=0.01))] * max(0, asked - MOST_PARKED)

    shard.may_end.set()
    await ended("load-agents")
    answered = [await requests.replies() for _ in range(asked // 2_000 + 1)]
    assert sum(map(len, answered)) == min(asked, MOST_PARKED)
    assert [reply for replies in answered for reply in replies if "error" in reply] == []
    assert (requests.offsets.committable, shard.loads) == (1 + asked, 1)


MEBIBYTE = b"x" * 2**20
HELD = 64  # requests of a mebibyte: no more may be in memory, waiting for their replies or a restore


async def test_large_requests_are_not_read_on_while_kafka_does_not_take_their_replies() -> None:
    """Refusals count, too: they are made without a turn in the queue, as fast as requests are read."""
    requests = Requests(OpenShard())
    await requests.ask()  # from here on the reply topic is known
    requests.producer.may_send.clear()
    for _ in range(HELD):
        requests.read(b"{}", [("junk", MEBIBYTE)])
    reading_on = asyncio.create_task(requests.replies())
    for _ in range(100):  # turns of the loop, many more than it takes to read on
        await asyncio.sleep(0)
    assert not reading_on.done()

    requests.producer.may_send.set()
    assert len(await reading_on) == HELD


async def test_the_headers_of_parked_requests_count_as_memory() -> None:
    """During a restore only so many megabytes are kept; whoever asks then is told to ask again."""
    requests = Requests(OpenShard(restored=False))
    for _ in range(HELD + 1):
        requests.read(REQUEST, [("junk", MEBIBYTE)])
    (refused,) = await requests.replies()
    assert refused["error"]["code"] == "RESTORING"


class NotedAdvise(Advise):
    """Counts the answers, and tells a test of each."""

    def __init__(self) -> None:
        super().__init__([CLASSIC])
        self.answers = 0
        self.on_answer: Callable[[], None] = lambda: None

    def answer(self, request: Request, agent: Agent, *, stale: bool = False) -> Reply:
        self.answers += 1
        self.on_answer()
        return super().answer(request, agent, stale=stale)


async def test_answers_that_take_long_are_given_a_few_at_a_time() -> None:
    """A batch about agents with many keywords is no step of the event loop."""
    advise = NotedAdvise()
    requests = Requests(OpenShard(), advise=advise)
    advise.on_answer = lambda: requests.clock.advance(0.003)
    asked = [f"agent-{number}" for number in range(60)]
    for agent_id in asked:
        requests.read(REQUEST.replace(b"ann", agent_id.encode()))
    answers, replies = [0], list[dict[str, Any]]()

    async def ask() -> None:
        replies.extend(await requests.replies())

    await turns_until_done(ask(), lambda: answers.append(advise.answers))
    assert max(after - before for before, after in itertools.pairwise(answers)) <= 3
    assert ([reply["agent_id"] for reply in replies], requests.offsets.committable) == (asked, 60)


class BrokenOnce(Advise):
    """Fails on the first request."""

    def __init__(self) -> None:
        super().__init__([CLASSIC])
        self._failed = False

    def answer(self, request: Request, agent: Agent, *, stale: bool = False) -> Reply:
        if not self._failed:
            self._failed = True
            raise ZeroDivisionError
        return super().answer(request, agent, stale=stale)


async def test_a_failure_on_one_request_is_answered_and_the_others_are_not_held_up() -> None:
    """The agent is told INTERNAL under its own ids, the next request gets its advice."""
    requests = Requests(OpenShard(), advise=BrokenOnce())
    requests.read()

    failed, answered = await requests.ask()
    assert (failed["request_id"], failed["error"]["code"]) == ("r", "INTERNAL")
    assert answered["suggested_bid_sats"] == 100
    assert requests.offsets.committable == 2
