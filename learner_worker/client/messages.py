"""Makes messages from arguments; refuses those that break the contract before anything is sent."""

import math
import time
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from typing import Any, TypeVar

from pydantic import ValidationError

from learner_worker.contract.events import AuctionClosed, BidPlaced, TaskFinished
from learner_worker.contract.fields import MAX_SATS
from learner_worker.contract.suggestions import INVALID_REQUEST, Include, SuggestBidRequest
from learner_worker.contract.times import LAST_MICROS, Micros, format_time
from learner_worker.errors import InvalidEventError, SuggestionError

EventType = TypeVar("EventType", BidPlaced, AuctionClosed, TaskFinished)

_EPOCH_DAY = date(1970, 1, 1).toordinal()  # the zero of record times
_DAY_SECONDS = 24 * 60 * 60  # seconds in a day
_SECOND = 1_000_000  # microseconds in a second


def suggest_bid_request(
    agent_id: str,
    description: str,
    base_bid_sats: int,
    include: Iterable[Include],
    *,
    request_id: str,
    timeout_seconds: float,
    **optional: str | int | None,
) -> SuggestBidRequest:
    """A request whose deadline is now plus the timeout.

    Args:
        optional: other fields; None stands for a field that is left out.

    Raises:
        SuggestionError: INVALID_REQUEST; the message names the fields.
    """
    if not (timeout_seconds > 0 and math.isfinite(timeout_seconds)):
        raise SuggestionError(INVALID_REQUEST, f"timeout_seconds: a number above 0, not {timeout_seconds!r}")
    deadline = min(time.time_ns() // 1000 + int(timeout_seconds * 1_000_000), LAST_MICROS)
    fields: dict[str, Any] = {
        "agent_id": agent_id,
        "base_bid_sats": base_bid_sats,
        "description": description,
        "request_id": request_id,
        "deadline": format_time(Micros(deadline)),
    }
    included = list(include)
    if included:
        fields["include"] = included
    fields.update({name: value for name, value in optional.items() if value is not None})
    try:
        return SuggestBidRequest.model_validate(fields)
    except ValidationError as error:
        raise SuggestionError(INVALID_REQUEST, _problems(error)) from error


def require_bid(base_bid_sats: object) -> None:
    """Refuses what cannot be placed as a bid.

    Raises:
        SuggestionError: INVALID_REQUEST.
    """
    is_bid = isinstance(base_bid_sats, int) and 0 <= base_bid_sats <= MAX_SATS
    if not is_bid or isinstance(base_bid_sats, bool):
        raise SuggestionError(
            INVALID_REQUEST,
            f"base_bid_sats: a whole number of sats from 0 to 2^53 - 1, not {base_bid_sats!r}",
        )


def event(kind: type[EventType], **fields: Any) -> EventType:
    """An event of the contract.

    Raises:
        InvalidEventError: the message names the fields.
    """
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise InvalidEventError(_problems(error)) from error


def wire_time(field: str, moment: datetime | None) -> str:
    """A time as text in the contract's format; the current time for None.

    Raises:
        InvalidEventError: it has no time zone, or its year is not from 1970 to 9998.
    """
    if moment is None:
        return format_time(Micros(time.time_ns() // 1000))
    offset = moment.utcoffset() if isinstance(moment, datetime) else None
    if offset is None:
        raise InvalidEventError(
            f"{field}: {moment!r} has no time zone: give an aware datetime, as datetime.now(timezone.utc)"
        )
    micros = _micros(moment) - _length(offset)
    if not 0 <= micros <= LAST_MICROS:
        raise InvalidEventError(f"{field}: the year must be from 1970 to 9998, in UTC")
    return format_time(Micros(micros))


def _micros(moment: datetime) -> int:
    """The microseconds from 1970 to what the clock of its time zone shows.

    By its fields, not by subtraction: a subclass may have an arithmetic of its own.
    """
    days = date(moment.year, moment.month, moment.day).toordinal() - _EPOCH_DAY
    seconds = ((days * 24 + moment.hour) * 60 + moment.minute) * 60 + moment.second
    return seconds * _SECOND + moment.microsecond


def _length(offset: timedelta) -> int:
    return (offset.days * _DAY_SECONDS + offset.seconds) * _SECOND + offset.microseconds


def _problems(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in found)
