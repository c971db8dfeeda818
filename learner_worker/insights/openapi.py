"""The OpenAPI document of the routes for programs."""

from typing import Any, Final

from learner_worker import __version__
from learner_worker.domain.keywords import TOP
from learner_worker.insights.agents import SORTS

_KEYWORD: Final = {
    "type": "object",
    "required": ["keyword", "wins", "failures", "net"],
    "properties": {
        "keyword": {"type": "string"},
        "wins": {"type": "integer"},
        "failures": {"type": "integer"},
        "net": {"type": "integer", "description": "wins - failures"},
    },
    "additionalProperties": False,
}
_KEYWORDS: Final = {"type": "array", "items": {"$ref": "#/components/schemas/Keyword"}}
_FIGURES: Final[dict[str, Any]] = {
    "total_bids": {"type": "integer", "description": "Outcomes: one an auction the agent bid in."},
    "auctions_won": {"type": "integer"},
    "tasks_completed": {"type": "integer"},
    "tasks_failed": {"type": "integer"},
    "win_rate": {"type": "number", "description": "Rounded to 3 digits."},
    "success_rate": {"type": "number", "description": "Rounded to 3 digits."},
    "avg_winning_bid": {"type": "number", "description": "In sats, rounded to 1 digit."},
    "top_keywords": {**_KEYWORDS, "maxItems": TOP, "description": f"The first {TOP} learned keywords."},
}
_SHARE: Final = {"type": "number", "minimum": 0, "maximum": 1, "description": "The share that is read."}
_REFUSED: Final = {
    "type": "array",
    "items": {"type": "string"},
    "description": "What Kafka refuses at present, in sentences.",
}
_SORTS: Final = [sign + sort for sort in SORTS for sign in ("", "-")]


def document() -> dict[str, Any]:
    """The document: OpenAPI 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "learner-worker insights",
            "version": __version__,
            "description": "What the learner knows of every agent, read from Kafka.",
        },
        "paths": {
            "/swarm/insights": {"get": _all_agents()},
            "/swarm/insights/{agent_id}": {"get": _one_agent()},
            "/swarm/tasks/{task_id}/fail": {"post": _fail_task()},
            "/openapi.json": {"get": _this_document()},
            "/healthz": {"get": _probe("getHealth", "Whether it is alive", "Health")},
            "/readyz": {"get": _readiness()},
        },
        "components": {"schemas": _schemas()},
    }


def _all_agents() -> dict[str, Any]:
    return {
        "operationId": "listInsights",
        "summary": "Every agent that has outcomes; with parameters a page of them",
        "parameters": [
            _parameter("limit", {"type": "integer", "minimum": 1}, "At most so many; without it all."),
            _parameter("after", {"type": "string"}, "Only agents after this one; a page's `next`."),
            _parameter("prefix", {"type": "string"}, "Only agents whose id begins with this text."),
            _parameter(
                "sort", {"enum": _SORTS, "default": "agent_id"}, "By this field; - for the greatest first."
            ),
        ],
        "responses": {
            "200": _json("The agents, in the order asked for.", "Agents"),
            "400": _json("A parameter has no such value.", "Error"),
            **_not_read_yet(),
        },
    }


def _one_agent() -> dict[str, Any]:
    where = {"name": "agent_id", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "operationId": "getInsights",
        "summary": "One agent with all of its keywords; zeros and empty lists for an unknown one",
        "parameters": [where],
        "responses": {"200": _json("The agent.", "OneAgent"), **_not_read_yet()},
    }


def _fail_task() -> dict[str, Any]:
    where = {"name": "task_id", "in": "path", "required": True, "schema": {"type": "string"}}
    body = {"application/json": {"schema": {"$ref": "#/components/schemas/TaskFailure"}}}
    return {
        "operationId": "failTask",
        "summary": "Publish that a task failed, as its service would; only with --allow-writes",
        "parameters": [where],
        "requestBody": {"required": True, "content": body},
        "responses": {
            "200": _json("Kafka has the event.", "FailedTask"),
            "400": _json("An id or the body breaks the contract.", "Error"),
            "403": _json("Nothing is published here.", "Error"),
            "415": _json("The body is not JSON.", "Error"),
            "503": _json("Kafka did not acknowledge the event.", "Error"),
        },
    }


def _this_document() -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": "object"}}}
    return {
        "operationId": "getDescription",
        "summary": "This document",
        "responses": {"200": {"description": "OpenAPI 3.1.", "content": content}},
    }


def _probe(name: str, summary: str, schema: str) -> dict[str, Any]:
    return {"operationId": name, "summary": summary, "responses": {"200": _json("Yes.", schema)}}


def _readiness() -> dict[str, Any]:
    probe = _probe("getReadiness", "Whether all is read that Kafka held at the start", "Readiness")
    probe["responses"]["503"] = _json("Not yet.", "Readiness")
    return probe


def _schemas() -> dict[str, Any]:
    one = {"agent_id": {"type": "string"}, "learned_keywords": {**_KEYWORDS, "description": "All of them."}}
    return {
        "Keyword": _KEYWORD,
        "Agent": _object(_FIGURES),
        "OneAgent": _object({**_FIGURES, **one}),
        "Agents": {
            "type": "object",
            "required": ["agents"],
            "properties": {
                "agents": {
                    "type": "object",
                    "additionalProperties": {"$ref": "#/components/schemas/Agent"},
                },
                "next": {"type": "string", "description": "The `after` of the next page, if there is one."},
            },
            "additionalProperties": False,
        },
        "TaskFailure": {
            **_object({"agent_id": {"type": "string"}}),
            "properties": {
                "agent_id": {"type": "string"},
                "reason": {"type": "string", "description": "Is logged."},
            },
        },
        "FailedTask": _object({"task_id": {"type": "string"}, "status": {"const": "failed"}}),
        "Health": _object({"status": {"const": "ok"}, "refused": _REFUSED}),
        "Readiness": _object(
            {"status": {"enum": ["ready", "reading"]}, "metrics": _SHARE, "outcomes": _SHARE}
        ),
        "Error": _object({"error": {"type": "string"}}),
    }


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(properties),
        "properties": properties,
        "additionalProperties": False,
    }


def _parameter(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _json(description: str, schema: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": description, "content": content}


def _not_read_yet() -> dict[str, Any]:
    return {"503": _json("Kafka is still being read: ask again after Retry-After.", "Error")}
