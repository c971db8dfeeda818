"""`topics create` and `topics check`."""

import asyncio
from typing import Any

import click

from learner_worker.commands.options import CONNECTION, TOPICS, given, settings_flags
from learner_worker.kafka.admin import connected
from learner_worker.observability import configure_logging

_DEFAULT_PARTITIONS = 12


@click.group()
def topics() -> None:
    """Create or check the topics."""


@topics.command("create")
@settings_flags(*CONNECTION, *TOPICS)
@click.option(
    "--partitions",
    type=click.IntRange(1, 10_000),
    default=_DEFAULT_PARTITIONS,
    show_default=True,
    help="Number of shards: at most this many replicas share the work. Cannot be changed later.",
)
@click.option(
    "--replication-factor",
    type=click.IntRange(1, 100),
    help="Replication factor. [default: 3, or the number of brokers if less]",
)
def create_topics(partitions: int, replication_factor: int | None, **flags: Any) -> None:
    """Create the topics that do not exist; existing topics are not changed."""
    settings = given(flags)
    names = settings.topics().named()

    async def create() -> None:
        async with connected(
            settings.connection(), patience_seconds=settings.startup_timeout_seconds
        ) as cluster:
            created = await cluster.create_topics(
                names, partitions=partitions, replication_factor=replication_factor
            )
            for topic in names.all:
                click.echo(f"{topic}: {'created' if topic in created else 'was there'}")
            await cluster.check_topics(names)

    configure_logging()
    asyncio.run(create())


@topics.command("check")
@settings_flags(*CONNECTION, *TOPICS)
def check_topics(**flags: Any) -> None:
    """Check that the topics exist and that their partition counts agree; exit code 2 if not."""
    settings = given(flags)

    async def check() -> int:
        async with connected(
            settings.connection(), patience_seconds=settings.startup_timeout_seconds
        ) as cluster:
            return await cluster.check_topics(settings.topics().named())

    configure_logging()
    shards = asyncio.run(check())
    click.echo(f"all topics are there, with {shards} shards")
