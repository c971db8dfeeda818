"""What happens at a point, and how a point is laid into the real code without a hook in it."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from learner_worker.store.shard_file import ShardFile
from learner_worker.store.statements import Checkpoint

Patch = tuple[object, str, object]
"""What replaces what: an owner, its attribute's name, the replacement."""
Passing = Callable[..., bool]
"""Whether a call, by its positional arguments, counts as passing the point."""
MARK = "reached the point "
_working: ContextVar[bool] = ContextVar("working", default=False)


class Fuse:
    """Burns a little with each passing of its point; at the last one something happens, once.

    Args:
        point: its name, written to stderr right before.
        passings: how many it takes.
        effect: what happens.
    """

    def __init__(self, point: str, passings: int, effect: Callable[[], object]) -> None:
        self._point = point
        self._left = passings
        self._effect = effect
        self._lock = threading.Lock()

    def burn(self) -> bool:
        """One passing; whether it was the last one."""
        with self._lock:
            self._left -= 1
            if self._left != 0:
                return False
        os.write(2, f"{MARK}{self._point}\n".encode())
        self._effect()
        return True

    @property
    def burnt(self) -> bool:
        """Whether it has happened."""
        return self._left <= 0


def kill_itself() -> None:
    """Ends this process as `kill -9` would."""
    os.kill(os.getpid(), signal.SIGKILL)


def always(*_: object) -> bool:
    """Every call is a passing."""
    return True


def before(fuse: Fuse, owner: object, name: str, passing: Passing = always) -> Patch:
    """The point before a coroutine function."""
    original = getattr(owner, name)

    async def patched(*args: Any, **kwargs: Any) -> Any:
        if passing(*args):
            fuse.burn()
        return await original(*args, **kwargs)

    return owner, name, patched


def after(fuse: Fuse, owner: object, name: str, passing: Passing = always) -> Patch:
    """The point after a coroutine function; whether it is passed is asked before."""
    original = getattr(owner, name)

    async def patched(*args: Any, **kwargs: Any) -> Any:
        passed = passing(*args)
        result = await original(*args, **kwargs)
        if passed:
            fuse.burn()
        return result

    return owner, name, patched


def before_plain(fuse: Fuse, owner: object, name: str, passing: Passing = always) -> Patch:
    """The point before a function that is no coroutine."""
    original = getattr(owner, name)

    def patched(*args: Any, **kwargs: Any) -> Any:
        if passing(*args):
            fuse.burn()
        return original(*args, **kwargs)

    return owner, name, patched


# --- checkpoints with work in them -----------------------------------------------------------------------


def noticing_work() -> Patch:
    """Lets `working` know which transactions carry outcomes: an empty checkpoint has little to lose."""
    original = ShardFile.write

    async def write(file: ShardFile, checkpoint: Checkpoint) -> None:
        with _noticed(bool(checkpoint.outcomes)):
            await original(file, checkpoint)

    return ShardFile, "write", write


@contextmanager
def _noticed(found: bool) -> Iterator[None]:
    token = _working.set(found)
    try:
        yield
    finally:
        _working.reset(token)


def working(sql: str | None = None) -> Passing:
    """Passed by the statement `sql`, or by any, within a transaction that carries outcomes."""
    return lambda _connection, given, *_: _working.get() and sql in {None, given}
