"""The pages of auctions, for people: the latest ones, and one with all of its bids."""

from typing import Any

from aiohttp import web

from learner_worker.contract.decode import readable_id
from learner_worker.contract.fields import TaskId
from learner_worker.contract.times import LAST_MICROS, Micros, format_time
from learner_worker.insights.facts import ClosedTask
from learner_worker.insights.reader import NotReadYetError, SwarmReader
from learner_worker.insights.rendering import Rendering, link

_ROWS = 25  # auctions of a page: each is joined from its bids when the page is asked for
_BIDS = 200  # of an auction, the lowest: more would be slow to look through
_TIME_DIGITS = len(str(LAST_MICROS))
_NEWEST = ClosedTask(LAST_MICROS, TaskId(""))
"""After every auction."""


class AuctionPages:
    """Answers people who ask about auctions."""

    def __init__(self, reader: SwarmReader, rendering: Rendering) -> None:
        self._reader = reader
        self._rendering = rendering

    def routes(self) -> list[web.AbstractRouteDef]:
        """The routes and their handlers."""
        return [web.get("/auctions", self.auctions), web.get("/auction", self.auction)]

    async def auctions(self, request: web.Request) -> web.StreamResponse:
        """The auctions that closed last, or those before another one."""
        before = _before(request)
        shown: dict[str, Any] = {"problem": "", "auctions": (), "next": ""}
        try:
            found = await self._reader.auctions(before, _ROWS)
        except NotReadYetError as error:
            shown["problem"] = f"{error}.".capitalize()
        else:
            shown["auctions"] = found.auctions
            shown["next"] = "" if found.last is None else _link_after(found.last)
        return self._rendering.page(
            "auctions", title="Auctions", is_first=before == _NEWEST, moment=format_time, **shown
        )

    async def auction(self, request: web.Request) -> web.StreamResponse:
        """One auction, by its task."""
        task_id = readable_id(request.query.get("id", "").encode(errors="replace"))
        if task_id is None:
            raise web.HTTPFound("/auctions")
        shown: dict[str, Any] = {"problem": "", "auction": None}
        try:
            shown["auction"] = await self._reader.auction(TaskId(task_id))
        except NotReadYetError as error:
            shown["problem"] = f"{error}.".capitalize()
        return self._rendering.page(
            "auction", title=task_id, task_id=task_id, bids_shown=_BIDS, moment=format_time, **shown
        )


def _before(request: web.Request) -> ClosedTask:
    """What a page's link names; anything else means the newest."""
    text = request.query.get("before", "")
    if not (text.isascii() and text.isdecimal() and len(text) <= _TIME_DIGITS):
        return _NEWEST
    return ClosedTask(Micros(int(text)), TaskId(request.query.get("task", "")))


def _link_after(task: ClosedTask) -> str:
    return link("/auctions", before=str(task.closed_at), task=task.task_id)
