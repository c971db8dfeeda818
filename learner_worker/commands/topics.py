"""`topics create` and `topics check`."""

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Any

import click

from learner_worker.commands.options import CONNECTION, TOPICS, given, settings_flags
from learner_worker.commands.printing import work_on_without_stdout
from learner_worker.contract.topology import Topology
from learner_worker.group.topology_view import (
    DEFAULT_SHARDS,
    TopologyView,
    require_recorded,
    topology_view,
)
from learner_worker.group.topology_view import create_topics as create_missing
from learner_worker.observability import configure_logging
from learner_worker.settings import Settings


@click.group()
def topics() -> None:
    """Create or check the topics."""


@topics.command("create")
@settings_flags(*CONNECTION, *TOPICS, "group_id")
@click.option(
    "--partitions",
    type=click.IntRange(1, 10_000),
    help="Number of shards: at most this many replicas share the work. Only `reshard` raises it later. "
    f"[default: that of the topics that exist, or {DEFAULT_SHARDS}]",
)
@click.option(
    "--replication-factor",
    type=click.IntRange(1, 100),
    help="Replication factor. [default: 3, or the number of brokers if less]",
)
def create_topics(partitions: int | None, replication_factor: int | None, **flags: Any) -> None:
    """Create the topics that do not exist, and record their number of partitions.

    Existing topics are not changed. Another number than theirs is refused, with exit code 2. With --group-id
    only that group may use the topics; without it the first group that runs.
    """
    work_on_without_stdout()
    settings = given(flags)
    names = settings.topics().named()

    async def create() -> None:
        async with _view(settings) as view:
            created = await create_missing(
                view,
                partitions=partitions,
                replication_factor=replication_factor,
                group_id=settings.given_group,
            )
        for topic in names.all:
            click.echo(f"{topic}: {'created' if topic in created else 'was there'}")

    configure_logging()
    asyncio.run(create())


@topics.command("check")
@settings_flags(*CONNECTION, *TOPICS, "group_id")
def check_topics(**flags: Any) -> None:
    """Check that the topics exist and are what is recorded of them; exit code 2 if not.

    With --group-id also whether that group may use them.
    """
    settings = given(flags)

    async def check() -> Topology:
        async with _view(settings) as view:
            return await require_recorded(view, settings.given_group)

    configure_logging()
    found = asyncio.run(check())
    owner = f"of group {found.owner_group}" if found.owner_group else "of no group yet"
    click.echo(f"all topics are there, with {found.shards} shards, {owner}")


def _view(settings: Settings) -> AbstractAsyncContextManager[TopologyView]:
    return topology_view(
        settings.connection(),
        settings.topics().named(),
        patience_seconds=settings.startup_timeout_seconds,
    )
