"""Times of the contract: RFC 3339 text outside, whole microseconds since 1970 (UTC) inside."""

import functools
import re
from datetime import date as datetime_date
from datetime import datetime, timedelta
from typing import NewType

Micros = NewType("Micros", int)
"""Microseconds since 1970-01-01T00:00:00Z."""

_RFC3339 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]([01][0-9]|2[0-3]):([0-5][0-9]):([0-5][0-9]|60)(?:\.([0-9]+))?"
    r"(?:[Zz]|([+-])([01][0-9]|2[0-3]):([0-5][0-9]))",
)
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 (in UTC, as everything here; an offset would be printed)
_EPOCH_ORDINAL = _EPOCH.toordinal()
_FIRST_YEAR, _LAST_YEAR = 1970, 9998  # the range that a datetime holds in any time zone, from the epoch on
_LEAP_SECOND = 60  # RFC 3339 allows it; datetime does not
_SECOND = 1_000_000  # microseconds in a second
_DECIMALS = 6  # microseconds: finer fractions are dropped
_MINUTE = 60 * _SECOND
_DAY = 24 * 60 * _MINUTE
LAST_MICROS = Micros((_EPOCH.replace(year=9999) - _EPOCH) // timedelta(microseconds=1) - 1)


def parse_time(text: str) -> Micros:
    """Parses RFC 3339 text to microseconds; a finer fraction is truncated.

    Accepts RFC 3339's grammar exactly (section 5.6): a `T` or `t`, seconds, an offset; the years 1970 to
    9998; a leap second only at 23:59:60 UTC, counted as the second that follows it.

    Raises:
        ValueError: the text is no valid time.
    """
    fraction = text[20:-1]
    if text[19:20] == "." and text[-1] == "Z" and fraction.isdigit() and fraction.isascii():
        micros = int(fraction if len(fraction) == _DECIMALS else fraction[:_DECIMALS].ljust(_DECIMALS, "0"))
        return Micros(_whole_second(text[:19]) + micros)
    return _parsed(text)


@functools.lru_cache(maxsize=4_096)
def _whole_second(text: str) -> Micros:
    """The time without its fraction and offset; cached, because neighbouring records share it."""
    return _parsed(f"{text}Z")


def _parsed(text: str) -> Micros:
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError("not an RFC 3339 time with T, seconds and an offset, as 2026-01-31T12:00:00Z")
    date, hour, minute, fraction, sign, offset_hour, offset_minute = match.group(1, 2, 3, 5, 6, 7, 8)
    second = int(match[4])
    days = _days_of(date)
    minutes = int(hour) * 60 + int(minute) - _offset_minutes(sign, offset_hour, offset_minute)
    if second == _LEAP_SECOND and minutes % (24 * 60) != 24 * 60 - 1:
        raise ValueError("a leap second only exists at 23:59:60 UTC")
    micros = int((fraction or "0")[:6].ljust(6, "0"))
    return Micros(days * _DAY + minutes * _MINUTE + second * _SECOND + micros)


@functools.lru_cache(maxsize=64)
def _days_of(date: str) -> int:
    """Days from 1970 to a date; cached, because neighbouring records share it."""
    if not _FIRST_YEAR <= int(date[:4]) <= _LAST_YEAR:
        raise ValueError(f"the year must be from {_FIRST_YEAR} to {_LAST_YEAR}")
    try:
        return datetime_date.fromisoformat(date).toordinal() - _EPOCH_ORDINAL
    except ValueError as error:
        raise ValueError("no such day") from error


def _offset_minutes(sign: str | None, hour: str | None, minute: str | None) -> int:
    if sign is None or hour is None or minute is None:
        return 0
    minutes = int(hour) * 60 + int(minute)
    return minutes if sign == "+" else -minutes


def format_time(micros: Micros) -> str:
    """The time as RFC 3339 text in UTC with six decimals: `2026-01-31T12:00:00.000000Z`."""
    moment = _EPOCH + timedelta(microseconds=micros)
    return f"{moment.isoformat(timespec='microseconds')}Z"


def record_micros(timestamp_ms: int) -> Micros:
    """A Kafka record's time in microseconds, clamped to the contract's range of years."""
    micros = timestamp_ms * 1000
    return Micros(micros if 0 <= micros <= LAST_MICROS else LAST_MICROS if micros > 0 else 0)
