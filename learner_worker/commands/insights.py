"""`insights`: shows what the learner knows, over HTTP."""

import asyncio
from typing import Any

import click

from learner_worker.commands.options import CONNECTION, TOPICS, given, settings_flags
from learner_worker.insights.server import InsightsOptions, serve_insights
from learner_worker.kafka.patches import take_closed_for_broken, use_light_records
from learner_worker.observability import configure_logging

_SETTINGS = (*CONNECTION, *TOPICS, "group_id", "http_host", "http_port", "log_format", "log_level")


@click.command()
@settings_flags(*_SETTINGS)
def insights(**flags: Any) -> None:
    """Serve what the learner knows of every agent, over HTTP, until SIGTERM or SIGINT.

    Reads Kafka only: it needs no worker and no state folder, and any number of them may run.
    `/swarm/insights` is every agent, `/swarm/insights/AGENT` one with all of its keywords, and
    `/openapi.json` describes both.
    """
    settings = given(flags)
    if settings.http_port is None:
        raise click.UsageError("--http-port none would serve nothing: give a port, or 0 for any free one")
    configure_logging(settings.log_format, settings.log_level)
    use_light_records()
    take_closed_for_broken()
    options = InsightsOptions(settings.http_host, settings.http_port)
    asyncio.run(serve_insights(settings, options, _tell))


def _tell(url: str) -> None:
    click.echo(f"Insights: {url}")
