"""`dead-letters list|show|replay|drop`: what the learner could not use, and what becomes of it."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

import click
from aiokafka import AIOKafkaProducer

from learner_worker.commands.options import CONNECTION, TOPICS, given, settings_flags
from learner_worker.commands.printing import echo_gap, escaped, moment_ms, shown_time, text_or_hex
from learner_worker.contract.topics import TopicNames
from learner_worker.errors import LearnerError
from learner_worker.kafka.admin import connected, start_within
from learner_worker.kafka.batching import stop_within
from learner_worker.kafka.clients import bulk_producer
from learner_worker.kafka.partitioner import partitioner
from learner_worker.observability import configure_logging
from learner_worker.operations.dead_letters import (
    DeadLetter,
    DeadLetterId,
    DeadLetterIndex,
    DeadLetterReader,
    Filter,
    letter_box,
)
from learner_worker.operations.replay import Replay, ReplayResult, mark_all
from learner_worker.settings import Settings

_OPEN = "open"
_REPLAY_SETTINGS = (*CONNECTION, *TOPICS, "auction_horizon_seconds")


def _moment(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int | None:
    try:
        return None if text is None else moment_ms(text)
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r} is neither a time as 2026-01-31T12:00:00Z nor an age as 90s, 2h, 7d"
        ) from error


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
    """The flags that choose letters, gathered into one argument `wanted`."""
    options = (
        click.option("--reason", help="Only letters of this reason, as `invalid` or `wrong-partition`."),
        click.option("--topic", help="Only letters whose original lay in this topic."),
        click.option(
            "--since", "since_ms", callback=_moment, help="Dead letters since then: a time, or 90s, 2h, 7d."
        ),
        click.option("--until", "until_ms", callback=_moment, help="Dead letters before then."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group("dead-letters")
def dead_letters() -> None:
    """Look at what the learner could not use, send it back after a fix, or drop it."""


@dead_letters.command("list")
@_filters
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="The newest so many.")
@click.option("--all", "with_handled", is_flag=True, help="Also those that were replayed or dropped.")
@click.option("--json", "as_json", is_flag=True, help="A JSON array.")
@settings_flags(*CONNECTION, *TOPICS)
def list_letters(*, limit: int, with_handled: bool, as_json: bool, **flags: Any) -> None:
    """List open dead letters, the newest last."""
    wanted = _taken_filter(flags)
    inventory = asyncio.run(_stock(_configured(flags), wanted))
    letters = inventory.letters if with_handled else inventory.open()
    shown = letters[-limit:]
    if as_json:
        click.echo(json.dumps([_summary(letter, inventory) for letter in shown], indent=2))
        return
    for letter in shown:
        click.echo(_line(letter, inventory))
    click.echo(_totals(inventory, hidden=len(letters) - len(shown)))


@dead_letters.command("show")
@click.argument("letter_id", callback=_one_named, metavar="PARTITION/OFFSET")
@settings_flags(*CONNECTION, *TOPICS)
def show_letter(letter_id: DeadLetterId, **flags: Any) -> None:
    """Show one dead letter with everything it carries, as JSON."""
    settings = _configured(flags)

    async def find() -> tuple[DeadLetter | None, DeadLetterIndex]:
        async with _box(settings) as box:
            inventory = await box.take_stock(Filter(letter_ids=(letter_id,)))
            found = [letter async for letter in box.whole({letter.letter_id for letter in inventory.letters})]
            return (found[0] if found else None), inventory

    letter, inventory = asyncio.run(find())
    if letter is None:
        raise LearnerError(_absent([letter_id]))
    headers = [[name, text_or_hex(value)] for name, value in letter.headers]
    whole = {"key": text_or_hex(letter.key), "value": text_or_hex(letter.value), "headers": headers}
    click.echo(json.dumps({**_described(letter, inventory), **whole}, indent=2))


@dead_letters.command("replay")
@click.argument("letter_ids", nargs=-1, callback=_named, metavar="[PARTITION/OFFSET]...")
@_filters
@click.option("--dry-run", is_flag=True, help="Say what would happen; send nothing.")
@settings_flags(*_REPLAY_SETTINGS)
def replay_letters(letter_ids: tuple[DeadLetterId, ...], *, dry_run: bool, **flags: Any) -> int:
    """Send dead letters back to the learner: all open ones, those that match, or those named.

    Each is read anew first: what this version cannot read either stays, and the reason is shown. Events keep
    their record's time, so replaying twice is replaying once. Exit code 1: some could not be replayed.
    """
    wanted = _taken_filter(flags, letter_ids)
    return asyncio.run(_replay(_configured(flags), wanted, dry_run=dry_run))


@dead_letters.command("drop")
@click.argument("letter_ids", nargs=-1, callback=_named, metavar="[PARTITION/OFFSET]...")
@_filters
@click.option("--all-matching", is_flag=True, help="All open ones that match, instead of naming them.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@settings_flags(*CONNECTION, *TOPICS)
def drop_letters(
    letter_ids: tuple[DeadLetterId, ...], *, all_matching: bool, yes: bool, **flags: Any
) -> None:
    """Mark dead letters as handled without sending them back; they stay readable with `list --all`."""
    if all_matching == bool(letter_ids):
        raise click.UsageError("name the letters as PARTITION/OFFSET, or give --all-matching")
    wanted = _taken_filter(flags, letter_ids)
    settings = _configured(flags)
    inventory = asyncio.run(_stock(settings, wanted))
    _require_all(inventory, letter_ids)
    chosen = inventory.open()
    if all_matching and chosen and not yes:
        click.confirm(f"Drop {_counted(len(chosen))}?", abort=True)
    asyncio.run(_drop(settings, [letter.letter_id for letter in chosen]))
    click.echo(f"dropped {_counted(len(chosen))}")


# --- the work -------------------------------------------------------------------------------------------


def _taken_filter(flags: dict[str, Any], letter_ids: Sequence[DeadLetterId] = ()) -> Filter:
    """Takes the filter's flags away from the settings' ones."""
    names = ("reason", "topic", "since_ms", "until_ms")
    return Filter(**{name: flags.pop(name) for name in names}, letter_ids=frozenset(letter_ids))


def _configured(flags: dict[str, Any]) -> Settings:
    settings = given(flags)
    configure_logging(level="error")
    return settings


@asynccontextmanager
async def _box(settings: Settings) -> AsyncIterator[DeadLetterReader]:
    topic = settings.topics().named().dead_letters
    patience = settings.startup_timeout_seconds
    async with letter_box(settings.connection(), topic, patience_seconds=patience, tell=echo_gap) as box:
        yield box


async def _stock(settings: Settings, wanted: Filter) -> DeadLetterIndex:
    async with _box(settings) as box:
        return await box.take_stock(wanted)


async def _replay(settings: Settings, wanted: Filter, *, dry_run: bool) -> int:
    names = settings.topics().named()
    horizon_ms = round(settings.auction_horizon_seconds * 1000)
    replay = Replay(
        names,
        partitioner(await _shards(settings, names)),
        late_before_ms=round(time.time() * 1000) - horizon_ms,
    )
    async with _box(settings) as box:
        inventory = await box.take_stock(wanted)
        _require_all(inventory, wanted.letter_ids)
        # Letters that are named go back even if they did before: it is safe, and somebody wants it.
        chosen = inventory.letters if wanted.letter_ids else inventory.open()
        letters = box.whole({letter.letter_id for letter in chosen})
        if dry_run:
            return await _report((replay.judge(letter) async for letter in letters), "would be replayed")
        async with _producer(settings) as producer:
            return await _report(replay.run(letters, producer), "replayed")


async def _report(results: AsyncIterator[ReplayResult], done: str) -> int:
    """Prints what becomes of each letter; the exit code."""
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


async def _shards(settings: Settings, names: TopicNames) -> int:
    async with connected(settings.connection(), patience_seconds=settings.startup_timeout_seconds) as cluster:
        return await cluster.check_topics(names)


async def _drop(settings: Settings, letter_ids: Sequence[DeadLetterId]) -> None:
    async with _producer(settings) as producer:
        await mark_all(producer, settings.topics().named(), letter_ids, "dropped")


@asynccontextmanager
async def _producer(settings: Settings) -> AsyncIterator[AIOKafkaProducer]:
    producer = bulk_producer(settings.connection())
    await start_within(producer, settings.startup_timeout_seconds)
    try:
        yield producer
    finally:
        await stop_within(producer)


def _require_all(inventory: DeadLetterIndex, letter_ids: Collection[DeadLetterId]) -> None:
    absent = sorted(set(letter_ids) - {letter.letter_id for letter in inventory.letters})
    if absent:
        raise LearnerError(_absent(absent))


def _absent(letter_ids: Sequence[DeadLetterId]) -> str:
    named = ", ".join(map(str, letter_ids))
    return f"no dead letter {named}: it never was one, does not match, or Kafka's retention has deleted it"


# --- what is printed ------------------------------------------------------------------------------------


def _result_line(result: ReplayResult, done: str) -> str:
    name = f"{result.letter_id}  {escaped(result.origin)}"
    if result.sent is None:
        return f"{name}  stays a dead letter: {escaped(result.why)}"
    return f"{name}  {done} to {result.sent.topic}/{result.sent.partition}"


def _line(letter: DeadLetter, inventory: DeadLetterIndex) -> str:
    handled = inventory.handled.get(letter.letter_id)
    start = "(no value)" if letter.value is None else escaped(letter.value)
    more = f" ... ({letter.value_bytes} bytes)" if letter.value_bytes > len(letter.value or b"") else ""
    return (
        f"{letter.letter_id}  {shown_time(letter.timestamp_ms)}  {escaped(letter.origin)}  "
        f"{escaped(letter.reason)}{f'  [{handled}]' if handled else ''}\n"
        f"    {escaped(letter.message)}\n    {start}{more}"
    )


def _totals(inventory: DeadLetterIndex, *, hidden: int) -> str:
    states = Counter(inventory.handled.get(letter.letter_id, _OPEN) for letter in inventory.letters)
    text = f"{states[_OPEN]} open, {states['replayed']} replayed, {states['dropped']} dropped"
    return f"{text}; {hidden} older ones are not shown (--limit)" if hidden else text


def _described(letter: DeadLetter, inventory: DeadLetterIndex) -> dict[str, Any]:
    return {
        "letter": str(letter.letter_id),
        "state": inventory.handled.get(letter.letter_id, _OPEN),
        "at": shown_time(letter.timestamp_ms),
        "reason": letter.reason,
        "message": letter.message,
        "origin": {
            "topic": letter.topic,
            "partition": letter.partition,
            "offset": letter.offset,
            "at": shown_time(letter.original_ms),
        },
        "value_bytes": letter.value_bytes,
        "truncated_from_bytes": letter.truncated_bytes,
    }


def _summary(letter: DeadLetter, inventory: DeadLetterIndex) -> dict[str, Any]:
    start = None if letter.value is None else escaped(letter.value)
    return {**_described(letter, inventory), "value_start": start}


def _counted(count: int) -> str:
    return "1 dead letter" if count == 1 else f"{count} dead letters"
