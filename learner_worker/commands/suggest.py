"""`suggest`: asks the learner for the advice to an agent."""

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from learner_worker.client import LearnerClient
from learner_worker.client.messages import suggest_bid_request
from learner_worker.client.tokens import read_token
from learner_worker.commands.options import (
    CONNECTION,
    TOKEN_FILE,
    TOPICS,
    client_options,
    given,
    settings_flags,
)
from learner_worker.commands.printing import advice_lines, escaped, keywords_table
from learner_worker.contract.encode import encode_message
from learner_worker.contract.suggestions import Include, SuggestBidReply
from learner_worker.errors import ConfigurationError
from learner_worker.kafka.admin import connected
from learner_worker.observability import configure_logging
from learner_worker.settings import Settings


@click.command()
@click.argument("agent")
@click.option("--description", required=True, help="Description of the task.")
@click.option("--base", "base_bid_sats", type=int, required=True, help="Base bid, in sats.")
@click.option("--strategy", help="Strategy to answer by, one of the worker's. [default: the worker's own]")
@click.option("--task", "task_id", help="Id of the task.")
@click.option(
    "--cost", "cost_sats", type=int, help="Cost of the effort, whether it succeeds or not, in sats."
)
@click.option(
    "--failure-cost", "failure_cost_sats", type=int, help="With --cost: further cost of a failure, in sats."
)
@click.option("--alternatives", is_flag=True, help="Also print the advice of every strategy of the worker.")
@click.option("--keywords", is_flag=True, help="Also print the agent's learned keywords.")
@click.option(
    "--timeout",
    "timeout_seconds",
    type=float,
    default=5.0,
    show_default=True,
    help="How long to wait for the reply, in seconds.",
)
@TOKEN_FILE
@click.option("--json", "as_json", is_flag=True, help="Print the reply as JSON.")
@settings_flags(*CONNECTION, *TOPICS)
def suggest(
    *,
    agent: str,
    description: str,
    base_bid_sats: int,
    strategy: str | None,
    task_id: str | None,
    cost_sats: int | None,
    failure_cost_sats: int | None,
    alternatives: bool,
    keywords: bool,
    timeout_seconds: float,
    token_file: Path | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Ask the learner over Kafka what AGENT should bid.

    An AGENT that begins with - goes last, after --.
    """
    settings = given(flags)
    include: list[Include] = ["learned_keywords"] if keywords else []
    include += ["alternatives"] if alternatives else []

    optional: dict[str, Any] = {
        "strategy": strategy,
        "task_id": task_id,
        "cost_sats": cost_sats,
        "failure_cost_sats": failure_cost_sats,
    }
    # A request that no learner would answer is refused before Kafka is asked for anything.
    suggest_bid_request(
        agent,
        description,
        base_bid_sats,
        include,
        request_id="-",
        timeout_seconds=timeout_seconds,
        **optional,
    )

    token = None if token_file is None else read_token(token_file)

    async def ask() -> SuggestBidReply:
        await _require_topics(settings, timeout_seconds)
        async with LearnerClient(
            settings.bootstrap_servers,
            topics=settings.topics(),
            timeout_seconds=timeout_seconds,
            kafka_options=client_options(settings),
            token=token,
        ) as learner:
            return await learner.suggest_bid(
                agent,
                description=description,
                base_bid_sats=base_bid_sats,
                include=include,
                **optional,
            )

    configure_logging()
    logging.getLogger("learner_worker.client").setLevel(
        logging.CRITICAL
    )  # what it warns of ends up in the error
    reply = asyncio.run(ask())
    if strategy is not None and reply.strategy != strategy:
        click.echo(
            f"the worker is older than strategies, and answered by {escaped(reply.strategy)}", err=True
        )
    if as_json:
        click.echo(json.dumps(json.loads(encode_message(reply)), indent=2, ensure_ascii=False))
    else:
        _show(reply, Console())


async def _require_topics(settings: Settings, timeout_seconds: float) -> None:
    """Refuses to ask where no answer can come: the client library would wait for the topics."""
    names = settings.topics().named()
    asked = (names.requests, names.replies)
    async with connected(settings.connection(), patience_seconds=timeout_seconds) as cluster:
        existing = await cluster.partitions(asked)
    if missing := [name for name in asked if name not in existing]:
        raise ConfigurationError(
            f"missing topics: {', '.join(missing)}; create them with `learner-worker topics create`, or "
            "correct --topic-prefix"
        )


def _show(reply: SuggestBidReply, console: Console) -> None:
    click.echo("\n".join(map(escaped, advice_lines(reply))))
    for name, alternative in sorted(reply.alternatives.items()):
        click.echo(
            f"{escaped(name)}: {alternative.suggested_bid_sats} sats (factor {alternative.factor:.4g})"
        )
    if reply.learned_keywords:
        console.print(keywords_table(reply.learned_keywords))
