"""Releases large mappings a part at a time: freeing one at once would block the event loop."""

import asyncio
import weakref
from collections.abc import MutableMapping
from typing import Any

from learner_worker.domain.keywords import LOOKED_AT


class GradualRelease:
    """Large mappings that are no longer used; `release` empties them. Small ones are not worth the effort."""

    def __init__(self) -> None:
        self._unused: list[MutableMapping[Any, Any]] = []

    def add(self, mapping: MutableMapping[Any, Any]) -> None:
        """Adds a mapping that nobody reads any more."""
        if len(mapping) > LOOKED_AT:
            self._unused.append(mapping)

    def add_with(self, owner: object, mapping: MutableMapping[Any, Any]) -> None:
        """Adds a mapping as soon as its owner is gone: until then an answer may still read it."""
        if len(mapping) > LOOKED_AT:
            weakref.finalize(owner, self._unused.append, mapping).atexit = False

    async def release(self) -> None:
        """Empties all mappings, in parts that each take about a millisecond."""
        while self._unused:
            mapping = self._unused.pop()
            while mapping:
                for _ in range(min(LOOKED_AT, len(mapping))):
                    mapping.popitem()
                await asyncio.sleep(0)
