"""What becomes of records that Kafka will never take.

What is lost and what is kept then, is in docs/operating.md.
"""

from typing import Final

import structlog
from aiokafka.errors import KafkaError
from prometheus_client import Counter

from learner_worker.contract.topics import TopicNames
from learner_worker.errors import RecordError
from learner_worker.kafka.records import Outgoing, Unreadable, dead_letter, shortened_dead_letter
from learner_worker.kafka.splitting import OF_RECORD, OF_TOPIC

_SHOWN_BYTES: Final = 200
"""Bytes of a key in the log: enough to find its task and agent."""
_log = structlog.get_logger("learner_worker.stream")


class Refusals:
    """Decides what becomes of a record that Kafka will never take, counts it and names it in the log.

    Args:
        refused: counts records, by topic.
        dead_letters: counts dead letters, by reason.
    """

    def __init__(self, topics: TopicNames, refused: Counter, dead_letters: Counter) -> None:
        self._topics = topics
        self._refused = refused
        self._dead_letters = dead_letters
        self._needed = frozenset({topics.outcomes, topics.rerouted})

    def is_final(self, topic: str, error: BaseException | None) -> bool:
        """Whether the records behind an error are given up; otherwise they are sent again later.

        Nothing goes on without the changelog: what a missing right keeps out of it is not given up.
        """
        return isinstance(error, OF_RECORD) or (isinstance(error, OF_TOPIC) and topic not in self._needed)

    def give_up(self, record: Outgoing, error: KafkaError) -> Outgoing | None:
        """Counts and logs a refused record; returns the record that is sent instead, if any.

        A fact becomes a dead letter, a dead letter a shorter one. Anything else is lost: metrics records are
        written again with the agent's next change.
        """
        instead = self._instead(record, error)
        size = len(record.key or b"") + len(record.value or b"")
        self._refused.labels(record.topic).inc()
        _log.error(
            "record.refused",
            topic=record.topic,
            partition=record.partition,
            key=(record.key or b"")[:_SHOWN_BYTES].decode(errors="replace"),
            bytes=size,
            reason=type(error).__name__,
            kept_as=None if instead is None else instead.topic,
        )
        return instead

    def _instead(self, record: Outgoing, error: KafkaError) -> Outgoing | None:
        if not isinstance(error, OF_RECORD):
            return None
        if record.topic == self._topics.outcomes and record.value is not None:
            refused = RecordError(
                "refused",
                f"Kafka refuses this fact ({type(error).__name__}): raise max.message.bytes of "
                f"{record.topic}, then replay it",
            )
            self._dead_letters.labels(refused.reason).inc()
            original = Unreadable(record.topic, record.partition or 0, -1, -1, record.key, record.value)
            return dead_letter(original, self._topics.dead_letters, refused)
        return shortened_dead_letter(record) if record.topic == self._topics.dead_letters else None
