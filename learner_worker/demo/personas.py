"""The demo's bidders: six personas and their six trades."""

from dataclasses import dataclass
from typing import Final

from learner_worker.contract.fields import AgentId

STATIC_SUFFIX: Final = "-static"


@dataclass(frozen=True, slots=True)
class Persona:
    """An agent's character. It exists twice: one twin asks the learner, the other keeps its own bid.

    `jitter` is the share by which a bid strays from the base bid, either way. `skill` is the chance to
    deliver a task whose words are all favourites, `skill_elsewhere` one with none. `curiosity` is the chance
    to bid for a task without a favourite word; for the others it always bids.
    """

    name: str
    trade: str
    base_bid_sats: int
    jitter: float
    skill: float
    skill_elsewhere: float
    curiosity: float
    favourite_verbs: tuple[str, ...]
    favourite_things: tuple[str, ...]

    @property
    def asking(self) -> AgentId:
        """The twin that asks the learner before each bid."""
        return AgentId(self.name)

    @property
    def static(self) -> AgentId:
        """The twin that bids what it would have bid anyway."""
        return AgentId(self.name + STATIC_SUFFIX)

    def known_words(self, verb: str, thing: str) -> int:
        """How many of a task's two telling words are favourites."""
        return (verb in self.favourite_verbs) + (thing in self.favourite_things)

    def chance_to_deliver(self, verb: str, thing: str) -> float:
        """Between `skill_elsewhere` and `skill`, by the words it knows."""
        return self.skill_elsewhere + (self.skill - self.skill_elsewhere) * self.known_words(verb, thing) / 2


PERSONAS: Final = (
    Persona(
        name="echo",
        trade="listens and sums up",
        base_bid_sats=100,
        jitter=0.20,
        skill=0.92,
        skill_elsewhere=0.30,
        curiosity=0.60,
        favourite_verbs=("summarize", "transcribe", "digest"),
        favourite_things=("meeting", "podcast", "interview"),
    ),
    Persona(
        name="mace",
        trade="guards",
        base_bid_sats=130,
        jitter=0.15,
        skill=0.95,
        skill_elsewhere=0.45,
        curiosity=0.30,
        favourite_verbs=("audit", "harden", "scan"),
        favourite_things=("firewall", "passwords", "container"),
    ),
    Persona(
        name="helm",
        trade="steers and ships",
        base_bid_sats=120,
        jitter=0.15,
        skill=0.90,
        skill_elsewhere=0.50,
        curiosity=0.40,
        favourite_verbs=("deploy", "migrate", "monitor"),
        favourite_things=("cluster", "database", "pipeline"),
    ),
    Persona(
        name="seer",
        trade="foretells",
        base_bid_sats=110,
        jitter=0.30,
        skill=0.75,
        skill_elsewhere=0.35,
        curiosity=0.50,
        favourite_verbs=("forecast", "chart", "estimate"),
        favourite_things=("revenue", "traffic", "demand"),
    ),
    Persona(
        name="forge",
        trade="builds",
        base_bid_sats=140,
        jitter=0.10,
        skill=0.95,
        skill_elsewhere=0.55,
        curiosity=0.40,
        favourite_verbs=("refactor", "debug", "compile"),
        favourite_things=("parser", "scheduler", "library"),
    ),
    Persona(
        name="quill",
        trade="writes",
        base_bid_sats=90,
        jitter=0.25,
        skill=0.85,
        skill_elsewhere=0.25,
        curiosity=0.50,
        favourite_verbs=("draft", "edit", "rewrite"),
        favourite_things=("headline", "essay", "newsletter"),
    ),
)

OCCASIONS: Final = (
    "before friday",
    "for a new customer",
    "ahead of the launch",
    "after the incident",
    "for the quarterly review",
    "while the team sleeps",
)
"""Endings of a task's text, without words of its trade."""


def asks(agent_id: AgentId) -> bool:
    """Whether the agent is the twin that asks the learner."""
    return not agent_id.endswith(STATIC_SUFFIX)
