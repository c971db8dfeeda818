"""The strategies by name: built in, provided by installed packages, or given as `package.module:name`."""

import importlib
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Final, cast

from learner_worker.errors import ConfigurationError
from learner_worker.strategies.classic import CLASSIC
from learner_worker.strategies.expected_profit import EXPECTED_PROFIT
from learner_worker.strategies.protocol import Strategy

ENTRY_POINTS: Final = "learner_worker.strategies"
"""The group in which a package offers strategies: name = "package.module:name"."""
BUILT_IN: Final[Mapping[str, Strategy]] = MappingProxyType(
    {strategy.name: strategy for strategy in (CLASSIC, EXPECTED_PROFIT)}
)


def strategy_names() -> list[str]:
    """The names to choose from: built in first, then those of installed packages."""
    return [*BUILT_IN, *sorted(_offered().keys() - BUILT_IN.keys())]


def find_strategy(name: str) -> Strategy:
    """The strategy of a name, or of `package.module:name`.

    Raises:
        ConfigurationError: there is none, or what is there is no strategy; it says what to do.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    if ":" in name:
        return _loaded(EntryPoint(name, name, ENTRY_POINTS), name)
    offered = _offered()
    if name not in offered:
        raise ConfigurationError(
            f"there is no strategy {name!r}: give one of {', '.join(strategy_names())}, "
            "or package.module:name"
        )
    strategy = _loaded(offered[name], f"{name!r} ({offered[name].value})")
    if strategy.name != name:
        raise ConfigurationError(
            f"the strategy that is installed as {name!r} calls itself {strategy.name!r}: give both one name"
        )
    return strategy


def find_strategies(first: str, others: Sequence[str] | None) -> tuple[Strategy, ...]:
    """The strategies that a worker has: the one it answers by, and those that requests may name.

    Args:
        others: None: those built in.

    Raises:
        ConfigurationError: one does not exist, or two have one name.
    """
    named = dict.fromkeys([first, *(BUILT_IN if others is None else others)])
    found: dict[str, Strategy] = {}
    for name in named:
        strategy = find_strategy(name)
        if found.setdefault(strategy.name, strategy) is not strategy:
            raise ConfigurationError(f"two strategies call themselves {strategy.name!r}: choose one of them")
    return tuple(found.values())


def _offered() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def _loaded(point: EntryPoint, called: str) -> Strategy:
    module, _, attribute = point.value.partition(":")
    try:
        found: object = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        raise ConfigurationError(f"strategy {called}: {module} has no {attribute!r}") from error
    except (ImportError, ValueError, TypeError) as error:
        where = repr(module) if module else "a strategy without a module"
        raise ConfigurationError(f"strategy {called}: {where} cannot be imported: {error}") from error
    return _checked(found() if isinstance(found, type) else found, called)


def _checked(found: object, called: str) -> Strategy:
    missing = [
        wanted
        for wanted, has_it in (
            ("a name (text)", isinstance(getattr(found, "name", None), str)),
            ("a version (a whole number)", type(getattr(found, "version", None)) is int),
            ("a method addends", callable(getattr(found, "addends", None))),
            ("a method suggest", callable(getattr(found, "suggest", None))),
        )
        if not has_it
    ]
    if missing:
        raise ConfigurationError(f"strategy {called} is no strategy: it lacks {', '.join(missing)}")
    strategy = cast("Strategy", found)
    if strategy.name in BUILT_IN:
        raise ConfigurationError(
            f"strategy {called} calls itself {strategy.name!r}, as a built-in one does: choose another name"
        )
    return strategy
