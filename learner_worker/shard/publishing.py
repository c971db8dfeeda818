"""Publishes a shard's metrics records, and its rows again if the changelog has lost its end."""

import itertools
import secrets
from collections.abc import Callable, Collection, MutableMapping, Sequence
from hashlib import blake2b
from hmac import compare_digest
from typing import NamedTuple

import structlog

from learner_worker.contract.decode import MetricsContent, decode_metrics, readable_id
from learner_worker.contract.encode import encode_metrics
from learner_worker.contract.facts import ForgetMarker, encode_marker
from learner_worker.contract.fields import AgentId, ShardId
from learner_worker.contract.topics import TopicName
from learner_worker.domain.agents import Agent
from learner_worker.domain.bucketed import LOOKED_AT
from learner_worker.domain.outcomes import facts_of
from learner_worker.domain.retention import Retention
from learner_worker.kafka.records import Record, chunked
from learner_worker.shard.context import ShardContext
from learner_worker.shard.events import FactSender
from learner_worker.shard.pacing import CHUNK
from learner_worker.shard.replay import BEYOND_ANY_END
from learner_worker.shard.resume import ResumedState
from learner_worker.shard.watermark import WatermarkTracker
from learner_worker.stages.learn import Learn
from learner_worker.store.shard_file import ShardFile
from learner_worker.store.statements import Checkpoint

OWNER_HEADER = "learner-owner"
PUBLISHED_EVERY = 5
"""During a backlog only every fifth checkpoint publishes: most agents change again before the next one."""
_MOST_PUBLISHED = 5_000
"""The most metrics records of one checkpoint: bounds how long its publish step takes."""
_CHUNK = 50
"""Metrics records encoded between two yields to the event loop: more would delay answers."""
_MARK_BYTES = 16
"""128 bits of hash and key: nobody can find another record with the same mark."""
_openings = itertools.count()
_log = structlog.get_logger("learner_worker.shard")


class OwnRecords:
    """Marks the records of one opening of a shard, and recognizes them when they are read.

    A mark consists of the opening's name, a number that grows with each record, and a keyed hash of these and
    the record. So neither a copied mark nor a repeated earlier record is taken for the shard's own.

    Args:
        opening: the name of the opening; readers of the topic may see it.
    """

    def __init__(self, opening: str) -> None:
        # New for each opening, not for the process: records of an earlier opening may arrive late.
        self._opening = opening.encode()
        self._key = secrets.token_bytes(_MARK_BYTES)
        self._written = 0
        self._read = 0

    def mark(self, key: bytes, value: bytes | None) -> bytes:
        """The mark of the next record."""
        self._written += 1
        return self._mark_of(b"%d" % self._written, key, value)

    def recognizes(self, record: Record) -> bool:
        """Whether a record is the shard's own, and later than all that were recognized before."""
        mark = next((value for name, value in record.headers if name == OWNER_HEADER), None) or b""
        opening, _, rest = mark.rpartition(b" ")[0].rpartition(b" ")
        if opening != self._opening:
            return False
        if not compare_digest(mark, self._mark_of(rest, record.key or b"", record.value)):
            return False
        number = int(rest)  # the hash has shown that the mark is ours
        is_later = number > self._read
        self._read = max(self._read, number)
        return is_later

    def _mark_of(self, number: bytes, key: bytes, value: bytes | None) -> bytes:
        marked = b"%b %b %d %b" % (self._opening, number, len(key), key)
        content = b"-" if value is None else b"+" + value
        digest = blake2b(marked + content, key=self._key, digest_size=_MARK_BYTES).hexdigest()
        return b"%b %b %b" % (self._opening, number, digest.encode())


class MetricsSnapshot(NamedTuple):
    """The metrics records that a checkpoint publishes, and what the file notes about them.

    Attributes:
        due: the agents whose record is to be written.
        published: the agents whose record is then up to date.
        leaving: those of them whose row is deleted if they have no outcomes.
        position: the next offset of the metrics topic, for the file.
    """

    due: Collection[AgentId]
    published: Collection[AgentId]
    leaving: Collection[AgentId]
    position: int


class MetricsPublisher:
    """Keeps the metrics topic equal to the shard's metrics of its agents.

    Records are compared by content, not by the offset that they cover. Agents whose record is due stay in
    `learn`, and in the file, until it is written; none is written before the topic was read to its end.

    Args:
        positions: the shard's positions; comparing advances that of the metrics topic.
        watermark: tells whether there is a backlog.
    """

    def __init__(
        self,
        shard_id: ShardId,
        context: ShardContext,
        *,
        positions: MutableMapping[TopicName, int],
        learn: Learn,
        retention: Retention,
        watermark: WatermarkTracker,
    ) -> None:
        self._shard_id = shard_id
        self._context = context
        self._positions = positions
        self._learn = learn
        self._retention = retention
        self._watermark = watermark
        self._own = OwnRecords(f"{context.owner}-{next(_openings)}")
        self._confirmed: set[AgentId] = set()
        self._snapshots = int(shard_id)  # not all shards publish with the same checkpoint
        self._read_to_end = False
        self._looked_at = 0  # keywords of the agents whose records were made since it gave way
        self._position = positions[context.topics.metrics]

    def note_end(self) -> None:
        """Notes that a restored shard has read the metrics topic to its end: records may now be written."""
        self._read_to_end = True

    async def compare(self, records: Sequence[Record]) -> None:
        """Compares the topic's records with this shard's agents: those that differ are due to be written."""
        for chunk in chunked(records, CHUNK):
            found = dict(pair for record in chunk if (pair := self._agent_and_content(record)) is not None)
            await self._learn.agents.load(found, for_change=True)
            due = self._learn.unpublished
            for agent_id, content in found.items():
                if content != self._content_of(await self._next(agent_id)):
                    due.add(agent_id)
                elif not self._read_to_end:  # later, a record of this shard may have replaced this one
                    due.discard(agent_id)
                    self._confirmed.add(agent_id)
            self._positions[self._context.topics.metrics] = chunk[-1].offset + 1

    def snapshot(self) -> MetricsSnapshot:
        """Decides what the next checkpoint publishes."""
        due = self._take_due()
        confirmed, self._confirmed = self._confirmed, set()
        published = confirmed - self._learn.unpublished | due
        leaving = {agent_id for agent_id in published if self._retention.erases(agent_id)}
        return MetricsSnapshot(due, published, leaving, self.position_to_note())

    def position_to_note(self) -> int:
        """The position of the metrics topic for the file.

        Records of other owners that differ are due to be overwritten; until then, a restart after a crash
        has to read them again.
        """
        if not self._learn.unpublished:
            self._position = self.position_read
        return self._position

    @property
    def position_read(self) -> int:
        """The next offset of the metrics topic to read."""
        return self._positions[self._context.topics.metrics]

    async def publish(self, agent_ids: Collection[AgentId]) -> None:
        """Writes the current metrics records of agents."""
        context = self._context
        for chunk in chunked(sorted(agent_ids), _CHUNK):
            await self._learn.agents.load(chunk, for_change=True)
            for agent_id in chunk:
                key, value = agent_id.encode(), self._record_of(await self._next(agent_id))
                headers = [(OWNER_HEADER, self._own.mark(key, value))]
                context.sink.append(context.topics.metrics, self._shard_id, key, value, headers)
            await context.sink.send()
            await context.pacing.give_way()  # loading and sending may return without yielding

    async def _next(self, agent_id: AgentId) -> Agent:
        """An agent, as it is now, for its record; gives way after records of agents with many keywords."""
        agents = self._learn.agents
        if self._looked_at >= LOOKED_AT:
            self._looked_at = 0
            await self._context.pacing.give_way()
        agent = agents.get(agent_id)
        if agent is None or len(agent.tallies) > LOOKED_AT:  # read it, or look through its keywords in steps
            agent = (await agents.load([agent_id]))[agent_id]
        self._looked_at += len(agent.tallies)
        return agent

    def _take_due(self) -> set[AgentId]:
        """Takes some of the agents whose record is due; none before the topic was read to its end.

        During a backlog agents change every second, so that not every checkpoint publishes them.
        """
        self._snapshots += 1
        if not self._read_to_end or (self._watermark.is_behind and self._snapshots % PUBLISHED_EVERY):
            return set()
        taken = set(itertools.islice(self._learn.unpublished, _MOST_PUBLISHED))
        self._learn.unpublished -= taken
        return taken

    def _agent_and_content(self, record: Record) -> tuple[AgentId, MetricsContent | None] | None:
        """A metrics record's agent and content, None for a tombstone; no pair for own or invalid records."""
        if self._own.recognizes(record):
            return None
        if record.value is None:
            agent_id = readable_id(record.key)
            return None if agent_id is None else (agent_id, None)
        content = decode_metrics(record.value)
        return None if content is None else (content.agent_id, content)

    def _record_of(self, agent: Agent) -> bytes | None:
        """An agent's metrics record; a tombstone once all of its outcomes have expired or are forgotten."""
        if agent.known or not self._retention.erases(agent.agent_id):
            return encode_metrics(agent.record())
        return None

    def _content_of(self, agent: Agent) -> MetricsContent | None:
        record = self._record_of(agent)
        return None if record is None else decode_metrics(record)


async def republish_changelog(
    shard_id: ShardId,
    context: ShardContext,
    file: ShardFile,
    resumed: ResumedState,
    on_progress: Callable[[], None],
) -> None:
    """Writes every marker and row to the changelog again: Kafka has lost its end, or all of it.

    Args:
        on_progress: called after every page, because this may take long.

    Raises:
        SendError: Kafka did not accept it; the file still notes that it has to be done.
    """
    topic, sink = context.topics.outcomes, context.sink
    facts = FactSender(context, resumed.retention)
    await file.write(Checkpoint({topic: BEYOND_ANY_END}))
    for agent_id, until in resumed.forgotten.items():
        sink.append(topic, shard_id, *encode_marker(ForgetMarker(agent_id, until)))
    async for outcomes in file.all_outcomes():
        facts.send([fact for outcome in outcomes for fact in facts_of(outcome)])
        await sink.send()
        on_progress()
    await sink.flush()
    facts.count_sent()
    await file.write(Checkpoint({topic: resumed.positions[topic]}))
    _log.warning("shard.rows_published_again", shard=shard_id)
