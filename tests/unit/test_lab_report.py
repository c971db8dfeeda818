"""What the laboratory says: intervals, findings, tables, pictures, and a sentence for every mistake."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from learner_worker.cli import cli
from learner_worker.errors import ConfigurationError
from learner_worker.laboratory.bidders import RANDOM, Contender
from learner_worker.laboratory.families import families
from learner_worker.laboratory.findings import Findings, findings
from learner_worker.laboratory.intervals import interval, share_won, t_quantile
from learner_worker.laboratory.market import read_market
from learner_worker.laboratory.report import report
from learner_worker.laboratory.simulation import Plan, simulate
from learner_worker.laboratory.trials import POPULATIONS

CONTENDERS = (RANDOM, Contender("classic", "classic"))


@pytest.fixture(scope="module")
def found() -> Findings:
    """Three short markets, one of them with a text that would be markup."""
    short = [market.model_copy(update={"auctions": 20}) for market in list(families().values())[5:8]]
    markets = (short[0].model_copy(update={"about": "<script>alert(1)</script>"}), *short[1:])
    plan = Plan(markets, CONTENDERS, POPULATIONS, range(1, 4))
    return findings(plan, simulate(plan, processes=1, finished=lambda: None))


@pytest.mark.parametrize(
    ("freedom", "expected"),
    [(1, 12.706), (5, 2.571), (6, 2.447), (9, 2.262), (29, 2.045), (199, 1.972), (10_000, 1.960)],
)
def test_students_t(freedom: int, expected: float) -> None:
    """As in its tables."""
    assert t_quantile(freedom) == pytest.approx(expected, abs=0.0006)


def test_an_interval_by_hand() -> None:
    """Of 1, 2, 3, 4: mean 2.5, standard error 0.6455, 3 degrees of freedom."""
    found = interval([1, 2, 3, 4])
    assert (found.mean, found.count) == (2.5, 4)
    assert found.high - found.mean == pytest.approx(3.182 * 0.645497, rel=1e-5)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)
    assert found.is_clearly_positive
    assert not interval([5.0]).is_clearly_positive


def test_ties_are_shared() -> None:
    """Half of a draw each."""
    assert share_won([1, -1, 0, 2]) == 0.625


def test_findings_have_a_row_for_all(found: Findings) -> None:
    """Every market, population and contender, and the oracle where one asks."""
    assert {(row.market, row.population, row.contender) for row in found.rows} == {
        (market, population, label)
        for market in found.markets
        for population in POPULATIONS
        for label in [*found.contenders, *(["oracle"] if population == "one" else [])]
    }
    assert {(one.markets, one.population) for one in found.overall} == {
        ("held out", population) for population in POPULATIONS
    }


def test_a_row_adds_up(found: Findings) -> None:
    """Gains are the difference of the profits, the oracle's regret is none, buyers are seen where all ask."""
    for row in found.rows:
        if row.population in {"one", "all"}:
            assert row.gain.mean == pytest.approx(row.profit.mean - row.static_profit.mean)
        assert (row.regret is None) == (row.population != "one" or row.contender == "oracle")
        assert (row.buyers is not None) == (row.population == "all")
        assert len(row.curve) == (0 if row.contender == "oracle" else 10)


def test_the_report_asks_nobody_and_hides_nothing(found: Findings) -> None:
    """No script, no address, what came from outside is text; every market and contender is in it."""
    page = report(found)
    assert "<script" not in page
    assert "http" not in page
    assert "&lt;script&gt;" in page
    assert "prefers-color-scheme: dark" in page
    assert page.count("<svg") == len(POPULATIONS) + 3  # and the learning curves
    assert all(name in page for name in [*found.markets, *found.contenders])


def simulated(*arguments: str) -> list[str]:
    result = CliRunner().invoke(cli, ["lab", "simulate", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output.splitlines()


def test_simulate_prints_and_writes(tmp_path: Path) -> None:
    """Tables, JSON and HTML of one run agree."""
    files = tmp_path / "x.json", tmp_path / "x.html"
    shortly = ("--auctions", "20", "--seeds", "2", "--processes", "1")
    written_to = ("--json", str(files[0]), "--html", str(files[1]))
    lines = simulated("--family", "demo", "--without", "words", *shortly, *written_to)
    written = json.loads(files[0].read_text())
    assert written["contenders"] == [
        "random factor",
        "classic",
        "expected-profit",
        "expected-profit + costs",
        "expected-profit - words",
    ]
    (row,) = [
        row
        for row in written["rows"]
        if (row["population"], row["contender"]) == ("all", "expected-profit - words")
    ]
    assert f"{row['gain']['mean']:+.2f}" in next(line for line in lines[10:] if line.startswith(" demo"))
    assert files[1].read_text().startswith("<!doctype html>")


def test_a_familys_json_is_a_market_of_ones_own(tmp_path: Path) -> None:
    """`lab families --show` prints what `--market` reads."""
    shown = CliRunner().invoke(cli, ["lab", "families", "--show", "mixed tasks"], catch_exceptions=False)
    path = tmp_path / "market.json"
    path.write_text(shown.output)
    assert read_market(path) == families()["mixed tasks"]
    listed = CliRunner().invoke(cli, ["lab", "families"], catch_exceptions=False).output
    assert len(listed.splitlines()) == len(families())


AGENTS: list[dict[str, object]] = [
    {"name": "a", "base_bid_sats": 100},
    {"name": "b", "base_bid_sats": 90, "skills": {"work": 0.9}},
]
MARKET: dict[str, object] = {
    "name": "mine",
    "agents": AGENTS,
    "trades": [{"name": "work", "verbs": ["parse"], "things": ["invoice"]}],
}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"agents": AGENTS[:1]}, "agents: Tuple should have at least 2 items"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"trades": []}, "there are no trades: name at least one, with verbs and things"),
        (
            {"agents": [*AGENTS, {"name": "c", "base_bid_sats": 1, "skills": {"play": 1}}]},
            "agent 'c' names trade 'play', which is not in trades",
        ),
        (
            {"agents": [*AGENTS, {"name": "a", "base_bid_sats": 1}]},
            "agent 'a' stands twice: give each agent a name of its own",
        ),
        (
            {"agents": [{**agent, "asks": False} for agent in AGENTS]},
            "no agent asks: set asks of at least one to true",
        ),
        (
            {"agents": [{"name": "a", "base_bid_sats": 0}, {"name": "b", "base_bid_sats": -1}]},
            "agents.0.base_bid_sats: Input should be greater than or equal to 1 (and 2 more)",
        ),
    ],
)
def test_a_market_with_a_mistake_is_a_sentence(
    changes: dict[str, object], sentence: str, tmp_path: Path
) -> None:
    """It names the place and the rule."""
    path = tmp_path / "market.json"
    path.write_text(json.dumps({**MARKET, **changes}))
    with pytest.raises(ConfigurationError) as raised:
        read_market(path)
    assert str(raised.value).startswith(f"{path} is no market: {sentence}")


def test_a_market_of_ones_own_runs(tmp_path: Path) -> None:
    """With the defaults for all that is not said."""
    path = tmp_path / "market.json"
    path.write_text(json.dumps(MARKET))
    lines = simulated("--market", str(path), "--auctions", "20", "--seeds", "2", "--processes", "1")
    assert any(line.startswith(" mine") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--family", "atlantis"], "there is no family 'atlantis': give one of demo, steady skills"),
        (["--strategy", "clasic"], "there is no strategy 'clasic'"),
        (["--market", "nowhere.json"], "cannot read nowhere.json (No such file or directory)"),
        (["--family", "demo", "--family", "demo"], "two markets are called 'demo'"),
        (["--family", "demo", "--seeds", "1", "--json", "no/such/folder"], "cannot write no/such/folder"),
    ],
)
def test_a_mistake_ends_with_a_sentence_and_2(arguments: list[str], sentence: str) -> None:
    """As every command."""
    command = [sys.executable, "-m", "learner_worker", "lab", "simulate", "--auctions", "10", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith(f"learner-worker: {sentence}")
