"""The figures as a picture: how far each came on its way to the goal, one bar a figure."""

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from tests.programs.bench.figures import Figure
from tests.programs.bench.report import number

_WIDTH = 1_040
_ROW = 30
_TOP = 64
_LEFT = 430
_UNIT = 200
"""The goal's distance from the left edge of the bars."""
_MOST = 2.0
"""Longer bars are cut off: twice the goal is enough to be seen."""
_COLOURS = {"stretch": "#1a7f37", "met": "#4ac26b", "missed": "#cf222e"}


def write_picture(path: Path, figures: Sequence[Figure], title: str) -> None:
    """Writes the SVG; figures without a goal or a reading are left out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(picture_of(figures, title), encoding="utf-8")


def picture_of(figures: Sequence[Figure], title: str) -> str:
    """The SVG's text."""
    shown = [figure for figure in figures if figure.goal is not None and figure.judged is not None]
    height = _TOP + _ROW * len(shown) + 16
    space = f'width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}"'
    goal = f'x1="{_LEFT + _UNIT}" x2="{_LEFT + _UNIT}" y1="{_TOP - 4}" y2="{height - 10}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {space} font-family="system-ui" font-size="13">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="16" y="26" font-size="16" fill="#1f2328">{escape(title)}</text>',
        f'<text x="{_LEFT + _UNIT}" y="{_TOP - 10}" text-anchor="middle" fill="#59636e">goal</text>',
        *(line for place, figure in enumerate(shown) for line in _bar(figure, _TOP + place * _ROW)),
        f'<line {goal} stroke="#1f2328" stroke-dasharray="4 3"/>',
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _bar(figure: Figure, top: int) -> Iterator[str]:
    assert figure.goal is not None
    assert figure.judged is not None
    value = figure.judged.median
    width = round(min(_MOST, figure.goal.progress(value)) * _UNIT)
    colour = _COLOURS[figure.verdict]
    unit = "" if figure.beside is not None else f" {figure.unit}"
    label = f"{number(value)}{unit} (goal {figure.goal})"
    middle = top + _ROW // 2 + 3
    name = escape(_short(f"{figure.section}: {figure.name}"))
    yield f'<text x="{_LEFT - 10}" y="{middle}" text-anchor="end" fill="#1f2328">{name}</text>'
    yield f'<rect x="{_LEFT}" y="{top + 4}" width="{width}" height="{_ROW - 10}" fill="{colour}"/>'
    label_at = _LEFT + max(width, _UNIT) + 8
    yield f'<text x="{label_at}" y="{middle}" fill="#59636e">{escape(label)}</text>'


def _short(text: str) -> str:
    longest = 58
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
