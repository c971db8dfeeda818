"""`insights`: shows what the learner knows, over HTTP."""

import asyncio
import os
from pathlib import Path
from typing import Any

import click
from pydantic import SecretStr

from learner_worker.client import token_file as token_source
from learner_worker.commands.options import CONNECTION, TOKEN_FILE, TOPICS, given, settings_flags
from learner_worker.insights.access import ACCESS_VARIABLE, Access
from learner_worker.insights.server import InsightsOptions, serve_insights
from learner_worker.kafka.patches import take_closed_for_broken, use_light_records
from learner_worker.observability import configure_logging

_SETTINGS = (
    *CONNECTION,
    *TOPICS,
    "group_id",
    "paid_on",
    "http_host",
    "http_port",
    "worker_url",
    "log_format",
    "log_level",
)


@click.command()
@click.option("--allow-anyone", is_flag=True, help="Let other machines look without a token.")
@click.option(
    "--allow-writes",
    is_flag=True,
    help="Take reports of failed tasks (POST /swarm/tasks/TASK/fail), and publish them.",
)
@click.option("--hide-descriptions", is_flag=True, help="Do not show the texts of tasks; keywords are shown.")
@TOKEN_FILE
@settings_flags(*_SETTINGS)
def insights(
    *,
    allow_anyone: bool,
    allow_writes: bool,
    hide_descriptions: bool,
    token_file: Path | None,
    **flags: Any,
) -> None:
    """Serve what the learner knows of every agent, over HTTP, until SIGTERM or SIGINT.

    Reads Kafka only: it needs no worker and no state folder, and any number of them may run.
    `/swarm/insights` is every agent, `/swarm/insights/AGENT` one with all of its keywords, and
    `/openapi.json` describes both; `/` is a page to look at them. It listens on this machine alone; for
    others set LEARNER_INSIGHTS_TOKEN, which they give as bearer token or as password.
    """
    settings = given(flags)
    if settings.http_port is None:
        raise click.UsageError("--http-port none would serve nothing: give a port, or 0 for any free one")
    configure_logging(settings.log_format, settings.log_level)
    use_light_records()
    take_closed_for_broken()
    token = os.environ.get(ACCESS_VARIABLE)
    options = InsightsOptions(
        Access(settings.http_host, SecretStr(token) if token else None, anyone=allow_anyone),
        settings.http_port,
        show_descriptions=not hide_descriptions,
        allow_writes=allow_writes,
        token=None if token_file is None else token_source(token_file),
    )
    asyncio.run(serve_insights(settings, options, _tell))


def _tell(url: str) -> None:
    click.echo(f"Insights: {url}")
