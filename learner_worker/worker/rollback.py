"""The way back to the last checkpoint, when Kafka did not take something."""

import structlog
from aiokafka import AIOKafkaConsumer

from learner_worker.kafka.batching import BatchWriter
from learner_worker.kafka.outage import first_line
from learner_worker.worker.ownership import Ownership

_log = structlog.get_logger("learner_worker.stream")


class Rollback:
    """Sends every shard back to its last checkpoint."""

    def __init__(self, *, consumer: AIOKafkaConsumer, writer: BatchWriter, ownership: Ownership) -> None:
        self.consumer = consumer
        self.writer = writer
        self._ownership = ownership

    def to_last_checkpoint(self, error: BaseException) -> None:
        """Drops everything that was not written: nothing that Kafka did not acknowledge may count.

        Without an await, so no checkpoint can begin in between; until the shards are closed none writes them.
        """
        if not self._ownership.discarding:
            _log.warning("shards.reload", reason=first_line(error))
        self._ownership.discard()
        self._ownership.begin_epoch()
        self.consumer.pause(*self.consumer.assignment())
        self.writer.reset()
        self._ownership.changed.set()
