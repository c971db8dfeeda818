"""`dev`: leaves a broker, a worker, insights and a living sample swarm running."""

import asyncio
import logging
import sys

import click
from rich.console import Console

from learner_worker.commands.printing import work_on_without_stdout
from learner_worker.demo.living import LivingOptions, run_living_swarm
from learner_worker.observability import configure_logging


@click.command()
@click.option(
    "--http-port",
    type=click.IntRange(0, 65_535),
    default=0,
    show_default=True,
    help="Port of the page; 0 = any free one.",
)
@click.option(
    "--partitions", type=click.IntRange(1, 100), default=4, show_default=True, help="Number of shards."
)
def dev(*, http_port: int, partitions: int) -> None:
    """Run a broker, a worker, insights and a sample swarm that bids on, until Ctrl-C.

    Everything is temporary and on this machine. It prints the page's address, and commands to try.
    """
    work_on_without_stdout()
    configure_logging(level="error")
    logging.getLogger("learner_worker.client").setLevel(logging.CRITICAL)
    sys.exit(asyncio.run(run_living_swarm(LivingOptions(http_port, partitions), Console())))
