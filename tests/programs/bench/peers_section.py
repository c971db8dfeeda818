"""Other ways to do the same job, each as far as it can, in an environment of their own."""

import functools
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.programs.bench.figures import Better, Figure, Goal
from tests.programs.bench.load import Auctions, preload_auctions, recent_auctions
from tests.programs.bench.readings import Reading, reading
from tests.programs.bench.stage import PARTITIONS, Setting, Stage, in_turns
from tests.programs.bench.whole_way import worker_run
from tests.programs.interop.projects import ProjectError, PythonProject, run

SECTION = "peers"
BIDS = 300_000
SLOW_BIDS = 30_000
LEAST_BIDS = 100_000
"""With fewer, the worker's start and its checkpoints, about one a second, are most of what is measured."""
LEAST_SLOW_BIDS = 5_000
_PEER_SECONDS = 400.0
_RATE = '{"rate"'
PROJECT = PythonProject(Path(__file__).parent / "peers")


@dataclass(frozen=True, slots=True)
class Peer:
    """A program beside ours.

    Attributes:
        lacks: what it leaves out of the worker's job.
    """

    name: str
    program: str
    slow: bool
    lacks: str
    goal: Goal | None = None


_ONE_STAGE = "one stage, no changelog, no metrics of agents"
PEERS = (
    Peer(
        "FastStream and SQLite, a message at a time",
        "faststream_single.py",
        True,
        _ONE_STAGE,
        Goal(Better.MORE, 25),
    ),
    Peer(
        "FastStream and SQLite, in batches",
        "faststream_batch.py",
        False,
        _ONE_STAGE,
        Goal(Better.MORE, 1.5, 2.5),
    ),
    Peer(
        "FastStream and SQLite, in batches, the whole job",
        "faststream_whole.py",
        False,
        "results by arrival, no answers",
        Goal(Better.MORE, 3, 5),
    ),
    Peer("Quix Streams, both stages", "quix.py", True, "results by arrival, no SQLite", Goal(Better.MORE, 2)),
    Peer(
        "Quix Streams, the whole job",
        "quix_whole.py",
        True,
        "results by arrival, no SQLite, no answers",
        Goal(Better.MORE, 5, 10),
    ),
    Peer("Faust, two stages", "faust_job.py", True, "counts only, in memory; stage two is not awaited"),
    Peer("Bytewax", "bytewax_job.py", False, "in memory, no recovery, no second topic"),
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A load in Kafka."""

    setting: Setting
    auctions: Auctions


async def measure(stage: Stage) -> list[Figure]:
    """The section's figures."""
    try:
        await PROJECT.install()
    except ProjectError as error:
        return [_unmeasured(peer, f"not installed: {error}") for peer in PEERS]
    full = await _loaded(stage, stage.scaled(BIDS, least=LEAST_BIDS))
    small = await _loaded(stage, stage.scaled(SLOW_BIDS, least=LEAST_SLOW_BIDS))
    ours: list[float] = []
    rates: dict[str, list[float]] = {peer.program: [] for peer in PEERS}
    broken: dict[str, str] = {}

    async def worker() -> None:
        ours.append((await worker_run(stage, full.setting, full.auctions)).rate)

    async def measured(peer: Peer) -> None:
        if peer.program in broken:
            return
        try:
            rates[peer.program].append(await _rate_of(stage, peer, small if peer.slow else full))
        except (ProjectError, ValueError, LookupError) as error:  # it failed, or said nothing of use
            broken[peer.program] = repr(error)
            stage.say(f"{peer.name} does not work: {error!r}")

    await in_turns(stage.turns, worker, *(functools.partial(measured, peer) for peer in PEERS))
    return [
        _unmeasured(peer, broken[peer.program])
        if peer.program in broken
        else _figure(peer, reading(ours), reading(rates[peer.program]), full, small if peer.slow else full)
        for peer in PEERS
    ]


async def _loaded(stage: Stage, bids: int) -> Loaded:
    setting = await stage.new_topics("peers")
    auctions = recent_auctions(bids)
    await preload_auctions(stage.servers, setting.names, auctions)
    return Loaded(setting, auctions)


async def _rate_of(stage: Stage, peer: Peer, loaded: Loaded) -> float:
    """Events a second of one peer, in a process of its own."""
    folder = stage.new_folder("peer")
    names = loaded.setting.names
    own = (await stage.new_topics("peer")).names  # what the peer writes
    job = {
        "servers": stage.servers,
        "group": stage.new_name("peer"),
        "folder": str(folder),
        "bids": names.bid_placed,
        "closes": names.auction_closed,
        "results": names.task_finished,
        "outcomes": own.outcomes,
        "metrics": own.metrics,
        "events": loaded.auctions.events,
        "partitions": PARTITIONS,
    }
    command = PROJECT.command(peer.program, json.dumps(job))
    said = await run(command, PROJECT.folder, seconds=_PEER_SECONDS)
    shutil.rmtree(folder, ignore_errors=True)
    rate = rate_said(said)
    stage.say(f"{peer.name}: {rate:,.0f} events/s")
    return rate


def rate_said(said: str) -> float:
    """A peer's rate; frameworks have their words before and after it, and Faust codes for the terminal.

    Raises:
        LookupError: there is none.
    """
    _, mark, rest = said.rpartition(_RATE)
    if not mark:
        raise LookupError(f"it said no rate, at last {said.splitlines()[-1:]}")
    last, _ = json.JSONDecoder().raw_decode(mark + rest)
    return float(last["rate"])


def _figure(peer: Peer, ours: Reading, rate: Reading, full: Loaded, used: Loaded) -> Figure:
    sizes = {
        "bids": full.auctions.bids,
        f"bids of {peer.program.removesuffix('.py')}": used.auctions.bids,
        "partitions": PARTITIONS,
    }
    return Figure(
        SECTION,
        f"beside {peer.name}",
        "events/s",
        ours,
        rate,
        f"{peer.name} ({peer.lacks})",
        peer.goal,
        sizes,
    )


def _unmeasured(peer: Peer, why: str) -> Figure:
    return Figure(
        SECTION,
        f"beside {peer.name}",
        "events/s",
        None,
        None,
        peer.name,
        peer.goal,
        failure=why[:400],
    )
