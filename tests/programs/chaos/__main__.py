"""`python -m tests.programs.chaos`: the long column of the fault tests, as a table; exit 1 for any loss."""

import json
import logging
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from tests.programs.chaos.sections import SECTIONS, Options, Section
from tests.programs.chaos.table import Row, failures_of, table_of

_TABLE_WIDTH = 160


@click.command()
@click.option("--only", multiple=True, type=click.Choice(list(SECTIONS)), help="Just these; all by default.")
@click.option("--kills", default=100, show_default=True, envvar="KILLS", help="Of workers.")
@click.option("--events", default=1_000_000, show_default=True, help="Published during the kills of workers.")
@click.option("--outcomes", default=1_000_000, show_default=True, help="There before owners are taken over.")
@click.option("--times", default=20, show_default=True, help="How often any other fault is done.")
@click.option("--seed", default=1, show_default=True, help="Decides the load and the moments.")
@click.option("--simulation-seeds", default=20_000, show_default=True, envvar="SIMULATION_SEEDS")
@click.option("--fuzz-examples", default=10_000, show_default=True, envvar="FUZZ_EXAMPLES")
@click.option("--standby-replicas", type=int, help="Handed to the workers.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Where to write the rows, too.")
def main(
    *,
    only: Sequence[str],
    kills: int,
    events: int,
    outcomes: int,
    times: int,
    seed: int,
    simulation_seeds: int,
    fuzz_examples: int,
    standby_replicas: int | None,
    json_path: Path | None,
) -> None:
    """Break a running system again and again, and count what was lost, doubled or answered wrongly."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: brokers and workers end, too
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL + 1)  # its servers die here
    folder = Path(tempfile.mkdtemp(prefix="learner-faults-"))
    options = Options(
        kills=kills,
        events=events,
        times=times,
        seed=seed,
        simulation_seeds=simulation_seeds,
        fuzz_examples=fuzz_examples,
        outcomes=outcomes,
        standby_replicas=standby_replicas,
        folder=folder,
        say=_say,
    )
    _say(f"state and logs in {folder}")
    rows: list[Row] = []
    for name in only or SECTIONS:
        rows += _run(name, SECTIONS[name], options)
    Console(width=_TABLE_WIDTH).print(table_of(rows))
    for failure in failures_of(rows):
        click.echo(f"FAILED {failure}")
    if json_path is not None:
        json_path.write_text(json.dumps([row.as_json() for row in rows], indent=2, ensure_ascii=False))
    if not all(row.holds for row in rows):
        click.echo(f"state and logs are kept in {folder}")
        sys.exit(1)
    shutil.rmtree(folder, ignore_errors=True)


def _run(name: str, section: Section, options: Options) -> list[Row]:
    """A section's rows; one that breaks off is a failure, and the next one runs all the same."""
    began = time.monotonic()
    _say(f"== {name}")
    try:
        rows = section(options)
    except Exception as error:  # noqa: BLE001 (reported as the section's failure)
        rows = [Row(name, 0, failures=[f"broke off: {_innermost(error)!r}"])]
    _say(f"== {name} took {time.monotonic() - began:.0f} s")
    return rows


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _say(line: str) -> None:
    click.echo(f"{time.strftime('%H:%M:%S')} {line}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
