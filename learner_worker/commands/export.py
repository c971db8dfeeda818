"""An agent's history for other programs: JSON lines with all of it, or its outcomes as CSV.

Fields of an outcome, in this order:

| field | meaning |
|---|---|
| `agent_id`, `task_id` | which agent, in which task |
| `closed_at` | when the auction closed |
| `won` | whether the agent won it |
| `winner_agent_id` | who won; null: nobody |
| `bid_sats` | the bid that counts: of a winner what the close says, if it does; null: nobody said |
| `placed_at` | when the agent's bid was placed; null: no bid arrived |
| `result` | `completed`, `failed`, or null: not won, or no result yet |
| `finished_at` | when that was; null without a result |
| `description` | the task's text that keywords are taken from, whole |

Times are RFC 3339 in UTC. A line of JSON has a `type` besides: `outcome`; after the outcomes one `metrics`,
a `keyword` for each learned keyword, and a `suggestion` where one was asked for, as a reply carries it.
"""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from learner_worker.contract.encode import encode_message
from learner_worker.contract.suggestions import SuggestBidReply
from learner_worker.contract.times import Micros, format_time
from learner_worker.domain.agents import Agent, agent_metrics
from learner_worker.domain.keywords import in_order
from learner_worker.domain.outcomes import Outcome
from learner_worker.operations.history import History

FIELDS: Final = (
    "agent_id",
    "task_id",
    "closed_at",
    "won",
    "winner_agent_id",
    "bid_sats",
    "placed_at",
    "result",
    "finished_at",
    "description",
)
_READ_AS_FORMULA: Final = frozenset("=+-@\t\r\n＝＋－＠'")  # noqa: RUF001 (their wide forms are read so, too)


def outcome_fields(outcome: Outcome) -> dict[str, Any]:
    """An outcome that counts, by the names of FIELDS."""
    close, bid, result = outcome.close, outcome.bid, outcome.result if outcome.won else None
    values = (
        outcome.agent_id,
        outcome.task_id,
        close and exported_time(close.closed_at),
        outcome.won,
        close and close.winner,
        outcome.bid_sats,
        bid and exported_time(bid.placed_at),
        result and ("completed" if result.succeeded else "failed"),
        result and exported_time(result.finished_at),
        outcome.description,
    )
    return dict(zip(FIELDS, values, strict=True))


def exported_time(micros: Micros) -> str:
    """The time as RFC 3339 text; as microseconds if it is out of range."""
    try:
        return format_time(micros)
    except (OverflowError, ValueError):
        return str(micros)


def json_lines(history: History, suggestion: SuggestBidReply | None) -> Iterator[str]:
    """All data as ASCII JSON lines, so that nothing in it can move a terminal's cursor."""
    for outcome in history.outcomes():
        yield _json_line("outcome", outcome_fields(outcome))
    yield _json_line("metrics", _metrics(history.agent))
    for keyword, tally in in_order(history.agent.tallies.items()):
        yield _json_line("keyword", {"keyword": keyword, **tally._asdict(), "net": tally.net})
    if suggestion is not None:
        yield _json_line("suggestion", json.loads(encode_message(suggestion)))


def _metrics(agent: Agent) -> dict[str, Any]:
    return {
        "agent_id": agent.agent_id,
        **msgspec.structs.asdict(agent_metrics(agent.metrics)),
        "as_of": agent.as_of,
    }


def _json_line(kind: str, fields: dict[str, Any]) -> str:
    return json.dumps({"type": kind, **fields}) + "\n"


def csv_lines(history: History) -> Iterator[str]:
    """The outcomes as RFC 4180 has it, every cell quoted, the fields' names in the first line.

    Spreadsheets run a cell as a formula that begins with one of = + - @ or a control character, and a
    description is whatever a stranger wrote. Such a text gets an apostrophe in front; so does one that begins
    with an apostrophe already, so that a program gets the text back by taking one away.
    """
    line = io.StringIO(newline="")
    writer = csv.writer(line, quoting=csv.QUOTE_ALL)
    writer.writerow(FIELDS)
    yield _taken(line)
    for outcome in history.outcomes():
        writer.writerow(map(_cell, outcome_fields(outcome).values()))
        yield _taken(line)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    return f"'{text}" if text[:1] in _READ_AS_FORMULA else text


def _taken(line: io.StringIO) -> str:
    text = line.getvalue()
    line.seek(0)
    line.truncate()
    return text
