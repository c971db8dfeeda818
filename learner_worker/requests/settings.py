"""The settings of the request path."""

from dataclasses import dataclass
from typing import Literal, Self

from learner_worker.contract.topics import ReplyTopics, TopicNames
from learner_worker.requests.identity import IdentitySettings
from learner_worker.settings import Settings

WhileRestoring = Literal["wait", "refuse", "stale"]
POLL_MS = 50
"""Longest wait of a poll: short, so that parked requests are released or refused in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSettings:
    """The part of the settings that the request path uses.

    Attributes:
        topics: the names of all topics.
        reply_topics: the allow-list of topics that replies may be written to.
        shards: the shard count, which is the number of partitions of the request topic.
        ttl_seconds: how long after its record time a request may still be answered.
        stall_seconds: after a longer stall the loop asks the group whether it still owns its shards.
        while_restoring: what to do with requests for a shard that is restoring.
        poll_ms: the longest time a poll waits for requests.
        identity: how requests prove who asks; None: they need not.
    """

    topics: TopicNames
    reply_topics: ReplyTopics
    shards: int
    ttl_seconds: float
    stall_seconds: float
    while_restoring: WhileRestoring = "wait"
    poll_ms: int = POLL_MS
    identity: IdentitySettings | None = None

    @classmethod
    def of(cls, settings: Settings, shards: int, poll_ms: int = POLL_MS) -> Self:
        """Extracts them from a worker's settings; replies may never go to a topic that the learner reads."""
        topics = settings.topics().named()
        patterns = topics.reply_patterns if settings.reply_topics is None else settings.reply_topics
        return cls(
            topics=topics,
            reply_topics=ReplyTopics(
                patterns, (*topics.sharded, topics.dead_letters, topics.topology, topics.advice)
            ),
            shards=shards,
            ttl_seconds=settings.request_ttl_seconds,
            stall_seconds=settings.session_timeout_seconds / 2,
            while_restoring=settings.while_restoring,
            poll_ms=poll_ms,
            identity=IdentitySettings.of(settings),
        )
