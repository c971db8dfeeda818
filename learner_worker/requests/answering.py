"""Answers the queued requests: loads their agents in one read, calls `advisor` and sends the replies."""

import asyncio
import functools
from collections.abc import Callable, Mapping, Sequence

from learner_worker.contract.fields import AgentId, ShardId
from learner_worker.domain.agents import Agent
from learner_worker.requests.advisor import Advisor
from learner_worker.requests.clock import Clock
from learner_worker.requests.loading import AgentLoader
from learner_worker.requests.queue import RequestQueue
from learner_worker.requests.replies import Replies
from learner_worker.requests.reply_batches import ReplyBatches
from learner_worker.requests.request import AdmittedRequest
from learner_worker.requests.shards import OwnedShards
from learner_worker.shard.pacing import Pacing

_BATCH = 100
"""Requests answered between two yields to the event loop: more would block it for too long."""
_STEP_SECONDS = 0.008
"""Time spent on a batch between two yields: enough for all of it, unless its agents have many keywords."""
_SLICE_SECONDS = 0.02
"""Time spent answering before the next poll: fair turns and timely refusals need requests to be read."""


class Answering:
    """Answers the queued requests of this replica's shards; agents take turns."""

    def __init__(
        self,
        *,
        shards: OwnedShards,
        queue: RequestQueue,
        advisor: Advisor,
        replies: Replies,
        batches: ReplyBatches,
        pacing: Pacing,
        on_failure: Callable[[BaseException], None],
        clock: Clock,
    ) -> None:
        self._shards = shards
        self._queue = queue
        self._advisor = advisor
        self._replies = replies
        self._batches = batches
        self._pacing = pacing
        self._loader = AgentLoader(on_end=queue.let_go_on, on_failure=on_failure)
        self._clock = clock

    async def serve(self) -> bool:
        """Answers queued requests for some milliseconds; returns whether any are left."""
        self._queue.release()
        if not self._queue:
            await self._send()  # the errors that were returned at admission
            return False
        self._pacing.asked()
        await self._serve_for(_SLICE_SECONDS)
        if not self._queue:
            await self._pacing.linger()
        return len(self._queue) > 0

    async def finish(self, seconds: float) -> None:
        """Answers queued requests, refuses parked ones, and waits up to `seconds` for the replies."""
        while self._queue:
            await self._serve_for(_SLICE_SECONDS)
        self._queue.refuse_parked()
        await self._replies.finish(seconds)
        await self._advisor.finish(seconds)

    async def _serve_for(self, seconds: float) -> None:
        until = self._clock.monotonic() + seconds
        while self._queue and self._clock.monotonic() < until:
            await self._serve_batch()
            self._advisor.send()
            await self._send()
            await asyncio.sleep(0)

    async def _send(self) -> None:
        """Starts sending the replies, and waits while Kafka has too many of them to take."""
        self._batches.send()
        if self._batches.is_full:
            await self._batches.wait_for_room()

    async def _serve_batch(self) -> None:
        """Answers a batch, in steps if it takes long: each step reads the agents as they are then."""
        requests = self._queue.take(_BATCH)
        while requests:
            started = self._clock.monotonic()
            agents = await self._agents_of(requests)
            done = requests[: self._answer_some(requests, agents)]
            answered = sum(request.request.agent_id in agents for request in done)
            self._queue.note_rate(answered, self._clock.monotonic() - started)
            requests = requests[len(done) :]
            if requests:
                await asyncio.sleep(0)

    def _answer_some(self, requests: Sequence[AdmittedRequest], agents: Mapping[AgentId, Agent]) -> int:
        """Answers the first requests, for some milliseconds; returns how many."""
        until = self._clock.monotonic() + _STEP_SECONDS
        answer = functools.partial(self._answer, agents)
        for count, request in enumerate(requests, start=1):
            self._replies.guard(request.received, answer, request)
            if self._clock.monotonic() >= until:
                return count
        return len(requests)

    def _answer(self, agents: Mapping[AgentId, Agent], request: AdmittedRequest) -> None:
        received = request.received
        agent_id = request.request.agent_id
        shard, agent = self._shards.get(request.shard_id), agents.get(agent_id)
        if not self._shards.is_assigned(request.shard_id) or not received.owned:
            return  # the shard's new owner reads the request again
        if self._clock.now() > request.deadline:
            self._replies.drop_expired(received)
        elif shard is None or not self._shards.may_answer_from(shard, request):  # closed meanwhile
            self._queue.put(request)
        elif agent is None:
            self._queue.set_aside(request, loading=self._loader.is_loading(agent_id))
        else:
            if received.trace is not None:
                received.trace.begin_advice()
            self._replies.send_advice(received, self._advisor.answer(request, agent, shard))

    async def _agents_of(self, requests: Sequence[AdmittedRequest]) -> dict[AgentId, Agent]:
        """The agents that the requests ask about, without those that cannot be loaded now."""
        wanted: dict[ShardId, set[AgentId]] = {}
        for request in requests:
            wanted.setdefault(request.shard_id, set()).add(request.request.agent_id)
        agents: dict[AgentId, Agent] = {}
        for shard_id, agent_ids in wanted.items():
            shard = self._shards.get(shard_id)
            if shard is not None:
                agents.update(await self._loader.load(shard.agents, agent_ids))
        return agents
