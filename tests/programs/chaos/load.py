"""A swarm that publishes for as long as wanted. Its seed and how far it came tell what it published."""

import asyncio
import random
from collections.abc import Iterator, Sequence

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from learner_worker.contract.facts import Bid, Close, Fact, encode_fact
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import TopicName, TopicNames
from learner_worker.kafka.partitioner import partitioner
from tests.support.batches import batches_to
from tests.support.model import Event, Outcome
from tests.support.swarm import START_US, TOPICS, swarm_history
from tests.support.workers import topic_of

AGENTS = 120
BLOCK_AUCTIONS = 60
_BLOCK_SPACING_US = 1_000_000
_SEEDS_A_RUN = 1_000_000
_DISPLACED = 0.3
_DUPLICATED = 0.2
_CHUNK = 100
_VETERANS = 1_000
_BIDDERS = 10
_RETRY_SECONDS = 0.5
_MAX_CATCH_UP_SECONDS = 1.0
_Outgoing = tuple[TopicName, bytes, bytes]


def block_events(seed: int, block: int) -> list[Event]:
    """One block's events, each once: whole auctions, none of which has an event in another block."""
    return swarm_history(
        seed * _SEEDS_A_RUN + block,
        BLOCK_AUCTIONS,
        agents=AGENTS,
        start_us=START_US + block * _BLOCK_SPACING_US,
        spacing_us=_BLOCK_SPACING_US // BLOCK_AUCTIONS,
    )


def delivery(seed: int, block: int) -> list[Event]:
    """A block as it is published: a third of the events out of order, a fifth once more some time later."""
    rng = random.Random(f"{seed}/{block}")
    events = block_events(seed, block)
    size = len(events)
    places = [
        (place + (rng.uniform(-size, size) if rng.random() < _DISPLACED else 0.0), event)
        for place, event in enumerate(events)
    ]
    repeated = rng.sample(list(enumerate(events)), round(_DUPLICATED * size))
    places += [(place + rng.uniform(0, size), event) for place, event in repeated]
    return [event for _, event in sorted(places, key=lambda placed: placed[0])]


class Swarm:
    """Publishes block after block at a rate, through every outage, until told to stop at a block's end.

    Attributes:
        blocks: how many blocks were published.
        published: how many events, duplicates included.
        poison: the values of records that are no events, one a block.
        longest_block_seconds: how long the slowest block took; the auction horizon has to be longer.
    """

    def __init__(
        self, bootstrap_servers: str, names: TopicNames, *, seed: int, events_a_second: float
    ) -> None:
        self._servers = bootstrap_servers
        self._names = names
        self._seed = seed
        self._rate = events_a_second
        self._stopping = asyncio.Event()
        self._due = 0.0
        self.blocks = 0
        self.published = 0
        self.poison: set[bytes] = set()
        self.longest_block_seconds = 0.0

    def history(self) -> Iterator[list[Event]]:
        """What was published, each event once, block by block."""
        return (block_events(self._seed, block) for block in range(self.blocks))

    def stop(self) -> None:
        """Lets `run` end with the block in hand."""
        self._stopping.set()

    async def run(self) -> None:
        """Publishes until told to stop."""
        self._due = asyncio.get_running_loop().time()
        async with AIOKafkaProducer(
            bootstrap_servers=self._servers, acks="all", linger_ms=5, max_batch_size=256 * 1024
        ) as producer:
            while not self._stopping.is_set():
                await self._publish_block(producer)

    async def _publish_block(self, producer: AIOKafkaProducer) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        events = delivery(self._seed, self.blocks)
        for start in range(0, len(events), _CHUNK):
            chunk = events[start : start + _CHUNK]
            await self._keep_pace(len(chunk))
            await _delivered(
                producer,
                [(topic_of(event, self._names), event.task_id.encode(), event.to_json()) for event in chunk],
            )
            self.published += len(chunk)
        poison = b"poison %d" % self.blocks
        await _delivered(producer, [(self._names.bid_placed, poison, poison)])
        self.poison.add(poison)
        self.blocks += 1
        self.longest_block_seconds = max(self.longest_block_seconds, clock() - began)

    async def _keep_pace(self, events: int) -> None:
        now = asyncio.get_running_loop().time()
        self._due = max(self._due + events / self._rate, now - _MAX_CATCH_UP_SECONDS)
        await asyncio.sleep(max(0.0, self._due - now))


async def _delivered(producer: AIOKafkaProducer, outgoing: Sequence[_Outgoing]) -> None:
    """Sends until Kafka has acknowledged every record: what it refused, or never answered, is sent again."""
    unsent = list(outgoing)
    while unsent:
        sent = [await _handed_over(producer, item) for item in unsent]
        answers = await asyncio.gather(*sent, return_exceptions=True)
        unsent = [item for item, answer in zip(unsent, answers, strict=True) if _failed(answer)]
        if unsent:
            await asyncio.sleep(_RETRY_SECONDS)


async def _handed_over(producer: AIOKafkaProducer, item: _Outgoing) -> "asyncio.Future[object]":
    topic, key, value = item
    try:
        sent: asyncio.Future[object] = await producer.send(topic, value, key=key)
    except KafkaError as error:
        sent = asyncio.get_running_loop().create_future()
        sent.set_exception(error)
    return sent


def _failed(answer: object) -> bool:
    if isinstance(answer, BaseException) and not isinstance(answer, KafkaError):
        raise answer
    return isinstance(answer, KafkaError)


def past_facts(count: int) -> Iterator[Fact]:
    """So many losing bids of long ago, all settled, spread over agents and shards."""
    close = Close(Micros(START_US), AgentId("somebody"), 1)
    for number in range(count):
        task_id, agent_id = TaskId(f"past-{number // _BIDDERS:09d}"), AgentId(f"veteran-{number % _VETERANS}")
        bid = Bid(Micros(START_US - number), 100 + number % 900, TOPICS[number % len(TOPICS)])
        yield Fact(task_id, agent_id, close, bid)


def past_outcomes(count: int) -> dict[tuple[str, str], Outcome]:
    """What these facts amount to, as the model describes outcomes."""
    outcomes = {}
    for fact in past_facts(count):
        assert fact.close is not None
        assert fact.bid is not None
        outcomes[str(fact.task_id), str(fact.agent_id)] = Outcome(
            won=False,
            bid_sats=fact.bid.bid_sats,
            description=fact.bid.description,
            succeeded=None,
            closed_at=fact.close.closed_at,
            placed_at=fact.bid.placed_at,
            finished_at=None,
        )
    return outcomes


async def preload(servers: str, names: TopicNames, partitions: int, outcomes: int) -> None:
    """Writes the facts of so many outcomes of long ago, as settle would."""
    partition_of = partitioner(partitions)
    async with batches_to(servers) as batches:
        for fact in past_facts(outcomes):
            await batches.add(names.outcomes, partition_of(fact.agent_id), *encode_fact(fact))
