"""The composition root: one replica, from its settings to its end."""

import asyncio
import signal
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.coordinator.assignors.range import RangePartitionAssignor

from learner_worker.contract.fields import MAX_RECORD_BYTES, Shard
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import ROOMY_RECORD_BYTES, ReplyTopics, TopicNames
from learner_worker.domain.strategies import STRATEGIES
from learner_worker.errors import LearnerError
from learner_worker.insights.http import Verdict, serving
from learner_worker.observability import Instruments
from learner_worker.settings import Settings
from learner_worker.stages.advise import Advise
from learner_worker.stages.answering import Answering
from learner_worker.stages.retention import STEPS, Policy
from learner_worker.stages.shard import ShardState, Surroundings
from learner_worker.store.shard_file import ShardFile, shard_path
from learner_worker.store.state_folder import locked_state_folder
from learner_worker.stream.cluster import connected, start_within
from learner_worker.stream.connection import Connection
from learner_worker.stream.ingest import Ingest, Marks
from learner_worker.stream.lane import Lane
from learner_worker.stream.partitions import partitioner
from learner_worker.stream.writer import Writer, bulk_producer, stop_within

_MICROS = 1_000_000
_START_SECONDS = 30.0
_STOP_SECONDS = 25.0
"""From the signal to the last checkpoint; a supervisor should wait longer before it kills."""
_CLOSE_SECONDS = 15.0
_REPLIES_SECONDS = 5.0
_PROGRESS_SECONDS = 2.0
_STUCK_SECONDS = 120.0
_UNFINISHED = "Kafka did not take the last work in time: nothing is lost, the next start reads it again"
_REBALANCE_MS = 60_000
_INGEST_FETCH_WAIT_MS = 100
_LANE_FETCH_WAIT_MS = 50
_log = structlog.get_logger("learner_worker.worker")


class Worker:
    """A replica's parts, wired together."""

    def __init__(self, settings: Settings, connection: Connection, cluster_id: str, partitions: int) -> None:
        self._settings = settings
        self._topics = settings.topics().named()
        self._identity = {
            "cluster_id": cluster_id,
            "topic_prefix": settings.topic_prefix,
            "partitions": str(partitions),
        }
        self.instruments = Instruments()
        self.bulk_producer = bulk_producer(connection)
        self.reply_producer = _reply_producer(connection)
        self.consumer = _ingest_consumer(settings, connection)
        self.request_consumer = _request_consumer(settings, connection)
        self._writer = Writer(self.bulk_producer)
        partition_of = partitioner(partitions)
        self._around = Surroundings(
            topics=self._topics,
            partition_of=partition_of,
            outbox=self._writer,
            instruments=self.instruments,
            owner=uuid.uuid4().hex,
            tolerance_micros=round(settings.clock_skew_tolerance_seconds * _MICROS),
            horizon_micros=round(settings.auction_horizon_seconds * _MICROS),
            cached_agents=settings.cached_agents,
            retention=_retention(settings),
        )
        self.ingest = Ingest[ShardState](
            connection=connection,
            consumer=self.consumer,
            writer=self._writer,
            topics=self._topics,
            group_id=settings.group_id,
            open_shard=self._open_shard,
            on_ownership=self._own,
        )
        self.answering = Answering(
            producer=self.reply_producer,
            list_topics=self.request_consumer.topics,
            topics=self._topics,
            reply_topics=_reply_topics(settings, self._topics),
            partition_of=partition_of,
            advise=Advise(settings.strategy, STRATEGIES[settings.strategy]),
            instruments=self.instruments,
            ttl_micros=round(settings.request_ttl_seconds * _MICROS),
            while_restoring=settings.while_restoring,
        )
        self.lane = Lane(
            consumer=self.request_consumer,
            topic=self._topics.requests,
            ttl_seconds=settings.request_ttl_seconds,
            answerer=self.answering,
        )

    async def run(self, stopping: asyncio.Event) -> None:
        """The worker's life: work until told to stop, answer what was asked, make everything durable.

        Raises:
            LearnerError: a loop failed, or Kafka did not take the last work.
        """
        try:
            async with asyncio.TaskGroup() as loops:
                loops.create_task(self.ingest.read(stopping), name="read")
                loops.create_task(self._checkpoints(stopping), name="checkpoints")
                loops.create_task(self.lane.read(stopping), name="requests")
                loops.create_task(self._progress(stopping), name="progress")
            await self.answering.finish(_REPLIES_SECONDS)
            await self.lane.finish()
            if not await self.ingest.finish():
                raise LearnerError(_UNFINISHED)
        finally:
            await self.ingest.close()

    def healthy(self) -> Verdict:
        """Whether the loops move."""
        now = time.monotonic()
        ages = {
            "read": now - self.ingest.last_poll_seconds,
            "requests": now - self.lane.last_poll_seconds,
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
                "restoring_records_left": {str(number): left for number, left in restoring.items()},
            },
        )

    def _own(self, shards: Mapping[Shard, ShardState], assigned: frozenset[Shard]) -> None:
        self.answering.own(shards, assigned)
        self.lane.own(assigned)

    async def _open_shard(self, number: Shard, marks: Marks) -> ShardState:
        identity = {**self._identity, "shard": str(number)}
        file = await ShardFile.open(shard_path(self._settings.state_dir, number), identity)
        try:
            return await ShardState.open(number, self._around, file, marks)
        except BaseException:
            await file.close()
            raise

    async def _checkpoints(self, stopping: asyncio.Event) -> None:
        while not await _set_within(stopping, self._settings.checkpoint_interval_seconds):
            with self.instruments.checkpoint_seconds.time():
                done = await self.ingest.checkpoint()
            self.instruments.checkpoints.labels("ok" if done else "failed").inc()

    async def _progress(self, stopping: asyncio.Event) -> None:
        """Tells operators where things stand: lag and shards as metrics, restores as log lines."""
        left_before: dict[Shard, int] = {}
        while not await _set_within(stopping, _PROGRESS_SECONDS):
            for topic, lag in self.ingest.lag().items():
                self.instruments.lag.labels(topic).set(lag)
            shards = self.ingest.ownership.shards
            left = {number: shard.restore_left for number, shard in shards.items() if not shard.restored}
            self.instruments.shards.labels("ready").set(len(shards) - len(left))
            self.instruments.shards.labels("restoring").set(len(left))
            for number, records in left.items():
                rate = (left_before.get(number, records) - records) / _PROGRESS_SECONDS
                _log.info(
                    "shard.restoring",
                    shard=number,
                    records_left=records,
                    records_a_second=round(rate),
                    seconds_left=round(records / rate) if rate > 0 else None,
                )
            left_before = left


async def run_worker(settings: Settings) -> None:
    """Runs one replica until SIGTERM or SIGINT; a second signal ends it at once.

    Raises:
        ConfigurationError: the topics or the state folder do not allow a start.
        LearnerError: something failed that a restart has to mend.
    """
    stopping, working = asyncio.Event(), asyncio.Event()
    _stop_on_signals(stopping)
    asyncio.get_running_loop().set_exception_handler(_log_stray_error)
    living = asyncio.create_task(_live(settings, stopping, working), name="worker")
    told = asyncio.create_task(stopping.wait(), name="signals")
    await asyncio.wait({living, told}, return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    if not living.done() and working.is_set():
        await asyncio.wait({living}, timeout=_STOP_SECONDS)
    if living.done():
        await living
        return
    living.cancel()
    await asyncio.wait({living}, timeout=_CLOSE_SECONDS)
    if working.is_set():
        raise LearnerError(_UNFINISHED)


def _log_stray_error(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """One line for what the Kafka client's own tasks leave behind, as a commit that Kafka never answered."""
    _log.warning("task.stray_error", error=repr(context.get("exception")), message=context["message"])


def _stop_on_signals(stopping: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)

    def stop() -> None:
        stopping.set()
        for number in signals:
            loop.remove_signal_handler(number)

    for number in signals:
        loop.add_signal_handler(number, stop)


async def _live(settings: Settings, stopping: asyncio.Event, working: asyncio.Event) -> None:
    connection = settings.connection()
    with locked_state_folder(settings.state_dir):
        async with connected(connection, patience_seconds=settings.startup_timeout_seconds) as cluster:
            partitions = await cluster.check_topics(settings.topics().named())
            cluster_id = cluster.cluster_id
        worker = Worker(settings, connection, cluster_id, partitions)
        async with _started(worker), _http(worker, settings):
            working.set()
            _log.info(
                "worker.started",
                group=settings.group_id,
                partitions=partitions,
                state_dir=str(settings.state_dir),
            )
            await _run_unwrapped(worker, stopping)
        _log.info("worker.stopped")


async def _run_unwrapped(worker: Worker, stopping: asyncio.Event) -> None:
    """Lets the first failure of the loops out as itself, not as a group."""
    try:
        await worker.run(stopping)
    except* LearnerError as group:
        failure: BaseException = group
        while isinstance(failure, BaseExceptionGroup):
            failure = failure.exceptions[0]
        raise failure from None


@asynccontextmanager
async def _started(worker: Worker) -> AsyncIterator[None]:
    clients = (worker.bulk_producer, worker.reply_producer, worker.consumer, worker.request_consumer)
    async with AsyncExitStack() as stack:
        for client in clients:
            stack.push_async_callback(stop_within, client)
            await start_within(client, _START_SECONDS)
        yield


@asynccontextmanager
async def _http(worker: Worker, settings: Settings) -> AsyncIterator[None]:
    if settings.http_port is None:
        yield
        return
    async with serving(
        host=settings.http_host,
        port=settings.http_port,
        healthy=worker.healthy,
        ready=worker.ready,
        registry=worker.instruments.registry,
    ) as port:
        _log.info("http.listening", url=f"http://{settings.http_host}:{port}")
        yield


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
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


def _ingest_consumer(settings: Settings, connection: Connection) -> AIOKafkaConsumer:
    session_ms = round(settings.session_timeout_seconds * 1000)
    return AIOKafkaConsumer(
        **connection.options(),
        group_id=settings.group_id,
        group_instance_id=settings.group_instance_id,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        session_timeout_ms=session_ms,
        heartbeat_interval_ms=session_ms // 4,
        rebalance_timeout_ms=_REBALANCE_MS,
        partition_assignment_strategy=(RangePartitionAssignor,),
        fetch_max_wait_ms=_INGEST_FETCH_WAIT_MS,
        max_partition_fetch_bytes=MAX_RECORD_BYTES,
    )


def _request_consumer(settings: Settings, connection: Connection) -> AIOKafkaConsumer:
    return AIOKafkaConsumer(
        **connection.options(),
        group_id=f"{settings.group_id}.requests",
        enable_auto_commit=False,
        auto_offset_reset="latest",
        isolation_level="read_committed",
        fetch_max_wait_ms=_LANE_FETCH_WAIT_MS,
    )


def _reply_producer(connection: Connection) -> AIOKafkaProducer:
    return AIOKafkaProducer(**connection.options(), acks=1, linger_ms=0, max_request_size=ROOMY_RECORD_BYTES)
