"""Strategies by name: built in, from an installed package, or from a module; mistakes are a sentence."""

import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from learner_worker.domain.metrics import Metrics
from learner_worker.errors import ConfigurationError
from learner_worker.strategies import registry
from learner_worker.strategies.protocol import SettledBid, Strategy
from learner_worker.strategies.registry import BUILT_IN, find_strategy, strategy_names
from learner_worker.strategies.sums import GrowingSums, update

EXAMPLE = Path(__file__).parents[2] / "docs/examples/strategy"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example package of the docs can be imported."""
    monkeypatch.syspath_prepend(EXAMPLE)
    monkeypatch.delitem(sys.modules, "market_price", raising=False)


def offered(monkeypatch: pytest.MonkeyPatch, **points: str) -> None:
    """As if packages offered these strategies."""
    found = EntryPoints(EntryPoint(name, value, registry.ENTRY_POINTS) for name, value in points.items())
    monkeypatch.setattr(registry, "entry_points", lambda *, group: found.select(group=group))


def test_the_built_in_ones_are_found_by_their_own_names() -> None:
    """classic, the default, and expected-profit."""
    assert list(BUILT_IN) == ["classic", "expected-profit"]
    assert all(find_strategy(name) is strategy for name, strategy in BUILT_IN.items())
    assert strategy_names()[:2] == list(BUILT_IN)


@pytest.mark.usefixtures("example")
def test_a_module_brings_one() -> None:
    """`package.module:name`, as the example of the docs."""
    strategy = find_strategy("market_price:MARKET_PRICE")
    assert (strategy.name, strategy.version) == ("market-price", 1)
    assert strategy is find_strategy("market_price:MARKET_PRICE")


@pytest.mark.usefixtures("example")
def test_an_installed_package_brings_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its entry point's name, listed after those built in."""
    offered(monkeypatch, **{"market-price": "market_price:MARKET_PRICE"})
    assert strategy_names() == ["classic", "expected-profit", "market-price"]
    assert find_strategy("market-price").name == "market-price"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "clasic",
            "there is no strategy 'clasic': give one of classic, expected-profit, or package.module:name",
        ),
        ("no_such_module:x", "strategy no_such_module:x: 'no_such_module' cannot be imported"),
        (":x", "strategy :x: a strategy without a module cannot be imported"),
        ("json:nothing", "strategy json:nothing: json has no 'nothing'"),
        ("json:", "strategy json:: json has no ''"),
        (
            "json:dumps",
            (
                "strategy json:dumps is no strategy: it lacks a name (text), a version (a whole number), "
                "a method addends, a method suggest"
            ),
        ),
        (
            "learner_worker.strategies.classic:Classic",
            (
                "strategy learner_worker.strategies.classic:Classic calls itself 'classic', "
                "as a built-in one does"
            ),
        ),
    ],
)
def test_a_mistake_is_a_sentence(name: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names what is wrong and what there is."""
    offered(monkeypatch)
    with pytest.raises(ConfigurationError) as raised:
        find_strategy(name)
    assert str(raised.value).startswith(sentence)


@pytest.mark.usefixtures("example")
def test_a_package_offers_a_strategy_by_its_own_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply names its strategy: two names for one would contradict each other."""
    offered(monkeypatch, shadow="market_price:MARKET_PRICE")
    with pytest.raises(ConfigurationError, match="installed as 'shadow' calls itself 'market-price'"):
        find_strategy("shadow")


def test_a_built_in_name_cannot_be_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a package offers under it is not even loaded."""
    offered(monkeypatch, classic="no_such_module:x")
    assert find_strategy("classic") is BUILT_IN["classic"]
    assert strategy_names() == ["classic", "expected-profit"]


def test_the_example_package_installs_and_is_found(tmp_path: Path) -> None:
    """Out of the tree: built, unpacked beside the project, found by its entry point in a new process."""
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    built = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=EXAMPLE, check=True, capture_output=True, text=True
    )
    wheel = tmp_path / built.stdout.split()[-1]
    ask = (
        "from learner_worker.strategies.registry import find_strategy, strategy_names;"
        "print(strategy_names(), find_strategy('market-price').version)"
    )
    subprocess.run([sys.executable, "-m", "zipfile", "-e", str(wheel), str(tmp_path / "site")], check=True)
    found = subprocess.run(
        [sys.executable, "-c", ask],
        env={"PYTHONPATH": str(tmp_path / "site")},
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert found.stdout == "['classic', 'expected-profit', 'market-price'] 1\n"


@pytest.mark.usefixtures("example")
def test_the_example_follows_the_market() -> None:
    """After ten auctions it bids the mean share of its own bids that they went for."""
    strategy = find_strategy("market_price:MARKET_PRICE")
    sums: GrowingSums = {}
    for winning in (80, 100):
        for _ in range(5):
            assert _bid(strategy, sums) == 100
            update(strategy, sums, SettledBid(100, False, winning, "parse", None, 0))
    assert _bid(strategy, sums) == 90


def _bid(strategy: Strategy, sums: GrowingSums) -> int:
    return strategy.suggest(
        metrics=Metrics(), tallies={}, sums=sums, description="parse", base_bid_sats=100
    ).suggested_bid_sats
