"""Messages to bytes: the models as clients write them, and structs for what the worker writes most.

The models of `suggestions` define those messages, too. What the worker has just made needs no validation, and
structs are made and encoded in a fraction of a model's time.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from learner_worker.contract.events import Event
from learner_worker.contract.fields import AgentId
from learner_worker.contract.suggestions import (
    AgentMetricsRecord,
    SuggestBidError,
    SuggestBidReply,
    SuggestBidRequest,
)


class KeywordTally(msgspec.Struct, frozen=True, gc=False):
    """A `LearnedKeyword`."""

    keyword: str
    wins: int
    failures: int
    net: int


class Advice(msgspec.Struct, frozen=True, gc=False):
    """An `Adjustment`: the factor is multiplied by `multiplier`."""

    rule: str
    multiplier: float
    reason: str


class AlternativeAdvice(msgspec.Struct, frozen=True, gc=False):
    """An `Alternative`."""

    suggested_bid_sats: int
    factor: float


class MetricsPart(msgspec.Struct, frozen=True, gc=False):
    """An `AgentMetrics`."""

    total_bids: int
    auctions_won: int
    tasks_completed: int
    tasks_failed: int
    win_rate: float
    success_rate: float
    avg_winning_bid_sats: float


class MetricsRecord(MetricsPart, frozen=True, gc=False):
    """An `AgentMetricsRecord`: every checkpoint writes one for each agent that changed."""

    agent_id: AgentId
    learned_keywords: Sequence[KeywordTally]
    top_keywords: Sequence[KeywordTally]
    as_of: str | None
    outcome_offset: int


class Reply(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A `SuggestBidReply`; what is unset is not written."""

    request_id: str | msgspec.UnsetType = msgspec.UNSET
    agent_id: AgentId
    base_bid_sats: int
    suggested_bid_sats: int
    strategy: str
    factor: float
    adjustments: Sequence[Advice]
    metrics: MetricsPart
    learned_keywords: Sequence[KeywordTally] | msgspec.UnsetType = msgspec.UNSET
    alternatives: Mapping[str, AlternativeAdvice] | msgspec.UnsetType = msgspec.UNSET
    as_of: str | None
    stale: bool
    metrics_withheld: bool | msgspec.UnsetType = msgspec.UNSET


_encode: Final = msgspec.json.Encoder().encode
encode_metrics: Final[Callable[[MetricsRecord], bytes]] = _encode
"""A metrics record as JSON."""
encode_reply: Final[Callable[[Reply], bytes]] = _encode
"""A reply as JSON."""


def encode_message(
    message: Event | SuggestBidRequest | SuggestBidReply | SuggestBidError | AgentMetricsRecord,
) -> bytes:
    """A message as JSON; fields that were never set are left out."""
    return message.__pydantic_serializer__.to_json(message, exclude_unset=True)
