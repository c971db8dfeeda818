"""One agent's outcomes, metrics and keywords, from its records in the changelog, by the domain's rules."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from learner_worker.contract.encode import KeywordTally
from learner_worker.contract.facts import Fact, decode_outcome_record
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.times import Micros
from learner_worker.domain.agents import in_messages
from learner_worker.domain.keywords import Tally, in_order
from learner_worker.domain.metrics import Metrics, change, plus
from learner_worker.domain.outcomes import Cutoff, Outcome, agents_cutoff, join, living_fact
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


def agent_history(agent_id: AgentId, values: Iterable[bytes], cutoff: Cutoff | None) -> AgentHistory:
    """Joins an agent's records.

    Args:
        values: of the agent's standing records, in any order.
        cutoff: before which outcomes have expired; forget markers among the records have their own.

    Raises:
        UpgradeRequiredError: a newer learner wrote one of them.
    """
    facts, forgotten_until = _read(values)
    forgotten = {} if forgotten_until is None else {agent_id: forgotten_until}
    rows = _rows(facts, agents_cutoff(agent_id, cutoff, forgotten))
    metrics, wins, failures = Metrics(), Counter[str](), Counter[str]()
    for row in rows:
        difference = change(None, row)
        metrics = plus(metrics, difference.metrics)
        wins.update(difference.wins)
        failures.update(difference.failures)
    tallies = [(word, Tally(wins[word], failures[word])) for word in wins.keys() | failures.keys()]
    outcomes = sorted((row for row in rows if row.counts), key=_newest_first)
    return AgentHistory(metrics, in_messages(in_order(tallies)), outcomes)


def _read(values: Iterable[bytes]) -> tuple[list[Fact], Micros | None]:
    """The facts, and until when the agent is forgotten; what is neither fact nor marker is skipped."""
    facts: list[Fact] = []
    until: Micros | None = None
    for value in values:
        try:
            found = decode_outcome_record(value)
        except RecordError:
            continue
        if isinstance(found, Fact):
            facts.append(found)
        elif until is None or found.forget_until > until:
            until = found.forget_until
    return facts, until


def _rows(facts: Iterable[Fact], cutoff: Cutoff | None) -> list[Outcome]:
    rows: dict[TaskId, Outcome] = {}
    for fact in facts:
        left = fact if cutoff is None else living_fact(fact, cutoff)
        if left is not None:
            row = rows.get(left.task_id) or Outcome(left.task_id, left.agent_id)
            rows[left.task_id] = join(row, left)
    return list(rows.values())


def _newest_first(outcome: Outcome) -> tuple[int, TaskId]:
    return (-outcome.close.closed_at if outcome.close is not None else 0), outcome.task_id
