"""A request as it was received, and once it is admitted."""

from collections.abc import Collection

import msgspec

from learner_worker.contract.decode import Request
from learner_worker.contract.fields import ShardId
from learner_worker.contract.headers import ReplyAddress
from learner_worker.contract.times import Micros
from learner_worker.kafka.records import Record
from learner_worker.observability import RequestTrace
from learner_worker.requests.in_flight import InFlightOffsets


class ReceivedRequest(msgspec.Struct, frozen=True):
    """A request's record, and the address of its reply."""

    record: Record
    offsets: InFlightOffsets
    address: ReplyAddress
    trace: RequestTrace | None = None

    @property
    def shard_id(self) -> ShardId:
        """The shard that it was sent to."""
        return ShardId(self.record.partition)

    @property
    def owned(self) -> bool:
        """Whether it is to be answered here; if not, the shard's new owner reads it again."""
        return self.offsets.owned

    def finish(self, code: str) -> None:
        """Notes that nothing more is to be done for it: its offset may be committed.

        Args:
            code: what it is counted as.
        """
        self.offsets.finish(self.record.offset)
        if self.trace is not None:
            self.trace.finish(code)


class AdmittedRequest(msgspec.Struct, frozen=True):
    """A request that is valid, in time, and on its shard's partition.

    Attributes:
        sums_needed: the strategies whose sums the answer is computed from.
    """

    received: ReceivedRequest
    request: Request
    deadline: Micros
    sums_needed: Collection[str] = ()

    @property
    def shard_id(self) -> ShardId:
        """The shard that answers it."""
        return self.received.shard_id
