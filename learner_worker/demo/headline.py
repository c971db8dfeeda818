"""Tells what was simulated: by how much asking pays in the demo's market, and how it goes in the others."""

from typing import Final

from rich import box
from rich.table import Table
from rich.text import Text

from learner_worker.demo.earnings import Earning, Earnings
from learner_worker.demo.view import figure
from learner_worker.laboratory.intervals import Interval
from learner_worker.laboratory.trials import Population

_WHO_ASKS: Final[dict[Population, str]] = {
    "siblings": "side by side",
    "one": "one agent asks",
    "all": "all ask",
}


def headline(earnings: Earnings) -> str:
    """By how much it pays to ask: a sentence for each strategy, the one that is told costs first."""
    side_by_side = [row for row in earnings.rows if row.situation == "siblings"]
    alone = {row.contender: row.more for row in earnings.rows if row.situation == "one"}
    return " ".join(_sentence(row, alone[row.contender]) for row in reversed(side_by_side))


def _sentence(row: Earning, alone: Interval) -> str:
    return (
        f"{row.contender} {_verdict(row.more)}: {_with_interval(row.more)} sats of profit a run beside "
        f"siblings that bid their base, ahead in {100 * row.ahead:.0f} % of {row.more.count} seeds; "
        f"{_with_interval(alone)} for one agent that begins to ask."
    )


def _with_interval(more: Interval) -> str:
    low, mean, high = (figure(value, "", sign=True) for value in (more.low, more.mean, more.high))
    return f"{mean} (95 % interval {low} to {high})"


def _verdict(more: Interval) -> str:
    if more.is_clearly_positive:
        return "pays"
    return "costs" if more.is_clearly_negative else "may pay or not"


def earnings_table(earnings: Earnings) -> Table:
    """Every situation of the demo's market, in sats of profit a run."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1))
    table.add_column("profit in sats a run", no_wrap=True)
    for header in ("static", "asking", "difference", "ahead"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in earnings.rows:
        table.add_row(
            f"{_WHO_ASKS[row.situation]}, {row.contender}",
            figure(row.static, ""),
            figure(row.asking, ""),
            Text(_difference(row.more), style=_style(row.more)),
            f"{100 * row.ahead:.0f} %",
        )
    return table


def _difference(more: Interval) -> str:
    mean = figure(more.mean, "", sign=True)
    return mean if more.count == 1 else f"{mean} ±{figure(more.high - more.mean, '')}"


def _style(more: Interval) -> str:
    if more.is_clearly_positive:
        return "green"
    return "red" if more.is_clearly_negative else ""
