"""The market families that come with the laboratory.

A family with `held_out` false may be looked at while a strategy is made; the others are for the verdict only.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from learner_worker.laboratory.market import MarketAgent, MarketModel, Trade

_TRADES: Final = {
    "listening": (("summarize", "transcribe", "digest"), ("meeting", "podcast", "interview")),
    "guarding": (("audit", "harden", "scan"), ("firewall", "passwords", "container")),
    "shipping": (("deploy", "migrate", "monitor"), ("cluster", "database", "pipeline")),
    "foretelling": (("forecast", "chart", "estimate"), ("revenue", "traffic", "demand")),
    "building": (("refactor", "debug", "compile"), ("parser", "scheduler", "library")),
    "writing": (("draft", "edit", "rewrite"), ("headline", "essay", "newsletter")),
}
TRADES: Final = tuple(
    Trade(name=name, verbs=verbs, things=things) for name, (verbs, things) in _TRADES.items()
)
OCCASIONS: Final = (
    "before friday",
    "for a new customer",
    "ahead of the launch",
    "after the incident",
    "for the quarterly review",
    "while the team sleeps",
)
_NAMES: Final = (
    "echo",
    "mace",
    "helm",
    "seer",
    "forge",
    "quill",
    "atlas",
    "brook",
    "cedar",
    "delta",
    "ember",
    "flint",
)
_BASES: Final = (100, 130, 120, 110, 140, 90, 95, 105, 115, 125, 135, 145)  # sats
_SKILLS: Final = (0.65, 0.75, 0.6, 0.55, 0.8, 0.5, 0.6, 0.7, 0.5, 0.65, 0.75, 0.55)  # chances to deliver
_COSTS: Final = (0.45, 0.5, 0.4, 0.55, 0.45, 0.35, 0.5, 0.4, 0.45, 0.55, 0.5, 0.4)
"""Base bids, chances to deliver and costs (shares of the base bid) of the agents: different enough that no
strategy gains by one agent alone.
"""
_GOOD, _FAIR, _POOR = 0.9, 0.65, 0.35  # chances to deliver
_MARKUP_SPREAD: Final = 0.25
"""How far base bids miss what the market would bear: with 0 there would be nothing to learn of it."""


def _steady(count: int = 6, **shared: Any) -> tuple[MarketAgent, ...]:
    """Agents of different prices, skills and costs, as good at one task as at another.

    Args:
        shared: replaces what is each agent's own.
    """
    own = zip(_NAMES, _BASES, _SKILLS, _COSTS, strict=True)
    return tuple(
        MarketAgent(
            **{
                "name": name,
                "base_bid_sats": base,
                "skill": skill,
                "cost_share": cost,
                "enters": 0.7,
                **shared,
            }
        )
        for name, base, skill, cost in list(own)[:count]
    )


def _agents(count: int = 6, **shared: Any) -> tuple[MarketAgent, ...]:
    """Each is good at half of the trades and poor at the others."""
    return _skilled(_steady(count, **shared), (_GOOD,) * (len(TRADES) // 2))


def _specialists() -> tuple[MarketAgent, ...]:
    """Each is good at one trade, fair at the next one, poor at the others."""
    return _skilled(_steady(), (_GOOD, _FAIR))


def _skilled(agents: Sequence[MarketAgent], chances: Sequence[float]) -> tuple[MarketAgent, ...]:
    """The same agents with these chances at as many trades, beginning with another trade each, else poor."""
    trades = [trade.name for trade in TRADES]
    return tuple(
        agent.model_copy(
            update={
                "skill": _POOR,
                "skills": {trades[(place + step) % len(trades)]: one for step, one in enumerate(chances)},
            }
        )
        for place, agent in enumerate(agents)
    )


def _changed(
    agents: Sequence[MarketAgent], changes: Mapping[str, Any], places: Sequence[int]
) -> tuple[MarketAgent, ...]:
    """Some of the agents with other traits."""
    return tuple(
        agent.model_copy(update=dict(changes)) if place in places else agent
        for place, agent in enumerate(agents)
    )


def _market(name: str, about: str, agents: Sequence[MarketAgent], **habits: Any) -> MarketModel:
    return MarketModel(
        **{
            "name": name,
            "about": about,
            "agents": tuple(agents),
            "trades": TRADES,
            "occasions": OCCASIONS,
            "same_trade": 0.85,
            "markup_spread": _MARKUP_SPREAD,
            **habits,
        }
    )


def _demo() -> MarketModel:
    """The personas of `learner-worker demo`."""
    personas = (
        ("echo", 100, 0.20, 0.92, 0.30, 0.60),
        ("mace", 130, 0.15, 0.95, 0.45, 0.30),
        ("helm", 120, 0.15, 0.90, 0.50, 0.40),
        ("seer", 110, 0.30, 0.75, 0.35, 0.50),
        ("forge", 140, 0.10, 0.95, 0.55, 0.40),
        ("quill", 90, 0.25, 0.85, 0.25, 0.50),
    )
    agents = [
        MarketAgent(
            name=name,
            base_bid_sats=base,
            jitter=jitter,
            skill=elsewhere,
            skills={trade.name: skill},
            enters=curiosity,
            entries={trade.name: 1.0},
        )
        for trade, (name, base, jitter, skill, elsewhere, curiosity) in zip(TRADES, personas, strict=True)
    ]
    return _market(
        "demo", "the market of learner-worker demo", agents, held_out=False, same_trade=0.7, markup_spread=0
    )


def _tuned() -> list[MarketModel]:
    seen = {"held_out": False}
    return [
        _demo(),
        _market("steady skills", "an agent is as good at one task as at another", _steady(), **seen),
        _market("skills by word", "each is good at one trade, poor at most", _specialists(), **seen),
        _market("few bidders", "three agents, two at most auctions", _agents(3), **seen),
        _market("many bidders", "twelve agents", _agents(12), **seen),
        _market(
            "equal agents",
            "same price, skill and cost",
            _steady(base_bid_sats=100, skill=0.6, cost_share=0.45),
            markup_spread=0,
            **seen,
        ),
    ]


def _costs() -> list[MarketModel]:
    return [
        _market("thin margins", "effort costs 0.7 of the base bid", _agents(cost_share=0.7)),
        _market("fat margins", "effort costs 0.2 of the base bid", _agents(cost_share=0.2)),
        _market("no costs", "effort costs nothing", _agents(cost_share=0.0)),
        _market(
            "dear failures", "a failure costs 0.3 of the base bid besides", _agents(failure_cost_share=0.3)
        ),
        _market(
            "unequal costs",
            "from 0.2 to 0.7 of the base bid",
            [
                agent.model_copy(update={"cost_share": 0.2 + 0.1 * place})
                for place, agent in enumerate(_agents())
            ],
        ),
    ]


def _prices() -> list[MarketModel]:
    half = (1, 3, 5)
    return [
        _market(
            "falling prices",
            "half of the agents come down to 0.6 of their bids",
            _changed(_agents(), {"trend": 0.6, "asks": False}, half),
        ),
        _market(
            "rising prices",
            "half of the agents go up to 1.6 times their bids",
            _changed(_agents(), {"trend": 1.6, "asks": False}, half),
        ),
        _market(
            "newcomers",
            "three rivals come after a third of the run",
            _changed(_agents(), {"arrives_at": 0.33, "base_bid_sats": 85, "asks": False}, half),
        ),
        _market(
            "unequal bases",
            "from half to three times the usual price",
            [
                agent.model_copy(update={"base_bid_sats": base})
                for agent, base in zip(_agents(), (60, 80, 110, 150, 200, 270), strict=True)
            ],
        ),
        _market("judged prices", "every base bid fits its costs and the market", _agents(), markup_spread=0),
        _market("noisy bases", "a bid strays up to 0.4 from its base", _agents(jitter=0.4)),
        _market(
            "one cheap rival",
            "one agent asks half of what the others ask",
            _changed(_agents(), {"base_bid_sats": 60, "enters": 0.4, "asks": False}, (0,)),
        ),
        _market(
            "fading skill",
            "after half of the run all deliver a third less",
            _agents(later_skill_share=2 / 3),
        ),
    ]


def _habits() -> list[MarketModel]:
    return [
        _market("noisy buyers", "buyers misjudge bids by about 15 %", _agents(), buyers_noise=0.15),
        _market("paid on win", "failures are paid, and the learner is told so", _agents(), paid_on="win"),
        _market(
            "paid on win untold",
            "failures are paid, and the learner is not told",
            _agents(),
            paid_on="win",
            paid_on_told=False,
        ),
        _market("bursts", "thirty auctions end before one result is known", _agents(), burst=30),
        _market("cold start", "an agent bids in every sixth auction", _agents(enters=0.17)),
        _market("heavy tail", "few tasks are worth most of the money", _agents(), size_spread=1.0),
        _market("silent closes", "three closes of four do not say the price", _agents(), prices_told=0.25),
        _market("mixed tasks", "verb and thing are mostly of different trades", _agents(), same_trade=0.2),
    ]


def _questions() -> MarketModel:
    """Two models, each for two agents; costs and prices are made up, the answers are real."""
    traits = (
        ("strong", 110, 2, 0.45),
        ("strong too", 120, 2, 0.45),
        ("weak", 100, 1, 0.35),
        ("weak too", 90, 1, 0.35),
    )
    agents = [
        MarketAgent(name=name, base_bid_sats=base, model=1 if model == 1 else 2, cost_share=cost, enters=0.8)
        for name, base, model, cost in traits
    ]
    return MarketModel(
        name="mmlu",
        about="14,042 real questions, answered by two models",
        agents=tuple(agents),
        tasks="mmlu",
        markup_spread=_MARKUP_SPREAD,
    )


def families() -> dict[str, MarketModel]:
    """All families by name, those that were looked at first."""
    return {market.name: market for market in [*_tuned(), *_costs(), *_prices(), *_habits(), _questions()]}
