"""What every client asks, and what it must be told: the history and the model's own strategy."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from learner_worker.contract.topics import TopicNames
from tests.support import model
from tests.support.swarm import TOPICS, agent_id, swarm_history

HISTORY = swarm_history(1, 100)
AGENTS = (0, 4, 5, 12, 1, 3)
STRANGER = "a-stranger"
BASES_SATS = (1_000, 137, model.MAX_SATS, 0, 25_000)
UNLISTED_TOPIC = "somebody-elses-topic"
WRONG_FIELD = "base_bid_sats"
NAMED_METRICS = (
    "total_bids",
    "auctions_won",
    "tasks_completed",
    "tasks_failed",
    "win_rate",
    "success_rate",
    "avg_winning_bid_sats",
)


@dataclass(frozen=True, slots=True)
class Question:
    """A request, by a name of its own."""

    name: str
    request: dict[str, Any]


def _asks() -> tuple[Question, ...]:
    asks = []
    for index, agent in enumerate([*map(agent_id, AGENTS), STRANGER]):
        request: dict[str, Any] = {
            "agent_id": agent,
            "base_bid_sats": BASES_SATS[index % len(BASES_SATS)],
            "description": TOPICS[index % len(TOPICS)],
            "request_id": f"r-{index}",
        }
        if index % 2 == 0:
            request["include"] = ["learned_keywords"]
        asks.append(Question(agent, request))
    return tuple(asks)


ASKS = _asks()
WRONG = Question("wrong", {**ASKS[0].request, WRONG_FIELD: "a lot", "request_id": "wrong"})
REFUSED = Question("refused", {**ASKS[0].request, "request_id": "refused"})
UNPROVED = {"no token": "UNAUTHENTICATED", "another agent's token": "FORBIDDEN"}
"""Ways to ask the first question where a learner requires identity, and the code of the reply that is due."""
ERROR_CODES = {WRONG.name: "INVALID_REQUEST", **UNPROVED}


class Tokens(NamedTuple):
    """Tokens for a learner that requires identity: for all agents, and for one that nobody asks for."""

    every: str
    another: str


def plan(bootstrap_servers: str, names: TopicNames, reply_topic: str, tokens: Tokens | None = None) -> str:
    """The plan a client reads, as JSON."""
    unproved = () if tokens is None else zip(UNPROVED, (None, tokens.another), strict=True)
    return json.dumps(
        {
            "bootstrap_servers": bootstrap_servers,
            "requests": names.requests,
            "reply_topic": reply_topic,
            "default_reply_topic": names.replies,
            "unlisted_topic": UNLISTED_TOPIC,
            "asks": [asdict(question) for question in ASKS],
            "wrong": asdict(WRONG),
            "refused": asdict(REFUSED),
            "token": None if tokens is None else tokens.every,
            "unproved": [{"name": name, "token": token} for name, token in unproved],
        },
        ensure_ascii=False,
    )


def expected_replies() -> dict[str, dict[str, Any]]:
    """What each ask must be told, by its name."""
    metrics = model.metrics(model.outcomes(HISTORY))
    return {question.name: _expected(question.request, metrics) for question in ASKS}


def _expected(request: Mapping[str, Any], metrics: Mapping[str, model.Metrics]) -> dict[str, Any]:
    known = metrics.get(request["agent_id"], model.NO_HISTORY)
    suggestion = model.classic(known, request["description"], request["base_bid_sats"])
    reply = {
        "request_id": request["request_id"],
        "agent_id": request["agent_id"],
        "base_bid_sats": request["base_bid_sats"],
        "suggested_bid_sats": suggestion.suggested_bid_sats,
        "strategy": "classic",
        "factor": suggestion.factor,
        "adjustments": suggestion.rules,
        "metrics": {name: getattr(known, name) for name in NAMED_METRICS},
        "as_of": request["agent_id"] in metrics,
        "stale": False,
    }
    if "include" in request:
        reply["learned_keywords"] = [asdict(word) for word in model.strongest_keywords(known)]
    return reply


def comparable(reply: Any) -> Any:
    """A reply without what the model cannot know: the wording of reasons, and when something changed."""
    if isinstance(reply, str):
        reply = json.loads(reply)
    if not isinstance(reply, dict) or "adjustments" not in reply:
        return reply
    rules = [(item["rule"], item["multiplier"]) for item in reply["adjustments"] if item["reason"]]
    return {**reply, "adjustments": rules, "as_of": reply["as_of"] is not None}
