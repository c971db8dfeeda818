"""`demo`: runs a sample swarm with two workers on a temporary broker."""

import asyncio
import logging
import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from rich.console import Console

from learner_worker.commands.printing import work_on_without_stdout
from learner_worker.demo import DemoOptions, run_demo
from learner_worker.observability import configure_logging


@click.command()
@click.option(
    "--seed",
    type=click.IntRange(0),
    help="Seed of the live run: the same one gives the same tasks and luck.",
)
@click.option(
    "--seeds", type=click.IntRange(2, 1_000), help="Seeds to simulate, from that of the live run on."
)
@click.option("--auctions", type=click.IntRange(10, 10_000), help="Number of auctions.")
@click.option(
    "--report", type=click.Path(dir_okay=False, path_type=Path), help="Write the HTML report to FILE."
)
@click.option(
    "--broker",
    type=click.Choice(["auto", "given", "docker", "kafka", "embedded"]),
    default="auto",
    show_default=True,
    help="Broker to run on; auto = the first that can be started here, given = your own cluster.",
)
@click.option(
    "--bootstrap-servers",
    envvar="LEARNER_BOOTSTRAP_SERVERS",
    show_envvar=True,
    help="Address of your cluster; used only with --broker given.",
)
@click.option("--partitions", type=click.IntRange(1, 100), help="Number of partitions (shards).")
@click.option("--keep", is_flag=True, help="Keep the demo's temporary folder.")
@click.pass_context
def demo(context: click.Context, /, **flags: Any) -> None:
    """Run a sample swarm with two workers and show what it earns to ask the learner.

    Your own cluster is touched only with --broker given; topics and groups of its own are deleted at the end.
    """
    _require_consent(context, flags)
    work_on_without_stdout()
    options = DemoOptions(**{name: value for name, value in flags.items() if value is not None})
    configure_logging(level="error")
    logging.getLogger("learner_worker.client").setLevel(logging.CRITICAL)
    sys.exit(asyncio.run(run_demo(options, Console())))


def _require_consent(context: click.Context, flags: dict[str, Any]) -> None:
    """Refuses an address that would not be used, and a cluster that is not named."""
    if flags["broker"] == "given":
        if not flags["bootstrap_servers"]:
            raise click.UsageError("--broker given needs --bootstrap-servers or LEARNER_BOOTSTRAP_SERVERS")
    elif context.get_parameter_source("bootstrap_servers") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--bootstrap-servers is used only with --broker given: add it")
