"""A market to simulate: who bids, on what kind of tasks, at what cost and skill; built in, or from JSON."""

from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from learner_worker.errors import ConfigurationError
from learner_worker.strategies.protocol import PaidOn

Share = Annotated[float, Field(ge=0, le=1)]
Word = Annotated[str, Field(pattern="^[a-z]{3,40}$")]
Name = Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9 _.-]{0,59}$")]
MAX_AUCTIONS: Final = 100_000  # a run is kept in memory whole


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Trade(_Part):
    """A kind of work. A task's text has one of its verbs and one of its things."""

    name: Name
    verbs: tuple[Word, ...] = Field(min_length=1)
    things: tuple[Word, ...] = Field(min_length=1)
    weight: float = Field(1.0, gt=0, description="How often tasks are of this trade, beside the others.")


class MarketAgent(_Part):
    """An agent's prices, costs and skills. Where a trade is not named, the figure without one holds."""

    name: Name
    base_bid_sats: int = Field(ge=1, le=10**9)
    jitter: float = Field(0.15, ge=0, le=0.9, description="A bid strays from the base by up to this share.")
    cost_share: float = Field(0.45, ge=0, le=10, description="What the effort costs, of base_bid_sats.")
    failure_cost_share: float = Field(0.0, ge=0, le=10, description="What a failure costs besides.")
    skill: Share = Field(0.6, description="Chance to deliver.")
    skills: dict[str, Share] = Field(default_factory=dict, description="Chance to deliver, by trade.")
    later_skill_share: Share = Field(
        1.0, description="Chances to deliver in the second half of the run, of those in the first."
    )
    enters: Share = Field(1.0, description="Chance to bid.")
    entries: dict[str, Share] = Field(default_factory=dict, description="Chance to bid, by trade.")
    arrives_at: Share = Field(0.0, description="It bids from this share of the run on.")
    trend: float = Field(1.0, gt=0, le=10, description="Its base bids at the end, of those at the start.")
    model: Literal[1, 2] = Field(1, description="With tasks of mmlu: whose answers are its own.")
    asks: bool = Field(True, description="Whether it may ask the learner; else it always bids its base.")


class MarketModel(_Part):
    """A market: its agents, its tasks and its habits."""

    name: Name
    about: str = Field("", max_length=200)
    held_out: bool = Field(True, description="For the verdict only: no strategy was chosen by looking at it.")
    agents: tuple[MarketAgent, ...] = Field(min_length=2, max_length=100)
    tasks: Literal["drawn", "mmlu"] = Field("drawn", description="Drawn by trade, or real questions.")
    trades: tuple[Trade, ...] = Field((), max_length=100)
    occasions: tuple[str, ...] = Field((), description="How a text may end: words that say nothing.")
    same_trade: Share = Field(1.0, description="Chance that verb and thing are of one trade.")
    auctions: int = Field(240, ge=10, le=MAX_AUCTIONS)
    burst: int = Field(1, ge=1, description="So many auctions end before their outcomes are known.")
    prices_told: Share = Field(1.0, description="Share of closes that say what the winner bid.")
    buyers_noise: float = Field(0.0, ge=0, le=3, description="Buyers misjudge bids: sigma of the log.")
    markup_spread: float = Field(
        0.0, ge=0, le=3, description="Agents misjudge the market: sigma of the log of base bid to cost."
    )
    size_spread: float = Field(0.0, ge=0, le=3, description="Tasks differ in size: sigma of the log.")
    paid_on: PaidOn = "success"
    paid_on_told: bool = Field(True, description="Whether the learner's --paid-on says so.")

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        trades, agents = [trade.name for trade in self.trades], [agent.name for agent in self.agents]
        if not trades and self.tasks == "drawn":
            raise ValueError("there are no trades: name at least one, with verbs and things")
        for kind, names in (("trade", trades), ("agent", agents)):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{kind} {twice[0]!r} stands twice: give each {kind} a name of its own")
        for agent in self.agents:
            unknown = sorted({*agent.skills, *agent.entries} - {*trades})
            if unknown:
                raise ValueError(f"agent {agent.name!r} names trade {unknown[0]!r}, which is not in trades")
        if not any(agent.asks for agent in self.agents):
            raise ValueError("no agent asks: set asks of at least one to true")
        return self


def read_market(path: Path) -> MarketModel:
    """A user's market from a JSON file.

    Raises:
        ConfigurationError: the file cannot be read or breaks a rule; it says which, and where.
    """
    try:
        return MarketModel.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"cannot read {path} ({error.strerror})") from error
    except ValidationError as error:
        first, *others = error.errors()
        more = f" (and {len(others)} more)" if others else ""
        raise ConfigurationError(f"{path} is no market: {_sentence(first)}{more}") from error


def _sentence(error: Any) -> str:
    place = ".".join(map(str, error["loc"]))
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
