"""The header conventions: where a reply goes, and which headers it carries."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from learner_worker.contract.headers import (
    REQUEST_HEADERS,
    HeaderConvention,
    ReplyAddress,
    header,
    reply_address,
    reply_headers,
    request_headers,
)
from learner_worker.contract.suggestions import ReplyError
from learner_worker.contract.topics import TopicName
from learner_worker.errors import RefusedReplyError

CONTRACT = Path(__file__).parents[2] / "docs" / "contract.md"
DEFAULT = TopicName("suggest-bid-replies")
OWN = TopicName("suggest-bid-replies.own")
DISPOSED = ("kafka_nest-is-disposed", b"\x00")
CONVENTIONAL = {
    "plain": ("correlation_id", "reply_to", "reply_partition"),
    "spring": ("kafka_correlationId", "kafka_replyTopic", "kafka_replyPartition"),
    "smallrye": ("REPLY_CORRELATION_ID", "REPLY_TOPIC", "REPLY_PARTITION"),
}
NAMES = [name for names in CONVENTIONAL.values() for name in names]
OVERLOADED = ReplyError(code="OVERLOADED", message="try later", retry_after_ms=50)


@pytest.mark.parametrize("convention", ["plain", "spring", "smallrye"])
def test_each_convention_names_its_address(convention: HeaderConvention) -> None:
    """A convention's three headers become the reply's address."""
    correlation_id, topic, partition = CONVENTIONAL[convention]
    headers = [(topic, OWN.encode()), (correlation_id, b"\x00\xff"), (partition, b"7")]

    assert ReplyAddress(convention, b"\x00\xff", OWN, 7) == reply_address(headers, DEFAULT)


@pytest.mark.parametrize("convention", ["plain", "spring", "smallrye"])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_one_header_of_a_convention_decides(convention: HeaderConvention, which: int) -> None:
    """Any one header of a convention is enough to choose it."""
    assert convention == reply_address([(CONVENTIONAL[convention][which], b"1")], DEFAULT).convention


@pytest.mark.parametrize("names", REQUEST_HEADERS.values(), ids=REQUEST_HEADERS)
def test_the_page_of_the_contract_lists_each_convention(names: tuple[str, str, str]) -> None:
    """In one row of its table, in this order."""
    rows = [row for row in CONTRACT.read_text(encoding="utf-8").splitlines() if row.startswith("|")]
    named = [tuple(cell.split("`")[1] for cell in row.split("|")[2:5] if "`" in cell) for row in rows]

    assert names in named


def test_no_headers_is_plain() -> None:
    """A request without headers is answered on the default topic, without a correlation id."""
    assert ReplyAddress("plain", None, DEFAULT, None) == reply_address((), DEFAULT)


def test_kafka_headers_come_before_reply_headers_and_plain_ones() -> None:
    """Of several conventions kafka_* wins over REPLY_*, and REPLY_* over plain, whatever their order."""
    plain, smallrye, spring = (
        ("correlation_id", b"p"),
        ("REPLY_CORRELATION_ID", b"r"),
        ("kafka_correlationId", b"k"),
    )

    assert ReplyAddress("smallrye", b"r", DEFAULT, None) == reply_address([plain, smallrye], DEFAULT)
    assert ReplyAddress("spring", b"k", DEFAULT, None) == reply_address([plain, smallrye, spring], DEFAULT)


def test_a_convention_never_borrows_from_another() -> None:
    """A Spring request's plain reply_to is not its reply topic."""
    headers = [("kafka_correlationId", b"k"), ("reply_to", OWN.encode()), ("REPLY_PARTITION", b"3")]

    assert ReplyAddress("spring", b"k", DEFAULT, None) == reply_address(headers, DEFAULT)


def test_the_last_of_duplicated_headers_wins() -> None:
    """A duplicated header counts with its last value."""
    headers = [("correlation_id", b"first"), ("correlation_id", b"last")]

    assert header(headers, "correlation_id") == b"last"
    assert reply_address(headers, DEFAULT).correlation_id == b"last"


def test_a_null_header_is_absent() -> None:
    """A header without a value counts as not there, for its value and for the choice of convention."""
    headers: list[tuple[str, bytes]] = [("kafka_correlationId", None), ("correlation_id", b"p")]  # type: ignore[list-item]

    assert header(headers, "kafka_correlationId") is None
    assert header(headers, "nowhere") is None
    assert ReplyAddress("plain", b"p", DEFAULT, None) == reply_address(headers, DEFAULT)


@pytest.mark.parametrize(
    ("value", "partition"),
    [
        (b"0", 0),
        (b"11", 11),
        (b"0011", 11),
        (b"2147483647", 2**31 - 1),
        (b"\x00\x00\x00\x00", 0),
        (b"\x00\x00\x00\x0b", 11),
        (b"\x7f\xff\xff\xff", 2**31 - 1),
    ],
)
def test_partitions_are_digits_or_four_bytes(value: bytes, partition: int) -> None:
    """All ASCII digits are text, any other four bytes a big-endian int."""
    assert partition == reply_address([("kafka_replyPartition", value)], DEFAULT).partition


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"-1",
        b"+1",
        b" 1",
        b"1.0",
        b"x",
        b"2147483648",
        b"9" * 5000,
        b"\xff\xff\xff\xff",
        b"\x80\x00\x00\x00",
        b"\x00\x00\x01",
        b"\x00" * 8,
        "٣".encode(),
    ],
)
def test_an_unreadable_partition_is_refused(value: bytes) -> None:
    """What is neither digits nor four bytes, or is no partition number, is refused."""
    with pytest.raises(RefusedReplyError) as refusal:
        reply_address([("reply_partition", value)], DEFAULT)
    assert refusal.value.reason == "reply-partition"


@pytest.mark.parametrize("value", [b"", b"\xff", b"\xed\xa0\x80"])
def test_an_unreadable_reply_topic_is_refused(value: bytes) -> None:
    """An empty reply topic, or one that is no UTF-8, is refused."""
    with pytest.raises(RefusedReplyError) as refusal:
        reply_address([("REPLY_TOPIC", value)], DEFAULT)
    assert refusal.value.reason == "reply-topic"


def test_a_correlation_id_over_one_kib_is_refused() -> None:
    """1,024 bytes are echoed, 1,025 are refused."""
    assert reply_address([("correlation_id", b"c" * 1024)], DEFAULT).correlation_id == b"c" * 1024
    with pytest.raises(RefusedReplyError) as refusal:
        reply_address([("correlation_id", b"c" * 1025)], DEFAULT)
    assert refusal.value.reason == "correlation-id"


def test_reply_headers_of_each_convention() -> None:
    """A reply echoes the correlation id under the request's name; kafka_* ones complete a NestJS call."""
    assert _reply("plain") == [("correlation_id", b"\xff")]
    assert _reply("spring") == [("kafka_correlationId", b"\xff"), DISPOSED]
    assert _reply("smallrye") == [("REPLY_CORRELATION_ID", b"\xff")]


def test_error_reply_headers_of_each_convention() -> None:
    """Every error reply names its code; a kafka_* one also carries NestJS's error text."""
    code = ("learner-error", b"OVERLOADED")

    assert [("correlation_id", b"\xff"), code] == _reply("plain", OVERLOADED)
    assert [
        ("kafka_correlationId", b"\xff"),
        DISPOSED,
        ("kafka_nest-err", b"OVERLOADED: try later"),
        code,
    ] == _reply("spring", OVERLOADED)
    assert [("REPLY_CORRELATION_ID", b"\xff"), code] == _reply("smallrye", OVERLOADED)


def _reply(convention: HeaderConvention, error: ReplyError | None = None) -> list[tuple[str, bytes]]:
    return reply_headers(ReplyAddress(convention, b"\xff", OWN, 3), error=error)


def test_without_a_correlation_id_none_is_made_up() -> None:
    """A request without a correlation id gets a reply without one."""
    assert reply_headers(ReplyAddress("plain", None, DEFAULT, None), error=None) == []


def test_request_headers_are_read_back_as_they_were_meant() -> None:
    """What our own client asks with is a plain address, with and without a partition of its own."""
    assert ReplyAddress("plain", b"id-1", OWN, None) == reply_address(
        request_headers("id-1", OWN, None), DEFAULT
    )
    assert ReplyAddress("plain", b"id-1", OWN, 4) == reply_address(request_headers("id-1", OWN, 4), DEFAULT)


names = st.sampled_from([*NAMES, "deadline", "KAFKA_correlationId"]) | st.text(max_size=8)
values = (
    st.none()
    | st.binary(max_size=12)
    | st.integers().map(lambda number: str(number).encode())
    | st.text(max_size=12).map(str.encode)
    | st.just(b"x" * 1025)
)
errors = st.none() | st.builds(ReplyError, code=st.text(), message=st.text(st.characters()))


@given(st.lists(st.tuples(names, values), max_size=8), errors)
@example([("reply_partition", b"9" * 5000)], None)
@example([("kafka_replyTopic", b"t")], ReplyError(code="\ud800", message="\ud800"))
def test_any_headers_give_an_address_or_a_refusal(
    headers: list[tuple[str, bytes]], error: ReplyError | None
) -> None:
    """Whatever the headers are, there is an address, with a reply that fits it, or a RefusedReplyError."""
    try:
        address = reply_address(headers, DEFAULT)
    except RefusedReplyError:
        return
    reply = reply_headers(address, error=error)

    assert address.topic
    assert address.partition is None or 0 <= address.partition < 2**31
    assert not {"REPLY_TOPIC", "REPLY_PARTITION"} & {name for name, _ in reply}
    assert (error is not None) == any(name == "learner-error" for name, _ in reply)
    assert (address.convention == "spring") == (DISPOSED in reply)
    if address.correlation_id is not None:
        assert address.correlation_id == reply[0][1]
