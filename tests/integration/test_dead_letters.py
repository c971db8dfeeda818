"""Dead letters on a real broker: listed, shown, sent back after a fix, dropped."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer

from learner_worker.brokers import Broker
from learner_worker.contract.topics import HOP_HEADER, TopicName, TopicNames
from learner_worker.errors import RecordError
from learner_worker.kafka.connection import Connection
from learner_worker.kafka.partitioner import partitioner
from learner_worker.kafka.patches import LightRecord
from learner_worker.kafka.records import Outgoing, dead_letter
from learner_worker.operations.dead_letters import Filter, reading_dead_letters
from learner_worker.operations.replay import Replay
from tests.acceptance.test_refusals import Ended, learner_worker
from tests.integration.test_whole_way import metrics_equal_the_model
from tests.support import model
from tests.support.steady import nothing_to_confirm
from tests.support.swarm import swarm_history
from tests.support.workers import (
    WorkerProcess,
    create_topics,
    outcomes_on_disk,
    publish,
    read_topic,
    roomy_topics,
    running_worker,
    topic_of,
    until,
)

PARTITIONS = 4
ROOMY = 4 * 1024 * 1024
TIMES = ("placed_at", "closed_at", "finished_at")


async def test_dead_letters_replayed_once_or_twice_give_the_models_outcomes(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """Events lost to a wrong partition and to an older version come back, poison stays; twice is once."""
    names = await roomy_topics(broker.bootstrap_servers, prefix, partitions=PARTITIONS, record_bytes=ROOMY)
    history, auction = swarm_history(8, 30), timeless_auction()
    moved, refused = history[::4], history[1::4]
    state_dir = tmp_path / "state"
    async with running_worker(broker.bootstrap_servers, prefix, state_dir) as worker:
        rest = [event for event in history if event not in {*moved, *refused}]
        await publish(broker.bootstrap_servers, names, rest)
        await send(broker, [twice_wrong(event, names) for event in moved])
        await send(broker, [twice_wrong(event, names, own_time=False) for event in auction])
        await send(broker, [refused_before(event, names, at) for at, event in enumerate(refused)])
        await send(broker, poison(names))
        count = len([*moved, *auction, *refused]) + len(poison(names))
        await until(lambda: written(broker, names, count), "every dead letter", seconds=60)
        assert [one["state"] for one in await listed(broker, prefix)] == ["open"] * count

        tried = await command(broker, prefix, "replay", "--dry-run")
        assert tried.code == 1
        assert f"{count - 3} dead letters would be replayed, 3 stay" in tried.out
        assert await rerouted(broker, names) == len(moved) + len(auction)

        await _replay(broker, prefix, worker, count=count - 3, stay=3)
        everything = [*history, *auction]
        await metrics_equal_the_model(broker, names, everything)
        left = await listed(broker, prefix)
        assert sorted(one["reason"] for one in left) == ["not-json", "not-json", "too-large"]

        handled = [one["letter"] for one in await listed(broker, prefix, "--all")]
        again = [name for name in handled if name not in {one["letter"] for one in left}]
        await _replay(broker, prefix, worker, *again, count=count - 3, stay=0)
        await metrics_equal_the_model(broker, names, everything)
        assert await worker.stop() == 0
    assert outcomes_on_disk(state_dir) == model.outcomes(everything)


async def test_what_stays_says_why_and_is_dropped_by_a_human(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """Poison: replay names each reason, show has all of it, drop closes it; list --all still has it."""
    names = await roomy_topics(broker.bootstrap_servers, prefix, partitions=PARTITIONS, record_bytes=ROOMY)
    async with running_worker(broker.bootstrap_servers, prefix, tmp_path / "state") as worker:
        await send(broker, poison(names))
        await until(lambda: written(broker, names, 3), "every dead letter")
        assert await worker.stop() == 0
    replayed = await command(broker, prefix, "replay")
    assert replayed.code == 1
    for reason in (
        "Invalid JSON",
        "only the first 65536 of its",
        f"a record of {names.outcomes} is no event",
    ):
        assert f"stays a dead letter: {reason}" in replayed.out
    (letter,) = await listed(broker, prefix, "--reason", "not-json", "--topic", names.bid_placed)
    assert "\\x1b[31m" in letter["value_start"]
    shown = json.loads((await command(broker, prefix, "show", letter["letter"])).out)
    assert shown["value"] == "\x1b[31mnot JSON"
    assert shown["headers"] == [["trace", "abc"], ["learner-dropped", "0/0"]]
    in_words = await command(broker, prefix, "list")
    assert "\x1b" not in in_words.out
    assert "3 open, 0 replayed, 0 dropped" in in_words.out

    named = await command(broker, prefix, "drop", letter["letter"])
    assert (named.code, named.out) == (0, "dropped 1 dead letter\n")
    refused = await command(broker, prefix, "drop", "--all-matching")
    assert refused.code != 0
    assert len(await listed(broker, prefix)) == 2
    others = await command(broker, prefix, "drop", "--all-matching", "--yes")
    assert (others.code, others.out) == (0, "dropped 2 dead letters\n")
    assert await listed(broker, prefix) == []
    assert [one["state"] for one in await listed(broker, prefix, "--all")] == ["dropped"] * 3
    assert await listed(broker, prefix, "--all", "--since", "1s") == []
    assert len(await listed(broker, prefix, "--all", "--since", "1h", "--limit", "2")) == 2


async def test_a_replay_that_dies_before_its_marks_is_repeated_without_harm(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """Sent but never marked: the letters are open still, and the second replay changes no outcome."""
    names = await create_topics(broker.bootstrap_servers, prefix, partitions=PARTITIONS)
    auction = timeless_auction()
    async with running_worker(broker.bootstrap_servers, prefix, tmp_path / "state") as worker:
        await send(broker, [twice_wrong(event, names, own_time=False) for event in auction])
        await until(lambda: written(broker, names, len(auction)), "every dead letter")
        replay = Replay(names, partitioner(PARTITIONS), confirm=nothing_to_confirm)
        async with reading_dead_letters(
            Connection(broker.bootstrap_servers), names.dead_letters, patience_seconds=10, tell=print
        ) as reader:
            index = await reader.list_matching(Filter())
            found = [whole async for whole in reader.whole({one.id for one in index.dead_letters})]
        await send(broker, [sent for one in found if (sent := replay.judge(one).sent) is not None])
        assert len(await listed(broker, prefix)) == len(auction)
        await _replay(broker, prefix, worker, count=len(auction), stay=0)
        await metrics_equal_the_model(broker, names, auction)
        assert await worker.stop() == 0
    assert outcomes_on_disk(tmp_path / "state") == model.outcomes(auction)


async def test_wrong_usage_and_absent_dead_letters_have_exit_codes(broker: Broker, prefix: str) -> None:
    """A name that is none, a drop without a choice: 2. A letter that is not there: 1."""
    await create_topics(broker.bootstrap_servers, prefix, partitions=PARTITIONS)
    assert (await command(broker, prefix, "show", "seven")).code == 2
    assert (await command(broker, prefix, "drop")).code == 2
    assert (await command(broker, prefix, "list", "--since", "yesterday")).code == 2
    absent = await command(broker, prefix, "replay", "0/7")
    assert (absent.code, "no dead letter 0/7" in absent.err) == (1, True)
    assert (await command(broker, prefix, "replay")).out == "0 dead letters replayed, 0 stay\n"
    missing = await command(broker, f"{prefix}other-", "list")
    assert (missing.code, "learner-worker topics create" in missing.err) == (2, True)


# --- what is put there ------------------------------------------------------------------------------


def timeless_auction() -> list[model.Event]:
    """An auction of the last minutes; its times are the records' own when its events carry none."""
    start = (round(time.time()) - 120) * 1_000_000
    return [
        model.BidPlaced("late-task", "agent-1", 50, "parse invoices", start),
        model.BidPlaced("late-task", "agent-2", 60, "parse invoices", start + 1_000_000),
        model.AuctionClosed("late-task", "agent-1", None, start + 30_000_000),
        model.TaskFinished("late-task", "agent-1", True, start + 60_000_000),
    ]


def twice_wrong(event: model.Event, names: TopicNames, *, own_time: bool = True) -> Outgoing:
    """An event that was moved once, to a wrong partition: its worker makes it a dead letter."""
    right = partitioner(PARTITIONS)(event.task_id)
    body = json.loads(event.to_json())
    times = [getattr(event, name) for name in TIMES if hasattr(event, name)]
    kind = names.event_kind(topic_of(event, names)) or ""
    return Outgoing(
        names.rerouted,
        (right + 1) % PARTITIONS,
        b"any key",
        json.dumps({name: value for name, value in body.items() if own_time or name not in TIMES}).encode(),
        [("trace", b"abc"), (HOP_HEADER, kind.encode())],
        None if own_time else times[0] // 1000,
    )


def refused_before(event: model.Event, names: TopicNames, offset: int) -> Outgoing:
    """The dead letter of a good event, as a version that could not read it wrote it."""
    now_ms = round(time.time() * 1000)
    record = LightRecord(topic_of(event, names), 1, 1_000 + offset, now_ms, b"key", event.to_json())
    return dead_letter(record, names.dead_letters, RecordError("invalid", "unknown to that version"))


def poison(names: TopicNames) -> list[Outgoing]:
    """What nobody can ever read; one of them pretends to be a mark."""
    spoofed = [("trace", b"abc"), ("learner-dropped", b"0/0")]
    return [
        Outgoing(names.bid_placed, 0, b"k", b"\x1b[31mnot JSON", spoofed),
        Outgoing(names.bid_placed, 1, b"k", b'{"note":"' + b"n" * 2_000_000 + b'"}'),
        Outgoing(names.outcomes, 2, b"k", b"no fact"),
    ]


async def send(broker: Broker, records: Sequence[Outgoing]) -> None:
    async with AIOKafkaProducer(
        bootstrap_servers=broker.bootstrap_servers, max_request_size=ROOMY
    ) as producer:
        for record in records:
            await producer.send_and_wait(
                record.topic,
                record.value,
                key=record.key,
                partition=record.partition,
                headers=list(record.headers),
                timestamp_ms=record.timestamp_ms,
            )


# --- what is read of it -----------------------------------------------------------------------------


async def command(broker: Broker, prefix: str, *arguments: str) -> Ended:
    """A command of the group, as a process."""
    where = ("--bootstrap-servers", broker.bootstrap_servers, "--topic-prefix", prefix)
    return await learner_worker("dead-letters", *arguments, *where)


async def listed(broker: Broker, prefix: str, *flags: str) -> list[dict[str, Any]]:
    """What `list --json` says; all of it unless a flag says otherwise."""
    limit = () if "--limit" in flags else ("--limit", "1000")
    ended = await command(broker, prefix, "list", "--json", *limit, *flags)
    assert ended.code == 0, ended.err
    found: list[dict[str, Any]] = json.loads(ended.out)
    return found


async def written(broker: Broker, names: TopicNames, count: int) -> bool:
    return len(await read_topic(broker.bootstrap_servers, names.dead_letters)) >= count


async def rerouted(broker: Broker, names: TopicNames) -> int:
    return len(await read_topic(broker.bootstrap_servers, TopicName(names.rerouted)))


async def _replay(
    broker: Broker, prefix: str, worker: WorkerProcess, *named: str, count: int, stay: int
) -> None:
    """Replays and waits until the worker has read every event that came back."""
    before = await worker.metric("learner_events_total")
    ended = await command(broker, prefix, "replay", *named)
    assert ended.code == (1 if stay else 0), ended.err
    assert f"{count} dead letters replayed, {stay} stay" in ended.out

    async def read() -> bool:
        return await worker.metric("learner_events_total") >= before + count

    await until(read, "the worker has read what was replayed")
