"""Fuzzed requests and events on a real broker, and every one of them accounted for."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any, TypeVar

from aiokafka import AIOKafkaProducer
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from learner_worker.brokers import Broker
from learner_worker.contract.topics import TopicName, TopicNames
from tests.fuzz import model, strategies
from tests.fuzz.strategies import EVENT_SHAPES, REQUEST_SHAPE, Headers
from tests.integration.test_requests import GOOD
from tests.support.workers import WorkerProcess, read_topic, roomy_topics, running_worker, until

PARTITIONS = 4
RECORDS = 300
_ROOMY = 4 * 1024 * 1024
_SILENT = ("REFUSED", "EXPIRED", "REROUTED")
T = TypeVar("T")


def drawn(strategy: st.SearchStrategy[T], count: int) -> list[T]:
    """So many examples of a strategy, always the same."""
    found: list[T] = []

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def note(example: T) -> None:
        found.append(example)

    note()
    return found[:count]


Fuzzed = tuple[int, bytes | None, bytes | None, Headers]


def requests_of(names: TopicNames) -> list[Fuzzed]:
    """Requests: half of them good, and headers that name the topics of this test and others."""
    values = strategies.mostly(
        strategies.good_values(REQUEST_SHAPE, timeless=True), strategies.values(REQUEST_SHAPE), of_sixteen=8
    )
    headers = strategies.mostly(
        strategies.conventions([names.replies]), strategies.headers([names.replies, *names.all]), of_sixteen=9
    )
    return drawn(st.tuples(st.integers(0, PARTITIONS - 1), strategies.KEYS, values, headers), RECORDS)


def events_of(names: TopicNames) -> list[tuple[TopicName, Fuzzed]]:
    """Events of the three kinds, broken and whole, with any headers."""
    topics = (names.bid_placed, names.auction_closed, names.task_finished)
    found: list[tuple[TopicName, Fuzzed]] = []
    for topic, shape in zip(topics, EVENT_SHAPES.values(), strict=True):
        values = strategies.values(shape)
        if topic == names.bid_placed:  # the one that takes more than a mebibyte
            values = strategies.mostly(values, strategies.sizable(shape), of_sixteen=13)
        partition = st.integers(0, PARTITIONS - 1)
        one = st.tuples(partition, strategies.KEYS, values, strategies.headers([names.replies]))
        found += [(topic, fuzzed) for fuzzed in drawn(one, RECORDS // 3)]
    return found


async def test_every_fuzzed_request_and_event_is_accounted_for(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """Replies, dead letters and counters add up to what was sent; then a good request is answered."""
    names = await roomy_topics(broker.bootstrap_servers, prefix, partitions=PARTITIONS, record_bytes=_ROOMY)
    requests, events = requests_of(names), events_of(names)
    async with running_worker(
        broker.bootstrap_servers, prefix, tmp_path / "state", settings={"--request-ttl-seconds": "600"}
    ) as worker:
        await _send(broker, [(names.requests, request) for request in requests] + events)
        codes = await until(lambda: _all_counted(worker, "requests", len(requests)), "every request counted")
        results = await until(lambda: _all_counted(worker, "events", len(events)), "every event counted")
        await _good_request_is_answered(broker, names, worker)
        assert await worker.stop() == 0
    await _check_requests(broker, names, requests, codes)
    await _check_events(broker, names, events, results)


async def _send(broker: Broker, records: list[tuple[TopicName, Fuzzed]]) -> None:
    async with AIOKafkaProducer(
        bootstrap_servers=broker.bootstrap_servers, max_request_size=_ROOMY
    ) as producer:
        for topic, (partition, key, value, headers) in records:
            # A record needs a key or a value: aiokafka refuses to send one without.
            content = b"" if key is None and value is None else value
            await producer.send_and_wait(topic, content, key=key, partition=partition, headers=headers)


async def _all_counted(worker: WorkerProcess, what: str, count: int) -> Counter[str] | None:
    """The counter by what became of them, once every one that was sent, or moved, is counted."""
    counts = await _counts(worker, what)
    moved = counts["REROUTED"] + counts["rerouted"]
    assert sum(counts.values()) - moved <= count
    return counts if sum(counts.values()) - moved == count else None


async def _counts(worker: WorkerProcess, what: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    _, text = await worker.get("/metrics")
    samples = re.findall(
        rf'^learner_{what}_total{{.*(?:code|result)="(\w[^"]*)".*}} (\S+)$', text, re.MULTILINE
    )
    for result, value in samples:
        counts[result] += int(float(value))
    return counts


async def _good_request_is_answered(broker: Broker, names: TopicNames, worker: WorkerProcess) -> None:
    good = json.dumps({**GOOD, "request_id": "the last"}).encode()
    await _send(broker, [(names.requests, (0, b"agent-1", good, []))])

    async def answered() -> bool:
        replies = await read_topic(broker.bootstrap_servers, names.replies)
        return any(json.loads(reply.value).get("request_id") == "the last" for reply in replies)

    await until(answered, "a good request is answered", seconds=30)
    assert worker.process.returncode is None


async def _check_requests(
    broker: Broker, names: TopicNames, requests: list[Fuzzed], codes: Counter[str]
) -> None:
    """As many replies as were counted, on the one listed topic there is; what is refused is the model's."""
    replies = await read_topic(broker.bootstrap_servers, names.replies)
    assert len(replies) == sum(codes.values()) - sum(codes[code] for code in _SILENT) + 1
    answered = Counter(_code(reply) for reply in replies)
    assert answered == codes - Counter({code: codes[code] for code in _SILENT}) + Counter({"OK": 1})
    refused = [headers for _, _, _, headers in requests if not _is_listed(headers, names)]
    assert codes["REFUSED"] >= len(refused) > 0
    moved = codes["REROUTED"]
    assert len(await read_topic(broker.bootstrap_servers, names.requests)) in (
        len(requests) + moved + 1,
        len(requests) + moved + 2,  # the last one was moved, too
    )


def _code(reply: Any) -> str:
    error = json.loads(reply.value).get("error")
    header = model.last_header(reply.headers, "learner-error")
    assert (header or b"OK").decode() == ("OK" if error is None else error["code"])
    return "OK" if error is None else str(error["code"])


def _is_listed(headers: Headers, names: TopicNames) -> bool:
    address = model.address(headers, names.replies)
    return isinstance(address, model.Address) and address.topic.startswith(
        (f"{names.replies}", f"{names.requests}.reply", f"{names.requests}-replies")
    )


async def _check_events(
    broker: Broker, names: TopicNames, events: list[tuple[TopicName, Fuzzed]], results: Counter[str]
) -> None:
    """One dead letter for each that was counted as one, of different records, with the model's reasons."""
    dead_letters = await read_topic(broker.bootstrap_servers, names.dead_letters)
    assert len(dead_letters) == results["dead-letter"]
    assert len({_origin(letter) for letter in dead_letters}) == len(dead_letters)
    reasons = Counter(dict(letter.headers)["learner-reason"].decode() for letter in dead_letters)
    decided = Counter(_reason(topic, fuzzed, names) for topic, fuzzed in events)
    for reason in ("empty", "too-large", "not-json", "invalid"):
        assert decided[reason] <= reasons[reason] <= decided[reason] + decided["undecided"]
    assert decided["too-large"] > 0
    assert decided["good"] > 0


def _origin(letter: Any) -> bytes:
    return bytes(dict(letter.headers)["learner-origin"])


def _reason(topic: TopicName, fuzzed: Fuzzed, names: TopicNames) -> str:
    kind = names.event_kind(topic)
    assert kind is not None
    try:
        model.message(kind, fuzzed[2])
    except model.BrokenError as error:
        return error.reason
    except model.UndecidedError:
        return "undecided"
    return "good"
