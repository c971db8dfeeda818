"""The process around a replica: a fast event loop, and a garbage collector that keeps out of its way.

Reference counts free nearly all that a worker lets go of; the collector is for cycles: closed connections,
errors with their tracebacks. By default it walks every object that lives, again and again: with many agents
cached that stops the loop for a tenth of a second and more, and took a sixth of the time of reading events.
"""

import asyncio
import gc
import sys
from collections.abc import Coroutine
from typing import Any

if sys.platform != "win32":
    import uvloop

_YOUNG = 10_000
"""Objects made and kept between two looks at the youngest: half a millisecond's work."""
_MIDDLE = 10
_OLD = 1_000_000
"""So rarely that it never happens by itself."""
_TIDY_SECONDS = 3_600.0


def run(main: Coroutine[Any, Any, None]) -> None:
    """Runs a process's main coroutine to its end."""
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)
    with asyncio.Runner(loop_factory=None if sys.platform == "win32" else uvloop.new_event_loop) as runner:
        runner.run(_tidied(main))


def settle() -> None:
    """Takes what lives now out of all later collections: what a restore has read stays for long."""
    gc.freeze()


async def _tidied(main: Coroutine[Any, Any, None]) -> None:
    tidying = asyncio.create_task(_tidy(), name="tidy")
    try:
        await main
    finally:
        tidying.cancel()


async def _tidy() -> None:
    while True:
        await asyncio.sleep(_TIDY_SECONDS)
        gc.collect()
        settle()
