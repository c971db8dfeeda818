"""`forget`: deletes everything that the learner keeps about an agent, permanently."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import click
from pydantic import TypeAdapter, ValidationError

from learner_worker.commands.options import CONNECTION, TOPICS, given, moment_flag, settings_flags
from learner_worker.commands.printing import echo_gap, escaped, work_on_without_stdout
from learner_worker.contract.facts import ForgetMarker
from learner_worker.contract.fields import AgentId, AgentIdField, ShardId
from learner_worker.contract.times import Micros, format_time
from learner_worker.errors import SnapshotError
from learner_worker.group.topology_view import Layout, read_layout, require_unchanged
from learner_worker.kafka.admin import Cluster, connected
from learner_worker.kafka.clients import bulk_producer, running
from learner_worker.kafka.partition_reader import reading_partitions
from learner_worker.kafka.partitioner import partitioner
from learner_worker.observability import configure_logging
from learner_worker.operations.forget import Forgetting
from learner_worker.operations.snapshots import delete_forgotten
from learner_worker.settings import Settings
from learner_worker.snapshots.catalog import SnapshotCatalog
from learner_worker.snapshots.object_store import open_store

_agent_ids = TypeAdapter[AgentId](AgentIdField)
_MICROS = 1_000_000  # microseconds in a second
_WAIT_SECONDS = 30  # many times the default checkpoint interval


def _agent(_context: click.Context, _parameter: click.Parameter, text: str) -> AgentId:
    try:
        text.encode()
        return _agent_ids.validate_python(text)
    except (ValidationError, UnicodeEncodeError) as error:
        raise click.BadParameter(
            f"'{escaped(text)}' is no agent id: 1 to 256 characters of UTF-8 without control characters"
        ) from error


@dataclass(frozen=True, slots=True)
class _Scene:
    """The parts that the command needs, once Kafka has answered and its topics are checked."""

    forgetting: Forgetting
    cluster: Cluster
    shard: ShardId
    group_id: str
    layout: Layout


@click.command()
@click.argument("agent", callback=_agent)
@click.option(
    "--until",
    callback=moment_flag,
    help="Forget everything up to this time, or this age: 90s, 2h, 7d. [default: now]",
)
@click.option("--dry-run", is_flag=True, help="Print what would be forgotten; write nothing.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option(
    "--wait",
    "wait_seconds",
    type=click.IntRange(0, 86_400),
    default=_WAIT_SECONDS,
    show_default=True,
    help="How long to wait for a worker to forget the agent, in seconds; 0 = do not wait.",
)
@settings_flags(*CONNECTION, *TOPICS, "group_id", "clock_skew_tolerance_seconds", "snapshot_url")
def forget(
    agent: AgentId, until: Micros | None, *, dry_run: bool, yes: bool, wait_seconds: float, **flags: Any
) -> int:
    """Delete everything the learner keeps about AGENT, in every replica, permanently.

    Every bid, close and result of the agent whose own time is not later than --until counts for nothing any
    more, also if it arrives or is read again later; what happens afterwards counts anew, from zero. A marker
    in the changelog says so. Every replica that reads it deletes, also one that was away, and one that does
    not know markers stops: upgrade all replicas before the first use. It cannot be taken back. Repeating it
    is safe.

    What remains: the marker (agent and time); events, requests, replies and dead letters in their topics, by
    those topics' retention; bids in auctions that are still held, for an auction horizon; the agent's name
    as the winner in outcomes of agents it won against; files that were set aside. Kafka's cleaner takes
    tombstoned facts out of the changelog in its own time.

    With --snapshot-url, it also deletes the shard's snapshots from before the marker.

    An AGENT that begins with - goes last, after --.

    Exit code 0: it is in effect; with --wait 0: the marker is in Kafka. 1: the marker is in Kafka and nothing
    else has to be done, but no worker has followed it in that time; or Kafka or the store of snapshots
    failed: repeat the command. 2: something is wrong in what was asked or configured, or it was not
    confirmed; nothing was written.
    """
    work_on_without_stdout()
    settings = given(flags)
    configure_logging(level="error")
    marker = ForgetMarker(agent, _past(until, settings))
    if not (dry_run or yes or _consent(marker)):
        click.echo("learner-worker: not confirmed: nothing was written", err=True)
        return 2
    return asyncio.run(_run(settings, marker, dry_run=dry_run, wait_seconds=wait_seconds))


def _past(until: Micros | None, settings: Settings) -> Micros:
    """The given time; refuses one in the future."""
    now = time.time_ns() // 1000
    if until is None:
        return Micros(now)
    if until > now + round(settings.clock_skew_tolerance_seconds * _MICROS):
        raise click.UsageError(
            f"--until {format_time(until)} is in the future: what has not happened yet cannot be forgotten"
        )
    return until


def _consent(marker: ForgetMarker) -> bool:
    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to confirm on: give --yes, or try --dry-run")
    moment = format_time(marker.forget_until)
    return click.confirm(
        f"Forget all that agent '{escaped(marker.agent_id)}' did until {moment}? It cannot be taken back."
    )


async def _run(settings: Settings, marker: ForgetMarker, *, dry_run: bool, wait_seconds: float) -> int:
    url = settings.snapshot_url
    catalog = None if url is None else SnapshotCatalog(open_store(url))
    async with _scene(settings, marker) as scene:
        if dry_run:
            await _rehearse(scene, marker)
            return 0
        await _write(settings, scene, marker)
        if wait_seconds == 0:
            click.echo("not awaited: it takes effect when a worker reads the marker")
            return 0 if await _delete_snapshots(catalog, scene, marker) else 1
        in_effect = await scene.forgetting.in_effect(
            scene.cluster, scene.group_id, incarnation=scene.layout.incarnation, wait_seconds=wait_seconds
        )
        click.echo(_done(scene) if in_effect else await _undone(scene, wait_seconds))
        # After the wait: an owner that has read the marker publishes no more snapshots from before it.
        deleted = await _delete_snapshots(catalog, scene, marker)
        return 0 if in_effect and deleted else 1


async def _delete_snapshots(catalog: SnapshotCatalog | None, scene: _Scene, marker: ForgetMarker) -> bool:
    """Deletes the snapshots from before the marker, if there is a store; returns False if that failed."""
    topology, offset = scene.layout.topology, scene.forgetting.offset
    if catalog is None or topology is None or offset is None:
        return True
    try:
        count = await delete_forgotten(catalog, marker, offset, topology)
    except SnapshotError as error:
        click.echo(
            f"snapshots from before the marker may remain: {error}; repeat the command, or delete them with "
            "`learner-worker state prune`"
        )
        return False
    click.echo("1 snapshot deleted" if count == 1 else f"{count:,} snapshots deleted")
    return True


@asynccontextmanager
async def _scene(settings: Settings, marker: ForgetMarker) -> AsyncIterator[_Scene]:
    names, connection = settings.topics().named(), settings.connection()
    layout = await read_layout(
        connection,
        names,
        group_id=settings.given_group,
        patience_seconds=settings.startup_timeout_seconds,
    )
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(
            connected(connection, patience_seconds=settings.startup_timeout_seconds)
        )
        shard = ShardId(partitioner(layout.shards)(marker.agent_id))
        reader = await stack.enter_async_context(reading_partitions(connection, tell=echo_gap))
        group_id = layout.events_group(settings.given_group, settings.group_id)
        yield _Scene(Forgetting(marker, layout.names, shard, reader), cluster, shard, group_id, layout)


async def _rehearse(scene: _Scene, marker: ForgetMarker) -> None:
    superseded = await scene.forgetting.superseded()
    await scene.forgetting.metrics.read()
    click.echo(
        f"would forget what agent '{escaped(marker.agent_id)}' did until {format_time(marker.forget_until)}: "
        f"{_counted(len(superseded.due_tombstones))} in shard {scene.shard} of the changelog "
        f"would be tombstoned; {_record(scene)}"
    )


async def _write(settings: Settings, scene: _Scene, marker: ForgetMarker) -> None:
    async with running(bulk_producer(settings.connection()), settings.startup_timeout_seconds) as producer:
        await scene.forgetting.write_marker(producer)
        await require_unchanged(
            settings.connection(),
            settings.topics().named(),
            scene.layout,
            patience_seconds=settings.startup_timeout_seconds,
        )
        click.echo(
            f"agent '{escaped(marker.agent_id)}' is to be forgotten until "
            f"{format_time(marker.forget_until)}: the marker is at offset {scene.forgetting.offset} "
            f"of shard {scene.shard}"
        )
        count = await scene.forgetting.tombstone_superseded(producer)
        click.echo(f"{_counted(count)} in the changelog tombstoned")


def _done(scene: _Scene) -> str:
    return f"in effect: the worker that owns shard {scene.shard} has forgotten it; {_record(scene)}"


async def _undone(scene: _Scene, wait_seconds: float) -> str:
    members = await scene.cluster.stable_members(scene.group_id)
    who = (
        f"no worker of group {scene.group_id!r} is running"
        if members == []
        else f"no worker of group {scene.group_id!r} has come that far within {wait_seconds:g} s"
    )
    return f"not in effect yet: {who}; it will be when one reads the marker, nothing else has to be done"


def _record(scene: _Scene) -> str:
    bids = scene.forgetting.metrics.total_bids
    return "it has no metrics record" if bids is None else f"its metrics record counts {bids} outcomes"


def _counted(count: int) -> str:
    return "1 fact" if count == 1 else f"{count:,} facts"
