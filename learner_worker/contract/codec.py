"""Bytes to messages and back: size first, then the registry's frame, then strict JSON."""

import msgspec
from pydantic import TypeAdapter, ValidationError

from learner_worker.contract.events import AuctionClosed, BidPlaced, Event, TaskFinished
from learner_worker.contract.fields import MAX_RECORD_BYTES, AgentId, AgentIdField
from learner_worker.contract.suggestions import (
    INVALID_REQUEST,
    AgentMetricsRecord,
    SuggestBidError,
    SuggestBidReply,
    SuggestBidRequest,
)
from learner_worker.contract.topics import EventKind
from learner_worker.errors import RecordError, RequestError

_FRAME_BYTES = 5
_MAX_PROBLEMS = 5
_MODELS: dict[EventKind, type[Event]] = {
    "bid-placed": BidPlaced,
    "auction-closed": AuctionClosed,
    "task-finished": TaskFinished,
}
_identifier = TypeAdapter(AgentIdField)


class _Ids(msgspec.Struct):
    """A request's ids as they stand there; whatever else it holds, any number too, is passed over."""

    request_id: msgspec.Raw = msgspec.Raw(b"null")
    agent_id: msgspec.Raw = msgspec.Raw(b"null")


_ids = msgspec.json.Decoder(_Ids)


def decode_event(kind: EventKind, value: bytes | None) -> Event:
    """The event in a record's value.

    Raises:
        RecordError: it breaks the contract; the reason is one of `empty`, `too-large`, `not-json`, `invalid`.
    """
    try:
        return _MODELS[kind].model_validate_json(_checked(value))
    except ValidationError as error:
        raise RecordError(_reason(error), _describe(error)) from error


def decode_request(value: bytes | None) -> SuggestBidRequest:
    """The request in a record's value.

    Raises:
        RequestError: it breaks the contract; the message names the fields.
    """
    try:
        return SuggestBidRequest.model_validate_json(_checked(value))
    except ValidationError as error:
        raise RequestError(INVALID_REQUEST, _describe(error)) from error
    except RecordError as error:
        raise RequestError(INVALID_REQUEST, str(error)) from error


def readable_ids(value: bytes | None) -> tuple[str | None, AgentId | None]:
    """The request_id and agent_id of a request that is otherwise broken, where they can be read."""
    try:
        body = _ids.decode(_checked(value).decode())  # as text: what is passed over has to be UTF-8, too
    except (RecordError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None, None
    return _readable_json(body.request_id), _readable_json(body.agent_id)


def _readable_json(token: msgspec.Raw) -> AgentId | None:
    try:
        return _readable(msgspec.json.decode(token))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _readable(value: object) -> AgentId | None:
    try:
        return _identifier.validate_python(value, strict=True)
    except ValidationError:
        return None


def readable_id(key: bytes | None) -> AgentId | None:
    """The id in a record's key, if it can be one."""
    try:
        return _readable((key or b"").decode())
    except UnicodeDecodeError:
        return None


def encode_message(
    message: Event | SuggestBidRequest | SuggestBidReply | SuggestBidError | AgentMetricsRecord,
) -> bytes:
    """A message as JSON; fields that were never set are left out."""
    return message.__pydantic_serializer__.to_json(message, exclude_unset=True)


class MetricsContent(msgspec.Struct, frozen=True):
    """What a metrics record says of an agent, apart from when it was said."""

    agent_id: AgentId
    total_bids: int
    auctions_won: int
    tasks_completed: int
    tasks_failed: int
    avg_winning_bid_sats: float
    learned_keywords: list[dict[str, str | int]]


_metrics_content = msgspec.json.Decoder(MetricsContent)


def metrics_content(value: bytes) -> MetricsContent | None:
    """What a metrics record says; None if it is no such record."""
    try:
        return _metrics_content.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def payload_of(value: bytes | None) -> bytes:
    """What a record's value holds, out of its frame.

    Raises:
        RecordError: it is `empty` or `too-large`.
    """
    if not value:
        raise RecordError("empty", "the record has no value; send the message as JSON")
    if len(value) > MAX_RECORD_BYTES:
        raise RecordError("too-large", f"{len(value)} bytes; at most {MAX_RECORD_BYTES} are read")
    return value[_FRAME_BYTES:] if value[0] == 0 else value


def _checked(value: bytes | None) -> bytes:
    payload = payload_of(value)
    if b"NaN" in payload or b"Infinity" in payload:
        _refuse_bare_constants(payload)
    return payload


def _refuse_bare_constants(payload: bytes) -> None:
    """JSON has no NaN and no Infinity, also where a field is ignored; pydantic's parser takes them there."""
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
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(
        f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" if problem["loc"] else problem["msg"]
        for problem in problems[:_MAX_PROBLEMS]
    )
