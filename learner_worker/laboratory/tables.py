"""The findings on a terminal: gains with intervals, the cold start and regret, what buyers see."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from rich import box
from rich.table import Table
from rich.text import Text

from learner_worker.laboratory.findings import MARKETS, Findings, Overall, Row
from learner_worker.laboratory.intervals import Interval
from learner_worker.laboratory.replay import Replayed
from learner_worker.laboratory.trials import ORACLE, Population

WHO_ASKS: Final[dict[Population, str]] = {
    "one": "One agent asks, the others bid their base",
    "all": "All agents ask",
    "twins": "One of each pair of twins asks",
    "mixed": "Some agents bid their base, some each way",
    "siblings": "Each agent exists once for each way of bidding, all in one market",
}
_FEW_MARKETS: Final = 4  # more have their rows in the JSON and HTML only
_STYLES: Final = {"better": "green", "worse": "red", "unclear": ""}
MEANING: Final = (
    "Gain: profit more than by the base bid, in sats per 100 sats of base bid of the auctions entered; mean "
    "and 95 % interval over seeds, then the share of seeds that gained. Green and red: beyond chance. "
    "* may be looked at while a strategy is made; the others are held out for the verdict."
)


def tables(findings: Findings) -> Iterator[Table]:
    """All tables, one after the other."""
    for population in findings.populations:
        yield _gains(findings, population)
    if "one" in findings.populations:
        yield _figures(findings, "One agent asks: gain in its first 20 bids", lambda row: row.cold)
        yield _figures(findings, "One agent asks: what the oracle would earn more", lambda row: row.regret)
    if "all" in findings.populations:
        yield _buyers(findings)


def _gains(findings: Findings, population: Population) -> Table:
    table = _table(WHO_ASKS[population], "gain", *_labels(findings, population))
    for market in findings.markets:
        rows = [findings.row(market, population, label) for label in _labels(findings, population)]
        known = next((row for row in rows if row is not None), None)
        if known is not None:
            table.add_row(market if known.held_out else f"{market} *", *map(_gain, rows))
    for kind in MARKETS:
        if together := findings.of(population, kind):
            table.add_section()
            table.add_row(f"mean, {kind}", *(_mean(one) for one in together), style="bold")
            table.add_row("better / worse in", *(f"{one.better} / {one.worse}" for one in together))
    return table


def _labels(findings: Findings, population: Population) -> list[str]:
    return [*findings.contenders, *([ORACLE] if population == "one" else [])]


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _gain(row: Row | None) -> Text:
    if row is None:
        return Text("-")
    return Text(f"{shown(row.gain)} {100 * row.won:3.0f} %", style=_STYLES[row.verdict])


def _mean(one: Overall) -> str:
    return f"{shown(one.gain)} {100 * one.won:3.0f} %"


def shown(value: Interval, digits: int = 2) -> str:
    """A mean with half of its interval's width."""
    if value.count == 1:
        return f"{value.mean:+.{digits}f}"
    return f"{value.mean:+.{digits}f} ±{value.high - value.mean:.{digits}f}"


def _figures(findings: Findings, title: str, figure: Callable[[Row], Interval | None]) -> Table:
    table = _table(title, "", *findings.contenders)
    for market in findings.markets:
        rows = [findings.row(market, "one", label) for label in findings.contenders]
        values = [None if row is None else figure(row) for row in rows]
        table.add_row(market, *("-" if value is None else shown(value) for value in values))
    return table


def _buyers(findings: Findings) -> Table:
    columns = ("done, static", "done", "price of a done task", "effort for it", "done tasks")
    table = _table("All agents ask: what buyers see, beside the market where nobody asks", "", *columns)
    if len(findings.markets) <= _FEW_MARKETS:
        for label in findings.contenders:
            for market in findings.markets:
                _add_seen(table, f"{label}, {market}", findings.row(market, "all", label))
    for kind in MARKETS:
        for one in findings.of("all", kind):
            _add_seen_together(table, one)
    return table


def _add_seen(table: Table, name: str, row: Row | None) -> None:
    if row is None or row.buyers is None:
        return
    seen = row.buyers
    done = f"{seen.done_share:.0f} % ({shown(seen.done_share_difference, 1)})"
    ratios = map(times, (seen.price, seen.effort, seen.tasks))
    table.add_row(name, f"{seen.done_share_static:.0f} %", done, *ratios)


def _add_seen_together(table: Table, one: Overall) -> None:
    if one.price is None or one.effort is None or one.tasks is None:
        return
    shares = (f"{one.done_share_static or 0:.0f} %", f"{one.done_share or 0:.0f} %")
    table.add_row(
        f"{one.contender}, {one.markets}", *shares, times(one.price), times(one.effort), times(one.tasks)
    )


def times(value: Interval) -> str:
    """A ratio with half of its interval's width."""
    if value.count == 1:
        return f"x{value.mean:.2f}"
    return f"x{value.mean:.2f} ±{value.high - value.mean:.2f}"


def replay_table(replayed: Sequence[Replayed]) -> Table:
    """What replaying makes of each agent, a row a strategy."""
    recorded, replayed_as = ("won", "earned"), ("would have won", "would have earned", "at least", "at most")
    table = _table("Recorded auctions, played again", "", "auctions", "decided", *recorded, *replayed_as)
    for one in replayed:
        table.add_row(
            f"{one.agent_id}, {one.strategy}",
            f"{one.auctions:,}",
            f"{100 * one.decided / one.auctions:.0f} %" if one.auctions else "-",
            f"{one.recorded_won:,}",
            f"{one.recorded_sats:,}",
            f"{one.won:,}",
            f"{one.earned.sats:,.0f}",
            f"{one.earned.at_least:,}",
            f"{one.earned.at_most:,}",
        )
    return table
