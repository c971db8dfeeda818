"""What ties a process of `run --processes` to its parent: probes, metrics, the end of either.

The parent asks over a socket that only the two of them have; it ends with either of them, also by `kill -9`.
A line is a question, or an answer with the question's number.
"""

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog

from learner_worker.errors import LearnerError

STOP: Final = "stop"
"""What a parent says instead of a question, so that a signal to the whole group stops each process once."""
JOIN: Final = "join"
"""What a parent says once all of its processes are loaded, so that they join their group together."""
_ANSWER_SECONDS: Final = 3.0
"""Longer than a loop that works is ever busy, and shorter than the parent waits."""
_PARENT_GONE: Final = 1  # the exit code of a failure

Question = Callable[[], "Answer"]


class Answer(msgspec.Struct, frozen=True):
    """A probe's answer, or the metrics as Prometheus' text."""

    good: bool
    details: Mapping[str, object] = {}
    text: str = ""


class ParentMessage(msgspec.Struct, frozen=True):
    """What the parent sends: a question with its number, or a word."""

    number: int
    what: str


class ChildMessage(msgspec.Struct, frozen=True):
    """What a process sends: an answer with its question's number, or the sentence that it ends with."""

    number: int = 0
    answer: Answer | None = None
    sentence: str | None = None


_NO_ANSWER: Final = Answer(False, {"status": "stuck"})
_FAILED: Final = Answer(False, {"status": "failed"})
"""For a probe that raises: the parent asks again."""
_decode = msgspec.json.Decoder(ParentMessage).decode
_encode = msgspec.json.Encoder().encode
_log = structlog.get_logger("learner_worker.replica")


@dataclass(frozen=True, slots=True)
class Lineage:
    """Whose child a process is.

    Attributes:
        parent: identifies this run of the parent; all of its children have it.
        name: what the log calls this process.
        descriptor: of the socket to the parent.
    """

    parent: str
    name: str
    descriptor: int

    def __str__(self) -> str:
        return f"{self.parent},{self.name},{self.descriptor}"

    @classmethod
    def read(cls, text: str) -> "Lineage":
        """The lineage, as its text on the command line says."""
        parent, rest = text.split(",", 1)
        name, descriptor = rest.rsplit(",", 1)
        return cls(parent, name, int(descriptor))


class ParentLink:
    """A process's end of the socket; a thread reads it, so that the loop may be busy when the parent ends."""

    def __init__(self, lineage: Lineage) -> None:
        self.lineage = lineage
        self._socket = socket.socket(fileno=lineage.descriptor)
        self._sending = threading.Lock()
        self.may_join = asyncio.Event()
        """Set once all siblings are loaded: a member that is alone would be given their shards."""

    def serve(self, questions: Mapping[str, Question], stop: Callable[[], None]) -> None:
        """Answers the parent from now on, on the running loop; ends this process when the parent ends."""
        loop = asyncio.get_running_loop()
        words = {STOP: stop, JOIN: self.may_join.set}

        def ask(what: str) -> Answer:
            async def answer() -> Answer:
                return questions[what]()

            try:
                asked = asyncio.run_coroutine_threadsafe(answer(), loop)
                error = asked.exception(_ANSWER_SECONDS)
            except (TimeoutError, CancelledError, RuntimeError):  # the loop is busy, is ending, or has ended
                return _NO_ANSWER
            if error is not None:
                _log.error("probe.failed", question=what, exc_info=error)
                return _FAILED
            return asked.result()

        def read() -> None:
            try:
                with self._socket.makefile("rb") as lines:
                    for asked in map(_decode, lines):
                        if asked.what in words:
                            with suppress(RuntimeError):  # the loop has ended
                                loop.call_soon_threadsafe(words[asked.what])
                        else:
                            self._send(ChildMessage(asked.number, ask(asked.what)))
            finally:  # a process that its parent can no longer stop must end
                os._exit(_PARENT_GONE)

        threading.Thread(target=read, name="parent", daemon=True).start()

    def end(self, error: LearnerError) -> None:
        """Tells the parent why this process ends: the parent says so."""
        self._send(ChildMessage(sentence=str(error)))

    def _send(self, what: ChildMessage) -> None:
        try:
            with self._sending:
                self._socket.sendall(_encode(what) + b"\n")
        except OSError:
            os._exit(_PARENT_GONE)
