"""One example of every message that others write or read: of an agent that often wins and always delivers."""

import json
from collections.abc import Mapping
from typing import Any, Final

from learner_worker.contract.encode import encode_message
from learner_worker.contract.events import AuctionClosed, BidPlaced, Event, TaskFinished
from learner_worker.contract.suggestions import (
    RESTORING,
    AgentMetricsRecord,
    SuggestBidError,
    SuggestBidReply,
    SuggestBidRequest,
)

_ECHO: Final = {"agent_id": "echo"}
_TASK: Final = {"task_id": "task-42"}
_DESCRIPTION: Final = {"description": "Fix the invoice parser"}
_METRICS: Final = {
    "total_bids": 10,
    "auctions_won": 9,
    "tasks_completed": 9,
    "tasks_failed": 0,
    "win_rate": 0.9,
    "success_rate": 1.0,
    "avg_winning_bid_sats": 950.0,
}
_AS_OF: Final = {"as_of": "2026-01-31T12:00:00.000000Z"}
_ADJUSTMENTS: Final = [
    {
        "rule": "win_rate_high",
        "multiplier": 1.15,
        "reason": "won 9 of 10 auctions: wins too easily, ask for more",
    },
    {
        "rule": "success_rate_high",
        "multiplier": 0.9,
        "reason": "completed 9 of 9 won tasks: reliable, lean in",
    },
]

EXAMPLES: Final[
    Mapping[str, Event | SuggestBidRequest | SuggestBidReply | SuggestBidError | AgentMetricsRecord]
] = {
    "bid-placed": BidPlaced.model_validate(
        {**_TASK, **_ECHO, "bid_sats": 950, **_DESCRIPTION, "placed_at": "2026-01-31T11:59:00Z"}
    ),
    "auction-closed": AuctionClosed.model_validate(
        {
            **_TASK,
            "winner_agent_id": "echo",
            "winning_bid_sats": 950,
            "closed_at": "2026-01-31T11:59:30+00:00",
        }
    ),
    "task-finished": TaskFinished.model_validate(
        {**_TASK, **_ECHO, "succeeded": True, "finished_at": "2026-01-31T12:00:00Z"}
    ),
    "suggest-bid-request": SuggestBidRequest.model_validate(
        {**_ECHO, "base_bid_sats": 1000, **_DESCRIPTION, "request_id": "42"}
    ),
    "suggest-bid-reply": SuggestBidReply.model_validate(
        {
            "request_id": "42",
            **_ECHO,
            "base_bid_sats": 1000,
            "suggested_bid_sats": 1035,
            "strategy": "classic",
            "factor": 1.035,
            "adjustments": _ADJUSTMENTS,
            "metrics": _METRICS,
            **_AS_OF,
            "stale": False,
        }
    ),
    "suggest-bid-error": SuggestBidError.model_validate(
        {
            "request_id": "42",
            **_ECHO,
            "error": {
                "code": RESTORING,
                "message": "the agent's shard is being restored; ask again",
                "retry_after_ms": 1000,
            },
        }
    ),
    "agent-metrics": AgentMetricsRecord.model_validate(
        {
            **_METRICS,
            **_ECHO,
            "learned_keywords": [{"keyword": "translate", "wins": 9, "failures": 0, "net": 9}],
            "top_keywords": [{"keyword": "translate", "wins": 9, "failures": 0, "net": 9}],
            **_AS_OF,
            "outcome_offset": 1234,
        }
    ),
}
"""By the name of the message's schema."""


def example_of(schema: str) -> Any:
    """The example as JSON; None if the schema has none."""
    return json.loads(encode_message(EXAMPLES[schema])) if schema in EXAMPLES else None
