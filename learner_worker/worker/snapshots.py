"""Snapshots of the owned shards' files: published at intervals, and taken where a file is missing.

A replica without the file of a shard takes the newest valid snapshot, and reads the changelog from there. An
invalid snapshot is skipped, and the log names the reason; without a valid one, the changelog is read from its
beginning. An owner deletes the snapshots that its own supersede.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from prometheus_client import Counter

from learner_worker.contract.fields import ShardId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import TopicName
from learner_worker.errors import SnapshotError, StateError
from learner_worker.kafka.clients import running
from learner_worker.kafka.offsets import offset_ranges
from learner_worker.kafka.partition_reader import record_at
from learner_worker.shard.shard import Shard
from learner_worker.snapshots.catalog import (
    Listing,
    SnapshotCatalog,
    abandoned,
    new_name,
    of_other_markers,
    superfluous,
)
from learner_worker.snapshots.manifest import (
    SnapshotManifest,
    beyond,
    contradicted,
    foreign,
    is_from_the_future,
    manifest_of,
    newest_first,
    recognized,
    unusable,
)
from learner_worker.store.copying import digest_of
from learner_worker.worker.ownership import Ownership, ShardStatus
from learner_worker.worker.platform import SnapshotPlatform

_LOOK_SECONDS: Final = 1.0  # how late a snapshot may begin: far below any interval worth setting
_RETRY: Final = 0.25
"""Of the interval, after a failure or a withdrawal: the store, or the next checkpoint, may be there soon."""
_RENEW: Final = 0.5  # of the maximum age: when an unchanged shard gets a new snapshot
_START_SECONDS: Final = 10.0
"""Time limit for starting the consumer: beyond a broker's usual answer it counts as an outage."""
_ASK_SECONDS: Final = 10.0  # as above, for its offsets
_TAKE_SECONDS: Final = 900.0
"""Enough for gigabytes; after that the shard's changelog may be the quicker way."""
_PAUSE_SECONDS: Final = 60.0  # before a store that failed is asked again: longer than opening many shards
_log = structlog.get_logger("learner_worker.snapshots")


@dataclass(frozen=True, slots=True)
class SnapshotPolicy:
    """How often snapshots are made, and how old they may get.

    Attributes:
        now: the clock, in microseconds since 1970.
        take_seconds: time limit for taking a shard's snapshot.
    """

    interval_seconds: float
    keep_seconds: float
    now: Callable[[], Micros]
    take_seconds: float = _TAKE_SECONDS

    @property
    def now_ms(self) -> int:
        """The time in milliseconds, as in manifests."""
        return self.now() // 1000


class SnapshotPublisher:
    """Publishes snapshots of the shards that this replica owns, one at a time.

    Args:
        topics: the changelog, and the others whose positions belong to the rows.
        results: counts snapshots by result.
    """

    def __init__(
        self,
        snapshots: SnapshotPlatform,
        *,
        ownership: Ownership,
        topics: Sequence[TopicName],
        policy: SnapshotPolicy,
        results: Counter,
    ) -> None:
        self._files = snapshots.files
        self._former = snapshots.former
        self._catalog = SnapshotCatalog(snapshots.store)
        self._ownership = ownership
        self._topics = topics
        self._policy = policy
        self._results = results
        self._next_ms: dict[ShardId, int] = {}

    async def run(self, stopping: asyncio.Event) -> None:
        """Publishes snapshots until `stopping` is set; one that is under way then is abandoned."""
        publishing = asyncio.create_task(self._publish_again_and_again(), name="publish-snapshots")
        stopped = asyncio.create_task(stopping.wait(), name="snapshots-stopped")
        try:
            await asyncio.wait({publishing, stopped}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            publishing.cancel()
            await asyncio.wait([publishing])
        if not publishing.cancelled():
            publishing.result()

    async def _publish_again_and_again(self) -> None:
        while True:
            for shard_id in self._due():
                await self._publish_when_due(shard_id)
            await asyncio.sleep(_LOOK_SECONDS)

    def _due(self) -> list[ShardId]:
        """The shards to check now: at first all that are running, later each at its own time."""
        statuses = self._ownership.statuses
        running_now = [one for one in self._ownership.shards if statuses[one] is ShardStatus.RUNNING]
        self._next_ms = {one: self._next_ms.get(one, 0) for one in running_now}
        now_ms = self._policy.now_ms
        return [one for one, next_ms in self._next_ms.items() if next_ms <= now_ms]

    async def _publish_when_due(self, shard_id: ShardId) -> None:
        """Publishes a shard's snapshot unless there is a recent one; sets when to check again."""
        interval_ms = round(self._policy.interval_seconds * 1000)
        wait_ms = interval_ms
        try:
            found = await self._catalog.list(shard_id)
            shard = self._running(shard_id)
            if shard is None:
                return
            found = await self._without_other_markers(found, shard_id, shard)
            left_ms = self._due_ms(found, shard_id, shard) - self._policy.now_ms
            if left_ms > 0:
                wait_ms = min(left_ms, interval_ms)
            elif not await self.publish(shard_id, shard):
                wait_ms = round(interval_ms * _RETRY)
        except (SnapshotError, StateError) as error:
            self._results.labels("failed").inc()
            _log.warning("snapshot.not_published", shard=shard_id, reason=str(error))
            wait_ms = round(interval_ms * _RETRY)
        self._next_ms[shard_id] = self._policy.now_ms + wait_ms

    def _running(self, shard_id: ShardId) -> Shard | None:
        """A shard whose memory has all markers: it has read its changelog to the end."""
        is_running = self._ownership.statuses.get(shard_id) is ShardStatus.RUNNING
        return self._ownership.shards.get(shard_id) if is_running else None

    async def _without_other_markers(self, found: Listing, shard_id: ShardId, shard: Shard) -> Listing:
        """Deletes what was made before an agent was forgotten, whoever made it; returns the rest."""
        incarnation, forgotten = self._incarnation(shard_id), digest_of(shard.learn.forgotten)
        leaving = of_other_markers(found, incarnation, self._ownership.term, forgotten)
        await self._catalog.delete(leaving)
        return found._replace(snapshots=[each for each in found.snapshots if each not in leaving])

    def _incarnation(self, shard_id: ShardId) -> str:
        return self._files.identity_of(shard_id)["incarnation"]

    def _due_ms(self, found: Listing, shard_id: ShardId, shard: Shard) -> int:
        """When the next snapshot is due, whoever made the last one."""
        now_ms, incarnation = self._policy.now_ms, self._incarnation(shard_id)
        own = [
            each
            for each in found.snapshots
            if each.incarnation == incarnation and not is_from_the_future(each, now_ms)
        ]
        newest = max(own, key=lambda each: each.age_order, default=None)
        if newest is None:
            return 0
        is_same = newest.position == shard.positions[self._topics[0]]
        seconds = self._policy.keep_seconds * _RENEW if is_same else self._policy.interval_seconds
        return newest.created_ms + round(seconds * 1000)

    async def publish(self, shard_id: ShardId, shard: Shard) -> bool:
        """Publishes a snapshot of an open shard unless it is empty; returns False if it was withdrawn.

        Raises:
            SnapshotError: the store does not accept it.
            StateError: the file cannot be copied.
        """
        manifest = await self._put(shard_id, self._ownership.term, self._policy.now_ms)
        if manifest is None:
            return True
        if not is_still_true(shard, self._ownership.shards.get(shard_id), manifest):
            await self._catalog.delete([manifest])
            return False
        self._results.labels("published").inc()
        _log.info("snapshot.published", shard=shard_id, position=manifest.position, bytes=manifest.size)
        await self._prune(shard_id, manifest)
        return True

    async def _put(self, shard_id: ShardId, term: int, created_ms: int) -> SnapshotManifest | None:
        copy = await self._files.copy(shard_id, self._topics)
        try:
            name = new_name(shard_id, created_ms)
            manifest = manifest_of(copy, self._topics[0], name=name, term=term, created_ms=created_ms)
            if manifest is not None:
                await self._catalog.publish(copy.path, manifest)
        finally:
            await self._files.discard(copy.path)
        return manifest

    async def _prune(self, shard_id: ShardId, newest: SnapshotManifest) -> None:
        found, now_ms = await self._catalog.list(shard_id), self._policy.now_ms
        leaving = superfluous(found, newest, self._former, now_ms, self._policy.keep_seconds)
        await self._catalog.delete(leaving, abandoned(found, now_ms))


def is_still_true(copied: Shard, shard: Shard | None, manifest: SnapshotManifest) -> bool:
    """Whether a snapshot may stay in the store, now that it is there.

    If it was copied from a file that did not have an agent's marker yet, it may still contain the agent. If
    the shard was lost meanwhile, this replica does not know whether it does.

    Args:
        shard: the shard that is open now; None if there is none.
    """
    return shard is copied and digest_of(copied.learn.forgotten) == manifest.forgotten


class SnapshotRestorer:
    """Takes snapshots for shards that have no file here.

    Args:
        make_consumer: a consumer without a group, to ask the changelog.
        topic: the changelog.
        results: counts snapshots by result.
        on_progress: called repeatedly while a snapshot is fetched.
    """

    def __init__(
        self,
        snapshots: SnapshotPlatform,
        *,
        make_consumer: Callable[[], AIOKafkaConsumer],
        topic: TopicName,
        policy: SnapshotPolicy,
        results: Counter,
        on_progress: Callable[[], None],
    ) -> None:
        self._files = snapshots.files
        self._catalog = SnapshotCatalog(snapshots.store)
        self._make_consumer = make_consumer
        self._topic = topic
        self._policy = policy
        self._results = results
        self._on_progress = on_progress
        self._again_at = 0.0

    async def is_missing(self, shard_id: ShardId) -> bool:
        """Whether there is no file of a shard."""
        return await self._files.is_missing(shard_id)

    async def restore(self, shard_id: ShardId) -> bool:
        """If the shard has no file, makes one from the newest valid snapshot; returns whether it did.

        If the store failed a moment ago, it is not asked again: many shards would wait for it in turn.

        Raises:
            BrokerError, KafkaError, TimeoutError: Kafka does not answer.
            StateError: the state folder cannot be written.
        """
        if not await self.is_missing(shard_id):
            return False
        now = asyncio.get_running_loop().time()
        reason = "the store failed a moment ago"
        if now >= self._again_at:
            try:
                if await self._take_newest(shard_id, now + self._policy.take_seconds):
                    return True
                reason = "the store has no valid snapshot"
            except SnapshotError as error:
                self._again_at = asyncio.get_running_loop().time() + _PAUSE_SECONDS
                reason = str(error)
        _log.warning("snapshot.none_taken", shard=shard_id, reason=reason)
        return False

    async def _take_newest(self, shard_id: ShardId, until: float) -> bool:
        """Takes the newest usable snapshot, if there is one.

        Raises:
            SnapshotError: the store does not answer, or no snapshot has arrived by then.
        """
        found = await self._catalog.list(shard_id)
        self._on_progress()
        for name, reason in (found.broken | found.newer).items():
            self._refuse(shard_id, name, reason)
        for manifest in newest_first(found.snapshots):
            obstacle = await self._obstacle_to(shard_id, manifest)
            obstacle = obstacle or await self._fetch(shard_id, manifest, until)
            if obstacle is None:
                return True
            self._refuse(shard_id, manifest.name, obstacle)
        return False

    def _refuse(self, shard_id: ShardId, name: str, reason: str) -> None:
        self._results.labels("refused").inc()
        _log.warning("snapshot.refused", shard=shard_id, snapshot=name, reason=reason)

    async def _obstacle_to(self, shard_id: ShardId, manifest: SnapshotManifest) -> str | None:
        """Why a snapshot must not be used here; None if it may be."""
        policy = self._policy
        return (
            foreign(manifest, self._files.identity_of(shard_id))
            or unusable(manifest, now_ms=policy.now_ms, keep_seconds=policy.keep_seconds)
            or await self._unknown_to_changelog(shard_id, manifest)
        )

    async def _unknown_to_changelog(self, shard_id: ShardId, manifest: SnapshotManifest) -> str | None:
        """Why the changelog may not be the one that a snapshot was made from."""
        partition, last = TopicPartition(self._topic, shard_id), manifest.last_record
        async with running(self._make_consumer(), _START_SECONDS) as consumer:
            consumer.assign([partition])  # asked about an unknown topic, the client pauses and asks again
            consumer.pause(partition)  # nothing is fetched yet
            consumer.seek(partition, last.offset)
            async with asyncio.timeout(_ASK_SECONDS):
                changelog = (await offset_ranges(consumer, [partition]))[partition]
            reason = beyond(manifest, changelog)
            if reason is not None:
                return reason
            record = await record_at(consumer, partition, last.offset)
        if recognized(manifest, record):
            return None
        return (
            f"the changelog does not have the last record that it has read, at offset {last.offset}: the "
            "record was compacted away, or the changelog is another one"
        )

    async def _fetch(self, shard_id: ShardId, manifest: SnapshotManifest, until: float) -> str | None:
        """Turns a snapshot into the shard's file, or returns why that failed.

        Raises:
            SnapshotError: it has not arrived by then.
        """
        path = self._files.arriving(shard_id)
        try:
            async with asyncio.timeout_at(until):
                await self._catalog.fetch(manifest, path, self._on_progress)
            obstacle = await self._contradicted(manifest, path)
            if obstacle is not None:
                return obstacle
            await self._files.take(shard_id, path)
        except TimeoutError as error:
            seconds = self._policy.take_seconds
            raise SnapshotError(f"{manifest.name} has not arrived within {seconds:g} s") from error
        except SnapshotError as error:
            return str(error)
        finally:
            await self._files.discard(path)
        self._results.labels("taken").inc()
        _log.info("snapshot.taken", shard=shard_id, position=manifest.position, bytes=manifest.size)
        return None

    async def _contradicted(self, manifest: SnapshotManifest, path: Path) -> str | None:
        """Why a downloaded file does not match its manifest; None if it does."""
        try:
            return contradicted(manifest, await self._files.describe(path), self._topic)
        except StateError as error:
            return str(error)
