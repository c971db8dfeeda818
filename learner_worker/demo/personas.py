"""The demo's bidders: the personas of the laboratory's family `demo`, each once for each way of bidding."""

from dataclasses import dataclass
from typing import Final, Literal, get_args

from learner_worker.contract.fields import AgentId
from learner_worker.laboratory.families import families
from learner_worker.laboratory.market import MarketModel

Way = Literal["static", "classic", "expected-profit"]
"""How a sibling bids: its base bid, or as this strategy says. Only the last one tells its costs."""
WAYS: Final[tuple[Way, ...]] = get_args(Way)
ASKING: Final = WAYS[1:]
"""The ways of those that ask the learner."""
_TRADES: Final = {
    "echo": "listens and sums up",
    "mace": "guards",
    "helm": "steers and ships",
    "seer": "foretells",
    "forge": "builds",
    "quill": "writes",
}


@dataclass(frozen=True, slots=True)
class Persona:
    """An agent's character: prices, costs, skills and luck are the same for all its siblings."""

    name: str
    trade: str

    def sibling(self, way: Way) -> AgentId:
        """The agent that bids in this way."""
        return AgentId(f"{self.name}-{way}")


PERSONAS: Final = tuple(Persona(name, trade) for name, trade in _TRADES.items())
"""In the order of the market's agents."""


def demo_market(auctions: int) -> MarketModel:
    """The laboratory's family that the demo plays."""
    return families()["demo"].model_copy(update={"auctions": auctions})


def way_of(agent_id: AgentId) -> Way:
    """How the agent bids."""
    return next(way for way in WAYS if agent_id.endswith(f"-{way}"))
