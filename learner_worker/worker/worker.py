"""The composition root: one replica's parts, wired together, and the loops they run in."""

import asyncio
import os
import socket
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import structlog
from aiokafka.errors import KafkaError

from learner_worker.contract.fields import ShardId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import ReplyTopics, TopicNames
from learner_worker.domain.retention import STEPS, Policy
from learner_worker.errors import BrokerError, LearnerError, StuckError
from learner_worker.group.assignor import StateKeepingAssignor
from learner_worker.group.frontier import Frontier
from learner_worker.group.membership import find_duplicate
from learner_worker.group.ownership import BrokerOffsets
from learner_worker.group.placement import Claim
from learner_worker.kafka import clients
from learner_worker.kafka.admin import connected, start_within
from learner_worker.kafka.batching import BatchWriter, stop_within
from learner_worker.kafka.connection import Connection
from learner_worker.kafka.outage import Outage
from learner_worker.kafka.partitioner import partitioner
from learner_worker.kafka.watchdog import Observation, Watchdog
from learner_worker.observability import Instruments
from learner_worker.requests.path import RequestClients, RequestPath
from learner_worker.requests.settings import RequestSettings
from learner_worker.settings import Settings
from learner_worker.shard.shard import Shard, ShardContext
from learner_worker.shard.standby import StandbyState
from learner_worker.stages.advise import Advise
from learner_worker.store.shard_file import ShardFile, shard_identity, shard_path
from learner_worker.store.state_folder import held_shards
from learner_worker.strategies.registry import find_strategy
from learner_worker.worker import event_loop
from learner_worker.worker.consumer import Ingest
from learner_worker.worker.probes import Verdict
from learner_worker.worker.standbys import Standbys

_MICROS = 1_000_000
_START_SECONDS = 30.0
_REPLIES_SECONDS = 5.0
_SENT_SECONDS = 0.5
_PROGRESS_SECONDS = 2.0
_WATCH_SECONDS = 5.0
_LOOP_LOOK_SECONDS = 0.01
_LOOK_ROUND_SECONDS = 30.0
_REACH_SECONDS = 5.0
_STUCK_SECONDS = 120.0
_REPLIES_STAND_SECONDS = 30.0
_REPLYING = "replying"
UNFINISHED = "Kafka did not take the last work in time: nothing is lost, the next start reads it again"
_log = structlog.get_logger("learner_worker.worker")


class Worker:
    """A replica's parts, wired together."""

    def __init__(
        self,
        settings: Settings,
        connection: Connection,
        cluster_id: str,
        partitions: int,
        *,
        instruments: Instruments,
        outage: Outage,
    ) -> None:
        self._settings = settings
        self._connection = connection
        self._topics = settings.topics().named()
        self._cluster_id = cluster_id
        self._process = uuid.uuid4().hex
        self._held: dict[ShardId, int] = {}
        self._pace: dict[ShardId, dict[str, int | None]] = {}
        self._watchdog = Watchdog(settings.checkpoint_interval_seconds)
        self._watched_seconds = time.monotonic()
        self.partitions = partitions
        self.instruments = instruments
        self.bulk_producer = clients.bulk_producer(connection)
        self.reply_producer = clients.reply_producer(connection)
        self.consumer = clients.ingest_consumer(
            connection,
            group_id=settings.group_id,
            instance_id=settings.group_instance_id,
            session_seconds=settings.session_timeout_seconds,
            assignor=StateKeepingAssignor(self._claim, self._follow),
        )
        self.request_consumer = clients.request_consumer(connection, group_id=f"{settings.group_id}.requests")
        self._outage = outage
        self._writer = BatchWriter(self.bulk_producer)
        partition_of = partitioner(partitions)
        self._frontier = Frontier(
            connection=connection,
            consumer=self.consumer,
            group_id=settings.group_id,
            topics=(self._topics.bid_placed, self._topics.auction_closed),
            partitions=partitions,
        )
        self._context = ShardContext(
            topics=self._topics,
            partition_of=partition_of,
            sink=self._writer,
            instruments=self.instruments,
            owner=self._process,
            tolerance_micros=round(settings.clock_skew_tolerance_seconds * _MICROS),
            horizon_micros=round(settings.auction_horizon_seconds * _MICROS),
            cached_agents=settings.cached_agents,
            others_passed=self._frontier.passed,
            retention=_retention(settings),
            opening_goes_on=self._watchdog.opening_goes_on,
        )
        self.ingest = Ingest[Shard](
            connection=connection,
            consumer=self.consumer,
            writer=self._writer,
            topics=self._topics,
            group_id=settings.group_id,
            outage=outage,
            open_shard=self._open_shard,
            on_ownership=self._own,
            find_duplicate=self._find_twin,
            before_rejoin=self._say_what_is_answered,
            before_opening=self._settle_standbys,
            give_way=self._context.pacing.give_way,
        )
        self.standbys = Standbys[StandbyState](
            make_consumer=lambda: clients.standby_consumer(connection),
            topic=self._topics.outcomes,
            open_standby=self._open_standby,
            in_use=lambda: self.ingest.in_use,
            outage=outage,
            left=self.instruments.standby_records,
        )
        self.requests = RequestPath(
            RequestSettings(
                topics=self._topics,
                reply_topics=_reply_topics(settings, self._topics),
                shards=partitions,
                ttl_seconds=settings.request_ttl_seconds,
                stall_seconds=settings.session_timeout_seconds / 2,
                while_restoring=settings.while_restoring,
            ),
            RequestClients(self.request_consumer, self.reply_producer, outage),
            advise=Advise(find_strategy(settings.strategy)),
            instruments=self.instruments,
            pacing=self._context.pacing,
            is_member=self.ingest.is_member,
            on_failure=self.ingest.fail,
        )

    async def run(self, stopping: asyncio.Event) -> None:
        """The worker's life: work until told to stop, answer what was asked, make everything durable.

        Raises:
            LearnerError: a loop failed, or Kafka did not take the last work.
        """
        self._held = await asyncio.to_thread(
            held_shards, self._settings.state_dir, self._identity_of, self._topics.outcomes
        )
        try:
            async with asyncio.TaskGroup() as loops:
                loops.create_task(self.ingest.read(stopping), name="read")
                loops.create_task(self._checkpoints(stopping), name="checkpoints")
                loops.create_task(self.requests.read(stopping), name="requests")
                loops.create_task(self.standbys.read(stopping), name="standbys")
                loops.create_task(self._look_round(stopping), name="frontier")
                loops.create_task(self._progress(stopping), name="progress")
                loops.create_task(self._watch(stopping), name="watch")
                loops.create_task(self._measure_stalls(stopping), name="stalls")
            await self.requests.finish(_REPLIES_SECONDS)
            if not await self.ingest.finish():
                raise LearnerError(UNFINISHED)
        finally:
            await self.ingest.close()

    @property
    def moves(self) -> bool:
        """Whether all of this worker's Kafka clients have been seen to move."""
        return self._watchdog.all_has_moved

    def healthy(self) -> Verdict:
        """Whether the loops move."""
        now = time.monotonic()
        ages = {
            "read": self.ingest.away_from_poll_seconds,
            "requests": now - self.requests.last_turn_seconds,
            "watch": now - self._watched_seconds,
        }
        good = max(ages.values()) < _STUCK_SECONDS
        details = {f"{name}_seconds_ago": round(age, 3) for name, age in ages.items()}
        return Verdict(good, {"status": "ok" if good else "stuck", **details})

    def ready(self) -> Verdict:
        """Whether shards were assigned and are restored; ready with none is ready."""
        ownership = self.ingest.ownership
        assigned = ownership.assigned
        restoring = {
            number: shard.restore_left for number, shard in ownership.shards.items() if not shard.restored
        }
        opened = assigned is not None and assigned <= ownership.shards.keys()
        return Verdict(
            opened and not restoring,
            {
                "status": "ready" if opened and not restoring else "restoring" if opened else "joining",
                "shards": sorted(assigned or ()),
                "restoring": {
                    str(number): {"records_left": left, **self._pace.get(number, {})}
                    for number, left in restoring.items()
                },
            },
        )

    def _own(self, shards: Mapping[ShardId, Shard], assigned: frozenset[ShardId]) -> None:
        self.requests.own(shards, assigned, self.ingest.ownership.placement)

    def _claim(self, term: int) -> Claim:
        """What this replica tells the group's leader: what it owns, and what lies in its state folder."""
        owned = self.ingest.ownership
        self._held.update(self.standbys.positions)
        self._held.update(
            {number: shard.positions[self._topics.outcomes] for number, shard in owned.shards.items()}
        )
        where = f"host {socket.gethostname()}, process {os.getpid()}"
        return Claim(
            process=self._process,
            name=self._settings.group_instance_id or where,
            where=where,
            term=term,
            owned=sorted(owned.assigned or ()),
            held=dict(self._held),
            standby_replicas=self._settings.standby_replicas,
        )

    def _follow(self, standbys: frozenset[ShardId]) -> None:
        self.standbys.follow(standbys)

    async def _settle_standbys(self) -> None:
        await self.standbys.settle()

    async def _say_what_is_answered(self) -> None:
        """Whoever gets a shard next begins behind what this replica has answered."""
        await self.requests.commit_answered(_SENT_SECONDS)

    async def _find_twin(self) -> str | None:
        name = self._settings.group_instance_id
        if name is None:
            return None
        return await find_duplicate(self._connection, self._settings.group_id, name, self._process)

    async def _open_shard(self, number: ShardId, marks: BrokerOffsets) -> Shard:
        await self.standbys.release(number)
        file = await self._open_file(number)
        try:
            shard = await Shard.open(number, self._context, file, marks)
        except BaseException:
            await file.close()
            raise
        self._watchdog.opening_goes_on()
        return shard

    async def _open_standby(self, number: ShardId) -> StandbyState:
        file = await self._open_file(number)
        try:
            return await StandbyState.open(file, self._topics.outcomes)
        except BaseException:
            await file.close()
            raise

    def _identity_of(self, number: ShardId) -> dict[str, str]:
        return shard_identity(
            cluster_id=self._cluster_id,
            topic_prefix=self._settings.topic_prefix,
            partitions=self.partitions,
            shard=number,
        )

    async def _open_file(self, number: ShardId) -> ShardFile:
        return await ShardFile.open(shard_path(self._settings.state_dir, number), self._identity_of(number))

    async def _watch(self, stopping: asyncio.Event) -> None:
        """Looks whether the Kafka clients move.

        Raises:
            StuckError: one stands still although Kafka is there.
        """
        while not await is_set_within(stopping, _WATCH_SECONDS):
            self._watched_seconds = time.monotonic()
            problem = self._watchdog.judge(time.monotonic(), await self._observe())
            if problem is None:
                continue
            self._watchdog.forgive()
            if await self._kafka_is_there():
                raise StuckError(problem)

    async def _observe(self) -> Observation:
        """How the loops look now: every consumer is asked by its own connection."""
        if self.requests.replies_stand_seconds > _REPLIES_STAND_SECONDS:
            self._outage.failed(_REPLYING, TimeoutError("Kafka does not take replies"))
        else:
            self._outage.worked(_REPLYING)
        readings = {
            "events": await self.ingest.reading(),
            "requests": await self.requests.reading(),
            "standbys": await self.standbys.reading(),
        }
        return Observation(self._outage.failing, self.ingest.settled, self.ingest.checkpoints, readings)

    async def _kafka_is_there(self) -> bool:
        try:
            async with connected(self._connection, patience_seconds=_REACH_SECONDS) as cluster:
                return cluster.brokers > 0
        except (BrokerError, KafkaError, OSError, TimeoutError):
            return False

    async def _measure_stalls(self, stopping: asyncio.Event) -> None:
        """Measures how long the event loop keeps everybody waiting: an answer waits as long at worst."""
        while not stopping.is_set():
            asked = time.monotonic()
            await asyncio.sleep(_LOOP_LOOK_SECONDS)
            late = time.monotonic() - asked - _LOOP_LOOK_SECONDS
            self.instruments.loop_stall_seconds.observe(max(0.0, late))

    async def _checkpoints(self, stopping: asyncio.Event) -> None:
        while not await is_set_within(stopping, self._settings.checkpoint_interval_seconds):
            with self.instruments.checkpoint_seconds.time():
                done = await self.ingest.checkpoint()
            self.instruments.checkpoints.labels("ok" if done else "failed").inc()

    async def _look_round(self, stopping: asyncio.Event) -> None:
        """Asks how far the whole group has read, often enough to forget auctions soon after their horizon."""
        seconds = min(_LOOK_ROUND_SECONDS, self._settings.auction_horizon_seconds / 10)
        while not await is_set_within(stopping, seconds):
            await self._frontier.look()

    async def _progress(self, stopping: asyncio.Event) -> None:
        """Tells operators where things stand: lag and shards as metrics, restores as log lines."""
        left_before: dict[ShardId, int] = {}
        while not await is_set_within(stopping, _PROGRESS_SECONDS):
            for topic, lag in self.ingest.lag().items():
                self.instruments.lag.labels(topic).set(lag)
            shards = self.ingest.ownership.shards
            left = {number: shard.restore_left for number, shard in shards.items() if not shard.restored}
            self.instruments.shards.labels("ready").set(len(shards) - len(left))
            self.instruments.shards.labels("restoring").set(len(left))
            self._pace = {
                number: _pace(left_before.get(number, left[number]), left[number]) for number in left
            }
            for number, records in left.items():
                _log.info("shard.restoring", shard=number, records_left=records, **self._pace[number])
            if left_before and not left:
                event_loop.settle()
            left_before = left


@asynccontextmanager
async def started(worker: Worker) -> AsyncIterator[None]:
    """The worker's Kafka clients, connected.

    Raises:
        BrokerError: Kafka does not answer.
    """
    clients = (worker.bulk_producer, worker.reply_producer, worker.consumer, worker.request_consumer)
    async with AsyncExitStack() as stack:
        for client in clients:
            stack.push_async_callback(stop_within, client)
            await start_within(client, _START_SECONDS)
        yield


def _pace(before: int, now: int) -> dict[str, int | None]:
    """How fast a restore goes, by the records left at two looks, and how long it will take."""
    rate = (before - now) / _PROGRESS_SECONDS
    return {"records_a_second": round(rate), "seconds_left": round(now / rate) if rate > 0 else None}


async def is_set_within(event: asyncio.Event, seconds: float) -> bool:
    """Waits for an event, but not longer than that; whether it came."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


def _retention(settings: Settings) -> Policy:
    seconds = settings.outcome_retention_seconds
    retention_micros = None if seconds is None else round(seconds * _MICROS)
    return Policy(
        retention_micros=retention_micros,
        step_micros=max(1, (retention_micros or 0) // STEPS),
        grace_micros=round(settings.auction_horizon_seconds * _MICROS),
        now=lambda: Micros(time.time_ns() // 1000),
    )


def _reply_topics(settings: Settings, topics: TopicNames) -> ReplyTopics:
    patterns = topics.reply_patterns if settings.reply_topics is None else settings.reply_topics
    return ReplyTopics(patterns, (*topics.sharded, topics.dead_letters))
