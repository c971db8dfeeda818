"""Records on their way out: moved events, and dead letters that other tools can read."""

import struct
from dataclasses import dataclass
from typing import Any

import pytest

from learner_worker.contract.fields import MAX_RECORD_BYTES
from learner_worker.contract.headers import Headers
from learner_worker.contract.topics import TopicName
from learner_worker.errors import RecordError
from learner_worker.kafka.records import (
    TRUNCATED_BYTES,
    Outgoing,
    dead_letter,
    hop_of,
    moved,
)

DEAD = TopicName("learner-dead-letters")
REROUTED = TopicName("learner-rerouted")
INVALID = RecordError("invalid", "bid_sats: Input should be a valid integer")


@dataclass(frozen=True)
class Lying:
    """A record as it lies in Kafka."""

    topic: str = "bid-placed"
    partition: int = 3
    offset: int = 2**40 + 5
    timestamp: int = 1_767_225_600_123
    key: bytes | None = b"key\xff"
    value: bytes | None = b"value\xff"
    headers: Headers = ()


def headers_of(letter: Outgoing) -> dict[str, bytes]:
    names = [name for name, _ in letter.headers]
    assert sorted(set(names)) == sorted(names)
    return {name: value or b"" for name, value in letter.headers}


def test_a_dead_letter_has_only_the_length_of_a_token() -> None:
    """However the header's name is written, and if it has no value."""
    for name, value, kept in (
        ("authorization", b"Bearer abc", b"10 bytes"),
        ("Authorization", b"abc", b"3 bytes"),
        ("authorization", None, b"0 bytes"),
    ):
        headers: Any = [(name, value), ("ce_id", b"1")]
        letter = dead_letter(Lying(headers=headers), DEAD, INVALID)
        assert letter.headers[:2] == [(name, kept), ("ce_id", b"1")]


def test_a_dead_letter_carries_its_record_and_why() -> None:
    """Key, value and headers as they came; the reason, the message, the origin; Spring's names."""
    letter = dead_letter(Lying(headers=[("ce_id", b"\xff"), ("traceparent", b"")]), DEAD, INVALID)

    assert (
        letter.topic,
        letter.partition,
        letter.key,
        letter.value,
        letter.timestamp_ms,
    ) == (DEAD, None, b"key\xff", b"value\xff", None)
    assert [
        ("ce_id", b"\xff"),
        ("traceparent", b""),
        ("learner-reason", b"invalid"),
        ("learner-message", b"bid_sats: Input should be a valid integer"),
        ("learner-origin", b"bid-placed/3/1099511627781"),
        ("kafka_dlt-original-topic", b"bid-placed"),
        ("kafka_dlt-original-partition", b"\x00\x00\x00\x03"),
        ("kafka_dlt-original-offset", b"\x00\x00\x01\x00\x00\x00\x00\x05"),
        ("kafka_dlt-original-timestamp", struct.pack(">q", 1_767_225_600_123)),
        ("kafka_dlt-exception-fqcn", b"learner_worker.errors.RecordError"),
        ("kafka_dlt-exception-message", b"bid_sats: Input should be a valid integer"),
    ] == list(letter.headers)


def test_spring_reads_the_numbers_by_their_sizes() -> None:
    """The partition is a 4-byte int, offset and timestamp 8-byte ones, all big-endian; -1 is no time."""
    headers = headers_of(dead_letter(Lying(timestamp=-1), DEAD, INVALID))

    assert (
        struct.unpack(">i", headers["kafka_dlt-original-partition"]),
        struct.unpack(">q", headers["kafka_dlt-original-offset"]),
        struct.unpack(">q", headers["kafka_dlt-original-timestamp"]),
    ) == ((3,), (2**40 + 5,), (-1,))


def test_an_earlier_dead_letters_names_are_replaced() -> None:
    """A replayed record that dies again says where it lay last; other headers stay, duplicates too."""
    replayed = Lying(
        headers=[("kafka_dlt-original-topic", b"old"), ("kafka_dlt-more", b"x"), ("own", b"1"), ("own", b"2")]
    )
    letter = dead_letter(replayed, DEAD, INVALID)

    assert [value for name, value in letter.headers if name == "kafka_dlt-original-topic"] == [b"bid-placed"]
    assert list(letter.headers)[:3] == [("own", b"1"), ("own", b"2"), ("learner-reason", b"invalid")]
    assert "kafka_dlt-more" not in dict(letter.headers)


@pytest.mark.parametrize(
    ("size", "kept", "truncated"),
    [
        (0, 0, None),
        (TRUNCATED_BYTES + 1, TRUNCATED_BYTES + 1, None),
        (MAX_RECORD_BYTES, MAX_RECORD_BYTES, None),
        (MAX_RECORD_BYTES + 1, 64 * 1024, b"1048577"),
        (3 * MAX_RECORD_BYTES, 64 * 1024, b"3145728"),
    ],
)
def test_a_value_over_a_mebibyte_is_cut(size: int, kept: int, truncated: bytes | None) -> None:
    """Over 1 MiB the first 64 KiB are kept, and a header says how large it was."""
    value = bytes(number % 251 for number in range(1_000)) * (size // 1_000 + 1)
    letter = dead_letter(Lying(value=value[:size]), DEAD, INVALID)

    assert value[:kept] == letter.value
    assert truncated == headers_of(letter).get("learner-truncated")


def test_a_record_that_kafka_refused_is_cut_on_demand() -> None:
    """The second attempt cuts a value that the limit would let through, and a long key."""
    letter = dead_letter(
        Lying(key=b"k" * 70_000, value=b"v" * 70_000, headers=[("own", b"1")]), DEAD, INVALID, truncate=True
    )

    assert (letter.key, letter.value) == (b"k" * 65_536, b"v" * 65_536)
    assert (headers_of(letter)["own"], headers_of(letter)["learner-truncated"]) == (b"1", b"70000")


@pytest.mark.parametrize(("size", "stays"), [(TRUNCATED_BYTES - 1, True), (TRUNCATED_BYTES, False)])
def test_headers_over_64_kibibytes_go_with_the_rest(size: int, stays: bool) -> None:
    """A cut record keeps its own headers up to 64 KiB, names included; the learner's are always there."""
    oversized = Lying(value=b"v" * (MAX_RECORD_BYTES + 1), headers=[("h", b"x" * size)])
    headers = headers_of(dead_letter(oversized, DEAD, INVALID))

    assert stays == ("h" in headers)
    assert headers["learner-reason"] == b"invalid"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [(None, None, b""), (None, b"", b""), (b"", None, None), (b"k", None, None), (None, b"v", b"v")],
)
@pytest.mark.parametrize("truncate", [False, True])
def test_a_tombstone_without_a_key_is_left_an_empty_value(
    key: bytes | None, value: bytes | None, expected: bytes | None, truncate: bool
) -> None:
    """A record needs a key or a value; nulls are kept wherever they can be."""
    letter = dead_letter(Lying(key=key, value=value), DEAD, INVALID, truncate=truncate)

    assert (key, expected) == (letter.key, letter.value)


def test_a_moved_event_keeps_its_time_key_value_and_headers() -> None:
    """It goes to its right partition, marked with its kind and its origin."""
    record = Lying(headers=[("own", b"1")])

    assert Outgoing(
        REROUTED,
        7,
        b"key\xff",
        b"value\xff",
        [("own", b"1"), ("learner-hop", b"bid-placed"), ("learner-origin", b"bid-placed/3/1099511627781")],
        1_767_225_600_123,
    ) == moved(record, REROUTED, 7, "bid-placed")


def test_a_moved_event_without_a_time_has_the_first() -> None:
    """-1 is no time that may be written: 1970 is read from it as from the original."""
    assert moved(Lying(timestamp=-1), REROUTED, 7, "bid-placed").timestamp_ms == 0


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], None),
        ([("own", b"1")], None),
        ([("learner-hop", b"bid-placed")], b"bid-placed"),
        ([("learner-hop", b"first"), ("own", b"1"), ("learner-hop", b"last")], b"last"),
        ([("learner-hop", b"")], b""),
        ([("Learner-Hop", b"x")], None),
    ],
)
def test_the_hop_header(headers: Headers, expected: bytes | None) -> None:
    """Whether a record was moved once; the last of duplicated headers counts, an empty one too."""
    assert expected == hop_of(Lying(headers=headers))
