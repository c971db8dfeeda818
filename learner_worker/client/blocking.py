"""The clients for code without asyncio: each runs an asyncio client on the event loop of its own thread."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Future
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Self

from learner_worker.client.advice import BidAdvice
from learner_worker.client.background import BackgroundLoop
from learner_worker.client.learner import READY_SECONDS, LearnerClient
from learner_worker.client.messages import require_bid
from learner_worker.client.publisher import EventPublisher
from learner_worker.client.replies import ReplyPartition
from learner_worker.client.session import UNAVAILABLE
from learner_worker.client.tokens import Token, in_a_thread
from learner_worker.contract.suggestions import Include, SuggestBidReply
from learner_worker.contract.topics import Topics
from learner_worker.errors import BrokerError, ConfigurationError, SuggestionError

log = logging.getLogger("learner_worker.client")


class BlockingLearnerClient:
    """Asks the learner for bid advice, from code without asyncio; any number of threads may use it.

        with BlockingLearnerClient("kafka:9092") as learner:
            advice = learner.suggest_bid_or_base(
                "agent-7", description="parse invoices", base_bid_sats=1000
            )
            place_bid(advice.bid_sats)

    Arguments, methods, results and errors are those of `LearnerClient`, which runs on this client's own
    thread; each method blocks until it has ended there. In a thread that runs an event loop, entering and
    asking are refused: use `LearnerClient` there. A `token` function may block.

    A process that forks must open its clients after the fork: the parent's client is not open in a child. If
    a program ends without leaving the context, the client is closed at exit.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        *,
        topics: Topics = Topics(),  # noqa: B008 (frozen)
        timeout_seconds: float = 2.0,
        kafka_options: Mapping[str, Any] | None = None,
        client_id: str = "learner-client",
        reply_partition: ReplyPartition = None,
        token: Token = None,
    ) -> None:
        self._make = partial(
            LearnerClient,
            bootstrap_servers,
            topics=topics,
            timeout_seconds=timeout_seconds,
            kafka_options=kafka_options,
            client_id=client_id,
            reply_partition=reply_partition,
            token=in_a_thread(token),
        )
        self._client = self._make()
        self._background = BackgroundLoop(
            "learner-client",
            blocking="BlockingLearnerClient",
            asynchronous="LearnerClient",
            refusal=partial(SuggestionError, UNAVAILABLE),
        )

    def __enter__(self) -> Self:
        """Open the connection, as `LearnerClient` does.

        Raises:
            ConfigurationError: `kafka_options` or `reply_partition` can never work, the client is open
                already, or this thread runs an event loop.
        """
        client = self._make()
        _open(self._background, client)
        self._client = client
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection; requests in flight in other threads fail with UNAVAILABLE."""
        self._background.stop(partial(self._client.__aexit__, kind, error, trace))

    @property
    def pending(self) -> int:
        """The number of requests in flight."""
        return self._client.pending

    def ready(self, timeout_seconds: float = READY_SECONDS) -> None:
        """Wait until the client is connected and reads replies, so that no reply can be missed.

        Raises:
            BrokerError: not connected in time; the message says why and what to do.
            SuggestionError: UNAVAILABLE, the client is not open.
        """
        self._background.call(partial(self._client.ready, timeout_seconds))

    def suggest_bid(
        self,
        agent_id: str,
        *,
        description: str,
        base_bid_sats: int,
        include: Iterable[Include] = (),
        strategy: str | None = None,
        task_id: str | None = None,
        cost_sats: int | None = None,
        failure_cost_sats: int | None = None,
        timeout_seconds: float | None = None,
    ) -> SuggestBidReply:
        """Ask for advice on a bid; arguments and errors are those of `LearnerClient.suggest_bid`.

        Raises:
            SuggestionError: there is no advice; `code` says why.
            ConfigurationError: this thread runs an event loop.
        """
        return self._background.call(
            partial(
                self._client.suggest_bid,
                agent_id,
                description=description,
                base_bid_sats=base_bid_sats,
                include=include,
                strategy=strategy,
                task_id=task_id,
                cost_sats=cost_sats,
                failure_cost_sats=failure_cost_sats,
                timeout_seconds=timeout_seconds,
            )
        )

    def suggest_bid_or_base(
        self,
        agent_id: str,
        *,
        description: str,
        base_bid_sats: int,
        include: Iterable[Include] = (),
        strategy: str | None = None,
        task_id: str | None = None,
        cost_sats: int | None = None,
        failure_cost_sats: int | None = None,
        timeout_seconds: float | None = None,
    ) -> BidAdvice:
        """Ask for advice on a bid, with the base bid as the fallback.

        Even if the client is not open or an event loop runs, `bid_sats` is always a bid to place, and
        `reason` tells why it is the base bid.

        Raises:
            SuggestionError: INVALID_REQUEST, `base_bid_sats` is no whole number of sats from 0 to 2^53 - 1.
        """
        require_bid(base_bid_sats)
        asking = partial(
            self._client.suggest_bid_or_base,
            agent_id,
            description=description,
            base_bid_sats=base_bid_sats,
            include=include,
            strategy=strategy,
            task_id=task_id,
            cost_sats=cost_sats,
            failure_cost_sats=failure_cost_sats,
            timeout_seconds=timeout_seconds,
        )
        try:
            return self._background.call(asking)
        except (SuggestionError, ConfigurationError) as error:
            return BidAdvice(base_bid_sats, None, str(error))
        except Exception as error:
            log.exception("client.ask-fault")
            return BidAdvice(base_bid_sats, None, f"{type(error).__name__}: {error}")


class BlockingEventPublisher:
    """Publishes the events of auctions, from code without asyncio; any number of threads may use it.

        with BlockingEventPublisher("kafka:9092") as events:
            events.bid_placed("task-1", "agent-7", bid_sats=900, description="parse invoices")
            events.auction_closed("task-1", winner_agent_id="agent-7", winning_bid_sats=900)
            events.task_finished("task-1", "agent-7", succeeded=True)

    Arguments, methods and errors are those of `EventPublisher`, except that the acknowledgement is a
    `concurrent.futures.Future`. As with `BlockingLearnerClient`, it is refused in a thread that runs an event
    loop, must be opened after a fork, and is flushed and closed at the interpreter's exit at the latest.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        *,
        topics: Topics = Topics(),  # noqa: B008 (frozen)
        timeout_seconds: float = 10.0,
        kafka_options: Mapping[str, Any] | None = None,
        client_id: str = "learner-events",
    ) -> None:
        self._make = partial(
            EventPublisher,
            bootstrap_servers,
            topics=topics,
            timeout_seconds=timeout_seconds,
            kafka_options=kafka_options,
            client_id=client_id,
        )
        self._publisher = self._make()
        self._background = BackgroundLoop(
            "learner-events",
            blocking="BlockingEventPublisher",
            asynchronous="EventPublisher",
            refusal=BrokerError,
        )

    def __enter__(self) -> Self:
        """Connect.

        Raises:
            BrokerError: Kafka was not reached in time; the message says what to do.
            ConfigurationError: `kafka_options` can never work, the publisher is open already, or this
                thread runs an event loop.
        """
        publisher = self._make()
        _open(self._background, publisher)
        self._publisher = publisher
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Flush and close.

        Raises:
            BrokerError: an event published with `wait=False` was not acknowledged.
        """
        self._background.stop(partial(self._publisher.__aexit__, kind, error, trace))

    def bid_placed(
        self,
        task_id: str,
        agent_id: str,
        *,
        bid_sats: int,
        description: str,
        placed_at: datetime | None = None,
        wait: bool = True,
    ) -> "Future[None]":
        """Publish that an agent bid for a task; `description` is the task's text as the agent saw it.

        Returns:
            The acknowledgement: done with `wait`, otherwise a future whose `result()` blocks until it is.

        Raises:
            InvalidEventError: the event breaks the contract; nothing was sent.
            BrokerError: Kafka did not accept or acknowledge it in time; the message says what to do.
            ConfigurationError: this thread runs an event loop.
        """
        return self._publish(
            partial(
                self._publisher.bid_placed,
                task_id,
                agent_id,
                bid_sats=bid_sats,
                description=description,
                placed_at=placed_at,
                wait=wait,
            )
        )

    def auction_closed(
        self,
        task_id: str,
        *,
        winner_agent_id: str | None,
        winning_bid_sats: int | None = None,
        closed_at: datetime | None = None,
        description: str | None = None,
        wait: bool = True,
    ) -> "Future[None]":
        """Publish that an auction ended; `winner_agent_id` is None if nobody won. A later close corrects it.

        Returns and raises as `bid_placed`.
        """
        return self._publish(
            partial(
                self._publisher.auction_closed,
                task_id,
                winner_agent_id=winner_agent_id,
                winning_bid_sats=winning_bid_sats,
                closed_at=closed_at,
                description=description,
                wait=wait,
            )
        )

    def task_finished(
        self,
        task_id: str,
        agent_id: str,
        *,
        succeeded: bool,
        finished_at: datetime | None = None,
        wait: bool = True,
    ) -> "Future[None]":
        """Publish that the winner completed or failed a task. The latest `finished_at` counts.

        Returns and raises as `bid_placed`.
        """
        return self._publish(
            partial(
                self._publisher.task_finished,
                task_id,
                agent_id,
                succeeded=succeeded,
                finished_at=finished_at,
                wait=wait,
            )
        )

    def flush(self) -> None:
        """Wait until every event published so far is acknowledged.

        Raises:
            BrokerError: an event published with `wait=False` since the last flush was not acknowledged.
        """
        self._background.call(self._publisher.flush)

    def _publish(
        self, publishing: "Callable[[], Coroutine[Any, Any, asyncio.Future[None]]]"
    ) -> "Future[None]":
        async def published() -> "Future[None]":
            return _for_other_threads(await publishing())

        return self._background.call(published)


def _open(background: BackgroundLoop, client: LearnerClient | EventPublisher) -> None:
    """Enters a client on its thread; ends the thread if that fails."""
    background.start(partial(client.__aexit__, None, None, None))
    try:
        background.call(client.__aenter__)
    except BaseException:
        background.abandon()
        raise


def _for_other_threads(acknowledgement: "asyncio.Future[None]") -> "Future[None]":
    """A future that any thread may wait for; not cancellable, because an event cannot be recalled."""
    handed: Future[None] = Future()
    handed.set_running_or_notify_cancel()
    if acknowledgement.done():
        _settle(handed, acknowledgement)
    else:
        acknowledgement.add_done_callback(partial(_settle, handed))
    return handed


def _settle(handed: "Future[None]", acknowledgement: "asyncio.Future[None]") -> None:
    if acknowledgement.cancelled():
        handed.set_exception(BrokerError("the publisher was closed before Kafka acknowledged the event"))
    elif (error := acknowledgement.exception()) is not None:
        handed.set_exception(error)
    else:
        handed.set_result(None)
