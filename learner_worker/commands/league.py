"""`lab league`: what the advice of a running learner came to."""

from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console

from learner_worker.commands.options import CONNECTION, TOPICS, given, settings_flags
from learner_worker.commands.printing import escaped
from learner_worker.commands.recordings import recorded_in_kafka
from learner_worker.errors import ConfigurationError
from learner_worker.laboratory.advice import AdviceResults, advice_results
from learner_worker.laboratory.league_tables import league_tables, regret_table
from learner_worker.laboratory.regret import by_strategy

_WIDTH_WITHOUT_A_TERMINAL = 180  # all columns of the widest table
_SHOWN = 20  # rows of the ledger: a screen


@click.command("league")
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write all figures, and the whole regret ledger, to FILE as JSON.",
)
@settings_flags(*CONNECTION, *TOPICS, "group_id", "paid_on")
def show_league(*, json_file: Path | None, **flags: Any) -> None:
    """Show what strategies came to on live traffic: the advice log joined with the outcomes.

    The workers must run with --advice-log, and agents name the task in their requests (task_id). By strategy,
    in an experiment or outside: how often its advice was followed, won and done, and sats paid. Then what
    each other strategy's bid would have come to there, and the regret ledger: sats left on the table in won
    auctions, and auctions lost to a price above the own base bid.
    """
    settings = given(flags)
    recorded = recorded_in_kafka(settings)
    if not recorded.advice:
        raise ConfigurationError(
            f"{settings.topics().named().advice} has no advice: run the workers with --advice-log, and name "
            "the task in requests (task_id)"
        )
    results = advice_results(recorded.advice, recorded.auctions, settings.paid_on)
    _print(results)
    if json_file is not None:
        _write(json_file, results)


def _print(results: AdviceResults) -> None:
    ledger = results.ledger
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH_WITHOUT_A_TERMINAL)
    for table in league_tables(results.league):
        console.print(table)
    console.print(regret_table("Regret, by strategy", by_strategy(ledger)))
    shown = [msgspec.structs.replace(row, agent_id=escaped(row.agent_id)) for row in ledger[:_SHOWN]]
    console.print(regret_table(f"Regret, the {len(shown)} greatest of {len(ledger)}", shown))


def _write(path: Path, results: AdviceResults) -> None:
    content = {**msgspec.to_builtins(results.league), "regret": msgspec.to_builtins(results.ledger)}
    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=1))
    except OSError as error:
        raise ConfigurationError(f"cannot write {path} ({error.strerror})") from error
    click.echo(f"written: {path}")
