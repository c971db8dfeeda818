"""`dead-letters list|show|replay|drop`: lists dead letters, and replays or drops them."""

import asyncio
import functools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import click
from aiokafka import AIOKafkaProducer

from learner_worker.commands.options import CONNECTION, TOPICS, given, moment_flag, settings_flags
from learner_worker.commands.printing import (
    echo_gap,
    escaped,
    shown_time,
    text_or_hex,
    work_on_without_stdout,
)
from learner_worker.contract.times import Micros
from learner_worker.errors import LearnerError
from learner_worker.group.topology_view import Layout, read_layout, require_unchanged
from learner_worker.kafka.clients import bulk_producer, running
from learner_worker.kafka.partitioner import partitioner
from learner_worker.observability import configure_logging
from learner_worker.operations.dead_letters import (
    DeadLetter,
    DeadLetterId,
    DeadLetterIndex,
    DeadLetterReader,
    Filter,
    reading_dead_letters,
)
from learner_worker.operations.replay import Replay, ReplayResult, mark_all
from learner_worker.settings import Settings

_OPEN = "open"
_REPLAY_SETTINGS = (*CONNECTION, *TOPICS, "auction_horizon_seconds")


def _named(
    _context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]
) -> tuple[DeadLetterId, ...]:
    try:
        return tuple(map(DeadLetterId.parse, texts))
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _one_named(context: click.Context, parameter: click.Parameter, text: str) -> DeadLetterId:
    return _named(context, parameter, (text,))[0]


_Command = Callable[..., Any]


def _filters(command: _Command) -> _Command:
    """Adds the flags that select dead letters."""
    options = (
        click.option(
            "--reason", help="Only dead letters with this reason, for example `invalid` or `wrong-partition`."
        ),
        click.option("--topic", help="Only dead letters whose original record was in this topic."),
        click.option(
            "--since",
            callback=moment_flag,
            help="Only dead letters since this time, or this age: 90s, 2h, 7d.",
        ),
        click.option(
            "--until", callback=moment_flag, help="Only dead letters before this time, or this age."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group("dead-letters")
def dead_letters() -> None:
    """Look at what the learner could not use, send it back after a fix, or drop it."""


@dead_letters.command("list")
@_filters
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=50,
    show_default=True,
    metavar="N",
    help="Show at most N, the newest.",
)
@click.option(
    "--all", "with_handled", is_flag=True, help="Include dead letters that were replayed or dropped."
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@settings_flags(*CONNECTION, *TOPICS)
def list_dead_letters(*, limit: int, with_handled: bool, as_json: bool, **flags: Any) -> None:
    """List open dead letters, the newest last."""
    wanted = _taken_filter(flags)
    index = asyncio.run(_list_matching(_configured(flags), wanted))
    listed = index.dead_letters if with_handled else index.open()
    shown = listed[-limit:]
    if as_json:
        click.echo(json.dumps([_summary(dead_letter, index) for dead_letter in shown], indent=2))
        return
    for dead_letter in shown:
        click.echo(_line(dead_letter, index))
    click.echo(_totals(index, hidden=len(listed) - len(shown)))


@dead_letters.command("show")
@click.argument("name", callback=_one_named, metavar="PARTITION/OFFSET")
@settings_flags(*CONNECTION, *TOPICS)
def show_dead_letter(name: DeadLetterId, **flags: Any) -> None:
    """Show one dead letter with everything it carries, as JSON."""
    settings = _configured(flags)

    async def find() -> tuple[DeadLetter | None, DeadLetterIndex]:
        async with _reader(settings) as reader:
            index = await reader.list_matching(Filter(ids=(name,)))
            found = [whole async for whole in reader.whole({one.id for one in index.dead_letters})]
            return (found[0] if found else None), index

    dead_letter, index = asyncio.run(find())
    if dead_letter is None:
        raise LearnerError(_absent([name]))
    headers = [[header, text_or_hex(value)] for header, value in dead_letter.headers]
    key, value = text_or_hex(dead_letter.key), text_or_hex(dead_letter.value)
    whole = {"key": key, "value": value, "headers": headers}
    click.echo(json.dumps({**_described(dead_letter, index), **whole}, indent=2))


@dead_letters.command("replay")
@click.argument("names", nargs=-1, callback=_named, metavar="[PARTITION/OFFSET]...")
@_filters
@click.option("--dry-run", is_flag=True, help="Print what would happen; send nothing.")
@settings_flags(*_REPLAY_SETTINGS)
def replay_dead_letters(names: tuple[DeadLetterId, ...], *, dry_run: bool, **flags: Any) -> int:
    """Send dead letters back to the learner: all open ones, those that match, or those named.

    Each is read anew first: what this version cannot read either stays, and the reason is shown. Events keep
    their record's time, so replaying twice is replaying once. Exit code 1: some could not be replayed.
    """
    work_on_without_stdout()
    wanted = _taken_filter(flags, names)
    return asyncio.run(_replay(_configured(flags), wanted, dry_run=dry_run))


@dead_letters.command("drop")
@click.argument("names", nargs=-1, callback=_named, metavar="[PARTITION/OFFSET]...")
@_filters
@click.option("--all-matching", is_flag=True, help="Drop all open dead letters that match.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@settings_flags(*CONNECTION, *TOPICS)
def drop_dead_letters(
    names: tuple[DeadLetterId, ...], *, all_matching: bool, yes: bool, **flags: Any
) -> None:
    """Mark dead letters as handled without sending them back; they stay readable with `list --all`."""
    work_on_without_stdout()
    if all_matching == bool(names):
        raise click.UsageError("name the dead letters as PARTITION/OFFSET, or give --all-matching")
    wanted = _taken_filter(flags, names)
    settings = _configured(flags)
    index = asyncio.run(_list_matching(settings, wanted))
    _require_all(index, names)
    chosen = index.open()
    if all_matching and chosen and not yes:
        click.confirm(f"Drop {_counted(len(chosen))}?", abort=True)
    asyncio.run(_drop(settings, [dead_letter.id for dead_letter in chosen]))
    click.echo(f"dropped {_counted(len(chosen))}")


# --- the work -------------------------------------------------------------------------------------------


def _taken_filter(flags: dict[str, Any], ids: Sequence[DeadLetterId] = ()) -> Filter:
    """Separates the filter's flags from those of the settings."""
    return Filter(
        reason=flags.pop("reason"),
        topic=flags.pop("topic"),
        since_ms=_milliseconds(flags.pop("since")),
        until_ms=_milliseconds(flags.pop("until")),
        ids=frozenset(ids),
    )


def _milliseconds(moment: Micros | None) -> int | None:
    return None if moment is None else moment // 1000


def _configured(flags: dict[str, Any]) -> Settings:
    settings = given(flags)
    configure_logging(level="error")
    return settings


@asynccontextmanager
async def _reader(settings: Settings) -> AsyncIterator[DeadLetterReader]:
    topic = settings.topics().named().dead_letters
    patience = settings.startup_timeout_seconds
    async with reading_dead_letters(
        settings.connection(), topic, patience_seconds=patience, tell=echo_gap
    ) as reader:
        yield reader


async def _list_matching(settings: Settings, wanted: Filter) -> DeadLetterIndex:
    async with _reader(settings) as reader:
        return await reader.list_matching(wanted)


async def _replay(settings: Settings, wanted: Filter, *, dry_run: bool) -> int:
    horizon_ms = round(settings.auction_horizon_seconds * 1000)
    layout = await _layout(settings)
    replay = Replay(
        layout.names,
        partitioner(layout.shards),
        late_before_ms=round(time.time() * 1000) - horizon_ms,
        confirm=functools.partial(
            require_unchanged,
            settings.connection(),
            settings.topics().named(),
            layout,
            patience_seconds=settings.startup_timeout_seconds,
        ),
    )
    async with _reader(settings) as reader:
        index = await reader.list_matching(wanted)
        _require_all(index, wanted.ids)
        # Named dead letters are replayed even if they were before: that is safe, and explicitly requested.
        chosen = index.dead_letters if wanted.ids else index.open()
        whole = reader.whole({dead_letter.id for dead_letter in chosen})
        if dry_run:
            return await _report((replay.judge(one) async for one in whole), "would be replayed")
        async with _producer(settings) as producer:
            return await _report(replay.run(whole, producer), "replayed")


async def _report(results: AsyncIterator[ReplayResult], done: str) -> int:
    """Prints the result for each dead letter; returns the exit code."""
    counts: Counter[str] = Counter()
    async for result in results:
        click.echo(_result_line(result, done))
        counts["done" if result.sent else "stays"] += 1
        counts["late"] += result.late
    click.echo(f"{_counted(counts['done'])} {done}, {counts['stays']} stay")
    if counts["late"]:
        click.echo(
            f"{counts['late']} of them are bids and closes older than the auction horizon: "
            "their auctions may be forgotten, and then they count for nothing"
        )
    return 1 if counts["stays"] else 0


async def _layout(settings: Settings) -> Layout:
    return await read_layout(
        settings.connection(),
        settings.topics().named(),
        group_id=settings.given_group,
        patience_seconds=settings.startup_timeout_seconds,
    )


async def _drop(settings: Settings, ids: Sequence[DeadLetterId]) -> None:
    async with _producer(settings) as producer:
        await mark_all(producer, settings.topics().named(), ids, "dropped")


def _producer(settings: Settings) -> AbstractAsyncContextManager[AIOKafkaProducer]:
    return running(bulk_producer(settings.connection()), settings.startup_timeout_seconds)


def _require_all(index: DeadLetterIndex, ids: Collection[DeadLetterId]) -> None:
    absent = sorted(set(ids) - {dead_letter.id for dead_letter in index.dead_letters})
    if absent:
        raise LearnerError(_absent(absent))


def _absent(ids: Sequence[DeadLetterId]) -> str:
    named = ", ".join(map(str, ids))
    return f"no dead letter {named}: it never was one, does not match, or Kafka's retention has deleted it"


# --- what is printed ------------------------------------------------------------------------------------


def _result_line(result: ReplayResult, done: str) -> str:
    name = f"{result.id}  {escaped(result.origin)}"
    if result.sent is None:
        return f"{name}  stays a dead letter: {escaped(result.why)}"
    return f"{name}  {done} to {result.sent.topic}/{result.sent.partition}"


def _line(dead_letter: DeadLetter, index: DeadLetterIndex) -> str:
    handled = index.handled.get(dead_letter.id)
    start = "(no value)" if dead_letter.value is None else escaped(dead_letter.value)
    more = (
        f" ... ({dead_letter.value_bytes} bytes)"
        if dead_letter.value_bytes > len(dead_letter.value or b"")
        else ""
    )
    return (
        f"{dead_letter.id}  {shown_time(dead_letter.timestamp_ms)}  {escaped(dead_letter.origin)}  "
        f"{escaped(dead_letter.reason)}{f'  [{handled}]' if handled else ''}\n"
        f"    {escaped(dead_letter.message)}\n    {start}{more}"
    )


def _totals(index: DeadLetterIndex, *, hidden: int) -> str:
    states = Counter(index.handled.get(dead_letter.id, _OPEN) for dead_letter in index.dead_letters)
    text = f"{states[_OPEN]} open, {states['replayed']} replayed, {states['dropped']} dropped"
    return f"{text}; {hidden} older ones are not shown (--limit)" if hidden else text


def _described(dead_letter: DeadLetter, index: DeadLetterIndex) -> dict[str, Any]:
    return {
        "letter": str(dead_letter.id),
        "state": index.handled.get(dead_letter.id, _OPEN),
        "at": shown_time(dead_letter.timestamp_ms),
        "reason": dead_letter.reason,
        "message": dead_letter.message,
        "origin": {
            "topic": dead_letter.topic,
            "partition": dead_letter.partition,
            "offset": dead_letter.offset,
            "at": shown_time(dead_letter.original_ms),
        },
        "value_bytes": dead_letter.value_bytes,
        "truncated_from_bytes": dead_letter.truncated_bytes,
    }


def _summary(dead_letter: DeadLetter, index: DeadLetterIndex) -> dict[str, Any]:
    start = None if dead_letter.value is None else escaped(dead_letter.value)
    return {**_described(dead_letter, index), "value_start": start}


def _counted(count: int) -> str:
    return "1 dead letter" if count == 1 else f"{count} dead letters"
