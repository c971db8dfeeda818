"""Runs the demo from its broker to its result; ends by itself and leaves nothing running."""

import asyncio
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from rich.console import Console

from learner_worker.brokers import BrokerKind, first_available
from learner_worker.brokers.guardian import GUARDIAN
from learner_worker.client import EventPublisher, LearnerClient
from learner_worker.demo.auctions import demo_auctions
from learner_worker.demo.audit import disagreements
from learner_worker.demo.cluster import DemoCluster, started_broker
from learner_worker.demo.comparison import finished_auctions
from learner_worker.demo.earnings import Earnings, Simulation, simulated
from learner_worker.demo.market import Market
from learner_worker.demo.personas import demo_market
from learner_worker.demo.processes import ServiceProcess, create_topics, running_replicas
from learner_worker.demo.story import Story
from learner_worker.demo.view import Scene, opened_view
from learner_worker.errors import LearnerError
from learner_worker.laboratory.report import report
from learner_worker.signals import wanted_signals

ROUND_SECONDS: Final = 0.12
"""An auction takes at least this long, so that what one teaches is known in the next, mostly."""

REPORT: Final = Path("learner-demo.html")
"""The simulation's report, in the working directory."""
REDRAW_SECONDS: Final = 0.2  # a bar that moves smoothly


class WrongCountError(LearnerError):
    """The learner's metrics do not agree with the published events."""


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """The options of the command. The live run is the first of the simulated seeds."""

    seed: int = 1
    seeds: int = 30
    auctions: int = 200
    report: Path = REPORT
    broker: Literal["auto", "given", "docker", "kafka", "embedded"] = "auto"
    bootstrap_servers: str | None = None
    partitions: int = 4
    keep: bool = False


async def run_demo(options: DemoOptions, console: Console) -> int:
    """Run the demo and return its exit code: 0, 1 for a failure, 128 + the signal's number if stopped."""
    story = Story(console)
    demo = asyncio.create_task(_run(options, story), name="demo")
    with cancelled_by_signals(demo) as received:
        try:
            await demo
        except asyncio.CancelledError:
            if not received:
                raise
            story.tell("Stopped in the middle: the workers and the broker are gone.")
            return 128 + received[0]
        except LearnerError as error:
            story.failure(error)
            return 1
    return 0


@contextmanager
def cancelled_by_signals(task: "asyncio.Task[None]") -> Iterator[list[int]]:
    """Makes Ctrl-C, SIGTERM and SIGHUP end a task cleanly; further ones are ignored."""
    received: list[int] = []

    def stop(number: int) -> None:
        if not received:
            task.cancel()
        received.append(number)

    loop, numbers = asyncio.get_running_loop(), wanted_signals()
    for number in numbers:
        loop.add_signal_handler(number, stop, number)
    try:
        yield received
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def _run(options: DemoOptions, story: Story) -> None:
    """Plays the live run while the laboratory simulates more of its kind, then tells what came out."""
    story.title()
    kind = _broker_kind(options)
    simulation = Simulation(range(options.seed, options.seed + options.seeds), options.auctions)
    async with simulated(simulation) as task:
        cluster = await _play(options, kind, story)
        earnings = await _awaited(task, simulation, story)
    story.earnings(earnings, _report(options.report, earnings, story))
    story.nothing_left(cluster, keep=options.keep)


async def _awaited(task: "asyncio.Task[Earnings]", simulation: Simulation, story: Story) -> Earnings:
    with story.while_simulating(simulation) as redraw:
        while not task.done():
            redraw()
            await asyncio.wait([task], timeout=REDRAW_SECONDS)
    return task.result()


def _report(path: Path, earnings: Earnings, story: Story) -> Path | None:
    try:
        path.write_text(report(earnings.own, earnings.others), encoding="utf-8")
    except OSError as error:
        story.tell(f"The report was not written to {path} ({error.strerror}).")
        return None
    return path


async def _play(options: DemoOptions, kind: BrokerKind, story: Story) -> DemoCluster:
    """Starts everything, plays the auctions, compares, and stops everything."""
    with temporary_folder(options.keep) as folder:
        async with started_broker(kind, options.bootstrap_servers, folder / "broker", story.tell) as broker:
            prefix = f"demo-{secrets.token_hex(3)}-"
            cluster = DemoCluster(broker, prefix, options.partitions, folder)
            try:
                await _learn_and_bid(options, cluster, story)
            finally:
                await cluster.clear()
    return cluster


def _broker_kind(options: DemoOptions) -> BrokerKind:
    """The user's own cluster is used only on request, by `--broker given`."""
    return first_available() if options.broker == "auto" else BrokerKind(options.broker)


@contextmanager
def temporary_folder(keep: bool) -> Iterator[Path]:
    """A temporary folder; kept if requested, or after a failure because of the logs in it."""
    folder = Path(tempfile.mkdtemp(prefix="learner-demo-"))
    try:
        with nullcontext() if keep else GUARDIAN.entrusted("folder", str(folder)):
            yield folder
    except LearnerError:
        keep = keep or any(folder.glob("*.log"))
        raise
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


async def _learn_and_bid(options: DemoOptions, cluster: DemoCluster, story: Story) -> None:
    await create_topics(cluster)
    story.tell("starting two workers, each a process of its own")
    async with running_replicas(cluster) as replicas:
        story.opening(options.seed, options.auctions, cluster, replicas)
        async with learner_of(cluster) as learner, publisher_of(cluster) as publisher:
            market = Market(learner, publisher)
            await _hold_auctions(options, market, replicas, story)
            story.answers(market)
            if wrong := await disagreements(learner, market.history):
                raise WrongCountError(f"The learner miscounted, see {cluster.folder}: {'; '.join(wrong)}")
        story.comparison(market)


def learner_of(cluster: DemoCluster) -> LearnerClient:
    servers, options = cluster.broker.bootstrap_servers, cluster.kafka_options
    return LearnerClient(servers, topics=cluster.topics, kafka_options=options)


def publisher_of(cluster: DemoCluster) -> EventPublisher:
    servers, options = cluster.broker.bootstrap_servers, cluster.kafka_options
    return EventPublisher(servers, topics=cluster.topics, kafka_options=options)


async def _hold_auctions(
    options: DemoOptions, market: Market, replicas: Sequence[ServiceProcess], story: Story
) -> None:
    auctions = demo_auctions(demo_market(options.auctions), options.seed)
    with opened_view(story.console, len(auctions)) as view:
        for number, auction in enumerate(auctions, 1):
            begun = time.monotonic()
            won = await market.play(auction)
            finished = finished_auctions(market.history, market.costs_sats)
            view.show(Scene(number, len(auctions), auction, won, finished, market.advice))
            for replica in replicas:
                replica.check_alive()
            await asyncio.sleep(begun + ROUND_SECONDS - time.monotonic())
