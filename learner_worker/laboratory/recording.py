"""Recorded auctions: from outcomes, or from what `learner-worker outcomes export` wrote of all agents."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import reduce
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple

import msgspec

from learner_worker.contract.facts import Close
from learner_worker.contract.fields import MAX_SATS
from learner_worker.contract.times import parse_time
from learner_worker.domain.outcomes import Outcome, greater_close
from learner_worker.errors import ConfigurationError

_NO_CLOSE: Final[Close | None] = None
_NO_BASES: Final[Mapping[tuple[str, str], int]] = {}
_Sats = Annotated[int, msgspec.Meta(ge=0, le=MAX_SATS)]


class _Line(msgspec.Struct):
    """A line of an export; other types of lines are passed over."""

    type: str
    agent_id: str = ""
    task_id: str = ""
    closed_at: str | None = None
    won: bool = False
    winner_agent_id: str | None = None
    bid_sats: _Sats | None = None
    placed_at: str | None = None
    result: Literal["completed", "failed"] | None = None
    finished_at: str | None = None
    description: str = ""


class RecordedBid(NamedTuple):
    """An agent's bid in an auction that ended. Times are microseconds since 1970.

    Attributes:
        placed_at: when it was placed; None if no bid arrived, only the win.
        succeeded: how the agent's task ended; None without a result.
        base_sats: what the agent would have bid without advice; None if nothing says.
    """

    agent_id: str
    bid_sats: int | None
    placed_at: int | None
    description: str
    succeeded: bool | None
    finished_at: int | None
    base_sats: int | None = None

    @property
    def base(self) -> int:
        """The base bid, or what stands for it."""
        return self.base_sats if self.base_sats is not None else self.bid_sats or 0


class RecordedAuction(NamedTuple):
    """An auction as it was: everybody's counted bid, who won, and when it closed."""

    task_id: str
    closed_at: int
    winner: str | None
    bids: tuple[RecordedBid, ...]

    @property
    def winning_bid_sats(self) -> int | None:
        """What the winner bid, if it is known."""
        return next((bid.bid_sats for bid in self.bids if bid.agent_id == self.winner), None)


def read_recording(path: Path) -> list[RecordedAuction]:
    """The auctions of a file, by the time they closed.

    Raises:
        ConfigurationError: the file cannot be read, or a line is no export's; it says which.
    """
    decoder = msgspec.json.Decoder(_Line)
    lines: list[_Line] = []
    try:
        with path.open("rb") as file:
            for number, text in enumerate(file, 1):
                line = _decoded(decoder, text, path, number)
                if line.type == "outcome":
                    lines.append(line)
    except OSError as error:
        raise ConfigurationError(f"cannot read {path} ({error.strerror})") from error
    if not lines:
        raise ConfigurationError(f"{path} has no outcomes: write it with `learner-worker outcomes export`")
    return recorded_auctions(lines)


def auctions_of(
    outcomes: Iterable[Outcome], bases: Mapping[tuple[str, str], int] = _NO_BASES
) -> list[RecordedAuction]:
    """The auctions of outcomes that count, by the time they closed.

    Args:
        bases: what agents would have bid without advice, by task and agent.
    """
    by_task: defaultdict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.counts:
            by_task[outcome.task_id].append(outcome)
    auctions = [
        RecordedAuction(
            task_id,
            close.closed_at,
            close.winner,
            tuple(_bid_of(outcome, bases.get((task_id, outcome.agent_id))) for outcome in found),
        )
        for task_id, found in by_task.items()
        if (close := _standing_close(found)) is not None
    ]
    return sorted(auctions, key=lambda auction: (auction.closed_at, auction.task_id))


def _standing_close(outcomes: Iterable[Outcome]) -> Close | None:
    """The greatest close: a corrected one may not have reached every bidder yet."""
    return reduce(greater_close, (outcome.close for outcome in outcomes), _NO_CLOSE)


def _bid_of(outcome: Outcome, base_sats: int | None) -> RecordedBid:
    result = outcome.result if outcome.won else None
    return RecordedBid(
        agent_id=outcome.agent_id,
        bid_sats=outcome.bid_sats,
        placed_at=None if outcome.bid is None else outcome.bid.placed_at,
        description=outcome.description,
        succeeded=None if result is None else result.succeeded,
        finished_at=None if result is None else result.finished_at,
        base_sats=base_sats,
    )


def _decoded(decoder: "msgspec.json.Decoder[_Line]", text: bytes, path: Path, number: int) -> _Line:
    try:
        line = decoder.decode(text)
        for moment in (line.closed_at, line.placed_at, line.finished_at):
            _micros(moment)
    except (msgspec.DecodeError, ValueError) as error:
        raise ConfigurationError(f"{path}, line {number} is no line of an export: {error}") from error
    if line.type == "outcome" and (not line.agent_id or not line.task_id or line.closed_at is None):
        raise ConfigurationError(f"{path}, line {number} names no agent, task or time of the close")
    return line


def _micros(moment: str | None) -> int | None:
    return None if moment is None else parse_time(moment)


def recorded_auctions(lines: Iterable[_Line]) -> list[RecordedAuction]:
    """Outcomes put together, task by task; of two lines of an agent in a task the last one stands."""
    by_task: defaultdict[str, dict[str, _Line]] = defaultdict(dict)
    for line in lines:
        by_task[line.task_id][line.agent_id] = line
    auctions = [_auction(task_id, list(found.values())) for task_id, found in by_task.items()]
    return sorted(auctions, key=lambda auction: (auction.closed_at, auction.task_id))


def _auction(task_id: str, lines: list[_Line]) -> RecordedAuction:
    bids = [
        RecordedBid(
            agent_id=line.agent_id,
            bid_sats=line.bid_sats,
            placed_at=_micros(line.placed_at),
            description=line.description,
            succeeded=None if line.result is None or not line.won else line.result == "completed",
            finished_at=_micros(line.finished_at),
        )
        for line in lines
    ]
    closed_at = max(_micros(line.closed_at) or 0 for line in lines)
    return RecordedAuction(task_id, closed_at, lines[0].winner_agent_id, tuple(bids))
