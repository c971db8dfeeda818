"""`outcomes list|export`: shows the outcomes behind an agent's advice."""

import asyncio
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from learner_worker.commands.export import csv_lines, exported_time, json_lines
from learner_worker.commands.options import CONNECTION, TOPICS, given, settings_flags
from learner_worker.commands.printing import advice_lines, escaped, keywords_table, shortened
from learner_worker.contract.decode import readable_id, request_of
from learner_worker.contract.encode import encode_reply
from learner_worker.contract.fields import MAX_DESCRIPTION_CHARACTERS, MAX_SATS, AgentId
from learner_worker.contract.suggestions import SuggestBidReply, SuggestBidRequest
from learner_worker.domain.agents import Agent, learned_keywords
from learner_worker.domain.keywords import STRONGEST
from learner_worker.domain.outcomes import Outcome
from learner_worker.errors import ConfigurationError
from learner_worker.observability import configure_logging
from learner_worker.operations.history import History, history_of
from learner_worker.settings import Settings
from learner_worker.stages.advise import Advise
from learner_worker.strategies.registry import find_strategy

_Command = Callable[..., Any]
_SHOWN_TASK, _SHOWN_DESCRIPTION = 40, 60  # a UUID fits; a row stays on few lines
_WIDTH_WITHOUT_A_TERMINAL = 240  # a row fits on one line in a file or a pipe


def _agent_named(_context: click.Context, _parameter: click.Parameter, text: str) -> AgentId:
    agent_id = readable_id(text.encode(errors="surrogateescape"))
    if agent_id is None:
        raise click.BadParameter(
            "an agent's id has 1 to 256 characters, none of them a control character; give the id as it "
            "stands in the agent's events"
        )
    return agent_id


def _shared(command: _Command) -> _Command:
    """Adds the arguments for the agent, the task to advise on, and the connection."""
    decorators: tuple[Callable[[_Command], _Command], ...] = (
        click.argument("agent_id", metavar="AGENT", callback=_agent_named),
        click.option("--description", help="Text of a task: also show the advice for it."),
        click.option(
            "--base",
            "base_bid_sats",
            type=click.IntRange(0, MAX_SATS),
            help="With --description: the base bid, in sats.",
        ),
        settings_flags(*CONNECTION, *TOPICS, "group_id", "strategy", "paid_on"),
    )
    for decorate in reversed(decorators):
        command = decorate(command)
    return command


@click.group()
def outcomes() -> None:
    """Show the outcomes behind an agent's advice, read from Kafka.

    No worker and no state folder is needed: the agent's partition of `learner-outcomes` is read to its end,
    as a worker reads it. Nothing is written there. An AGENT that begins with - goes last, after --.
    """


@outcomes.command("list")
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    metavar="N",
    help="Show at most N, newest first.",
)
@click.option("--all", "every", is_flag=True, help="Show all outcomes.")
@_shared
def list_outcomes(agent_id: AgentId, *, limit: int, every: bool, **flags: Any) -> None:
    """List AGENT's outcomes, newest first, then its metrics, keywords and advice."""
    request = _request(agent_id, flags)
    settings = _configured(flags)

    async def show() -> None:
        async with history_of(agent_id, settings, _say) as history:
            shown = list(history.outcomes(None if every else limit))
            _show(history, shown, _suggestion(request, history.agent, settings))

    asyncio.run(show())


@outcomes.command("export")
@click.option(
    "--format",
    "shape",
    type=click.Choice(["jsonl", "csv"]),
    default="jsonl",
    show_default=True,
    help="Output format.",
)
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to FILE. [default: stdout]"
)
@_shared
def export_outcomes(agent_id: AgentId, *, shape: str, output: Path | None, **flags: Any) -> None:
    """Export all of AGENT's outcomes with their full descriptions.

    jsonl: an object a line, `type` first: outcomes, newest first, then metrics, keywords and the suggestion.
    csv: the outcomes alone; a text that a spreadsheet would run as a formula has an apostrophe in front.
    docs/operating.md says what the fields mean.
    """
    if shape == "csv" and flags["description"] is not None:
        raise click.UsageError("a table of outcomes has no place for a suggestion: give --format jsonl")
    if shape == "csv" and output is None and sys.stdout.isatty():
        raise click.UsageError(
            "CSV keeps control characters as they are, which is nothing for a terminal: give --output FILE, "
            "or send it through a pipe"
        )
    request = _request(agent_id, flags)
    settings = _configured(flags)

    async def write() -> int:
        async with history_of(agent_id, settings, _say) as history:
            suggestion = _suggestion(request, history.agent, settings)
            lines = csv_lines(history) if shape == "csv" else json_lines(history, suggestion)
            _write(lines, output)
            return len(history.keys)

    count = asyncio.run(write())
    if count == 0:
        _say(_without_outcomes(agent_id))
    elif output is not None:
        _say(f"{count:,} outcomes of {escaped(agent_id)} written to {output}")


# --- what is asked --------------------------------------------------------------------------------------


def _request(agent_id: AgentId, flags: dict[str, Any]) -> SuggestBidRequest | None:
    """Separates the task to advise on from the settings' flags."""
    description, base_bid_sats = flags.pop("description"), flags.pop("base_bid_sats")
    if (description is None) != (base_bid_sats is None):
        raise click.UsageError("--description and --base go together: the task's text, and the bid for it")
    if description is None:
        return None
    fields = {"agent_id": agent_id, "description": description, "base_bid_sats": base_bid_sats}
    try:
        return SuggestBidRequest.model_validate(fields)
    except ValidationError as error:
        raise click.UsageError(
            f"--description: text of at most {MAX_DESCRIPTION_CHARACTERS} characters"
        ) from error


def _configured(flags: dict[str, Any]) -> Settings:
    settings = given(flags)
    configure_logging(level="error")
    return settings


def _suggestion(
    request: SuggestBidRequest | None, agent: Agent, settings: Settings
) -> SuggestBidReply | None:
    """The advice that a worker would give."""
    if request is None:
        return None
    reply = Advise([find_strategy(settings.strategy)], paid_on=settings.paid_on).answer(
        request_of(request), agent
    )
    return SuggestBidReply.model_validate_json(encode_reply(reply))


# --- what is printed ------------------------------------------------------------------------------------


def _say(line: str) -> None:
    click.echo(line, err=True)


def _write(lines: Iterable[str], output: Path | None) -> None:
    """Writes UTF-8, independent of the terminal's encoding."""
    content = (line.encode() for line in lines)
    if output is None:
        _write_to_stdout(content)
        return
    try:
        with output.open("wb") as file:
            file.writelines(content)
    except OSError as error:
        raise ConfigurationError(
            f"cannot write {output} ({error.strerror}): give --output another file"
        ) from error


def _write_to_stdout(content: Iterable[bytes]) -> None:
    stream = sys.stdout.buffer
    try:
        stream.writelines(content)
        stream.flush()
    except BrokenPipeError:  # `| head`: who reads has seen enough, also of what Python flushes at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _without_outcomes(agent_id: AgentId) -> str:
    return (
        f"{escaped(agent_id)} has no outcomes: no auction that it bid in or won has closed, or they were "
        "forgotten; its advice is its base bid"
    )


def _show(history: History, shown: list[Outcome], suggestion: SuggestBidReply | None) -> None:
    if shown:
        _show_outcomes(history, shown)
    else:
        click.echo(_without_outcomes(history.agent.agent_id))
    if suggestion is not None:
        click.echo("\n" + "\n".join(map(escaped, advice_lines(suggestion))))


def _show_outcomes(history: History, shown: list[Outcome]) -> None:
    console = _console()
    count, hidden = len(history.keys), len(history.keys) - len(shown)
    more = f", the newest {len(shown):,} of them (--limit, --all)" if hidden else ""
    read = f"{history.topic}/{history.shard} up to offset {history.position:,}"
    click.echo(f"{escaped(history.agent.agent_id)}: {count:,} outcomes in {read}{more}")
    console.print(_outcomes_table(shown))
    click.echo("\n" + metrics_line(history.agent))
    if history.agent.tallies:
        console.print(keywords_table(learned_keywords(history.agent.tallies)))
        if (rest := len(history.agent.tallies) - STRONGEST) > 0:
            click.echo(f"and {rest:,} weaker keywords: `outcomes export` has all")


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDTH_WITHOUT_A_TERMINAL)


def _outcomes_table(shown: Iterable[Outcome]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("closed at", "task", "bid", "", "result", "description"):
        table.add_column(name, justify="right" if name == "bid" else "left", overflow="fold")
    for outcome in shown:
        table.add_row(*map(Text, _cells(outcome)))
    return table


def _cells(outcome: Outcome) -> Iterator[str]:
    yield "" if outcome.close is None else exported_time(outcome.close.closed_at)
    yield shortened(escaped(outcome.task_id), _SHOWN_TASK)
    yield "-" if outcome.bid_sats is None else str(outcome.bid_sats)
    yield "won" if outcome.won else "lost"
    result = outcome.result if outcome.won else None
    yield "-" if result is None else "completed" if result.succeeded else "failed"
    yield shortened(escaped(outcome.description), _SHOWN_DESCRIPTION)


def metrics_line(agent: Agent) -> str:
    """An agent's metrics in words, by the contract's names."""
    metrics = agent.metrics
    return (
        f"metrics: total_bids {metrics.total_bids}, auctions_won {metrics.auctions_won}, "
        f"tasks_completed {metrics.tasks_completed}, tasks_failed {metrics.tasks_failed}, "
        f"win_rate {metrics.win_rate:.4g}, success_rate {metrics.success_rate:.4g}, "
        f"avg_winning_bid_sats {metrics.avg_winning_bid_sats:.10g}, as of {agent.as_of or 'never'}"
    )
