"""`forward-requests`: forwards what agents ask on request topics of their own."""

import asyncio
from typing import Any

import click

from learner_worker.commands.options import CONNECTION, TOPICS, given, settings_flags
from learner_worker.forwarding.process import run_forwarder
from learner_worker.kafka.patches import keep_member_ids, take_closed_for_broken, use_light_records
from learner_worker.observability import configure_logging

_SETTINGS = (
    "agent_topic",
    *CONNECTION,
    *TOPICS,
    "group_id",
    "reply_topics",
    "request_ttl_seconds",
    "identity_secret_file",
    "identity_audience",
    "identity_issuer",
    "http_host",
    "http_port",
    "log_format",
    "log_level",
)


@click.command()
@settings_flags(*_SETTINGS)
def forward_requests(**flags: Any) -> None:
    """Forward requests from agents' own topics to the shared one, until SIGTERM or SIGINT.

    Each --agent-topic is one that only the named agents' user may write. Its requests get a token for these
    agents, by which workers with `--identity require` tell who asks. It keeps no state, and any number of
    them may run: they share the topics' partitions.
    """
    settings = given(flags)
    configure_logging(settings.log_format, settings.log_level)
    use_light_records()
    take_closed_for_broken()
    keep_member_ids()
    asyncio.run(run_forwarder(settings, click.echo))
