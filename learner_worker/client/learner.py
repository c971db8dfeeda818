"""LearnerClient: asks the learner for bid advice."""

import asyncio
from collections.abc import Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Final, Self
from uuid import uuid4

from learner_worker.client.advice import BidAdvice
from learner_worker.client.connection import ClientConnection, log
from learner_worker.client.messages import require_bid, suggest_bid_request
from learner_worker.client.replies import OwnPartition, PendingReplies, ReplyPartition, read_reply
from learner_worker.client.session import UNAVAILABLE, PersistentSession
from learner_worker.client.tokens import Token, fresh_token
from learner_worker.client.tracing import TraceContext, trace_headers
from learner_worker.contract.encode import encode_message
from learner_worker.contract.headers import request_headers
from learner_worker.contract.suggestions import Include, SuggestBidReply, SuggestBidRequest
from learner_worker.contract.topics import Topics
from learner_worker.errors import SuggestionError
from learner_worker.lifecycle import KAFKA_FAILURES
from learner_worker.refusals.denials import failure

TIMEOUT: Final = "TIMEOUT"
"""No reply arrived in time."""

READY_SECONDS = 10.0  # as long as one attempt to connect may take


class LearnerClient:
    """Asks the learner for bid advice. One client serves any number of concurrent requests.

        async with LearnerClient("kafka:9092") as learner:
            advice = await learner.suggest_bid_or_base(
                "agent-7", description="parse invoices", base_bid_sats=1000
            )
            place_bid(advice.bid_sats)

    Entering opens the connection and waits for the first attempt, successful or not: an agent can start
    without Kafka, and bids its base until Kafka is available. While it is open, the client reconnects by
    itself. Call `ready()` to require a connection.

    Args:
        bootstrap_servers: Kafka, as `host:port`, several separated by commas.
        topics: The topics' names; `Topics(prefix="...")` for another prefix.
        timeout_seconds: The default time limit of a request.
        kafka_options: Passed to aiokafka's producer and consumer, for example `{"security_protocol":
            "SSL", "ssl_context": context}`; they override the client's own settings.
        client_id: The client id that Kafka's logs show.
        reply_partition: The partition of the reply topic that all replies are sent to, the only one that
            this client reads. None chooses one at random when the client first connects, so that with N
            partitions each client reads about 1/N of all replies. "all" reads all partitions; replies are
            then sent to the partitions of their keys.
        token: Proves who asks, where the learner wants to know: a JSON Web Token, or a function that returns
            a valid one for each request, async or quick; `token_file(path)` reads a file that is renewed.
        trace_context: Returns the W3C's trace context for each request, as OpenTelemetry's `inject` fills a
            dictionary; a learner that sends traces continues it. Its errors are ignored.

    Clients that share a partition read each other's replies and skip them. A partition of its own keeps other
    replies away from this client, but does not protect its own: Kafka grants access to whole topics only. If
    nobody else may read an agent's replies, give it its own topic,
    `Topics(replies="suggest-bid-replies.agent-7")`, to which the learner may write by default once it exists,
    and allow only this agent to read it.
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
        trace_context: TraceContext | None = None,
    ) -> None:
        self._token = token
        self._trace_context = trace_context
        self._topics = topics.named()
        self._timeout_seconds = timeout_seconds
        self._pending = PendingReplies()
        connection = ClientConnection(bootstrap_servers, client_id, dict(kafka_options or {}))
        self._session = PersistentSession(
            connection, self._topics, OwnPartition(reply_partition), self._pending
        )

    async def __aenter__(self) -> Self:
        """Open the connection.

        Raises:
            ConfigurationError: `kafka_options` or `reply_partition` can never work.
        """
        await self._session.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection; requests in flight fail with UNAVAILABLE."""
        await self._session.close()

    @property
    def pending(self) -> int:
        """The number of requests in flight."""
        return len(self._pending)

    async def ready(self, timeout_seconds: float = READY_SECONDS) -> None:
        """Wait until the client is connected and reads replies, so that no reply can be missed.

        Raises:
            BrokerError: not connected in time; the message says why and what to do. If Kafka refused the last
                attempt, this is raised at once, as a RefusedError.
            SuggestionError: UNAVAILABLE, the client is not open.
        """
        self._session.raise_if_refused()
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._session.current()
        except TimeoutError as error:
            raise self._session.failure() from error

    async def suggest_bid(
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
        """Ask for advice on a bid.

        The request carries a deadline, now plus the timeout, after which the learner drops it: the clocks of
        agents and learner should differ by much less than the timeout.

        Args:
            agent_id: The bidding agent; 1 to 256 characters.
            description: The task's text, at most 16,384 characters.
            base_bid_sats: The agent's bid without advice, in satoshis.
            include: "learned_keywords" for the agent's strongest keywords, "alternatives" for what every
                strategy would answer.
            strategy: A strategy of the worker, as "expected-profit"; None for the worker's own. A worker
                older than strategies answers by classic: compare the reply's `strategy`.
            task_id: The task, so that the answer can be joined with what came of it.
            cost_sats: What the effort costs the agent, whether it succeeds or not. The learner stores it
                nowhere, but the request lies in Kafka, and the advice reveals it.
            failure_cost_sats: What a failure costs besides; ignored without `cost_sats`.
            timeout_seconds: The time limit; None for the client's default.

        Raises:
            SuggestionError: `code` is INVALID_REQUEST (nothing was sent, or the learner refused it), TIMEOUT,
                UNAVAILABLE, UNAUTHENTICATED (there is no token, or the learner refused it), or another code
                of the learner: FORBIDDEN, RESTORING, OVERLOADED, INTERNAL. If the learner tells when to ask
                again, `retry_after_ms` is set.
        """
        seconds = self._timeout_seconds if timeout_seconds is None else timeout_seconds
        request_id = uuid4().hex
        request = suggest_bid_request(
            agent_id,
            description,
            base_bid_sats,
            include,
            request_id=request_id,
            timeout_seconds=seconds,
            strategy=strategy,
            task_id=task_id,
            cost_sats=cost_sats,
            failure_cost_sats=failure_cost_sats,
        )
        try:
            async with asyncio.timeout(seconds):
                record = await self._ask(request, request_id)
        except TimeoutError as error:
            raise SuggestionError(TIMEOUT, self._why_late(seconds)) from error
        except KAFKA_FAILURES as error:
            raise SuggestionError(UNAVAILABLE, str(failure("the request was not sent", error))) from error
        return read_reply(record)

    async def suggest_bid_or_base(
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

        Arguments as for `suggest_bid`. `bid_sats` is always a bid to place, and `reason` tells why it is the
        base bid. Only a base bid that cannot be placed, and a cancellation, raise.

        Raises:
            SuggestionError: INVALID_REQUEST, `base_bid_sats` is no whole number of sats from 0 to 2^53 - 1.
        """
        require_bid(base_bid_sats)
        try:
            reply = await self.suggest_bid(
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
        except SuggestionError as error:
            return BidAdvice(base_bid_sats, None, str(error))
        except Exception as error:  # noqa: BLE001 (a fault here never stands between an agent and its bid)
            log.exception("client.ask-fault")
            return BidAdvice(base_bid_sats, None, f"{type(error).__name__}: {error}")
        return BidAdvice(reply.suggested_bid_sats, reply, None)

    async def _ask(self, request: SuggestBidRequest, correlation_id: str) -> Any:
        """Sends a request; returns the record of its reply."""
        token = await fresh_token(self._token)
        session = await self._session.current()
        with self._pending.expect(correlation_id) as reply:
            sent = await session.producer.send(
                self._topics.requests,
                encode_message(request),
                key=request.agent_id.encode(),
                headers=[
                    *request_headers(correlation_id, self._topics.replies, session.reply_partition, token),
                    *trace_headers(self._trace_context),
                ],
            )
            sent.add_done_callback(partial(_tell_if_unsent, reply))
            return await reply

    def _why_late(self, seconds: float) -> str:
        if not self._session.connected:
            return f"not connected within {seconds} s: {self._session.failure()}"
        return (
            f"no reply within {seconds} s: check that a learner-worker answers {self._topics.requests}, "
            "and that its clock agrees with this one"
        )


def _tell_if_unsent(reply: "asyncio.Future[Any]", sent: "asyncio.Future[Any]") -> None:
    if sent.cancelled():
        return
    error = sent.exception()
    if error is not None and not reply.done():
        reply.set_exception(error)
