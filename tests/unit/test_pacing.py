"""How the reading of events yields to requests, and how requests linger for each other."""

import asyncio
import itertools
from collections.abc import Coroutine
from typing import Any

import pytest

from learner_worker.shard.pacing import ASKED_CHUNK, CHUNK, TURNS, Pacing


async def test_events_give_more_turns_while_agents_ask() -> None:
    """Other tasks have one turn of the loop after each chunk, and ten while there are requests."""
    turns = itertools.count()
    pacing = Pacing()
    others = asyncio.create_task(_take(turns))
    await pacing.after_chunk(full=False)
    quiet = next(turns)
    pacing.asked()
    await pacing.after_chunk(full=False)
    others.cancel()
    assert (quiet, next(turns)) == (1, 1 + 1 + TURNS)


async def test_chunks_are_short_while_agents_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request waits for several chunks; a while after the last one, nobody does."""
    pacing, loop = Pacing(), asyncio.get_running_loop()
    now = loop.time()
    with monkeypatch.context() as patch:
        patch.setattr(loop, "time", lambda: now)
        quiet = pacing.chunk
        pacing.asked()
        asked = pacing.chunk
        patch.setattr(loop, "time", lambda: now + 2)
        assert (quiet, asked, pacing.chunk) == (CHUNK, ASKED_CHUNK, CHUNK)
    assert ASKED_CHUNK < CHUNK


async def test_requests_linger_during_a_backlog(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few new events are no backlog: then nothing waits, nor when the backlog is a while ago."""
    pacing, loop = Pacing(), asyncio.get_running_loop()
    now = loop.time()
    with monkeypatch.context() as patch:
        patch.setattr(loop, "time", lambda: now)
        assert not waits(pacing.linger())
        await pacing.after_chunk(full=False)
        assert not waits(pacing.linger())
        await pacing.after_chunk(full=True)
        assert waits(pacing.linger())
        patch.setattr(loop, "time", lambda: now + 1)
        assert not waits(pacing.linger())


def waits(work: Coroutine[Any, Any, None]) -> bool:
    """Whether something does not end at once."""
    try:
        work.send(None)
    except StopIteration:
        return False
    work.close()
    return True


async def _take(turns: "itertools.count[int]") -> None:
    while True:
        next(turns)
        await asyncio.sleep(0)
