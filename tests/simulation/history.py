"""What a simulated swarm publishes: few tasks, agents and times, so that ties and boundaries are common."""

import json
import random
from dataclasses import dataclass

from tests.support.model import AuctionClosed, BidPlaced, Event, TaskFinished
from tests.support.swarm import START_US

SECOND = 1_000_000
AGENTS = ("a", "b", "c", "d", "é")
_TIME_FIELDS = {BidPlaced: "placed_at", AuctionClosed: "closed_at", TaskFinished: "finished_at"}
_TEXTS = ("parse invoices", "scrape pages", "", "parse the parser", "label images urgently")
_CLOSED = (5, 5, 10, 15)
_PLACED = (4.0, 6.0, 6.000001, 9.0, 11.0, 11.5, 14.0, 16.5)
_FINISHED = (20, 20, 21, 22)


@dataclass(frozen=True, slots=True)
class Planned:
    """An event to publish; without its own time if `timeless`: then its record's counts."""

    event: Event
    timeless: bool = False

    @property
    def topic(self) -> str:
        """The topic it belongs on, without a prefix."""
        kinds = {BidPlaced: "bid-placed", AuctionClosed: "auction-closed", TaskFinished: "task-finished"}
        return kinds[type(self.event)]

    @property
    def is_result(self) -> bool:
        """Results may come any time later; bids and closes within the horizon."""
        return isinstance(self.event, TaskFinished)

    def body(self) -> bytes:
        """The record's value."""
        if not self.timeless:
            return self.event.to_json()
        fields = json.loads(self.event.to_json())
        del fields[_TIME_FIELDS[type(self.event)]]
        return json.dumps(fields).encode()

    def at(self, micros: int) -> Event:
        """The event as it counts when it is published then."""
        if not self.timeless:
            return self.event
        fields = {name: getattr(self.event, name) for name in self.event.__dataclass_fields__}
        return type(self.event)(**{**fields, _TIME_FIELDS[type(self.event)]: micros // 1000 * 1000})


def plan(rng: random.Random, tasks: int, agents: int) -> list[list[Planned]]:
    """The events of each task, in the order in which they will be published: any."""
    return [_task(rng, f"t{number}", AGENTS[:agents]) for number in range(tasks)]


def _task(rng: random.Random, task_id: str, agents: tuple[str, ...]) -> list[Planned]:
    closed = rng.sample(_CLOSED, rng.choice((0, 1, 1, 1, 2, 2, 3)))
    events: list[Event] = [bid for _ in range(rng.randint(0, 4)) for bid in [_bid(rng, task_id, agents)]]
    events += [_close(rng, task_id, agents, at) for at in closed]
    events += [_result(rng, task_id, agents) for _ in range(rng.choice((0, 1, 1, 2, 3)))]
    planned = [Planned(event, timeless=rng.random() < 0.03) for event in events]
    copies = [item for item in planned if not item.timeless and rng.random() < 0.15]
    planned += copies
    rng.shuffle(planned)
    return planned


def _bid(rng: random.Random, task_id: str, agents: tuple[str, ...]) -> BidPlaced:
    placed_at = START_US + round(rng.choice(_PLACED) * SECOND)
    return BidPlaced(task_id, rng.choice(agents), rng.choice((1, 2, 100)), rng.choice(_TEXTS), placed_at)


def _close(rng: random.Random, task_id: str, agents: tuple[str, ...], at: int) -> AuctionClosed:
    winner = rng.choice((None, *agents, *agents))
    sats = None if winner is None else rng.choice((None, None, 3, 70))
    return AuctionClosed(task_id, winner, sats, START_US + at * SECOND, rng.choice((None, None, *_TEXTS)))


def _result(rng: random.Random, task_id: str, agents: tuple[str, ...]) -> TaskFinished:
    finished_at = START_US + rng.choice(_FINISHED) * SECOND
    return TaskFinished(task_id, rng.choice(agents), rng.random() < 0.5, finished_at)
