"""The composition root: makes a worker's components in dependency order and runs its loops."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Final

from learner_worker.contract.fields import ShardId
from learner_worker.errors import LearnerError
from learner_worker.group.frontier import Frontier
from learner_worker.group.membership import Membership
from learner_worker.group.offsets import BrokerOffsetsReader
from learner_worker.kafka.batching import BatchWriter
from learner_worker.kafka.clients import all_running
from learner_worker.kafka.outage import Outage
from learner_worker.kafka.refused_records import Refusals
from learner_worker.kafka.watchdog import Watchdog
from learner_worker.observability import Instruments
from learner_worker.requests.path import RequestClients, RequestPath
from learner_worker.requests.settings import RequestSettings
from learner_worker.settings import Settings
from learner_worker.shard.pacing import Pacing
from learner_worker.stages.advise import Advise
from learner_worker.strategies.registry import find_strategies
from learner_worker.worker.backfill import Backfill
from learner_worker.worker.checkpoint import Checkpointer
from learner_worker.worker.claims import Claims, MemberIdentity
from learner_worker.worker.consumer import EventConsumer
from learner_worker.worker.experiment import experiment_of
from learner_worker.worker.failure import WorkerFailure
from learner_worker.worker.health import Health, ProgressReport, Watch
from learner_worker.worker.known_labels import begin_at_zero
from learner_worker.worker.offset_committer import OffsetCommitter
from learner_worker.worker.ownership import Ownership
from learner_worker.worker.periodic import Periodic
from learner_worker.worker.platform import Platform
from learner_worker.worker.probation import Probation
from learner_worker.worker.readiness import ReadinessLog
from learner_worker.worker.rebalance import Rebalance, ShardPreparation
from learner_worker.worker.rollback import Rollback
from learner_worker.worker.shard_opener import ShardOpener, shard_context
from learner_worker.worker.snapshots import SnapshotPolicy, SnapshotPublisher, SnapshotRestorer
from learner_worker.worker.standby_files import StandbyFiles
from learner_worker.worker.standbys import Standbys

START_SECONDS: Final = 30.0
"""Time limit for starting each Kafka client: long enough for a broker to fail over."""
_REPLIES_SECONDS = 5.0
"""Time limit for the last replies at shutdown: a fraction of the replica's own limit for stopping."""
UNFINISHED: Final = (
    "Kafka did not accept the last records in time: nothing is lost, the next start reprocesses them"
)
Loop = Callable[[asyncio.Event], Coroutine[Any, Any, None]]
Question = Callable[[], Awaitable[bool]]


class Worker:
    """A worker: its components, created in dependency order so that none needs a late-bound callback.

    Args:
        siblings: identifies the parent of this process and its siblings, which tells of their readiness.
    """

    def __init__(
        self,
        settings: Settings,
        platform: Platform,
        *,
        instruments: Instruments,
        outage: Outage,
        probation_seconds: float = 0.0,
        siblings: str = "",
    ) -> None:
        topics, clients = settings.topics().named(), platform.clients
        strategies = find_strategies(settings.strategy, settings.strategies)
        begin_at_zero(instruments, topics, shards=platform.partitions)
        self.ownership = ownership = Ownership()
        self.failure = failure = WorkerFailure()
        watchdog = Watchdog(settings.checkpoint_interval_seconds)
        pacing = Pacing()
        restorer = _restorer(settings, platform, instruments, watchdog)
        self.standbys = standbys = Standbys(
            make_consumer=clients.standby_consumer,
            topic=topics.outcomes,
            files=StandbyFiles(
                platform.files, topics.outcomes, strategies=strategies, pacing=pacing, restorer=restorer
            ),
            ownership=ownership,
            outage=outage,
            left=instruments.process.standby_records,
            idle_seconds=platform.intervals.standby_idle_seconds,
        )
        probation = Probation(probation_seconds)
        self._claims = claims = Claims(
            ownership=ownership,
            standbys=standbys,
            files=platform.files,
            topic=topics.outcomes,
            identity=MemberIdentity(platform.process, settings.group_instance_id, siblings),
            standby_replicas=settings.standby_replicas,
            probation=probation,
        )

        def on_placement(term: int, followed: frozenset[ShardId]) -> None:
            ownership.term = term
            standbys.follow(followed)

        consumer, producer = clients.event_consumer(claims.claim, on_placement), clients.bulk_producer()
        membership = Membership(
            consumer=consumer,
            administrator=clients.administrator,
            group_id=settings.group_id,
            instance_id=settings.group_instance_id,
            process=platform.process,
        )
        frontier = Frontier(
            administrator=clients.administrator,
            consumer=consumer,
            group_id=settings.group_id,
            incarnation=platform.guard.incarnation,
            topics=(topics.bid_placed, topics.auction_closed),
            partitions=platform.partitions,
            now=platform.clock.now,
        )
        of_shards = instruments.shards
        refusals = Refusals(topics, of_shards.records_refused, of_shards.dead_letters)
        writer = BatchWriter(producer, refusals)
        context = shard_context(
            settings,
            platform,
            instruments=instruments,
            writer=writer,
            frontier=frontier,
            strategies=strategies,
            pacing=pacing,
        )
        rollback = Rollback(consumer=consumer, writer=writer, ownership=ownership, outage=outage)
        self.checkpointer = checkpointer = Checkpointer(
            ownership=ownership,
            writer=writer,
            rollback=rollback,
            committer=OffsetCommitter(
                consumer=consumer,
                incarnation=platform.guard.incarnation,
                ownership=ownership,
                membership=membership,
            ),
            pacing=pacing,
            confirm=platform.guard.confirm,
            tracer=instruments.tracer,
        )
        request_clients = RequestClients(clients.request_consumer(), clients.reply_producer(), outage)
        self.requests = requests = RequestPath(
            RequestSettings.of(settings, platform.partitions, platform.intervals.request_poll_ms),
            request_clients,
            advise=Advise(
                strategies,
                paid_on=settings.paid_on,
                experiment=experiment_of(settings, strategies),
                tells_metrics=settings.reply_metrics == "full",
            ),
            instruments=instruments.requests,
            pacing=pacing,
            is_member=_both(platform.guard.confirm_anew, membership.is_confirmed),
            on_failure=failure.fail,
            clock=platform.clock,
        )
        self._clients = (producer, request_clients.producer, consumer, request_clients.consumer)
        self.rebalance = Rebalance(
            consumer=consumer,
            topics=topics.subscribed,
            ownership=ownership,
            membership=membership,
            checkpointer=checkpointer,
            requests=requests,
            failure=failure,
            rebalances=instruments.process.rebalances,
        )
        offsets = BrokerOffsetsReader(
            administrator=clients.administrator,
            consumer=consumer,
            group_id=settings.group_id,
            incarnation=platform.guard.incarnation,
            topics=topics.subscribed,
        )
        self.preparation = ShardPreparation(
            ownership=ownership,
            opener=ShardOpener(
                files=platform.files,
                context=context,
                standbys=standbys,
                watchdog=watchdog,
                ownership=ownership,
                restorer=restorer,
            ),
            offsets=offsets,
            guard=platform.guard,
            requests=requests,
            outage=outage,
            failure=failure,
        )
        self.events = events = EventConsumer(
            consumer=consumer,
            ownership=ownership,
            membership=membership,
            writer=writer,
            checkpointer=checkpointer,
            rollback=rollback,
            failure=failure,
            outage=outage,
        )
        periodic = Periodic(
            checkpointer=checkpointer,
            frontier=frontier,
            instruments=instruments.process,
            checkpoint_seconds=settings.checkpoint_interval_seconds,
            frontier_seconds=platform.intervals.frontier_seconds,
        )
        progress = ProgressReport(
            consumer=consumer,
            topics=topics,
            ownership=ownership,
            requests=requests,
            instruments=instruments,
        )
        watch = Watch(
            watchdog=watchdog,
            ownership=ownership,
            checkpointer=checkpointer,
            events=events,
            requests=requests,
            standbys=standbys,
            outage=outage,
            administrator=clients.administrator,
        )
        self.health = Health(
            ownership=ownership, progress=progress, events=events, requests=requests, watch=watch
        )
        self.loops: dict[str, Loop] = {
            "read": events.read,
            "checkpoints": periodic.make_checkpoints,
            "requests": requests.read,
            "standbys": standbys.read,
            "backfill": Backfill(ownership).run,
            "frontier": periodic.ask_how_far_the_group_is,
            "progress": progress.tell,
            "watch": watch.watch,
            "topology": platform.guard.watch,
            "probation": partial(probation.serve, membership),
            "stalls": periodic.measure_stalls,
        }
        if platform.snapshots is not None:
            self.loops["snapshots"] = SnapshotPublisher(
                platform.snapshots,
                ownership=ownership,
                topics=(topics.outcomes, topics.metrics),
                policy=_snapshot_policy(settings, platform),
                results=instruments.process.snapshots,
            ).run
        if not siblings:
            self.loops["readiness"] = ReadinessLog(self.health.ready).tell

    @asynccontextmanager
    async def started(self) -> AsyncIterator[None]:
        """Connects the Kafka clients; on exit closes the shards' files first, then the clients.

        Raises:
            BrokerError: Kafka does not answer.
        """
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(all_running(self._clients, START_SECONDS))
            await stack.enter_async_context(self.preparation.running())
            yield

    async def run(self, stopping: asyncio.Event, *, without: Collection[str] = ()) -> None:
        """Runs until `stopping` is set, then answers the requests in hand and makes a last checkpoint.

        Args:
            without: names of loops not to start; a simulation drives those itself.

        Raises:
            LearnerError: a loop failed, or Kafka did not accept the last records.
        """
        await self._claims.look_into_files()
        self.rebalance.join_group()
        async with asyncio.TaskGroup() as loops:
            for name, loop in self.loops.items():
                if name not in without:
                    loops.create_task(loop(stopping), name=name)
        await self.requests.finish(_REPLIES_SECONDS)
        if not await self.checkpointer.finish():
            raise LearnerError(UNFINISHED)


def _snapshot_policy(settings: Settings, platform: Platform) -> SnapshotPolicy:
    return SnapshotPolicy(
        settings.snapshot_interval_seconds, settings.snapshot_keep_seconds, platform.clock.now
    )


def _restorer(
    settings: Settings, platform: Platform, instruments: Instruments, watchdog: Watchdog
) -> SnapshotRestorer | None:
    if platform.snapshots is None:
        return None
    return SnapshotRestorer(
        platform.snapshots,
        make_consumer=platform.clients.standby_consumer,
        topic=settings.topics().named().outcomes,
        policy=_snapshot_policy(settings, platform),
        results=instruments.process.snapshots,
        on_progress=watchdog.opening_goes_on,
    )


def _both(first: Question, second: Question) -> Question:
    async def hold() -> bool:
        return await first() and await second()

    return hold
