"""Releases large collections a part at a time: freeing one at once would block the event loop."""

import weakref
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from learner_worker.domain.bucketed import LOOKED_AT, parts_of

GiveWay = Callable[[], Awaitable[None]]
"""Yields to the event loop between two steps of long work; how long depends on who asks meanwhile."""


class GradualRelease:
    """Mappings and queues that are no longer used; `release` empties them."""

    def __init__(self) -> None:
        self._unused: list[MutableMapping[Any, Any] | list[Any] | deque[Any]] = []

    def add(self, mapping: MutableMapping[Any, Any]) -> None:
        """Adds a mapping that nobody reads any more."""
        if mapping:
            self._unused += parts_of(mapping)

    def add_queue(self, queue: list[Any] | deque[Any]) -> None:
        """Adds a queue that nobody reads any more."""
        self._unused.append(queue)

    def add_with(self, owner: object, mapping: MutableMapping[Any, Any]) -> None:
        """Adds a large mapping as soon as its owner is gone: until then, an answer may still read it."""
        if len(mapping) > LOOKED_AT:
            weakref.finalize(owner, self.add, mapping).atexit = False

    async def release(self, give_way: GiveWay) -> None:
        """Empties all of them, in steps that each take a millisecond or two, and gives way after each."""
        left = LOOKED_AT
        while self._unused:
            unused = self._unused[-1]
            if len(unused) <= left:
                left -= len(unused) + 1
                unused.clear()  # several times as fast as one by one
                self._unused.pop()
            else:
                drop = unused.popitem if isinstance(unused, MutableMapping) else unused.pop
                for _ in range(left):
                    drop()
                left = 0
            if left <= 0:
                left = LOOKED_AT
                await give_way()
