"""What an operator decides about requests."""

from dataclasses import dataclass
from typing import Literal, Self

from learner_worker.contract.topics import ReplyTopics, TopicNames
from learner_worker.settings import Settings

WhileRestoring = Literal["wait", "refuse", "stale"]
POLL_MS = 50
"""A poll that finds nothing returns this soon, so that parked requests are looked after in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSettings:
    """The request path's share of the settings.

    Attributes:
        topics: the names of all topics.
        reply_topics: the allow-list of topics that replies may be written to.
        shards: how many there are: the partitions of the request topic.
        ttl_seconds: how long after its record time a request is answered at the latest.
        stall_seconds: a loop that stood still for longer asks the group whether it still owns its shards.
        while_restoring: what to do with requests for a shard that is restoring.
        poll_ms: how long a poll waits for requests.
    """

    topics: TopicNames
    reply_topics: ReplyTopics
    shards: int
    ttl_seconds: float
    stall_seconds: float
    while_restoring: WhileRestoring = "wait"
    poll_ms: int = POLL_MS

    @classmethod
    def of(cls, settings: Settings, shards: int, poll_ms: int = POLL_MS) -> Self:
        """The share of a worker's settings; replies may never go to a topic that the learner itself reads."""
        topics = settings.topics().named()
        patterns = topics.reply_patterns if settings.reply_topics is None else settings.reply_topics
        return cls(
            topics=topics,
            reply_topics=ReplyTopics(patterns, (*topics.sharded, topics.dead_letters)),
            shards=shards,
            ttl_seconds=settings.request_ttl_seconds,
            stall_seconds=settings.session_timeout_seconds / 2,
            while_restoring=settings.while_restoring,
            poll_ms=poll_ms,
        )
