"""The return to the last checkpoint, after Kafka failed to acknowledge a record."""

import structlog
from aiokafka import AIOKafkaConsumer

from learner_worker.kafka.batching import BatchWriter
from learner_worker.kafka.outage import first_line
from learner_worker.worker.ownership import Ownership

_log = structlog.get_logger("learner_worker.stream")


class Rollback:
    """Returns every shard to its last checkpoint."""

    def __init__(self, *, consumer: AIOKafkaConsumer, writer: BatchWriter, ownership: Ownership) -> None:
        self.consumer = consumer
        self.writer = writer
        self._ownership = ownership

    def to_last_checkpoint(self, error: BaseException) -> None:
        """Drops everything that is not written: nothing that Kafka did not acknowledge may become durable.

        There is no await in it, so no checkpoint can begin in between, and none writes the shards before
        they are closed.
        """
        if not self._ownership.discarding:
            _log.warning("shards.reload", reason=first_line(error))
        self._ownership.discard()
        self._ownership.begin_epoch()
        self.consumer.pause(*self.consumer.assignment())
        self.writer.reset()
        self._ownership.changed.set()
