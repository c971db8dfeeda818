"""The oracle of advice: what one agent's answers came to, counted naively from outcomes.

Like the model of the contract, it imports nothing of the program that it judges.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.support import model

Outcomes = Mapping[tuple[str, str], model.Outcome]


@dataclass(frozen=True)
class Answer:
    """An answer to a request that named its task."""

    task_id: str
    agent_id: str
    advised_at: int
    base_sats: int
    suggested_sats: int
    strategy: str
    experiment: str | None = None


def counted_answers(agent_id: str, answers: Sequence[Answer], outcomes: Outcomes) -> dict[str, Answer]:
    """By task, the agent's last answer before its bid; the first if all came later."""
    counted: dict[str, Answer] = {}
    for task in {answer.task_id for answer in answers if answer.agent_id == agent_id}:
        own = sorted(
            (answer for answer in answers if (answer.task_id, answer.agent_id) == (task, agent_id)),
            key=lambda answer: answer.advised_at,
        )
        outcome = outcomes.get((task, agent_id))
        placed_at = None if outcome is None else outcome.placed_at
        early = [one for one in own if placed_at is None or one.advised_at <= placed_at]
        counted[task] = early[-1] if early else own[0]
    return counted


def league(
    agent_id: str, answers: Sequence[Answer], outcomes: Outcomes, *, paid_for_wins: bool
) -> dict[tuple[str | None, str], Counter[str]]:
    """What the agent's answers came to, by experiment and strategy; zeros are left out."""
    rows: defaultdict[tuple[str | None, str], Counter[str]] = defaultdict(Counter)
    ended = {task for task, _ in outcomes}
    for task, answer in counted_answers(agent_id, answers, outcomes).items():
        row, outcome = rows[answer.experiment, answer.strategy], outcomes.get((task, agent_id))
        row["advised"] += 1
        row["ended"] += task in ended
        if outcome is not None:
            row["bid"] += 1
            row["followed"] += outcome.bid_sats == answer.suggested_sats
            row["won"] += outcome.won
            row["done"] += outcome.won and outcome.succeeded is True
            row["failed"] += outcome.won and outcome.succeeded is False
            if outcome.won and (paid_for_wins or outcome.succeeded):
                row["earned_sats"] += outcome.bid_sats or 0
    return {key: +row for key, row in rows.items()}


def regret(
    agent_id: str, answers: Sequence[Answer], outcomes: Outcomes
) -> dict[tuple[str, str], Counter[str]]:
    """What the agent left on the table and missed, by strategy and first keyword; zeros are left out."""
    rows: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for task, answer in counted_answers(agent_id, answers, outcomes).items():
        outcome = outcomes.get((task, agent_id))
        if outcome is None:
            continue
        row = rows[answer.strategy, next(iter(model.keywords(outcome.description)), "-")]
        others = {agent: one for (of, agent), one in outcomes.items() if of == task and agent != agent_id}
        bids = [one.bid_sats for one in others.values() if one.bid_sats is not None]
        row["auctions"] += 1
        row["won"] += outcome.won
        if outcome.won and bids and outcome.bid_sats is not None:
            row["left_sats"] += max(0, min(bids) - outcome.bid_sats)
        price = next((one.bid_sats for one in others.values() if one.won), None)
        if price is not None and price > answer.base_sats:
            row["missed"] += 1
            row["missed_sats"] += price - answer.base_sats
    return {key: +row for key, row in rows.items()}
