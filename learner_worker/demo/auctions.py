"""The demo's reverse auctions: pure and drawn from a seed, so that a run can be repeated.

All chance is drawn before anybody bids, and both twins of a persona get the same: the same base bid for the
task, the same luck with it. What is left between them is the learner's advice, and a coin where they tie.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.demo.personas import OCCASIONS, PERSONAS, Persona

SAME_TRADE_CHANCE: Final = 0.7
"""Of verb and thing: lower, keywords predict little; higher, nothing is left to learn."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A persona in an auction: what both its twins would bid, and whether either would deliver."""

    persona: Persona
    base_bid_sats: int
    would_deliver: bool


@dataclass(frozen=True, slots=True)
class DemoAuction:
    """A task up for bids. `arrival` is the order of the bids: among equal ones the first wins."""

    task_id: TaskId
    description: str
    entries: tuple[Entry, ...]
    arrival: tuple[AgentId, ...]


@dataclass(frozen=True, slots=True)
class Award:
    """Who won, at what price, and whether the task was then delivered."""

    agent_id: AgentId
    bid_sats: int
    succeeded: bool


def draw_auction(seed: int, number: int) -> DemoAuction:
    """The auction with a number, from 1; it depends only on the seed and the number."""
    chance = random.Random(f"learner-worker demo {seed} {number}")
    verb, thing = _draw_words(chance)
    draws = [_draw_entry(chance, persona, verb, thing) for persona in PERSONAS]
    entries = tuple(entry for joins, entry in draws if joins)
    arrival = [agent for entry in entries for agent in (entry.persona.asking, entry.persona.static)]
    chance.shuffle(arrival)
    return DemoAuction(
        task_id=TaskId(f"task-{number:04d}"),
        description=f"{verb} the {thing} {chance.choice(OCCASIONS)}",
        entries=entries,
        arrival=tuple(arrival),
    )


def _draw_words(chance: random.Random) -> tuple[str, str]:
    """A verb and a thing, mostly of the same trade: the persona with the verb always bids."""
    home, elsewhere = chance.sample(PERSONAS, 2)
    things = home if chance.random() < SAME_TRADE_CHANCE else elsewhere
    return chance.choice(home.favourite_verbs), chance.choice(things.favourite_things)


def _draw_entry(chance: random.Random, persona: Persona, verb: str, thing: str) -> tuple[bool, Entry]:
    stray = 1 + persona.jitter * chance.uniform(-1, 1)
    luck, whim = chance.random(), chance.random()
    entry = Entry(
        persona=persona,
        base_bid_sats=round(persona.base_bid_sats * stray),
        would_deliver=luck < persona.chance_to_deliver(verb, thing),
    )
    return persona.known_words(verb, thing) > 0 or whim < persona.curiosity, entry


def award(auction: DemoAuction, bids_sats: Mapping[AgentId, int]) -> Award:
    """Determines the winner: the lowest bid, of equal ones the first to arrive."""
    winner = min(auction.arrival, key=bids_sats.__getitem__)
    entry = next(entry for entry in auction.entries if winner in {entry.persona.asking, entry.persona.static})
    return Award(agent_id=winner, bid_sats=bids_sats[winner], succeeded=entry.would_deliver)
