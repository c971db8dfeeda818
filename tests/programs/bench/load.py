"""What is put into Kafka before a measurement: auctions as a swarm publishes them, and changelogs."""

import hashlib
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from learner_worker.contract.facts import Bid, Close, Fact, Result, encode_fact
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.times import Micros, format_time
from learner_worker.contract.topics import TopicName, TopicNames
from learner_worker.kafka.partitioner import partitioner
from tests.programs.bench.stage import PARTITIONS
from tests.support.batches import batches_to

BIDDERS = 10
AGENTS = 2_000
_SPREAD_MICROS = 600 * 1_000_000
_MICROS = 1_000_000
_UUID_BYTES = 16
_NUMBER_BYTES = 6  # of a UUID's bytes, those before its version: they decide the order
_DESCRIPTIONS = (
    "Translate the supply contract from German into English, keep the numbering and the tables and annexes",
    "Parse two hundred scanned invoices into a spreadsheet, one line an item, the totals all checked",
    "Scrape the product pages of three shops every morning and report each price that has changed",
    "Write unit tests for the date parser and for its error messages; no network access, at most one second",
    "Classify last month's support tickets by product, by urgency and by language, each with a confidence",
    "Summarize these eleven legal documents for a board meeting: two pages, all sources in footnotes",
    "Label four thousand street images: vehicles, signs and pedestrians, boxes drawn to the pixel",
    "Clean the customer table: duplicates merged, addresses normalised, and a log of every change",
)


class Ids(StrEnum):
    """The order in which the ids of tasks come; they are UUIDs of equal length either way."""

    RANDOM = "random"
    ASCENDING = "ascending"


def task_id(label: str, number: int, ids: Ids = Ids.RANDOM) -> TaskId:
    """The id of the number-th task of a label: the same UUID whenever it is asked for."""
    digest = hashlib.blake2b(f"{label}-{number}".encode(), digest_size=_UUID_BYTES).digest()
    if ids is Ids.ASCENDING:
        digest = number.to_bytes(_NUMBER_BYTES, "big") + digest[_NUMBER_BYTES:]
    return TaskId(str(uuid.UUID(bytes=digest, version=4)))


def agent_id(number: int, agents: int = AGENTS) -> AgentId:
    """The number-th agent's id."""
    return AgentId(f"agent-{number % agents:06d}")


class Published(NamedTuple):
    """An event as it is published."""

    topic: str
    value: bytes
    timestamp_ms: int


@dataclass(frozen=True, slots=True)
class Auctions:
    """Whole auctions: ten bids, a close that names the lowest, a result. Times end some moments ago."""

    auctions: int
    began_micros: int
    agents: int = AGENTS
    label: str = "task"
    ids: Ids = Ids.RANDOM

    def task(self, auction: int) -> TaskId:
        """Loads of other labels have other tasks."""
        return task_id(self.label, auction, self.ids)

    @property
    def bids(self) -> int:
        """Every one of them is an outcome."""
        return self.auctions * BIDDERS

    @property
    def events(self) -> int:
        """Over the three topics."""
        return self.auctions * (BIDDERS + 2)

    @property
    def facts(self) -> int:
        """What settle makes of them: one a bid, one a result."""
        return self.auctions * (BIDDERS + 1)

    def bidder(self, auction: int, place: int) -> AgentId:
        """Agents meet in ever new company."""
        return agent_id(auction * 7 + place * (1 + auction % 13), self.agents)

    def times(self, auction: int) -> tuple[int, int, int]:
        """When its bids, its close and its result were published."""
        opened = self.began_micros + auction * _SPREAD_MICROS // max(1, self.auctions)
        return opened, opened + 2 * _MICROS, opened + 5 * _MICROS


def recent_auctions(bids: int, *, agents: int = AGENTS, ids: Ids = Ids.RANDOM) -> Auctions:
    """So many bids' auctions, whose last result is about a minute old."""
    began = time.time_ns() // 1000 - _SPREAD_MICROS - 60 * _MICROS
    return Auctions(max(1, bids // BIDDERS), began, agents, ids=ids)


def _moment(micros: int) -> str:
    return format_time(Micros(micros))


async def preload_auctions(servers: str, names: TopicNames, load: Auctions) -> int:
    """Writes the events, each topic in the order of its times; the mean size of a bid in bytes."""
    partition_of = partitioner(PARTITIONS)
    bytes_of_bids = 0
    async with batches_to(servers) as batches:
        for auction in range(load.auctions):
            task = load.task(auction)
            partition, key = partition_of(task), task.encode()
            for topic, value, timestamp_ms in events_of(load, names, auction):
                bytes_of_bids += len(value) if topic == names.bid_placed else 0
                await batches.add(TopicName(topic), partition, key, value, timestamp_ms)
    return round(bytes_of_bids / load.bids)


def events_of(load: Auctions, names: TopicNames, auction: int) -> Iterator[Published]:
    """The events of one auction: its bids, its close and its result."""
    task, winner = load.task(auction), load.bidder(auction, 0)
    opened, closed, finished = load.times(auction)
    for value in _bids(load, auction, task, opened):
        yield Published(names.bid_placed, value, opened // 1000)
    close = (
        f'{{"task_id":"{task}","winner_agent_id":"{winner}",'
        f'"winning_bid_sats":{_price(auction, 0)},"closed_at":"{_moment(closed)}"}}'
    )
    yield Published(names.auction_closed, close.encode(), closed // 1000)
    result = (
        f'{{"task_id":"{task}","agent_id":"{winner}",'
        f'"succeeded":{"false" if auction % 4 == 0 else "true"},"finished_at":"{_moment(finished)}"}}'
    )
    yield Published(names.task_finished, result.encode(), finished // 1000)


def _bids(load: Auctions, auction: int, task: str, opened: int) -> Iterator[bytes]:
    description = _DESCRIPTIONS[auction % len(_DESCRIPTIONS)]
    for place in range(BIDDERS):
        moment = _moment(opened + place * 100_000)
        yield (
            f'{{"task_id":"{task}","agent_id":"{load.bidder(auction, place)}",'
            f'"bid_sats":{_price(auction, place)},"description":"{description}","placed_at":"{moment}"}}'
        ).encode()


def mean_outcome(load: Auctions) -> tuple[int, int]:
    """The mean size of the facts that settle makes of this load, in bytes: key and value."""
    sample = range(0, load.auctions, max(1, load.auctions // 100))
    pairs = [encode_fact(fact) for auction in sample for fact in _facts(load, auction)]
    keys, values = (sum(len(pair[part]) for pair in pairs) for part in (0, 1))
    return round(keys / len(pairs)), round(values / len(pairs))


def _facts(load: Auctions, auction: int) -> Iterator[Fact]:
    task, winner = load.task(auction), load.bidder(auction, 0)
    opened, closed, finished = load.times(auction)
    close = Close(Micros(closed), winner, _price(auction, 0))
    description = _DESCRIPTIONS[auction % len(_DESCRIPTIONS)]
    for place in range(BIDDERS):
        bid = Bid(Micros(opened + place * 100_000), _price(auction, place), description)
        yield Fact(task, load.bidder(auction, place), close, bid)
    yield Fact(task, winner, result=Result(Micros(finished), auction % 4 != 0))


def _price(auction: int, place: int) -> int:
    return 1_000 + auction % 500 + place * 17


# --- changelogs --------------------------------------------------------------------------------------------


def past_fact(number: int, agents: int = AGENTS) -> Fact:
    """The number-th outcome of a changelog: a losing bid, or, for one in ten, a win with its result."""
    auction, place = divmod(number, BIDDERS)
    bidder = AgentId(f"agent-{(auction * 7 + place) % agents:06d}")
    winner = AgentId(f"agent-{auction * 7 % agents:06d}")
    closed = 1_767_225_600_000_000 + auction * _MICROS
    price = _price(auction, place)
    description = _DESCRIPTIONS[auction % len(_DESCRIPTIONS)]
    return Fact(
        task_id("past", auction),
        bidder,
        Close(Micros(closed), winner, _price(auction, 0)),
        Bid(Micros(closed - _MICROS), price, description),
        Result(Micros(closed + _MICROS), auction % 4 != 0) if place == 0 else None,
    )


async def preload_changelog(
    servers: str, topic: TopicName, outcomes: int, *, agents: int = AGENTS, first: int = 0
) -> int:
    """Writes facts as settle would, one an outcome; the mean size of a record in bytes, key and value."""
    partition_of = partitioner(PARTITIONS)
    written = 0
    async with batches_to(servers) as batches:
        for number in range(first, first + outcomes):
            fact = past_fact(number, agents)
            key, value = encode_fact(fact)
            written += len(key) + len(value)
            await batches.add(topic, partition_of(fact.agent_id), key, value)
    return round(written / max(1, outcomes))
