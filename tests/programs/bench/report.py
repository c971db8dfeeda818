"""The figures as a table for a terminal and as JSON for a file."""

import json
import os
import platform
import sysconfig
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from tests.programs.bench.figures import RAW, Figure
from tests.programs.bench.readings import Reading

_COLUMNS = ("section", "figure", "worker", "beside", "what is beside", "ratio", "goal (stretch)", "verdict")


BEGIN = "<!-- written by `make bench ARGS=--write` -->"
END = "<!-- end -->"


def write_page(page: Path, figures: Sequence[Figure], title: str) -> None:
    """Puts the figures between the page's two marks."""
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    lines = [f"{title}.", "", *header_of(figures), "", *_markdown(figures), "", "Measured with:", ""]
    lines += [f"- {line}" for line in details_of(figures)]
    page.write_text(before + "\n".join([BEGIN, "", *lines, "", END]) + after, encoding="utf-8")


def _markdown(figures: Sequence[Figure]) -> Iterator[str]:
    yield _line(_COLUMNS)
    yield _line("---" for _ in _COLUMNS)
    for figure in figures:
        yield _line(_cells(figure))


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _cells(figure: Figure) -> tuple[str, ...]:
    return (
        figure.section,
        figure.name,
        quantity(figure.ours, figure.unit),
        quantity(figure.beside, figure.unit),
        "\n".join(filter(None, (figure.beside_name, figure.failure))),
        ratio_text(figure.ratio),
        "" if figure.goal is None else str(figure.goal),
        figure.verdict,
    )


def table_of(figures: Sequence[Figure], title: str) -> Table:
    """The figures, for a terminal: medians, with the spread of the turns."""
    table = Table(*_COLUMNS, title=title)
    section = ""
    for figure in figures:
        if section and figure.section != section:
            table.add_section()
        _, *cells = map(escape, _cells(figure))
        table.add_row("" if figure.section == section else figure.section, *cells)
        section = figure.section
    return table


def details_of(figures: Sequence[Figure]) -> list[str]:
    """With what each section was measured, and what is worth knowing besides: one line a section or note."""
    lines: list[str] = []
    for figure in figures:
        sizes = ", ".join(f"{name.replace('_', ' ')} {size:,.10g}" for name, size in figure.sizes.items())
        for text in (sizes, *figure.notes):
            line = f"{figure.section}: {text}"
            if text and line not in lines:
                lines.append(line)
    return lines


def quantity(reading: Reading | None, unit: str) -> str:
    """A median with its spread and unit."""
    if reading is None:
        return "-"
    spread = f" ±{reading.spread:.0%}" if len(reading.samples) > 1 else ""
    return f"{number(reading.median)} {unit}{spread}"


def number(value: float) -> str:
    """Three digits are more than a noisy machine gives."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def ratio_text(ratio: Reading | None) -> str:
    """A ratio's median and range."""
    if ratio is None:
        return ""
    if len(ratio.samples) == 1:
        return number(ratio.median)
    return f"{number(ratio.median)} ({number(ratio.low)} to {number(ratio.high)})"


def header_of(figures: Sequence[Figure]) -> list[str]:
    """On which Python everything ran, and how fast the floors were on it: one line each."""
    rates = {
        figure.beside_name.removeprefix(RAW): quantity(figure.beside, figure.unit)
        for figure in figures
        if figure.is_rate_of_floor
    }
    floors = [f"{name} {rate}" for name, rate in rates.items()]
    lines = [f"Worker, floors and clients ran on {interpreter()}."]
    return [*lines, f"The floors on it: {'; '.join(floors)}."] if floors else lines


def interpreter() -> str:
    """This Python and how it was built: the same code may take a fifth longer on another."""
    arguments = str(sysconfig.get_config_var("CONFIG_ARGS") or "")
    options = {"PGO": "--enable-optimizations", "LTO": "--with-lto"}
    built = [f"{'with' if flag in arguments else 'without'} {name}" for name, flag in options.items()]
    flags = [flag for flag in str(sysconfig.get_config_var("PY_CFLAGS") or "").split() if flag[:2] == "-O"]
    library = "shared" if sysconfig.get_config_var("Py_ENABLE_SHARED") else "static"
    name, version = platform.python_implementation(), platform.python_version()
    how = ", ".join([platform.python_compiler(), *flags, *built, f"{library} libpython"])
    return f"{name} {version} ({how})"


def machine() -> dict[str, Any]:
    """What it was measured on."""
    return {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "system": platform.system(),
        "python": interpreter(),
    }


def write_json(
    path: Path, figures: Sequence[Figure], *, broker: str, turns: int, scale: float, seconds: float
) -> None:
    """Everything, for a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "broker": broker,
        "turns": turns,
        "scale": scale,
        "seconds": round(seconds),
        "machine": machine(),
        "figures": [figure.as_json() for figure in figures],
    }
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
