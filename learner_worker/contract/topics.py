"""The topics: their names and their configuration; the groups' names."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, NewType

TopicName = NewType("TopicName", str)
EventKind = Literal["bid-placed", "auction-closed", "task-finished"]

HOP_HEADER = "learner-hop"
"""The header that marks a record as moved once; its value is the event's kind, or the request topic."""
HOUR_MS = 60 * 60 * 1000  # milliseconds in an hour
ADVICE_MS = 7 * 24 * HOUR_MS  # a week: long enough to compare strategies, short for what reveals bids
ROOMY_RECORD_BYTES = 2 * 1024 * 1024
"""Room for a whole original of up to 1 MiB and headers, in a moved record or a dead letter."""
LARGEST_FACT_BYTES = 6 * 16_384 + 16 * 1024
"""A description of control characters, each of them six bytes of JSON, and ids in key and value."""
LARGEST_KEYWORDS_BYTES = 60 * 16_384 + 16 * 1024
"""The 50 strongest keywords and the 10 first, each as long as a description."""


def requests_group(group_id: str) -> str:
    """The group that keeps the offsets of a group's answered requests."""
    return f"{group_id}.requests"


def forwarding_group(group_id: str) -> str:
    """The group that reads the agents' own request topics, in every layout."""
    return f"{group_id}.forwarded-requests"


_LAYOUT = re.compile(r"\.layout[0-9]+$")


@dataclass(frozen=True, slots=True)
class Topics:
    """The names of all topics, without their prefix; the one for advice is used with `advice_log`."""

    prefix: str = ""
    bid_placed: str = "bid-placed"
    auction_closed: str = "auction-closed"
    task_finished: str = "task-finished"
    requests: str = "suggest-bid-requests"
    replies: str = "suggest-bid-replies"
    outcomes: str = "learner-outcomes"
    metrics: str = "learner-agent-metrics"
    rerouted: str = "learner-rerouted"
    dead_letters: str = "learner-dead-letters"
    topology: str = "learner-topology"
    advice: str = "learner-advice"
    advice_log: bool = False

    def named(self) -> "TopicNames":
        """The full names, with the prefix."""
        names = {
            field.name: TopicName(self.prefix + getattr(self, field.name))
            for field in fields(self)
            if field.name not in {"prefix", "advice_log"}
        }
        return TopicNames(**names, advice_log=self.advice_log)


@dataclass(frozen=True, slots=True)
class TopicNames:
    """The full names of all topics; the one for advice is used with `advice_log`."""

    bid_placed: TopicName
    auction_closed: TopicName
    task_finished: TopicName
    requests: TopicName
    replies: TopicName
    outcomes: TopicName
    metrics: TopicName
    rerouted: TopicName
    dead_letters: TopicName
    topology: TopicName
    advice: TopicName
    advice_log: bool = False

    @property
    def sharded(self) -> tuple[TopicName, ...]:
        """The topics whose partition i belongs to shard i; their partition counts are equal."""
        return (*self.subscribed, self.requests, *((self.advice,) if self.advice_log else ()))

    @property
    def subscribed(self) -> tuple[TopicName, ...]:
        """The topics that the worker's group subscribes to: all sharded ones but the requests."""
        return (
            self.bid_placed,
            self.auction_closed,
            self.task_finished,
            self.rerouted,
            self.outcomes,
            self.metrics,
        )

    @property
    def all(self) -> tuple[TopicName, ...]:
        """Every topic."""
        return (*self.sharded, self.replies, self.dead_letters, self.topology)

    @property
    def reply_patterns(self) -> tuple[str, ...]:
        """The default allow-list of reply topics; a trailing `*` matches any suffix."""
        return (
            self.replies,
            f"{self.replies}.*",
            f"{self.requests}.reply",
            f"{self.requests}-replies",
        )

    @property
    def of_others(self) -> tuple[TopicName, ...]:
        """The sharded topics that others write or read by name: a reshard raises them in place."""
        return (self.bid_placed, self.auction_closed, self.task_finished, self.requests, self.advice)

    @property
    def of_one_layout(self) -> tuple[TopicName, ...]:
        """The topics that a reshard replaces."""
        return (self.outcomes, self.metrics, self.rerouted)

    def of_layout(self, layout: int) -> "TopicNames":
        """The names in a layout, of those in the first one."""
        return replace(
            self,
            outcomes=TopicName(in_layout(self.outcomes, layout)),
            metrics=TopicName(in_layout(self.metrics, layout)),
            rerouted=TopicName(in_layout(self.rerouted, layout)),
        )

    def event_kind(self, topic: str) -> EventKind | None:
        """The kind of event in a source topic; None for any other topic."""
        if topic == self.bid_placed:
            return "bid-placed"
        if topic == self.auction_closed:
            return "auction-closed"
        if topic == self.task_finished:
            return "task-finished"
        return None

    def partitions(self, topic: TopicName, shards: int) -> int:
        """The number of partitions that `topics create` gives a topic."""
        return 1 if topic == self.topology else shards

    def configuration(self, topic: TopicName) -> dict[str, str]:
        """The topic's configuration that `topics create` sets."""
        compacted = {"cleanup.policy": "compact"}
        roomy = {"max.message.bytes": str(ROOMY_RECORD_BYTES)}
        asked = {"message.timestamp.type": "LogAppendTime", "retention.ms": str(HOUR_MS)}
        settings: Mapping[TopicName, dict[str, str]] = {
            self.outcomes: {**compacted, "min.compaction.lag.ms": str(HOUR_MS)},
            self.metrics: compacted,
            self.topology: compacted,
            self.requests: {**asked, **roomy},
            self.replies: {"retention.ms": str(HOUR_MS)},
            self.advice: {"retention.ms": str(ADVICE_MS)},
            self.rerouted: roomy,
            self.dead_letters: roomy,
        }
        return settings.get(topic, {})


def in_layout(name: str, layout: int) -> str:
    """The name of one of the learner's topics or groups in a layout; the first layout adds nothing."""
    return name if layout == 1 else f"{name}.layout{layout}"


def in_first_layout(name: str) -> str:
    """The name that a topic of any layout has in the first one."""
    return _LAYOUT.sub("", name)


class ReplyTopics:
    """The allow-list: replies are written to no other topic, even if a request names one."""

    def __init__(self, patterns: Sequence[str], forbidden: Sequence[str]) -> None:
        self._exact = frozenset(pattern for pattern in patterns if not pattern.endswith("*"))
        self._prefixes = tuple(pattern[:-1] for pattern in patterns if pattern.endswith("*"))
        self._forbidden = frozenset(forbidden)

    def allows(self, topic: str) -> bool:
        """Whether a reply may be written there."""
        if topic in self._forbidden:
            return False
        return topic in self._exact or any(
            topic.startswith(prefix) and len(topic) > len(prefix) for prefix in self._prefixes
        )
