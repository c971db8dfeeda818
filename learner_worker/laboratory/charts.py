"""Pictures of the findings as inline SVG: no script, no request, colours from the page's variables."""

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from learner_worker.laboratory.findings import Findings, Row
from learner_worker.laboratory.intervals import Interval, interval
from learner_worker.laboratory.trials import Population

_WIDTH: Final = 900  # in SVG units; the page scales it
_NAMES: Final = 190  # left of the plot, for the markets' names
COLOURS: Final = 8  # beyond them they repeat
_RIGHT: Final = 30  # of the plot, for half of the last tick's text
_ROW_HEIGHT: Final = 9  # between two contenders of one market
_GAP: Final = 10  # between two markets
_TICKS: Final = 8  # about so many on an axis
_CURVE_HEIGHT: Final = 260  # two curves fit on a screen
_CLIPPED: Final = 0.03  # the share of ends of wide intervals that may leave the picture


class Scale:
    """From figures to places along a line."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.step = _round_step((high - low) / _TICKS)
        self.low = math.floor(low / self.step) * self.step
        self.high = math.ceil(high / self.step) * self.step
        self._start, self._end = start, end

    def at(self, value: float) -> float:
        """Where a figure is, at the edge if beyond it."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self._start + share * (self._end - self._start), 1)

    def ticks(self) -> Iterator[tuple[float, str]]:
        """Round figures, with their text."""
        digits = max(0, -math.floor(math.log10(self.step)))
        for number in range(round((self.high - self.low) / self.step) + 1):
            value = self.low + number * self.step
            yield value, f"{value:.{digits}f}"


def _round_step(about: float) -> float:
    about = max(about, 1e-6)
    power = 10.0 ** math.floor(math.log10(about))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= about)


def forest(findings: Findings, population: Population) -> str:
    """Every market's gains with their intervals, a line a contender; right of the line is better."""
    groups = [(market, _rows(findings, market, population)) for market in findings.markets]
    groups = [(market, rows) for market, rows in groups if rows]
    height = 40 + sum(len(rows) * _ROW_HEIGHT + _GAP for _, rows in groups)
    scale = Scale(*_span([row.gain for _, rows in groups for row in rows]), _NAMES + 10, _WIDTH - _RIGHT)
    parts = [*_grid(scale, height)]
    top = 30
    for market, rows in groups:
        middle = top + len(rows) * _ROW_HEIGHT / 2 + 1
        parts.append(f'<text class="name" x="{_NAMES}" y="{middle:.1f}">{escape(market)}</text>')
        for slot, row in enumerate(rows):
            parts.append(
                _line(row, findings.contenders.index(row.contender), scale, top + slot * _ROW_HEIGHT)
            )
        top += len(rows) * _ROW_HEIGHT + _GAP
    return _svg(height, f"Gains by market, population {population}", parts)


def _rows(findings: Findings, market: str, population: Population) -> list[Row]:
    rows = (findings.row(market, population, label) for label in findings.contenders)
    return [row for row in rows if row is not None]


def _span(gains: Sequence[Interval]) -> tuple[float, float]:
    """From the lowest to the highest mean and most of the intervals' ends; 0 is always in."""
    ends = sorted(end for gain in gains for end in (gain.low, gain.high))
    left_out = int(len(ends) * _CLIPPED)
    seen = [0.0, ends[left_out], ends[-1 - left_out], *(gain.mean for gain in gains)]
    return (min(seen), max(seen)) if min(seen) < max(seen) else (-1.0, 1.0)


def _grid(scale: Scale, height: float) -> Iterator[str]:
    for value, text in scale.ticks():
        x = scale.at(value)
        kind = "zero" if abs(value) < scale.step / 2 else "grid"
        yield f'<line class="{kind}" x1="{x}" x2="{x}" y1="22" y2="{height - 6:.0f}"/>'
        yield f'<text class="tick" x="{x}" y="14">{text}</text>'


def _line(row: Row, colour: int, scale: Scale, top: float) -> str:
    y = top + _ROW_HEIGHT / 2
    low, mean, high = (scale.at(value) for value in (row.gain.low, row.gain.mean, row.gain.high))
    title = f"{row.contender}, {row.market}: {row.gain.mean:+.2f} [{row.gain.low:+.2f}, {row.gain.high:+.2f}]"
    return (
        f'<g class="c{colour % COLOURS}"><title>{escape(title)}</title>'
        f'<line x1="{low}" x2="{high}" y1="{y}" y2="{y}"/><circle cx="{mean}" cy="{y}" r="3.2"/></g>'
    )


def curves(findings: Findings, population: Population) -> str:
    """The gain in each tenth of a run, the mean of all markets; bars are the interval over markets."""
    lines = [
        (colour, points)
        for colour, label in enumerate(findings.contenders)
        if (points := _mean_curve(findings, population, label))
    ]
    values = [end for _, points in lines for point in points for end in (point.low, point.high)]
    if not values:
        return ""
    across = Scale(0, 100, _NAMES, _WIDTH - _RIGHT)
    up = Scale(min(0.0, *values), max(0.0, *values), _CURVE_HEIGHT - 30, 15)
    parts = [*_frame(across, up)]
    for place, (colour, points) in enumerate(lines):
        shift = 3 * (place - len(lines) / 2)
        xs = [across.at((number + 0.5) * 100 / len(points)) + shift for number in range(len(points))]
        ys = [up.at(point.mean) for point in points]
        drawn = " ".join(f"{x:.1f},{y}" for x, y in zip(xs, ys, strict=True))
        bars = "".join(
            f'<line class="bar" x1="{x:.1f}" x2="{x:.1f}" y1="{up.at(point.low)}" y2="{up.at(point.high)}"/>'
            for x, point in zip(xs, points, strict=True)
        )
        dots = "".join(f'<circle cx="{x:.1f}" cy="{y}" r="2.8"/>' for x, y in zip(xs, ys, strict=True))
        parts.append(f'<g class="c{colour % COLOURS}"><polyline points="{drawn}"/>{bars}{dots}</g>')
    return _svg(_CURVE_HEIGHT, f"Learning curve, population {population}", parts)


def _mean_curve(findings: Findings, population: Population, label: str) -> list[Interval]:
    """One market alone has its own intervals."""
    rows = [row for market in findings.markets if (row := findings.row(market, population, label))]
    if len(rows) == 1:
        return list(rows[0].curve)
    return [
        interval([point.mean for point in tenth]) for tenth in zip(*(row.curve for row in rows), strict=True)
    ]


def _frame(across: Scale, up: Scale) -> Iterator[str]:
    for value, text in up.ticks():
        y = up.at(value)
        kind = "zero" if abs(value) < up.step / 2 else "grid"
        yield f'<line class="{kind}" x1="{_NAMES}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>'
        yield f'<text class="name" x="{_NAMES - 8}" y="{y + 4}">{text}</text>'
    for value, text in across.ticks():
        yield f'<text class="tick" x="{across.at(value)}" y="{_CURVE_HEIGHT - 10}">{text} %</text>'


def _svg(height: float, label: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{escape(label)}">'
        + "".join(parts)
        + "</svg>"
    )
