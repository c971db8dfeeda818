"""Bytes to messages: every bad input of the contract, and that none makes a decoder fail otherwise."""

import json
import os
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner_worker.contract.decode import (
    Closed,
    DecodedEvent,
    Finished,
    MetricsContent,
    Placed,
    decode_event,
    decode_metrics,
    decode_request,
    event_of,
    readable_ids,
    request_of,
)
from learner_worker.contract.encode import encode_message
from learner_worker.contract.events import BidPlaced
from learner_worker.contract.facts import (
    Barrier,
    Bid,
    Close,
    Fact,
    Result,
    decode_fact,
    description_digest,
    encode_barrier,
    encode_fact,
)
from learner_worker.contract.fields import MAX_RECORD_BYTES, AgentId, TaskId
from learner_worker.contract.suggestions import AgentMetricsRecord
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import EventKind
from learner_worker.contract.validation import validate_event, validate_request
from learner_worker.errors import RecordError, RequestError, UpgradeRequiredError

FUZZED = 10_000 if os.environ.get("HYPOTHESIS_PROFILE") == "long" else 500
MAX = 2**53 - 1
AT = "2026-01-01T00:00:00Z"
AT_MICROS = Micros(1_767_225_600_000_000)
BID: dict[str, Any] = {"task_id": "t", "agent_id": "a", "bid_sats": 7, "description": "d", "placed_at": AT}
CLOSE: dict[str, Any] = {
    "task_id": "t",
    "winner_agent_id": "a",
    "winning_bid_sats": 7,
    "closed_at": AT,
    "description": "d",
}
RESULT: dict[str, Any] = {"task_id": "t", "agent_id": "a", "succeeded": True, "finished_at": AT}
REQUEST: dict[str, Any] = {"agent_id": "a", "base_bid_sats": 7, "description": "d", "request_id": "r"}
EVENTS: dict[EventKind, dict[str, Any]] = {
    "bid-placed": BID,
    "auction-closed": CLOSE,
    "task-finished": RESULT,
}
FRAME = b"\x00\x00\x00\x00\x2a"


def raw(body: dict[str, Any], **changed: str) -> bytes:
    """The body with some values given as raw JSON text."""
    values = {name: json.dumps(value) for name, value in body.items()} | changed
    return ("{" + ",".join(f"{json.dumps(name)}:{text}" for name, text in values.items()) + "}").encode()


def without(body: dict[str, Any], name: str) -> bytes:
    return json.dumps({key: value for key, value in body.items() if key != name}).encode()


def failure(kind: EventKind, value: bytes | None) -> RecordError:
    with pytest.raises(RecordError) as caught:
        decode_event(kind, value)
    return caught.value


def refusal(value: bytes | None) -> RequestError:
    with pytest.raises(RequestError) as caught:
        decode_request(value)
    return caught.value


# --- what is accepted -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "struct", "time"),
    [
        ("bid-placed", Placed, "placed_at"),
        ("auction-closed", Closed, "closed_at"),
        ("task-finished", Finished, "finished_at"),
    ],
)
def test_events_are_decoded(kind: EventKind, struct: type[DecodedEvent], time: str) -> None:
    """Each kind of event, with all its fields; its time is text outside and microseconds inside."""
    event = decode_event(kind, raw(EVENTS[kind]))

    assert isinstance(event, struct)
    assert {**EVENTS[kind], time: AT_MICROS} == msgspec.structs.asdict(event)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("bid-placed", "placed_at"),
        ("auction-closed", "closed_at"),
        ("auction-closed", "description"),
        ("task-finished", "finished_at"),
    ],
)
def test_optional_fields_may_be_missing_or_null(kind: EventKind, name: str) -> None:
    """A missing field and a null one are the same: the record's own time, no description."""
    body = EVENTS[kind]

    assert getattr(decode_event(kind, without(body, name)), name) is None
    assert getattr(decode_event(kind, raw(body, **{name: "null"})), name) is None


@pytest.mark.parametrize("name", ["winner_agent_id", "winning_bid_sats"])
def test_a_close_may_name_nobody_and_no_price(name: str) -> None:
    """The winner and the winning bid may be null."""
    event = decode_event("auction-closed", raw(CLOSE, **{name: "null"}))

    assert getattr(event, name) is None


def test_unknown_fields_are_ignored() -> None:
    """A field the contract does not know may hold any JSON, the text NaN and deep lists among it."""
    known = decode_event("bid-placed", raw(BID))

    for text in ('"NaN"', '["Infinity", -1e300]', "[" * 50 + "]" * 50, "null", '{"task_id": 1}'):
        assert known == decode_event("bid-placed", raw(BID, extra=text))


def test_the_last_of_duplicated_fields_counts() -> None:
    """Duplicated JSON names are no error, as in most parsers."""
    value = b'{"agent_id": 1, ' + raw(BID)[1:]

    assert decode_event("bid-placed", raw(BID)) == decode_event("bid-placed", value)


@pytest.mark.parametrize("kind", list(EVENTS))
def test_a_schema_registrys_frame_is_taken_off(kind: EventKind) -> None:
    """Byte 0 and a 4-byte id may come before the JSON, on events and on requests."""
    assert decode_event(kind, raw(EVENTS[kind])) == decode_event(kind, FRAME + raw(EVENTS[kind]))
    assert decode_request(raw(REQUEST)) == decode_request(FRAME + raw(REQUEST))
    assert readable_ids(FRAME + raw(REQUEST)) == ("r", "a")


@pytest.mark.parametrize("sats", [0, 1, MAX - 1, MAX])
def test_sats_in_range(sats: int) -> None:
    """0 to 2^53-1 sats are taken, on bids, closes and requests."""
    text = str(sats)
    bid = decode_event("bid-placed", raw(BID, bid_sats=text))
    close = decode_event("auction-closed", raw(CLOSE, winning_bid_sats=text))

    assert isinstance(bid, Placed)
    assert isinstance(close, Closed)
    assert (sats, sats) == (bid.bid_sats, close.winning_bid_sats)
    assert sats == decode_request(raw(REQUEST, base_bid_sats=text)).base_bid_sats


@pytest.mark.parametrize(
    "identifier", ["x", " ", "é" * 256, "🤖" * 256, "\u00a0", "\u200b", "a\u2028b", "\uffff"]
)
def test_ids_in_range(identifier: str) -> None:
    """1 to 256 characters of any kind but control characters; spaces and emoji are characters."""
    event = decode_event("bid-placed", raw(BID, task_id=json.dumps(identifier, ensure_ascii=False)))

    assert identifier == event.task_id


def test_a_description_of_16_384_characters_is_taken() -> None:
    """The limit counts characters, not bytes; control characters and nothing at all are text too."""
    for text in ("", "🤖" * 16_384, "\x00\x1b\n"):
        event = decode_event("bid-placed", raw(BID, description=json.dumps(text)))
        assert isinstance(event, Placed)
        assert text == event.description


# --- what is refused ------------------------------------------------------------------------------

NO_SATS = [
    '"12"',
    "1.0",
    "1e2",
    "1.5",
    "true",
    "false",
    "[1]",
    "{}",
    "-1",
    str(MAX + 1),
    str(2**63 - 1),
    str(2**63),
    str(2**64),
    "9" * 400,
]
NO_IDS = [
    '""',
    "1",
    "true",
    "[]",
    "{}",
    json.dumps("x" * 257),
    json.dumps("🤖" * 257),
    *(json.dumps(f"a{chr(code)}b") for code in (0, 9, 10, 13, 27, 31, 127, 128, 133, 159)),
    json.dumps("a\n"),
    json.dumps("\na"),
]
NO_TEXTS = ["1", "true", "[]", "{}", json.dumps("x" * 16_385), json.dumps("🤖" * 16_385)]
NO_TIMES = [
    "1767225600",
    "1767225600.5",
    "true",
    "[]",
    '""',
    '"2026-01-01"',
    '"2026-01-01T00:00:00"',
    '"2026-01-01 00:00:00Z"',
    '"1969-12-31T23:59:59Z"',
    '"9999-01-01T00:00:00Z"',
    '"2026-02-30T00:00:00Z"',
]
NULL = ["null"]
BAD_FIELDS: list[tuple[EventKind, str, list[str]]] = [
    ("bid-placed", "task_id", NO_IDS + NULL),
    ("bid-placed", "agent_id", NO_IDS + NULL),
    ("bid-placed", "bid_sats", NO_SATS + NULL),
    ("bid-placed", "description", NO_TEXTS + NULL),
    ("bid-placed", "placed_at", NO_TIMES),
    ("auction-closed", "task_id", NO_IDS + NULL),
    ("auction-closed", "winner_agent_id", NO_IDS),
    ("auction-closed", "winning_bid_sats", NO_SATS),
    ("auction-closed", "closed_at", NO_TIMES),
    ("auction-closed", "description", NO_TEXTS),
    ("task-finished", "task_id", NO_IDS + NULL),
    ("task-finished", "agent_id", NO_IDS + NULL),
    ("task-finished", "succeeded", ["0", "1", '"true"', '"yes"', "[]", "1.0", *NULL]),
    ("task-finished", "finished_at", NO_TIMES),
]


@pytest.mark.parametrize(("kind", "name", "texts"), BAD_FIELDS)
def test_a_bad_field_is_invalid_and_named(kind: EventKind, name: str, texts: list[str]) -> None:
    """Types are strict, limits hold, null stands for no required field; the message names the field."""
    for text in texts:
        error = failure(kind, raw(EVENTS[kind], **{name: text}))
        assert (error.reason, str(error).startswith(f"{name}: ")) == ("invalid", True), text[:40]


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("agent_id", NO_IDS + NULL),
        ("base_bid_sats", NO_SATS + NULL),
        ("description", NO_TEXTS + NULL),
        ("request_id", NO_IDS),
        ("deadline", NO_TIMES),
        ("include", ['"learned_keywords"', '["keywords"]', "[1]", "{}", "true"]),
    ],
)
def test_a_bad_field_of_a_request_is_invalid_and_named(name: str, texts: list[str]) -> None:
    """A request is held to the same rules, and its error reply says which field to mend."""
    for text in texts:
        error = refusal(raw(REQUEST, **{name: text}))
        assert (error.code, str(error).startswith(name)) == ("INVALID_REQUEST", True), text[:40]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, name)
        for kind, body in EVENTS.items()
        for name in body
        if name not in {"placed_at", "closed_at", "finished_at"}
        and (kind, name) != ("auction-closed", "description")
    ],
)
def test_a_missing_field_is_invalid_and_named(kind: EventKind, name: str) -> None:
    """Every required field has to be there: a close says null for nobody, it does not stay silent."""
    error = failure(kind, without(EVENTS[kind], name))

    assert ("invalid", f"{name}: Field required") == (error.reason, str(error))


@pytest.mark.parametrize("name", ["agent_id", "base_bid_sats", "description"])
def test_a_missing_field_of_a_request_is_named(name: str) -> None:
    """A request needs its agent, its base bid and its description."""
    error = refusal(without(REQUEST, name))

    assert ("INVALID_REQUEST", f"{name}: Field required") == (error.code, str(error))


def test_several_problems_are_told_together() -> None:
    """One dead letter names every bad field."""
    error = failure("bid-placed", b"{}")

    assert "task_id: Field required; agent_id: Field required; bid_sats: Field required; " in str(error)


NOT_JSON = [
    b"not json",
    b"{",
    b"{}x",
    raw(BID)[:-1],
    b"\xef\xbb\xbf" + raw(BID),
    raw(BID).decode().encode("utf-16"),
    raw(BID).decode().encode("utf-16-be"),
    raw(BID, bid_sats="NaN"),
    raw(BID, bid_sats="Infinity"),
    raw(BID, bid_sats="-Infinity"),
    raw(BID, extra="NaN"),
    raw(BID, extra="Infinity"),
    raw(BID, extra="[-Infinity]"),
    raw(BID, extra='{"x": [NaN]}'),
    FRAME + raw(BID, extra="NaN"),
    raw(BID, task_id='"\\ud800"'),
    raw(BID, task_id='"\\udc00\\ud800"'),
    raw(BID, agent_id='"a\\ud83d"'),
    raw(BID, description='"\\udfff"'),
    raw(BID, description='"NaN \\udfff"'),
    raw(BID).replace(b'"t"', b'"\xff"'),
    raw(BID).replace(b'"t"', b'"\xed\xa0\x80"'),
    raw(BID).replace(b'"t"', b'"\xc0\x80"'),
    raw(BID).replace(b'"t"', b'"\x01"'),
    raw(BID, extra="[" * 100_000 + "]" * 100_000),
    raw(BID, extra="[" * 200_000),
    raw(BID, extra='["NaN",' + "[" * 200_000),
    raw(BID, bid_sats="9" * 10_000),
    raw(BID, bid_sats="012"),
    raw(BID, bid_sats="+1"),
    b"'" + raw(BID) + b"'",
    b"\x00",
    FRAME,
    FRAME + FRAME + raw(BID),
    b"\x01" + raw(BID),
]


@pytest.mark.parametrize("value", NOT_JSON, ids=range(len(NOT_JSON)))
def test_what_is_not_json(value: bytes) -> None:
    """Broken JSON, NaN even in an ignored field, lone surrogates, a BOM, other encodings, deep nesting."""
    assert failure("bid-placed", value).reason == "not-json"
    assert refusal(value).code == "INVALID_REQUEST"


@pytest.mark.parametrize("value", [b"[]", b"null", b"1", b'"text"', b"true", b"[" + raw(BID) + b"]"])
def test_json_that_is_no_object_is_invalid(value: bytes) -> None:
    """An event is a JSON object."""
    assert failure("bid-placed", value).reason == "invalid"
    assert refusal(value).code == "INVALID_REQUEST"
    assert readable_ids(value) == (None, None)


@pytest.mark.parametrize("value", [None, b""])
def test_no_value_is_empty(value: bytes | None) -> None:
    """A tombstone and an empty value are told apart from broken JSON."""
    assert failure("task-finished", value).reason == "empty"
    assert "no value" in str(refusal(value))
    assert readable_ids(value) == (None, None)


def test_one_mebibyte_is_read_and_one_byte_more_is_not() -> None:
    """The limit is 1 MiB of value; over it nothing is parsed."""
    padded = raw(BID).ljust(MAX_RECORD_BYTES)

    assert decode_event("bid-placed", raw(BID)) == decode_event("bid-placed", padded)
    assert failure("bid-placed", padded + b" ").reason == "too-large"
    assert refusal(raw(REQUEST).ljust(MAX_RECORD_BYTES + 1)).code == "INVALID_REQUEST"
    assert readable_ids(raw(REQUEST).ljust(MAX_RECORD_BYTES)) == ("r", "a")
    assert readable_ids(raw(REQUEST).ljust(MAX_RECORD_BYTES + 1)) == (None, None)


# --- ids of broken requests -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (raw(REQUEST), ("r", "a")),
        (raw(REQUEST, base_bid_sats='"x"'), ("r", "a")),
        (raw(REQUEST, request_id="1"), (None, "a")),
        (raw(REQUEST, agent_id="null"), ("r", None)),
        (raw(REQUEST, agent_id='""'), ("r", None)),
        (raw(REQUEST, agent_id=json.dumps("x" * 257)), ("r", None)),
        (raw(REQUEST, agent_id=json.dumps("a\x1bb")), ("r", None)),
        (without(REQUEST, "request_id"), (None, "a")),
        (raw(REQUEST, agent_id='"\\ud800"'), (None, None)),
        (raw(REQUEST, extra="NaN"), (None, None)),
        (raw(REQUEST)[:-1], (None, None)),
        (raw(REQUEST, extra="[" * 200_000), (None, None)),
        (b"\xff", (None, None)),
    ],
)
def test_ids_are_read_where_they_can_be(value: bytes, expected: tuple[str | None, str | None]) -> None:
    """A broken request's error reply carries the ids that are themselves in order."""
    assert expected == readable_ids(value)


# --- facts and metrics records --------------------------------------------------------------------

FACT = Fact(
    TaskId("t"),
    AgentId("a"),
    Close(Micros(5), AgentId("a"), 7, description_digest("d")),
    Bid(Micros(4), 7, "d"),
    Result(Micros(6), succeeded=True),
)


def test_a_facts_key_names_task_agent_and_every_part() -> None:
    """The key is JSON: the two ids, and the version of each part with its tie-breaks."""
    digest = description_digest("d")

    assert ["t", "a", [5, "a", 7, digest], [4, 7, digest[:32]], [6, True]] == json.loads(encode_fact(FACT)[0])
    assert json.loads(encode_fact(Fact(TaskId("t"), AgentId("a")))[0]) == ["t", "a", None, None, None]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "not-json"),
        (b"{", "not-json"),
        (b'{"task_id": 1', "invalid-fact"),
        (b"\xff", "not-json"),
        (b'{"task_id": "\xff"}', "not-json"),
        (b'{"x": ' + b"[" * 200_000, "not-json"),
        (b'{"task_id": 1, "x": ' + b"[" * 200_000, "invalid-fact"),
        (b"{}", "invalid-fact"),
        (b"[]", "invalid-fact"),
        (b'{"task_id": "t"}', "invalid-fact"),
        (b'{"task_id": "t", "agent_id": 1}', "invalid-fact"),
        (b'{"task_id": "t", "agent_id": "a", "v": "2"}', "invalid-fact"),
        (b'{"task_id": "t", "agent_id": "a", "close": {}}', "invalid-fact"),
        (b'{"task_id": "t", "agent_id": "a", "close": {"closed_at": 1.5}}', "invalid-fact"),
        (b'{"task_id": "t", "agent_id": "a", "close": {"closed_at": 9223372036854775808}}', "invalid-fact"),
        (b'{"task_id": "t", "agent_id": "a", "close": {"closed_at": -9223372036854775809}}', "invalid-fact"),
        (
            b'{"task_id":"t","agent_id":"a","close":{"closed_at":1,"winning_bid_sats":9007199254740992}}',
            "invalid-fact",
        ),
        (
            b'{"task_id": "t", "agent_id": "a", "bid": {"placed_at": 1, "bid_sats": -1, "description": ""}}',
            "invalid-fact",
        ),
        (
            b'{"task_id":"t","agent_id":"a","result":{"finished_at":9223372036854775808,"succeeded":true}}',
            "invalid-fact",
        ),
    ],
)
def test_what_is_no_fact(value: bytes, reason: str) -> None:
    """Junk in the changelog is a record error, also where a number would not fit into SQLite."""
    with pytest.raises(RecordError) as caught:
        decode_fact(value)

    assert reason == caught.value.reason


@pytest.mark.parametrize(
    "value",
    [
        b'{"task_id": "t", "agent_id": "a", "v": 2}',
        b'{"agent_id": "a", "forget_until": 5, "v": 4}',
        b'{"v": 4}',
        b'{"v": 99, "task_id": ["another shape"]}',
    ],
)
def test_a_newer_fact_asks_for_an_upgrade(value: bytes) -> None:
    """A newer format, whatever its shape, stops the shard instead of being thrown away."""
    with pytest.raises(UpgradeRequiredError, match="upgrade this worker"):
        decode_fact(value)


def test_a_barrier_says_what_to_do() -> None:
    """The end of a changelog that a reshard has replaced stops the shard, with another remedy."""
    with pytest.raises(UpgradeRequiredError, match="start it again when `learner-worker reshard` is done"):
        decode_fact(encode_barrier(Barrier(layout=2), "writer")[1])


def test_facts_of_this_format_and_fields_to_come_are_read() -> None:
    """The version may be left out or named; unknown fields are ignored."""
    plain = Fact(TaskId("t"), AgentId("a"))

    assert plain == decode_fact(b'{"task_id":"t","agent_id":"a"}')
    assert plain == decode_fact(b'{"task_id":"t","agent_id":"a","v":1,"more":[1]}')


METRICS: dict[str, object] = {
    "agent_id": "a",
    "total_bids": 7,
    "auctions_won": 6,
    "tasks_completed": 5,
    "tasks_failed": 1,
    "avg_winning_bid_sats": 1.5,
    "learned_keywords": [{"keyword": "parse", "wins": 1, "failures": 0, "net": 1}],
    "top_keywords": [{"keyword": "parse", "wins": 1, "failures": 0, "net": 1}],
}
ADDED = {"top_keywords"}
"""What records of 0.1.0 lack."""


@pytest.mark.parametrize("when", [{}, {"as_of": None, "outcome_offset": 7}, {"more": [1]}])
def test_what_a_metrics_record_says_apart_from_when(when: dict[str, object]) -> None:
    """Time, offset and unknown fields do not matter to what a record says."""
    said = decode_metrics(json.dumps(METRICS).encode())
    assert said is not None
    assert decode_metrics(json.dumps(METRICS | when).encode()) == said


@pytest.mark.parametrize("field", list(METRICS))
def test_metrics_records_differ_in_any_field(field: str) -> None:
    """Another value in any field is another content; a missing one is no record, or an old one."""
    other: dict[str, object] = {
        "agent_id": "b",
        "avg_winning_bid_sats": 2.5,
        "learned_keywords": [],
        "top_keywords": [],
    }
    changed = METRICS | {field: other.get(field, 99)}
    assert decode_metrics(json.dumps(changed).encode()) != decode_metrics(json.dumps(METRICS).encode())
    lacking = {name: value for name, value in METRICS.items() if name != field}
    content = decode_metrics(json.dumps(lacking).encode())
    assert (content is not None) == (field in ADDED)
    assert content != decode_metrics(json.dumps(METRICS).encode())


def test_every_metric_is_part_of_the_content() -> None:
    """All that a metrics record has, except when it was made and what follows from other fields."""
    follows = {"win_rate", "success_rate"}
    assert AgentMetricsRecord.model_fields.keys() - {"as_of", "outcome_offset"} - follows == METRICS.keys()
    assert set(MetricsContent.__struct_fields__) == METRICS.keys()


@pytest.mark.parametrize("value", [b"", b"junk", b"\xff", b"[]", b'{"more": ' + b"[" * 200_000])
def test_junk_is_no_metrics_record(value: bytes) -> None:
    """Whatever somebody else wrote there: None."""
    assert decode_metrics(value) is None


# --- messages out ---------------------------------------------------------------------------------


def test_fields_never_set_are_left_out() -> None:
    """An event that was given no time carries none."""
    event = BidPlaced(task_id=TaskId("t"), agent_id=AgentId("a"), bid_sats=7, description="d")

    assert json.loads(encode_message(event)) == {
        "task_id": "t",
        "agent_id": "a",
        "bid_sats": 7,
        "description": "d",
    }


@pytest.mark.parametrize("kind", list(EVENTS))
def test_an_event_survives_its_bytes(kind: EventKind) -> None:
    """What is encoded is decoded to the same event."""
    event = validate_event(kind, raw(EVENTS[kind]))

    assert event_of(event) == decode_event(kind, encode_message(event))


def test_a_request_survives_its_bytes() -> None:
    """So does a request, with its deadline and what it wants included."""
    request = validate_request(raw(REQUEST, deadline=f'"{AT}"', include='["learned_keywords"]'))

    assert request_of(request) == decode_request(encode_message(request))


# --- fuzz -----------------------------------------------------------------------------------------

VALID = [
    raw(BID),
    raw(CLOSE),
    raw(RESULT),
    raw(REQUEST, deadline=f'"{AT}"', include='["learned_keywords"]'),
    encode_fact(FACT)[1],
    b'{"agent_id":"a","outcome_offset":7,"v":1}',
]
SPLINTERS = [
    b"",
    b"null",
    b"NaN",
    b"-",
    b"1e999",
    b'"\\ud800"',
    b"\xff",
    b"\x00",
    b"[" * 3_000,
    b'"',
    b"{",
    b"}",
    b"9" * 5_000,
    b"2",
    b"true",
    b'"v":9,',
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Valid JSON of some message with a few places cut out or overwritten."""
    value = draw(st.sampled_from(VALID))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(value)))
        end = draw(st.integers(start, min(len(value), start + 8)))
        value = value[:start] + draw(st.sampled_from(SPLINTERS) | st.binary(max_size=3)) + value[end:]
    return value


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(AT)
bodies = st.fixed_dictionaries(
    {},
    optional={
        name: scalars
        | st.lists(scalars, max_size=2)
        | st.dictionaries(st.text(max_size=9), scalars, max_size=2)
        for name in {
            *BID,
            *CLOSE,
            *RESULT,
            *REQUEST,
            "v",
            "close",
            "bid",
            "result",
            "outcome_offset",
            "include",
        }
    },
).map(lambda body: json.dumps(body).encode(errors="surrogatepass"))
DECODERS: dict[str, tuple[Callable[[bytes], object], tuple[type[Exception], ...]]] = {
    "bid-placed": (lambda value: decode_event("bid-placed", value), (RecordError,)),
    "auction-closed": (lambda value: decode_event("auction-closed", value), (RecordError,)),
    "task-finished": (lambda value: decode_event("task-finished", value), (RecordError,)),
    "request": (decode_request, (RequestError,)),
    "readable-ids": (readable_ids, ()),
    "fact": (decode_fact, (RecordError, UpgradeRequiredError)),
    "metrics-content": (decode_metrics, ()),
}


@pytest.mark.parametrize("decoder", list(DECODERS))
@settings(max_examples=FUZZED, deadline=None)
@given(value=st.binary(max_size=64) | mutated() | bodies)
def test_no_bytes_make_a_decoder_fail_otherwise(decoder: str, value: bytes) -> None:
    """Arbitrary bytes, mutated JSON and wild bodies end in a message or the documented error."""
    decode, documented = DECODERS[decoder]
    message = "none"
    try:
        decode(value)
    except documented as error:
        message = str(error)
    assert message.encode() != b""


def test_the_ids_beside_a_number_beyond_any_range_are_readable() -> None:
    """Who sends 1e999 or a number of 5,000 digits is told so under its own request_id."""
    for number in (b"1e999", b"9" * 5_000):
        value = b'{"request_id":"r","agent_id":"a","base_bid_sats":' + number + b',"description":""}'
        with pytest.raises(RequestError):
            decode_request(value)
        assert readable_ids(value) == ("r", "a")


def test_a_text_that_names_a_constant_forbids_no_number() -> None:
    """A description that says NaN is no reason to refuse a large number in a field that is ignored."""
    value = b'{"task_id":"t","agent_id":"a","bid_sats":5,"description":"NaN","note":1e999}'
    assert isinstance(decode_event("bid-placed", value), Placed)
