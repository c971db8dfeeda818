"""Runs several workers as processes of one replica: starts them, starts them again, ends them together."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

import structlog

from learner_worker.errors import ConfigurationError, LearnerError
from learner_worker.lifecycle import is_set_within
from learner_worker.operations.members import arrange_processes
from learner_worker.settings import Settings
from learner_worker.store.leave_marker import leave_requested, request_leave, withdraw_leave
from learner_worker.store.process_folders import process_folder
from learner_worker.store.state_folder import locked_state_folder
from learner_worker.supervisor.child import Child, ProcessEnd
from learner_worker.supervisor.pages import SharedPages
from learner_worker.worker.probes import serving_if_wanted
from learner_worker.worker.readiness import ReadinessLog, log_start
from learner_worker.worker.stopping import stop_on_signals, stop_within_limits

_FIRST_PAUSE_SECONDS: Final = 1.0
"""Before a process is started again: shorter than a session, so that a static member keeps its shards."""
_LONGEST_PAUSE_SECONDS: Final = 60.0
"""The pause doubles with each failure up to this: what was repaired works within a minute."""
_PROVEN_SECONDS: Final = 60.0
"""A process that has run for as long is no longer taken for one that cannot run."""
_MISTAKE: Final = 2  # the exit code of a process that is refused
_log = structlog.get_logger("learner_worker.supervisor")


async def supervise(settings: Settings, children: Sequence[Child]) -> None:
    """Runs the processes until SIGTERM, SIGINT or SIGHUP; a second signal ends all of them at once.

    Raises:
        ConfigurationError: the folder or a process does not allow a start.
        LearnerError: a process could not finish its work.
    """
    stopping = asyncio.Event()
    stop_on_signals(stopping)
    with locked_state_folder(settings.state_dir):
        await arrange_processes(settings, len(children))
        withdraw_leave(settings.state_dir)
        await Supervisor(settings, children).live(stopping)
        _withdraw_if_all_left(settings, len(children))
    _log.info("worker.stopped")


class Supervisor:
    """Watches the processes and speaks for them: one HTTP port, one line when all are ready."""

    def __init__(self, settings: Settings, children: Sequence[Child]) -> None:
        self._settings = settings
        self._children = children
        self._pages = SharedPages(children)
        self._failure: LearnerError | None = None
        self._refused: set[int] = set()
        """The processes that were refused, and are not started again yet."""

    async def live(self, stopping: asyncio.Event) -> None:
        """Runs the processes until `stopping` is set, or until they cannot work.

        An error in the supervisor itself is raised after the processes have finished their work.

        Raises:
            ConfigurationError: one was refused before all were ready, or all were later; all have ended.
            LearnerError: a process failed before all were ready, or could not finish its work.
        """
        async with self._http():
            log_start(_log, self._settings, processes=len(self._children))
            telling = ReadinessLog(self._pages.last_readiness).tell(stopping)
            watching = [
                asyncio.create_task(telling, name="readiness"),
                asyncio.create_task(self._pages.keep_asking(stopping), name="questions"),
                asyncio.create_task(self._stop_all(stopping), name="stop"),
            ]
            kept = [
                asyncio.create_task(self._keep(child, stopping), name=f"process-{child.number}")
                for child in self._children
            ]
            await asyncio.wait([*watching, *kept], return_when=asyncio.FIRST_EXCEPTION)
            stop_within_limits(stopping)
            await asyncio.gather(*watching, *kept, return_exceptions=True)
        for task in watching:
            task.result()
        self._raise_failure([task.result() for task in kept])

    def _raise_failure(self, ends: Sequence[ProcessEnd]) -> None:
        if self._failure is not None:
            raise self._failure
        for child, end in zip(self._children, ends, strict=True):
            if end.code != 0:
                raise LearnerError(end.sentence or f"process {child.number} {_how(end)} while it stopped")

    async def _keep(self, child: Child, stopping: asyncio.Event) -> ProcessEnd:
        """Runs a process again and again until `stopping` is set; how it ended last."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            begun = time.monotonic()
            end = await child.run()
            if stopping.is_set():
                return end
            if end.code == _MISTAKE:
                self._refused.add(child.number)
            if self._cannot_work(end):
                self._give_up(child, end, stopping)
                return end
            if time.monotonic() - begun > _PROVEN_SECONDS:
                pause = _FIRST_PAUSE_SECONDS
            reason = end.sentence or _how(end)
            _log.error("process.ended", process=child.number, reason=reason, restart_seconds=pause)
            if await is_set_within(stopping, pause):
                return ProcessEnd(0, None)
            self._refused.discard(child.number)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _cannot_work(self, end: ProcessEnd) -> bool:
        """Whether all have to end: a first failure has to be seen, and later no process is left.

        What refuses one process alone, as its folder may, is no reason to end those that work.
        """
        return (end.code > 0 and not self._pages.were_ready) or len(self._refused) == len(self._children)

    def _give_up(self, child: Child, end: ProcessEnd, stopping: asyncio.Event) -> None:
        if self._failure is None:
            sentence = end.sentence or f"process {child.number} {_how(end)}: see what it has printed above"
            self._failure = (ConfigurationError if end.code == _MISTAKE else LearnerError)(sentence)
        stop_within_limits(stopping)

    async def _stop_all(self, stopping: asyncio.Event) -> None:
        await stopping.wait()
        try:
            if leave_requested(self._settings.state_dir):
                for child in self._children:
                    request_leave(process_folder(self._settings.state_dir, child.number))
        finally:
            for child in self._children:
                child.stop()

    def _http(self) -> AbstractAsyncContextManager[None]:
        return serving_if_wanted(
            _log,
            host=self._settings.http_host,
            port=self._settings.http_port,
            healthy=self._pages.healthy,
            ready=self._pages.ready,
            metrics=self._pages.metrics,
        )


def _how(end: ProcessEnd) -> str:
    return f"was killed by signal {-end.code}" if end.code < 0 else f"ended with exit code {end.code}"


def _withdraw_if_all_left(settings: Settings, processes: int) -> None:
    """Tells whoever asked that all processes have left the group."""
    folders = [process_folder(settings.state_dir, number) for number in range(processes)]
    if not any(leave_requested(folder) for folder in folders):
        withdraw_leave(settings.state_dir)
