"""The event loop of a replica's process, and its garbage collector's settings.

Reference counting frees nearly everything that a worker releases. The collector is needed for cycles only:
closed connections, errors with their tracebacks. By default it traverses all live objects repeatedly; with
many cached agents, each traversal would block the loop for far longer than an answer may take.
"""

import asyncio
import gc
import sys
from collections.abc import Coroutine
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from learner_worker.errors import ConfigurationError

_YOUNG = 2_000
"""Allocations between two collections of the youngest generation: few enough to traverse unnoticed."""
_NEVER = 1_000_000_000
"""Out of reach, so that older generations are never collected by count: that would block the loop."""
_COLLECT_SECONDS = 3_600.0
"""Cycles are rare: what accumulates in an hour is small."""
_SWITCH_SECONDS = 0.0005
"""How long a file's thread waits for the GIL while the event loop is busy; one read waits several times."""


def run(main: Coroutine[Any, Any, None]) -> None:
    """Runs a process's main coroutine until it ends."""
    collect_young_only()
    sys.setswitchinterval(_SWITCH_SECONDS)
    if find_spec("uvloop") is None:
        raise ConfigurationError(
            "a worker needs uvloop, which is there for Linux and macOS: install it, or run the worker there"
        )
    with asyncio.Runner(loop_factory=import_module("uvloop").new_event_loop) as runner:
        runner.run(_with_collections(main))


def collect_young_only() -> None:
    """Lets the collector traverse only what is new, by itself."""
    gc.set_threshold(_YOUNG, _NEVER, _NEVER)


def freeze() -> None:
    """Excludes all live objects from later collections: what a restore has read stays in memory.

    No collection is run first: it would block the loop just when agents are waiting, and a restore leaves
    hardly any cycles.
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
