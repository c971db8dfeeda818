"""`doctor`: reports what keeps a worker from running here, and how to fix it."""

import asyncio
import json
from typing import Any

import click

from learner_worker.commands.options import CONNECTION, TOPICS, given, settings_flags
from learner_worker.commands.printing import escaped
from learner_worker.doctor import Finding, Level, Report, examine
from learner_worker.interface.rights import ROLES, Role
from learner_worker.observability import configure_logging

_SHOWN = {Level.OK: "ok     ", Level.NOTE: "note   ", Level.WARNING: "WARNING", Level.ERROR: "ERROR  "}
_SETTINGS = (*CONNECTION, "group_id", "state_dir", "auction_horizon_seconds", "agent_topic", *TOPICS)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as a JSON array.")
@click.option("--quiet", is_flag=True, help="Print warnings and errors only.")
@click.option(
    "--role",
    type=click.Choice(list(ROLES)),
    default="worker",
    show_default=True,
    help="Whose rights in Kafka the user should have.",
)
@settings_flags(*_SETTINGS)
def doctor(*, as_json: bool, quiet: bool, role: Role, **flags: Any) -> int:
    """Check the set-up from this machine to Kafka, and say how to fix what is wrong.

    Takes the same settings as `run`; reads only. Exit code 0: all well, or notes; 1: warnings; 2: errors.
    """
    settings = given(flags)
    configure_logging(level="error")
    report = asyncio.run(examine(settings, role=role))
    least = Level.WARNING if quiet else Level.OK
    shown = [(name, finding) for name, finding in report.findings if finding.level >= least]
    if as_json:
        click.echo(json.dumps([_described(name, finding) for name, finding in shown], indent=2))
    else:
        click.echo("\n".join(_line(name, finding) for name, finding in shown))
        click.echo(_summary(report))
    return report.exit_code


def _described(name: str, finding: Finding) -> dict[str, str]:
    return {
        "check": name,
        "level": finding.level.name.lower(),
        "what": finding.what,
        "remedy": finding.remedy,
    }


def _line(name: str, finding: Finding) -> str:
    remedy = f"\n         -> {escaped(finding.remedy)}" if finding.remedy else ""
    return f"{_SHOWN[finding.level]}  {name}: {escaped(finding.what)}{remedy}"


def _summary(report: Report) -> str:
    levels = [finding.level for _, finding in report.findings]
    errors, warnings = levels.count(Level.ERROR), levels.count(Level.WARNING)
    return f"{errors} errors, {warnings} warnings" if errors or warnings else "all well"
