"""Traces: off they cost nothing and need nothing; on, what is not to be traced is not."""

import subprocess
import sys

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from learner_worker.client.tracing import trace_headers
from learner_worker.contract.headers import TRACE_HEADERS
from learner_worker.errors import ConfigurationError
from learner_worker.observability import tracer_or_none
from learner_worker.observability.otel import OpenTelemetryTracer
from tests.support.requests import OpenShard, Requests

PLACE = ("bids", 3, 7)
SAMPLED = [("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")]
UNSAMPLED = [("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00")]


class Traced:
    """A tracer whose spans stay here."""

    def __init__(self, event_share: float = 1.0) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = OpenTelemetryTracer(provider, event_share=event_share)

    @property
    def spans(self) -> list[ReadableSpan]:
        """The spans that have ended."""
        return list(self._exporter.get_finished_spans())


def test_without_traces_nothing_of_opentelemetry_is_imported() -> None:
    """Off costs nothing: the whole program without a trace of it."""
    code = (
        "import sys, learner_worker.commands.run; "
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"
    assert tracer_or_none(wanted=False, event_share=1.0, instance=None) is None


def test_traces_without_opentelemetry_are_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named; nothing is traced in silence."""
    monkeypatch.delitem(sys.modules, "learner_worker.observability.otel")
    monkeypatch.setitem(sys.modules, "opentelemetry", None)

    with pytest.raises(ConfigurationError, match="extra otel"):
        tracer_or_none(wanted=True, event_share=0.0, instance=None)


@pytest.mark.parametrize(
    "headers",
    [[], UNSAMPLED, [("traceparent", b"\xff")], [("traceparent", b"")], [("correlation_id", b"1")]],
    ids=["none", "unsampled", "no text", "empty", "another"],
)
def test_a_request_without_a_sampled_trace_is_not_traced(headers: list[tuple[str, bytes]]) -> None:
    """Whoever asks decides; a broken header is no trace, and no error."""
    assert Traced().tracer.request(PLACE, headers) is None


def test_a_failed_request_ends_its_trace_as_an_error() -> None:
    """The code is the reason; what was begun is ended."""
    traced = Traced()
    request = traced.tracer.request(PLACE, SAMPLED)
    assert request is not None
    request.begin_advice()
    request.finish("EXPIRED")

    advise, process = traced.spans
    assert advise.name == "advise"
    assert process.attributes is not None
    assert process.attributes["learner.code"] == "EXPIRED"
    assert process.status.status_code is StatusCode.ERROR


async def test_a_traced_request_has_one_span_for_each_step() -> None:
    """Through admission, queue, answer and reply; another request beside it is not traced."""
    traced = Traced()
    requests = Requests(OpenShard(), tracer=traced.tracer)
    requests.read(headers=SAMPLED)
    requests.read()
    assert len(await requests.replies()) == 2

    assert [span.name for span in traced.spans] == ["advise", "send reply", "process suggest-bid-requests"]


def test_a_share_of_the_tasks_is_traced_always_the_same() -> None:
    """Drawn by the task, so that all events of an auction are there or none; none by default."""
    tasks = [f"task-{number}" for number in range(1_000)]

    def drawn(share: float) -> set[str]:
        tracer = Traced(share).tracer
        return {task for task in tasks if tracer.event(PLACE, [], task) is not None}

    assert drawn(0.0) == set()
    assert drawn(1.0) == set(tasks)
    assert drawn(0.1) == drawn(0.1) <= drawn(0.3)
    assert 50 < len(drawn(0.1)) < 150


def test_the_log_links_what_is_settled_learned_and_made_durable() -> None:
    """The facts' headers name the event; a fact without them is not traced; an idle checkpoint neither."""
    traced = Traced()
    tracer = traced.tracer
    assert tracer.checkpoint() is None
    event = tracer.event(PLACE, SAMPLED, "task")
    assert event is not None
    headers = event.headers()
    event.finish(2)
    tracer.learned(("facts", 1, 5), headers, 1)
    tracer.learned(("facts", 1, 6), [], 1)
    checkpoint = tracer.checkpoint()
    assert checkpoint is not None
    checkpoint.finish(durable=False)
    assert tracer.checkpoint() is None

    settle, learn, durable = traced.spans
    assert [span.name for span in traced.spans] == ["settle", "learn", "checkpoint"]
    assert [format(link.context.span_id, "016x") for link in settle.links] == ["00f067aa0ba902b7"]
    assert [link.context.span_id for link in learn.links] == [settle.context.span_id]
    assert [link.context.span_id for link in durable.links] == [settle.context.span_id, learn.context.span_id]
    assert durable.status.status_code is StatusCode.ERROR


def test_a_client_sends_the_trace_that_it_is_given_and_nothing_else() -> None:
    """Other headers of a carrier are left out; a tracer that fails does not keep a bid from being asked."""

    def broken() -> dict[str, str]:
        raise RuntimeError("no tracer")

    assert trace_headers(lambda: {"traceparent": "00-1", "baggage": "secret"}) == [("traceparent", b"00-1")]
    assert trace_headers(broken) == trace_headers(None) == []


def test_the_headers_are_those_of_the_contract() -> None:
    """What the documents say is what is written."""
    request = Traced().tracer.request(PLACE, [*SAMPLED, ("tracestate", b"a=b")])
    assert request is not None

    assert {name for name, _ in request.begin_reply()} == set(TRACE_HEADERS)
