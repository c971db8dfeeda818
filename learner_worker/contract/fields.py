"""The field types that every message shares, with their limits."""

from typing import Annotated, NewType

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
)

from learner_worker.contract.times import Micros, format_time, parse_time

TaskId = NewType("TaskId", str)
AgentId = NewType("AgentId", str)
ShardId = NewType("ShardId", int)
"""A shard is a partition number."""

MAX_SATS = 2**53 - 1  # the largest integer that JSON readers with doubles keep exact
MAX_ID_CHARACTERS = 256  # ids are keys of records and rows: long ones would cost space in all of them
MAX_DESCRIPTION_CHARACTERS = 16_384  # bounds the keywords and the size of one row
MAX_RECORD_BYTES = 1024 * 1024  # Kafka's default limit of a record batch

_NO_CONTROL_CHARACTERS = r"^[^\u0000-\u001f\u007f-\u009f]*$"
_identifier = StringConstraints(min_length=1, max_length=MAX_ID_CHARACTERS, pattern=_NO_CONTROL_CHARACTERS)

TaskIdField = Annotated[TaskId, _identifier]
AgentIdField = Annotated[AgentId, _identifier]
Sats = Annotated[int, Field(ge=0, le=MAX_SATS, strict=True)]
Description = Annotated[str, StringConstraints(max_length=MAX_DESCRIPTION_CHARACTERS)]


def _time_of_text(value: object) -> Micros:
    if not isinstance(value, str):
        raise ValueError("a time is RFC 3339 text, as 2026-01-31T12:00:00Z")  # noqa: TRY004 (pydantic's protocol)
    return parse_time(value)


Time = Annotated[
    Micros,
    BeforeValidator(_time_of_text),
    PlainSerializer(format_time, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]


class Message(BaseModel):
    """A message from outside: strict types, unknown fields ignored, immutable once read."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)
