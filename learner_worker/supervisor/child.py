"""One of the processes: started, asked, stopped, and what it says when it ends."""

import asyncio
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec

from learner_worker.worker.parent_link import JOIN, STOP, Answer, ChildMessage, ParentMessage

_ANSWER_SECONDS: Final = 4.0
"""Longer than a process waits for its own loop, and shorter than a usual probe waits."""
_FAILURE: Final = 1  # the exit code of a process that fails
_LONGEST_ANSWER: Final = 16 * 1024**2  # bytes of a line: many times the metrics of a thousand shards
STARTING: Final = Answer(False, {"status": "starting"})
"""For a process that is not there, or has not answered yet."""
_STUCK: Final = Answer(False, {"status": "stuck"})
_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(ChildMessage)


class ProcessEnd(NamedTuple):
    """How a process ended: its exit code, negative for a signal, and the sentence that it ended with."""

    code: int
    sentence: str | None


class Child:
    """A process that works as a replica of its own.

    Args:
        number: its number among its siblings.
        command: makes the interpreter's arguments from the descriptor of the child's end of the socket, and
            from whether this is its first start.
    """

    def __init__(self, number: int, command: Callable[[int, bool], Sequence[str]]) -> None:
        self.number = number
        self.command = command
        self._has_started = False
        self._writer: asyncio.StreamWriter | None = None
        self._questions: dict[int, asyncio.Future[Answer]] = {}
        self._asked = 0
        self._has_answered = False
        self._stopped = self._may_join = False
        self._sentence: str | None = None

    async def run(self) -> ProcessEnd:
        """Starts the process and waits for its end; a process that cannot be started counts as failed."""
        try:
            process, reader = await self._start()
        except OSError as error:
            return ProcessEnd(
                _FAILURE, f"process {self.number} cannot be started ({error.strerror or error})"
            )
        self._sentence, self._has_answered = None, False
        for word in [JOIN] * self._may_join + [STOP] * self._stopped:
            self._say(word)
        try:
            await self._listen(reader)
        finally:
            self.hang_up()
        return ProcessEnd(await process.wait(), self._sentence)

    async def _start(self) -> tuple[asyncio.subprocess.Process, asyncio.StreamReader]:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *self.command(theirs.fileno(), not self._has_started),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,  # the parent passes a terminal's signals on
                )
            self._has_started = True
            reader, self._writer = await asyncio.open_unix_connection(sock=ours, limit=_LONGEST_ANSWER)
        except BaseException:
            ours.close()
            raise
        return process, reader

    async def ask(self, path: str) -> Answer:
        """The answer to a question; `starting` or `stuck` if the process does not answer in time."""
        writer = self._writer
        if writer is None:
            return STARTING
        self._asked += 1
        number, answer = self._asked, asyncio.get_running_loop().create_future()
        self._questions[number] = answer
        try:
            writer.write(_encode(ParentMessage(number, path)) + b"\n")
            return await asyncio.wait_for(answer, _ANSWER_SECONDS)
        except (TimeoutError, OSError):
            return _STUCK if self._has_answered else STARTING
        finally:
            self._questions.pop(number, None)

    @property
    def is_loaded(self) -> bool:
        """Whether the process has answered since its start."""
        return self._has_answered

    def let_join(self) -> None:
        """Lets the process join its group, and each one that is started in its place."""
        self._may_join = True
        self._say(JOIN)

    def stop(self) -> None:
        """Tells the process to finish its work and end, also one that is only being started."""
        self._stopped = True
        self._say(STOP)

    def _say(self, word: str) -> None:
        if self._writer is not None:
            self._writer.write(_encode(ParentMessage(0, word)) + b"\n")

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        """Passes on what the process sends, until it ends or sends something unreadable."""
        try:
            while (line := await _line(reader)).endswith(b"\n"):
                self._take(_decoder.decode(line))
        except (ValueError, msgspec.DecodeError) as error:  # a line without an end, or not in our format
            self._sentence = f"process {self.number} said what cannot be read ({error})"

    def _take(self, message: ChildMessage) -> None:
        answer = self._questions.get(message.number)
        if message.sentence is not None:
            self._sentence = message.sentence
        elif message.answer is not None and answer is not None and not answer.done():
            self._has_answered = True
            answer.set_result(message.answer)

    def hang_up(self) -> None:
        """Closes the connection: a process without a parent ends."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
        for answer in self._questions.values():
            if not answer.done():
                answer.set_result(STARTING)


async def _line(reader: asyncio.StreamReader) -> bytes:
    """The next line; one without its end, or nothing, once the process has ended, however."""
    try:
        return await reader.readline()
    except OSError:
        return b""
