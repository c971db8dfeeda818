"""The records of `learner-advice`: what was advised for which task, to be joined with what came of it.

Advice that was computed with a cost says so and has no alternatives: the bids of several strategies beside
each other would reveal it. The cost itself is written nowhere.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from learner_worker.contract.encode import AlternativeAdvice
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.times import parse_time

ADVICE_VERSION: Final = 1  # raised with a change that older readers would misread


class ExperimentArm(msgspec.Struct, frozen=True, gc=False):
    """The experiment that chose the strategy, and which one it chose."""

    name: str
    arm: str


class AdviceRecord(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """An answer to a request that names its task.

    Attributes:
        advised_at: when it was answered (RFC 3339).
        costs: whether the request told a cost.
        alternatives: what every strategy says whose sums are complete; not with costs.
        experiment: null for what no experiment decided.
    """

    task_id: TaskId
    agent_id: AgentId
    advised_at: str
    base_bid_sats: int
    suggested_bid_sats: int
    strategy: str
    factor: float
    costs: bool
    alternatives: Mapping[str, AlternativeAdvice] | msgspec.UnsetType = msgspec.UNSET
    experiment: ExperimentArm | None = None
    v: int = ADVICE_VERSION


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(AdviceRecord).decode


def encode_advice(record: AdviceRecord) -> bytes:
    """The record as JSON."""
    return _encode(record)


def decode_advice(value: bytes | None) -> AdviceRecord | None:
    """The record in a value; None if it is none, or one of a newer version."""
    try:
        record = _decode(value or b"")
        parse_time(record.advised_at)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    return record if record.v <= ADVICE_VERSION else None
