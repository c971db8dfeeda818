"""What an event costs in processor time, piece by piece: `python -m tests.programs.bench.bill`.

The shards' processing runs in process on real record batches: first the stages alone, then with one more
piece of the worker at each level. Every level runs in a process of its own, in turns; a piece costs the
difference between its level and the one before. No broker is needed, except for `--worker`, which also runs
the worker and shows what is in no piece: the group, the request path, commits, the client's bookkeeping.

    stages       decoding events, settling, encoding facts; decoding facts, joining them, metrics, keywords
    shards       the way through a shard: positions, chunks, retention, counters, reading ahead; an event loop
    turns        the turns of the event loop between two chunks
    records      facts encoded into record batches, with the futures of their acknowledgements; all records
                 decoded from the bytes of batches
    reads        rows and agents read from SQLite before they are joined, by threads
    checkpoints  what has changed as rows, written to SQLite by threads, with metrics records
    sums         the strategies' sums: counted, read and written
    socket       fetches and produce requests over a socket, encoded and decoded as the client does it
"""

import asyncio
import json
import logging
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import structlog
from rich.console import Console
from rich.table import Table

from learner_worker.brokers import BrokerKind, running_broker
from learner_worker.contract.topics import Topics
from learner_worker.kafka.patches import use_light_records
from learner_worker.worker import event_loop
from tests.programs.bench.bill_log import Log, fill
from tests.programs.bench.bill_pieces import Piece, processing
from tests.programs.bench.load import BIDDERS, Auctions, Ids, preload_auctions, recent_auctions
from tests.programs.bench.processor import Meter
from tests.programs.bench.stage import Stage, child
from tests.programs.bench.whole_way import worker_run

_MODULE = "tests.programs.bench.bill"
_WARM_UP = 2  # the load's multiple of the warm-up: afterwards all agents are known and files have rows


@click.command()
@click.option("--auctions", default=20_000, show_default=True, type=click.IntRange(100), help="Of ten bids.")
@click.option("--turns", default=3, show_default=True, type=click.IntRange(1), help="Of each level.")
@click.option("--ids", default=Ids.RANDOM, show_default=True, type=click.Choice(list(Ids)), help="Of tasks.")
@click.option("--only", multiple=True, type=click.Choice(list(Piece)), help="Just these levels.")
@click.option(
    "--worker", is_flag=True, help="Also run the worker on Kafka, whose processor time is to be explained."
)
def main(*, auctions: int, turns: int, ids: str, only: Sequence[str], worker: bool) -> None:
    """Print the bill."""
    levels = [level for level in Piece if not only or level in only]
    found: dict[Piece, list[dict[str, float]]] = {level: [] for level in levels}
    for turn in range(turns):
        for level in levels if turn % 2 == 0 else reversed(levels):
            said = asyncio.run(child(_MODULE, level=level, auctions=auctions, ids=ids))
            found[level].append(said)
            values = (f"{name} {value:.2f}" for name, value in said.items())
            click.echo(f"{level}: {', '.join(values)}", err=True)
    whole = statistics.median(_in_worker(auctions, Ids(ids), turns)) if worker else None
    Console(width=120).print(_table(found, whole))


def _table(found: dict[Piece, list[dict[str, float]]], whole: float | None) -> Table:
    columns = ("piece", "µs an event", "%", "loop's thread", "other threads", "kernel", "sum", "spread")
    table = Table(*columns, title="processor time of an event, medians")
    medians = {level: _medians(said) for level, said in found.items()}
    total = whole or list(medians.values())[-1]["total"]
    before = dict.fromkeys(("total", "loop", "others", "kernel"), 0.0)
    for level, now in medians.items():
        more = {name: now[name] - before[name] for name in before}
        samples = [said["total"] for said in found[level]]
        cells = (more["total"], more["total"] / total * 100, more["loop"], more["others"], more["kernel"])
        table.add_row(level, *(f"{cell:.2f}" for cell in (*cells, now["total"], max(samples) - min(samples))))
        before = {name: now[name] for name in before}
    if whole is not None:
        left = whole - before["total"]
        table.add_row("in no piece", f"{left:.2f}", f"{left / whole * 100:.2f}", "", "", "", f"{whole:.2f}")
    return table


def _medians(said: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(one[name] for one in said) for name in said[0]}


def _in_worker(auctions: int, ids: Ids, turns: int) -> list[float]:
    """An event's processor time in a worker on Kafka in µs, without its start and end; once a turn."""
    load = recent_auctions(auctions * BIDDERS, ids=ids)
    with (
        tempfile.TemporaryDirectory(prefix="learner-bill-") as folder,
        running_broker(BrokerKind.KAFKA, data_dir=Path(folder, "broker"), log=click.echo) as broker,
    ):
        stage = Stage(broker, Path(folder), turns, 1.0, {}, click.echo)
        return asyncio.run(_worker_micros(stage, load))


async def _worker_micros(stage: Stage, load: Auctions) -> list[float]:
    setting = await stage.new_topics("bill")
    await preload_auctions(stage.servers, setting.names, load)
    return [(await worker_run(stage, setting, load)).cpu_micros for _ in range(stage.turns)]


def measured(level: Piece, auctions: int, ids: Ids) -> dict[str, float]:
    """One level, in this process: an event's processor time in µs, of all threads and of some."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    use_light_records()
    load = recent_auctions(auctions * BIDDERS, ids=ids)
    found: dict[str, float] = {}

    async def measure() -> None:
        found.update(await _micros(level, load))

    event_loop.run(measure())
    return found


async def _micros(level: Piece, load: Auctions) -> dict[str, float]:
    """Measures a load after a smaller one, which makes the agents known."""
    warm_up = replace(load, label="warm-up", auctions=max(1, load.auctions // _WARM_UP))
    names, log = Topics().named(), Log(decode=level.has(Piece.RECORDS))
    async with processing(level, log, names) as process:
        fill(log, warm_up, names)
        await process()
        fill(log, load, names)
        meter = Meter()
        await process()
        used = {name: seconds / load.events * 1e6 for name, seconds in meter.used().items()}
        return {"total": used["loop"] + used["others"], **used}


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        asked: dict[str, Any] = json.loads(sys.argv[1])
        said = measured(Piece(asked["level"]), asked["auctions"], Ids(asked["ids"]))
        click.echo(json.dumps(said))  # the parent reads it
    else:
        main()
