"""Prints the demo's text, from the introduction to the result."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from learner_worker.contract.fields import AgentId
from learner_worker.demo.cluster import DemoCluster
from learner_worker.demo.comparison import compare, finished_auctions
from learner_worker.demo.earnings import Earnings, Simulation
from learner_worker.demo.headline import earnings_table, headline
from learner_worker.demo.market import Market
from learner_worker.demo.personas import ASKING, PERSONAS, WAYS, Way, way_of
from learner_worker.demo.processes import ServiceProcess
from learner_worker.demo.view import comparison_table
from learner_worker.errors import LearnerError
from learner_worker.laboratory.tables import tables


class Story:
    """Prints what happens."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._begun = time.monotonic()

    def tell(self, sentence: str) -> None:
        """Prints a step."""
        self._print(sentence, style="dim")

    def title(self) -> None:
        """Prints the title."""
        self._print("learner-worker demo: does it pay to ask?", style="bold")

    def failure(self, error: LearnerError) -> None:
        """Prints a failure."""
        self._print(f"The demo failed. {error}", style="red")

    def opening(
        self, seed: int, auctions: int, cluster: DemoCluster, replicas: Sequence[ServiceProcess]
    ) -> None:
        """Prints the introduction: agents, broker and rules."""
        self._print(
            f"{len(replicas)} workers share {cluster.partitions} shards on {cluster.broker.description}; "
            f"ready after {self._seconds()}."
        )
        self._print()
        self._print(
            "Six personas bid for work in reverse auctions, the lowest bid wins: "
            + ", ".join(f"{persona.name} {persona.trade}" for persona in PERSONAS)
            + "."
        )
        self._print(
            "Each exists three times, with the same base bids, costs, skill and luck: -static keeps its base "
            "bid, -classic and -expected-profit ask the learner over Kafka before they bid; the last one "
            "tells what the effort costs it. A failed task pays nothing, but costs its effort."
        )
        self._print(f"{auctions} auctions, seed {seed}.")
        self._print()

    def answers(self, market: Market) -> None:
        """Prints how well the learner answered."""
        asked = len(market.answer_seconds) + len(market.unanswered)
        times = sorted(market.answer_seconds) or [0.0]
        self._print(
            f"The learner answered {len(market.answer_seconds)} of {asked} questions, half of them within "
            f"{1000 * statistics.median(times):.0f} ms, the slowest after {1000 * times[-1]:.0f} ms."
        )
        for reason in market.unanswered[:3]:
            self._print(f"Unanswered, so the agent bid its base: {reason}")

    def comparison(self, market: Market) -> None:
        """Prints what the live run came to, by the published events."""
        auctions = finished_auctions(market.history, market.costs_sats)
        compared = {way: compare(auctions, _by(way), _by("static")) for way in ASKING}
        agents = len(WAYS) * len(PERSONAS)
        self._print(f"Its own count of all {agents} agents agrees with the published events.")
        self._print()
        self._print("This one run, from the published events:", style="bold")
        self.console.print(comparison_table(compared))
        self._print(
            "(chance: how far luck alone brings two groups apart in 19 of 20 runs; bold: beyond it)",
            style="dim",
        )
        self._print()

    @contextmanager
    def while_simulating(self, simulation: Simulation) -> Iterator[Callable[[], None]]:
        """Shows how far the simulation is; what it gives is called from time to time."""
        if not self.console.is_terminal:
            self._print("simulating more such runs, and the laboratory's other markets", style="dim")
            yield _nothing
            return
        columns = (TextColumn("simulating"), BarColumn(), TextColumn("{task.completed}/{task.total} runs"))
        with Progress(*columns, console=self.console, transient=True) as progress:
            bar = progress.add_task("runs", total=simulation.runs)
            yield lambda: progress.update(bar, completed=simulation.finished)

    def earnings(self, earnings: Earnings, written: Path | None) -> None:
        """Prints what asking earns over many seeds, here and in the laboratory's other markets."""
        self.console.print(*tables(earnings.others))
        self._print(
            f"The laboratory's other markets, {earnings.others.seeds} seeds each: gain in sats of profit per "
            "100 sats of base bid. Green and red: beyond chance. * may be looked at while a strategy is "
            "made. The demo's market is one of them; nothing was tuned to it.",
            style="dim",
        )
        self._print()
        self._print(
            f"What asking earns in the demo's market, simulated over {earnings.own.seeds} seeds:",
            style="bold",
        )
        self.console.print(earnings_table(earnings))
        self._print(headline(earnings), style="bold")
        if written is not None:
            self._print(f"All figures, with charts: {written.resolve().as_uri()}")
        self._print()

    def nothing_left(self, cluster: DemoCluster, *, keep: bool) -> None:
        """Prints the end and the next steps."""
        folder = f"kept in {cluster.folder}" if keep else "removed"
        self._print(
            f"Both workers stopped in order, nothing is left running; the demo's files are {folder}. "
            f"It took {self._seconds()}."
        )
        self._print("Every seed is another story, try: learner-worker demo --seed 2")

    def _seconds(self) -> str:
        return f"{time.monotonic() - self._begun:.0f} s"

    def _print(self, text: str = "", *, style: str | None = None) -> None:
        """Wraps text for a terminal; elsewhere prints one sentence per line."""
        whole = not self.console.is_terminal
        self.console.print(text, style=style, markup=False, highlight=False, soft_wrap=whole)


def _by(way: Way) -> Callable[[AgentId], bool]:
    return lambda agent_id: way_of(agent_id) == way


def _nothing() -> None:
    """Without a terminal there is nothing to redraw."""
