"""The table of a run: on the terminal, and in the page that tells readers."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.programs.interop.judging import Row

COLUMNS = (
    "client",
    "version",
    "what it asked",
    "right answers",
    "errors seen as the client shows them",
    "ok",
)
BEGIN = "<!-- written by `make interop ARGS=--write` -->"
END = "<!-- end -->"


def show(rows: Sequence[Row], console: Console) -> None:
    """Prints the table, and below it every problem in full."""
    table = Table(*COLUMNS, show_lines=True)
    for row in rows:
        table.add_row(*map(escape, _cells(row)))
    console.print(table)
    for row in rows:
        for problem in row.problems:
            console.print(f"{row.client}: {problem}", markup=False, highlight=False)


def write(rows: Sequence[Row], page: Path) -> None:
    """Puts the table between the page's two marks."""
    lines = [_line(COLUMNS), _line("---" for _ in COLUMNS), *(_line(_cells(row)) for row in rows)]
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    page.write_text(before + "\n".join([BEGIN, "", *lines, "", END]) + after, encoding="utf-8")


def _cells(row: Row) -> tuple[str, ...]:
    return row.client, row.version, row.asked, row.right, row.errors, "yes" if row.is_ok else "NO"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("<", "\\<") for cell in cells) + " |"
