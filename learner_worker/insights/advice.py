"""What came of an agent's advice: the advice log, if there is one, joined with the outcomes."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Literal, NamedTuple

from aiokafka import TopicPartition

from learner_worker.contract.advice import AdviceRecord
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.domain.outcomes import Outcome
from learner_worker.errors import BrokerError, LearnerError
from learner_worker.insights.advice_store import AdviceStore
from learner_worker.insights.following import TopicFollower
from learner_worker.insights.reader import SwarmReader
from learner_worker.kafka.admin import connected
from learner_worker.kafka.clients import running, standby_consumer
from learner_worker.laboratory.advice import advice_results, advised_auctions
from learner_worker.laboratory.league import League
from learner_worker.laboratory.regret import Regret, by_strategy
from learner_worker.lifecycle import KAFKA_FAILURES
from learner_worker.refusals.denials import in_words
from learner_worker.settings import Settings

FACTS_OF_ADVICE = 20_000  # joined in some tenths of a second: 200 auctions of some forty bidders
_LOOK_SECONDS = 30.0  # how long a topic that was created, or what Kafka has deleted, may stay unnoticed
_LOOKING = "looking for the advice log"


class AgentAdvice(NamedTuple):
    """What came of an agent's newest answers that name a task.

    Attributes:
        answers: the number of answers that are included.
        left_out: the number of older answers, whose auctions have too many bidders to be read.
        totals: the agent's regret, by strategy.
        regret: the same by kind of task, the greatest first.
    """

    answers: int
    left_out: int
    league: League
    totals: Sequence[Regret]
    regret: Sequence[Regret]


class AdviceReader:
    """Follows the advice log while Kafka has one, and joins an agent's answers on demand.

    Args:
        reader: has the outcomes.
    """

    def __init__(self, settings: Settings, reader: SwarmReader, store: AdviceStore) -> None:
        self._settings = settings
        self._reader = reader
        self._store = store
        self._topic = reader.layout.names.advice
        self._follower: TopicFollower | None = None
        self._problem = "whether Kafka has an advice log is still being looked at"
        self._starts: Mapping[TopicPartition, int] = {}

    async def results_of(self, agent_id: AgentId) -> AgentAdvice | None:
        """What an agent's advice came to; None if there is no advice log.

        Raises:
            LearnerError: it is not known, or not known yet.
        """
        if not self._is_read():
            return None
        advice = await self._store.newest_of(agent_id)
        tasks = dict.fromkeys(record.task_id for record in advice)
        found = await self._reader.outcomes_of(tasks, most_facts=FACTS_OF_ADVICE)
        return await asyncio.to_thread(
            agent_advice, agent_id, advice, found.tasks, found.outcomes, self._settings.paid_on
        )

    def _is_read(self) -> bool:
        """Whether there is an advice log; if so, it is read.

        Raises:
            LearnerError: it is not known, or not read yet.
        """
        follower = self._follower
        if self._problem:
            raise LearnerError(self._problem)
        if follower is None or follower.caught_up.is_set():
            return follower is not None
        for refusal in self._reader.outage.refusals:
            if self._topic in refusal:
                raise LearnerError(refusal)
        share = f"{follower.read_share:.0%}"
        raise LearnerError(f"the advice log is still being read ({share}): ask again in a second")

    async def run(self) -> None:
        """Looks for the topic and follows it, until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._look_and_follow(), name="follow-advice")
            tasks.create_task(self._expire(), name="expire-advice")

    async def _look_and_follow(self) -> None:
        while True:
            try:
                await self._follow_if_there()
            except (BrokerError, *KAFKA_FAILURES) as error:
                self._problem = in_words(error)
                self._reader.outage.failed(_LOOKING, error)
            else:
                self._problem = ""
            await asyncio.sleep(_LOOK_SECONDS)

    async def _follow_if_there(self) -> None:
        """Follows the topic; returns if there is none.

        Raises:
            BrokerError: Kafka does not answer, or refuses.
        """
        settings, outage = self._settings, self._reader.outage
        while partitions := await self._partitions():
            consumer = standby_consumer(settings.connection())
            async with running(consumer, settings.startup_timeout_seconds):
                await self._store.clear()
                self._starts = {}
                self._follower = TopicFollower(consumer, self._topic, partitions, self._store.take, outage)
                self._problem = ""
                with suppress(BrokerError):  # Kafka has deleted the next records: the topic is read anew
                    await self._follower.run()
        self._follower = None

    async def _partitions(self) -> int:
        connection, patience = self._settings.connection(), self._settings.startup_timeout_seconds
        async with connected(connection, patience_seconds=patience) as cluster:
            found = await cluster.partitions([self._topic])
        self._reader.outage.worked(_LOOKING)
        return found.get(self._topic, 0)

    async def _expire(self) -> None:
        """Periodically deletes what Kafka has deleted, so that results cover only what the log holds."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                starts = {} if self._follower is None else await self._follower.starts()
            except KAFKA_FAILURES:
                continue  # the follower reports the failure
            moved = {place: first for place, first in starts.items() if first > self._starts.get(place, 0)}
            if moved:
                await self._store.expire(moved)
                self._starts = starts


def agent_advice(
    agent_id: AgentId,
    advice: Sequence[AdviceRecord],
    tasks: Iterable[TaskId],
    outcomes: Sequence[Outcome],
    paid_on: Literal["success", "win"],
) -> AgentAdvice:
    """Joins an agent's advice with the outcomes of everybody who bid for the same tasks.

    Args:
        tasks: the tasks whose outcomes are known; advice for others is left out.
        outcomes: all outcomes of these tasks.
    """
    known = set(tasks)
    read = [record for record in advice if record.task_id in known]
    results = advice_results(read, advised_auctions(outcomes, read), paid_on)
    own = [row for row in results.ledger if row.agent_id == agent_id]
    return AgentAdvice(len(read), len(advice) - len(read), results.league, by_strategy(own), own)
