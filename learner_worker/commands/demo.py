"""`demo`: the learner at work, on a broker of its own."""

import asyncio
import logging
import sys
from typing import Any

import click
from rich.console import Console

from learner_worker.demo import DemoOptions, run_demo
from learner_worker.observability import configure_logging


@click.command()
@click.option("--seed", type=int, help="The same seed, the same tasks, skills and luck.")
@click.option("--auctions", type=click.IntRange(1, 100_000), help="How many auctions to hold.")
@click.option(
    "--broker",
    type=click.Choice(["auto", "given", "docker", "kafka", "embedded"]),
    default="auto",
    show_default=True,
    help="What to run on; auto: the first that is there.",
)
@click.option(
    "--bootstrap-servers",
    envvar="LEARNER_BOOTSTRAP_SERVERS",
    show_envvar=True,
    help="Your own cluster, for --broker given.",
)
@click.option("--partitions", type=click.IntRange(1, 100), help="Shards.")
@click.option("--keep", is_flag=True, help="Leave the demo's temporary folder, to look into it.")
def demo(**flags: Any) -> None:
    """Watch a swarm bid, two workers learn, and what asking the learner changes."""
    options = DemoOptions(**{name: value for name, value in flags.items() if value is not None})
    configure_logging(level="error")
    logging.getLogger("learner_worker.client").setLevel(logging.CRITICAL)
    sys.exit(asyncio.run(run_demo(options, Console())))
