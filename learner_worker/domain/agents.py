"""An agent: its metrics and keywords as stored, as cached and as in messages."""

import functools
from collections.abc import Iterable, Iterator, Mapping, MutableMapping

import msgspec

from learner_worker.contract.encode import KeywordTally, MetricsPart, MetricsRecord
from learner_worker.contract.fields import AgentId
from learner_worker.contract.times import format_time, record_micros
from learner_worker.domain.bucketed import LOOKED_AT, bucketed
from learner_worker.domain.keywords import StrongestKeywords, Tally, strongest, tally_of
from learner_worker.domain.metrics import Change, Metrics
from learner_worker.domain.sums import KeptSums

_NO_TALLY = Tally()


class AgentRow(msgspec.Struct, frozen=True, gc=False):
    """An agent's metrics as stored.

    Attributes:
        as_of_ms: the record time of the last change, in milliseconds.
        outcome_offset: the offset of the last changelog record that changed them; -1 if none did.
    """

    metrics: Metrics = Metrics()
    as_of_ms: int = 0
    outcome_offset: int = -1


class Agent:
    """One agent's metrics, keywords and strategies' sums, as cached."""

    __slots__ = ("__weakref__", "agent_id", "row", "strongest", "sums", "tallies")

    def __init__(
        self,
        agent_id: AgentId,
        row: AgentRow,
        tallies: MutableMapping[str, Tally],
        sums: dict[str, KeptSums] | None = None,
    ) -> None:
        self.agent_id = agent_id
        self.row = row
        self.tallies = tallies
        self.strongest = StrongestKeywords(tallies)
        self.sums = {} if sums is None else sums

    @property
    def metrics(self) -> Metrics:
        """The agent's counts."""
        return self.row.metrics

    @property
    def as_of(self) -> str | None:
        """The time at which the metrics last changed, as text; None if they never did."""
        return _text_of(self.row.as_of_ms) if self.row.outcome_offset >= 0 else None

    @property
    def known(self) -> bool:
        """Whether the agent has outcomes that count."""
        return self.metrics.total_bids > 0

    @property
    def is_ready(self) -> bool:
        """Whether an answer needs no scan of many keywords, because the strongest are known."""
        return not self.strongest.must_look_at_all or len(self.tallies) <= LOOKED_AT

    def tallies_to_change(self) -> MutableMapping[str, Tally]:
        """The keywords, in a mapping to which adding takes equally long however many there are."""
        tallies = bucketed(self.tallies)
        if tallies is not self.tallies:
            self.tallies = tallies
            self.strongest.follow(tallies)
        return tallies

    def learned_keywords(self) -> list[KeywordTally]:
        """The strongest keywords, as in messages."""
        return in_messages(self.strongest.strongest())

    def record(self) -> MetricsRecord:
        """The agent's record in learner-agent-metrics."""
        keywords, top = self.strongest.strongest_and_top()
        return MetricsRecord(
            *_figures(self.metrics),
            agent_id=self.agent_id,
            learned_keywords=in_messages(keywords),
            top_keywords=in_messages(top),
            as_of=self.as_of,
            outcome_offset=self.row.outcome_offset,
        )


@functools.lru_cache(maxsize=4_096)
def _text_of(timestamp_ms: int) -> str:
    """A record time as text; cached, because an agent is asked about more often than it changes."""
    return format_time(record_micros(timestamp_ms))


def agent_metrics(metrics: Metrics) -> MetricsPart:
    """The metrics, as in messages."""
    return MetricsPart(*_figures(metrics))


def _figures(metrics: Metrics) -> tuple[int, int, int, int, float, float, float]:
    """The fields of a `MetricsPart`, in its order."""
    return (
        metrics.total_bids,
        metrics.auctions_won,
        metrics.tasks_completed,
        metrics.tasks_failed,
        metrics.win_rate,
        metrics.success_rate,
        metrics.avg_winning_bid_sats,
    )


def learned_keywords(tallies: Mapping[str, Tally]) -> list[KeywordTally]:
    """The strongest keywords, as in messages."""
    return in_messages(strongest(tallies))


def in_messages(keywords: Iterable[tuple[str, Tally]]) -> list[KeywordTally]:
    """Keywords as in messages."""
    return [KeywordTally(keyword, wins, failures, wins - failures) for keyword, (wins, failures) in keywords]


def count_words(agent: Agent, difference: Change) -> Iterator[tuple[str, Tally]]:
    """Changes the agent's tallies; returns the keywords that changed, each with its new tally."""
    tallies, wins, failures = agent.tallies_to_change(), difference.wins, difference.failures
    for keyword in wins.keys() | failures.keys():
        old_wins, old_failures = tallies.get(keyword, _NO_TALLY)
        tally = tally_of(old_wins + wins.get(keyword, 0), old_failures + failures.get(keyword, 0))
        if tally != _NO_TALLY:
            tallies[keyword] = tally
        else:
            tallies.pop(keyword, None)
        agent.strongest.note(keyword)
        yield keyword, tally
