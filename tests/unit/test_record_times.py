"""Publishers with odd record times: their auctions count, and they are told."""

from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from learner_worker.contract.decode import Closed, Placed
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.times import Micros, format_time, record_micros
from learner_worker.contract.topics import Topics
from learner_worker.doctor.traffic import record_times_off
from learner_worker.observability import Instruments
from learner_worker.settings import Settings
from learner_worker.shard.record_times import RecordTimes
from learner_worker.shard.watermark import WatermarkTracker
from learner_worker.stages.settle import Place, Settle
from tests.simulation.log import Entry

HOUR = 3_600_000_000
NOW = Micros(1_767_226_000_000_000)
NAMES = Topics().named()
A = AgentId("a")
RIGHT_MS = NOW // 1000
SECONDS, MICROSECONDS, MIDNIGHT, NEGATIVE = RIGHT_MS // 1000, RIGHT_MS * 1000, 0, -5


def entry(topic: str, timestamp_ms: int, offset: int = 0) -> Entry:
    """A record with a timestamp."""
    return Entry(topic, 0, offset, timestamp_ms, None, b"{}")


def bids(count: int, placed_at: Micros) -> Iterator[Placed]:
    """Bids for one task each."""
    for number in range(count):
        yield Placed(TaskId(f"t{number}"), A, 7, "d", placed_at)


@pytest.mark.parametrize("timestamp_ms", [RIGHT_MS, SECONDS, MIDNIGHT, NEGATIVE, MICROSECONDS])
def test_an_auction_counts_whatever_its_record_times_are(timestamp_ms: int) -> None:
    """Bids, then a watermark of now, as when they were the newest, then their closes: five facts."""
    settle = Settle(tolerance_micros=0, horizon_micros=HOUR)
    for number, placed in enumerate(bids(5, Micros(NOW - 10))):
        settle.bid(placed, Place(NAMES.bid_placed, number, record_micros(timestamp_ms), NOW))
    settle.expire_tasks(NOW)
    facts = []
    for number in range(5):
        closed = Closed(TaskId(f"t{number}"), A, 7, Micros(NOW - 5), None)
        facts += settle.close(closed, Place(NAMES.auction_closed, number, record_micros(timestamp_ms), NOW))
    assert [fact.bid is not None for fact in facts] == [True] * 5


@pytest.mark.parametrize("timestamp_ms", [RIGHT_MS, SECONDS, MICROSECONDS])
@pytest.mark.parametrize("own", [NOW, Micros(NOW + 400 * 24 * HOUR), Micros(0)])
def test_an_auction_is_forgotten_whatever_its_times_are(timestamp_ms: int, own: Micros) -> None:
    """A time in the future, of the record or of the event, keeps no task for longer than the horizon."""
    settle = Settle(tolerance_micros=0, horizon_micros=HOUR)
    for number, placed in enumerate(bids(3, own)):
        settle.bid(placed, Place(NAMES.bid_placed, number, record_micros(timestamp_ms), NOW))
    assert settle.expire_tasks(Micros(NOW + HOUR + 1)).tasks == 3


def test_a_record_time_in_the_future_moves_no_watermark_beyond_now() -> None:
    """Microseconds for milliseconds in both sources: nothing that is unread counts as too old."""
    tracker = WatermarkTracker(NAMES, lambda _: None)
    for topic in (NAMES.bid_placed, NAMES.auction_closed):
        tracker.note_read(topic, [entry(topic, MICROSECONDS)], NOW)
    tracker.note_end(NAMES.rerouted, NOW)
    assert tracker.watermark() is None
    tracker = WatermarkTracker(NAMES, lambda _: NOW)
    for topic in (NAMES.bid_placed, NAMES.auction_closed):
        tracker.note_read(topic, [entry(topic, MICROSECONDS)], NOW)
    tracker.note_end(NAMES.rerouted, NOW)
    assert tracker.watermark() == NOW


def test_odd_record_times_are_counted_and_said_once_a_minute() -> None:
    """Every record is counted by topic; the log names one of them with both times."""
    instruments = Instruments()
    times = RecordTimes(instruments.shards)
    with capture_logs() as lines:
        for number in range(5):
            times.note_off(entry(NAMES.bid_placed, SECONDS, number), NOW)
        times.note_off(entry(NAMES.auction_closed, MICROSECONDS), NOW)
    counted = {
        topic: instruments.registry.get_sample_value("learner_record_times_off_total", {"topic": topic})
        for topic in (NAMES.bid_placed, NAMES.auction_closed)
    }
    assert counted == {NAMES.bid_placed: 5, NAMES.auction_closed: 1}
    assert [(line["event"], line["topic"], line["timestamp_ms"]) for line in lines] == [
        ("event.record_time_off", NAMES.bid_placed, SECONDS),
        ("event.record_time_off", NAMES.auction_closed, MICROSECONDS),
    ]


def test_doctor_names_the_topic_and_how_far_its_record_times_are_off() -> None:
    """Three of five bids with seconds for milliseconds; one without a time of its own is not judged."""
    settings = Settings(bootstrap_servers="localhost:1")
    body = b'{"task_id":"t","agent_id":"a","bid_sats":1,"description":""%s}'
    own = b',"placed_at":"%s"' % format_time(NOW).encode()
    records = [
        Entry(NAMES.bid_placed, 0, number, timestamp_ms, None, body % (b"" if number == 4 else own))
        for number, timestamp_ms in enumerate((SECONDS, RIGHT_MS, SECONDS, SECONDS, SECONDS))
    ]
    [finding] = record_times_off(NAMES.bid_placed, "bid-placed", records, settings)
    assert finding.what.startswith("3 of the newest 4 records of bid-placed are up to 1765458774 s away")
    assert list(record_times_off(NAMES.bid_placed, "bid-placed", records[1:2], settings)) == []
