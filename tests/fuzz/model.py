"""The contract once more, naively: which bytes are which message, and what a request's headers ask for.

Written from docs/contract.md alone; it imports nothing of the program it judges. Where the contract leaves
the choice open (how deeply JSON may be nested, how long a number may be), the model raises `UndecidedError`.
"""

import calendar
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

MEBIBYTE = 1024 * 1024
MAX_SATS = 2**53 - 1
_LONGEST_NUMBER = 300
_DEEPEST = 100

Reason = Literal["empty", "too-large", "not-json", "invalid"]
Message = dict[str, Any]


class UndecidedError(Exception):
    """The contract does not say."""


class BrokenError(Exception):
    """The bytes are no such message; its reason is one of the contract's."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Number:
    """A number that is not a plain integer, as it was written."""

    text: str


# --- JSON ------------------------------------------------------------------------------------------------


def parsed(value: bytes | None) -> Any:
    """The JSON in a record's value: after a registry's frame, if it begins with a zero byte.

    Raises:
        BrokenError: empty, over a mebibyte, or no JSON in UTF-8.
        UndecidedError: it is nested deeply, or holds a very long number.
    """
    if not value:
        raise BrokenError("empty")
    if len(value) > MEBIBYTE:
        raise BrokenError("too-large")
    payload = value[5:] if value[:1] == b"\0" else value
    try:
        text = payload.decode("utf-8", errors="strict")
        found = json.loads(
            _measured(text),
            object_pairs_hook=_last_of_each,
            parse_int=_integer,
            parse_float=Number,
            parse_constant=_refused,
        )
        _require_whole_characters(found)
    except (ValueError, RecursionError) as error:
        raise BrokenError("not-json") from error
    return found


def _measured(text: str) -> str:
    """The text, unless its brackets alone say that it is nested deeply, or its digits that one is long."""
    if max(text.count("["), text.count("{")) > _DEEPEST or re.search(rf"[0-9]{{{_LONGEST_NUMBER}}}", text):
        raise UndecidedError
    return text


def _last_of_each(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of members of one name the last counts, but each has to be JSON."""
    for name, content in members:
        _require_whole_characters([name, content])
    return dict(members)


def _require_whole_characters(value: Any) -> None:
    if any(0xD800 <= ord(character) < 0xE000 for character in _characters(value)):
        raise ValueError("half a character")


def _integer(text: str) -> int:
    return int(text)


def _refused(text: str) -> None:
    raise ValueError(text)


def _characters(value: Any) -> str:
    match value:
        case str():
            return value
        case list():
            return "".join(map(_characters, value))
        case dict():
            return "".join(name + _characters(content) for name, content in value.items())
        case _:
            return ""


# --- fields ----------------------------------------------------------------------------------------------


def is_id(value: Any) -> bool:
    """1 to 256 characters, no control characters."""
    return isinstance(value, str) and 1 <= len(value) <= 256 and not _has_control_character(value)


def is_sats(value: Any) -> bool:
    """A whole number, written as one, from 0 to 2^53-1."""
    return type(value) is int and 0 <= value <= MAX_SATS


def is_text(value: Any) -> bool:
    """At most 16,384 characters."""
    return isinstance(value, str) and len(value) <= 16_384


def is_time(value: Any) -> bool:
    """RFC 3339 with T, seconds and an offset, years 1970 to 9998."""
    return isinstance(value, str) and micros_of(value) is not None


def micros_of(text: str) -> int | None:
    """The microseconds since 1970 of a time; None if it is none. Section 5.6 of RFC 3339, rule by rule."""
    date, separator, rest = text[:10], text[10:11], text[11:]
    full_date = re.fullmatch(r"(\d{4})-(\d\d)-(\d\d)", date, re.ASCII)
    full_time = re.fullmatch(r"(\d\d):(\d\d):(\d\d)(\.\d+)?(.+)", rest, re.ASCII)
    if full_date is None or full_time is None or separator not in ("T", "t"):
        return None
    year, month, day = map(int, full_date.groups())
    hour, minute, second = map(int, full_time.group(1, 2, 3))
    offset = _offset_minutes(full_time[5])
    if not (1970 <= year <= 9998 and 1 <= month <= 12 and 1 <= day <= calendar.monthrange(year, month)[1]):
        return None
    if hour > 23 or minute > 59 or second > 60 or offset is None:
        return None
    moment = datetime(year, month, day, hour, minute, tzinfo=UTC) - timedelta(minutes=offset)
    if second == 60 and (moment.hour, moment.minute) != (23, 59):
        return None  # a leap second exists there only
    fraction = (full_time[4] or ".")[1:7].ljust(6, "0")
    minutes = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(minutes=1)
    return (minutes * 60 + second) * 1_000_000 + int(fraction)


def _offset_minutes(text: str) -> int | None:
    if text in ("Z", "z"):
        return 0
    numeric = re.fullmatch(r"([+-])(\d\d):(\d\d)", text, re.ASCII)
    if numeric is None or int(numeric[2]) > 23 or int(numeric[3]) > 59:
        return None
    return int(numeric[1] + "1") * (int(numeric[2]) * 60 + int(numeric[3]))


# --- messages --------------------------------------------------------------------------------------------


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_include(value: Any) -> bool:
    return isinstance(value, list) and all(item in {"learned_keywords", "alternatives"} for item in value)


def _is_name(value: Any) -> bool:
    """Any text without control characters."""
    return isinstance(value, str) and not _has_control_character(value)


def _has_control_character(text: str) -> bool:
    return any(unicodedata.category(character) == "Cc" for character in text)


_ABSENT = object()
_REQUIRED = {
    "bid-placed": {"task_id": is_id, "agent_id": is_id, "bid_sats": is_sats, "description": is_text},
    "auction-closed": {"task_id": is_id},
    "task-finished": {"task_id": is_id, "agent_id": is_id, "succeeded": _is_flag},
    "request": {"agent_id": is_id, "base_bid_sats": is_sats, "description": is_text},
}
_NULLABLE = {"auction-closed": {"winner_agent_id": is_id, "winning_bid_sats": is_sats}}
_OPTIONAL = {
    "bid-placed": {"placed_at": is_time},
    "auction-closed": {"closed_at": is_time, "description": is_text},
    "task-finished": {"finished_at": is_time},
    "request": {
        "request_id": is_id,
        "deadline": is_time,
        "include": _is_include,
        "strategy": _is_name,
        "task_id": is_id,
        "cost_sats": is_sats,
        "failure_cost_sats": is_sats,
    },
}


def message(kind: str, value: bytes | None) -> Message:
    """The known fields of an event or a request, times in microseconds; what is missing is None.

    Raises:
        BrokenError, UndecidedError: as `parsed`; or a field breaks the contract.
    """
    found = parsed(value)
    if not isinstance(found, dict):
        raise BrokenError("invalid")
    fields: Message = {}
    for name, keeps in _REQUIRED[kind].items():
        fields[name] = _required(keeps(found.get(name)), found.get(name))
    for name, keeps in _NULLABLE.get(kind, {}).items():
        given = found.get(name, _ABSENT)
        fields[name] = _required(given is None or keeps(given), given)
    for name, keeps in _OPTIONAL[kind].items():
        given = found.get(name)
        given = _required(given is None or keeps(given), given)
        fields[name] = micros_of(given) if keeps is is_time and given is not None else given
    return fields


def _required(holds: bool, value: Any) -> Any:
    if not holds:
        raise BrokenError("invalid")
    return value


def readable_ids(value: bytes | None) -> tuple[str | None, str | None]:
    """The request_id and agent_id of a request that may be broken otherwise.

    Raises:
        UndecidedError: as `parsed`.
    """
    try:
        found = parsed(value)
    except BrokenError:
        return None, None
    if not isinstance(found, dict):
        return None, None
    request_id, agent_id = found.get("request_id"), found.get("agent_id")
    return request_id if is_id(request_id) else None, agent_id if is_id(agent_id) else None


# --- headers ---------------------------------------------------------------------------------------------

_CONVENTIONS = {
    "spring": ("kafka_correlationId", "kafka_replyTopic", "kafka_replyPartition"),
    "smallrye": ("REPLY_CORRELATION_ID", "REPLY_TOPIC", "REPLY_PARTITION"),
    "plain": ("correlation_id", "reply_to", "reply_partition"),
}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a reply goes by its request's headers, and what it echoes."""

    convention: str
    correlation_id: bytes | None
    topic: str
    partition: int | None


def last_header(headers: Sequence[tuple[str, bytes | None]], wanted: str) -> bytes | None:
    """Of a header that is there more than once the last; null is as good as absent."""
    value = None
    for name, content in headers:
        if name == wanted:
            value = content
    return value


def address(headers: Sequence[tuple[str, bytes | None]], default_topic: str) -> Address | set[str]:
    """The address, or the reasons why there is none."""
    for convention, names in _CONVENTIONS.items():
        correlation_id, topic, partition = (last_header(headers, name) for name in names)
        if correlation_id is None and topic is None and partition is None:
            continue
        why: set[str] = set()
        if correlation_id is not None and len(correlation_id) > 1024:
            why.add("correlation-id")
        if topic is not None and not _is_utf8(topic):
            why.add("reply-topic")
        number = None if partition is None else _partition(partition)
        if partition is not None and number is None:
            why.add("reply-partition")
        if why:
            return why
        return Address(convention, correlation_id, default_topic if topic is None else topic.decode(), number)
    return Address("plain", None, default_topic, None)


def _is_utf8(value: bytes) -> bool:
    try:
        return bool(value.decode())
    except UnicodeDecodeError:
        return False


def _partition(value: bytes) -> int | None:
    """All ASCII digits is text, else 4 bytes is a big-endian number; a partition is no number below 0."""
    if re.fullmatch(rb"[0-9]+", value):
        number = sum(int(chr(digit)) * 10**power for power, digit in enumerate(reversed(value)))
    elif len(value) == 4:
        number = value[0] << 24 | value[1] << 16 | value[2] << 8 | value[3]
    else:
        return None
    return number if number < 2**31 else None


def reply_headers(found: Address, error: tuple[str, str] | None) -> Mapping[str, bytes]:
    """A reply's headers, exactly; `error` is its code and message."""
    expected: dict[str, bytes] = {}
    if found.correlation_id is not None:
        expected[_CONVENTIONS[found.convention][0]] = found.correlation_id
    if found.convention == "spring":
        expected["kafka_nest-is-disposed"] = b"\0"
    if error is not None:
        expected["learner-error"] = error[0].encode()
    if error is not None and found.convention == "spring":
        expected["kafka_nest-err"] = f"{error[0]}: {error[1]}".encode()
    return expected


def is_allowed(topic: str) -> bool:
    """The default allow-list."""
    return topic in {
        "suggest-bid-replies",
        "suggest-bid-requests.reply",
        "suggest-bid-requests-replies",
    } or bool(re.fullmatch(r"suggest-bid-replies\..+", topic, re.DOTALL))
