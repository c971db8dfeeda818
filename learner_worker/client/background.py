"""Runs an event loop on its own thread, so that blocking code can use the asyncio clients."""

import asyncio
import atexit
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any, Generic, TypeVar

from learner_worker.errors import ConfigurationError, LearnerError

T = TypeVar("T")
JOIN_SECONDS = 5.0
"""Time limit for the thread to end: the coroutines on it have shorter limits of their own."""


class _Work(Generic[T]):
    """A coroutine for the loop that can be cancelled before its future exists.

    An interrupt may arrive while the coroutine is being submitted: it would then run without a waiter.
    """

    def __init__(self, make: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._make = make
        self._cancelled = False
        self._stop: Callable[[], object] | None = None

    async def run(self) -> T:
        """Runs the coroutine, on the loop."""
        work = asyncio.ensure_future(self._begun())
        self._stop = partial(asyncio.get_running_loop().call_soon_threadsafe, work.cancel)
        return await work

    async def _begun(self) -> T:
        if self._cancelled:  # a later cancellation goes through `_stop`
            raise asyncio.CancelledError
        return await self._make()

    def cancel(self) -> None:
        """Cancels the coroutine, started or not; may be called from any thread."""
        self._cancelled = True
        if self._stop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended already
                self._stop()


class BackgroundLoop:
    """Runs coroutines for other threads, any number at a time.

    A fork does not copy threads, so the loop never runs in a child process. The thread is a daemon and is
    stopped at the interpreter's exit at the latest: it never keeps a process alive.

    Args:
        name: the name of the thread.
        blocking: the name of the blocking class, and `asynchronous` that of the asyncio class, for messages.
        refusal: makes the error of a call while the loop does not run.
    """

    def __init__(
        self, name: str, *, blocking: str, asynchronous: str, refusal: Callable[[str], LearnerError]
    ) -> None:
        self._name = name
        self._blocking = blocking
        self._asynchronous = asynchronous
        self._refusal = refusal
        self._lock = threading.Lock()
        self._running: tuple[int, asyncio.AbstractEventLoop, threading.Thread] | None = None

    def start(self, at_exit: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start the thread.

        Args:
            at_exit: closes the client if the interpreter exits before the thread is stopped.

        Raises:
            ConfigurationError: it runs already, or this thread runs an event loop.
        """
        self._refuse_within_a_loop()
        if self._in_this_process() is not None:
            raise ConfigurationError("the client is open already: one `with` at a time")
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=_run, args=(loop,), name=self._name, daemon=True)
        self._lock = threading.Lock()  # a fork may have copied a lock in the held state
        self._running = os.getpid(), loop, thread
        thread.start()
        atexit.register(self.stop, at_exit)

    def call(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Runs a coroutine and returns its result or raises its error; an interrupt cancels it.

        Raises:
            LearnerError: the loop is not started, is stopped, or was started in another process.
            ConfigurationError: this thread runs an event loop, which a blocking call would stop.
        """
        self._refuse_within_a_loop()
        return self._result(make)

    def stop(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a last coroutine, cancel all others, and end the thread; raises the last one's error.

        Later calls are refused. Has no effect if the loop does not run, or runs in another process.
        """
        if (running := self._in_this_process()) is None:
            return
        _, loop, thread = running
        try:
            self._result(last, is_last=True)
        finally:
            with self._lock:
                self._running = None
            atexit.unregister(self.stop)
            _stop_soon(loop)
            if thread is not threading.current_thread():
                thread.join(JOIN_SECONDS)

    def abandon(self) -> None:
        """End the thread at once, without a last coroutine."""
        self.stop(_nothing)

    def _submit(self, make: Callable[[], Coroutine[Any, Any, T]], *, is_last: bool = False) -> Future[T]:
        running = self._in_this_process()
        if running is None:
            raise self._refusal(self._why_not_running())
        with self._lock:  # so that the loop knows of the coroutine before it is stopped
            if self._running is None:
                raise self._refusal(self._why_not_running())
            if is_last:
                self._running = None
            return asyncio.run_coroutine_threadsafe(make(), running[1])

    def _result(self, make: Callable[[], Coroutine[Any, Any, T]], *, is_last: bool = False) -> T:
        work = _Work(make)
        try:
            return self._submit(work.run, is_last=is_last).result()
        except CancelledError as error:
            raise self._refusal("the client was closed") from error
        except BaseException:
            work.cancel()
            raise

    def _in_this_process(self) -> tuple[int, asyncio.AbstractEventLoop, threading.Thread] | None:
        running = self._running
        return running if running is not None and running[0] == os.getpid() else None

    def _why_not_running(self) -> str:
        running = self._running
        if running is not None:
            return (
                f"the client was opened in process {running[0]}, of which this one is a fork: open one here, "
                f"inside `with {self._blocking}(...)`"
            )
        return f"the client is not open: use it inside `with {self._blocking}(...)`"

    def _refuse_within_a_loop(self) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        raise ConfigurationError(
            f"{self._blocking} would stop the event loop that runs in this thread: "
            f"use `async with {self._asynchronous}(...)` here, or `asyncio.to_thread`"
        )


async def _nothing() -> None:
    """Does nothing."""


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        _end_tasks(loop)
    finally:
        loop.close()


def _end_tasks(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=JOIN_SECONDS))
    loop.run_until_complete(loop.shutdown_asyncgens())


def _stop_soon(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.call_soon_threadsafe(loop.stop)
    except RuntimeError:
        return  # the loop has ended already
