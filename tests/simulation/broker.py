"""The broker: the log, sends in flight, and a consumer group that gives and takes."""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, cast

from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata
from aiokafka.errors import KafkaError

from learner_worker.contract.fields import ShardId
from learner_worker.group.assignor import StateKeepingAssignor, claim_of, standbys_of
from learner_worker.kafka.admin import Committed
from tests.simulation.log import Log, Sent
from tests.simulation.loop import Clock, SteppedLoop

Place = tuple[str, int]
Assignment: TypeAlias = ConsumerProtocolMemberAssignment
Order = Callable[[list[str]], list[str]]
_incarnations = itertools.count(1)


class Client(Protocol):
    """A process as the broker sees it."""

    name: str
    loop: SteppedLoop
    alive: bool
    assignor: StateKeepingAssignor

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
class Joining:
    """A member's JoinGroup request, waiting for the others'."""

    metadata: ConsumerProtocolMemberMetadata
    answer: "asyncio.Future[Assignment | None]"


@dataclass(slots=True)
class Rebalance:
    """The group between two generations: whom it waits for, and who is there."""

    expected: set[str]
    joined: dict[str, Joining] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Counts:
    """The leader's view of the topics."""

    shards: int

    def partitions_for_topic(self, topic: str) -> set[int]:
        """As aiokafka's ClusterMetadata."""
        assert topic
        return set(range(self.shards))


class Group:
    """A consumer group: eager protocol, and one of its members deals the shards.

    Args:
        order: the order of members in which the shards are dealt by range; None: the members' own assignor
            deals them, by claims.
    """

    def __init__(self, shards: int, order: Order | None) -> None:
        self.generation = 0
        self.violations: list[str] = []
        self.members: dict[str, Client] = {}
        self.assignment: dict[str, Assignment] = {}
        self.rebalance: Rebalance | None = None
        self._generations: dict[str, int] = {}
        self._counts = Counts(shards)
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
            if refused is not None and not refused.answer.done():
                refused.answer.set_result(None)
            self._finish()

    def join(
        self, client: Client, metadata: ConsumerProtocolMemberMetadata
    ) -> "asyncio.Future[Assignment | None]":
        """A JoinGroup request, answered when everybody is there; None: the member is not known any more."""
        future: asyncio.Future[Assignment | None] = asyncio.Future(loop=client.loop)
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
        self.rebalance.joined[client.name] = Joining(metadata, future)
        self._finish()
        return future

    def is_current(self, client: Client) -> bool:
        """Whether a commit of this member would be taken."""
        return (
            self.members.get(client.name) is client and self._generations.get(client.name) == self.generation
        )

    def owner(self, shard: int) -> Client | None:
        """Whose a shard is, as the group sees it."""
        for name, assignment in self.assignment.items():
            if shard in _shards_of(assignment):
                return self.members.get(name)
        return None

    def standbys(self, name: str) -> frozenset[ShardId]:
        """The shards that a member was told to follow."""
        return standbys_of(self.assignment[name]) if name in self.assignment else frozenset()

    def _finish(self) -> None:
        rebalance = self.rebalance
        if rebalance is None or not rebalance.expected <= rebalance.joined.keys():
            return
        self.rebalance = None
        if not rebalance.joined:
            return
        self.generation += 1
        before, self.assignment = self.assignment, self._assign(rebalance.joined)
        self._check_kept(before, rebalance.joined)
        for name, joining in rebalance.joined.items():
            self._generations[name] = self.generation
            if not joining.answer.done():
                joining.answer.set_result(self.assignment[name])

    def _check_kept(self, before: Mapping[str, Assignment], joined: Mapping[str, Joining]) -> None:
        """Who says truly what it owns keeps its share of that, whatever a stalled member says it owns."""
        if self._order is not None:
            return
        for name, joining in joined.items():
            claim = claim_of(joining.metadata.user_data)
            truly = _shards_of(before.get(name)).intersection(() if claim is None else claim.owned)
            kept = truly & _shards_of(self.assignment[name])
            if len(kept) < min(len(truly), self._counts.shards // len(joined)):
                self.violations.append(f"{name} owned {sorted(truly)} and keeps only {sorted(kept)}")

    def _assign(self, joined: Mapping[str, Joining]) -> dict[str, Assignment]:
        if self._order is None:
            leader = self.members[next(iter(joined))]
            return leader.assignor.assign(
                self._counts, {name: joining.metadata for name, joining in joined.items()}
            )
        numbered = {f"{index:03d}": name for index, name in enumerate(self._order(sorted(joined)))}
        dealt = RangePartitionAssignor.assign(
            cast("ClusterMetadata", self._counts),
            {number: joined[name].metadata for number, name in numbered.items()},
        )
        return {numbered[number]: assignment for number, assignment in dealt.items()}


def _shards_of(assignment: Assignment | None) -> set[int]:
    return set() if assignment is None else {shard for _, shards in assignment.assignment for shard in shards}


class Broker:
    """One Kafka: what it holds, and what is still on its way to it."""

    def __init__(self, clock: Clock, shards: int, order: Order | None) -> None:
        self.clock = clock
        self.shards = shards
        self.incarnation = f"incarnation {next(_incarnations)}"
        self.log = Log()
        self.group = Group(shards, order)
        self.queues: dict[tuple[int, str, int], deque[InFlight]] = {}
        self.acknowledgements: list[InFlight] = []

    def tick(self) -> int:
        """A clock that never stands still between two placements."""
        return self.clock.micros + self.group.generation

    # --- producing ---------------------------------------------------------------------------------------

    def send(self, client: Client, topic: str, partition: int, records: Sequence[Sent]) -> InFlight:
        """A request leaves the producer; of one producer and partition they arrive in order."""
        flight = InFlight(records, asyncio.Future(loop=client.loop), client)
        self.queues.setdefault((id(client), topic, partition), deque()).append(flight)
        return flight

    def pending(self) -> list[tuple[int, str, int]]:
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
