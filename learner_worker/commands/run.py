"""`run`: one replica."""

from typing import Any

import click

from learner_worker import runtime
from learner_worker.commands.options import given, settings_flags
from learner_worker.observability import configure_logging
from learner_worker.replica import run_replica
from learner_worker.settings import Settings
from learner_worker.stream.closed_connections import take_closed_for_broken
from learner_worker.stream.light_records import use_light_records


@click.command()
@settings_flags(*Settings.model_fields)
def run(**flags: Any) -> None:
    """Run one replica until SIGTERM or SIGINT.

    Replicas with the same --group-id share the shards; each needs its own --state-dir.
    """
    settings = given(flags)
    configure_logging(settings.log_format, settings.log_level)
    use_light_records()
    take_closed_for_broken()
    runtime.run(run_replica(settings))
