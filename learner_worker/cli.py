"""The command line: every command, its flags, its exit code.

Exit codes: 0 done, 1 a failure, 2 a mistake in what was asked or configured.
"""

import asyncio
import json
import logging
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NoReturn

import click
from pydantic_core import PydanticUndefined
from rich.console import Console
from rich.table import Table

from learner_worker import schemas_command
from learner_worker.client import LearnerClient
from learner_worker.contract.codec import encode_message
from learner_worker.contract.suggestions import SuggestBidReply
from learner_worker.demo import DemoOptions, run_demo
from learner_worker.errors import ConfigurationError, LearnerError
from learner_worker.observability import configure_logging
from learner_worker.replica import run_replica
from learner_worker.settings import Settings, load_settings
from learner_worker.stream.cluster import connected

_DEFAULT_PARTITIONS = 12
_CONNECTION = (
    "bootstrap_servers",
    "client_id",
    "security_protocol",
    "sasl_mechanism",
    "sasl_username",
    "sasl_password",
    "ssl_cafile",
    "ssl_certfile",
    "ssl_keyfile",
    "startup_timeout_seconds",
)
_TOPICS = tuple(name for name in Settings.model_fields if name.startswith("topic_"))
_Command = Callable[..., Any]


def _settings_flags(*names: str) -> Callable[[_Command], _Command]:
    """Flags for settings, with their descriptions, defaults and environment variables as help."""

    def decorate(command: _Command) -> _Command:
        for name in reversed(names):
            field = Settings.model_fields[name]
            shown = "" if field.default in {None, PydanticUndefined, ""} else f" [default: {field.default}]"
            command = click.option(
                f"--{name.replace('_', '-')}",
                name,
                metavar="VALUE",
                help=f"{field.description}{shown} [env: LEARNER_{name.upper()}]",
            )(command)
        return command

    return decorate


def _given(flags: dict[str, Any]) -> Settings:
    return load_settings({name: value for name, value in flags.items() if value is not None})


def _client_options(settings: Settings) -> dict[str, Any]:
    shared = settings.connection().options()
    return {name: value for name, value in shared.items() if name not in {"bootstrap_servers", "client_id"}}


def _complete(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(coroutine)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="learner-worker")
def cli() -> None:
    """Learns from the outcomes of a swarm's reverse auctions and tells agents how to adjust their bids.

    Start with `learner-worker demo`. In production: `learner-worker topics create` once, then
    `learner-worker run` on every replica.
    """


@cli.command()
@_settings_flags(*Settings.model_fields)
def run(**flags: Any) -> None:
    """Run one replica until SIGTERM or SIGINT.

    Replicas with the same --group-id share the shards; each needs its own --state-dir.
    """
    settings = _given(flags)
    configure_logging(settings.log_format, settings.log_level)
    _complete(run_replica(settings))


@cli.group()
def topics() -> None:
    """Create or check the topics."""


@topics.command("create")
@_settings_flags(*_CONNECTION, *_TOPICS)
@click.option(
    "--partitions",
    type=click.IntRange(1, 10_000),
    default=_DEFAULT_PARTITIONS,
    show_default=True,
    help="Shards: how many replicas can share the work. Fixed for life.",
)
@click.option(
    "--replication-factor",
    type=click.IntRange(1, 100),
    help="Copies of each record. [default: 3, or the number of brokers if less]",
)
def create_topics(partitions: int, replication_factor: int | None, **flags: Any) -> None:
    """Create the topics that do not exist yet; those that do are left alone."""
    settings = _given(flags)
    names = settings.topics().named()

    async def create() -> None:
        async with connected(
            settings.connection(), patience_seconds=settings.startup_timeout_seconds
        ) as cluster:
            created = await cluster.create_topics(
                names, partitions=partitions, replication_factor=replication_factor
            )
            for topic in names.all:
                click.echo(f"{topic}: {'created' if topic in created else 'was there'}")
            await cluster.check_topics(names)

    configure_logging()
    _complete(create())


@topics.command("check")
@_settings_flags(*_CONNECTION, *_TOPICS)
def check_topics(**flags: Any) -> None:
    """Check that the topics exist and that their partition counts agree; exit code 2 if not."""
    settings = _given(flags)

    async def check() -> int:
        async with connected(
            settings.connection(), patience_seconds=settings.startup_timeout_seconds
        ) as cluster:
            return await cluster.check_topics(settings.topics().named())

    configure_logging()
    shards = _complete(check())
    click.echo(f"all topics are there, with {shards} shards")


@cli.command()
@click.argument("agent")
@click.option("--description", required=True, help="The task's text.")
@click.option("--base", "base_bid_sats", type=int, required=True, help="The bid without advice, in sats.")
@click.option("--keywords", is_flag=True, help="Also show the agent's learned keywords.")
@click.option("--timeout", "timeout_seconds", type=float, default=5.0, show_default=True, help="In seconds.")
@click.option("--json", "as_json", is_flag=True, help="Print the reply as it came.")
@_settings_flags(*_CONNECTION, *_TOPICS)
def suggest(
    *,
    agent: str,
    description: str,
    base_bid_sats: int,
    keywords: bool,
    timeout_seconds: float,
    as_json: bool,
    **flags: Any,
) -> None:
    """Ask the learner what AGENT should bid, as an agent would, over Kafka."""
    settings = _given(flags)

    async def ask() -> SuggestBidReply:
        async with LearnerClient(
            settings.bootstrap_servers,
            topics=settings.topics(),
            timeout_seconds=timeout_seconds,
            kafka_options=_client_options(settings),
        ) as learner:
            return await learner.suggest_bid(
                agent,
                description=description,
                base_bid_sats=base_bid_sats,
                include=("learned_keywords",) if keywords else (),
            )

    configure_logging()
    logging.getLogger("learner_worker.client").setLevel(
        logging.CRITICAL
    )  # what it warns of ends up in the error
    reply = _complete(ask())
    if as_json:
        click.echo(json.dumps(json.loads(encode_message(reply)), indent=2, ensure_ascii=False))
    else:
        _show(reply, Console())


def _show(reply: SuggestBidReply, console: Console) -> None:
    metrics = reply.metrics
    advice = (
        f"{reply.agent_id}: bid {reply.suggested_bid_sats} sats "
        f"(base {reply.base_bid_sats} x {reply.factor:.4g}, strategy {reply.strategy})"
    )
    reasons = [f"  x{adjustment.multiplier:<5} {adjustment.reason}" for adjustment in reply.adjustments]
    record = (
        f"  from {metrics.total_bids} auctions: {metrics.auctions_won} won, "
        f"{metrics.tasks_completed} completed, {metrics.tasks_failed} failed, as of {reply.as_of or 'never'}"
    )
    lines = [advice, *reasons, record]
    console.print("\n".join(lines), highlight=False, markup=False)
    if reply.learned_keywords:
        table = Table("keyword", "wins", "failures", "net")
        for word in reply.learned_keywords:
            table.add_row(word.keyword, str(word.wins), str(word.failures), str(word.net))
        console.print(table)


@cli.command()
@click.option("--seed", type=int, help="The same seed, the same tasks, skills and luck.")
@click.option("--auctions", type=click.IntRange(1, 100_000), help="How many auctions to hold.")
@click.option(
    "--broker",
    type=click.Choice(["auto", "given", "docker", "kafka", "embedded"]),
    default="auto",
    show_default=True,
    help="What to run on; auto: the first that is there.",
)
@click.option(
    "--bootstrap-servers",
    envvar="LEARNER_BOOTSTRAP_SERVERS",
    show_envvar=True,
    help="Your own cluster, for --broker given.",
)
@click.option("--partitions", type=click.IntRange(1, 100), help="Shards.")
@click.option("--keep", is_flag=True, help="Leave the demo's temporary folder, to look into it.")
def demo(**flags: Any) -> None:
    """Watch a swarm bid, two workers learn, and what asking the learner changes."""
    options = DemoOptions(**{name: value for name, value in flags.items() if value is not None})
    configure_logging(level="error")
    logging.getLogger("learner_worker.client").setLevel(logging.CRITICAL)
    sys.exit(_complete(run_demo(options, Console())))


@cli.group()
def schemas() -> None:
    """Write or check the JSON Schemas of every message."""


_folder = click.argument("folder", type=click.Path(path_type=Path), default=Path("schemas"))


@schemas.command("export")
@_folder
def export_schemas(folder: Path) -> None:
    """Write the schema of every message into FOLDER."""
    for path in schemas_command.export(folder):
        click.echo(path)


@schemas.command("check")
@_folder
def check_schemas(folder: Path) -> None:
    """Check that FOLDER holds the schemas as this version knows them; exit code 1 if not."""
    problems = schemas_command.check(folder)
    if problems:
        raise LearnerError("; ".join(problems) + ": run `learner-worker schemas export`")
    click.echo(f"{folder}: current")


def main() -> NoReturn:
    """The console script: errors become one sentence and an exit code, never a traceback."""
    try:
        sys.exit(cli.main(standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit("learner-worker: stopped")
    except LearnerError as error:
        click.echo(f"learner-worker: {error}", err=True)
        sys.exit(2 if isinstance(error, ConfigurationError) else 1)
