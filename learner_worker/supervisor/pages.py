"""What the processes answer together: health, readiness and metrics."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from learner_worker.lifecycle import is_set_within
from learner_worker.supervisor.child import STARTING, Child
from learner_worker.supervisor.exposition import joined
from learner_worker.worker.parent_link import Answer
from learner_worker.worker.probes import Verdict

_LOOK_SECONDS: Final = 0.5
"""Often enough that the log's line tells how long a start took."""


class SharedPages:
    """Asks all processes, and makes one answer of theirs.

    A process that is being started again is healthy, because its parent sees to it, but not ready. One that
    was there and does not answer is neither.
    """

    def __init__(self, children: Sequence[Child]) -> None:
        self._children = children
        self._readiness = Verdict(False, STARTING.details)
        self._all_may_join = self.were_ready = False
        """Whether all have been ready at the same time."""

    async def healthy(self) -> Verdict:
        """Whether all loops of all processes make progress."""
        answers = await self._ask("/healthz")
        good = all(answer.good or answer == STARTING for answer in answers.values())
        return Verdict(good, {"status": "ok" if good else "stuck", "processes": _details(answers)})

    async def ready(self) -> Verdict:
        """Whether all shards of all processes are restored; the answer is also that of one process."""
        answers = await self._ask("/readyz")
        good = all(answer.good for answer in answers.values())
        unready = [answer.details.get("status") for answer in answers.values() if not answer.good]
        return Verdict(
            good,
            {
                "status": unready[0] if unready else "ready",
                "shards": sorted(shard for shards in _each(answers, "shards") for shard in shards),
                "states": _merged(_each(answers, "states")),
                "restoring": _merged(_each(answers, "restoring")),
                "refused": sorted({text for texts in _each(answers, "refused") for text in texts}),
                "processes": _details(answers),
            },
        )

    async def metrics(self) -> str:
        """The metrics of all processes that answer."""
        answers = await self._ask("/metrics")
        return joined({number: answer.text for number, answer in answers.items() if answer.text})

    def last_readiness(self) -> Verdict:
        """The readiness when it was asked last."""
        return self._readiness

    async def keep_asking(self, stopping: asyncio.Event) -> None:
        """Asks for the readiness every now and then until `stopping` is set."""
        while not await is_set_within(stopping, _LOOK_SECONDS):
            self._readiness = await self.ready()
            if all(child.is_loaded for child in self._children):
                self._let_all_join()
            self.were_ready = self.were_ready or self._readiness.good

    def _let_all_join(self) -> None:
        """Once, when all are loaded for the first time."""
        if not self._all_may_join:
            self._all_may_join = True
            for child in self._children:
                child.let_join()

    async def _ask(self, path: str) -> dict[str, Answer]:
        answers = await asyncio.gather(*(child.ask(path) for child in self._children))
        return {str(child.number): answer for child, answer in zip(self._children, answers, strict=True)}


def _details(answers: Mapping[str, Answer]) -> dict[str, Mapping[str, object]]:
    return {number: answer.details for number, answer in answers.items()}


def _each(answers: Mapping[str, Answer], name: str) -> list[Any]:
    return [answer.details[name] for answer in answers.values() if name in answer.details]


def _merged(parts: Sequence[Mapping[str, object]]) -> dict[str, object]:
    return {name: value for part in parts for name, value in part.items()}
