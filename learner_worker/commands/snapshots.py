"""`state snapshot`, `state list`, `state prune`: the snapshots of shard files in a store."""

import asyncio
from collections.abc import Sequence
from typing import Any

import click
import msgspec

from learner_worker.commands.options import TOPICS, given, settings_flags
from learner_worker.commands.printing import escaped, seconds_of, shown_time, work_on_without_stdout
from learner_worker.contract.fields import ShardId
from learner_worker.errors import ConfigurationError
from learner_worker.observability import configure_logging
from learner_worker.operations.snapshots import list_snapshots, prune_snapshots, publish_files
from learner_worker.settings import Settings
from learner_worker.snapshots.catalog import Listing, SnapshotCatalog
from learner_worker.snapshots.manifest import SnapshotManifest
from learner_worker.snapshots.object_store import open_store

_shards_flag = click.option(
    "--shard",
    "shards",
    type=click.IntRange(min=0),
    multiple=True,
    help="Only this shard; repeatable. [default: all]",
)


@click.command("snapshot")
@_shards_flag
@settings_flags("state_dir", "snapshot_url", *TOPICS)
def make_snapshots(*, shards: Sequence[int], **flags: Any) -> None:
    """Publish snapshots of the shard files now.

    This needs no Kafka, and works while a worker runs. Workers with --snapshot-url publish by themselves.
    """
    work_on_without_stdout()
    configure_logging()
    settings = given(flags)
    asyncio.run(_make(settings, [ShardId(shard) for shard in shards]))


@click.command("list")
@_shards_flag
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@settings_flags("snapshot_url")
def show_snapshots(*, shards: Sequence[int], as_json: bool, **flags: Any) -> None:
    """List the snapshots in the store, including incomplete ones."""
    configure_logging()
    settings = given(flags)
    found = asyncio.run(_list(settings, [ShardId(shard) for shard in shards]))
    if as_json:
        listed = {shard: each._asdict() for shard, each in found.items()}
        click.echo(msgspec.json.format(msgspec.json.encode(listed), indent=2).decode())
        return
    for shard, each in found.items():
        for manifest in each.snapshots:
            click.echo(_line(shard, manifest))
        for name, reason in (each.broken | each.newer).items():
            click.echo(f"shard {shard}: {name}: {escaped(reason)}")


@click.command("prune")
@_shards_flag
@click.option("--older-than", help="Delete what is older: 90s, 2h, 7d. [default: the setting]")
@settings_flags("snapshot_url", "snapshot_keep_seconds")
def prune(*, shards: Sequence[int], older_than: str | None, **flags: Any) -> None:
    """Delete snapshots that are older than --snapshot-keep-seconds.

    This includes snapshots of topics that no longer exist, and incomplete ones that are older than a day.
    Workers delete only old snapshots of the shards that they own.
    """
    work_on_without_stdout()
    configure_logging()
    settings = given(flags)
    keep_seconds = settings.snapshot_keep_seconds if older_than is None else _seconds(older_than)
    asyncio.run(_prune(settings, [ShardId(shard) for shard in shards], keep_seconds))


def _seconds(text: str) -> float:
    try:
        return seconds_of(text)
    except ValueError as error:
        raise click.UsageError(f"--older-than: {text!r} is not an age such as 90s, 2h, 7d") from error


def _catalog(settings: Settings) -> SnapshotCatalog:
    if settings.snapshot_url is None:
        raise ConfigurationError("set --snapshot-url (LEARNER_SNAPSHOT_URL) to the store of the snapshots")
    return SnapshotCatalog(open_store(settings.snapshot_url))


async def _make(settings: Settings, shards: Sequence[ShardId]) -> None:
    catalog, topics = _catalog(settings), settings.topics().named()
    async for manifest in publish_files(settings.state_dir, shards, catalog, topics):
        click.echo(f"{manifest.name}: position {manifest.position:,}, {manifest.size:,} bytes")


async def _list(settings: Settings, shards: Sequence[ShardId]) -> dict[ShardId, Listing]:
    return {shard: found async for shard, found in list_snapshots(_catalog(settings), shards)}


async def _prune(settings: Settings, shards: Sequence[ShardId], keep_seconds: float) -> None:
    async for shard, count in prune_snapshots(_catalog(settings), shards, keep_seconds):
        click.echo(f"shard {shard}: {count:,} snapshots deleted")


def _line(shard: ShardId, manifest: SnapshotManifest) -> str:
    return (
        f"shard {shard}: made {shown_time(manifest.created_ms)}, position {manifest.position:,}, "
        f"{manifest.size:,} bytes, format {manifest.format}, incarnation {escaped(manifest.incarnation)}, "
        f"term {manifest.term}"
    )
