"""The asking client, the same for the worker and for every raw echo, in a process of its own.

`python -m tests.programs.bench.asking '{"way": ..., ...}'` asks one way and says what came of it as JSON.
Latencies are in milliseconds, from the moment a request was due, so a late client shows as latency.
"""

import asyncio
import gc
import json
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from learner_worker.kafka.partitioner import partitioner
from tests.programs.bench.readings import percentile

_POLL_MS = 50
_TICK_SECONDS = 0.002
_PATIENCE_SECONDS = 10.0
_ERROR_HEADER = "learner-error"
_AN_AUCTION = 10
"""Agents who ask about the same text."""
_PACES = (250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000)
_REFINEMENTS = 3
_TRIES = 2
_WARM_UP_RATE = 1_000
_WARM_UP_SECONDS = 5.0
"""Who is asked is warmed up, too: the worker has read every agent by then."""


@dataclass(slots=True)
class Heard:
    """What came back: the latency of every reply, refusals, and requests without any answer."""

    latencies_ms: list[float] = field(default_factory=list)
    refused: int = 0
    unanswered: int = 0

    def as_json(self) -> dict[str, Any]:
        """For the parent."""
        return {
            "latencies_ms": self.latencies_ms,
            "refused": self.refused,
            "unanswered": self.unanswered,
        }


class Asker:
    """Sends requests and notes when their replies come."""

    def __init__(
        self,
        servers: str,
        requests: str,
        replies: str,
        *,
        partitions: int,
        agents: int,
        agent_format: str,
    ) -> None:
        self._requests = requests
        self._replies = replies
        self._partitions = partitions
        self.agents = agents
        self._agent_format = agent_format
        self._partition_of = partitioner(partitions)
        self._producer = AIOKafkaProducer(bootstrap_servers=servers, acks=1, linger_ms=0)
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=servers, enable_auto_commit=False, fetch_max_wait_ms=_POLL_MS
        )
        self._number = 0
        self._due: dict[bytes, tuple[float, asyncio.Future[bool]]] = {}
        self._heard = Heard()
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Asker":
        await self._producer.start()
        await self._consumer.start()
        partitions = [TopicPartition(self._replies, number) for number in range(self._partitions)]
        self._consumer.assign(partitions)
        await self._consumer.seek_to_end(*partitions)
        for partition in partitions:
            await self._consumer.position(partition)
        await self._producer.partitions_for(self._requests)
        self._reading = asyncio.create_task(self._read(), name="read-replies")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        await self._producer.stop()
        await self._consumer.stop()

    async def ask(self, due: float, agent: int | None = None) -> "asyncio.Future[bool]":
        """Sends one request that was due at a moment; the future says whether it was answered."""
        number, self._number = self._number, self._number + 1
        name = self._agent_format % ((number if agent is None else agent) % self.agents)
        correlation_id = b"%d" % number
        answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._due[correlation_id] = (due, answered)
        value = (
            f'{{"agent_id":"{name}","base_bid_sats":1200,"request_id":"{number}",'
            f'"description":"Parse {number // _AN_AUCTION} scanned invoices into a spreadsheet, '
            'totals checked"}'
        )
        await self._producer.send(
            self._requests,
            value.encode(),
            key=name.encode(),
            partition=self._partition_of(name),
            headers=[("correlation_id", correlation_id), ("reply_to", self._replies.encode())],
        )
        return answered

    def heard(self) -> Heard:
        """What came back since the last call; what has not, by now, is unanswered."""
        heard, self._heard = self._heard, Heard()
        heard.unanswered = len(self._due)
        for _, answered in self._due.values():
            answered.cancel()
        self._due = {}
        return heard

    async def quiet(self, seconds: float) -> None:
        """Waits until every request is answered, or for so long."""
        unanswered = [answered for _, answered in self._due.values()]
        if unanswered:
            await asyncio.wait(unanswered, timeout=seconds)

    async def _read(self) -> None:
        while True:
            polled = await self._consumer.getmany(timeout_ms=_POLL_MS)
            now = time.perf_counter()
            for records in polled.values():
                for record in records:
                    self._take(dict(record.headers), now)

    def _take(self, headers: dict[str, bytes], now: float) -> None:
        found = self._due.pop(headers.get("correlation_id", b""), None)
        if found is None:
            return
        due, answered = found
        if _ERROR_HEADER in headers:
            self._heard.refused += 1
        else:
            self._heard.latencies_ms.append((now - due) * 1000)
        if not answered.done():
            answered.set_result(_ERROR_HEADER not in headers)


async def sequential(asker: Asker, *, count: int, warm_up: int) -> dict[str, Any]:
    """One request after the other."""
    for number in range(warm_up + count):
        if number == warm_up:
            asker.heard()
        answered = await asker.ask(time.perf_counter())
        await asyncio.wait([answered], timeout=_PATIENCE_SECONDS)
    return asker.heard().as_json()


async def steady(
    asker: Asker, *, rate: float, seconds: float, warm_up_seconds: float = 1.0
) -> dict[str, Any]:
    """So many requests a second, whether or not anything comes back."""
    await _at_rate(asker, rate, warm_up_seconds)
    await asker.quiet(_PATIENCE_SECONDS)
    asker.heard()
    await _at_rate(asker, rate, seconds)
    await asker.quiet(_PATIENCE_SECONDS)
    return asker.heard().as_json()


async def _at_rate(asker: Asker, rate: float, seconds: float) -> None:
    began = time.perf_counter()
    total = round(rate * seconds)
    sent = 0
    while sent < total:
        now = time.perf_counter()
        due_by_now = min(total, int((now - began) * rate) + 1)
        while sent < due_by_now:
            await asker.ask(began + sent / rate)
            sent += 1
        await asyncio.sleep(_TICK_SECONDS)


async def most(asker: Asker, *, limit_ms: float, seconds: float) -> dict[str, Any]:
    """The highest of some rates at which p99 stays within a limit and nothing is refused or lost.

    A rate that fails is tried once more: a single pause of the machine must not end the search.
    """
    good, bad = 0.0, 0.0
    steps: list[dict[str, float]] = []
    await _at_rate(asker, _WARM_UP_RATE, _WARM_UP_SECONDS)
    await asker.quiet(_PATIENCE_SECONDS)
    for rate in _PACES:
        if await _holds_once(asker, rate, limit_ms, seconds, steps):
            good = rate
        else:
            bad = rate
            break
    for _ in range(_REFINEMENTS if bad else 0):
        middle = (good + bad) / 2
        if await _holds_once(asker, middle, limit_ms, seconds, steps):
            good = middle
        else:
            bad = middle
    return {"rate": good, "steps": steps}


async def _holds_once(
    asker: Asker, rate: float, limit_ms: float, seconds: float, steps: list[dict[str, float]]
) -> bool:
    for _ in range(_TRIES):
        if await _holds(asker, rate, limit_ms, seconds, steps):
            return True
    return False


async def _holds(
    asker: Asker, rate: float, limit_ms: float, seconds: float, steps: list[dict[str, float]]
) -> bool:
    asker.heard()
    await _at_rate(asker, rate, seconds)
    await asker.quiet(_PATIENCE_SECONDS)
    heard = asker.heard()
    p99 = percentile(heard.latencies_ms, 99) if heard.latencies_ms else float("inf")
    missing = heard.refused + heard.unanswered
    steps.append({"rate": rate, "p99_ms": round(p99, 2), "missing": missing})
    return p99 <= limit_ms and missing == 0


async def first(asker: Asker, *, every_seconds: float, patience_seconds: float) -> dict[str, Any]:
    """Says "ready", then asks again and again until the first answer: its moment, by the wall clock."""
    print("ready", flush=True)  # noqa: T201 (the parent waits for it)
    deadline = time.perf_counter() + patience_seconds
    unanswered: list[asyncio.Future[bool]] = []
    while time.perf_counter() < deadline:
        unanswered.append(await asker.ask(time.perf_counter(), agent=0))
        await asyncio.wait(unanswered, timeout=every_seconds, return_when=asyncio.FIRST_COMPLETED)
        if any(answered.done() and answered.result() for answered in unanswered):
            return {"answered_at": time.time()}
        unanswered = [answered for answered in unanswered if not answered.done()]
    return {"answered_at": None}


async def every_agent(asker: Asker, *, at_once: int) -> dict[str, Any]:
    """Asks for each agent once: afterwards the worker has them all in its cache."""
    unanswered: set[asyncio.Future[bool]] = set()
    for _ in range(asker.agents):
        unanswered.add(await asker.ask(time.perf_counter()))
        if len(unanswered) >= at_once:
            _, unanswered = await asyncio.wait(unanswered, return_when=asyncio.FIRST_COMPLETED)
    await asker.quiet(_PATIENCE_SECONDS)
    heard = asker.heard()
    return {"answered": len(heard.latencies_ms), "refused": heard.refused, "unanswered": heard.unanswered}


WAYS: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {
    "sequential": sequential,
    "steady": steady,
    "most": most,
    "first": first,
    "every_agent": every_agent,
}


async def _main(
    *,
    way: str,
    servers: str,
    requests: str,
    replies: str,
    partitions: int,
    agents: int,
    agent_format: str,
    **options: Any,
) -> None:
    asker = Asker(servers, requests, replies, partitions=partitions, agents=agents, agent_format=agent_format)
    async with asker:
        gc.freeze()
        gc.disable()
        began = time.process_time()
        said = await WAYS[way](asker, **options)
        said["processor_seconds"] = time.process_time() - began
    print(json.dumps(said))  # noqa: T201 (the parent reads it)


if __name__ == "__main__":
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL + 1)
    asyncio.run(_main(**json.loads(sys.argv[1])))
