"""`run`: runs one replica."""

from typing import Any

import click

from learner_worker.commands.options import given, settings_flags
from learner_worker.kafka.patches import take_closed_for_broken, use_light_records
from learner_worker.observability import Instruments, configure_logging, tracer_or_none
from learner_worker.settings import Settings
from learner_worker.standard_streams import write_stderr_in_background
from learner_worker.worker import event_loop
from learner_worker.worker.replica import run_replica


@click.command()
@click.option(
    "--take-over",
    is_flag=True,
    help="Make --group-id the owner of the topics if another group is: its workers stop within ten seconds, "
    "and this group begins where they ended. Also for a copy of the cluster. Only for the first start.",
)
@settings_flags(*Settings.model_fields)
def run(*, take_over: bool, **flags: Any) -> None:
    """Run one replica until SIGTERM or SIGINT.

    Replicas with the same --group-id share the shards; each needs its own --state-dir.
    """
    settings = given(flags)
    tracer = tracer_or_none(
        wanted=settings.traces, event_share=settings.trace_events, instance=settings.group_instance_id
    )
    instruments = Instruments(tracer)
    write_stderr_in_background(instruments.process.log_lines_lost.inc)
    configure_logging(settings.log_format, settings.log_level)
    use_light_records()
    take_closed_for_broken()
    try:
        event_loop.run(run_replica(settings, instruments, take_over=take_over))
    finally:
        if tracer is not None:
            tracer.close()
