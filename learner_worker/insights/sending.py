"""What insights send, through the client library as anyone would: questions, and that tasks have failed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from learner_worker.client import EventPublisher, LearnerClient
from learner_worker.client.tokens import TokenSource
from learner_worker.contract.fields import AgentId
from learner_worker.contract.suggestions import SuggestBidReply
from learner_worker.settings import Settings

_ASK_SECONDS = 5.0  # a person waits; a learner usually answers within milliseconds


class Sending:
    """Asks the learner, and publishes that tasks have failed.

    Args:
        publisher: None if nothing may be written but questions.
    """

    def __init__(self, learner: LearnerClient, publisher: EventPublisher | None) -> None:
        self._learner = learner
        self._publisher = publisher

    @property
    def may_write(self) -> bool:
        """Whether events may be published."""
        return self._publisher is not None

    async def ask(
        self, agent_id: AgentId, *, description: str, base_bid_sats: int, cost_sats: int | None
    ) -> SuggestBidReply:
        """What the learner would tell the agent, with what every other strategy would.

        Raises:
            SuggestionError: the question breaks the contract, or there is no answer.
        """
        return await self._learner.suggest_bid(
            agent_id,
            description=description,
            base_bid_sats=base_bid_sats,
            cost_sats=cost_sats,
            include=["alternatives"],
            timeout_seconds=_ASK_SECONDS,
        )

    async def task_failed(self, task_id: str, agent_id: str) -> None:
        """Publishes that a task failed; only if events may be published.

        Raises:
            InvalidEventError: an id breaks the contract.
            BrokerError: Kafka did not acknowledge it.
        """
        if self._publisher is not None:
            await self._publisher.task_finished(task_id, agent_id, succeeded=False)


@asynccontextmanager
async def sending(
    settings: Settings, *, allow_writes: bool, token: TokenSource | None = None
) -> AsyncIterator[Sending]:
    """Connects.

    Args:
        token: brings what proves who asks, where the learner wants to know.

    Raises:
        BrokerError: Kafka was not reached, and events are to be published.
    """
    shared = settings.connection().options()
    servers, options = shared.pop("bootstrap_servers"), shared
    options.pop("client_id")
    topics = settings.topics()
    async with LearnerClient(
        servers, topics=topics, kafka_options=options, client_id=settings.client_id, token=token
    ) as learner:
        if not allow_writes:
            yield Sending(learner, None)
            return
        async with EventPublisher(
            servers, topics=topics, kafka_options=options, client_id=settings.client_id
        ) as publisher:
            yield Sending(learner, publisher)
