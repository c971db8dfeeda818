"""The setting `while_restoring`: what becomes of requests to a shard that is restored only later."""

from typing import Any

import pytest

from learner_worker.requests.settings import WhileRestoring
from tests.support.requests import OpenShard, Requests

RETRY_AFTER_MS = 1_000


def restoring(while_restoring: WhileRestoring) -> tuple[Requests, OpenShard]:
    """Requests to one shard, which is being restored."""
    shard = OpenShard(restored=False)
    return Requests(shard, while_restoring), shard


def is_refusal(reply: dict[str, Any]) -> bool:
    """Whether a reply says that the shard is being restored, to whom, and when to ask again."""
    error = reply.get("error", {})
    said = (reply["request_id"], reply["agent_id"], error.get("code"), error.get("retry_after_ms"))
    return said == ("r", "ann", "RESTORING", RETRY_AFTER_MS)


async def test_wait_holds_a_request_and_answers_it_after_the_restore() -> None:
    """Nothing is said and nothing committed before; then one answer, and it is not stale."""
    requests, shard = restoring("wait")
    assert await requests.ask() == []
    assert await requests.replies() == []
    assert requests.offsets.committable == 0
    shard.restored = True
    (reply,) = await requests.replies()
    assert (reply["suggested_bid_sats"], reply["stale"]) == (100, False)
    assert requests.offsets.committable == 1
    assert await requests.replies() == []


async def test_wait_refuses_a_request_in_its_last_moment() -> None:
    """A quarter of a second before its deadline, while the agent still listens, and only then; once."""
    requests, shard = restoring("wait")
    assert await requests.ask() == []
    requests.clock.advance(10 - 0.25)
    assert await requests.replies() == []
    requests.clock.advance(0.001)
    (reply,) = await requests.replies()
    assert is_refusal(reply), reply
    assert requests.offsets.committable == 1
    shard.restored = True
    assert await requests.replies() == []


async def test_refuse_says_so_at_once_and_answers_after_the_restore() -> None:
    """Refused with the time to ask again; the one who asks again after the restore is answered."""
    requests, shard = restoring("refuse")
    (reply,) = await requests.ask()
    assert is_refusal(reply), reply
    assert requests.offsets.committable == 1
    shard.restored = True
    (reply,) = await requests.ask()
    assert (reply["suggested_bid_sats"], reply["stale"]) == (100, False)


async def test_stale_answers_at_once_and_marks_it_until_the_restore_is_over() -> None:
    """Answered and marked stale; the next one, after the restore, is not."""
    requests, shard = restoring("stale")
    (reply,) = await requests.ask()
    assert (reply["suggested_bid_sats"], reply["stale"]) == (100, True)
    assert requests.offsets.committable == 1
    shard.restored = True
    (reply,) = await requests.ask()
    assert (reply["suggested_bid_sats"], reply["stale"]) == (100, False)


@pytest.mark.parametrize("while_restoring", ["refuse", "stale"])
async def test_a_shard_that_is_not_opened_yet_has_nothing_to_answer_from(
    while_restoring: WhileRestoring,
) -> None:
    """Refused, also where stale answers are allowed: there is no file to take one from."""
    requests = Requests(None, while_restoring)
    (reply,) = await requests.ask()
    assert is_refusal(reply), reply


async def test_wait_holds_a_request_to_a_shard_that_is_not_opened_yet() -> None:
    """Held while there is no file, still held while it is restored, answered afterwards."""
    requests = Requests(None, "wait")
    assert await requests.ask() == []
    shard = OpenShard(restored=False)
    requests.own(shard)
    assert await requests.replies() == []
    shard.restored = True
    (reply,) = await requests.replies()
    assert reply["stale"] is False
