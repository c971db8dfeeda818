"""`reshard`: gives the topics more partitions, without a wrong number."""

import asyncio
import sys
import time
from typing import Any

import click

from learner_worker.commands.options import CONNECTION, TOPICS, given, settings_flags
from learner_worker.commands.printing import work_on_without_stdout
from learner_worker.observability import configure_logging
from learner_worker.operations.reshard_kafka import kafka_access
from learner_worker.operations.reshard_plan import ReshardPlan, delete_replaced, plan
from learner_worker.operations.resharding import Resharding, announce
from learner_worker.settings import Settings


@click.command()
@click.option(
    "--partitions",
    type=click.IntRange(1, 10_000),
    help="The new number of shards, more than now. Not needed to continue a reshard that was killed.",
)
@click.option(
    "--finish", is_flag=True, help="Delete the topics and groups of the layout before, once all is well."
)
@click.option(
    "--replication-factor",
    type=click.IntRange(1, 100),
    help="Replication factor of the new topics. [default: 3, or the number of brokers if less]",
)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@settings_flags(*CONNECTION, *TOPICS, "group_id")
def reshard(
    *, partitions: int | None, finish: bool, replication_factor: int | None, yes: bool, **flags: Any
) -> int:
    """Give the topics more partitions, so that more replicas can share the work.

    Publishers go on, and their events wait in Kafka. Workers stop within seconds; those that are started
    meanwhile wait for the end. Until then agents get no answers. Every outcome is copied to new topics and
    compared, agent by agent, before anything is switched; where they are, says the topology's topic.

    A command that was killed is started again and goes on. Afterwards, when the numbers are right,
    `reshard --finish` deletes the old topics.

    Exit code 0: it is done. 1: Kafka failed: start it again. 2: something is wrong in what was asked or
    configured, or it was not confirmed.
    """
    if finish and partitions is not None:
        raise click.UsageError("--finish and --partitions exclude each other")
    work_on_without_stdout()
    settings = given(flags)
    configure_logging(level="error")
    work = _finish(settings) if finish else _reshard(settings, partitions, replication_factor, yes=yes)
    return asyncio.run(work)


async def _reshard(
    settings: Settings, partitions: int | None, replication_factor: int | None, *, yes: bool
) -> int:
    names, patience = settings.topics().named(), settings.startup_timeout_seconds
    connection = settings.connection()
    async with kafka_access(
        connection, names, patience_seconds=patience, replication_factor=replication_factor
    ) as access:
        planned = await plan(access, partitions, settings.given_group)
        click.echo(planned.sentence)
        if not (yes or planned.announced or _consent(planned)):
            click.echo("learner-worker: not confirmed: nothing was changed", err=True)
            return 2
        began = time.monotonic()
        topology = await announce(access, planned.topology, planned.shards)
        began_ms = topology.reshard.began_ms if topology.reshard is not None else 0
        topology = await Resharding(access, names, click.echo).finish()
    seconds = time.time() - began_ms / 1000 if began_ms else time.monotonic() - began
    click.echo(
        f"done: {topology.shards} shards in layout {topology.layout}; agents had no answers for "
        f"{seconds:.1f} s so far; start workers, then, when the numbers are right, `learner-worker reshard "
        "--finish`"
    )
    return 0


def _consent(planned: ReshardPlan) -> bool:
    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to confirm on: give --yes")
    return click.confirm(f"Reshard to {planned.shards} partitions? It cannot be taken back.")


async def _finish(settings: Settings) -> int:
    names, patience = settings.topics().named(), settings.startup_timeout_seconds
    async with kafka_access(settings.connection(), names, patience_seconds=patience) as access:
        deleted = await delete_replaced(access, settings.connection())
    click.echo(f"deleted {', '.join(deleted)}" if deleted else "there is nothing to delete")
    return 0
