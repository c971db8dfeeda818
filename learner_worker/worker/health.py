"""A worker's health and readiness, its shards' lag, and whether its Kafka clients make progress."""

import asyncio
import time

import structlog
from aiokafka import AIOKafkaConsumer

from learner_worker.contract.fields import ShardId
from learner_worker.contract.topics import TopicNames
from learner_worker.kafka.admin import Administrator
from learner_worker.kafka.outage import Outage
from learner_worker.kafka.watchdog import Observation, Watchdog, watch
from learner_worker.lifecycle import is_set_within
from learner_worker.observability import Instruments
from learner_worker.requests.path import RequestPath
from learner_worker.worker import event_loop
from learner_worker.worker.checkpoint import Checkpointer
from learner_worker.worker.consumer import EventConsumer
from learner_worker.worker.lag import LagReport
from learner_worker.worker.ownership import Ownership
from learner_worker.worker.probes import Verdict, alive
from learner_worker.worker.standbys import Standbys

_PROGRESS_SECONDS = 2.0
"""Shorter than Prometheus' usual scrape interval, so that no scrape sees the same value twice."""
_REPLIES_STAND_SECONDS = 30.0
"""The time after which aiokafka gives up a batch: replies that stand longer mean an outage."""
_REPLYING = "replying"
_log = structlog.get_logger("learner_worker.worker")


class Watch:
    """Checks whether the worker's Kafka clients make progress."""

    def __init__(
        self,
        *,
        watchdog: Watchdog,
        ownership: Ownership,
        checkpointer: Checkpointer,
        events: EventConsumer,
        requests: RequestPath,
        standbys: Standbys,
        outage: Outage,
        administrator: Administrator,
    ) -> None:
        self._watchdog = watchdog
        self._ownership = ownership
        self._checkpointer = checkpointer
        self._events = events
        self._requests = requests
        self._standbys = standbys
        self._outage = outage
        self._administrator = administrator
        self.last_turn_seconds = time.monotonic()
        """When the loop's last turn began, by the monotonic clock."""

    @property
    def all_has_moved(self) -> bool:
        """Whether all of the worker's Kafka clients have been seen to move."""
        return self._watchdog.all_has_moved

    @property
    def refusals(self) -> list[str]:
        """What Kafka refuses at present, in sentences."""
        return self._outage.refusals

    async def watch(self, stopping: asyncio.Event) -> None:
        """Checks every few seconds until `stopping` is set.

        Raises:
            StuckError: a client makes no progress although Kafka can be reached.
        """
        await watch(self._watchdog, self._observe, self._administrator, stopping)

    async def _observe(self) -> Observation:
        """Observes the loops: each consumer asks Kafka over its own connection."""
        self.last_turn_seconds = time.monotonic()
        if self._requests.replies_stand_seconds > _REPLIES_STAND_SECONDS:
            self._outage.failed(_REPLYING, TimeoutError("Kafka does not accept replies"))
        else:
            self._outage.worked(_REPLYING)
        readings = {
            "events": await self._events.reading(),
            "requests": await self._requests.reading(),
            "standbys": await self._standbys.reading(),
        }
        return Observation(
            self._outage.failing, self._ownership.all_read, self._checkpointer.completed, readings
        )


class ProgressReport:
    """Reports progress to operators: lag and shards as metrics, restores in the log."""

    def __init__(
        self,
        *,
        consumer: AIOKafkaConsumer,
        topics: TopicNames,
        ownership: Ownership,
        requests: RequestPath,
        instruments: Instruments,
    ) -> None:
        self._lag = LagReport(
            consumer=consumer,
            topics=topics,
            ownership=ownership,
            requests=requests,
            instruments=instruments.lag,
        )
        self._ownership = ownership
        self._instruments = instruments.process
        self._left_before: dict[ShardId, int] = {}
        self.rates: dict[ShardId, dict[str, int | None]] = {}
        """Of each restoring shard, the records read a second and the seconds left."""

    async def tell(self, stopping: asyncio.Event) -> None:
        """Reports every few seconds until `stopping` is set."""
        while not await is_set_within(stopping, _PROGRESS_SECONDS):
            self._lag.tell()
            self._tell_of_restores()

    def restoring(self) -> dict[ShardId, int]:
        """The open shards that are still restoring, each with the changelog records left to read."""
        shards = self._ownership.shards.items()
        return {shard_id: shard.restore_left for shard_id, shard in shards if not shard.restored}

    def _tell_of_restores(self) -> None:
        left, before = self.restoring(), self._left_before
        self._instruments.shards.labels("ready").set(len(self._ownership.shards) - len(left))
        self._instruments.shards.labels("restoring").set(len(left))
        self.rates = {
            shard_id: _rate(before.get(shard_id, records), records) for shard_id, records in left.items()
        }
        for shard_id, records in left.items():
            _log.info("shard.restoring", shard=shard_id, records_left=records, **self.rates[shard_id])
        if before and not left:
            event_loop.freeze()
        self._left_before = left


def _rate(before: int, now: int) -> dict[str, int | None]:
    """A restore's rate, from the records left at two reports, and the seconds it still takes."""
    rate = (before - now) / _PROGRESS_SECONDS
    return {"records_a_second": round(rate), "seconds_left": round(now / rate) if rate > 0 else None}


class Health:
    """Answers the probes."""

    def __init__(
        self,
        *,
        ownership: Ownership,
        progress: ProgressReport,
        events: EventConsumer,
        requests: RequestPath,
        watch: Watch,
    ) -> None:
        self._ownership = ownership
        self._progress = progress
        self._events = events
        self._requests = requests
        self._watch = watch

    @property
    def all_has_moved(self) -> bool:
        """Whether all of the worker's Kafka clients have been seen to move."""
        return self._watch.all_has_moved

    def healthy(self) -> Verdict:
        """Whether all loops make progress."""
        now = time.monotonic()
        return alive(
            read=self._events.away_from_poll_seconds,
            requests=now - self._requests.last_turn_seconds,
            watch=now - self._watch.last_turn_seconds,
        )

    def ready(self) -> Verdict:
        """Whether shards were assigned and all are restored, and Kafka refuses nothing.

        An empty assignment is ready.
        """
        assigned = self._ownership.assigned
        restoring = self._progress.restoring()
        opened = assigned is not None and assigned <= self._ownership.shards.keys()
        refusals = self._watch.refusals
        status = "ready" if opened and not restoring else "restoring" if opened else "joining"
        return Verdict(
            status == "ready" and not refusals,
            {
                "status": "refused" if refusals else status,
                "shards": sorted(assigned or ()),
                "states": {
                    str(shard_id): status.value
                    for shard_id, status in sorted(self._ownership.statuses.items())
                },
                "restoring": {
                    str(shard_id): {"records_left": left, **self._progress.rates.get(shard_id, {})}
                    for shard_id, left in restoring.items()
                },
                "refused": refusals,
            },
        )
