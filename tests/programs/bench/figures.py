"""A figure: something measured, what it stands beside, and what it is to reach."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tests.programs.bench.readings import Reading, ratios

RAW = "raw: "
"""Begins the name of a floor."""


class Better(StrEnum):
    """Which way is better."""

    MORE = "at least"
    LESS = "at most"


@dataclass(frozen=True, slots=True)
class Goal:
    """What is to be reached, and what would be reason to be proud."""

    better: Better
    bound: float
    stretch: float | None = None

    def is_met(self, value: float) -> bool:
        """Whether a value is good enough."""
        return value >= self.bound if self.better is Better.MORE else value <= self.bound

    def progress(self, value: float) -> float:
        """How far a value came: 1 is the goal, more is better than it."""
        if self.better is Better.MORE:
            return value / self.bound
        return self.bound / value if value else 1.0

    def __str__(self) -> str:
        stretch = "" if self.stretch is None else f" ({self.stretch:g})"
        return f"{'>=' if self.better is Better.MORE else '<='} {self.bound:g}{stretch}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table.

    Attributes:
        name: what is measured.
        unit: of both readings.
        ours: the worker's reading.
        beside: the floor's or the peer's; None: the goal is one of the reading itself.
        beside_name: what it is.
        goal: of the ratio where there is one beside, else of the reading; None: for information.
        sizes: how much of what it was measured with.
        failure: why there is no reading.
    """

    section: str
    name: str
    unit: str
    ours: Reading | None
    beside: Reading | None = None
    beside_name: str = ""
    goal: Goal | None = None
    sizes: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()
    failure: str = ""

    @property
    def ratio(self) -> Reading | None:
        """Ours to what is beside it, turn by turn."""
        if self.ours is None or self.beside is None:
            return None
        return ratios(self.ours, self.beside)

    @property
    def is_rate_of_floor(self) -> bool:
        """Whether a floor's rate stands beside, in full swing."""
        return self.beside_name.startswith(RAW) and self.goal is not None and self.unit.endswith("s/s")

    @property
    def judged(self) -> Reading | None:
        """What the goal speaks of."""
        return self.ours if self.beside is None else self.ratio

    @property
    def verdict(self) -> str:
        """Whether the goal is met, in a word."""
        if self.goal is None:
            return ""
        if self.judged is None:
            return "no reading"
        median = self.judged.median
        if not self.goal.is_met(median):
            return "missed"
        stretch = self.goal.stretch
        return "stretch" if stretch is not None and Goal(self.goal.better, stretch).is_met(median) else "met"

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        ratio = self.ratio
        return {
            "section": self.section,
            "name": self.name,
            "unit": self.unit,
            "ours": self.ours and self.ours.as_json(),
            "beside": self.beside and self.beside.as_json(),
            "beside_name": self.beside_name,
            "ratio": ratio and ratio.as_json(),
            "goal": None if self.goal is None else str(self.goal),
            "verdict": self.verdict,
            "sizes": dict(self.sizes),
            "notes": list(self.notes),
            "failure": self.failure,
        }
