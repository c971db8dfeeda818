"""The league and the regret ledger on a terminal."""

from collections.abc import Iterator, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from learner_worker.laboratory.intervals import Interval, share_with_reach, with_reach
from learner_worker.laboratory.league import ArmDifference, League, Standing, WouldHave
from learner_worker.laboratory.regret import Regret


def league_tables(league: League) -> Iterator[Table]:
    """All tables, one after the other."""
    yield _standings(league.standings)
    if league.differences:
        yield _differences(league.differences)
    if any(standing.others for standing in league.standings):
        yield _would_have(league.standings)


def _table(title: str, names: Sequence[str], columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in names:
        table.add_column(name, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _standings(standings: Sequence[Standing]) -> Table:
    columns = ("advised", "ended", "bid", "followed", "won", "done", "failed", "sats", "sats a task")
    table = _table("What was advised, and what came of it", ("experiment", "strategy"), columns)
    for one in standings:
        counts = (
            one.advised,
            one.ended,
            one.bid,
            one.followed,
            one.won,
            one.done,
            one.failed,
            one.earned_sats,
        )
        table.add_row(
            one.experiment or "-", one.strategy, *(f"{count:,}" for count in counts), with_reach(one.per_task)
        )
    return table


def _differences(differences: Sequence[ArmDifference]) -> Table:
    table = _table(
        "Arms compared: difference in sats a task, 95 % interval; not the effect of a full switch",
        ("experiment", "arm"),
        ("tasks", "beside", "tasks ", "difference"),
    )
    for one in differences:
        table.add_row(
            one.experiment,
            one.arm,
            f"{one.tasks[0]:,}",
            one.baseline,
            f"{one.tasks[1]:,}",
            Text(with_reach(one.difference, sign="+"), style=_style(one.difference)),
        )
    return table


def _would_have(standings: Sequence[Standing]) -> Table:
    columns = ("auctions", "decided", "was won", "would have won", "sats at least", "at most")
    table = _table("What other strategies would have won on these tasks", ("advised by", "instead"), columns)
    for standing in standings:
        for other in standing.others:
            table.add_row(_called(standing), other.strategy, *_cells(other))
    return table


def _called(standing: Standing) -> str:
    return standing.strategy if standing.experiment is None else f"{standing.experiment}: {standing.strategy}"


def _cells(other: WouldHave) -> tuple[str, ...]:
    return (
        f"{other.auctions:,}",
        f"{100 * other.decided / other.auctions:.0f} %",
        share_with_reach(other.was_won),
        share_with_reach(other.won),
        f"{other.at_least:,}",
        f"{other.at_most:,}",
    )


def regret_table(title: str, ledger: Sequence[Regret]) -> Table:
    """Rows of the ledger."""
    columns = ("auctions", "won", "left on the table", "lost above the base", "by sats")
    table = _table(title, ("agent", "strategy", "kind"), columns)
    for row in ledger:
        counts = (row.auctions, row.won, row.left_sats, row.missed, row.missed_sats)
        table.add_row(
            row.agent_id or "all", row.strategy, row.kind or "all", *(f"{count:,}" for count in counts)
        )
    return table


def _style(value: Interval) -> str:
    if value.is_clearly_positive:
        return "green"
    return "red" if value.is_clearly_negative else ""
