"""An OTLP receiver: takes spans over HTTP as a collector does, and keeps them."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

_PROTOBUF = "application/x-protobuf"


@dataclass(frozen=True, slots=True)
class Received:
    """A span and the service that sent it."""

    service: str
    span: Span

    @property
    def name(self) -> str:
        return self.span.name

    @property
    def linked(self) -> set[bytes]:
        """The ids of the spans that it links to."""
        return {link.span_id for link in self.span.links}


@dataclass(slots=True)
class Collector:
    """What was received so far."""

    url: str = ""
    spans: list[Received] = field(default_factory=list)

    def named(self, name: str) -> list[Received]:
        """The spans of a name."""
        return [each for each in self.spans if each.name == name]

    def children_of(self, parent: Received) -> list[Received]:
        """The spans whose parent is this one."""
        return [each for each in self.spans if each.span.parent_span_id == parent.span.span_id]

    async def take(self, request: web.Request) -> web.Response:
        """Takes one export."""
        assert request.content_type == _PROTOBUF
        exported = ExportTraceServiceRequest.FromString(await request.read())
        self.spans += _received(exported)
        return web.Response(body=ExportTraceServiceResponse().SerializeToString(), content_type=_PROTOBUF)


def _received(exported: ExportTraceServiceRequest) -> Iterator[Received]:
    for group in exported.resource_spans:
        attributes = {each.key: each.value.string_value for each in group.resource.attributes}
        for scope in group.scope_spans:
            yield from (Received(attributes["service.name"], span) for span in scope.spans)


@contextlib.asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """A receiver on a free port of this machine."""
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield collector
    finally:
        await runner.cleanup()
