"""What the learner knows, read from Kafka: agents from the metrics topic, all else from facts."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

from learner_worker.contract.fields import AgentId, ShardId, TaskId
from learner_worker.domain.outcomes import Cutoff, Outcome
from learner_worker.errors import BrokerError, ConfigurationError, LearnerError
from learner_worker.group.topology_view import Layout, read_layout
from learner_worker.insights.agents import AgentDirectory
from learner_worker.insights.auctions import FACTS_OF_AN_AUCTION, AuctionList, ClosedAuction, auctions_of
from learner_worker.insights.facts import ClosedTask, FactStore, fact_store
from learner_worker.insights.following import Take, TopicFollower
from learner_worker.insights.history import AgentHistory, agent_history, standing_outcomes
from learner_worker.kafka.clients import running, standby_consumer
from learner_worker.kafka.outage import Outage
from learner_worker.kafka.partitioner import partitioner
from learner_worker.kafka.records import Record
from learner_worker.lifecycle import KAFKA_FAILURES
from learner_worker.operations.cutoffs import committed_cutoffs
from learner_worker.settings import Settings

_LOOK_SECONDS = 30.0  # how long a change of the topics, or a retention's new cutoff, may stay unnoticed
_DOUBTS = 3  # looks that find other topics, in a row: a broker that is starting may list less
_FACTS_OF_A_LISTED_AUCTION = 300  # decoded in about a millisecond: a page lists many auctions
_COUNTED_FACTS = 200_000  # in some ten milliseconds, of tasks that may have too many to be read
_TASKS_OF_A_LIST = 500  # read in a fraction of a second: there may be very many tasks that no longer count
_LOOKING = "looking at the topology"


class NotReadYetError(LearnerError):
    """The changelog has not been read to its end yet: ask again."""

    def __init__(self, share: float) -> None:
        super().__init__(f"the outcomes are still being read ({share:.0%}): ask again in a second")
        self.share = share


class ReadProgress(NamedTuple):
    """The shares of the two topics that are read."""

    metrics: float
    outcomes: float


class TaskOutcomes(NamedTuple):
    """The outcomes of some tasks, including those that do not count."""

    tasks: Sequence[TaskId]
    outcomes: Sequence[Outcome]


class SwarmReader:
    """Holds every agent's figures, and reads an agent's history or an auction on demand.

    Attributes:
        agents: every agent's figures.
        layout: the topics' layout when reading began.
    """

    def __init__(self, settings: Settings, layout: Layout, facts: FactStore) -> None:
        self.agents = AgentDirectory(time.monotonic)
        self.layout = layout
        self.outage = Outage()
        self._settings = settings
        self._facts = facts
        self._shard_of = partitioner(layout.shards)
        self._cutoffs: Mapping[ShardId, Cutoff] = {}
        self._followers: tuple[TopicFollower, TopicFollower] | None = None

    @property
    def group_id(self) -> str:
        """The workers' group: the one that is set, or the topics' owner."""
        return self.layout.events_group(self._settings.given_group, self._settings.group_id)

    @property
    def progress(self) -> ReadProgress:
        """How much is read."""
        if self._followers is None:
            return ReadProgress(0.0, 0.0)
        return ReadProgress(*(follower.read_share for follower in self._followers))

    @property
    def has_agents(self) -> bool:
        """Whether the metrics topic is read to its end."""
        return self._followers is not None and self._followers[0].caught_up.is_set()

    async def history(self, agent_id: AgentId) -> AgentHistory:
        """An agent's history; an empty one if there is no such agent.

        Raises:
            NotReadYetError: the changelog is still being read.
            UpgradeRequiredError: a newer learner wrote one of its records.
        """
        self._require_outcomes()
        values = await self._facts.values_of(agent_id)
        return await asyncio.to_thread(agent_history, values, self._cutoff_of(agent_id))

    async def auctions(self, before: ClosedTask, count: int) -> AuctionList:
        """The auctions that closed last before another one: up to a number, fewer if few of the latest count.

        Raises:
            NotReadYetError: the changelog is still being read.
            UpgradeRequiredError: a newer learner wrote one of their records.
        """
        self._require_outcomes()
        found: list[ClosedAuction] = []
        looked_at = 0
        last: ClosedTask | None = before
        while last is not None and len(found) < count and looked_at < _TASKS_OF_A_LIST:
            at_once = min(count, _TASKS_OF_A_LIST - looked_at)
            closed = await self._facts.closed_before(last, at_once + 1)
            last = None
            for number, auction in enumerate(await self._closed_at(closed[:at_once]), 1):
                if auction is not None:
                    found.append(auction)
                looked_at += 1
                last = closed[number - 1] if number < len(closed) else None
                if len(found) == count:
                    break
        return AuctionList(found, last)

    async def _closed_at(self, closed: Sequence[ClosedTask]) -> Sequence[ClosedAuction | None]:
        """The auctions of some closes; None if an auction does not count or its last close is another."""
        most = _FACTS_OF_A_LISTED_AUCTION
        in_total = (most + 1) * len(closed)
        counts = await self._facts.counts_of((at.task_id for at in closed), most + 1, in_total=in_total)
        large = [task_id for task_id, count in counts.items() if count > most]
        values = await self._facts.values_of_tasks(counts.keys() - large)
        for task_id in large:
            values += (await self._facts.values_of_task(task_id, most)).values
        auctions = await asyncio.to_thread(auctions_of, values, self._cutoff_of, incomplete=large)
        found = ((auctions.get(at.task_id), at.closed_at) for at in closed)
        return [one if one is not None and one.closed_at == closed_at else None for one, closed_at in found]

    async def auction(self, task_id: TaskId, *, limit: int = FACTS_OF_AN_AUCTION) -> ClosedAuction | None:
        """The auction of a task; None if none has closed.

        Args:
            limit: reads at most so many facts.

        Raises:
            NotReadYetError: the changelog is still being read.
            UpgradeRequiredError: a newer learner wrote one of its records.
        """
        self._require_outcomes()
        found = await self._facts.values_of_task(task_id, limit)
        incomplete = () if found.whole else (task_id,)
        auctions = await asyncio.to_thread(auctions_of, found.values, self._cutoff_of, incomplete=incomplete)
        return auctions.get(task_id)

    async def outcomes_of(self, tasks: Iterable[TaskId], *, most_facts: int) -> TaskOutcomes:
        """The outcomes of the first tasks, as many as have no more than a number of facts in total.

        A task that has more than that by itself is passed over; after many such tasks, no more are looked at.

        Raises:
            NotReadYetError: the changelog is still being read.
            UpgradeRequiredError: a newer learner wrote one of the records.
        """
        self._require_outcomes()
        counts = await self._facts.counts_of(tasks, most_facts + 1, in_total=_COUNTED_FACTS)
        read: list[TaskId] = []
        in_total = 0
        for task_id, count in counts.items():
            if in_total + count <= most_facts:
                read.append(task_id)
                in_total += count
            elif count <= most_facts:
                break
        values = await self._facts.values_of_tasks(read)
        outcomes = await asyncio.to_thread(standing_outcomes, values, self._cutoff_of)
        return TaskOutcomes(read, outcomes)

    def _require_outcomes(self) -> None:
        if self._followers is None or not self._followers[1].caught_up.is_set():
            raise NotReadYetError(self.progress.outcomes)

    def _cutoff_of(self, agent_id: AgentId) -> Cutoff | None:
        return self._cutoffs.get(ShardId(self._shard_of(agent_id)))

    async def run(self) -> None:
        """Follows both topics, until it is cancelled.

        Raises:
            BrokerError: a topic was created anew.
            ConfigurationError: the topics have changed.
        """
        names, connection = self.layout.names, self._settings.connection()
        patience = self._settings.startup_timeout_seconds
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
            followers = []
            takes: Sequence[tuple[str, Take]] = (
                ("metrics", self._take_metrics),
                ("outcomes", self._facts.take),
            )
            for kind, take in takes:
                consumer = await stack.enter_async_context(running(standby_consumer(connection), patience))
                topic = getattr(names, kind)
                follower = TopicFollower(consumer, topic, self.layout.shards, take, self.outage)
                followers.append(follower)
                tasks.create_task(follower.run(), name=f"follow-{kind}")
            self._followers = (followers[0], followers[1])
            tasks.create_task(self._watch(), name="watch-topology")

    async def _take_metrics(self, records: Sequence[Record]) -> None:
        self.agents.take(records)

    async def _watch(self) -> None:
        """Reads now and then what the workers have expired, and whether the topics are still the same."""
        doubts = 0
        while True:
            try:
                await self._look()
            except (BrokerError, *KAFKA_FAILURES) as error:
                self.outage.failed(_LOOKING, error)
            except ConfigurationError:
                doubts += 1
                if doubts == _DOUBTS:
                    raise
            else:
                doubts = 0
                self.outage.worked(_LOOKING)
            await asyncio.sleep(_LOOK_SECONDS)

    async def _look(self) -> None:
        settings = self._settings
        self._cutoffs = await committed_cutoffs(settings, self.group_id, self.layout.names.outcomes)
        layout = await read_layout(
            settings.connection(),
            settings.topics().named(),
            group_id=settings.given_group,
            patience_seconds=settings.startup_timeout_seconds,
        )
        if _identity(layout) != _identity(self.layout):
            raise LearnerError("the topics are not those that were there at the start: start again")


def _identity(layout: Layout) -> tuple[str, int, str | None]:
    topology = layout.topology
    return layout.cluster_id, layout.shards, None if topology is None else topology.incarnation


@asynccontextmanager
async def swarm_reader(settings: Settings) -> AsyncIterator[SwarmReader]:
    """Checks the topics and opens a reader; nothing is read before `run`.

    Raises:
        BrokerError: Kafka cannot be reached.
        ConfigurationError: topics are missing, or are not what is recorded.
    """
    layout = await read_layout(
        settings.connection(),
        settings.topics().named(),
        group_id=settings.given_group,
        patience_seconds=settings.startup_timeout_seconds,
    )
    async with fact_store() as facts:
        yield SwarmReader(settings, layout, facts)
