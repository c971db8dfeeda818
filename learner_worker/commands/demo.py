"""`demo`: runs a sample swarm with two workers on a temporary broker."""

import asyncio
import logging
import sys
from typing import Any

import click
from rich.console import Console

from learner_worker.commands.printing import work_on_without_stdout
from learner_worker.demo import DemoOptions, run_demo
from learner_worker.observability import configure_logging


@click.command()
@click.option("--seed", type=int, help="Random seed: the same seed gives the same tasks, skills and luck.")
@click.option("--auctions", type=click.IntRange(1, 100_000), help="Number of auctions.")
@click.option(
    "--broker",
    type=click.Choice(["auto", "given", "docker", "kafka", "embedded"]),
    default="auto",
    show_default=True,
    help="Broker to run on; auto = the first one available.",
)
@click.option(
    "--bootstrap-servers",
    envvar="LEARNER_BOOTSTRAP_SERVERS",
    show_envvar=True,
    help="Address of your cluster, with --broker given.",
)
@click.option("--partitions", type=click.IntRange(1, 100), help="Number of partitions (shards).")
@click.option("--keep", is_flag=True, help="Keep the demo's temporary folder.")
def demo(**flags: Any) -> None:
    """Run a sample swarm with two workers and show what asking the learner changes."""
    work_on_without_stdout()
    options = DemoOptions(**{name: value for name, value in flags.items() if value is not None})
    configure_logging(level="error")
    logging.getLogger("learner_worker.client").setLevel(logging.CRITICAL)
    sys.exit(asyncio.run(run_demo(options, Console())))
