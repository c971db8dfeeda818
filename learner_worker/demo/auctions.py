"""The demo's reverse auctions: one run of the laboratory's market, as a simulation of the same seed draws it.

All siblings of a persona get the same base bid, cost and luck. What is left between them is the learner's
advice, and the order of arrival where they tie.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.demo.personas import PERSONAS, WAYS, Persona
from learner_worker.laboratory.luck import Contestant, DrawnAuction, draw_auctions
from learner_worker.laboratory.market import MarketModel


@dataclass(frozen=True, slots=True)
class Entry:
    """A persona in an auction: what each sibling would bid and spend, and whether it would deliver."""

    persona: Persona
    base_bid_sats: int
    cost_sats: int
    would_deliver: bool

    @property
    def siblings(self) -> tuple[AgentId, ...]:
        """Its agents."""
        return tuple(self.persona.sibling(way) for way in WAYS)


@dataclass(frozen=True, slots=True)
class DemoAuction:
    """A task up for bids. `arrival` is the order of the bids: among equal ones the first wins."""

    task_id: TaskId
    description: str
    entries: tuple[Entry, ...]
    arrival: tuple[AgentId, ...]


@dataclass(frozen=True, slots=True)
class Award:
    """Who won, at what price, whether the task was then delivered, and what the effort cost."""

    agent_id: AgentId
    bid_sats: int
    succeeded: bool
    cost_sats: int


def demo_auctions(market: MarketModel, seed: int) -> list[DemoAuction]:
    """The auctions of a run, those that nobody enters left out."""
    drawn = draw_auctions(market, seed, siblings=len(WAYS))
    return [_auction(auction) for auction in drawn if auction.contestants]


def _auction(drawn: DrawnAuction) -> DemoAuction:
    arrivals = sorted(
        (arrival, PERSONAS[one.agent].sibling(way))
        for one in drawn.contestants
        for way, arrival in zip(WAYS, one.arrivals, strict=True)
    )
    return DemoAuction(
        task_id=TaskId(f"task-{drawn.number + 1:04d}"),
        description=drawn.description,
        entries=tuple(_entry(one) for one in drawn.contestants),
        arrival=tuple(agent for _, agent in arrivals),
    )


def _entry(drawn: Contestant) -> Entry:
    return Entry(
        PERSONAS[drawn.agent], drawn.base_bid_sats, drawn.cost_sats, would_deliver=drawn.luck < drawn.chance
    )


def award(auction: DemoAuction, bids_sats: Mapping[AgentId, int]) -> Award:
    """Determines the winner: the lowest bid, of equal ones the first to arrive."""
    winner = min(auction.arrival, key=bids_sats.__getitem__)
    entry = next(entry for entry in auction.entries if winner in entry.siblings)
    return Award(winner, bids_sats[winner], entry.would_deliver, entry.cost_sats)
