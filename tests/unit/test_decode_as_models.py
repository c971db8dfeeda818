"""Decoding a message says exactly what the contract's models say."""

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from learner_worker.contract import decode
from learner_worker.contract.decode import decode_event, decode_request, event_of, request_of
from learner_worker.contract.fields import MAX_SATS
from learner_worker.contract.validation import validate_event, validate_request
from learner_worker.errors import RecordError, RequestError

TIME = "2026-01-31T12:00:00.25Z"
BODIES: dict[str, dict[str, Any]] = {
    "bid-placed": {
        "task_id": "t",
        "agent_id": "a",
        "bid_sats": 7,
        "description": "label images",
        "placed_at": TIME,
    },
    "auction-closed": {
        "task_id": "t",
        "winner_agent_id": "a",
        "winning_bid_sats": 7,
        "closed_at": TIME,
        "description": "label",
    },
    "task-finished": {"task_id": "t", "agent_id": "a", "succeeded": True, "finished_at": TIME},
    "request": {
        "agent_id": "a",
        "base_bid_sats": 7,
        "description": "label images",
        "request_id": "r",
        "deadline": TIME,
        "include": ["learned_keywords"],
    },
}
Reader = Callable[[bytes], Any]
DECODED: Mapping[str, Reader] = {
    "bid-placed": functools.partial(decode_event, "bid-placed"),
    "auction-closed": functools.partial(decode_event, "auction-closed"),
    "task-finished": functools.partial(decode_event, "task-finished"),
    "request": decode_request,
}
MODELS: Mapping[str, Reader] = {
    "bid-placed": lambda value: event_of(validate_event("bid-placed", value)),
    "auction-closed": lambda value: event_of(validate_event("auction-closed", value)),
    "task-finished": lambda value: event_of(validate_event("task-finished", value)),
    "request": lambda value: request_of(validate_request(value)),
}
LEFT_OUT = object()
TEXTS = (
    "",
    "x" * 256,
    "x" * 257,
    "é" * 256,
    "a\nb",
    "a\x7f",
    "a\u2028",
    "\ue000",
    "x" * 16_384,
    "x" * 16_385,
)
TIMES = (
    *(
        TIME,
        TIME.lower(),
        f"{TIME}Z",
        "2026-01-31T23:59:60Z",
        "2026-01-31T12:00:60Z",
        "2026-02-30T12:00:00.1Z",
    ),
    *("2026-01-31T12:00:00.Z", "2026-01-31 12:00:00.5Z", "2026-01-31T12:00:00.٣Z", "2026-01-31T"),
)
RAW = (
    *("NaN", "Infinity", "1.0", "1e3", "-0", "01"),
    *('"\\ud800"', '"\\ud83d\\ude00"', '"a\u0001"', "[[[[]]]]", "{}"),
)
STRANGE = st.one_of(
    st.just(LEFT_OUT),
    st.none(),
    st.booleans(),
    st.integers(-2, MAX_SATS + 2),
    st.floats(allow_nan=False),
    st.text(max_size=4),
    st.lists(st.sampled_from(["learned_keywords", "other", None]), max_size=3),
    st.sampled_from(TEXTS),
    st.sampled_from(TIMES),
    st.sampled_from(RAW).map(lambda text: (text,)),
)
KINDS = st.sampled_from(list(BODIES))


def outcome_of_reading(readers: Mapping[str, Reader], kind: str, value: bytes) -> Any:
    """What a reader makes of a value: the message, or its refusal."""
    try:
        return readers[kind](value)
    except (RecordError, RequestError) as error:
        return vars(error), str(error)


def as_json(body: dict[str, Any]) -> bytes:
    """A body of values, of raw JSON in tuples, and of what is left out."""
    fields = [f"{json.dumps(name)}: {_raw(value)}" for name, value in body.items() if value is not LEFT_OUT]
    return ("{" + ", ".join(fields) + "}").encode(errors="surrogatepass")


def _raw(value: Any) -> str:
    return str(value[0]) if isinstance(value, tuple) else json.dumps(value, ensure_ascii=False)


@given(KINDS, st.integers(0, 6), STRANGE)
@example("bid-placed", 4, "2026-01-31T12:00:00ZxZ")
def test_a_strange_field_is_read_as_by_the_models(kind: str, place: int, value: Any) -> None:
    """Whatever stands in a field, both say the same of it."""
    names = [*BODIES[kind], "unknown"]
    body = as_json({**BODIES[kind], names[place % len(names)]: value})

    assert outcome_of_reading(DECODED, kind, body) == outcome_of_reading(MODELS, kind, body)


@given(KINDS, st.data())
def test_damaged_bytes_are_read_as_by_the_models(kind: str, data: st.DataObject) -> None:
    """Bytes changed, cut, doubled: both say the same of them."""
    body = bytearray(as_json(BODIES[kind]))
    start, end = sorted((data.draw(st.integers(0, len(body))), data.draw(st.integers(0, len(body)))))
    body[start:end] = data.draw(st.one_of(st.binary(max_size=3), st.just(bytes(body[start:end]) * 2)))

    assert outcome_of_reading(DECODED, kind, bytes(body)) == outcome_of_reading(MODELS, kind, bytes(body))


@pytest.mark.parametrize("kind", BODIES)
def test_the_usual_message_never_sees_the_models(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its fields are those of the contract, and nothing is wrong: no model is asked."""
    body = as_json(BODIES[kind])
    expected = outcome_of_reading(MODELS, kind, body)
    monkeypatch.delattr(decode, "validate_event")
    monkeypatch.delattr(decode, "validate_request")

    assert outcome_of_reading(DECODED, kind, body) == expected
