"""The JSON answers of the routes: names and rounding as the swarm's own service had them."""

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from learner_worker.contract.encode import KeywordTally
from learner_worker.contract.fields import AgentId
from learner_worker.domain.keywords import TOP
from learner_worker.domain.metrics import Metrics
from learner_worker.insights.agents import AgentDirectory, AgentFigures, AgentPage
from learner_worker.insights.history import AgentHistory

_RATE_DIGITS, _SATS_DIGITS = 3, 1  # of rates and of the mean bid: what a reader can take in
AGENTS_AT_ONCE = 500  # encoded in one step: a few milliseconds


class AgentAnswer(msgspec.Struct, frozen=True, gc=False):
    """One agent in `/swarm/insights`."""

    total_bids: int
    auctions_won: int
    tasks_completed: int
    tasks_failed: int
    win_rate: float
    success_rate: float
    avg_winning_bid: float
    top_keywords: Sequence[KeywordTally]


class OneAgentAnswer(AgentAnswer, frozen=True, gc=False):
    """`/swarm/insights/{agent_id}`."""

    agent_id: AgentId
    learned_keywords: Sequence[KeywordTally]


_encode: Final = msgspec.json.Encoder().encode


def agent_answer(figures: AgentFigures) -> AgentAnswer:
    """An agent's figures, rounded."""
    return AgentAnswer(*_rounded(figures, figures.avg_winning_bid), figures.top_keywords)


def one_agent_answer(agent_id: AgentId, history: AgentHistory) -> bytes:
    """An agent's figures, rounded, and all of its keywords."""
    metrics, keywords = history.metrics, history.keywords
    figures = _rounded(metrics, metrics.avg_winning_bid_sats)
    return _encode(OneAgentAnswer(*figures, keywords[:TOP], agent_id=agent_id, learned_keywords=keywords))


def _rounded(
    metrics: AgentFigures | Metrics, avg_winning_bid: float
) -> tuple[int, int, int, int, float, float, float]:
    return (
        metrics.total_bids,
        metrics.auctions_won,
        metrics.tasks_completed,
        metrics.tasks_failed,
        round(metrics.win_rate, _RATE_DIGITS),
        round(metrics.success_rate, _RATE_DIGITS),
        round(avg_winning_bid, _SATS_DIGITS),
    )


def agents_answer(agents: AgentDirectory, page: AgentPage) -> Iterator[bytes]:
    """The agents of a page, in pieces; `next` follows if there are more."""
    opening = b'{"agents":{'
    for start in range(0, len(page.ids), AGENTS_AT_ONCE):
        found = map(agents.get, page.ids[start : start + AGENTS_AT_ONCE])
        entries = [_encode(each.agent_id) + b":" + _encode(agent_answer(each)) for each in found if each]
        if entries:  # all of them may have been forgotten meanwhile
            yield opening + b",".join(entries)
            opening = b","
    if opening != b",":
        yield opening
    yield b"}}" if page.next is None else b'},"next":' + _encode(page.next) + b"}"
