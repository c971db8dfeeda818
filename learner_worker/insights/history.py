"""Outcomes from records of the changelog, by the domain's rules; of one agent also metrics and keywords."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from learner_worker.contract.encode import KeywordTally
from learner_worker.contract.facts import Fact, decode_outcome_record
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.times import Micros
from learner_worker.domain.agents import in_messages
from learner_worker.domain.keywords import Tally, in_order
from learner_worker.domain.metrics import Metrics, change, plus
from learner_worker.domain.outcomes import Cutoff, Outcome, OutcomeKey, agents_cutoff, join, living_fact
from learner_worker.errors import RecordError


class AgentHistory(NamedTuple):
    """What an agent's records say.

    Attributes:
        keywords: all learned keywords, in their order.
        outcomes: those that count, the latest close first.
    """

    metrics: Metrics
    keywords: Sequence[KeywordTally]
    outcomes: Sequence[Outcome]


def agent_history(values: Iterable[bytes], cutoff: Cutoff | None) -> AgentHistory:
    """Joins an agent's records.

    Args:
        values: of the agent's standing records, in any order.
        cutoff: before which outcomes have expired; forget markers among the records have their own.

    Raises:
        UpgradeRequiredError: a newer learner wrote one of them.
    """
    rows = standing_outcomes(values, lambda _: cutoff)
    metrics, wins, failures = Metrics(), Counter[str](), Counter[str]()
    for row in rows:
        difference = change(None, row)
        metrics = plus(metrics, difference.metrics)
        wins.update(difference.wins)
        failures.update(difference.failures)
    tallies = [(word, Tally(wins[word], failures[word])) for word in wins.keys() | failures.keys()]
    outcomes = sorted((row for row in rows if row.counts), key=_newest_first)
    return AgentHistory(metrics, in_messages(in_order(tallies)), outcomes)


def standing_outcomes(
    values: Iterable[bytes], cutoff_of: Callable[[AgentId], Cutoff | None]
) -> Sequence[Outcome]:
    """Joins records of any agents and tasks; whether the outcomes count is not asked.

    Args:
        values: with every marker that forgets one of the agents.
        cutoff_of: before which an agent's outcomes have expired.

    Raises:
        UpgradeRequiredError: a newer learner wrote one of them.
    """
    facts, forgotten = _read(values)
    rows: dict[OutcomeKey, Outcome] = {}
    for fact in facts:
        cutoff = agents_cutoff(fact.agent_id, cutoff_of(fact.agent_id), forgotten)
        left = fact if cutoff is None else living_fact(fact, cutoff)
        if left is not None:
            key = (left.task_id, left.agent_id)
            rows[key] = join(rows.get(key) or Outcome(*key), left)
    return list(rows.values())


def _read(values: Iterable[bytes]) -> tuple[list[Fact], dict[AgentId, Micros]]:
    """The facts, and until when agents are forgotten; what is neither fact nor marker is skipped."""
    facts: list[Fact] = []
    forgotten: dict[AgentId, Micros] = {}
    for value in values:
        try:
            found = decode_outcome_record(value)
        except RecordError:
            continue
        if isinstance(found, Fact):
            facts.append(found)
        else:
            until = forgotten.get(found.agent_id, found.forget_until)
            forgotten[found.agent_id] = max(until, found.forget_until)
    return facts, forgotten


def _newest_first(outcome: Outcome) -> tuple[int, TaskId]:
    return (-outcome.close.closed_at if outcome.close is not None else 0), outcome.task_id
