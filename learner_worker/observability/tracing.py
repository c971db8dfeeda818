"""What traces are made of, as its makers see them. Without tracing nothing of it is imported.

A request's trace continues the one that its headers name: `process` begins when it is read, and in it are
`advise` and `send reply`, which lasts until Kafka has the reply; the reply's headers name it. Of the events a
share is traced, by task: `settle` names itself in the headers of the facts that it sends, `learn` links to
it, and `checkpoint` links to what it makes durable.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Protocol

from learner_worker.errors import ConfigurationError

Headers = Sequence[tuple[str, bytes | None]]
Place = tuple[str, int, int]
"""A record's topic, partition and offset."""


class RequestTrace(Protocol):
    """The trace of one request."""

    def begin_advice(self) -> None:
        """Notes that its answer is about to be computed."""
        ...

    def begin_reply(self) -> Headers:
        """Notes that its reply is made; returns the headers by which the reply continues the trace."""
        ...

    def finish(self, code: str) -> None:
        """Notes that nothing more is done for it; `code` is what it is counted as."""
        ...


class EventTrace(Protocol):
    """The trace of one event."""

    def headers(self) -> Headers:
        """The headers by which its facts name it."""
        ...

    def finish(self, facts: int) -> None:
        """Notes that it is settled, and how many facts follow from it."""
        ...


class CheckpointTrace(Protocol):
    """The trace of one checkpoint."""

    def finish(self, *, durable: bool) -> None:
        """Notes its end."""
        ...


class Tracer(Protocol):
    """Makes traces."""

    def request(self, place: Place, headers: Headers) -> RequestTrace | None:
        """The trace of a request that was just read; None unless its headers name a sampled one."""
        ...

    def event(self, place: Place, headers: Headers, task_id: str) -> EventTrace | None:
        """The trace of an event that is about to be settled; None unless its task is one of the sample."""
        ...

    def learned(self, place: Place, headers: Headers, began_ns: int) -> None:
        """Notes a fact that has been joined into its row; only one whose headers name a trace is traced."""
        ...

    def checkpoint(self) -> CheckpointTrace | None:
        """The trace of a checkpoint that begins; None if it covers nothing that was traced."""
        ...

    def close(self) -> None:
        """Sends what is left, within a time limit."""
        ...


def tracer_or_none(*, wanted: bool, event_share: float, instance: str | None) -> Tracer | None:
    """The tracer of this process, if traces are wanted.

    Args:
        event_share: the share of tasks whose events are traced.
        instance: this replica's name, if it has one.

    Raises:
        ConfigurationError: OpenTelemetry is not installed.
    """
    if not wanted:
        return None
    try:
        module = import_module("learner_worker.observability.otel")
    except ImportError as error:
        raise ConfigurationError(
            "--traces (LEARNER_TRACES) needs OpenTelemetry: install learner-worker with the extra otel"
        ) from error
    tracer: Tracer = module.OpenTelemetryTracer.exporting(event_share=event_share, instance=instance)
    return tracer
