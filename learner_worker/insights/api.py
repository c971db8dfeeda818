"""The routes for programs: JSON, streamed where it may be long."""

import asyncio

import msgspec
import structlog
from aiohttp import web

from learner_worker.contract.decode import readable_id
from learner_worker.contract.fields import AgentId
from learner_worker.errors import BrokerError, InvalidEventError
from learner_worker.insights.agents import SORTS, AgentQuery
from learner_worker.insights.answers import AGENTS_AT_ONCE, agents_answer, one_agent_answer
from learner_worker.insights.openapi import document
from learner_worker.insights.reader import NotReadYetError, SwarmReader
from learner_worker.insights.sending import Sending

_JSON = "application/json"
_log = structlog.get_logger("learner_worker.insights")
_RETRY_SECONDS = 1  # reading moves on by tens of thousands of records meanwhile


class TaskFailure(msgspec.Struct):
    """The body of a report that a task failed; the reason is logged."""

    agent_id: str
    reason: str = ""


_failures = msgspec.json.Decoder(TaskFailure)


class InsightsApi:
    """Answers programs."""

    def __init__(self, reader: SwarmReader, sending: Sending) -> None:
        self._reader = reader
        self._sending = sending

    def routes(self) -> list[web.RouteDef]:
        """The routes and their handlers."""
        return [
            web.get("/swarm/insights", self.agents),
            web.get("/swarm/insights/{agent_id:.+}", self.agent),
            web.post("/swarm/tasks/{task_id:.+}/fail", self.fail),
            web.get("/openapi.json", self.openapi),
            web.get("/healthz", self.healthy),
            web.get("/readyz", self.ready),
        ]

    async def agents(self, request: web.Request) -> web.StreamResponse:
        """Every agent, or a page of them."""
        if not self._reader.has_agents:
            return not_read_yet(NotReadYetError(self._reader.progress.metrics))
        try:
            page = self._reader.agents.page(agent_query(request))
        except (ValueError, KeyError) as error:
            return _json_error(400, error.args[0])
        pieces = agents_answer(self._reader.agents, page)
        if len(page.ids) <= AGENTS_AT_ONCE:
            return web.Response(body=b"".join(pieces), content_type=_JSON)
        response = web.StreamResponse(headers={"Content-Type": _JSON})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)  # waits while the client reads more slowly
            await asyncio.sleep(0)  # a client that is fast enough must not keep others waiting
        await response.write_eof()
        return response

    async def agent(self, request: web.Request) -> web.StreamResponse:
        """One agent with all of its keywords; an unknown one has none."""
        agent_id = AgentId(request.match_info["agent_id"])
        try:
            history = await self._reader.history(agent_id)
        except NotReadYetError as error:
            return not_read_yet(error)
        return web.Response(body=one_agent_answer(agent_id, history), content_type=_JSON)

    async def fail(self, request: web.Request) -> web.StreamResponse:
        """Publishes that a task failed, if events may be published."""
        if not self._sending.may_write:
            return _json_error(403, "nothing is published here: start insights with --allow-writes")
        if request.content_type != _JSON:  # which a page of another site cannot send unasked
            return _json_error(415, "send JSON: {agent_id, reason?}")
        try:
            failure = _failures.decode(await request.read())
            await self._sending.task_failed(request.match_info["task_id"], failure.agent_id)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, InvalidEventError) as error:
            return _json_error(400, error)
        except BrokerError as error:
            return _json_error(503, error)
        task_id = request.match_info["task_id"]
        _log.info("insights.task_failed", task=task_id, agent=failure.agent_id, reason=failure.reason)
        return web.json_response({"task_id": task_id, "status": "failed"})

    async def openapi(self, _: web.Request) -> web.StreamResponse:
        """The description of these routes."""
        return web.json_response(document())

    async def healthy(self, _: web.Request) -> web.StreamResponse:
        """Alive: it answers."""
        return web.json_response({"status": "ok", "refused": self._reader.outage.refusals})

    async def ready(self, _: web.Request) -> web.StreamResponse:
        """Ready once both topics are read to where they ended at the start."""
        metrics, outcomes = self._reader.progress
        is_ready = metrics == outcomes == 1.0
        details = {"status": "ready" if is_ready else "reading", "metrics": metrics, "outcomes": outcomes}
        return web.json_response(details, status=200 if is_ready else 503)


def agent_query(request: web.Request, *, limit: int | None = None) -> AgentQuery:
    """Reads `sort`, `prefix`, `after` and `limit`; unknown parameters are ignored.

    Args:
        limit: for a request that names none.

    Raises:
        ValueError: one of them has no such value.
    """
    given = request.query
    descending = given.get("sort", "").startswith("-")
    sort = SORTS.get(given.get("sort", "agent_id").removeprefix("-"))
    if sort is None:
        raise ValueError(f"sort is one of {', '.join(SORTS)}, with - in front for the greatest first")
    after = given.get("after")
    if after is not None and readable_id(after.encode(errors="replace")) is None:
        raise ValueError("after is an agent's id")
    return AgentQuery(
        sort,
        descending=descending,
        prefix=given.get("prefix", ""),
        after=None if after is None else AgentId(after),
        limit=_limit(given.get("limit")) if "limit" in given else limit,
    )


def _limit(text: str | None) -> int:
    if text is None or not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise ValueError("limit is a whole number from 1 on")
    return int(text)


def not_read_yet(error: NotReadYetError) -> web.Response:
    """The answer while Kafka is still being read."""
    return web.json_response({"error": str(error)}, status=503, headers={"Retry-After": str(_RETRY_SECONDS)})


def _json_error(status: int, message: object) -> web.Response:
    return web.json_response({"error": str(message)}, status=status)
