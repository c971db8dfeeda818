"""The process around a replica: a fast event loop, and a garbage collector that stays out of its way.

Reference counts free nearly everything that a worker releases. The collector is needed for cycles only:
closed connections, errors with their tracebacks. By default it walks all living objects again and again; with
many agents cached each walk would stop the loop for far longer than an answer may take.
"""

import asyncio
import gc
import sys
from collections.abc import Coroutine
from typing import Any

import uvloop

_YOUNG = 2_000
"""New objects between two collections of the youngest generation: each takes a fraction of a millisecond."""
_NEVER = 1_000_000_000
"""The older generations are never collected by count: that walks too many objects in one go."""
_COLLECT_SECONDS = 3_600.0
"""Cycles are rare: what an hour leaves behind is small."""
_SWITCH_SECONDS = 0.0005
"""How long a file's thread waits for the GIL when the event loop is busy. A read takes it several times."""


def run(main: Coroutine[Any, Any, None]) -> None:
    """Runs a process's main coroutine to its end."""
    gc.set_threshold(_YOUNG, _NEVER, _NEVER)
    sys.setswitchinterval(_SWITCH_SECONDS)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_with_collections(main))


def freeze() -> None:
    """Takes all living objects out of later collections: what a restore has read stays for long.

    Without a collection before: it would stop the loop just when agents are waiting, and a restore leaves
    next to nothing in cycles.
    """
    gc.freeze()


async def _with_collections(main: Coroutine[Any, Any, None]) -> None:
    collecting = asyncio.create_task(_collect_hourly(), name="collect-garbage")
    try:
        await main
    finally:
        collecting.cancel()


async def _collect_hourly() -> None:
    while True:
        await asyncio.sleep(_COLLECT_SECONDS)
        gc.collect()
        freeze()
