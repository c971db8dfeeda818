"""The headers of every message: their names, what they hold, and whether they are always there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from learner_worker.contract.headers import (
    AUTHORIZATION,
    DEADLINE_HEADER,
    ERROR_HEADER,
    MAX_CORRELATION_ID_BYTES,
    REQUEST_HEADERS,
    TRACE_HEADERS,
    HeaderConvention,
    ReplyAddress,
    reply_headers,
)
from learner_worker.contract.suggestions import ERROR_CODES, INTERNAL, ReplyError
from learner_worker.contract.topics import HOP_HEADER, EventKind, TopicName, Topics

Schema = Mapping[str, Any]
_TEXT: Final[Schema] = {"type": "string"}
_BYTES: Final[Schema] = {"type": "string", "format": "binary"}
_DIGITS: Final[Schema] = {"type": "string", "pattern": "^[0-9]+$"}
_TIME: Final[Schema] = {"type": "string", "format": "date-time"}

DEAD_LETTER_REASONS: Final[Mapping[str, str]] = {
    "empty": "The record has no value.",
    "too-large": "It is over 1 MiB, or too large to be moved.",
    "not-json": "The value is not JSON.",
    "invalid": "The JSON breaks the event's schema.",
    "invalid-fact": "A record of the outcomes topic is no fact of the learner.",
    "refused": "Kafka does not take this fact or moved event, as for its size or time: replay it later.",
    "unreadable": "A header's name is not UTF-8: only the place is known; learner-message says what is lost.",
    "wrong-partition": "It was moved once and still lies on a wrong partition.",
}
"""Why a record became a dead letter; newer learners may add."""


@dataclass(frozen=True, slots=True)
class Header:
    """A record's header: the schema says what the value's bytes hold, read as text unless binary."""

    name: str
    description: str
    schema: Schema
    required: bool = False


_DEADLINE = Header(
    DEADLINE_HEADER,
    "After it nobody waits for the reply (RFC 3339); a deadline in the body counts before it.",
    _TIME,
)
_AUTHORIZATION = Header(
    AUTHORIZATION,
    "Who asks, where the learner wants to know: `Bearer`, a space and a JSON Web Token (docs/security.md).",
    _TEXT,
)
_TRACE = tuple(
    Header(name, "The W3C's trace context of who asks; the learner continues it if it sends traces.", _TEXT)
    for name in TRACE_HEADERS
)
_REPLY_TRACE = tuple(
    Header(name, "The request's trace, continued; only if it has one and the learner sends traces.", _TEXT)
    for name in TRACE_HEADERS
)
_ORIGIN = Header(
    "learner-origin", "Where the record lay first: topic/partition/offset.", _TEXT, required=True
)


def schema_of(headers: Sequence[Header]) -> dict[str, Any]:
    """The headers of a message as one JSON Schema; others are allowed and ignored."""
    properties = {header.name: {"description": header.description, **header.schema} for header in headers}
    required = [header.name for header in headers if header.required]
    return {"type": "object", "properties": properties} | ({"required": required} if required else {})


def of_request(convention: HeaderConvention) -> tuple[Header, ...]:
    """The headers of a request by a convention."""
    correlation_id, reply_topic, reply_partition = REQUEST_HEADERS[convention]
    return (
        Header(
            correlation_id,
            "Any bytes; the reply carries them verbatim.",
            {**_BYTES, "maxLength": MAX_CORRELATION_ID_BYTES},
        ),
        Header(reply_topic, "Where the reply goes, if the allow-list has it; else to the default.", _TEXT),
        Header(
            reply_partition,
            "The reply's partition: digits as text, or a 4-byte big-endian int. Missing: the key decides.",
            _BYTES,
        ),
        _DEADLINE,
        _AUTHORIZATION,
        *_TRACE,
    )


def of_reply(convention: HeaderConvention, *, error: bool) -> tuple[Header, ...]:
    """The headers of a reply by a convention, as `reply_headers` writes them, and those of its trace."""
    failure = ReplyError(code=INTERNAL, message="") if error else None
    topic = TopicName(Topics().replies)
    every = reply_headers(ReplyAddress(convention, b"id", topic, None), error=failure)
    always = dict(reply_headers(ReplyAddress(convention, None, topic, None), error=failure))
    return (*(_of_reply(name, required=name in always) for name, _ in every), *_REPLY_TRACE)


def _of_reply(name: str, *, required: bool) -> Header:
    if name in {names[0] for names in REQUEST_HEADERS.values()}:
        return Header(name, "The request's, byte for byte, if it has one.", _BYTES, required)
    description, schema = _REPLY_HEADERS[name]
    return Header(name, description, schema, required)


_REPLY_HEADERS: Final[Mapping[str, tuple[str, Schema]]] = {
    ERROR_HEADER: (f"The error's code: one of {', '.join(ERROR_CODES)}; newer learners may add.", _TEXT),
    "kafka_nest-is-disposed": ("One zero byte: NestJS takes the reply as the last.", _BYTES),
    "kafka_nest-err": ("The error's code and message, for NestJS.", _TEXT),
}


def of_moved_event(kind: EventKind) -> tuple[Header, ...]:
    """What the learner adds to an event that it moves to its right partition."""
    hop = Header(HOP_HEADER, "Moved once; which event it is.", {**_TEXT, "const": kind}, required=True)
    return hop, _ORIGIN


def of_moved_request(topic: str) -> tuple[Header, ...]:
    """What the learner adds to a request that it moves to its right partition."""
    hop = Header(HOP_HEADER, "Moved once.", {**_TEXT, "const": topic}, required=True)
    deadline = Header(_DEADLINE.name, "The deadline it had where it lay first.", _TIME, required=True)
    return hop, deadline


METRICS: Final = (
    Header("learner-owner", "Which opening of the shard wrote it; the learner tells its own by it.", _TEXT),
)

DEAD_LETTER: Final = (
    Header(
        "learner-truncated", "Only when the value was cut to its first 64 KiB: its size in bytes.", _DIGITS
    ),
    Header(
        "learner-reason", f"One of {', '.join(DEAD_LETTER_REASONS)}; newer learners may add.", _TEXT, True
    ),
    Header("learner-message", "What is wrong, in words.", _TEXT, required=True),
    _ORIGIN,
    Header("kafka_dlt-original-topic", "Spring's name for the topic it lay in.", _TEXT, required=True),
    Header("kafka_dlt-original-partition", "Its partition: a 4-byte big-endian int.", _BYTES, required=True),
    Header("kafka_dlt-original-offset", "Its offset: an 8-byte big-endian int.", _BYTES, required=True),
    Header(
        "kafka_dlt-original-timestamp",
        "Its record time: milliseconds since 1970 as an 8-byte big-endian int.",
        _BYTES,
        required=True,
    ),
    Header("kafka_dlt-exception-fqcn", "The error's class.", _TEXT, required=True),
    Header("kafka_dlt-exception-message", "The same as learner-message.", _TEXT, required=True),
)
"""What the learner adds to the record's own headers, of which authorization holds only a length."""
