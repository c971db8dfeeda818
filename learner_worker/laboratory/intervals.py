"""Means with 95 % intervals, from paired differences: a run with a strategy minus the same run without it."""

import math
import statistics
from collections.abc import Sequence
from typing import Final

import msgspec

_T_QUANTILES: Final = (math.inf, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Student's t, 97.5 %, for 0 to 10 degrees of freedom; beyond, an expansion is exact to three digits."""
_NORMAL: Final = statistics.NormalDist().inv_cdf(0.975)  # the two-sided 95 % quantile


class Interval(msgspec.Struct, frozen=True):
    """A mean and its 95 % interval over `count` runs; `low` and `high` are the mean's for one run alone."""

    mean: float
    low: float
    high: float
    count: int

    @property
    def is_clearly_positive(self) -> bool:
        """Whether chance alone hardly explains that it is above 0."""
        return self.count > 1 and self.low > 0

    @property
    def is_clearly_negative(self) -> bool:
        """Whether chance alone hardly explains that it is below 0."""
        return self.count > 1 and self.high < 0


def interval(values: Sequence[float]) -> Interval:
    """The mean of some values (at least one) and how sure it is."""
    count, mean = len(values), statistics.fmean(values)
    if count == 1:
        return Interval(mean, mean, mean, 1)
    reach = t_quantile(count - 1) * statistics.stdev(values, mean) / math.sqrt(count)
    return Interval(mean, mean - reach, mean + reach, count)


def welch_interval(values: Sequence[float], against: Sequence[float]) -> Interval:
    """The difference of two means (at least two values each) by Welch's t, for groups of unequal spread."""
    parts = [statistics.variance(group) / len(group) for group in (values, against)]
    spread = sum(parts)
    difference = statistics.fmean(values) - statistics.fmean(against)
    count = len(values) + len(against)
    if spread == 0:
        return Interval(difference, difference, difference, count)
    squares = sum(part**2 / (len(group) - 1) for part, group in zip(parts, (values, against), strict=True))
    reach = t_quantile(max(1, int(spread**2 / squares))) * math.sqrt(spread)
    return Interval(difference, difference - reach, difference + reach, count)


def t_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t (Cornish-Fisher expansion from 11 degrees of freedom on)."""
    if freedom < len(_T_QUANTILES):
        return _T_QUANTILES[freedom]
    z = _NORMAL
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def with_reach(value: Interval | None, *, sign: str = "") -> str:
    """A mean and the half width of its interval, as text."""
    if value is None:
        return "-"
    return f"{value.mean:{sign},.1f}" + (f" ±{value.high - value.mean:,.1f}" if value.count > 1 else "")


def share_with_reach(value: Interval | None) -> str:
    """A mean share and the half width of its interval, in percent."""
    if value is None:
        return "-"
    reach = f" ±{100 * (value.high - value.mean):.0f}" if value.count > 1 else ""
    return f"{100 * value.mean:.0f} %{reach}"


def share_won(differences: Sequence[float]) -> float:
    """In what share of the runs the difference is above 0; ties are shared."""
    return sum(0.5 if value == 0 else value > 0 for value in differences) / len(differences)
