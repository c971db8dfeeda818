"""`python -m tests.programs.bench`: every figure beside its floor or peer, as a table, JSON and a picture."""

import asyncio
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from learner_worker.brokers import running_broker
from tests.programs.bench import report
from tests.programs.bench.command import TABLE_WIDTH, begin, broker_kind, say, worker_settings
from tests.programs.bench.figures import Figure
from tests.programs.bench.picture import write_picture
from tests.programs.bench.processor import descendants
from tests.programs.bench.sections import SECTIONS
from tests.programs.bench.stage import Stage

BROKE_OFF = "broke off"
_RESULTS = Path("build/performance")
_PAGE = Path("docs/performance.md")


@click.command()
@click.option("--only", multiple=True, type=click.Choice(list(SECTIONS)), help="Just these; all by default.")
@click.option("--turns", default=5, show_default=True, type=click.IntRange(1), help="Of each side.")
@click.option(
    "--scale", default=1.0, show_default=True, type=click.FloatRange(0, min_open=True), help="Of all sizes."
)
@click.option(
    "--results",
    default=_RESULTS,
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder for figures.json and figures.svg.",
)
@click.option("--embedded", is_flag=True, help="On the embedded broker, even if Apache Kafka can be had.")
@click.option("--worker", multiple=True, help="Setting of every worker, such as strategies=classic.")
@click.option("--write", is_flag=True, help=f"Put the table into {_PAGE}, the picture beside it.")
def main(
    *,
    only: Sequence[str],
    turns: int,
    scale: float,
    results: Path,
    embedded: bool,
    worker: Sequence[str],
    write: bool,
) -> None:
    """Measure the worker, each figure beside the raw client or a peer, in alternating turns."""
    begin()
    began = time.monotonic()
    settings = worker_settings(worker)
    folder = Path(tempfile.mkdtemp(prefix="learner-performance-"))
    kind = broker_kind(embedded=embedded)
    figures: list[Figure] = []
    description = ""
    try:
        for name in only or SECTIONS:
            place = folder / name
            with running_broker(kind, data_dir=place / "broker", log=say) as broker:
                description = broker.description
                pids = descendants(os.getpid())  # nothing else runs yet
                figures += _measured(name, Stage(broker, place, turns, scale, settings, say, pids))
            shutil.rmtree(place, ignore_errors=True)
            report.write_json(  # after each: hours later something may end the run
                results / "figures.json",
                figures,
                broker=description,
                turns=turns,
                scale=scale,
                seconds=time.monotonic() - began,
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    title = ", ".join([description, f"{turns} turns", f"sizes x {scale:g}", *worker])
    _show(figures, title)
    seconds = time.monotonic() - began
    write_picture(results / "figures.svg", figures, title)
    if write:
        report.write_page(_PAGE, figures, title)
        write_picture(_PAGE.with_suffix(".svg"), figures, title)
    say(f"{seconds / 60:.0f} minutes; written: {results}/figures.json and figures.svg")
    if any(figure.name == BROKE_OFF for figure in figures):
        sys.exit(1)


def _measured(name: str, stage: Stage) -> list[Figure]:
    """A section's figures; one that breaks off says why, and the next one runs all the same."""
    began = time.monotonic()
    say(f"== {name}")
    try:
        figures = asyncio.run(SECTIONS[name](stage))
    except Exception as error:  # noqa: BLE001 (said in the table)
        figures = [Figure(name, BROKE_OFF, "", None, failure=repr(_innermost(error)))]
    say(f"== {name} took {time.monotonic() - began:.0f} s")
    return figures


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _show(figures: Sequence[Figure], title: str) -> None:
    console = Console(width=TABLE_WIDTH)
    for line in report.header_of(figures):
        console.print(line, highlight=False, markup=False)
    console.print(report.table_of(figures, title))
    for line in report.details_of(figures):
        console.print(line, highlight=False, markup=False)


if __name__ == "__main__":
    main()
