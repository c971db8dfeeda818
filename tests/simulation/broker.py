"""The broker: the log, sends in flight, and a consumer group that gives and takes."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from aiokafka.errors import KafkaError

from learner_worker.stream.cluster import Committed
from tests.simulation.log import Log, Sent
from tests.simulation.loop import Clock, SteppedLoop

Place = tuple[str, int]


class Client(Protocol):
    """A process as the broker sees it."""

    name: str
    loop: SteppedLoop
    alive: bool

    def coordinate(self) -> None:
        """The group wants it to rejoin."""
        ...


@dataclass(slots=True)
class InFlight:
    """A produce request: in the log at some moment, acknowledged at a later one."""

    records: Sequence[Sent]
    future: "asyncio.Future[object] | None"
    client: Client


@dataclass(slots=True)
class Rebalance:
    """The group between two generations: whom it waits for, and who is there."""

    expected: set[str]
    joined: dict[str, "asyncio.Future[frozenset[int] | None]"] = field(default_factory=dict)


class Group:
    """A consumer group: eager protocol, a contiguous range of shards for each member."""

    def __init__(self, shards: int, order: Callable[[list[str]], list[str]]) -> None:
        self.generation = 0
        self.members: dict[str, Client] = {}
        self.assignment: dict[str, frozenset[int]] = {}
        self.rebalance: Rebalance | None = None
        self._generations: dict[str, int] = {}
        self._shards = shards
        self._order = order

    def begin_rebalance(self) -> None:
        """Everybody in the group has to rejoin."""
        if self.rebalance is None and self.members:
            self.rebalance = Rebalance(set(self.members))
            for member in list(self.members.values()):
                member.coordinate()

    def remove(self, name: str) -> None:
        """A member's session expired, or it left: the others share its shards."""
        self.members.pop(name, None)
        self.assignment.pop(name, None)
        if self.rebalance is None:
            self.begin_rebalance()
        else:
            self.rebalance.expected.discard(name)
            refused = self.rebalance.joined.pop(name, None)
            if refused is not None and not refused.done():
                refused.set_result(None)
            self._finish()

    def join(self, client: Client) -> "asyncio.Future[frozenset[int] | None]":
        """A JoinGroup request, answered when everybody is there; None: the member is not known any more."""
        future: asyncio.Future[frozenset[int] | None] = asyncio.Future(loop=client.loop)
        returning = client.name in self.assignment and self.members.get(client.name) is not client
        self.members[client.name] = client
        if self.rebalance is None and returning:  # static membership: a restart moves nothing
            self._generations[client.name] = self.generation
            future.set_result(self.assignment[client.name])
            return future
        if self.rebalance is None:
            self.rebalance = Rebalance(set(self.members))
            for name, member in list(self.members.items()):
                if name != client.name:
                    member.coordinate()
        self.rebalance.expected.add(client.name)
        self.rebalance.joined[client.name] = future
        self._finish()
        return future

    def is_current(self, client: Client) -> bool:
        """Whether a commit of this member would be taken."""
        return (
            self.members.get(client.name) is client and self._generations.get(client.name) == self.generation
        )

    def owner(self, shard: int) -> Client | None:
        """Whose a shard is, as the group sees it."""
        for name, shards in self.assignment.items():
            if shard in shards:
                return self.members.get(name)
        return None

    def _finish(self) -> None:
        rebalance = self.rebalance
        if rebalance is None or not rebalance.expected <= rebalance.joined.keys():
            return
        self.rebalance = None
        if not rebalance.joined:
            return
        self.generation += 1
        self.assignment = self._assign(self._order(sorted(rebalance.joined)))
        for name, future in rebalance.joined.items():
            self._generations[name] = self.generation
            if not future.done():
                future.set_result(self.assignment[name])

    def _assign(self, names: list[str]) -> dict[str, frozenset[int]]:
        each, more = divmod(self._shards, len(names))
        found: dict[str, frozenset[int]] = {}
        start = 0
        for index, name in enumerate(names):
            count = each + (index < more)
            found[name] = frozenset(range(start, start + count))
            start += count
        return found


class Broker:
    """One Kafka: what it holds, and what is still on its way to it."""

    def __init__(self, clock: Clock, shards: int, order: Callable[[list[str]], list[str]]) -> None:
        self.clock = clock
        self.shards = shards
        self.log = Log()
        self.group = Group(shards, order)
        self.queues: dict[tuple[int, str, int], deque[InFlight]] = {}
        self.acknowledgements: list[InFlight] = []

    # --- producing ---------------------------------------------------------------------------------------

    def send(self, client: Client, topic: str, partition: int, records: Sequence[Sent]) -> InFlight:
        """A request leaves the producer; of one producer and partition they arrive in order."""
        flight = InFlight(records, asyncio.Future(loop=client.loop), client)
        self.queues.setdefault((id(client), topic, partition), deque()).append(flight)
        return flight

    def waiting(self) -> list[tuple[int, str, int]]:
        """The queues that hold something, in a stable order."""
        return [key for key, queue in self.queues.items() if queue]

    def deliver(self, key: tuple[int, str, int]) -> None:
        """The next request of a queue is applied; its acknowledgement is under way."""
        flight = self.queues[key].popleft()
        self._apply(key, flight)
        if flight.future is not None:
            self.acknowledgements.append(flight)

    def acknowledge(self, index: int) -> None:
        """An acknowledgement arrives."""
        flight = self.acknowledgements.pop(index)
        if flight.future is not None and not flight.future.done() and flight.client.alive:
            flight.future.set_result(None)

    def fail(self, key: tuple[int, str, int], *, applied: bool) -> None:
        """The next request of a queue fails for its producer, though it may have been applied."""
        flight = self.queues[key].popleft()
        if applied:
            self._apply(key, flight)
        if flight.future is not None and not flight.future.done() and flight.client.alive:
            flight.future.set_exception(KafkaError("the request timed out"))

    def cut_off(self, client: Client, kept: Callable[[int], int]) -> None:
        """A producer died: of each queue's requests the first few still arrive, the others never."""
        for key, queue in self.queues.items():
            if key[0] != id(client):
                continue
            count = kept(len(queue))
            remaining = [InFlight(flight.records, None, client) for flight in list(queue)[:count]]
            queue.clear()
            queue.extend(remaining)
        self.acknowledgements = [flight for flight in self.acknowledgements if flight.client is not client]

    def _apply(self, key: tuple[int, str, int], flight: InFlight) -> None:
        _, topic, partition = key
        for sent in flight.records:
            self.log.append(topic, partition, sent, self.clock.milliseconds)

    # --- committing --------------------------------------------------------------------------------------

    def commit(self, client: Client, offsets: Mapping[Place, Committed]) -> bool:
        """Takes a commit, unless its member is of an older generation."""
        if not self.group.is_current(client):
            return False
        self.log.committed.update(offsets)
        return True
