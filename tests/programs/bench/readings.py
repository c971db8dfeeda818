"""The reading of a record of samples: percentiles, medians, spreads."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


def percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that so many percent of the samples do not exceed (nearest rank).

    Raises:
        ValueError: there are no samples.
    """
    if not samples:
        raise ValueError("no samples")
    rank = max(1, math.ceil(percent / 100 * len(samples)))
    return sorted(samples)[rank - 1]


@dataclass(frozen=True, slots=True)
class Reading:
    """The same thing measured once a turn."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of the turns."""
        return statistics.median(self.samples)

    @property
    def low(self) -> float:
        """The smallest."""
        return min(self.samples)

    @property
    def high(self) -> float:
        """The largest."""
        return max(self.samples)

    @property
    def spread(self) -> float:
        """Half of the range as a share of the median: 0.1 reads "give or take a tenth"."""
        return (self.high - self.low) / 2 / self.median if self.median else 0.0

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return {"median": self.median, "low": self.low, "high": self.high, "turns": list(self.samples)}


def reading(samples: Sequence[float]) -> Reading:
    """A record of samples, one a turn."""
    return Reading(tuple(samples))


def ratios(ours: Reading, beside: Reading) -> Reading | None:
    """Turn by turn: what the machine does to both does not show. None if what is beside was never above 0."""
    pairs = zip(ours.samples, beside.samples, strict=True)
    found = tuple(mine / other for mine, other in pairs if other)
    return Reading(found) if found else None
