"""A real `learner-worker insights`, and its answers; and a reader without Kafka, for its parts."""

import asyncio
import contextlib
import json
import re
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
from aiohttp import web

from learner_worker.contract.facts import Fact, encode_fact
from learner_worker.contract.topics import Topics
from learner_worker.group.topology_view import Layout
from learner_worker.insights.advice import AdviceReader
from learner_worker.insights.facts import FactStore
from learner_worker.insights.moves import MoveFinder
from learner_worker.insights.pages import InsightsPages
from learner_worker.insights.reader import SwarmReader
from learner_worker.insights.rendering import Rendering
from learner_worker.insights.sending import Sending
from learner_worker.insights.workers import WorkersWatch
from learner_worker.kafka.records import Record, Unreadable
from learner_worker.settings import Settings
from tests.support.workers import START_SECONDS, STOP_SECONDS, Process, started, until

EVERYWHERE = str(IPv4Address(0))
"""Every address of this machine."""
LAYOUT = Layout("cluster", 4, None, Topics().named())
"""The first layout of the default topics, with four shards."""


class ReadOutcomes(SwarmReader):
    """A reader whose outcomes are all read."""

    def _require_outcomes(self) -> None:
        pass


def reader_of(facts: FactStore) -> ReadOutcomes:
    """A reader of a store."""
    return ReadOutcomes(Settings(), LAYOUT, facts)


def fact_records(facts: Sequence[Fact], *, gone: bool = False) -> list[Record]:
    """The records of facts, or the tombstones that delete them."""
    pairs = map(encode_fact, facts)
    return [
        Unreadable("o", 0, number, key=key, value=None if gone else value)
        for number, (key, value) in enumerate(pairs)
    ]


def pages_of(reader: SwarmReader, advice: AdviceReader, sending: Sending) -> web.Application:
    """An application that serves the pages of agents."""
    pages = InsightsPages(
        reader,
        advice,
        sending=sending,
        finder=MoveFinder(sending, "success"),
        workers=WorkersWatch(Settings(), reader.layout),
        rendering=Rendering(show_descriptions=True),
    )
    app = web.Application()
    app.add_routes(pages.routes())
    return app


@dataclass
class InsightsProcess:
    """A running `learner-worker insights` and a session with it."""

    url: str
    process: Process
    session: aiohttp.ClientSession

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Status and body."""
        async with self.session.get(self.url + path, headers=headers) as answer:
            return answer.status, await answer.text()

    async def post_form(self, path: str, fields: Mapping[str, str]) -> str:
        """The page that follows from a form."""
        async with self.session.post(self.url + path, data=fields) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.text()

    async def json(self, path: str) -> Any:
        """The body of an answer with status 200."""
        status, body = await self.get(path)
        assert status == 200, (status, body)
        return json.loads(body)

    async def agent(self, agent_id: str) -> Any:
        """What the route of one agent answers."""
        return await self.json(f"/swarm/insights/{quote(agent_id, safe='')}")

    async def ready(self, seconds: float = 60.0) -> None:
        """Waits until everything that Kafka held at the start is read."""

        async def is_ready() -> bool:
            assert self.process.returncode is None, "insights ended early"
            return (await self.get("/readyz"))[0] == 200

        await until(is_ready, "insights are ready", seconds=seconds)

    async def stop(self) -> int:
        """Sends SIGTERM and waits for the end; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), STOP_SECONDS)


def listening_address(process: Process, log_path: Path) -> str | None:
    """The address that a process has printed; None before it has."""
    printed = log_path.read_text()
    assert process.returncode is None, printed
    found = re.search(r"http://\S+", printed)
    return None if found is None else found[0]


@contextlib.asynccontextmanager
async def running_insights(
    bootstrap_servers: str,
    prefix: str,
    log_path: Path,
    *flags: str,
    environment: Mapping[str, str] | None = None,
    fresh: bool = False,
) -> AsyncIterator[InsightsProcess]:
    """Insights on any port; killed at the end if the test has not stopped them.

    Args:
        fresh: Python is started for them, as it is in production.
    """
    where = ("--bootstrap-servers", bootstrap_servers, "--topic-prefix", prefix)
    with log_path.open("wb") as log:
        command = ("-m", "learner_worker", "insights", *where, *flags)
        process = await started(command, log=log, environment=environment, fresh=fresh)

    async def url() -> str | None:
        return listening_address(process, log_path)

    try:
        address = await until(url, "insights listen", seconds=START_SECONDS * 3)
        async with aiohttp.ClientSession() as session:
            yield InsightsProcess(address.replace(EVERYWHERE, "127.0.0.1"), process, session)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
