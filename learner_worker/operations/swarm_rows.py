"""Checks a row of a swarm's `task_outcomes` table: it becomes events, or is refused with a reason.

SQLite stores any type in any column, so every value is checked against the contract's own field types.
"""

import functools
import re
from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

from pydantic import TypeAdapter, ValidationError

from learner_worker.contract.fields import (
    MAX_DESCRIPTION_CHARACTERS,
    MAX_SATS,
    AgentId,
    Description,
    Sats,
    TaskId,
    TaskIdField,
)
from learner_worker.contract.times import LAST_MICROS, Micros, parse_time

Column = Literal[
    "id",
    "task_id",
    "agent_id",
    "bid_sats",
    "description",
    "won_auction",
    "task_succeeded",
    "created_at",
]
COLUMNS: Final[tuple[Column, ...]] = (
    "id",
    "task_id",
    "agent_id",
    "bid_sats",
    "description",
    "won_auction",
    "task_succeeded",
    "created_at",
)
"""The columns that are read, in this order; others are ignored."""

REASONS: Final[dict[str, str]] = {
    "task_id": "task_id is not text of 1 to 256 characters without control characters",
    "agent_id": "agent_id is not text of 1 to 256 characters without control characters",
    "bid_sats": f"bid_sats is not an integer from 0 to {MAX_SATS}",
    "description": f"description is not text of at most {MAX_DESCRIPTION_CHARACTERS:,} characters",
    "won_auction": "won_auction is neither 0 nor 1",
    "task_succeeded": "task_succeeded of a won task is neither 0, 1 nor NULL",
    "created_at": "created_at is not a time in SQLite's text format, of the years 1970 to 9998",
    "replaced": "a later row has the same task and agent: the last one stands",
    "winner_refused": "the task has a row that was refused and is not a lost bid: who won is not known",
    "two_winners": "the task was won by more than one agent",
}
"""Why a row does not become events. The last two leave out every row of the task."""

RawRow = tuple[Any, ...]
"""The values of COLUMNS as SQLite has them."""

_ids = TypeAdapter[str](TaskIdField)  # an agent's id has the same limits
_sats = TypeAdapter[int](Sats)
_descriptions = TypeAdapter[str](Description)
_FLAGS: Final = (0, 1)  # SQLite's booleans
_CACHED_IDS: Final = 16_384
"""Enough for the agents of a swarm, whose ids repeat in the whole file; a task's repeat in near rows."""
_SQLITE_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[ T]([0-9]{2}:[0-9]{2})(?::([0-5][0-9](?:\.[0-9]+)?))? *([Zz]|[+-][0-9]{2}:[0-9]{2})?)?"
)


class SwarmRow(NamedTuple):
    """A row that can become events; `succeeded` is None for a lost bid, and for a win without a result."""

    id: Any
    task_id: TaskId
    agent_id: AgentId
    bid_sats: int
    description: str
    won: bool
    succeeded: bool | None
    placed_at: Micros


class Refusal(NamedTuple):
    """A row that cannot become events.

    Attributes:
        reason: a key of REASONS, and the column of the value.
        doubtful_task: the task, unless the row is known to be a lost bid: it may have been the winner's.
    """

    id: Any
    reason: Column
    value: Any
    doubtful_task: TaskId | None


def read_row(raw: RawRow) -> SwarmRow | Refusal:
    """The row, or the first reason why it cannot become events.

    A NULL description is an empty one. The result of a lost bid is ignored, whatever it is.
    """
    for column, value, is_valid in zip(COLUMNS, raw, _CHECKS, strict=True):
        if not is_valid(value):
            return _refused(raw, column, value)
    row_id, task_id, agent_id, bid_sats, description, won, succeeded, created_at = raw
    if won and succeeded is not None and not _is_flag(succeeded):
        return _refused(raw, "task_succeeded", succeeded)
    placed_at = sqlite_micros(created_at)
    if placed_at is None:
        return _refused(raw, "created_at", created_at)
    result = bool(succeeded) if won and succeeded is not None else None
    return SwarmRow(row_id, task_id, agent_id, bid_sats, description or "", bool(won), result, placed_at)


def sqlite_micros(text: object) -> Micros | None:
    """The time that SQLite's text format names; None if it names none. Without an offset it is UTC.

    Accepts the date alone, and minutes, seconds or fractions of a second after a space or a T, as SQLite's
    date functions do; a fraction finer than microseconds is cut off.
    """
    match = _SQLITE_TIME.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return None
    date, minutes, seconds, offset = match.groups()
    try:
        micros = parse_time(f"{date}T{minutes or '00:00'}:{seconds or '00'}{offset or 'Z'}")
    except ValueError:
        return None
    return micros if 0 <= micros <= LAST_MICROS else None  # an offset may lead out of these years


def _refused(raw: RawRow, column: Column, value: object) -> Refusal:
    row_id, task_id, *_, won, _, _ = raw
    is_lost = type(won) is int and won == 0
    task = TaskId(task_id) if _is_id(task_id) and not is_lost else None
    return Refusal(row_id, column, value, task)


@functools.lru_cache(maxsize=_CACHED_IDS)
def _is_id(value: object) -> bool:
    return _satisfies(_ids, value)


def _is_sats(value: object) -> bool:
    return _satisfies(_sats, value)


def _is_description(value: object) -> bool:
    return value is None or _satisfies(_descriptions, value)


def _is_flag(value: object) -> bool:
    return type(value) is int and value in _FLAGS


def _is_anything(_value: object) -> bool:
    return True


def _satisfies(field: TypeAdapter[Any], value: object) -> bool:
    try:
        field.validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


_CHECKS: Final[tuple[Callable[[Any], bool], ...]] = (
    _is_anything,  # id: only says which row, and which one is later
    _is_id,
    _is_id,
    _is_sats,
    _is_description,
    _is_flag,
    _is_anything,  # task_succeeded: matters only with a win
    _is_anything,  # created_at: read below, so that it is parsed once
)
