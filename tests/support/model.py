"""The oracle: the contract, folded naively from scratch.

It imports nothing of the program it judges, keeps every event and computes everything anew. Times are
integer microseconds since the Unix epoch, already resolved (a missing time was replaced by its record's own).
The auction horizon is not modelled: every event given here is taken to have arrived in time.
"""

import hashlib
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

MAX_SATS = 2**53 - 1
STRONGEST_KEYWORDS = 50
STOP_WORDS = frozenset(
    re.findall(
        "[a-z]+",
        """
        a an the and or but in on at to for of with by from is it this that be as are was were been do does
        did will would can could should may might me my i we you your please task need want make get
        """,
    )
)


# --- events ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BidPlaced:
    """An agent's bid for a task."""

    task_id: str
    agent_id: str
    bid_sats: int
    description: str
    placed_at: int

    def to_json(self) -> bytes:
        """The event as it travels on `bid-placed`."""
        return _json(
            {
                "task_id": self.task_id,
                "agent_id": self.agent_id,
                "bid_sats": self.bid_sats,
                "description": self.description,
                "placed_at": rfc3339(self.placed_at),
            }
        )


@dataclass(frozen=True)
class AuctionClosed:
    """How an auction closed: `winner_agent_id` None is nobody, `description` None is left out."""

    task_id: str
    winner_agent_id: str | None
    winning_bid_sats: int | None
    closed_at: int
    description: str | None = None

    def to_json(self) -> bytes:
        """The event as it travels on `auction-closed`."""
        described = {} if self.description is None else {"description": self.description}
        return _json(
            {
                "task_id": self.task_id,
                "winner_agent_id": self.winner_agent_id,
                "winning_bid_sats": self.winning_bid_sats,
                "closed_at": rfc3339(self.closed_at),
                **described,
            }
        )


@dataclass(frozen=True)
class TaskFinished:
    """An agent's result for a task."""

    task_id: str
    agent_id: str
    succeeded: bool
    finished_at: int

    def to_json(self) -> bytes:
        """The event as it travels on `task-finished`."""
        return _json(
            {
                "task_id": self.task_id,
                "agent_id": self.agent_id,
                "succeeded": self.succeeded,
                "finished_at": rfc3339(self.finished_at),
            }
        )


Event: TypeAlias = BidPlaced | AuctionClosed | TaskFinished


def rfc3339(time_us: int) -> str:
    """A time in microseconds since the epoch, as RFC 3339 text in UTC with six decimals and Z."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_us)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _json(fields: Mapping[str, object]) -> bytes:
    return json.dumps(fields, ensure_ascii=False).encode()


# --- retention -----------------------------------------------------------------------------------


def remembered(events: Iterable[Event], *, closes_from_us: int, others_from_us: int) -> list[Event]:
    """What retention leaves: closes, and bids and results, from a time on; earlier ones never were."""
    return [event for event in events if _is_remembered(event, closes_from_us, others_from_us)]


def _is_remembered(event: Event, closes_from_us: int, others_from_us: int) -> bool:
    match event:
        case AuctionClosed():
            return event.closed_at >= closes_from_us
        case BidPlaced():
            return event.placed_at >= others_from_us
        case TaskFinished():
            return event.finished_at >= others_from_us


# --- outcomes -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """How one agent's bid for one task ended.

    `bid_sats` is the effective bid: the close's winning bid for its winner, if given; None when unknown.
    `succeeded` and `finished_at` are None without a result that counts, `placed_at` without such a bid.
    """

    won: bool
    bid_sats: int | None
    description: str
    succeeded: bool | None
    closed_at: int
    placed_at: int | None
    finished_at: int | None


def outcomes(events: Iterable[Event], tolerance_us: int = 1_000_000) -> dict[tuple[str, str], Outcome]:
    """Every outcome by (task, agent); bids placed after the close + `tolerance_us` are not counted."""
    by_task: defaultdict[str, list[Event]] = defaultdict(list)
    for event in events:
        by_task[event.task_id].append(event)
    return {
        (task_id, agent_id): outcome
        for task_id in sorted(by_task)
        for agent_id, outcome in _outcomes_of_task(by_task[task_id], tolerance_us).items()
    }


def _outcomes_of_task(events: list[Event], tolerance_us: int) -> dict[str, Outcome]:
    close = _standing_close([event for event in events if isinstance(event, AuctionClosed)])
    if close is None:
        return {}
    bids = [event for event in events if isinstance(event, BidPlaced)]
    counted = [bid for bid in bids if bid.placed_at <= close.closed_at + tolerance_us]
    agents = {bid.agent_id for bid in counted}
    if close.winner_agent_id is not None:
        agents.add(close.winner_agent_id)
    results = [event for event in events if isinstance(event, TaskFinished)]
    return {agent: _outcome_of_agent(agent, close, counted, results) for agent in sorted(agents)}


def _outcome_of_agent(
    agent_id: str, close: AuctionClosed, counted: list[BidPlaced], results: list[TaskFinished]
) -> Outcome:
    won = agent_id == close.winner_agent_id
    bid = _last_bid([bid for bid in counted if bid.agent_id == agent_id])
    result = _standing_result([result for result in results if won and result.agent_id == agent_id])
    return Outcome(
        won=won,
        bid_sats=_effective_bid_sats(won, close, bid),
        description=bid.description if bid is not None else (close.description or ""),
        succeeded=None if result is None else result.succeeded,
        closed_at=close.closed_at,
        placed_at=None if bid is None else bid.placed_at,
        finished_at=None if result is None else result.finished_at,
    )


def _effective_bid_sats(won: bool, close: AuctionClosed, bid: BidPlaced | None) -> int | None:
    if won and close.winning_bid_sats is not None:
        return close.winning_bid_sats
    return None if bid is None else bid.bid_sats


def _standing_close(closes: list[AuctionClosed]) -> AuctionClosed | None:
    """The latest; at equal times the smaller winner, winning bid, description digest (absent first)."""
    return min(
        closes,
        key=lambda close: (
            -close.closed_at,
            (close.winner_agent_id is not None, close.winner_agent_id or ""),
            (close.winning_bid_sats is not None, close.winning_bid_sats or 0),
            (close.description is not None, _digest(close.description or "")),
        ),
        default=None,
    )


def _last_bid(bids: list[BidPlaced]) -> BidPlaced | None:
    """The latest; at equal times the lowest, then the one with the smallest description (by code points)."""
    return min(bids, key=lambda bid: (-bid.placed_at, bid.bid_sats, bid.description), default=None)


def _standing_result(results: list[TaskFinished]) -> TaskFinished | None:
    """The latest; at equal times the failed one."""
    return min(results, key=lambda result: (-result.finished_at, result.succeeded), default=None)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


# --- metrics --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Metrics:
    """What an agent's outcomes amount to; the keyword maps hold no zeros."""

    total_bids: int = 0
    auctions_won: int = 0
    tasks_completed: int = 0
    tasks_failed: int = 0
    win_rate: float = 0.0
    success_rate: float = 0.0
    avg_winning_bid_sats: float = 0.0
    keyword_wins: dict[str, int] = field(default_factory=dict)
    keyword_failures: dict[str, int] = field(default_factory=dict)


NO_HISTORY = Metrics()


def metrics(outcomes_by_key: Mapping[tuple[str, str], Outcome]) -> dict[str, Metrics]:
    """The metrics of every agent that has an outcome, from `outcomes`."""
    by_agent: defaultdict[str, list[Outcome]] = defaultdict(list)
    for (_, agent_id), outcome in outcomes_by_key.items():
        by_agent[agent_id].append(outcome)
    return {agent_id: _metrics_of_agent(by_agent[agent_id]) for agent_id in sorted(by_agent)}


def _metrics_of_agent(of_agent: list[Outcome]) -> Metrics:
    won = [outcome for outcome in of_agent if outcome.won]
    completed = [outcome for outcome in won if outcome.succeeded is True]
    failed = [outcome for outcome in won if outcome.succeeded is False]
    known_bids = [outcome.bid_sats for outcome in won if outcome.bid_sats is not None]
    return Metrics(
        total_bids=len(of_agent),
        auctions_won=len(won),
        tasks_completed=len(completed),
        tasks_failed=len(failed),
        win_rate=_ratio(len(won), len(of_agent)),
        success_rate=_ratio(len(completed), len(completed) + len(failed)),
        avg_winning_bid_sats=_ratio(sum(known_bids), len(known_bids)),
        keyword_wins=_count_keywords(completed),
        keyword_failures=_count_keywords(failed),
    )


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _count_keywords(of_agent: list[Outcome]) -> dict[str, int]:
    return dict(Counter(keyword for outcome in of_agent for keyword in keywords(outcome.description)))


def keywords(text: str) -> list[str]:
    """The keywords of a text, each occurrence, in the order of the text."""
    return [word for word in re.findall(r"[a-z]{3,}", text.lower()) if word not in STOP_WORDS]


# --- learned keywords -----------------------------------------------------------------------------


@dataclass(frozen=True)
class LearnedKeyword:
    """One keyword an agent has results for; net is wins - failures."""

    keyword: str
    wins: int
    failures: int
    net: int


def learned_keywords(of_agent: Metrics) -> list[LearnedKeyword]:
    """All of an agent's keywords: by net descending, then wins descending, then keyword."""
    names = {*of_agent.keyword_wins, *of_agent.keyword_failures}
    learned = [
        _learned_keyword(name, of_agent.keyword_wins.get(name, 0), of_agent.keyword_failures.get(name, 0))
        for name in names
    ]
    return sorted(learned, key=_contract_order)


def strongest_keywords(of_agent: Metrics, limit: int = STRONGEST_KEYWORDS) -> list[LearnedKeyword]:
    """The `limit` keywords of greatest absolute net, in the contract's order; it decides ties at the cut."""
    by_strength = sorted(
        learned_keywords(of_agent), key=lambda learned: (-abs(learned.net), _contract_order(learned))
    )
    return sorted(by_strength[:limit], key=_contract_order)


def _learned_keyword(name: str, wins: int, failures: int) -> LearnedKeyword:
    return LearnedKeyword(keyword=name, wins=wins, failures=failures, net=wins - failures)


def _contract_order(learned: LearnedKeyword) -> tuple[int, int, str]:
    return (-learned.net, -learned.wins, learned.keyword)


# --- the classic strategy -------------------------------------------------------------------------


@dataclass(frozen=True)
class Suggestion:
    """A suggested bid, the factor it came from and the (rule, multiplier) pairs applied, in their order."""

    suggested_bid_sats: int
    factor: float
    rules: list[tuple[str, float]]


def classic(of_agent: Metrics | None, description: str, base_bid_sats: int) -> Suggestion:
    """The default strategy's suggestion; None stands for an agent without history."""
    known = NO_HISTORY if of_agent is None else of_agent
    if known.total_bids < 3:
        return Suggestion(suggested_bid_sats=base_bid_sats, factor=1.0, rules=[])
    rules = [*_win_rate_rule(known), *_success_rate_rule(known), *_keyword_rule(known, description)]
    factor = 1.0
    for _, multiplier in rules:
        factor = factor * multiplier
    suggested = min(MAX_SATS, max(1, math.trunc(base_bid_sats * factor)))
    return Suggestion(suggested_bid_sats=suggested, factor=factor, rules=rules)


def _win_rate_rule(of_agent: Metrics) -> list[tuple[str, float]]:
    if of_agent.win_rate > 0.8:
        return [("win_rate_high", 1.15)]
    if of_agent.win_rate < 0.2:
        return [("win_rate_low", 0.85)]
    return []


def _success_rate_rule(of_agent: Metrics) -> list[tuple[str, float]]:
    if of_agent.tasks_completed + of_agent.tasks_failed < 2:
        return []
    if of_agent.success_rate < 0.5:
        return [("success_rate_low", 1.25)]
    if of_agent.success_rate > 0.8:
        return [("success_rate_high", 0.90)]
    return []


def _keyword_rule(of_agent: Metrics, description: str) -> list[tuple[str, float]]:
    asked = keywords(description)
    wins = sum(of_agent.keyword_wins.get(keyword, 0) for keyword in asked)
    fails = sum(of_agent.keyword_failures.get(keyword, 0) for keyword in asked)
    if wins > fails and wins >= 2:
        return [("keywords_proven", 0.90)]
    if fails > wins and fails >= 2:
        return [("keywords_weak", 1.15)]
    return []
