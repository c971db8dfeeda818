"""`state show`, `state verify`, `state rebuild`: the state folder; for the others see `snapshots.py`."""

import asyncio
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from learner_worker.commands.options import CONNECTION, TOPICS, given, settings_flags
from learner_worker.commands.printing import work_on_without_stdout
from learner_worker.commands.snapshots import make_snapshots, prune, show_snapshots
from learner_worker.contract.fields import ShardId
from learner_worker.observability import configure_logging
from learner_worker.operations.changelog import open_changelog
from learner_worker.operations.comparison import ValueDifference
from learner_worker.operations.overview import Contents, FileSize, FolderOverview, ShardOverview, overview
from learner_worker.operations.rebuild import Rebuilt, rebuild
from learner_worker.operations.verification import ShardVerdict, verify
from learner_worker.settings import Settings
from learner_worker.store.state_folder import locked_state_folder, no_shard_files, shard_files

_Command = Callable[..., Any]
_UNIT = 1024  # binary units, as in KiB
_SHOWN_CHARACTERS = 60  # a difference fits on one line
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _shard_flag(text: str) -> Callable[[_Command], _Command]:
    return click.option("--shard", "shards", type=click.IntRange(min=0), multiple=True, help=text)


@click.group()
def state() -> None:
    """Inspect, verify or rebuild a replica's state folder; make, list or delete snapshots of its files."""


for _command in (make_snapshots, show_snapshots, prune):
    state.add_command(_command)


@state.command("show")
@_as_json
@settings_flags("state_dir")
def show_state(*, as_json: bool, **flags: Any) -> None:
    """Show the contents of the shard files.

    Without Kafka, and also while a worker runs: nothing is locked, made or changed.
    """
    found = overview(given(flags).state_dir)
    click.echo(_json(found) if as_json else "\n".join(_folder_lines(found)))


@state.command("verify")
@_shard_flag("Only this shard; several times for several. [default: all that have a file]")
@_as_json
@settings_flags("state_dir", "strategy", "strategies", *CONNECTION, *TOPICS)
def verify_state(*, shards: Sequence[int], as_json: bool, **flags: Any) -> None:
    """Compare the shard files with Kafka.

    Exit code 1 if one is not what the changelog says. A worker may run meanwhile. Needs room for one more
    file of the shard's size where TMPDIR is.
    """
    settings = given(flags)
    configure_logging()
    verdicts = asyncio.run(_verify(settings, [ShardId(shard) for shard in shards], as_json=as_json))
    if as_json:
        click.echo(_json(verdicts))
    sys.exit(0 if all(verdict.verified for verdict in verdicts) else 1)


@state.command("rebuild")
@_shard_flag("This shard; several times for several.")
@click.option("--all", "every", is_flag=True, help="Every shard that has a file here.")
@settings_flags("state_dir", "strategy", "strategies", *CONNECTION, *TOPICS)
def rebuild_state(*, shards: Sequence[int], every: bool, **flags: Any) -> None:
    """Rebuild shard files from Kafka.

    The worker is stopped meanwhile. The old file is kept as .replaced, in place of an earlier one.
    """
    work_on_without_stdout()
    if every == bool(shards):
        raise click.UsageError("say which: --shard N, several times if need be, or --all")
    settings = given(flags)
    if not settings.state_dir.is_dir():
        raise no_shard_files(settings.state_dir)
    configure_logging()
    with locked_state_folder(settings.state_dir):
        chosen = list(shard_files(settings.state_dir)) if every else [ShardId(shard) for shard in shards]
        if not chosen:
            raise no_shard_files(settings.state_dir)
        asyncio.run(_rebuild(settings, list(dict.fromkeys(chosen))))


async def _verify(settings: Settings, shards: Sequence[ShardId], *, as_json: bool) -> list[ShardVerdict]:
    verdicts = []
    if not shard_files(settings.state_dir):
        raise no_shard_files(settings.state_dir)
    async with open_changelog(settings, _say) as changelog:
        async for verdict in verify(settings.state_dir, shards, changelog):
            verdicts.append(verdict)
            if not as_json:
                click.echo("\n".join(_verdict_lines(verdict)))
    return verdicts


async def _rebuild(settings: Settings, shards: Sequence[ShardId]) -> None:
    async with open_changelog(settings, _say) as changelog:
        async for rebuilt in rebuild(settings.state_dir, shards, changelog):
            click.echo(_rebuilt_line(rebuilt))


def _say(line: str) -> None:
    click.echo(line, err=True)


def _json(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


# --- show ----------------------------------------------------------------------------------------------


def _folder_lines(found: FolderOverview) -> Iterator[str]:
    for shard in found.shards:
        yield from _shard_lines(shard)
    for file in found.set_aside:
        yield f"set aside: {Path(file.path).name}, {_size(file)}"


def _shard_lines(shard: ShardOverview) -> Iterator[str]:
    yield f"shard {shard.shard}: {_size(shard.file)}"
    if shard.contents is None:
        mend = f"; `learner-worker state rebuild --shard {shard.shard}` rebuilds it"
        yield f"  {shard.problem}: {shard.detail}{'' if shard.problem == 'unreadable' else mend}"
    else:
        yield from _contents_lines(shard.contents)


def _contents_lines(held: Contents) -> Iterator[str]:
    yield (
        f"  of cluster {held.cluster_id}, prefix {held.topic_prefix!r}, {held.partitions} partitions, "
        f"format {held.format}"
    )
    yield f"  {held.outcomes:,} outcomes ({held.invisible:,} rows kept invisible)"
    due = f"{held.metrics_due:,} metrics records still due"
    yield f"  {held.agents:,} agents ({due}), {held.keywords:,} keywords"
    yield f"  {held.open_auctions:,} auctions open, {held.closed_auctions:,} closed"
    positions = ", ".join(f"{topic} {offset:,}" for topic, offset in held.positions.items())
    yield f"  positions: {positions or 'none yet'}"


def _size(file: FileSize) -> str:
    log = f" + log {_bytes(file.wal_bytes)}" if file.wal_bytes else ""
    return f"{_bytes(file.file_bytes)}{log}, last modified {file.modified}"


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < _UNIT:
            return f"{count:,.4g} {unit}"
        count /= _UNIT
    return f"{count:,.4g} GiB"


# --- verify and rebuild --------------------------------------------------------------------------------


def _verdict_lines(verdict: ShardVerdict) -> Iterator[str]:
    summary = (
        f"{verdict.outcomes:,} outcomes, {verdict.agents:,} agents, position {verdict.position:,}, "
        f"digest {verdict.digest}"
    )
    if verdict.verified:
        yield f"shard {verdict.shard}: verified: {summary}"
    elif verdict.digest:
        yield f"shard {verdict.shard}: {verdict.difference_count:,} differences: {summary}"
    else:
        yield f"shard {verdict.shard}: not verified"
    yield from (f"  {sentence}" for sentence in (*verdict.findings, *verdict.notes))
    yield from map(_difference_line, verdict.differences)
    if more := verdict.difference_count - len(verdict.differences):
        yield f"  and {more:,} more"


def _difference_line(difference: ValueDifference) -> str:
    task = "" if difference.task is None else f"task {difference.task!r}, "
    return (
        f"  {task}agent {difference.agent!r}: {difference.field} is {_value(difference.file)} in the file, "
        f"{_value(difference.changelog)} by the changelog"
    )


def _value(value: object) -> str:
    text = str(value) if isinstance(value, dict) else repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."


def _rebuilt_line(rebuilt: Rebuilt) -> str:
    kept = f"; the old file is kept as {rebuilt.kept}" if rebuilt.kept else ""
    return (
        f"shard {rebuilt.shard}: rebuilt from {rebuilt.records:,} changelog records: {rebuilt.outcomes:,} "
        f"outcomes, {rebuilt.agents:,} agents{kept}"
    )
