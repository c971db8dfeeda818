"""Prints untrusted values safely, and parses the times in flags."""

import re
import time
from collections.abc import Iterable
from datetime import UTC, datetime

import click
from rich.table import Table

from learner_worker.contract.encode import KeywordTally
from learner_worker.contract.suggestions import LearnedKeyword, SuggestBidReply
from learner_worker.contract.times import Micros, parse_time
from learner_worker.kafka.polling import Gap
from learner_worker.standard_streams import tolerate_stdout

_AGO = re.compile(r"([0-9]{1,6})([smhd])")
_SHOWN_KEYWORD = 40  # longer than English words; the table fits a terminal
_LONGEST_SECONDS = 100 * 365 * 24 * 60 * 60  # a hundred years: beyond it a number was mistyped
_UNIT_MICROS = {"s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}


def escaped(text: str | bytes) -> str:
    """The text with characters escaped that could move the cursor or are invisible."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def shortened(text: str, characters: int) -> str:
    """The text, truncated with three dots if it is too long."""
    return text if len(text) <= characters else text[: characters - 3] + "..."


def text_or_hex(content: bytes | None) -> str | dict[str, str] | None:
    """Bytes as a JSON value: text if they are UTF-8, otherwise `{"hex": ...}`."""
    if content is None:
        return None
    try:
        return content.decode()
    except UnicodeDecodeError:
        return {"hex": content.hex()}


def shown_time(timestamp_ms: int) -> str:
    """A record time as RFC 3339 text in UTC; as a number if it is out of range."""
    try:
        return datetime.fromtimestamp(timestamp_ms / 1000, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        return str(timestamp_ms)


def moment(text: str) -> Micros:
    """Parses a time: RFC 3339, or an age such as `90s`, `2h`, `7d`.

    Raises:
        ValueError: it names none, or one before 1970.
    """
    ago = _AGO.fullmatch(text)
    if ago is not None:
        found = time.time_ns() // 1000 - int(ago[1]) * _UNIT_MICROS[ago[2]]
        if found < 0:
            raise ValueError(f"{text} ago is before 1970")
        return Micros(found)
    return parse_time(text)


def seconds_of(text: str) -> int:
    """Parses a duration such as `90s`, `15m`, `12h`, `30d`.

    Raises:
        ValueError: it is none.
    """
    parts = _AGO.fullmatch(text)
    seconds = 0 if parts is None else int(parts[1]) * _UNIT_MICROS[parts[2]] // _UNIT_MICROS["s"]
    if not 0 < seconds <= _LONGEST_SECONDS:
        raise ValueError(f"{text} is no duration")
    return seconds


def advice_lines(reply: SuggestBidReply) -> list[str]:
    """Advice as text: the bid, each adjustment with its reason, and the metrics behind it."""
    metrics = reply.metrics
    advice = (
        f"{reply.agent_id}: bid {reply.suggested_bid_sats} sats "
        f"(base {reply.base_bid_sats} x {reply.factor:.4g}, strategy {reply.strategy})"
    )
    reasons = [f"  x{adjustment.multiplier:<5} {adjustment.reason}" for adjustment in reply.adjustments]
    if reply.metrics_withheld:
        return [advice, *reasons]
    record = (
        f"  from {metrics.total_bids} auctions: {metrics.auctions_won} won, "
        f"{metrics.tasks_completed} completed, {metrics.tasks_failed} failed, as of {reply.as_of or 'never'}"
    )
    return [advice, *reasons, record]


def work_on_without_stdout() -> None:
    """Has a command do all of its work, even if nobody reads its stdout or a disk is full.

    A disk that was full is an error at the end.
    """
    click.get_current_context().call_on_close(tolerate_stdout().raise_if_full)


def echo_gap(gap: Gap) -> None:
    """Reports an unreadable gap on stderr."""
    click.echo(str(gap), err=True)


def keywords_table(keywords: Iterable[LearnedKeyword | KeywordTally]) -> Table:
    """Learned keywords in their order; long ones are truncated, because their length has no limit."""
    table = Table("keyword", "wins", "failures", "net", box=None, pad_edge=False)
    for word in keywords:
        cells = (shortened(word.keyword, _SHOWN_KEYWORD), str(word.wins), str(word.failures), str(word.net))
        table.add_row(*cells)
    return table
