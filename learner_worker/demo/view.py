"""Shows the run: a live table on a terminal, plain lines elsewhere."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from learner_worker.contract.fields import AgentId
from learner_worker.contract.suggestions import Adjustment, SuggestBidReply
from learner_worker.demo.auctions import Award, DemoAuction
from learner_worker.demo.comparison import FigureDifference, Figures, FinishedAuction, figures
from learner_worker.demo.personas import ASKING, PERSONAS, WAYS, Persona, Way, way_of

LINES_OF_PROGRESS = 12  # a run without a terminal fits on a screen
ROOM_FOR_REASONS = 116  # columns: what the table takes with its last column
_INITIALS: Mapping[Way, str] = {"static": "stat.", "classic": "class.", "expected-profit": "exp."}


@dataclass(frozen=True, slots=True)
class Scene:
    """The market after an auction."""

    number: int
    total: int
    auction: DemoAuction
    award: Award
    finished: Sequence[FinishedAuction]
    advice: Mapping[AgentId, SuggestBidReply]

    def figures(self, belongs: Callable[[AgentId], bool]) -> Figures:
        """The figures of some agents so far."""
        return figures(self.finished, belongs)


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
    profits = ", ".join(f"{way} {figure(_group(scene, way).profit_sats, '')}" for way in WAYS)
    width = len(str(scene.total))
    return f"auction {scene.number:{width}}/{scene.total}  profit so far: {profits}"


def _group(scene: Scene, way: Way) -> Figures:
    return scene.figures(lambda agent_id: way_of(agent_id) == way)


def _drawn(scene: Scene, *, roomy: bool) -> Group:
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False, padding=(0, 0, 0, 1))
    table.add_column("profit of", no_wrap=True)
    for way in WAYS:
        table.add_column(_INITIALS[way], justify="right", no_wrap=True)
    for way in WAYS:
        table.add_column(_INITIALS[way] if way != WAYS[0] else "won", justify="right", no_wrap=True)
    table.add_column("advice, and why", no_wrap=True, overflow="ellipsis", ratio=1)
    for persona in PERSONAS:
        own = [scene.figures(persona.sibling(way).__eq__) for way in WAYS]
        table.add_row(persona.name, *_cells(own), _reasons(scene, persona, roomy=roomy))
    table.add_section()
    table.add_row("all", *_cells([_group(scene, way) for way in WAYS]), "")
    return Group(
        _headline(scene), ProgressBar(total=scene.total, completed=scene.number, complete_style="cyan"), table
    )


def _cells(groups: Sequence[Figures]) -> list[str]:
    return [
        *(figure(group.profit_sats, "") for group in groups),
        *(str(group.auctions_won) for group in groups),
    ]


def _headline(scene: Scene) -> Text:
    style = "bold cyan" if way_of(scene.award.agent_id) in ASKING else "bold"
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


def _reasons(scene: Scene, persona: Persona, *, roomy: bool) -> Text:
    """A line for each sibling that asks."""
    return Text("\n").join(_why(scene.advice.get(persona.sibling(way)), roomy=roomy) for way in ASKING)


def _why(advice: SuggestBidReply | None, *, roomy: bool) -> Text:
    """The factor and every rule that applied; with its multiplier where there is room."""
    if advice is None:
        return Text("has not asked yet", style="dim")
    steps = " · ".join(_step(step, roomy=roomy) for step in advice.adjustments)
    return Text.assemble(
        (f"x{advice.factor:.2f} ", _factor_style(advice.factor)), steps or "nothing to change so far"
    )


def _factor_style(factor: float) -> str:
    if factor == 1:
        return ""
    return "yellow" if factor > 1 else "green"


def _step(step: Adjustment, *, roomy: bool) -> str:
    """The advice part of a reason, for example `be more competitive`."""
    gist = step.reason.rpartition(": ")[2]
    return f"x{step.multiplier:.2f} {gist}" if roomy else gist


def comparison_table(comparisons: Mapping[Way, Sequence[FigureDifference]]) -> Table:
    """The figures of the static siblings, and of each group that asks beside them."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1))
    table.add_column("", no_wrap=True)
    table.add_column("static", justify="right", no_wrap=True)
    for way in comparisons:
        for header in (way, "diff", "chance"):
            table.add_column(header, justify="right", no_wrap=True)
    for lines in zip(*comparisons.values(), strict=True):
        table.add_row(
            lines[0].name,
            figure(lines[0].static, lines[0].unit),
            *(cell for line in lines for cell in _difference(line)),
        )
    return table


def _difference(line: FigureDifference) -> tuple[str, Text, str]:
    difference = Text(figure(line.difference, "", sign=True), style="bold" if line.beyond_chance else "")
    chance = "-" if line.by_chance == float("inf") else f"±{figure(line.by_chance, '')}"
    return figure(line.asking, line.unit), difference, chance


def figure(value: float, unit: str, *, sign: bool = False) -> str:
    """A number for people: whole, with thousands separators and its unit."""
    text = f"{round(value):+,}" if sign else f"{round(value):,}"
    return f"{text.replace(',', ' ')}{' ' if unit else ''}{unit}"
