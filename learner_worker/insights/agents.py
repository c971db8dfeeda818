"""Every agent's current figures, held in memory: one small struct an agent, from learner-agent-metrics."""

import sys
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Final, Literal, NamedTuple, get_args

import msgspec

from learner_worker.contract.decode import readable_id
from learner_worker.contract.encode import KeywordTally, MetricsPart
from learner_worker.contract.fields import AgentId
from learner_worker.domain.keywords import TOP
from learner_worker.kafka.records import Record

Sort = Literal[
    "agent_id",
    "total_bids",
    "auctions_won",
    "tasks_completed",
    "tasks_failed",
    "win_rate",
    "success_rate",
    "avg_winning_bid",
]
"""The fields by which agents can be sorted; ties are in the order of ids."""
SORTS: Final[Mapping[str, Sort]] = {name: name for name in get_args(Sort)}
_ORDER_SECONDS = 1.0  # a hundred thousand agents take a tenth of it to sort


class AgentFigures(msgspec.Struct, frozen=True, gc=False):
    """An agent's metrics, as its record has them, and its first keywords."""

    agent_id: AgentId
    total_bids: int = 0
    auctions_won: int = 0
    tasks_completed: int = 0
    tasks_failed: int = 0
    win_rate: float = 0.0
    success_rate: float = 0.0
    avg_winning_bid: float = 0.0
    top_keywords: Sequence[KeywordTally] = ()
    as_of: str | None = None


class AgentQuery(NamedTuple):
    """Which agents are wanted, and in which order.

    Attributes:
        after: only agents that come after this one in the order.
        limit: at most so many; None for all.
    """

    sort: Sort = "agent_id"
    descending: bool = False
    prefix: str = ""
    after: AgentId | None = None
    limit: int | None = None


class AgentPage(NamedTuple):
    """The ids of the agents that were asked for.

    Attributes:
        next: the value of `after` for the next page; None if there is none.
    """

    ids: Sequence[AgentId]
    next: AgentId | None


class MetricsValue(MetricsPart, frozen=True, gc=False, kw_only=True):
    """What is read of a metrics record; a field that older records lack has a default here."""

    agent_id: AgentId
    learned_keywords: list[KeywordTally]
    as_of: str | None
    top_keywords: list[KeywordTally] | None = None


_decoder = msgspec.json.Decoder(MetricsValue)


class AgentDirectory:
    """The agents that have outcomes.

    Args:
        now: seconds, as of any clock that only moves forward.

    Attributes:
        version: changes whenever an agent's figures do.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._agents: dict[AgentId, AgentFigures] = {}
        self._orders: dict[Sort, _Order] = {}
        self.version = 0

    def __len__(self) -> int:
        """How many agents there are."""
        return len(self._agents)

    def get(self, agent_id: AgentId) -> AgentFigures | None:
        """An agent's figures; None if it has no outcomes."""
        return self._agents.get(agent_id)

    def take(self, records: Iterable[Record]) -> None:
        """Takes records of the metrics topic, in their order; what is no metrics record is skipped."""
        for record in records:
            if record.value is None:
                self._remove(readable_id(record.key))
            elif (figures := figures_in(record.value)) is not None:
                if figures.total_bids:
                    self._agents[figures.agent_id] = figures
                else:
                    self._remove(figures.agent_id)
            self.version += 1

    def _remove(self, agent_id: AgentId | None) -> None:
        if agent_id is not None:
            self._agents.pop(agent_id, None)

    def page(self, query: AgentQuery) -> AgentPage:
        """The agents of a query; the order may be a second old.

        Raises:
            KeyError: `after` names no agent, and the order is not that of ids.
        """
        ids = self._selected(query)
        if query.limit is None or len(ids) <= query.limit:
            return AgentPage(ids, None)
        shown = ids[: query.limit]
        return AgentPage(shown, shown[-1] if shown else None)

    def count(self, prefix: str) -> int:
        """How many agents' ids begin with a text."""
        return len(self._selected(AgentQuery(prefix=prefix)))

    def _selected(self, query: AgentQuery) -> Sequence[AgentId]:
        if query.sort == "agent_id" and not query.descending:
            return _between(self._ordered("agent_id"), query.prefix, query.after)
        ids = self._ordered(query.sort)
        if query.descending:
            ids = ids[::-1]
        if query.after is not None:
            if query.after not in self._agents:
                raise KeyError(query.after)
            ids = ids[ids.index(query.after) + 1 :]
        return [agent_id for agent_id in ids if agent_id.startswith(query.prefix)] if query.prefix else ids

    def _ordered(self, sort: Sort) -> Sequence[AgentId]:
        order = self._orders.get(sort)
        now = self._now()
        if order is None or (order.version != self.version and now - order.made_at >= _ORDER_SECONDS):
            order = self._orders[sort] = _Order(self.version, now, self._sorted(sort))
        return order.ids

    def _sorted(self, sort: Sort) -> Sequence[AgentId]:
        ids = sorted(self._agents)
        if sort != "agent_id":
            ids.sort(key=lambda agent_id: getattr(self._agents[agent_id], sort))
        return ids


class _Order(NamedTuple):
    """The ids in some order, and when and of what they were sorted."""

    version: int
    made_at: float
    ids: Sequence[AgentId]


def _between(ids: Sequence[AgentId], prefix: str, after: AgentId | None) -> Sequence[AgentId]:
    """The ids with a prefix that come after another one; `ids` are in their own order."""
    start = bisect_left(ids, AgentId(prefix))
    if after is not None and after >= prefix:
        start = bisect_left(ids, after, lo=start)
        start += start < len(ids) and ids[start] == after
    if not prefix:
        return ids[start:]
    return list(takewhile(lambda agent_id: agent_id.startswith(prefix), ids[start:]))


def figures_in(value: bytes) -> AgentFigures | None:
    """The figures in a metrics record; None if it is none."""
    try:
        found = _decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    keywords = found.learned_keywords if found.top_keywords is None else found.top_keywords
    return AgentFigures(
        found.agent_id,
        found.total_bids,
        found.auctions_won,
        found.tasks_completed,
        found.tasks_failed,
        found.win_rate,
        found.success_rate,
        found.avg_winning_bid_sats,
        tuple(map(_sharing_words, keywords[:TOP])),
        found.as_of,
    )


def _sharing_words(keyword: KeywordTally) -> KeywordTally:
    """The keyword with its word as the one object that all agents share."""
    return KeywordTally(sys.intern(keyword.keyword), keyword.wins, keyword.failures, keyword.net)
