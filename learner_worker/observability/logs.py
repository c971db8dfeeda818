"""Structured logs: the lines of this program and of its libraries, in one format."""

import logging
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Literal

import structlog
from structlog.typing import EventDict, WrappedLogger

LogFormat = Literal["auto", "json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]
LIBRARY_EVENT: Final = "library.message"
"""The event of a line that a library has written; `logger` names it."""
_FIRST: Final = ("timestamp", "level", "event")
# Without local variables: a request's costs are secret, and other tracebacks would hold what agents wrote.
_TRACEBACKS = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)
_SHOWN_TRACEBACKS = structlog.dev.RichTracebackFormatter(show_locals=False)
_TIME = structlog.processors.TimeStamper(fmt="iso", utc=True)


def configure_logging(
    log_format: LogFormat = "auto", level: LogLevel = "info", *, instance: str | None = None
) -> None:
    """Configures logs on stderr: JSON lines, or text on a terminal; aiokafka's own logs only at `debug`.

    The worker logs an outage of Kafka once; aiokafka would log it for every connection.

    Args:
        instance: stands in every line, for one of several processes that write to the same stream.
    """
    as_json = log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())
    renderer = _json() if as_json else _text()
    named = [] if instance is None else [partial(_name, instance)]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _TIME,
            *named,
            *renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_library_handler([*named, *renderer])], level=logging.WARNING)
    logging.captureWarnings(True)
    logging.getLogger("aiokafka").setLevel(logging.INFO if level == "debug" else logging.CRITICAL + 1)


def _json() -> list[structlog.typing.Processor]:
    return [_TRACEBACKS, _in_order, structlog.processors.JSONRenderer()]


def _text() -> list[structlog.typing.Processor]:
    return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_SHOWN_TRACEBACKS)]


def _in_order(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """The time, the level and the event first: what a reader of many lines looks for."""
    return {name: event.pop(name) for name in _FIRST if name in event} | dict(event)


def _name(instance: str, _: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Names the process that writes the line."""
    return {**event, "instance": instance}


def _library_handler(renderer: list[structlog.typing.Processor]) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                _TIME,
                _as_message,
            ],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    return handler


def _as_message(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Names a library's line as one: what it says is no event's name."""
    return {**event, "event": LIBRARY_EVENT, "message": event["event"]}


class LimitedLog:
    """Warnings of one event, up to a number in a time; how many were left out then follows in one line.

    Args:
        event: the name of the event; the line with the count has `_left_out` at its end.
        most: lines in a window of time.
        seconds: length of the window.
        clock: tells seconds.
    """

    def __init__(
        self,
        log: structlog.typing.FilteringBoundLogger,
        event: str,
        *,
        most: int,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._event = event
        self._most = most
        self._seconds = seconds
        self._clock = clock
        self._begun = -seconds
        self._written = 0
        self._left_out: Counter[str] = Counter()

    def warning(self, reason: str, **fields: Any) -> None:
        """Writes a line, or counts it under its reason."""
        self.tell_left_out()
        now = self._clock()
        if now - self._begun >= self._seconds:
            self._begun, self._written = now, 0
        if self._written < self._most:
            self._written += 1
            self._log.warning(self._event, reason=reason, **fields)
        else:
            self._left_out[reason] += 1

    def tell_left_out(self, *, at_once: bool = False) -> None:
        """Says what was left out, if anything was and the window is over."""
        if self._left_out and (at_once or self._clock() - self._begun >= self._seconds):
            self._log.warning(
                f"{self._event}_left_out", lines=self._left_out.total(), reasons=dict(self._left_out)
            )
            self._left_out.clear()
