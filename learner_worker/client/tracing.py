"""Brings the trace that a request is part of, from whatever the program traces with."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TypeAlias

from learner_worker.contract.headers import TRACE_HEADERS

TraceContext: TypeAlias = Callable[[], Mapping[str, str]]
"""Returns the headers of the current trace by their names; others than the W3C's are left out."""


def trace_headers(context: TraceContext | None) -> list[tuple[str, bytes]]:
    """The headers for one request: none without a trace, or if it cannot be had. A bid is worth more."""
    if context is None:
        return []
    with suppress(Exception):
        return [(name, value.encode()) for name, value in context().items() if name in TRACE_HEADERS]
    return []
