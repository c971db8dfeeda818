"""What /metrics shows: from the first scrape on, by Prometheus' conventions, and only what has happened."""

import ast
import math
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka.errors import KafkaTimeoutError, MessageSizeTooLargeError
from prometheus_client import generate_latest

import learner_worker
from learner_worker.contract.topics import Topics
from learner_worker.group.lag import MOST_LOOKS, PartitionLag
from learner_worker.interface.headers import DEAD_LETTER_REASONS
from learner_worker.kafka.offsets import OffsetRange
from learner_worker.observability import Instruments
from learner_worker.worker.known_labels import begin_at_zero
from tests.support.prometheus import promtool
from tests.support.requests import OpenShard, Requests

NAMES = Topics().named()
PACKAGE = Path(learner_worker.__file__).parent


@pytest.fixture(name="instruments")
def fixture_instruments() -> Instruments:
    """A worker's metrics before anything has happened."""
    instruments = Instruments()
    begin_at_zero(instruments, NAMES, shards=12)
    return instruments


def test_the_first_scrape_shows_the_build_the_process_and_the_shards(instruments: Instruments) -> None:
    """Which version runs, what it takes of the machine, and how many shards there are."""
    value = instruments.registry.get_sample_value
    build = {"version": learner_worker.__version__, "python_version": platform.python_version()}

    assert value("learner_build_info", build) == 1
    assert value("learner_topology_shards") == 12
    assert (value("process_resident_memory_bytes") or 0) > 0
    assert "python_info" in {family.name for family in instruments.registry.collect()}


def test_counters_of_known_labels_begin_at_zero(instruments: Instruments) -> None:
    """A first failure is then an increase, which an alert sees."""
    value = instruments.registry.get_sample_value

    assert value("learner_requests_total", {"code": "UNSENT"}) == 0
    assert value("learner_dead_letters_total", {"reason": "unreadable"}) == 0
    assert value("learner_events_total", {"topic": "bid-placed", "result": "dead-letter"}) == 0
    assert value("learner_records_lost_total", {"topic": "learner-outcomes"}) == 0
    assert value("learner_records_refused_total", {"topic": "learner-dead-letters"}) == 0
    assert value("learner_checkpoints_total", {"result": "failed"}) == 0
    unseen = [
        family.name
        for family in instruments.registry.collect()
        if family.type == "counter" and family.name.startswith("learner_") and not family.samples
    ]
    assert unseen == []


def reasons_in_code() -> Iterator[str]:
    """The reasons that the worker's own code gives when it refuses an event."""
    for path in (*PACKAGE.glob("contract/*.py"), *PACKAGE.glob("shard/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Name(id="RecordError"), args=[ast.Constant(value=reason), *_]):
                    yield str(reason)


def test_every_reason_of_a_dead_letter_is_known() -> None:
    """None is missing at the first scrape."""
    assert set(reasons_in_code()) == set(DEAD_LETTER_REASONS)


def test_no_metric_tells_when_it_was_created(instruments: Instruments) -> None:
    """A series beside each counter and histogram, which nobody asks for."""
    assert "_created" not in generate_latest(instruments.registry).decode()


def test_promtool_finds_nothing_against_the_metrics(instruments: Instruments) -> None:
    """Names, units, types and help, by Prometheus' own linter."""
    instruments.lag.records.labels("bid-placed").set(math.nan)
    instruments.lag.event_seconds.labels("bid-placed", 0).set(1.5)

    assert promtool("check", "metrics", stdin=generate_latest(instruments.registry).decode()) == ""


async def test_a_reply_counts_when_kafka_has_it() -> None:
    """Not before, and not if Kafka gives it up: then the request is counted as unsent."""
    requests = Requests(OpenShard())
    await requests.ask()
    assert (requests.counted(), requests.observed()) == ({"OK": 1}, 1)

    requests.producer.judge = lambda _: KafkaTimeoutError()
    assert await requests.ask() == []

    assert (requests.counted(), requests.observed()) == ({"OK": 1, "UNSENT": 1}, 1)
    assert requests.offsets.committable == 2


async def test_of_a_refused_batch_the_replies_that_were_sent_count() -> None:
    """A batch that is too large goes in parts; a reply that is too large alone is not an answer."""
    requests = Requests(OpenShard())
    await requests.ask()
    requests.producer.judge = lambda values: MessageSizeTooLargeError() if len(values) != 1 else None
    for _ in range(3):
        requests.read()
    assert len(await requests.replies()) == 3
    assert requests.counted() == {"OK": 4}

    refusals = iter([MessageSizeTooLargeError(), None, MessageSizeTooLargeError()])
    requests.producer.judge = lambda _: next(refusals)
    for _ in range(2):
        requests.read()
    assert len(await requests.replies()) == 1

    assert (requests.counted(), requests.observed()) == ({"OK": 5, "UNSENT": 1}, 5)


def test_lag_in_seconds_is_how_long_the_oldest_unread_record_is_known() -> None:
    """Zero at the end; a backlog ages; what is read past ages no more."""
    lag = PartitionLag()

    assert lag.seconds(OffsetRange(5, 5), now=100.0) == 0
    assert lag.seconds(OffsetRange(5, 9), now=102.0) == 0
    assert lag.seconds(OffsetRange(5, 9), now=104.0) == 2
    assert lag.seconds(OffsetRange(7, 12), now=106.0) == 4
    assert lag.seconds(OffsetRange(9, 12), now=108.0) == 2
    assert lag.seconds(OffsetRange(12, 12), now=110.0) == 0


def test_lag_in_seconds_grows_for_as_long_as_nothing_is_read() -> None:
    """What is remembered of a growing partition is bounded, and its first look is not forgotten."""
    lag = PartitionLag()

    seconds = [lag.seconds(OffsetRange(0, end), now=2.0 * end) for end in range(1, 5_000)]

    assert seconds == [2.0 * (end - 1) for end in range(1, 5_000)]
    assert len(lag.looks) <= MOST_LOOKS
