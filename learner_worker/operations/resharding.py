"""Reshard: a new layout with more shards takes the old one's place.

    announced  the record says what is to come; workers see it within seconds, finish and leave
    emptied    the old layout's group has no members
    created    the new layout's changelog, metrics topic and topic of rerouted events exist
    raised     the event topics and requests have the new number of partitions
    inherited  the new layout's group begins with the old one's rewind offsets; requests with their offsets
    fenced     each partition of the old changelog ends with a barrier: whoever reads it stops
    copied     outcomes, forget markers and rerouted events are in the new topics, and compared
    (switched) the record names the new layout

Each step is a record of a higher generation, written when what it names is done. So a command that was killed
is followed by one that does at most one step again, and every step may be done again: docs/resharding.md says
why, and why the order is this one.
"""

import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec
from aiokafka import TopicPartition

from learner_worker.contract.facts import Barrier, encode_barrier
from learner_worker.contract.topics import TopicName, TopicNames, in_layout, requests_group
from learner_worker.contract.topology import (
    TOPOLOGY_VERSION,
    FormerLayout,
    LayoutTopics,
    OwnTopics,
    Reshard,
    Topology,
)
from learner_worker.errors import Mismatch
from learner_worker.group.commits import noted, own_commits
from learner_worker.kafka.admin import Committed
from learner_worker.kafka.offsets import OffsetRange
from learner_worker.kafka.records import Outgoing
from learner_worker.operations.progress import RecordProgress
from learner_worker.operations.reshard_access import ClusterAccess
from learner_worker.operations.reshard_copy import LayoutCopy, cutoffs_of, earliest_cutoff
from learner_worker.shard.resume import commit_of, rewound_position

STEPS: Final = ("announced", "emptied", "created", "raised", "inherited", "fenced", "copied")
"""The recorded steps, in order; after the last one the record names the new layout."""
Say = Callable[[str], None]


async def announce(access: ClusterAccess, topology: Topology, shards: int) -> Topology:
    """Records what is to come, if nothing is yet; returns the record in effect.

    Raises:
        BrokerError: Kafka did not take the record.
        ConfigurationError: another change is under way.
    """
    if topology.reshard is None:
        change = Reshard(shards, STEPS[0], time.time_ns() // 1_000_000)
        topology = await access.write(
            msgspec.structs.replace(
                topology, generation=topology.generation + 1, reshard=change, v=TOPOLOGY_VERSION
            )
        )
    if topology.reshard is None or topology.reshard.shards != shards:
        under_way = "another change" if topology.reshard is None else f"{topology.reshard.shards} partitions"
        raise Mismatch(
            f"a change to {under_way} is under way", "start the command without --partitions to finish it"
        ).error()
    return topology


class Resharding:
    """Goes from one recorded step to the next.

    Args:
        names: the topics' names in the first layout.
        say: takes a line of progress.
    """

    def __init__(self, access: ClusterAccess, names: TopicNames, say: Say) -> None:
        self._access = access
        self._names = names
        self._say = say
        self._works: Mapping[str, Callable[[Topology, Reshard], Awaitable[None]]] = {
            "emptied": self._empty,
            "created": self._create,
            "raised": self._raise,
            "inherited": self._inherit,
            "fenced": self.fence,
            "copied": self._copy,
        }

    async def finish(self) -> Topology:
        """Does what is left of the change that is recorded; returns the record with the new layout.

        Raises:
            BrokerError: Kafka does not answer, or refuses; starting again goes on.
            LearnerError: a step cannot be done; the error says what to do.
        """
        while (change := (topology := await self._access.topology()).reshard) is not None:
            await self._next(topology, change)
        return topology

    async def _next(self, topology: Topology, change: Reshard) -> None:
        done = STEPS.index(change.step)
        if change.step == STEPS[-1]:
            await self._access.write(self._switched(topology, change))
            self._say("switched")
            return
        step = STEPS[done + 1]
        await self._works[step](topology, change)
        await self._access.write(
            msgspec.structs.replace(
                topology,
                generation=topology.generation + 1,
                reshard=msgspec.structs.replace(change, step=step),
            )
        )
        self._say(step)

    def _old(self, topology: Topology) -> TopicNames:
        return self._names.of_layout(topology.layout)

    def _new(self, topology: Topology) -> TopicNames:
        return self._names.of_layout(topology.layout + 1)

    # --- the steps ---------------------------------------------------------------------------------------

    async def _empty(self, topology: Topology, _: Reshard) -> None:
        await self._access.until_empty(old_group(topology))

    async def _create(self, topology: Topology, change: Reshard) -> None:
        await self._access.create(self._new(topology), self._old(topology), change.shards)

    async def _raise(self, topology: Topology, change: Reshard) -> None:
        counts = await self._access.counts(self._old(topology).of_others)
        lower = [name for name, count in counts.items() if count < change.shards]
        await self._access.raise_counts(lower, change.shards)

    async def _inherit(self, topology: Topology, change: Reshard) -> None:
        """Copies commits, before any barrier: what they cover is in the old changelog before its barriers.

        Whatever zombies commit later, the new layout does not see it: it has a group of its own. The commits
        name the new layout's incarnation, as those of its workers will.
        """
        old, new = old_group(topology), new_group(topology)
        events = own_commits(await self._access.committed(old), topology.incarnation)
        answered = await self._access.committed(requests_group(old))
        inherited = await self._inherited(topology, change, events)
        named = {place: noted(one, new_incarnation(topology)) for place, one in inherited.items()}
        await self._access.commit(new, named)
        await self._access.commit(
            requests_group(new), await self._inherited_requests(topology, change, answered)
        )

    async def _inherited(
        self, topology: Topology, change: Reshard, events: Mapping[TopicPartition, Committed]
    ) -> dict[TopicPartition, Committed]:
        old, new = self._old(topology), self._new(topology)
        sources = _partitions((old.bid_placed, old.auction_closed, old.task_finished), change.shards)
        found = {
            place: rewound(place, held, topology.shards, events)
            for place, held in (await self._access.ranges(sources)).items()
        }
        for topic in (new.rerouted, new.metrics):
            found |= dict.fromkeys(_partitions((topic,), change.shards), commit_of(0, 0))
        cutoffs, shards = cutoffs_of(events, old.outcomes), (topology.shards, change.shards)
        for place in _partitions((new.outcomes,), change.shards):
            found[place] = commit_of(0, 0, earliest_cutoff(place.partition, cutoffs, shards))
        # The copy needs them as they are now, whatever is committed meanwhile.
        kept = {old.outcomes, old.rerouted}
        return found | {place: one for place, one in events.items() if place.topic in kept}

    async def _inherited_requests(
        self, topology: Topology, change: Reshard, answered: Mapping[TopicPartition, Committed]
    ) -> dict[TopicPartition, Committed]:
        places = _partitions((self._old(topology).requests,), change.shards)
        ranges = await self._access.ranges(places)
        return {
            place: answered[place]
            if place in answered and place.partition < topology.shards
            else Committed(ranges[place].start, "")
            for place in places
        }

    async def fence(self, topology: Topology, _: Reshard) -> None:
        """Ends each partition of the old changelog by a barrier."""
        name = self._old(topology).outcomes
        barrier = encode_barrier(Barrier(topology.layout + 1), uuid.uuid4().hex)
        count = (await self._access.counts([name]))[name]
        await self._access.send([Outgoing(name, number, *barrier) for number in range(count)])

    async def _copy(self, topology: Topology, change: Reshard) -> None:
        names = old, new = self._old(topology), self._new(topology)
        counts = await self._access.counts([old.outcomes, old.rerouted])
        commits = own_commits(await self._access.committed(new_group(topology)), new_incarnation(topology))
        copy = LayoutCopy(
            self._access,
            names,
            commits,
            shards=(topology.shards, change.shards),
            partitions=counts[old.outcomes],
            progress=RecordProgress("copying and comparing", self._say),
        )
        async for done, of in copy.outcomes_and_markers():
            self._say(
                f"copied and compared {done} of {of}: {copy.outcomes:,} outcomes of {copy.agents:,} agents"
            )
        moved = await copy.rerouted_events(counts[old.rerouted], commits)
        self._say(f"copied {moved:,} rerouted events to {new.rerouted}")

    def _switched(self, topology: Topology, change: Reshard) -> Topology:
        return msgspec.structs.replace(
            topology,
            generation=topology.generation + 1,
            layout=topology.layout + 1,
            shards=change.shards,
            incarnation=new_incarnation(topology),  # the files of the old layout hold other offsets
            topics=OwnTopics.of(self._new(topology)),
            reshard=None,
            former=[*topology.former, FormerLayout(topology.incarnation, topology.shards)],
            replaced=LayoutTopics.of(self._old(topology)),
        )


def old_group(topology: Topology) -> str:
    """The group of the layout that is to be replaced."""
    return in_layout(topology.owner_group or "", topology.layout)


def new_group(topology: Topology) -> str:
    """The group of the layout to come."""
    return in_layout(topology.owner_group or "", topology.layout + 1)


def new_incarnation(topology: Topology) -> str:
    """The incarnation of the layout to come; the same in every run, because its commits name it beforehand.

    As random as that of the layout before.
    """
    return uuid.uuid5(uuid.NAMESPACE_OID, f"{topology.incarnation}/{topology.layout + 1}").hex


def _partitions(topics: tuple[TopicName, ...], count: int) -> list[TopicPartition]:
    return [TopicPartition(topic, number) for topic in topics for number in range(count)]


def rewound(
    place: TopicPartition, held: OffsetRange, shards: int, commits: Mapping[TopicPartition, Committed]
) -> Committed:
    """A source's rewind offset, committed as the position: all behind it is read again.

    A partition that the old layout had not is read from its beginning, whatever somebody committed for it.
    """
    committed = commits.get(place) if place.partition < shards else None
    offset = max(held.start, rewound_position(committed, held.start))
    return commit_of(offset, offset)
