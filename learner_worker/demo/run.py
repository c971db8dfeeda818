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
from learner_worker.demo.auctions import Award, DemoAuction, draw_auction
from learner_worker.demo.audit import disagreements
from learner_worker.demo.cluster import DemoCluster, started_broker
from learner_worker.demo.comparison import FinishedAuction, figures, finished_auctions
from learner_worker.demo.market import Market
from learner_worker.demo.personas import PERSONAS, Persona
from learner_worker.demo.processes import ReplicaProcess, create_topics, running_replicas
from learner_worker.demo.story import Story
from learner_worker.demo.view import Scene, Standing, opened_view
from learner_worker.errors import LearnerError
from learner_worker.signals import wanted_signals

ROUND_SECONDS: Final = 0.12
"""An auction takes at least this long, so that what one teaches is known in the next, mostly."""

TYPICAL_SEED: Final = 51
"""Of the seeds 1 to 60 the one whose six differences came out nearest to their medians: no lucky run."""


class WrongCountError(LearnerError):
    """The learner's metrics do not agree with the published events."""


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """The options of the command."""

    seed: int = TYPICAL_SEED
    auctions: int = 200
    broker: Literal["auto", "given", "docker", "kafka", "embedded"] = "auto"
    bootstrap_servers: str | None = None
    partitions: int = 4
    keep: bool = False


async def run_demo(options: DemoOptions, console: Console) -> int:
    """Run the demo and return its exit code: 0, 1 for a failure, 128 + the signal's number if stopped."""
    story = Story(console)
    demo = asyncio.create_task(_run(options, story), name="demo")
    with _cancelled_by_signals(demo) as received:
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
def _cancelled_by_signals(demo: "asyncio.Task[None]") -> Iterator[list[int]]:
    """Makes Ctrl-C, SIGTERM and SIGHUP end the demo cleanly; further ones are ignored."""
    received: list[int] = []

    def stop(number: int) -> None:
        if not received:
            demo.cancel()
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
    """Starts everything, plays the auctions, compares, and stops everything."""
    story.title()
    kind = _broker_kind(options)
    with _temporary_folder(options.keep) as folder:
        async with started_broker(kind, options.bootstrap_servers, folder / "broker", story.tell) as broker:
            prefix = f"demo-{secrets.token_hex(3)}-"
            cluster = DemoCluster(broker, prefix, options.partitions, folder)
            try:
                await _learn_and_bid(options, cluster, story)
            finally:
                await cluster.clear()
        story.nothing_left(cluster, keep=options.keep)


def _broker_kind(options: DemoOptions) -> BrokerKind:
    """The user's own cluster is used only on request, by `--broker given`."""
    return first_available() if options.broker == "auto" else BrokerKind(options.broker)


@contextmanager
def _temporary_folder(keep: bool) -> Iterator[Path]:
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
        async with _learner(cluster) as learner, _publisher(cluster) as publisher:
            market = Market(learner, publisher)
            await _hold_auctions(options, market, replicas, story)
            story.answers(market)
            if wrong := await disagreements(learner, market.history):
                raise WrongCountError(f"The learner miscounted, see {cluster.folder}: {'; '.join(wrong)}")
        story.comparison(market.history)


def _learner(cluster: DemoCluster) -> LearnerClient:
    servers, options = cluster.broker.bootstrap_servers, cluster.kafka_options
    return LearnerClient(servers, topics=cluster.topics, kafka_options=options)


def _publisher(cluster: DemoCluster) -> EventPublisher:
    servers, options = cluster.broker.bootstrap_servers, cluster.kafka_options
    return EventPublisher(servers, topics=cluster.topics, kafka_options=options)


async def _hold_auctions(
    options: DemoOptions, market: Market, replicas: Sequence[ReplicaProcess], story: Story
) -> None:
    with opened_view(story.console, options.auctions) as view:
        for number in range(1, options.auctions + 1):
            begun = time.monotonic()
            auction = draw_auction(options.seed, number)
            won = await market.play(auction)
            view.show(_scene(number, options.auctions, auction, won, market))
            for replica in replicas:
                replica.check_alive()
            await asyncio.sleep(begun + ROUND_SECONDS - time.monotonic())


def _scene(number: int, total: int, auction: DemoAuction, won: Award, market: Market) -> Scene:
    auctions = finished_auctions(market.history)
    standings = [_standing(persona, auctions, market) for persona in PERSONAS]
    return Scene(number, total, auction, won, standings)


def _standing(persona: Persona, auctions: Sequence[FinishedAuction], market: Market) -> Standing:
    return Standing(
        persona=persona,
        asking=figures(auctions, persona.asking.__eq__),
        static=figures(auctions, persona.static.__eq__),
        advice=market.advice.get(persona.asking),
    )
