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

import uvloop

_YOUNG = 2_000
"""Objects made and kept between two looks at the youngest: some tenths of a millisecond."""
_NEVER = 1_000_000_000
"""What outlives its youth is looked at once an hour: ten generations of youth together took 20 to 50 ms."""
_TIDY_SECONDS = 3_600.0
_SWITCH_SECONDS = 0.0005
"""How long a file's thread waits for a busy event loop when a statement is done: several times a read.

With Python's own 5 ms joining facts was a third slower (measured: 30 µs a fact instead of 21).
"""


def run(main: Coroutine[Any, Any, None]) -> None:
    """Runs a process's main coroutine to its end."""
    gc.set_threshold(_YOUNG, _NEVER, _NEVER)
    sys.setswitchinterval(_SWITCH_SECONDS)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_tidied(main))


def settle() -> None:
    """Takes what lives now out of all later collections: what a restore has read stays for long.

    Not collected before: with a million objects that stops the loop for 0.4 s just when agents are waiting,
    and a restore of 400,000 facts had left eleven objects in cycles (measured, with all other garbage).
    """
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
