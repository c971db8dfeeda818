"""Dead dead letters taken apart again, and the marks beside them."""

from typing import cast

import pytest

from learner_worker.commands.printing import escaped, moment, shown_time
from learner_worker.contract.topics import HOP_HEADER, TopicName
from learner_worker.errors import RecordError
from learner_worker.kafka.patches import LightRecord
from learner_worker.kafka.records import TRUNCATED_BYTES, Outgoing, dead_letter
from learner_worker.operations.dead_letters import DeadLetterId, Filter, mark, parse_dead_letter, parse_mark

DEAD_LETTERS = TopicName("learner-dead-letters")


def lying(record: Outgoing) -> LightRecord:
    """A written record, as it is read back from partition 3."""
    return LightRecord(record.topic, 3, 17, 5_000, record.key, record.value, record.headers)


def test_a_dead_letter_gives_back_everything_its_original_was() -> None:
    """Origin, time, key, value and own headers come back; what the learner added does not."""
    headers = [("trace", b"\x00"), (HOP_HEADER, b"bid-placed"), ("learner-origin", b"bid-placed/1/2")]
    original = LightRecord("learner-rerouted", 5, 8, 1_234, b"key", b"value", headers)
    parsed = parse_dead_letter(
        lying(dead_letter(original, DEAD_LETTERS, RecordError("wrong-partition", "moved once")))
    )
    assert parsed is not None
    assert (parsed.id, parsed.timestamp_ms) == (DeadLetterId(3, 17), 5_000)
    assert (parsed.origin, parsed.original_ms) == ("learner-rerouted/5/8", 1_234)
    assert (parsed.reason, parsed.message) == ("wrong-partition", "moved once")
    assert (parsed.key, parsed.value, parsed.headers) == (b"key", b"value", [("trace", b"\x00")])
    assert (parsed.hop, parsed.truncated_bytes) == (b"bid-placed", None)


def test_a_cut_off_dead_letter_knows_how_long_it_was() -> None:
    """The truncation and the length before it are read back."""
    original = LightRecord("bid-placed", 0, 0, 0, None, b"v" * (TRUNCATED_BYTES + 1))
    truncated = dead_letter(original, DEAD_LETTERS, RecordError("too-large", "too large"), truncate=True)
    parsed = parse_dead_letter(lying(truncated))
    assert parsed is not None
    assert (parsed.value_bytes, parsed.truncated_bytes) == (TRUNCATED_BYTES, TRUNCATED_BYTES + 1)


def test_an_originals_headers_cannot_pretend() -> None:
    """Headers named as the learner's own neither truncate, nor change the reason, nor mark any."""
    pretended = [("learner-reason", b"fine"), ("learner-truncated", b"9"), ("learner-replayed", b"0/0")]
    original = LightRecord("bid-placed", 0, 0, 0, b"key", b"value", pretended)
    record = lying(dead_letter(original, DEAD_LETTERS, RecordError("invalid", "bad")))
    parsed = parse_dead_letter(record)
    assert parsed is not None
    assert (parsed.reason, parse_mark(record)) == ("invalid", None)


def test_a_length_from_outside_hides_no_dead_letter() -> None:
    """An original that ends with the header for cut-off ones, null or no number, is a whole dead letter."""
    for length in (b"", b"much", b"9"):
        original = LightRecord(
            "bid-placed", 0, 0, 0, b"key", b"value", [("a", b"b"), ("learner-truncated", length)]
        )
        parsed = parse_dead_letter(lying(dead_letter(original, DEAD_LETTERS, RecordError("invalid", "bad"))))
        assert parsed is not None
        assert (parsed.truncated_bytes, list(parsed.headers)) == (None, [("a", b"b")])


def test_a_mark_names_its_dead_letter_and_lies_on_its_partition() -> None:
    """Written and read back, a mark says which dead letter and what was done; it is no dead letter itself."""
    written = mark(DEAD_LETTERS, DeadLetterId(3, 4), "replayed")
    assert written.partition == 3
    assert parse_mark(lying(written)) == (DeadLetterId(3, 4), "replayed")
    assert parse_dead_letter(lying(written)) is None


def test_what_others_put_into_the_topic_is_neither() -> None:
    """A record without the learner's headers, or with broken ones, is skipped."""
    strange = LightRecord(DEAD_LETTERS, 0, 0, 0, None, b"x", [("learner-reason", b"invalid")])
    assert (parse_dead_letter(strange), parse_mark(strange)) == (None, None)
    null = cast("bytes", None)  # as Kafka allows
    nulls = [(name, null) for name, _ in dead_letter(strange, DEAD_LETTERS, RecordError("", "")).headers]
    for headers in ([("learner-dropped", b"first")], [("learner-dropped", null)], nulls):
        broken = LightRecord(DEAD_LETTERS, 0, 0, 0, None, b"x", headers)
        assert (parse_dead_letter(broken), parse_mark(broken)) == (None, None)


def test_a_filter_takes_what_matches_in_every_part() -> None:
    """Reason, topic, times and names: all must match; an empty filter takes everything."""
    original = LightRecord("bid-placed", 0, 0, 0, b"k", b"v")
    parsed = parse_dead_letter(lying(dead_letter(original, DEAD_LETTERS, RecordError("invalid", "bad"))))
    assert parsed is not None
    assert Filter().matches(parsed)
    assert Filter("invalid", "bid-placed", 5_000, 5_001, {DeadLetterId(3, 17)}).matches(parsed)
    for other in (
        Filter(reason="empty"),
        Filter(topic="auction-closed"),
        Filter(since_ms=5_001),
        Filter(until_ms=5_000),
        Filter(ids={DeadLetterId(3, 18)}),
    ):
        assert not other.matches(parsed)


@pytest.mark.parametrize("text", ["", "3", "3/", "/4", "a/b", "-1/2", "1/2/3", "٣/٤"])
def test_a_name_that_is_none_is_refused(text: str) -> None:
    """Only `PARTITION/OFFSET` in plain digits names a dead letter."""
    with pytest.raises(ValueError, match="PARTITION/OFFSET"):
        DeadLetterId.parse(text)


def test_what_came_from_outside_is_printed_without_power() -> None:
    """Escape sequences, line ends, direction marks and broken UTF-8 are written out."""
    assert escaped("\x1b[2Jж\r\n\u202e") == "\\x1b[2Jж\\r\\n\\u202e"
    assert escaped(b"\xff\x00ok") == "\\xff\\x00ok"


def test_times_are_read_and_shown() -> None:
    """RFC 3339 and ages are read; a time beyond the calendar is shown as its number."""
    assert moment("1970-01-01T00:00:01.0000019Z") == 1_000_001
    assert moment("1h") - moment("2h") == pytest.approx(3_600_000_000, abs=1_000_000)
    assert shown_time(1_500) == "1970-01-01T00:00:01.500+00:00"
    assert shown_time(2**62) == str(2**62)
