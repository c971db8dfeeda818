"""What every Python client here shares: the plan it is given, and the JSON lines it prints."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Question:
    """A request's name and its body."""

    name: str
    request: dict[str, Any]

    @property
    def body(self) -> bytes:
        """The request as it travels."""
        return json.dumps(self.request).encode()


@dataclass(frozen=True, slots=True)
class Plan:
    """What to ask, and where."""

    bootstrap_servers: str
    requests: str
    reply_topic: str
    default_reply_topic: str
    unlisted_topic: str
    asks: tuple[Question, ...]
    wrong: Question
    refused: Question


def read_plan() -> Plan:
    """The plan whose path is the first argument."""
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    return Plan(
        given["bootstrap_servers"],
        given["requests"],
        given["reply_topic"],
        given["default_reply_topic"],
        given["unlisted_topic"],
        tuple(Question(**question) for question in given["asks"]),
        Question(**given["wrong"]),
        Question(**given["refused"]),
    )


def tell(**line: Any) -> None:
    """Print one line of the report."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
