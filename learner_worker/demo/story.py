"""Prints the demo's text, from the introduction to the result."""

import statistics
import time
from collections.abc import Sequence

from rich.console import Console

from learner_worker.contract.events import Event
from learner_worker.demo.cluster import DemoCluster
from learner_worker.demo.comparison import compare, finished_auctions
from learner_worker.demo.market import Market
from learner_worker.demo.personas import PERSONAS, asks
from learner_worker.demo.processes import ReplicaProcess
from learner_worker.demo.verdict import verdict
from learner_worker.demo.view import comparison_table
from learner_worker.errors import LearnerError


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
        self, seed: int, auctions: int, cluster: DemoCluster, replicas: Sequence[ReplicaProcess]
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
            "Each exists twice, with the same base bids, skill and luck. Before it bids, one twin asks the "
            "learner, over Kafka; the -static one keeps its base bid. A failed task pays nothing."
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

    def comparison(self, history: Sequence[Event]) -> None:
        """Prints the effect of asking, by the published events."""
        auctions = finished_auctions(history)
        half = len(auctions) // 2
        whole = compare(auctions, asks)
        self._print(f"Its own count of all {2 * len(PERSONAS)} agents agrees with the published events.")
        self._print()
        self._print("What asking changed, from the published events:", style="bold")
        self.console.print(
            comparison_table(whole, compare(auctions[:half], asks), compare(auctions[half:], asks))
        )
        for sentence in verdict(whole):
            self._print(sentence, style="bold")
        self._print(
            "(chance: how far luck alone brings the groups apart in 19 of 20 runs; halves: asking : static)",
            style="dim",
        )
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
