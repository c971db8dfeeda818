"""An event loop that somebody else drives, one callback at a time, on a clock that somebody else moves."""

import asyncio
import functools
import heapq
import itertools
from collections import deque
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from typing import Any, TypeVar, TypeVarTuple, Unpack

_MICROS = 1_000_000
_CLEANUPS = 20
"""More waits than any coroutine makes on its way out."""
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@dataclass(slots=True)
class Clock:
    """The world's time, in microseconds since 1970; it moves only when the world moves it."""

    micros: int

    @property
    def milliseconds(self) -> int:
        """The time as Kafka's records carry it."""
        return self.micros // 1000


class SteppedLoop(asyncio.AbstractEventLoop):
    """One process's event loop: first in, first out, as asyncio's own; stopped between any two callbacks."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._numbers = itertools.count()
        self.tasks: list[asyncio.Task[Any]] = []
        self.complaints: list[dict[str, Any]] = []

    # --- what asyncio asks of a loop ---------------------------------------------------------------------

    def time(self) -> float:
        return self._clock.micros / _MICROS

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Any, *, name: str | None = None, context: Context | None = None
    ) -> "asyncio.Task[Any]":
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        self.tasks.append(task)
        return task

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._numbers), handle))
        return handle

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.complaints.append(context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """asyncio tells its loop of cancelled timers; this one drops them when they are due."""

    # --- how it is driven --------------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """Whether a callback could run now."""
        self._wake()
        return bool(self._ready)

    @property
    def next_timer(self) -> float | None:
        """When something will be due next."""
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def step(self, callbacks: int = 1) -> int:
        """Runs up to so many callbacks; how many there were."""
        return self.inside(functools.partial(self._run_ready, callbacks))

    def _run_ready(self, callbacks: int) -> int:
        for ran in range(callbacks):
            self._wake()
            if not self._ready:
                return ran
            self._ready.popleft()._run()
        return callbacks

    def inside(self, function: Callable[[], T]) -> T:
        """Calls a function as if a task of this loop did."""
        asyncio._set_running_loop(self)
        try:
            return function()
        finally:
            asyncio._set_running_loop(None)

    def abandon(self) -> None:
        """The process is gone: nothing runs any more, and nothing complains about it."""
        self._ready.clear()
        self._timers.clear()
        for task in self.tasks:
            if not task.done():
                self._drop(task)
        self._ready.clear()
        self._timers.clear()
        self.tasks.clear()

    def _drop(self, task: Any) -> None:
        task._log_destroy_pending = False
        self.inside(functools.partial(_close, task.get_coro()))

    def _wake(self) -> None:
        now = self.time()
        while self._timers and self._timers[0][0] <= now:
            _, _, handle = heapq.heappop(self._timers)
            if not handle.cancelled():
                self._ready.append(handle)


def new_loop(clock: Clock) -> SteppedLoop:
    """A loop; what it leaves out of asyncio's interface nobody calls here."""
    kind: Any = SteppedLoop
    loop: SteppedLoop = kind(clock)
    return loop


class _DeadError(BaseException):
    """The process is gone."""


_ENDS = (_DeadError, BaseExceptionGroup, asyncio.CancelledError, StopIteration, RuntimeError, ValueError)


def _close(coroutine: Any) -> None:
    """Ends a coroutine wherever it is, and each wait in its cleaning up: a dead process cleans nothing up."""
    for _ in range(_CLEANUPS):
        try:
            coroutine.throw(_DeadError())
        except _ENDS:
            return
