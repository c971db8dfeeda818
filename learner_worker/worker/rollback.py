"""The return to the last checkpoint, after Kafka failed to acknowledge a record."""

from typing import Final

import structlog
from aiokafka import AIOKafkaConsumer

from learner_worker.errors import SendError
from learner_worker.kafka.batching import BatchWriter
from learner_worker.kafka.outage import Outage, first_line
from learner_worker.worker.ownership import Ownership

WRITING: Final = "writing"
"""The operation that fails when Kafka does not acknowledge records: shards are reopened after its pause."""
_log = structlog.get_logger("learner_worker.stream")


class Rollback:
    """Returns every shard to its last checkpoint."""

    def __init__(
        self, *, consumer: AIOKafkaConsumer, writer: BatchWriter, ownership: Ownership, outage: Outage
    ) -> None:
        self.consumer = consumer
        self.writer = writer
        self._ownership = ownership
        self._outage = outage
        self._failed_assignment = ownership.assignment_number

    def note_checkpoint(self) -> None:
        """Notes that a checkpoint has succeeded: it shows that Kafka takes records if it had some to send."""
        if self.writer.has_acknowledged or self._ownership.assignment_number != self._failed_assignment:
            self._outage.worked(WRITING)

    def to_last_checkpoint(self, error: BaseException) -> None:
        """Drops everything that is not written: nothing that Kafka did not acknowledge may become durable.

        There is no await in it, so no checkpoint can begin in between, and none writes the shards before
        they are closed.
        """
        if not self._ownership.discarding:
            _log.warning("shards.reload", reason=first_line(error))
            if isinstance(error, SendError):
                self._outage.failed(WRITING, error)
                self._failed_assignment = self._ownership.assignment_number
        self._ownership.discard()
        self._ownership.begin_epoch()
        self.consumer.pause(*self.consumer.assignment())
        self.writer.reset()
        self._ownership.changed.set()
