"""The loop behind blocking clients: an interrupt at any moment leaves nothing running on it."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from learner_worker.client.background import BackgroundLoop
from learner_worker.errors import SuggestionError

SECONDS = 10.0


async def nothing() -> None:
    """An end that takes no time."""


@pytest.fixture
def loop() -> Iterator[BackgroundLoop]:
    """A running one."""
    running = BackgroundLoop(
        "learner-test",
        blocking="Blocking",
        asynchronous="Asynchronous",
        refusal=lambda why: SuggestionError("UNAVAILABLE", why),
    )
    running.start(nothing)
    yield running
    running.abandon()


class Work:
    """Waits for ever, and says when it begins and ends."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.ended = threading.Event()

    async def run(self) -> None:
        self.begun.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.ended.set()


def test_an_interrupt_during_the_hand_over_cancels_what_has_begun(
    loop: BackgroundLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coroutine runs before the caller holds its future: it is cancelled all the same."""
    work = Work()
    hand_over = asyncio.run_coroutine_threadsafe

    def interrupted(*arguments: Any) -> None:
        hand_over(*arguments)
        assert work.begun.wait(SECONDS)
        raise KeyboardInterrupt

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loop.call(work.run)
    monkeypatch.undo()

    assert work.ended.wait(SECONDS)


def test_an_interrupt_before_the_loop_has_begun_the_work_leaves_it_undone(
    loop: BackgroundLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Handed over and cancelled before its first step: the step is never taken, and the loop goes on."""
    work = Work()
    hand_over = asyncio.run_coroutine_threadsafe
    may_begin = threading.Event()

    def interrupted(coroutine: Any, own: asyncio.AbstractEventLoop) -> None:
        own.call_soon_threadsafe(may_begin.wait, SECONDS)
        hand_over(coroutine, own)
        raise KeyboardInterrupt

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loop.call(work.run)
    monkeypatch.undo()
    may_begin.set()

    loop.call(nothing)  # after it in the loop's queue
    assert not work.begun.is_set()
