"""The setting `while_restoring`: what becomes of requests to a shard that is restored only later."""

import json
import time
from typing import Any

import pytest

from learner_worker.contract.fields import ShardId
from learner_worker.errors import StateError
from learner_worker.kafka.records import Unreadable
from learner_worker.requests.answering import WhileRestoring
from learner_worker.requests.consumer import InFlightOffsets
from tests.unit.test_handover_of_requests import (
    REQUEST,
    SHARD,
    TOPICS,
    FakeReplies,
    FakeShard,
    answering_with,
)

NOW_MS = 1_767_225_600_000
TTL_MS = 10_000
LAST_MOMENT_MS = 250
RETRY_AFTER_MS = 1_000


class RequestConsumer:
    """Requests to one shard, which is being restored, and what is replied to them."""

    def __init__(self, while_restoring: WhileRestoring) -> None:
        self.shard = FakeShard(restored=False)
        self.failures: list[StateError] = []
        self.offsets = InFlightOffsets(0)
        self._replies = FakeReplies()
        self._answering = answering_with(self._replies, self.failures, while_restoring)
        self.own({SHARD: self.shard})
        self._asked = 0

    def own(self, opened: dict[ShardId, FakeShard]) -> None:
        """The shard is this replica's, opened or not."""
        self._answering.own(opened, frozenset({SHARD}))

    async def ask(self) -> list[dict[str, Any]]:
        """One more request, made now, and what is replied since the last look."""
        asked_ms = time.time_ns() // 1_000_000
        self.offsets.begin(self._asked)
        record = Unreadable(TOPICS.requests, SHARD, self._asked, asked_ms, b"ann", REQUEST)
        self._answering.take(record, self.offsets)
        self._asked += 1
        return await self.replies()

    async def replies(self) -> list[dict[str, Any]]:
        """What is replied since the last look."""
        await self._answering.serve()
        added, self._replies.added = self._replies.added, []
        return [json.loads(reply.value or b"") for reply in added]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What time it is, in milliseconds: a test moves it on."""
    now_ms = [NOW_MS]
    monkeypatch.setattr(time, "time_ns", lambda: now_ms[0] * 1_000_000)
    return now_ms


def is_refusal(reply: dict[str, Any]) -> bool:
    """Whether a reply says that the shard is being restored, to whom, and when to ask again."""
    error = reply.get("error", {})
    said = (reply["request_id"], reply["agent_id"], error.get("code"), error.get("retry_after_ms"))
    return said == ("r", "ann", "RESTORING", RETRY_AFTER_MS)


async def test_wait_holds_a_request_and_answers_it_after_the_restore() -> None:
    """Nothing is said and nothing committed before; then one answer, and it is not stale."""
    lane = RequestConsumer("wait")
    assert await lane.ask() == []
    assert await lane.replies() == []
    assert lane.offsets.safe == 0
    lane.shard.restored = True
    (reply,) = await lane.replies()
    assert (reply["suggested_bid_sats"], reply["stale"]) == (100, False)
    assert lane.offsets.safe == 1
    assert await lane.replies() == []


async def test_wait_refuses_a_request_in_its_last_moment(clock: list[int]) -> None:
    """A quarter of a second before its deadline, while the agent still listens, and only then; once."""
    lane = RequestConsumer("wait")
    assert await lane.ask() == []
    clock[0] = NOW_MS + TTL_MS - LAST_MOMENT_MS
    assert await lane.replies() == []
    clock[0] += 1
    (reply,) = await lane.replies()
    assert is_refusal(reply), reply
    assert lane.offsets.safe == 1
    lane.shard.restored = True
    assert await lane.replies() == []


async def test_refuse_says_so_at_once_and_answers_after_the_restore() -> None:
    """Refused with the time to ask again; the one who asks again after the restore is answered."""
    lane = RequestConsumer("refuse")
    (reply,) = await lane.ask()
    assert is_refusal(reply), reply
    assert lane.offsets.safe == 1
    lane.shard.restored = True
    (reply,) = await lane.ask()
    assert (reply["suggested_bid_sats"], reply["stale"]) == (100, False)


async def test_stale_answers_at_once_and_marks_it_until_the_restore_is_over() -> None:
    """Answered and marked stale; the next one, after the restore, is not."""
    lane = RequestConsumer("stale")
    (reply,) = await lane.ask()
    assert (reply["suggested_bid_sats"], reply["stale"]) == (100, True)
    assert lane.offsets.safe == 1
    lane.shard.restored = True
    (reply,) = await lane.ask()
    assert (reply["suggested_bid_sats"], reply["stale"]) == (100, False)


@pytest.mark.parametrize("while_restoring", ["refuse", "stale"])
async def test_a_shard_that_is_not_opened_yet_has_nothing_to_answer_from(
    while_restoring: WhileRestoring,
) -> None:
    """Refused, also where stale answers are allowed: there is no file to take one from."""
    lane = RequestConsumer(while_restoring)
    lane.own({})
    (reply,) = await lane.ask()
    assert is_refusal(reply), reply


async def test_wait_holds_a_request_to_a_shard_that_is_not_opened_yet() -> None:
    """Held while there is no file, still held while it is restored, answered afterwards."""
    lane = RequestConsumer("wait")
    lane.own({})
    assert await lane.ask() == []
    lane.own({SHARD: lane.shard})
    assert await lane.replies() == []
    lane.shard.restored = True
    (reply,) = await lane.replies()
    assert reply["stale"] is False
