"""Moves to another cluster: MirrorMaker 2 copies topics and groups, and a worker takes over on the copy.

    1. learned   the original's worker forgets old auctions, and Kafka deletes their events: the copy's
                 offsets become others, and the original's rewind offsets mean nothing there
    2. mirrored  auctions are open when the original's worker ends; all is copied, offsets translated
    3. moved     a worker with an empty folder takes over; the auctions close on the copy

Two sets of topics move at once: one whose `learner-topology` is mirrored, and one whose topics were created
on the copy before. MirrorMaker runs to the end, as it does where it mirrors other topics, too.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import RecordsToDelete

from learner_worker.brokers import Broker, BrokerKind, KafkaCluster
from learner_worker.brokers.broker import Log
from learner_worker.contract.topics import TopicName, TopicNames, Topics
from learner_worker.kafka.admin import Committed, connected
from learner_worker.kafka.connection import Connection
from learner_worker.shard.resume import rewound_position
from tests.acceptance.test_refusals import Ended
from tests.acceptance.test_topology import command, started
from tests.integration.test_whole_way import metrics_equal_the_model
from tests.programs.chaos.judge import Verdict
from tests.programs.chaos.mirror_maker import mirroring
from tests.programs.chaos.table import Row
from tests.support import model
from tests.support.swarm import swarm_history
from tests.support.workers import (
    administrator,
    create_topics,
    outcomes_on_disk,
    publish,
    read_topic,
    running_worker,
    until,
)

_PARTITIONS = 4
_SECONDS = 180.0  # for a machine with both cores busy
_SOON = {"--auction-horizon-seconds": "5"}
_OLD_AUCTIONS, _AUCTIONS = 40, 60
_POISON = b"poison"


@dataclass(frozen=True, slots=True)
class Move:
    """A set of topics that moves.

    Attributes:
        created: whether `topics create` runs on the copy before; otherwise the record is mirrored.
        notes: what is worth knowing.
    """

    original: Broker
    copy: Broker
    folder: Path
    prefix: str
    seed: int
    created: bool
    verdict: Verdict = field(default_factory=Verdict)
    notes: list[str] = field(default_factory=list)

    @property
    def names(self) -> TopicNames:
        return Topics(prefix=self.prefix).named()

    @property
    def left_out(self) -> tuple[TopicName, ...]:
        """The topics that are not mirrored."""
        names = self.names
        return (names.requests, names.replies, *((names.topology,) if self.created else ()))

    @property
    def mirrored(self) -> list[TopicName]:
        return [name for name in self.names.all if name not in self.left_out]

    @property
    def old(self) -> list[model.Event]:
        """The events of whole auctions."""
        return swarm_history(self.seed, _OLD_AUCTIONS)

    @property
    def events(self) -> tuple[list[model.Event], list[model.Event]]:
        """What is published on the original, and what on the copy: auctions are open in between."""
        events = swarm_history(self.seed + 1, _AUCTIONS)
        return events[: len(events) // 2], events[len(events) // 2 :]

    async def commits(self, broker: Broker) -> Mapping[TopicPartition, Committed]:
        """What the group has committed of bids and closes on a cluster."""
        async with connected(Connection(broker.bootstrap_servers), patience_seconds=30) as cluster:
            found = await cluster.committed(f"{self.prefix}learner")
        sources = (self.names.bid_placed, self.names.auction_closed)
        return {place: one for place, one in found.items() if place.topic in sources}

    def require(self, what: str, ended: Ended, code: int, words: str) -> None:
        """How a command has to end, and what it has to say."""
        if ended.code != code or words not in ended.out + ended.err:
            self.verdict.failures.append(f"{self.prefix}: {what} ended with {ended}")


def rows(folder: Path, seed: int, say: Log) -> list[Row]:
    """A row for each set of topics."""
    with KafkaCluster(folder / "original") as original, KafkaCluster(folder / "copy") as copy:
        first, second = (
            Broker(BrokerKind.KAFKA, one.bootstrap_servers, name)
            for one, name in ((original, "original"), (copy, "copy"))
        )
        moves = [
            Move(first, second, folder, "copied-", seed, created=False),
            Move(first, second, folder, "created-", seed + 10, created=True),
        ]
        asyncio.run(_moved(moves, folder, say))
    return [_row(move) for move in moves]


def _row(move: Move) -> Row:
    way = "topics created before" if move.created else "learner-topology mirrored"
    return Row(
        f"moved to a mirror, {way}",
        1,
        lost=len(move.verdict.lost),
        duplicated=len(move.verdict.duplicated),
        notes=move.notes,
        failures=move.verdict.failures,
    )


async def _moved(moves: Sequence[Move], folder: Path, say: Log) -> None:
    await asyncio.gather(*map(_learn, moves))
    say("old auctions are learned, and their events deleted")
    original, copy = moves[0].original.bootstrap_servers, moves[0].copy.bootstrap_servers
    left_out = [topic for move in moves for topic in move.left_out]
    with mirroring(original, copy, folder, left_out=left_out, say=say) as process:
        await asyncio.gather(*map(_leave_auctions_open, moves))
        say("auctions are open on the original, whose workers have ended")
        await asyncio.gather(*map(_until_mirrored, moves))
        say("everything is mirrored")
        await asyncio.gather(*map(_take_over, moves))
        if process.poll() is not None:
            raise AssertionError(f"MirrorMaker ended: see {folder / 'mirror.log'}")


# --- 1. learned ------------------------------------------------------------------------------------------


async def _learn(move: Move) -> None:
    servers, names = move.original.bootstrap_servers, move.names
    await create_topics(servers, move.prefix, partitions=_PARTITIONS)
    if move.created:
        words = ("topics", "create", "--partitions", str(_PARTITIONS))
        move.require("topics create", await command(move.copy, move.prefix, *words), 0, "created")
    async with running_worker(servers, move.prefix, _there(move), settings=_SOON) as worker:
        await publish(servers, names, move.old)
        await metrics_equal_the_model(move.original, names, move.old, seconds=_SECONDS)
        await until(lambda: _nothing_remembered(move), "old auctions are forgotten", seconds=_SECONDS)
        assert await worker.stop() == 0
    async with administrator(servers) as admin:
        await admin.delete_records(
            {
                place: RecordsToDelete(before_offset=one.offset)
                for place, one in (await move.commits(move.original)).items()
            }
        )


async def _nothing_remembered(move: Move) -> bool:
    """Whether no source would be read again by a worker with an empty folder."""
    commits = (await move.commits(move.original)).values()
    return bool(commits) and all(rewound_position(one, 0) == one.offset for one in commits)


def _there(move: Move) -> Path:
    return move.folder / f"{move.prefix}original"


# --- 2. mirrored -----------------------------------------------------------------------------------------


async def _leave_auctions_open(move: Move) -> None:
    servers, (events, later) = move.original.bootstrap_servers, move.events
    async with running_worker(servers, move.prefix, _there(move)) as worker:
        half = len(events) // 2
        await publish(servers, move.names, events[:half])
        await publish(servers, move.names, events[half:], keyed=False)
        async with AIOKafkaProducer(bootstrap_servers=servers) as producer:
            await producer.send_and_wait(move.names.bid_placed, _POISON)
        await metrics_equal_the_model(move.original, move.names, [*move.old, *events], seconds=_SECONDS)
        assert await worker.stop() == 0
    bid = {event.task_id for event in events if isinstance(event, model.BidPlaced)}
    split = bid & {event.task_id for event in later if isinstance(event, model.AuctionClosed)}
    move.notes.append(f"{len(split)} auctions with bids on the original, and a close on the copy")


async def _until_mirrored(move: Move) -> None:
    expected: Counter[tuple[object, ...]] = await _records(move, move.original)
    found: Counter[tuple[object, ...]] = Counter()

    async def copied() -> bool:
        found.clear()
        with contextlib.suppress(KeyError):  # MirrorMaker has not created a topic yet
            found.update(await _records(move, move.copy))
        return expected <= found

    await until(copied, "every record is copied, with its headers and time", seconds=_SECONDS)
    originals = await move.commits(move.original)

    async def committed() -> bool:
        return (await move.commits(move.copy)).keys() >= originals.keys()

    await until(committed, "the group's commits are copied", seconds=_SECONDS)
    copies = await move.commits(move.copy)
    translated = sum(copies[place].offset != one.offset for place, one in originals.items())
    wrong = sum(
        rewound_position(one, 0) < one.offset and rewound_position(copies[place], 0) == copies[place].offset
        for place, one in originals.items()
    )
    move.notes.extend(
        (
            f"{expected.total():,} records mirrored",
            f"{translated} of {len(originals)} copied commits have another offset",
            f"{wrong} of them would miss open auctions",
        )
    )


async def _records(move: Move, broker: Broker) -> Counter[tuple[object, ...]]:
    """The records of the mirrored topics as they have to be on both clusters."""
    found: Counter[tuple[object, ...]] = Counter()
    for topic in move.mirrored:
        for one in await read_topic(broker.bootstrap_servers, topic):
            found[topic, one.partition, one.key, one.value, one.timestamp, tuple(one.headers)] += 1
    return found


# --- 3. moved --------------------------------------------------------------------------------------------


async def _take_over(move: Move) -> None:
    here, servers = move.folder / f"{move.prefix}copy", move.copy.bootstrap_servers
    if not move.created:
        await _refused(move)
    events, later = move.events
    everything = [*move.old, *events, *later]
    async with running_worker(servers, move.prefix, here, flags=("--take-over",)) as worker:
        await publish(servers, move.names, later)
        try:
            await metrics_equal_the_model(move.copy, move.names, everything, seconds=_SECONDS / 2)
        except AssertionError as error:
            move.verdict.failures.append(
                f"{move.prefix}: the metrics are not the model's: {str(error)[:500]}"
            )
        assert await worker.stop() == 0
    expected = model.outcomes(everything)
    move.verdict.compare(f"{move.prefix}copy", outcomes_on_disk(here), expected)
    checked = await command(move.copy, move.prefix, "state", "verify", "--state-dir", str(here))
    move.require("state verify", checked, 0, "verified")
    old = await started(move.copy, move.prefix, _there(move))
    move.require("a worker with the original's folder", old, 2, "belongs to cluster_id")
    dead_letters = await read_topic(servers, move.names.dead_letters)
    move.notes.extend(
        (
            f"{len(expected)} outcomes",
            f"1 unreadable event has {len(dead_letters)} dead letters on the copy",
        )
    )


async def _refused(move: Move) -> None:
    """Nobody has created topics on the copy: what is said, and what helps."""
    words = "was written on cluster"
    missing = f"missing topics: {move.names.requests}, {move.names.replies}"
    create = ("topics", "create")
    folder = move.folder / f"{move.prefix}copy"
    run = ("run", "--state-dir", str(folder), "--group-id", f"{move.prefix}learner")
    move.require("run", await command(move.copy, move.prefix, *run), 2, missing)
    move.require("topics create", await command(move.copy, move.prefix, *create), 2, words)
    taking = await command(move.copy, move.prefix, *run, "--take-over")
    move.require("run --take-over", taking, 2, missing)
    move.require("topics create", await command(move.copy, move.prefix, *create), 0, "created")
