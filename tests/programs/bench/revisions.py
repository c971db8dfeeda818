"""Two revisions of the worker in alternating turns: `python -m tests.programs.bench.revisions REVISION`.

Both do the same work, on the same topics and broker, started by their command lines with default settings
and by the same Python: a ratio compares this source tree with the revision, turn by turn. A ratio whose whole
range is on one side of 1 is a difference; any other is noise.
"""

import asyncio
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console

from learner_worker.brokers import running_broker
from tests.programs.bench import answers_busy, answers_idle, report
from tests.programs.bench.command import TABLE_WIDTH, begin, broker_kind, say, worker_settings
from tests.programs.bench.figures import Figure
from tests.programs.bench.load import preload_auctions, preload_changelog, recent_auctions
from tests.programs.bench.processor import descendants
from tests.programs.bench.readings import percentile, reading
from tests.programs.bench.restore import OUTCOMES, restored
from tests.programs.bench.stage import OtherProgram, Stage, in_turns
from tests.programs.bench.whole_way import BIDS, worker_run
from tests.support.forked import clean_environment

Samples = Mapping[tuple[str, str], float]
"""What one turn measured, by figure and unit."""
Turn = Callable[[Stage], Awaitable[Samples]]
"""One turn of one revision, the one whose program the stage runs."""
_OPTION = re.compile("--[a-z-]+")


async def whole_way(stage: Stage) -> Turn:
    """Events to outcomes in SQLite and committed offsets."""
    load = recent_auctions(stage.scaled(BIDS))
    setting = await stage.new_topics("whole-way")
    await preload_auctions(stage.servers, setting.names, load)

    async def turn(of: Stage) -> Samples:
        run = await worker_run(of, setting, load)
        return {
            ("events to durable outcomes, 5 to 95 %", "events/s"): run.rate,
            ("processor time of an event", "µs"): run.cpu_micros,
        }

    return turn


async def restore(stage: Stage) -> Turn:
    """The changelog to outcomes on an empty disk."""
    outcomes = stage.scaled(OUTCOMES)
    setting = await stage.new_topics("restore")
    await preload_changelog(stage.servers, setting.names.outcomes, outcomes)

    async def turn(of: Stage) -> Samples:
        state_dir = of.new_folder("state")
        fresh = await of.new_internals(setting, keep=("outcomes",))
        rate = outcomes * (await restored(of, fresh, state_dir, outcomes)).rate()
        shutil.rmtree(state_dir)
        of.say(f"restore: {rate:,.0f} outcomes/s")
        return {("outcomes restored on an empty disk, 5 to 95 %", "outcomes/s"): rate}

    return turn


async def answers(stage: Stage) -> Turn:
    """One question after the other, nothing else going on."""
    setting = await stage.new_topics("idle")
    await preload_changelog(stage.servers, setting.names.outcomes, stage.scaled(answers_idle.OUTCOMES))
    await answers_idle.warm_up_broker(stage, setting)

    async def turn(of: Stage) -> Samples:
        fresh = await of.new_internals(setting, keep=("outcomes",))
        asked = answers_idle.Sequential(of, fresh, of.new_folder("state"), answers_idle.REQUESTS)
        latencies = await asked.of_worker()
        return {
            (f"request to reply, p{percent}", "ms"): percentile(latencies, percent) for percent in (50, 99)
        }

    return turn


async def answers_beside_backlog(stage: Stage) -> Turn:
    """300 questions a second while a backlog of events is worked off."""
    load = recent_auctions(stage.scaled(answers_busy.BIDS, least=400_000))
    setting = await stage.new_topics("busy")
    await preload_auctions(stage.servers, setting.names, load)
    await answers_idle.warm_up_broker(stage, setting)

    async def turn(of: Stage) -> Samples:
        busy = await answers_busy.of_worker(of, setting, answers_busy.asked_seconds(of))
        return {
            ("request to reply beside a backlog, p99", "ms"): busy.p99_ms,
            ("records worked off a second while asked", "records/s"): busy.asked_rate,
        }

    return turn


_SECTIONS: Mapping[str, Callable[[Stage], Awaitable[Turn]]] = {
    "whole-way": whole_way,
    "restore": restore,
    "answers-idle": answers,
    "answers-busy": answers_beside_backlog,
}


@click.command()
@click.argument("revision")
@click.option("--only", multiple=True, type=click.Choice(list(_SECTIONS)), help="Just these; all by default.")
@click.option("--turns", default=3, show_default=True, type=click.IntRange(1), help="Of each revision.")
@click.option(
    "--scale", default=0.6, show_default=True, type=click.FloatRange(0, min_open=True), help="Of all sizes."
)
@click.option("--worker", multiple=True, help="Setting of this tree's workers, such as strategies=classic.")
def main(*, revision: str, only: Sequence[str], turns: int, scale: float, worker: Sequence[str]) -> None:
    """Compare the worker of this source tree with that of a revision, in alternating turns."""
    begin()
    settings, kind = worker_settings(worker), broker_kind()
    console = Console(width=TABLE_WIDTH)
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="learner-revisions-")))
        other = _program(revision, folder / "other")
        for name in only or _SECTIONS:
            place = folder / name
            with running_broker(kind, data_dir=place / "broker", log=say) as broker:
                stage = Stage(broker, place, turns, scale, {}, say, descendants(os.getpid()))
                figures = asyncio.run(_compared(name, stage, settings, revision, other))
                title = ", ".join([broker.description, f"{turns} turns", f"sizes x {scale:g}", *worker])
            console.print(report.table_of(figures, title))
            shutil.rmtree(place, ignore_errors=True)


async def _compared(
    name: str, stage: Stage, settings: Mapping[str, str], revision: str, other: OtherProgram
) -> list[Figure]:
    turn = await _SECTIONS[name](stage)
    sides = (replace(stage, settings=settings), replace(stage, other=other))
    this, that = await in_turns(stage.turns, *(lambda side=side: turn(side) for side in sides))
    return [
        Figure(
            name,
            figure,
            unit,
            reading([samples[figure, unit] for samples in this]),
            reading([samples[figure, unit] for samples in that]),
            f"the worker of {revision}",
        )
        for figure, unit in this[0]
    ]


def _program(revision: str, folder: Path) -> OtherProgram:
    """The program of a revision, in a folder of its own, as its own help describes it."""
    archive = subprocess.run(
        ["git", "archive", revision, "learner_worker", "schemas"],
        check=True,
        capture_output=True,
    )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    program = ("-P", "-m", "learner_worker")
    environment = {"PYTHONPATH": str(folder)}
    shown = subprocess.run(
        [sys.executable, *program, "run", "--help"],
        check=True,
        capture_output=True,
        text=True,
        env={**clean_environment(), **environment},
    )
    return OtherProgram(frozenset(_OPTION.findall(shown.stdout)), program, environment)


if __name__ == "__main__":
    main()
