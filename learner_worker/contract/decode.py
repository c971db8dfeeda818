"""Decodes the messages that others write, one function per message.

The models (`events`, `suggestions`) say what is allowed and build the schemas; the structs here carry what
was read. Almost every message holds exactly the contract's fields: it is decoded straight into its struct,
in half of a model's time and less, and the garbage collector never visits it. Whatever is unusual, an unknown
field or anything wrong, is read by its model (`validation`), which alone decides what is refused and what is
said about it; what it accepts becomes the same struct.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, TypeAlias

import msgspec
from pydantic import TypeAdapter, ValidationError

from learner_worker.contract.events import AuctionClosed, BidPlaced, TaskFinished
from learner_worker.contract.fields import (
    MAX_DESCRIPTION_CHARACTERS,
    MAX_ID_CHARACTERS,
    MAX_SATS,
    AgentId,
    AgentIdField,
    TaskId,
)
from learner_worker.contract.suggestions import Include, SuggestBidRequest
from learner_worker.contract.times import Micros, parse_time
from learner_worker.contract.topics import EventKind
from learner_worker.contract.validation import (
    payload_of,
    strict_payload,
    validate_event,
    validate_request,
)
from learner_worker.errors import RecordError

_id_length = msgspec.Meta(min_length=1, max_length=MAX_ID_CHARACTERS)
_TaskId = Annotated[TaskId, _id_length]
_AgentId = Annotated[AgentId, _id_length]
_Sats = Annotated[int, msgspec.Meta(ge=0, le=MAX_SATS)]
_Description = Annotated[str, msgspec.Meta(max_length=MAX_DESCRIPTION_CHARACTERS)]


class Placed(msgspec.Struct, frozen=True, gc=False):
    """A decoded `BidPlaced`."""

    task_id: TaskId
    agent_id: AgentId
    bid_sats: int
    description: str
    placed_at: Micros | None = None


class Closed(msgspec.Struct, frozen=True, gc=False):
    """A decoded `AuctionClosed`."""

    task_id: TaskId
    winner_agent_id: AgentId | None
    winning_bid_sats: int | None
    closed_at: Micros | None = None
    description: str | None = None


class Finished(msgspec.Struct, frozen=True, gc=False):
    """A decoded `TaskFinished`."""

    task_id: TaskId
    agent_id: AgentId
    succeeded: bool
    finished_at: Micros | None = None


DecodedEvent: TypeAlias = Placed | Closed | Finished


def own_time(event: DecodedEvent) -> Micros | None:
    """The time at which an event says that it happened; None if it says none."""
    match event:
        case Placed():
            return event.placed_at
        case Closed():
            return event.closed_at
        case Finished():
            return event.finished_at


class Request(msgspec.Struct, frozen=True, gc=False):
    """A decoded `SuggestBidRequest`."""

    agent_id: AgentId
    base_bid_sats: int
    description: str
    request_id: AgentId | None = None
    deadline: Micros | None = None
    include: list[Include] | None = None
    strategy: str | None = None
    task_id: TaskId | None = None
    cost_sats: int | None = None
    failure_cost_sats: int | None = None


def decode_event(kind: EventKind, value: bytes | None) -> DecodedEvent:
    """Decodes the event in a record's value.

    Raises:
        RecordError: it breaks the contract, as `validation.validate_event` says.
    """
    payload = payload_of(value)
    try:
        return _READERS[kind](payload)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return event_of(validate_event(kind, value))


def decode_request(value: bytes | None) -> Request:
    """Decodes the request in a record's value.

    Raises:
        RequestError: it breaks the contract, as `validation.validate_request` says.
    """
    try:
        return _asked(payload_of(value))
    except (RecordError, msgspec.DecodeError, ValueError, RecursionError):
        return request_of(validate_request(value))


class _Bid(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    task_id: _TaskId
    agent_id: _AgentId
    bid_sats: _Sats
    description: _Description
    placed_at: str | None = None


class _Close(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    task_id: _TaskId
    winner_agent_id: _AgentId | None
    winning_bid_sats: _Sats | None
    closed_at: str | None = None
    description: _Description | None = None


class _Result(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    task_id: _TaskId
    agent_id: _AgentId
    succeeded: bool
    finished_at: str | None = None


class _Request(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    agent_id: _AgentId
    base_bid_sats: _Sats
    description: _Description
    request_id: _AgentId | None = None
    deadline: str | None = None
    include: list[Include] | None = None
    strategy: str | None = None
    task_id: _TaskId | None = None
    cost_sats: _Sats | None = None
    failure_cost_sats: _Sats | None = None


_decode_bid = msgspec.json.Decoder(_Bid).decode
_decode_close = msgspec.json.Decoder(_Close).decode
_decode_result = msgspec.json.Decoder(_Result).decode
_decode_request = msgspec.json.Decoder(_Request).decode


def _placed(payload: bytes) -> Placed:
    bid = _decode_bid(payload)
    _require_printable(bid.task_id, bid.agent_id)
    return Placed(bid.task_id, bid.agent_id, bid.bid_sats, bid.description, _time(bid.placed_at))


def _closed(payload: bytes) -> Closed:
    close = _decode_close(payload)
    _require_printable(close.task_id, close.winner_agent_id or "")
    return Closed(
        close.task_id,
        close.winner_agent_id,
        close.winning_bid_sats,
        _time(close.closed_at),
        close.description,
    )


def _finished(payload: bytes) -> Finished:
    result = _decode_result(payload)
    _require_printable(result.task_id, result.agent_id)
    return Finished(result.task_id, result.agent_id, result.succeeded, _time(result.finished_at))


def _asked(payload: bytes) -> Request:
    asked = _decode_request(payload)
    _require_printable(asked.agent_id, asked.request_id or "")
    _require_printable(asked.task_id or "", asked.strategy or "")
    return Request(
        asked.agent_id,
        asked.base_bid_sats,
        asked.description,
        asked.request_id,
        _time(asked.deadline),
        asked.include,
        asked.strategy,
        asked.task_id,
        asked.cost_sats,
        asked.failure_cost_sats,
    )


_READERS: Mapping[EventKind, Callable[[bytes], DecodedEvent]] = {
    "bid-placed": _placed,
    "auction-closed": _closed,
    "task-finished": _finished,
}


def _require_printable(one_id: str, other_id: str) -> None:
    """Accepts printable text, which has no control characters; leaves other text to the models."""
    if not (one_id.isprintable() and other_id.isprintable()):
        raise ValueError("for the models to decide")


def _time(text: str | None) -> Micros | None:
    return None if text is None else parse_time(text)


def event_of(event: BidPlaced | AuctionClosed | TaskFinished) -> DecodedEvent:
    """What decoding an event's bytes gives."""
    match event:
        case BidPlaced():
            return Placed(event.task_id, event.agent_id, event.bid_sats, event.description, event.placed_at)
        case AuctionClosed():
            return Closed(
                event.task_id,
                event.winner_agent_id,
                event.winning_bid_sats,
                event.closed_at,
                event.description,
            )
        case TaskFinished():
            return Finished(event.task_id, event.agent_id, event.succeeded, event.finished_at)


def request_of(request: SuggestBidRequest) -> Request:
    """What decoding a request's bytes gives."""
    return Request(
        request.agent_id,
        request.base_bid_sats,
        request.description,
        request.request_id,
        request.deadline,
        request.include,
        request.strategy,
        request.task_id,
        request.cost_sats,
        request.failure_cost_sats,
    )


# --- what can be read of a message that is broken, or of a record's key -----------------------------------

_identifier = TypeAdapter(AgentIdField)


class _Ids(msgspec.Struct):
    """The raw ids of a request; other fields are skipped, including numbers of any size."""

    request_id: msgspec.Raw = msgspec.Raw(b"null")
    agent_id: msgspec.Raw = msgspec.Raw(b"null")


_ids = msgspec.json.Decoder(_Ids)


def readable_ids(value: bytes | None) -> tuple[str | None, AgentId | None]:
    """The request_id and agent_id of an otherwise invalid request, each None if it cannot be decoded."""
    try:
        body = _ids.decode(
            strict_payload(value).decode()
        )  # as text: what is passed over has to be UTF-8, too
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
    """The id in a record's key; None if the key is no valid id."""
    try:
        return _readable((key or b"").decode())
    except UnicodeDecodeError:
        return None


# --- metrics records ------------------------------------------------------------------------------------


class MetricsContent(msgspec.Struct, frozen=True):
    """The content of a metrics record, without its time and offset."""

    agent_id: AgentId
    total_bids: int
    auctions_won: int
    tasks_completed: int
    tasks_failed: int
    avg_winning_bid_sats: float
    learned_keywords: list[dict[str, str | int]]
    top_keywords: list[dict[str, str | int]] = []


_metrics_content = msgspec.json.Decoder(MetricsContent)


def decode_metrics(value: bytes) -> MetricsContent | None:
    """Decodes the content of a metrics record; None if the value is no such record."""
    try:
        return _metrics_content.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
