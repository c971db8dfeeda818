"""Dead letters: whatever became one is read back whole, and what others put into the topic is none."""

from hypothesis import given
from hypothesis import strategies as st

from learner_worker.contract.topics import Topics
from learner_worker.errors import RecordError
from learner_worker.kafka.partitioner import partitioner
from learner_worker.kafka.records import TRUNCATED_BYTES, dead_letter
from learner_worker.operations.dead_letters import DeadLetterId, mark, parse_dead_letter, parse_mark
from learner_worker.operations.replay import Replay
from tests.fuzz import FUZZ, model, strategies
from tests.fuzz.strategies import EVENT_SHAPES, Headers
from tests.simulation.log import Entry
from tests.support.steady import nothing_to_confirm

TOPICS = Topics().named()
REPLAY = Replay(TOPICS, partitioner(4), confirm=nothing_to_confirm)
_HEADERS = st.builds(
    lambda found, hops: hops + found if len(found) % 2 else found + hops,
    strategies.headers([TOPICS.replies]),
    st.lists(st.tuples(st.just("learner-hop"), strategies.HOPS), max_size=2),
)
_ORIGINALS = st.builds(
    Entry,
    topic=st.sampled_from(TOPICS.all),
    partition=st.integers(0, 2**31 - 1),
    offset=st.integers(0, 2**63 - 1),
    timestamp=st.sampled_from([-1, 0, 1, 2**62]),
    key=strategies.KEYS,
    value=strategies.values(EVENT_SHAPES["bid-placed"])
    | st.sampled_from([b"x" * strategies.MEBIBYTE, b"x" * (strategies.MEBIBYTE + 1)]),
    headers=_HEADERS,
)
_TERSE = (
    *("learner-reason", "learner-message", "learner-origin", "learner-truncated", "learner-replayed"),
    *("learner-dropped", "kafka_dlt-original-topic", "kafka_dlt-original-partition"),
    *("kafka_dlt-original-offset", "kafka_dlt-original-timestamp", "learner-hop"),
)
_CONTENT = st.just(strategies.NULL) | st.sampled_from(
    [
        b"invalid",
        b"3/17",
        "٣/1".encode(),
        b"9" * 5_000 + b"/1",
        b"-1/2",
        b"\x00" * 4,
        b"\x00" * 8,
        b"\xff" * 8,
        b"70000",
        b"",
    ]
)
_STRANGE = st.one_of(
    st.lists(st.tuples(st.sampled_from(_TERSE), _CONTENT), max_size=12),
    strategies.in_any_order(st.tuples(*(st.tuples(st.just(name), _CONTENT) for name in _TERSE)).map(list)),
)


@FUZZ
@given(_ORIGINALS, st.booleans())
def test_a_dead_letter_is_read_back_as_what_it_was(original: Entry, truncate: bool) -> None:
    """Place, time, key, value and headers are the original's; one that was cut off says how long it was."""
    sent = dead_letter(original, TOPICS.dead_letters, RecordError("invalid", "bad"), truncate=truncate)
    lying = Entry(TOPICS.dead_letters, 1, 2, 3, sent.key, sent.value, sent.headers)
    parsed = parse_dead_letter(lying)
    assert parsed is not None
    assert parse_mark(lying) is None
    assert (parsed.topic, parsed.partition, parsed.offset) == original[:3]
    assert (parsed.original_ms, parsed.reason, parsed.message) == (original.timestamp, "invalid", "bad")
    cut_off = original.value is not None and (truncate or len(original.value) > strategies.MEBIBYTE)
    assert parsed.truncated_bytes == (len(original.value or b"") if cut_off else None)
    assert parsed.key == original.key
    if cut_off:
        assert parsed.value == (original.value or b"")[:TRUNCATED_BYTES]
    else:
        assert parsed.value == original.value or (original.key, original.value, parsed.value) == (
            None,
            None,
            b"",
        )
        kept = {"learner-hop", "learner-origin", "learner-truncated"}
        expected = [
            one for one in original.headers if one[0] not in kept and not one[0].startswith("kafka_dlt-")
        ]
        assert list(parsed.headers) == expected


@FUZZ
@given(_ORIGINALS)
def test_a_dead_letter_goes_back_exactly_if_its_event_can_be_read(original: Entry) -> None:
    """Sent to its task's partition if it keeps the contract; otherwise it stays a dead letter."""
    sent = dead_letter(original, TOPICS.dead_letters, RecordError("invalid", "bad"))
    parsed = parse_dead_letter(Entry(TOPICS.dead_letters, 1, 2, 3, sent.key, sent.value, sent.headers))
    assert parsed is not None
    result = REPLAY.judge(parsed)
    assert (result.sent is None) == bool(result.why)
    if original.topic == TOPICS.bid_placed:
        try:
            fields = model.message("bid-placed", original.value)
        except model.BrokenError:
            assert result.sent is None
        except model.UndecidedError:
            return
        else:
            assert result.sent is not None
            assert result.sent.partition == partitioner(4)(fields["task_id"])


@FUZZ
@given(_STRANGE, strategies.KEYS, strategies.values(EVENT_SHAPES["task-finished"]))
def test_whatever_lies_in_the_topic_is_a_dead_letter_a_mark_or_neither(
    headers: Headers, key: bytes | None, value: bytes | None
) -> None:
    """Headers of others, null and doubled ones too: never both, and a dead letter can be judged."""
    lying = Entry(TOPICS.dead_letters, 1, 2, 3, key, value, headers)
    parsed, marked = parse_dead_letter(lying), parse_mark(lying)
    assert parsed is None or marked is None
    if parsed is not None:
        assert REPLAY.judge(parsed).origin == parsed.origin


@FUZZ
@given(st.integers(0, 2**31 - 1), st.integers(0, 2**63 - 1), st.sampled_from(["replayed", "dropped"]))
def test_a_mark_is_read_back(partition: int, offset: int, handled: str) -> None:
    """A mark names its dead letter and what became of it."""
    written = mark(
        TOPICS.dead_letters,
        DeadLetterId(partition, offset),
        "replayed" if handled == "replayed" else "dropped",
    )
    lying = Entry(TOPICS.dead_letters, partition, 0, 0, written.key, written.value, written.headers)
    assert parse_mark(lying) == (DeadLetterId(partition, offset), handled)
    assert parse_dead_letter(lying) is None
