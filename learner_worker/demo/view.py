"""Shows the run: a live table on a terminal, plain lines elsewhere."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from learner_worker.contract.suggestions import Adjustment, SuggestBidReply
from learner_worker.demo.auctions import Award, DemoAuction
from learner_worker.demo.comparison import NOTHING, FigureDifference, Figures
from learner_worker.demo.personas import Persona, asks
from learner_worker.demo.verdict import figure

LINES_OF_PROGRESS = 12  # a run without a terminal fits on a screen
ROOM_FOR_REASONS = 116  # columns: what the table takes with its last column
WORDS_SHOWN = 2  # of the best and of the worst: the line fits the table


@dataclass(frozen=True, slots=True)
class Standing:
    """The figures of a persona's twins, and the last advice to the asking one."""

    persona: Persona
    asking: Figures
    static: Figures
    advice: SuggestBidReply | None


@dataclass(frozen=True, slots=True)
class Scene:
    """The market after an auction."""

    number: int
    total: int
    auction: DemoAuction
    award: Award
    standings: Sequence[Standing]


class View(Protocol):
    """Shows the market while it runs."""

    def show(self, scene: Scene) -> None:
        """Shows the state after an auction."""


class LiveView:
    """A table redrawn in place."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def show(self, scene: Scene) -> None:
        """Redraw."""
        self._live.update(_drawn(scene, roomy=self._live.console.width >= ROOM_FOR_REASONS), refresh=True)


class PlainView:
    """Prints a line every few auctions."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._every = max(1, total // LINES_OF_PROGRESS)

    def show(self, scene: Scene) -> None:
        """Print a line if it is time."""
        if scene.number % self._every == 0 or scene.number == scene.total:
            self._console.print(_line(scene), soft_wrap=True, highlight=False, markup=False)


@contextmanager
def opened_view(console: Console, total: int) -> Iterator[View]:
    """The view that suits the console."""
    if not console.is_terminal:
        yield PlainView(console, total)
        return
    with Live(console=console, auto_refresh=False) as live:
        yield LiveView(live)


def _line(scene: Scene) -> str:
    asking = sum(standing.asking.auctions_won for standing in scene.standings)
    static = sum(standing.static.auctions_won for standing in scene.standings)
    factors = "  ".join(f"{standing.persona.name} {_factor(standing)}" for standing in scene.standings)
    width = len(str(scene.total))
    return (
        f"auction {scene.number:{width}}/{scene.total}  "
        f"won: asking {asking:{width}}, static {static:{width}}  factors: {factors}"
    )


def _drawn(scene: Scene, *, roomy: bool) -> Group:
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False, padding=0)
    table.add_column("agent", no_wrap=True, min_width=12)
    table.add_column("won", justify="right", no_wrap=True)
    table.add_column("success", justify="right", no_wrap=True)
    table.add_column("earned", justify="right", no_wrap=True)
    table.add_column("factor", justify="right", no_wrap=True)
    table.add_column("why, and words it has learned", no_wrap=True, overflow="ellipsis", ratio=1)
    for standing in scene.standings:
        table.add_row(
            _pair(Text(standing.persona.asking, style="bold cyan"), standing.persona.static),
            *_both(standing.asking, standing.static),
            _pair(Text(_factor(standing), style=_factor_style(standing)), "x1.00"),
            Text("\n").join([_why(standing.advice, roomy=roomy), _words(standing.advice)]),
        )
    asking = sum((standing.asking for standing in scene.standings), NOTHING)
    static = sum((standing.static for standing in scene.standings), NOTHING)
    table.add_section()
    table.add_row(_pair(Text("all asking", style="bold cyan"), "all static"), *_both(asking, static))
    return Group(
        _headline(scene), ProgressBar(total=scene.total, completed=scene.number, complete_style="cyan"), table
    )


def _both(asking: Figures, static: Figures) -> tuple[Text, Text, Text]:
    """Won, success and earned."""
    return (
        _pair(Text(str(asking.auctions_won)), str(static.auctions_won)),
        _pair(Text(_success(asking)), _success(static)),
        _pair(Text(figure(asking.sats_earned, "")), figure(static.sats_earned, "")),
    )


def _pair(asking: Text, static: str) -> Text:
    return Text("\n").join([asking, Text(static, style="dim")])


def _headline(scene: Scene) -> Text:
    style = "bold cyan" if asks(scene.award.agent_id) else "bold"
    return Text.assemble(
        f"auction {scene.number} of {scene.total}  ",
        (f"“{scene.auction.description}”", "italic"),
        "  ",
        (scene.award.agent_id, style),
        f" wins with {scene.award.bid_sats} sats ",
        ("and delivers", "green") if scene.award.succeeded else ("and fails", "red"),
        no_wrap=True,
        overflow="ellipsis",
    )


def _success(figures: Figures) -> str:
    return figure(100 * figures.success_rate, "%") if figures.auctions_won else "-"


def _factor(standing: Standing) -> str:
    return f"x{standing.advice.factor:.2f}" if standing.advice else "-"


def _factor_style(standing: Standing) -> str:
    if standing.advice is None or standing.advice.factor == 1:
        return ""
    return "yellow" if standing.advice.factor > 1 else "green"


def _why(advice: SuggestBidReply | None, *, roomy: bool) -> Text:
    """Every rule that applied; with its multiplier where there is room."""
    if advice is None:
        return Text("has not asked yet", style="dim")
    if not advice.adjustments:
        return Text("nothing to change so far", style="dim")
    return Text(" · ".join(_step(step, roomy=roomy) for step in advice.adjustments))


def _step(step: Adjustment, *, roomy: bool) -> str:
    """The advice part of a reason, for example `be more competitive`."""
    gist = step.reason.rpartition(": ")[2]
    return f"x{step.multiplier:.2f} {gist}" if roomy else gist


def _words(advice: SuggestBidReply | None) -> Text:
    """The agent's best keywords, then its worst."""
    if advice is None or not advice.learned_keywords:
        return Text("no words yet", style="dim")
    best = [word for word in advice.learned_keywords if word.net > 0][:WORDS_SHOWN]
    worst = [word for word in advice.learned_keywords if word.net < 0][-WORDS_SHOWN:]
    return Text(" ").join(
        Text(f"{word.keyword} {word.net:+d}", style="green" if word.net > 0 else "red")
        for word in [*best, *worst]
    )


def comparison_table(
    whole: Sequence[FigureDifference],
    first_half: Sequence[FigureDifference],
    second_half: Sequence[FigureDifference],
) -> Table:
    """The figures of both groups, over the whole run and in its halves."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1))
    table.add_column("", no_wrap=True)
    for header in ("asking", "static", "diff", "chance", "1st half", "2nd half"):
        table.add_column(header, justify="right", no_wrap=True)
    for line, first, second in zip(whole, first_half, second_half, strict=True):
        table.add_row(
            line.name,
            figure(line.asking, line.unit),
            figure(line.static, line.unit),
            Text(figure(line.difference, "", sign=True), style=_difference_style(line)),
            _chance(line),
            f"{figure(first.asking, '')} : {figure(first.static, '')}",
            f"{figure(second.asking, '')} : {figure(second.static, '')}",
        )
    return table


def _chance(line: FigureDifference) -> str:
    return "-" if line.by_chance == float("inf") else f"±{figure(line.by_chance, '')}"


def _difference_style(line: FigureDifference) -> str:
    if not line.difference or not line.beyond_chance:
        return ""
    return "green" if line.helped else "red"
