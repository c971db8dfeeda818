"""Who gives way to whom: events to agents who ask, and questions to each other."""

import asyncio
import itertools

from learner_worker.shard import pacing as pacing_module
from learner_worker.shard.pacing import Pacing


async def test_events_give_more_turns_while_agents_ask() -> None:
    """Whoever is ready meanwhile has one turn a chunk, ten while there are questions."""
    turns = itertools.count()
    pacing = Pacing()
    others = asyncio.create_task(_take(turns))
    await pacing.after_chunk(1)
    quiet = next(turns)
    pacing.asked()
    await pacing.after_chunk(1)
    others.cancel()
    assert (quiet, next(turns)) == (1, 1 + 1 + pacing_module._TURNS)


async def test_questions_are_collected_while_events_are_worked_off() -> None:
    """A few new events are none: nothing waits."""
    pacing, loop = Pacing(), asyncio.get_running_loop()
    began = loop.time()
    await pacing.linger()
    await pacing.after_chunk(pacing_module.CHUNK - 1)
    await pacing.linger()
    assert loop.time() - began < pacing_module._LINGER_SECONDS
    await pacing.after_chunk(pacing_module.CHUNK)
    began = loop.time()
    await pacing.linger()
    assert loop.time() - began >= pacing_module._LINGER_SECONDS * 0.9


async def _take(turns: "itertools.count[int]") -> None:
    while True:
        next(turns)
        await asyncio.sleep(0)
