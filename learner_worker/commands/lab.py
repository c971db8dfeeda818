"""`lab simulate|replay|league`: compares strategies on simulated markets, in recorded auctions and live."""

import os
import sys
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from learner_worker.commands.league import show_league
from learner_worker.commands.options import CONNECTION, TOPICS, settings_flags
from learner_worker.commands.printing import escaped
from learner_worker.commands.recordings import recorded_auctions_of
from learner_worker.errors import ConfigurationError
from learner_worker.laboratory.bidders import RANDOM, Contender
from learner_worker.laboratory.families import families
from learner_worker.laboratory.findings import Findings, findings
from learner_worker.laboratory.market import MAX_AUCTIONS, MarketModel, read_market
from learner_worker.laboratory.replay import replay
from learner_worker.laboratory.report import report
from learner_worker.laboratory.simulation import Plan, simulate
from learner_worker.laboratory.tables import MEANING, replay_table, tables
from learner_worker.laboratory.trials import POPULATIONS, Population
from learner_worker.strategies.protocol import PaidOn
from learner_worker.strategies.registry import find_strategy

_WIDTH_WITHOUT_A_TERMINAL = 180  # all columns of the widest table
_file = click.Path(dir_okay=False, path_type=Path)
_strategies = click.option(
    "--strategy",
    "strategies",
    multiple=True,
    default=("classic", "expected-profit"),
    show_default=True,
    help="Strategy, by name or as package.module:name; repeatable.",
)


@click.group()
def lab() -> None:
    """Try strategies before anybody bids by them: on simulated markets, on recorded auctions."""


lab.add_command(show_league)


@lab.command("families")
@click.option(
    "--show", "shown", metavar="FAMILY", help="Print this family as JSON, as a template for --market."
)
def list_families(shown: str | None) -> None:
    """List the market families that `lab simulate` knows."""
    if shown is not None:
        click.echo(_family(shown).model_dump_json(indent=2))
        return
    for market in families().values():
        click.echo(f"{market.name:20} {'held out' if market.held_out else 'looked at':10} {market.about}")


@lab.command("simulate")
@click.option("--family", "names", multiple=True, metavar="FAMILY", help="Only this family; repeatable.")
@click.option(
    "--market", "files", multiple=True, type=_file, help="Your own market, as a JSON file; repeatable."
)
@_strategies
@click.option(
    "--population",
    "populations",
    multiple=True,
    type=click.Choice(POPULATIONS),
    help="Which agents ask; repeatable. [default: all populations]",
)
@click.option(
    "--costs/--no-costs",
    default=True,
    show_default=True,
    help="Also run with the agents' costs known to the strategy.",
)
@click.option(
    "--without",
    multiple=True,
    type=click.Choice(("words", "prices")),
    help="Also run without the tasks' words, or without the strategy's sums.",
)
@click.option(
    "--seeds",
    type=click.IntRange(1, 100_000),
    default=10,
    show_default=True,
    help="Number of runs of each market.",
)
@click.option(
    "--first-seed", type=click.IntRange(0), default=1, show_default=True, help="Seed of the first run."
)
@click.option(
    "--auctions",
    type=click.IntRange(10, MAX_AUCTIONS),
    help="Auctions in each run, instead of the market's own number.",
)
@click.option(
    "--processes", type=click.IntRange(1, 1_000), help="Worker processes. [default: one for each core]"
)
@click.option("--json", "json_file", type=_file, help="Also write all figures to FILE, as JSON.")
@click.option("--html", "html_file", type=_file, help="Also write a report with charts to FILE.")
def simulate_markets(
    *,
    names: tuple[str, ...],
    files: tuple[Path, ...],
    strategies: tuple[str, ...],
    populations: tuple[Population, ...],
    costs: bool,
    without: tuple[str, ...],
    seeds: int,
    first_seed: int,
    auctions: int | None,
    processes: int | None,
    json_file: Path | None,
    html_file: Path | None,
) -> None:
    """Show what strategies earn beside bidding the base, a random factor and an oracle, on market families.

    Every way of bidding meets the same tasks and luck. The same seeds give the same figures, on any number
    of cores.
    """
    _find_own_modules()
    plan = Plan(
        markets=tuple(_with_auctions(market, auctions) for market in _markets(names, files)),
        contenders=_contenders(strategies, costs=costs, without=without),
        populations=populations or POPULATIONS,
        seeds=range(first_seed, first_seed + seeds),
    )
    found = _found(plan, processes or os.cpu_count() or 1)
    _print(found)
    if json_file is not None:
        _write(json_file, msgspec.json.format(msgspec.json.encode(found), indent=1))
    if html_file is not None:
        _write(html_file, report(found).encode())


@lab.command("replay")
@click.argument("recording", type=_file, required=False)
@click.option("--agent", "agents", multiple=True, metavar="AGENT", help="Only this agent; repeatable.")
@click.option(
    "--together", is_flag=True, help="Replace the bids of all these agents at once, not one agent at a time."
)
@_strategies
@click.option(
    "--paid-on",
    type=click.Choice(("success", "win")),
    default="success",
    show_default=True,
    help="When the swarm pays.",
)
@settings_flags(*CONNECTION, *TOPICS, "group_id")
def replay_recording(
    *,
    recording: Path | None,
    agents: tuple[str, ...],
    together: bool,
    strategies: tuple[str, ...],
    paid_on: PaidOn,
    **flags: Any,
) -> None:
    """Play recorded auctions again, with each strategy's bids in the place of an agent's own.

    RECORDING is an SQLite file of a swarm, as `import` reads it, or holds what `outcomes export` writes, of
    all agents, one after the other. Without it the outcomes in Kafka are played again.

    The others' bids stay as they were. The base bid is the one in the advice log (`--advice-log`); without it
    the recorded bid stands for it: an agent that followed advice then is adjusted twice. A strategy sees only
    what was known before its bid was placed. At least and at most: who would have won, or whether the task
    would have been done, is not in the record.
    """
    _find_own_modules()
    auctions = recorded_auctions_of(recording, flags)
    known = {bid.agent_id for auction in auctions for bid in auction.bids}
    unknown = sorted({*agents} - known)
    if unknown:
        raise ConfigurationError(f"{recording or 'Kafka'} has no outcomes of {escaped(unknown[0])}")
    chosen = list(dict.fromkeys(agents)) or sorted(known)
    groups = [chosen] if together else [[agent] for agent in chosen]
    found = [find_strategy(name) for name in dict.fromkeys(strategies)]
    rows = [row for one in found for group in groups for row in replay(auctions, one, group, paid_on)]
    shown = [msgspec.structs.replace(row, agent_id=escaped(row.agent_id)) for row in rows]
    _console().print(replay_table(shown))


def _find_own_modules() -> None:
    """Adds the working directory to the import path, for `package.module:name`."""
    sys.path.insert(0, str(Path.cwd()))


def _markets(names: tuple[str, ...], files: tuple[Path, ...]) -> list[MarketModel]:
    own = [read_market(path) for path in files]
    chosen = [_family(name) for name in names]
    markets = [*chosen, *own] if chosen or own else list(families().values())
    twice = {market.name for market in markets if [one.name for one in markets].count(market.name) > 1}
    if twice:
        raise ConfigurationError(f"two markets are called {min(twice)!r}: give each a name of its own")
    return markets


def _family(name: str) -> MarketModel:
    known = families()
    if name not in known:
        raise ConfigurationError(f"there is no family {name!r}: give one of {', '.join(known)}")
    return known[name]


def _with_auctions(market: MarketModel, auctions: int | None) -> MarketModel:
    return market if auctions is None else market.model_copy(update={"auctions": auctions})


def _contenders(names: tuple[str, ...], *, costs: bool, without: tuple[str, ...]) -> tuple[Contender, ...]:
    contenders = [RANDOM]
    for name in dict.fromkeys(names):
        label = find_strategy(name).name
        contenders.append(Contender(label, name))
        if name != "classic":
            contenders += [Contender(f"{label} + costs", name, tells_costs=True)] if costs else []
            contenders += [Contender(f"{label} - words", name, words=False)] if "words" in without else []
            contenders += [Contender(f"{label} - prices", name, prices=False)] if "prices" in without else []
    return tuple(contenders)


def _found(plan: Plan, processes: int) -> Findings:
    columns = (
        TextColumn("simulating"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} runs"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("runs", total=plan.runs)
        trials = simulate(plan, processes=min(processes, plan.runs), finished=lambda: progress.advance(bar))
    return findings(plan, trials)


def _print(found: Findings) -> None:
    console = _console()
    for table in tables(found):
        console.print(table)
    console.print(f"{found.seeds} seeds from {found.first_seed}. {MEANING}", style="dim", markup=False)


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDTH_WITHOUT_A_TERMINAL)


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise ConfigurationError(f"cannot write {path} ({error.strerror})") from error
    click.echo(f"written: {path}")
