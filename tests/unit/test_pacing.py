"""How the reading of events yields to requests, and how requests linger for each other."""

import asyncio
import itertools

from learner_worker.shard.pacing import CHUNK, LINGER_SECONDS, TURNS, Pacing


async def test_events_give_more_turns_while_agents_ask() -> None:
    """Other tasks have one turn of the loop after each chunk, and ten while there are requests."""
    turns = itertools.count()
    pacing = Pacing()
    others = asyncio.create_task(_take(turns))
    await pacing.after_chunk(1)
    quiet = next(turns)
    pacing.asked()
    await pacing.after_chunk(1)
    others.cancel()
    assert (quiet, next(turns)) == (1, 1 + 1 + TURNS)


async def test_requests_linger_during_a_backlog() -> None:
    """A few new events are no backlog: then nothing waits."""
    pacing, loop = Pacing(), asyncio.get_running_loop()
    began = loop.time()
    await pacing.linger()
    await pacing.after_chunk(CHUNK - 1)
    await pacing.linger()
    assert loop.time() - began < LINGER_SECONDS
    await pacing.after_chunk(CHUNK)
    began = loop.time()
    await pacing.linger()
    assert loop.time() - began >= LINGER_SECONDS * 0.9


async def _take(turns: "itertools.count[int]") -> None:
    while True:
        next(turns)
        await asyncio.sleep(0)
