"""Validates messages with the models, and describes what is invalid.

Size first, then the schema registry's frame, then strict JSON. Everybody else reads messages by `decode`.
"""

import msgspec
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from learner_worker.contract.events import AuctionClosed, BidPlaced, Event, TaskFinished
from learner_worker.contract.fields import MAX_RECORD_BYTES
from learner_worker.contract.suggestions import INVALID_REQUEST, SuggestBidRequest
from learner_worker.contract.topics import EventKind
from learner_worker.errors import RecordError, RequestError

_FRAME_BYTES = 5  # a schema registry's prefix: a zero byte and a 4-byte id
_MAX_PROBLEMS = 5  # enough to find the cause; a message may have thousands
_MODELS: dict[EventKind, type[Event]] = {
    "bid-placed": BidPlaced,
    "auction-closed": AuctionClosed,
    "task-finished": TaskFinished,
}


def validate_event(kind: EventKind, value: bytes | None) -> Event:
    """Validates the event in a record's value.

    Raises:
        RecordError: it breaks the contract; the reason is one of `empty`, `too-large`, `not-json`, `invalid`.
    """
    try:
        return _MODELS[kind].model_validate_json(strict_payload(value))
    except ValidationError as error:
        raise RecordError(_reason(error), _describe(error)) from error


def validate_request(value: bytes | None) -> SuggestBidRequest:
    """Validates the request in a record's value.

    Raises:
        RequestError: it breaks the contract; the message names the fields.
    """
    try:
        return SuggestBidRequest.model_validate_json(strict_payload(value))
    except ValidationError as error:
        raise RequestError(INVALID_REQUEST, _describe(error)) from error
    except RecordError as error:
        raise RequestError(INVALID_REQUEST, str(error)) from error


def payload_of(value: bytes | None) -> bytes:
    """A record's payload, without a schema registry's frame.

    Raises:
        RecordError: it is `empty` or `too-large`.
    """
    if not value:
        raise RecordError("empty", "the record has no value; send the message as JSON")
    if len(value) > MAX_RECORD_BYTES:
        raise RecordError("too-large", f"{len(value)} bytes; at most {MAX_RECORD_BYTES} are read")
    return value[_FRAME_BYTES:] if value[0] == 0 else value


def strict_payload(value: bytes | None) -> bytes:
    """A record's payload, if it is strict JSON, without NaN and Infinity.

    Raises:
        RecordError: it is `empty`, `too-large` or `not-json`.
    """
    payload = payload_of(value)
    if b"NaN" in payload or b"Infinity" in payload:
        _refuse_bare_constants(payload)
    return payload


def _refuse_bare_constants(payload: bytes) -> None:
    """Rejects NaN and Infinity, which pydantic's parser accepts in ignored fields."""
    try:
        msgspec.json.decode(payload, type=msgspec.Raw)  # the grammar alone: numbers may have any size
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordError("not-json", f"not JSON: {error}") from error
    except RecursionError as error:
        raise RecordError("not-json", "not JSON: nested too deeply") from error


def _reason(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return "not-json" if first["type"] == "json_invalid" else "invalid"


def _describe(error: ValidationError) -> str:
    problems = error.errors(include_url=False, include_context=False)
    return "; ".join(
        f"{'.'.join(map(str, problem['loc']))}: {_sentence(problem)}" if problem["loc"] else problem["msg"]
        for problem in problems[:_MAX_PROBLEMS]
    )


def _sentence(problem: ErrorDetails) -> str:
    """What is wrong; many serializers write a whole number of a floating-point type as 1000.0."""
    if problem["type"] == "int_type" and isinstance(problem["input"], float):
        return f"{problem['msg']}, written without a fraction or an exponent"
    return problem["msg"]
