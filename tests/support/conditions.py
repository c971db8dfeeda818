"""Waiting for what a test's own event loop does, never for a time."""

import asyncio
import time
from collections.abc import Callable


async def becomes_true(condition: Callable[[], bool], *, seconds: float = 60.0) -> None:
    """Waits for a condition, and fails if it takes that long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        await asyncio.sleep(0.001)


async def ended(name: str) -> None:
    """Waits for the tasks of that name."""
    if tasks := [task for task in asyncio.all_tasks() if task.get_name() == name]:
        await asyncio.wait(tasks)
