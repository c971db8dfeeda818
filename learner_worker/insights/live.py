"""Tells browsers that something has changed, by server-sent events."""

import asyncio

from aiohttp import web

from learner_worker.insights.agents import AgentDirectory

_LOOK_SECONDS = 0.25  # little beside the second that a checkpoint of a worker takes
_ALIVE_LOOKS = 60  # a comment so often: proxies close connections that are silent for a minute


class LiveUpdates:
    """The stream that every open page reads."""

    def __init__(self, agents: AgentDirectory) -> None:
        self._agents = agents

    def routes(self) -> list[web.RouteDef]:
        """The route and its handler."""
        return [web.get("/live", self.stream)]

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """A message whenever any agent's figures have changed, until the browser goes."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        seen, silent = self._agents.version, 0
        await response.write(b": here\n\n")
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            silent += 1
            if self._agents.version != seen:
                seen, silent = self._agents.version, 0
                await response.write(f"data: {seen}\n\n".encode())
            elif silent % _ALIVE_LOOKS == 0:
                await response.write(b": alive\n\n")
