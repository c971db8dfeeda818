"""Events and requests as the worker reads them: the models say what is allowed, this says it faster.

Almost every message holds exactly the contract's fields. Such a one is decoded without the models, in half of
their time and less (measured: an event in 1.5 µs instead of 3.1, a request in 0.9 instead of 3.0), and into
objects that the garbage collector never visits. Whatever is unusual, an unknown field or anything wrong, goes
to the models, so that they alone decide what is refused and what is said about it.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Literal, TypeAlias

import msgspec

from learner_worker.contract.codec import decode_event, decode_request, payload_of
from learner_worker.contract.events import AuctionClosed, BidPlaced, TaskFinished
from learner_worker.contract.fields import (
    MAX_DESCRIPTION_CHARACTERS,
    MAX_ID_CHARACTERS,
    MAX_SATS,
    AgentId,
    TaskId,
)
from learner_worker.contract.suggestions import SuggestBidRequest
from learner_worker.contract.times import Micros, parse_time
from learner_worker.contract.topics import EventKind
from learner_worker.errors import RecordError

_id_length = msgspec.Meta(min_length=1, max_length=MAX_ID_CHARACTERS)
_TaskId = Annotated[TaskId, _id_length]
_AgentId = Annotated[AgentId, _id_length]
_Sats = Annotated[int, msgspec.Meta(ge=0, le=MAX_SATS)]
_Description = Annotated[str, msgspec.Meta(max_length=MAX_DESCRIPTION_CHARACTERS)]


class Placed(msgspec.Struct, frozen=True, gc=False):
    """A `BidPlaced`, read."""

    task_id: TaskId
    agent_id: AgentId
    bid_sats: int
    description: str
    placed_at: Micros | None = None


class Closed(msgspec.Struct, frozen=True, gc=False):
    """An `AuctionClosed`, read."""

    task_id: TaskId
    winner_agent_id: AgentId | None
    winning_bid_sats: int | None
    closed_at: Micros | None = None
    description: str | None = None


class Finished(msgspec.Struct, frozen=True, gc=False):
    """A `TaskFinished`, read."""

    task_id: TaskId
    agent_id: AgentId
    succeeded: bool
    finished_at: Micros | None = None


ReadEvent: TypeAlias = Placed | Closed | Finished


class Request(msgspec.Struct, frozen=True, gc=False):
    """A `SuggestBidRequest`, read."""

    agent_id: AgentId
    base_bid_sats: int
    description: str
    request_id: AgentId | None = None
    deadline: Micros | None = None
    include: list[Literal["learned_keywords"]] | None = None


ReadRequest: TypeAlias = Request | SuggestBidRequest
"""Both have the same fields."""


def read_event(kind: EventKind, value: bytes | None) -> ReadEvent:
    """The event in a record's value.

    Raises:
        RecordError: it breaks the contract, as `codec.decode_event` says.
    """
    payload = payload_of(value)
    try:
        return _READERS[kind](payload)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return _of_model(decode_event(kind, value))


def read_request(value: bytes | None) -> ReadRequest:
    """The request in a record's value.

    Raises:
        RequestError: it breaks the contract, as `codec.decode_request` says.
    """
    try:
        return _asked(payload_of(value))
    except (RecordError, msgspec.DecodeError, ValueError, RecursionError):
        return decode_request(value)


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
    include: list[Literal["learned_keywords"]] | None = None


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
    return Request(
        asked.agent_id,
        asked.base_bid_sats,
        asked.description,
        asked.request_id,
        _time(asked.deadline),
        asked.include,
    )


_READERS: Mapping[EventKind, Callable[[bytes], ReadEvent]] = {
    "bid-placed": _placed,
    "auction-closed": _closed,
    "task-finished": _finished,
}


def _require_printable(one_id: str, other_id: str) -> None:
    """What is printable has no control characters; what is not may be allowed all the same."""
    if not (one_id.isprintable() and other_id.isprintable()):
        raise ValueError("for the models to decide")


def _time(text: str | None) -> Micros | None:
    return None if text is None else parse_time(text)


def _of_model(event: BidPlaced | AuctionClosed | TaskFinished) -> ReadEvent:
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
