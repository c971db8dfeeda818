"""A request on its way: as it was received, and once it is admitted."""

import msgspec

from learner_worker.contract.decode import Request
from learner_worker.contract.fields import ShardId
from learner_worker.contract.headers import ReplyAddress
from learner_worker.contract.times import Micros
from learner_worker.kafka.records import Record
from learner_worker.requests.in_flight import InFlightOffsets


class ReceivedRequest(msgspec.Struct, frozen=True):
    """A request as it lies in Kafka, and where its reply goes."""

    record: Record
    offsets: InFlightOffsets
    address: ReplyAddress

    @property
    def shard_id(self) -> ShardId:
        """The shard it was sent to."""
        return ShardId(self.record.partition)

    @property
    def owned(self) -> bool:
        """Whether it is to be answered here; if not, it is read again, here or elsewhere."""
        return self.offsets.owned

    def finish(self) -> None:
        """Nothing more is to be done for it: its offset may be committed."""
        self.offsets.finish(self.record.offset)


class AdmittedRequest(msgspec.Struct, frozen=True):
    """A request that was understood, that is in time, and that lies on its shard's partition."""

    received: ReceivedRequest
    request: Request
    deadline: Micros

    @property
    def shard_id(self) -> ShardId:
        """The shard that answers it."""
        return self.received.shard_id
