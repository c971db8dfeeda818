"""A replica: handles signals, locks the state folder, serves HTTP, and rebuilds a worker that is stuck."""

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from aiokafka.errors import KafkaError
from prometheus_client import generate_latest

from learner_worker.errors import (
    BrokerError,
    ConfigurationError,
    LearnerError,
    ReshardError,
    StuckError,
    SupersededError,
)
from learner_worker.group.departure import leave_group, remove_instance
from learner_worker.group.topology_guard import TopologyGuard
from learner_worker.kafka.outage import Outage, first_line
from learner_worker.lifecycle import is_set_within
from learner_worker.observability import Instruments
from learner_worker.operations.members import arrange_processes
from learner_worker.refusals.denials import failure
from learner_worker.settings import Settings, settings_in_layout
from learner_worker.store.former import set_aside_former
from learner_worker.store.leave_marker import leave_requested, withdraw_leave
from learner_worker.store.needs import lacking_descriptors, raise_descriptor_limit
from learner_worker.store.state_folder import filed_identities, locked_state_folder
from learner_worker.strategies.registry import find_strategies
from learner_worker.worker.parent_link import Answer, ParentLink, Question
from learner_worker.worker.platform import KafkaClients, kafka_platform
from learner_worker.worker.probation import noted_start
from learner_worker.worker.probes import Verdict, serving_if_wanted
from learner_worker.worker.readiness import log_start
from learner_worker.worker.stopping import CLOSE_SECONDS, STOP_SECONDS, stop_on_signals, stop_within_limits
from learner_worker.worker.worker import UNFINISHED, Worker

_TELL_SECONDS = 10.0
"""How long stopping may take before the log says what it waits for: far above a usual stop."""
REBUILD_SECONDS = 5.0
"""Base of the pause before a rebuild: it doubles each time, so that rebuilds do not add to an overload."""
_LONGEST_REBUILD_SECONDS = 300.0
"""Upper limit of the pause: a cluster that has recovered is used again within minutes."""
_REBUILD_PATIENCE_SECONDS = 5.0
"""How long a rebuild waits for Kafka before it pauses again: several times a healthy broker's answer."""
_REBUILDS_UNTIL_UNHEALTHY = 3
"""Rebuilds without progress after which the liveness probe fails: then only a new process may help."""
_REBUILDING = "rebuilding the worker"
_log = structlog.get_logger("learner_worker.replica")


async def run_replica(
    settings: Settings,
    instruments: Instruments | None = None,
    *,
    take_over: bool = False,
    link: ParentLink | None = None,
) -> None:
    """Runs one replica until SIGTERM, SIGINT or SIGHUP; a second signal ends it at once.

    Args:
        take_over: whether its group becomes the owner of the topics if another one is.
        link: ties this process to the parent that has started it.

    Raises:
        ConfigurationError: the topics or the state folder do not allow a start.
        LearnerError: something failed that only a restart can repair.
    """
    stopping = asyncio.Event()
    stop_on_signals(stopping)
    asyncio.get_running_loop().set_exception_handler(_log_stray_error)
    replica = Replica(settings, instruments or Instruments(), "" if link is None else link.lineage.parent)
    if link is not None:
        link.serve(replica.questions(), partial(stop_within_limits, stopping))

    async def live() -> None:
        if link is not None:
            await link.may_join.wait()
        await replica.live(stopping, take_over=take_over)

    living = asyncio.create_task(live(), name="replica")
    signalled = asyncio.create_task(stopping.wait(), name="signals")
    await asyncio.wait({living, signalled}, return_when=asyncio.FIRST_COMPLETED)
    signalled.cancel()
    if not living.done() and replica.working:
        await _wait_for(living)
    if living.done():
        await living
        return
    unfinished = replica.working
    living.cancel()
    await asyncio.wait({living}, timeout=CLOSE_SECONDS)
    if unfinished:
        raise LearnerError(UNFINISHED)


async def _wait_for(living: "asyncio.Task[None]") -> None:
    """Waits for the last checkpoint and the end, within a time limit, and logs what takes long."""
    await asyncio.wait({living}, timeout=_TELL_SECONDS)
    if not living.done():
        tasks = sorted(task.get_name() for task in asyncio.all_tasks())
        _log.warning("worker.still_stopping", seconds=_TELL_SECONDS, tasks=tasks)
        await asyncio.wait({living}, timeout=STOP_SECONDS - _TELL_SECONDS)


class Replica:
    """The parts that outlive a worker: the state folder's lock, HTTP, the metrics and the outage state."""

    def __init__(self, settings: Settings, instruments: Instruments, siblings: str = "") -> None:
        self._settings = self._in_layout = settings
        self._connection = settings.connection()
        self._instruments = instruments
        self._outage = Outage()
        self._worker_of = partial(Worker, instruments=instruments, outage=self._outage, siblings=siblings)
        self._worker: Worker | None = None
        self._partitions = 0
        self._guard: TopologyGuard | None = None
        self._superseded: ReshardError | SupersededError | None = None
        self._rebuilds = 0
        self.working = False
        """Whether a worker is running, so that there may be state to make durable."""

    async def live(self, stopping: asyncio.Event, *, take_over: bool = False) -> None:
        """Runs workers until `stopping` is set; rebuilds a worker whose Kafka clients make no progress.

        Raises:
            ReshardError, SupersededError: a reshard or a take-over; this worker's work is finished.
            LearnerError: see `run_replica`.
        """
        settings = self._settings
        raise_descriptor_limit()
        _require_strategies(settings)
        with locked_state_folder(settings.state_dir), noted_start(settings.state_dir) as probation:
            await arrange_processes(settings, 1)
            withdraw_leave(settings.state_dir)
            self._worker_of = partial(self._worker_of, probation_seconds=probation)
            patience = settings.startup_timeout_seconds
            async with self._http():
                worker: Worker | None = await self._make_worker(patience, take_over=take_over)
                log_start(_log, self._settings)
                if probation:
                    await self._leave_old_membership()
                while worker is not None and not await self._work(worker, stopping):
                    worker = await self._make_worker_again(stopping)
                if worker is not None:
                    await self._leave_if_asked(worker)
        self._instruments.shards.dead_letter_log.tell_left_out(at_once=True)
        if self._superseded is not None:
            raise self._superseded
        _log.info("worker.stopped")

    async def _make_worker(self, patience_seconds: float, *, take_over: bool = False) -> Worker:
        settings = self._settings
        guard = TopologyGuard(self._connection, settings.topics().named(), settings.group_id, self._outage)
        try:
            topology = await guard.establish(
                self._filed, patience_seconds=patience_seconds, take_over=take_over
            )
        except KafkaError as error:
            what = "Kafka answered, but does not describe its topics"
            raise failure(what, error, "see the broker's log, then start again") from error
        if (lack := lacking_descriptors(topology.shards)) is not None:
            _log.warning("descriptors.low", reason=lack.what, remedy=lack.remedy)
        self._in_layout = in_layout = settings_in_layout(settings, topology.layout)
        await asyncio.to_thread(set_aside_former, settings.state_dir, settings.topic_prefix, topology)
        platform = kafka_platform(in_layout, topology, guard)
        self._partitions, self._guard = topology.shards, guard
        return self._worker_of(in_layout, platform)

    def _filed(self) -> Mapping[Path, Mapping[str, str]]:
        """What this replica's files of the same topics say of themselves."""
        return {
            path: identity
            for path, identity in filed_identities(self._settings.state_dir).items()
            if identity.get("topic_prefix") == self._settings.topic_prefix
        }

    async def _make_worker_again(self, stopping: asyncio.Event) -> Worker | None:
        """Makes the next worker after a pause; None if `stopping` is set first."""
        self._rebuilds += 1
        self._instruments.process.rebuilds.inc()
        while not await is_set_within(
            stopping, min(REBUILD_SECONDS * 2**self._rebuilds, _LONGEST_REBUILD_SECONDS)
        ):
            try:
                worker = await self._make_worker(_REBUILD_PATIENCE_SECONDS)
            except BrokerError as error:
                _log.warning("worker.waiting_for_kafka", error=str(error))
                self._outage.failed(_REBUILDING, error)
            else:
                self._outage.worked(_REBUILDING)
                return worker
        return None

    async def _work(self, worker: Worker, stopping: asyncio.Event) -> bool:
        """Runs a worker until it ends; returns False if it must be rebuilt.

        Nothing of a stuck worker is made durable: its shards go back to their last checkpoint.
        """
        try:
            async with worker.started():
                self._worker, self.working = worker, True
                _log.info(
                    "worker.started",
                    group=self._in_layout.group_id,
                    partitions=self._partitions,
                    state_dir=str(self._settings.state_dir),
                )
                await run_unwrapped(worker, stopping)
        except StuckError as error:
            if worker.health.all_has_moved:  # it made progress, so a rebuild can help
                self._rebuilds = 0
            _log.error("worker.rebuilding", reason=str(error), rebuilds=self._rebuilds + 1)
            return False
        except BrokerError as error:
            if self.working or not self._rebuilds:
                raise
            _log.warning("worker.waiting_for_kafka", error=str(error))
            return False
        finally:
            self._worker, self.working = None, False
            await self._let_go_of_guard()
        return True

    async def _leave_if_asked(self, worker: Worker) -> None:
        """Leaves the group if this replica stops for good: its work is durable and its files are closed."""
        settings = self._in_layout
        asked = settings.leave_group_on_stop or leave_requested(settings.state_dir)
        if not asked and self._superseded is None:  # a new owner waits until the group has no members
            return
        member = worker.rebalance.member_id
        if settings.group_instance_id is None or not member:  # a dynamic member has left with its client
            left = True
        else:
            administrator = KafkaClients(settings).administrator
            left = await leave_group(administrator, settings.group_id, member)
        if left:
            withdraw_leave(settings.state_dir)

    async def _leave_old_membership(self) -> None:
        """Removes a failed run's member: else the group gives its shards to this run, without a rebalance."""
        name, group = self._in_layout.group_instance_id, self._in_layout.group_id
        if name is None:
            return
        administrator = KafkaClients(self._settings).administrator
        try:
            async with (
                asyncio.timeout(
                    _REBUILD_PATIENCE_SECONDS
                ),  # a group that rebalances asks for the claim anyway
                administrator(patience_seconds=_REBUILD_PATIENCE_SECONDS) as cluster,
            ):
                await remove_instance(cluster, group, name)
        except (LearnerError, TimeoutError) as error:
            _log.info("probation.member_kept", reason=first_line(error))

    async def _let_go_of_guard(self) -> None:
        guard, self._guard = self._guard, None
        if guard is not None:
            self._superseded = guard.superseded
            await guard.close()

    def questions(self) -> dict[str, Question]:
        """What a parent may ask, by the path that it is asked on."""
        return {
            "/healthz": lambda: Answer(*self._healthy()),
            "/readyz": lambda: Answer(*self._ready()),
            "/metrics": lambda: Answer(good=True, text=self._metrics()),
        }

    def _metrics(self) -> str:
        return generate_latest(self._instruments.registry).decode()

    def _healthy(self) -> Verdict:
        worker, rebuilds = self._worker, self._rebuilds
        if rebuilds >= _REBUILDS_UNTIL_UNHEALTHY and not (worker is not None and worker.health.all_has_moved):
            return Verdict(False, {"status": "stuck", "rebuilds": rebuilds})
        return self._not_yet(good=True) if worker is None else worker.health.healthy()

    def _ready(self) -> Verdict:
        return self._not_yet(good=False) if self._worker is None else self._worker.health.ready()

    def _not_yet(self, *, good: bool) -> Verdict:
        status = "rebuilding" if self._rebuilds else "starting"
        return Verdict(good, {"status": status, "refused": self._outage.refusals})

    def _http(self) -> AbstractAsyncContextManager[None]:
        return serving_if_wanted(
            _log,
            host=self._settings.http_host,
            port=self._settings.http_port,
            healthy=self._healthy,
            ready=self._ready,
            metrics=self._metrics,
        )


def _require_strategies(settings: Settings) -> None:
    """Refuses a wrong name at once, before Kafka is there."""
    try:
        find_strategies(settings.strategy, settings.strategies)
    except ConfigurationError as error:
        raise ConfigurationError(f"--strategy (LEARNER_STRATEGY) or --strategies: {error}") from error


async def run_unwrapped(worker: Worker, stopping: asyncio.Event) -> None:
    """Runs a worker and raises the first failure of its loops by itself, not as an exception group."""
    try:
        await worker.run(stopping)
    except BaseExceptionGroup as group:  # `except*` wraps what it raises before Python 3.11.4
        failure: BaseException = group
        if group.split(LearnerError)[1] is not None:
            raise
        while isinstance(failure, BaseExceptionGroup):
            failure = failure.exceptions[0]
        raise failure from None


def _log_stray_error(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Logs in one line an error of a task that nobody awaits, such as a commit inside the Kafka client."""
    _log.warning("task.stray_error", error=repr(context.get("exception")), message=context["message"])
