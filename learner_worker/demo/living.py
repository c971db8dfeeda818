"""`learner-worker dev`: a swarm that goes on living, and everything that there is to look at it."""

import asyncio
import itertools
import shlex
from dataclasses import dataclass, replace
from typing import Final

from rich.console import Console

from learner_worker.brokers import BrokerKind
from learner_worker.contract.fields import TaskId
from learner_worker.demo.auctions import DemoAuction, demo_auctions
from learner_worker.demo.cluster import DemoCluster, started_broker
from learner_worker.demo.market import Market
from learner_worker.demo.personas import PERSONAS, demo_market
from learner_worker.demo.processes import ServiceProcess, create_topics, running_insights, running_replicas
from learner_worker.demo.run import cancelled_by_signals, learner_of, publisher_of, temporary_folder
from learner_worker.errors import LearnerError

_AT_FIRST: Final = 40  # auctions at full speed: enough that the first look shows agents with keywords
_ROUND_SECONDS: Final = 1.0  # then one a second: it is seen to live, and keeps no machine busy
_RUN: Final = 200  # auctions drawn at once


@dataclass(frozen=True, slots=True)
class LivingOptions:
    """The options of the command."""

    http_port: int = 0
    partitions: int = 4


async def run_living_swarm(options: LivingOptions, console: Console) -> int:
    """Runs until a signal; returns the exit code: 0, or 1 for a failure."""
    swarm = asyncio.create_task(_run(options, console), name="living-swarm")
    with cancelled_by_signals(swarm) as received:
        try:
            await swarm
        except asyncio.CancelledError:
            if not received:
                raise
            console.print(
                "Stopped: the swarm, insights, the worker and the broker are gone.", highlight=False
            )
        except LearnerError as error:
            console.print(f"It ended. {error}", style="red", highlight=False, markup=False)
            return 1
    return 0


async def _run(options: LivingOptions, console: Console) -> None:
    def tell(sentence: str) -> None:
        console.print(sentence, style="dim", highlight=False, markup=False)

    with temporary_folder(keep=False) as folder:
        async with started_broker(BrokerKind.EMBEDDED, None, folder / "broker", tell) as broker:
            cluster = DemoCluster(broker, "", options.partitions, folder, advice_log=True)
            await create_topics(cluster)
            tell("starting a worker and insights")
            async with (
                running_replicas(cluster, 1) as replicas,
                learner_of(cluster) as learner,
                publisher_of(cluster) as publisher,
                running_insights(cluster, options.http_port, replicas) as insights,
            ):
                auctions = itertools.chain.from_iterable(map(_drawn, itertools.count(1)))
                market = Market(learner, publisher)
                for auction in itertools.islice(auctions, _AT_FIRST):
                    await market.play(auction)
                _introduce(console, cluster, insights)
                for number, auction in enumerate(auctions, 1):
                    for each in (*replicas, insights):
                        each.check_alive()
                    if number % _RUN == 0:
                        market = Market(learner, publisher)  # which remembers all that was published
                    await market.play(auction)
                    await asyncio.sleep(_ROUND_SECONDS)


def _drawn(seed: int) -> list[DemoAuction]:
    """A run's auctions, with tasks that no other run has."""
    drawn = demo_auctions(demo_market(_RUN), seed)
    return [replace(auction, task_id=TaskId(f"{seed}-{auction.task_id}")) for auction in drawn]


def _introduce(console: Console, cluster: DemoCluster, insights: ServiceProcess) -> None:
    """Prints the page's address, and what to do next in another terminal."""
    agent = PERSONAS[0].sibling("classic")
    servers = cluster.broker.bootstrap_servers
    text = demo_auctions(demo_market(_RUN), 1)[0].description
    lines = [
        "",
        f"Look at a swarm of {len(PERSONAS) * 3} agents, an auction a second:",
        "",
        f"  {insights.url()}/",
        "",
        "In another terminal:",
        "",
        f"  export LEARNER_BOOTSTRAP_SERVERS={servers}",
        f"  learner-worker suggest {agent} --description {shlex.quote(text)} --base 1000",
        f"  learner-worker outcomes list {agent}",
        "  learner-worker doctor",
        "",
        "Ctrl-C ends all of it and leaves nothing behind.",
    ]
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
