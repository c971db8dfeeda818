"""Keeps a client's session open: reopens it whenever it breaks."""

import asyncio
from typing import Final

from learner_worker.client.connection import RETRY_SECONDS, ClientConnection, log
from learner_worker.client.replies import OwnPartition, PendingReplies, Session, open_session
from learner_worker.contract.topics import TopicNames
from learner_worker.errors import BrokerError, ConfigurationError, RefusedError, SuggestionError
from learner_worker.lifecycle import KAFKA_FAILURES

UNAVAILABLE: Final = "UNAVAILABLE"
"""Kafka refused the request, or the client is not open."""

_NOT_OPEN = "the client is not open: ask inside `async with LearnerClient(...)`"


class PersistentSession:
    """Opens a session, reads its replies, and reopens it when it breaks, until it is closed."""

    def __init__(
        self,
        connection: ClientConnection,
        topics: TopicNames,
        partition: OwnPartition,
        pending: PendingReplies,
    ) -> None:
        self._connection = connection
        self._topics = topics
        self._partition = partition
        self._pending = pending
        self._current: asyncio.Future[Session] | None = None
        self._failure: Exception | None = None
        self._attempted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether a session is open now."""
        return self._current is not None and self._current.done()

    def failure(self) -> BrokerError:
        """The error while no session is open; the message says what to do next."""
        return self._connection.failure(self._failure)

    def raise_if_refused(self) -> None:
        """Raises the refusal of the last attempt to connect, if it was one."""
        if isinstance(self._failure, RefusedError):
            raise self._failure

    async def open(self) -> None:
        """Make the first attempt to connect, successful or not, and keep trying in the background.

        Raises:
            ConfigurationError: it can never work.
        """
        if self._task is not None:
            raise ConfigurationError("the client is open already: one `async with` at a time")
        self._failure = None
        self._attempted = asyncio.Event()  # of this event loop: the client may have been used in another
        self._current = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._stay_open(), name="learner-client-session")
        try:
            await self._attempted.wait()
            self._refuse_configuration_error()
        except BaseException:
            await self.close()
            raise

    def _refuse_configuration_error(self) -> None:
        if isinstance(self._failure, ConfigurationError):
            raise self._failure

    async def current(self) -> Session:
        """The open session; waits for it without a time limit.

        Raises:
            SuggestionError: UNAVAILABLE, the client is not open.
        """
        if self._current is None:
            raise SuggestionError(UNAVAILABLE, _NOT_OPEN)
        return await asyncio.shield(self._current)

    async def close(self) -> None:
        """Close the session; requests that wait for it or for a reply fail with UNAVAILABLE."""
        current, self._current = self._current, None
        task, self._task = self._task, None
        closed = SuggestionError(UNAVAILABLE, "the client was closed")
        self._pending.fail(closed)
        if current is not None and not current.done():
            current.set_exception(closed)
            current.exception()  # marks it as retrieved, so that asyncio logs nothing if nobody waited
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _stay_open(self) -> None:
        try:
            await self._reopen_for_ever()
        finally:
            self._attempted.set()

    async def _reopen_for_ever(self) -> None:
        while True:
            try:
                await self._read_one_session()
            except (*KAFKA_FAILURES, BrokerError, ConfigurationError) as error:
                self._lost(error)
            except Exception as error:  # noqa: BLE001 (a fault of aiokafka's must not end all advice)
                log.exception("client.line-fault")
                self._failure = error
            self._attempted.set()
            await asyncio.sleep(RETRY_SECONDS)

    async def _read_one_session(self) -> None:
        async with open_session(self._connection, self._topics, self._partition) as session:
            self._opened(session)
            try:
                await self._pending.read(session.consumer)
            finally:  # before the session is closed, so that no request uses it any more
                if self._current is not None:
                    self._current = asyncio.get_running_loop().create_future()

    def _opened(self, session: Session) -> None:
        if self._current is not None:
            self._current.set_result(session)
        self._failure = None
        self._attempted.set()
        log.info("client.connected: %s", self._connection.bootstrap_servers)

    def _lost(self, error: Exception) -> None:
        if repr(error) != repr(self._failure):
            log.warning("client.not-connected: %s", self._connection.failure(error))
        self._failure = error
