"""What a bidding agent asks, and what it is answered."""

from collections.abc import Mapping
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from learner_worker.contract.fields import (
    AgentId,
    AgentIdField,
    Description,
    Message,
    Sats,
    TaskIdField,
    Time,
)

RequestIdField = Annotated[AgentIdField, Field(description="Echoed in the reply.")]

INVALID_REQUEST = "INVALID_REQUEST"
RESTORING = "RESTORING"
OVERLOADED = "OVERLOADED"
INTERNAL = "INTERNAL"
UNAUTHENTICATED = "UNAUTHENTICATED"
FORBIDDEN = "FORBIDDEN"
ERROR_CODES: Mapping[str, str] = {
    INVALID_REQUEST: "The message names the fields: correct them.",
    RESTORING: "The agent's shard is being restored: bid the base, or ask again after retry_after_ms.",
    OVERLOADED: "More requests than can be answered: bid the base, or ask again after retry_after_ms.",
    INTERNAL: "The learner failed on this request: bid the base; tell the operator.",
    UNAUTHENTICATED: "No valid token proves who asks: bid the base; send a new one in authorization.",
    FORBIDDEN: "The token is for other agents: bid the base; ask with this agent's own.",
}
"""What an error reply's code means, and what to do; newer learners may add."""

Rule = Literal[
    "win_rate_high",
    "win_rate_low",
    "success_rate_low",
    "success_rate_high",
    "keywords_proven",
    "keywords_weak",
]


Include = Literal["learned_keywords", "alternatives"]
"""What a reply may have besides."""


class SuggestBidRequest(Message):
    """An agent asks how to adjust its bid for a task."""

    agent_id: AgentIdField
    base_bid_sats: Annotated[Sats, Field(description="What the agent would bid without advice.")]
    description: Annotated[Description, Field(description="The task's text.")]
    request_id: RequestIdField | None = None
    deadline: Annotated[Time | None, Field(description="After it nobody waits for the reply.")] = None
    include: list[Include] | None = None
    strategy: Annotated[
        str | None,
        Field(
            description="By which strategy, of those that the worker has; without it by the worker's. "
            "A learner older than this field answers by classic: compare the reply's."
        ),
    ] = None
    task_id: Annotated[
        TaskIdField | None, Field(description="The task, so that the answer can be joined with its outcome.")
    ] = None
    cost_sats: Annotated[
        Sats | None,
        Field(description="What the effort costs the agent, whether it succeeds or not. Never stored."),
    ] = None
    failure_cost_sats: Annotated[
        Sats | None,
        Field(description="What a failure costs besides; ignored without cost_sats. Never stored."),
    ] = None


class _Answer(BaseModel):
    """A message of the learner's own making: trusted, immutable; unset fields are not sent."""

    model_config = ConfigDict(frozen=True)


class Adjustment(_Answer):
    """One rule that changed the factor, with its reason in words."""

    rule: Annotated[str, Field(description=f"One of {', '.join(get_args(Rule))}; newer learners may add.")]
    multiplier: float
    reason: str


class AgentMetrics(_Answer):
    """How an agent has done so far. Rates are 0.0 where there is nothing to divide by."""

    total_bids: Annotated[int, Field(description="Outcomes: one an auction the agent bid in.")]
    auctions_won: int
    tasks_completed: int
    tasks_failed: int
    win_rate: Annotated[float, Field(description="auctions_won / total_bids")]
    success_rate: Annotated[float, Field(description="tasks_completed / (tasks_completed + tasks_failed)")]
    avg_winning_bid_sats: float


class LearnedKeyword(_Answer):
    """How a word of won tasks' descriptions has turned out."""

    keyword: str
    wins: int
    failures: int
    net: Annotated[int, Field(description="wins - failures")]


class Alternative(_Answer):
    """What a strategy would have answered."""

    suggested_bid_sats: Sats
    factor: float


class SuggestBidReply(_Answer):
    """The advice, and what it was made from."""

    request_id: RequestIdField | None = None
    agent_id: AgentIdField
    base_bid_sats: Sats
    suggested_bid_sats: Sats
    strategy: str
    factor: float
    adjustments: list[Adjustment]
    metrics: AgentMetrics
    learned_keywords: Annotated[
        list[LearnedKeyword], Field(description="The 50 strongest; only when the request includes them.")
    ] = []
    alternatives: Annotated[
        dict[str, Alternative],
        Field(description="Every strategy's advice by its name; only when the request includes them."),
    ] = {}
    as_of: Annotated[str | None, Field(description="When the agent's metrics last changed (RFC 3339).")]
    stale: Annotated[bool, Field(description="True: answered from a shard that is still restoring.")]
    metrics_withheld: Annotated[
        bool,
        Field(
            description="True: this learner does not tell metrics (`--reply-metrics none`): they are zeros, "
            "as_of is null, and there are no reasons and keywords."
        ),
    ] = False


class ReplyError(_Answer):
    """Why there is no advice."""

    code: Annotated[str, Field(description=f"One of {', '.join(ERROR_CODES)}; newer learners may add.")]
    message: str
    retry_after_ms: int | None = None


class SuggestBidError(_Answer):
    """The reply to a request that could not be answered."""

    request_id: RequestIdField | None = None
    agent_id: AgentIdField | None = None
    error: ReplyError


class AgentMetricsRecord(AgentMetrics):
    """The current record of an agent in the compacted metrics topic, for anyone to read."""

    agent_id: AgentId
    learned_keywords: Annotated[list[LearnedKeyword], Field(description="The 50 strongest.")]
    top_keywords: Annotated[
        list[LearnedKeyword],
        Field(description="The 10 first of all, by net, then by wins; missing in records of 0.1.0."),
    ] = []
    as_of: str | None
    outcome_offset: Annotated[int, Field(description="Offset in learner-outcomes that this covers.")]
