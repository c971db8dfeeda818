"""Traces by OpenTelemetry, sent by OTLP over HTTP; imported only if traces are wanted.

Where they go, and what the service is called, is said by OpenTelemetry's own variables
(`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_SERVICE_NAME` and so on).
"""

import socket
import threading
import zlib
from collections import deque
from collections.abc import Mapping
from importlib.metadata import version
from typing import Final, Self

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from learner_worker.observability.tracing import Headers, Place

_NAME: Final = "learner-worker"
_CLOSE_SECONDS: Final = 2.0
"""Time limit for the last spans: a collector that needs longer must not hold up the end of the process."""
_MOST_LINKS: Final = 128
"""OpenTelemetry's own limit of links of a span: a checkpoint links to the newest work it covers."""
_CRC_VALUES: Final = 2**32
"""Number of values of a CRC-32, by which tasks are drawn."""
_GOOD_CODES: Final = frozenset({"OK", "REROUTED"})
_PROPAGATOR: Final = TraceContextTextMapPropagator()
_FIELDS: Final = frozenset(_PROPAGATOR.fields)


class OpenTelemetryTracer:
    """Makes traces; what is sampled is decided here, so the provider samples everything.

    Args:
        event_share: the share of tasks whose events are traced.
    """

    def __init__(self, provider: TracerProvider, *, event_share: float) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer(_NAME)
        self._below = round(event_share * _CRC_VALUES)
        self._pending: deque[SpanContext] = deque(maxlen=_MOST_LINKS)

    @classmethod
    def exporting(cls, *, event_share: float, instance: str | None) -> Self:
        """A tracer that sends spans in a thread of its own."""
        own = {
            "service.name": _NAME,
            "service.version": version(_NAME),
            "service.instance.id": instance or socket.gethostname(),
        }
        resource = Resource.create({**own, **OTELResourceDetector().detect().attributes})
        provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider, event_share=event_share)

    def request(self, place: Place, headers: Headers) -> "OpenTelemetryRequestTrace | None":
        """See `Tracer`."""
        context = _context_of(headers)
        if context is None:
            return None
        span = self._tracer.start_span(
            f"process {place[0]}", context, SpanKind.CONSUMER, _attributes(place, "process")
        )
        return OpenTelemetryRequestTrace(self._tracer, span)

    def event(self, place: Place, headers: Headers, task_id: str) -> "OpenTelemetryEventTrace | None":
        """See `Tracer`."""
        if zlib.crc32(task_id.encode()) >= self._below:
            return None
        span = self._tracer.start_span(
            "settle",
            Context(),
            SpanKind.CONSUMER,
            {**_attributes(place, "process"), "learner.task": task_id},
            _links_to(headers),
        )
        self._pending.append(span.get_span_context())
        return OpenTelemetryEventTrace(span)

    def learned(self, place: Place, headers: Headers, began_ns: int) -> None:
        """See `Tracer`."""
        links = _links_to(headers)
        if not links:
            return
        span = self._tracer.start_span(
            "learn", Context(), SpanKind.CONSUMER, _attributes(place, "process"), links, began_ns
        )
        self._pending.append(span.get_span_context())
        span.end()

    def checkpoint(self) -> "OpenTelemetryCheckpointTrace | None":
        """See `Tracer`."""
        if not self._pending:
            return None
        links = [Link(context) for context in self._pending]
        self._pending.clear()
        return OpenTelemetryCheckpointTrace(
            self._tracer.start_span("checkpoint", Context(), SpanKind.INTERNAL, links=links)
        )

    def close(self) -> None:
        """See `Tracer`. A daemon's thread sends: one of an executor would be waited for at the end."""
        closing = threading.Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        closing.start()
        closing.join(_CLOSE_SECONDS)


class OpenTelemetryRequestTrace:
    """The trace of one request."""

    def __init__(self, tracer: trace.Tracer, span: Span) -> None:
        self._tracer = tracer
        self._span = span
        self._context = trace.set_span_in_context(span, Context())
        self._step: Span | None = None

    def begin_advice(self) -> None:
        """See `RequestTrace`."""
        self._next(self._tracer.start_span("advise", self._context))

    def begin_reply(self) -> Headers:
        """See `RequestTrace`."""
        sending = self._tracer.start_span("send reply", self._context, SpanKind.PRODUCER)
        self._next(sending)
        return _headers_of(sending)

    def finish(self, code: str) -> None:
        """See `RequestTrace`."""
        self._next(None)
        self._span.set_attribute("learner.code", code)
        if code not in _GOOD_CODES:
            self._span.set_status(StatusCode.ERROR, code)
        self._span.end()

    def _next(self, step: Span | None) -> None:
        if self._step is not None:
            self._step.end()
        self._step = step


class OpenTelemetryEventTrace:
    """The trace of one event."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def headers(self) -> Headers:
        """See `EventTrace`."""
        return _headers_of(self._span)

    def finish(self, facts: int) -> None:
        """See `EventTrace`."""
        self._span.set_attribute("learner.facts", facts)
        self._span.end()


class OpenTelemetryCheckpointTrace:
    """The trace of one checkpoint."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def finish(self, *, durable: bool) -> None:
        """See `CheckpointTrace`."""
        if not durable:
            self._span.set_status(StatusCode.ERROR, "not durable: the work is done again")
        self._span.end()


def _context_of(headers: Headers) -> Context | None:
    """The context that headers name, if it is a sampled one."""
    carried = _carried(headers)
    if not carried:
        return None
    context = _PROPAGATOR.extract(carried, Context())
    named = trace.get_current_span(context).get_span_context()
    return context if named.is_valid and named.trace_flags.sampled else None


def _links_to(headers: Headers) -> list[Link]:
    context = _context_of(headers)
    return [] if context is None else [Link(trace.get_current_span(context).get_span_context())]


def _carried(headers: Headers) -> dict[str, str]:
    """The headers of the trace context; what is no text is none."""
    return {name: value.decode("ascii", "replace") for name, value in headers if name in _FIELDS and value}


def _headers_of(span: Span) -> list[tuple[str, bytes]]:
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, trace.set_span_in_context(span, Context()))
    return [(name, value.encode()) for name, value in carrier.items()]


def _attributes(place: Place, operation: str) -> Mapping[str, str | int]:
    topic, partition, offset = place
    return {
        "messaging.system": "kafka",
        "messaging.operation.type": operation,
        "messaging.destination.name": topic,
        "messaging.destination.partition.id": str(partition),
        "messaging.kafka.offset": offset,
    }
