"""What a swarm's own service answered at its routes: computed anew from a table of outcomes for each answer.

Nothing of the program that is judged is imported, and nothing of the contract's model.
"""

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tests.support.model import AuctionClosed, BidPlaced, Event, TaskFinished

_STOP_WORDS = frozenset(
    re.findall(
        "[a-z]+",
        """
        a an the and or but in on at to for of with by from is it this that be as are was were been do does
        did will would can could should may might me my i we you your please task need want make get
        """,
    )
)
_START_US = 1_790_000_000_000_000
_SECOND_US = 1_000_000
_WORDS = [f"word{first}{second}" for first in "abcdefghijklmn" for second in "abcdefghijklmnop"]
"""224 keywords."""


@dataclass(frozen=True)
class Row:
    """A row of the swarm's table `task_outcomes`."""

    task_id: str
    agent_id: str
    description: str
    bid_sats: int
    won: bool
    succeeded: bool | None


# --- the routes -----------------------------------------------------------------------------------


def insights(rows: Sequence[Row]) -> dict[str, Any]:
    """`GET /swarm/insights`."""
    agents = {row.agent_id for row in rows}
    return {
        "agents": {
            agent: {**_figures(rows, agent), "top_keywords": learned_keywords(rows, agent)[:10]}
            for agent in agents
        }
    }


def agent_insights(rows: Sequence[Row], agent: str) -> dict[str, Any]:
    """`GET /swarm/insights/{agent_id}`."""
    keywords = learned_keywords(rows, agent)
    return {"agent_id": agent, **_figures(rows, agent), "learned_keywords": keywords}


def learned_keywords(rows: Iterable[Row], agent: str) -> list[dict[str, Any]]:
    """By net, as the swarm's own; its ties, which a set's order decided, by wins and then by keyword."""
    wins, failures = Counter[str](), Counter[str]()
    for row in rows:
        if row.agent_id == agent and row.won and row.succeeded is not None:
            words = re.findall("[a-z]{3,}", row.description.lower())
            (wins if row.succeeded else failures).update(word for word in words if word not in _STOP_WORDS)
    found = [
        {"keyword": word, "wins": wins[word], "failures": failures[word], "net": wins[word] - failures[word]}
        for word in {*wins, *failures}
    ]
    return sorted(found, key=lambda entry: (-entry["net"], -entry["wins"], entry["keyword"]))


def _figures(rows: Iterable[Row], agent: str) -> dict[str, Any]:
    own = [row for row in rows if row.agent_id == agent]
    won = [row for row in own if row.won]
    completed = sum(row.succeeded is True for row in won)
    decided = completed + sum(row.succeeded is False for row in won)
    mean = sum(row.bid_sats for row in won) / len(won) if won else 0.0
    return {
        "total_bids": len(own),
        "auctions_won": len(won),
        "tasks_completed": completed,
        "tasks_failed": decided - completed,
        "win_rate": round(len(won) / len(own) if own else 0.0, 3),
        "success_rate": round(completed / decided if decided else 0.0, 3),
        "avg_winning_bid": round(mean, 1),
    }


# --- a history --------------------------------------------------------------------------------------


def history(seed: int, tasks: int, strange: Sequence[str] = ()) -> list[Row]:
    """Outcomes of some agents; `much-failing` has two hundred keywords, most of them negative.

    Args:
        strange: agents that bid once each, and win; each task's text is the agent's own id.
    """
    chance = random.Random(seed)
    agents = [f"agent-{number}" for number in range(8)] + ["agent/ж with spaces", "much-failing"]
    rows = [row for number in range(tasks) for row in _task(chance, f"task-{number}", agents)]
    for number, word in enumerate(_WORDS[:200]):
        for attempt in range(1 + number % 3):
            succeeded = number % 29 == 0
            description = f"please {word}, the {word}" if attempt else word
            rows.append(
                Row(f"failing-{number}-{attempt}", "much-failing", description, 90 + number, True, succeeded)
            )
    rows += [Row(f"strange-{number}", agent, agent, 5, True, True) for number, agent in enumerate(strange)]
    return rows


def _task(chance: random.Random, task_id: str, agents: Sequence[str]) -> Iterator[Row]:
    description = " ".join(chance.choices(_WORDS[:40], k=chance.randint(0, 6)))
    crowd = chance.sample(agents[:-1], chance.randint(1, 5))
    winner = chance.choice([*crowd, None])
    for agent in crowd:
        result = chance.choice([True, True, False, None]) if agent == winner else None
        yield Row(task_id, agent, description, chance.randint(0, 5_000), agent == winner, result)


def events_of(rows: Iterable[Row]) -> list[Event]:
    """The events of the same history."""
    tasks: dict[str, list[Row]] = {}
    for row in rows:
        tasks.setdefault(row.task_id, []).append(row)
    events: list[Event] = []
    for number, (task_id, bidders) in enumerate(tasks.items()):
        at = _START_US + number * _SECOND_US
        events += [BidPlaced(task_id, one.agent_id, one.bid_sats, one.description, at) for one in bidders]
        winner = next((one for one in bidders if one.won), None)
        events.append(
            AuctionClosed(
                task_id,
                None if winner is None else winner.agent_id,
                None if winner is None else winner.bid_sats,
                at + 1,
            )
        )
        if winner is not None and winner.succeeded is not None:
            events.append(TaskFinished(task_id, winner.agent_id, winner.succeeded, at + 2))
    return events
