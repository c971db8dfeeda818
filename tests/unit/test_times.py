"""Times: RFC 3339's grammar exactly, microseconds inside."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner_worker.contract.times import LAST_MICROS, Micros, format_time, parse_time, record_micros
from tests.support import model

DAY = 86_400_000_000
NEW_YEAR = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:00z", 0),
        ("1970-01-01T00:00:00.000001Z", 1),
        ("1970-01-01T00:00:00.0000019Z", 1),
        ("1970-01-01T00:00:00.9999999999999999Z", 999_999),
        ("1970-01-01T00:00:00.1Z", 100_000),
        ("1970-01-01T00:00:01-00:00", 1_000_000),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1970-01-01T00:00:00+00:01", -60_000_000),
        ("1969-12-31T23:59:59Z", None),
        ("2026-01-01T00:00:00Z", NEW_YEAR),
        ("2026-01-01T05:30:00+05:30", NEW_YEAR),
        ("2025-12-31T00:01:00-23:59", NEW_YEAR),
        ("2024-02-29T00:00:00Z", 1_709_164_800_000_000),
        ("2000-02-29T00:00:00Z", 951_782_400_000_000),
        ("2016-12-31T23:59:60Z", 1_483_228_800_000_000),
        ("2016-12-31T23:59:60.5Z", 1_483_228_800_500_000),
        ("2017-01-01T00:59:60+01:00", 1_483_228_800_000_000),
        ("2016-12-31T15:59:60-08:00", 1_483_228_800_000_000),
        ("9998-12-31T23:59:59.999999Z", LAST_MICROS),
    ],
)
def test_a_time_is_read_to_the_microsecond(text: str, micros: int | None) -> None:
    """T and Z in either case, any offset, fractions of any length cut off, leap seconds, 1970 to 9998."""
    if micros is None:
        with pytest.raises(ValueError, match="year must be from 1970 to 9998"):
            parse_time(text)
    else:
        assert micros == parse_time(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-01-01",
        "2026-01-01T00:00Z",
        "2026-01-01T00:00:00",
        "2026-01-01 00:00:00Z",
        "2026-01-01T00:00:00.Z",
        "2026-01-01T00:00:00,5Z",
        "2026-01-01T00:00:00+0100",
        "2026-01-01T00:00:00+01",
        "2026-01-01T00:00:00+24:00",
        "2026-01-01T00:00:00+00:60",
        "2026-01-01T24:00:00Z",
        "2026-01-01T00:60:00Z",
        "2026-01-01T00:00:61Z",
        "2026-1-01T00:00:00Z",
        "26-01-01T00:00:00Z",
        "12026-01-01T00:00:00Z",
        "+2026-01-01T00:00:00Z",
        "20260101T000000Z",
        "2026-W01-1T00:00:00Z",
        " 2026-01-01T00:00:00Z",
        "2026-01-01T00:00:00Z ",
        "2026-01-01T00:00:00Z\n",
        "\uff12\uff10\uff12\uff16-01-01T00:00:00Z",
        "2026-01-01T00:00:00.\u0663Z",
        "2026-01-01T00:00:00\N{MINUS SIGN}01:00",
        "1767225600",
        "now",
    ],
)
def test_anything_else_is_no_time(text: str) -> None:
    """What ISO 8601 or a lenient parser would take is refused."""
    with pytest.raises(ValueError, match="not an RFC 3339 time"):
        parse_time(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("2026-02-29T00:00:00Z", "no such day"),
        ("2100-02-29T00:00:00Z", "no such day"),
        ("2026-04-31T00:00:00Z", "no such day"),
        ("2026-13-01T00:00:00Z", "no such day"),
        ("2026-00-01T00:00:00Z", "no such day"),
        ("2026-01-00T00:00:00Z", "no such day"),
        ("2026-01-01T12:00:60Z", "leap second"),
        ("2026-01-01T23:59:60+01:00", "leap second"),
        ("2016-12-31T23:58:60Z", "leap second"),
        ("0000-01-01T00:00:00Z", "year"),
        ("1969-12-31T23:59:59-01:00", "year"),
        ("9999-01-01T00:00:00Z", "year"),
    ],
)
def test_days_years_and_leap_seconds_that_do_not_exist(text: str, why: str) -> None:
    """The grammar alone is not enough: the calendar has to know the moment."""
    with pytest.raises(ValueError, match=why):
        parse_time(text)


@given(st.integers(0, LAST_MICROS).map(Micros))
def test_written_times_are_read_back(micros: Micros) -> None:
    """Every microsecond of the contract's years survives its text, which is the model's."""
    assert micros == parse_time(format_time(micros))
    assert model.rfc3339(micros) == format_time(micros)


@given(st.text(max_size=40) | st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9:.]{8,12}[Zz+-][0-9:]{0,5}"))
def test_any_text_is_a_time_or_a_value_error(text: str) -> None:
    """No text makes the parser fail otherwise."""
    try:
        micros = parse_time(text)
    except ValueError:
        return
    assert -DAY <= micros <= LAST_MICROS + DAY + 1_000_000


@pytest.mark.parametrize(
    ("timestamp_ms", "micros"),
    [
        (-1, 0),
        (0, 0),
        (1, 1_000),
        (LAST_MICROS // 1000, LAST_MICROS // 1000 * 1000),
        (LAST_MICROS // 1000 + 1, LAST_MICROS),
        (2**63 - 1, LAST_MICROS),
    ],
)
def test_a_records_own_time_is_brought_into_range(timestamp_ms: int, micros: int) -> None:
    """Milliseconds become microseconds; a missing (-1) or absurd timestamp lands on the nearest end."""
    assert micros == record_micros(timestamp_ms)
