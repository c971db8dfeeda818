"""Expires outcomes: removes expired parts from the rows, and their facts from the changelog."""

from collections.abc import Sequence

from learner_worker.contract.fields import ShardId
from learner_worker.domain.outcomes import OutcomeKey, living
from learner_worker.domain.retention import Retention
from learner_worker.kafka.records import chunked
from learner_worker.shard.changelog import ChangelogApplier
from learner_worker.shard.context import ShardContext
from learner_worker.shard.events import FactSender
from learner_worker.shard.pacing import CHUNK
from learner_worker.store.shard_file import ShardFile

_SWEPT = 4_000
"""The most rows swept with one checkpoint: the next transaction has to write them, too."""


class OutcomeExpiry:
    """Sweeps a shard's rows and tombstones the facts whose parts have expired or are forgotten.

    Args:
        file: is searched for expired rows.
        applier: removes the parts from the rows, between two batches of facts.
        retention: knows what has expired and which tombstones are due.
        facts: sends what is left of a fact.
    """

    def __init__(
        self,
        shard_id: ShardId,
        context: ShardContext,
        *,
        file: ShardFile,
        applier: ChangelogApplier,
        retention: Retention,
        facts: FactSender,
    ) -> None:
        self._shard_id = shard_id
        self._context = context
        self._file = file
        self._applier = applier
        self._retention = retention
        self._facts = facts

    async def sweep(self, *, restored: bool) -> None:
        """Removes expired parts of some rows, which the next snapshot includes, and sends due tombstones."""
        if restored:
            await self._sweep_rows()
        await self._send_tombstones(restored=restored)

    async def _sweep_rows(self) -> None:
        left = _SWEPT
        while left > 0 and (keys := await self._retention.next_page(self._file)) is not None:
            left -= max(len(keys), 1)
            for chunk in chunked(keys, CHUNK):
                await self._expire(chunk)

    async def _expire(self, keys: Sequence[OutcomeKey]) -> None:
        cutoff = self._retention.cutoff
        if cutoff is None:
            return
        now_ms = self._context.settings.retention.now() // 1000
        rows = await self._applier.expire(keys, cutoff, now_ms)
        for row in rows:
            self._retention.on_row_swept(row, cutoff)
        self._context.instruments.outcomes_expired.inc(
            sum(row.counts and not living(row, cutoff).counts for row in rows)
        )
        await self._context.pacing.give_way()

    async def _send_tombstones(self, *, restored: bool) -> None:
        append, topic = self._context.sink.append, self._context.topics.outcomes
        for some in self._retention.take_due_tombstones(restored=restored):
            for due in chunked(some, CHUNK):
                for key, left in due:
                    if left is None:
                        append(topic, self._shard_id, key, None)
                    else:
                        self._facts.send([left])
                await self._context.pacing.give_way()
