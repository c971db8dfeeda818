"""Holds admitted requests until they are answered: agents take turns, and requests may be parked."""

from collections.abc import Collection

from learner_worker.contract.fields import AgentId
from learner_worker.contract.suggestions import OVERLOADED, RESTORING
from learner_worker.errors import RequestError
from learner_worker.requests.clock import Clock
from learner_worker.requests.fair_queue import FairQueue
from learner_worker.requests.parked import ParkedRequests
from learner_worker.requests.replies import Replies
from learner_worker.requests.request import AdmittedRequest
from learner_worker.requests.settings import WhileRestoring
from learner_worker.requests.shards import OwnedShards

_MAX_QUEUED = 2_000
"""The most requests queued in all: more could not be answered in good time, so they are refused."""
_LAST_MOMENT_MICROS = 250_000
"""A parked request is refused this long before its deadline, so that the reply still arrives in time."""
_RESTORING_RETRY_MS = 1_000
"""Most restores take seconds: asking more often would only add load."""
_SHORTEST_RETRY_MS = 100
"""The time that a full queue takes to drain at least: an earlier retry would find it full again."""
_RATE_WEIGHT = 0.1
"""Weight of the newest batch in the moving average of the rate: it averages over about ten batches."""


class RequestQueue:
    """Holds admitted requests, and refuses those that cannot be answered in time."""

    def __init__(
        self, *, shards: OwnedShards, replies: Replies, while_restoring: WhileRestoring, clock: Clock
    ) -> None:
        self._shards = shards
        self._replies = replies
        self._parking_allowed = while_restoring == "wait"
        self._clock = clock
        self._turns: FairQueue[AdmittedRequest] = FairQueue(_MAX_QUEUED)
        self._parked = ParkedRequests()
        self._agents_loading = ParkedRequests()
        self._answered_a_second = 0.0

    def __len__(self) -> int:
        """The number of requests that can be answered now."""
        return len(self._turns)

    def put(self, request: AdmittedRequest) -> None:
        """Queues a request if its shard can answer now; otherwise parks or refuses it."""
        if self._shards.can_answer(request):
            self._enqueue(request)
        elif self._parking_allowed and self._parked.has_room:
            self._parked.park(request)
        else:
            self._replies.send_error(request.received, restoring())

    def set_aside(self, request: AdmittedRequest, *, loading: bool) -> None:
        """Parks a request whose agent is not in memory: until its load ends, or for a new attempt."""
        parked = self._agents_loading if loading else self._parked
        if parked.has_room:
            parked.park(request)
        else:
            self._replies.send_error(request.received, self._overloaded())

    def let_go_on(self, agent_ids: Collection[AgentId]) -> None:
        """Lets the next `release` queue the requests that were parked until these agents' loads ended."""
        for request in self._agents_loading.take_all():
            ended = request.request.agent_id in agent_ids
            (self._parked if ended else self._agents_loading).park(request)

    def release(self) -> None:
        """Queues the parked requests that can be answered now, and refuses those about to expire."""
        for request in self._parked.take_all():
            can_answer = self._shards.can_answer(request)
            if can_answer and len(self._turns) < _MAX_QUEUED:
                self._enqueue(request)
            elif request.deadline - self._clock.now() < _LAST_MOMENT_MICROS:
                self._replies.send_error(request.received, self._overloaded() if can_answer else restoring())
            else:
                self._parked.park(request)

    def take(self, count: int) -> list[AdmittedRequest]:
        """Takes up to `count` requests; leaves out those that are not to be answered here any more."""
        return [request for request in self._turns.take(count) if request.received.owned]

    def note_rate(self, answered: int, seconds: float) -> None:
        """Updates the rate of answers, from which a refusal's retry time is computed."""
        if answered:
            rate = answered / max(seconds, 1e-6)  # microsecond: the clock may not have advanced
            self._answered_a_second += (rate - self._answered_a_second) * _RATE_WEIGHT

    def drop_lost(self) -> None:
        """Leaves the parked requests of lost shards to their new owners, who read them again."""
        for parked in (self._parked, self._agents_loading):
            parked.keep(lambda request: self._shards.is_assigned(request.shard_id))

    def refuse_parked(self) -> None:
        """Refuses every parked request: this replica is stopping."""
        for request in (*self._parked.take_all(), *self._agents_loading.take_all()):
            self._replies.send_error(request.received, restoring())

    def _enqueue(self, request: AdmittedRequest) -> None:
        displaced = self._turns.put(request.request.agent_id, request)
        if displaced is not None and displaced.received.owned:
            self._replies.send_error(displaced.received, self._overloaded())

    def _overloaded(self) -> RequestError:
        drained_ms = 1_000 * _MAX_QUEUED / self._answered_a_second if self._answered_a_second else 0.0
        return RequestError(
            OVERLOADED,
            "more requests than can be answered in time; ask again later, or bid your own",
            retry_after_ms=max(_SHORTEST_RETRY_MS, round(drained_ms)),
        )


def restoring() -> RequestError:
    """The error for requests to a shard that is restoring."""
    return RequestError(
        RESTORING, "the agent's shard is being restored; ask again", retry_after_ms=_RESTORING_RETRY_MS
    )
