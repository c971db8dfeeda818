"""`run`: runs one replica, in one process or in several."""

import asyncio
import sys
from collections.abc import Mapping
from typing import Any

import click

from learner_worker.commands.exit_codes import exit_code
from learner_worker.commands.options import OF_OTHERS, arguments_of, given, settings_flags
from learner_worker.errors import LearnerError
from learner_worker.kafka.patches import take_closed_for_broken, use_light_records
from learner_worker.observability import Instruments, configure_logging, tracer_or_none
from learner_worker.settings import Settings
from learner_worker.standard_streams import write_stderr_in_background
from learner_worker.supervisor.children import make_children
from learner_worker.supervisor.processors import affordable_processes
from learner_worker.supervisor.supervisor import supervise
from learner_worker.worker import event_loop
from learner_worker.worker.parent_link import Lineage, ParentLink
from learner_worker.worker.replica import run_replica


@click.command()
@click.option(
    "--take-over",
    is_flag=True,
    help="Make --group-id the owner of the topics if another group is: its workers stop within ten seconds, "
    "and this group begins where they ended. Also for a copy of the cluster. Only for the first start.",
)
@click.option("--child-of", "lineage", hidden=True)  # how a process of several is started
@settings_flags(*(name for name in Settings.model_fields if name not in OF_OTHERS))
def run(*, take_over: bool, lineage: str | None, **flags: Any) -> None:
    """Run one replica until SIGTERM or SIGINT.

    Replicas with the same --group-id share the shards; each needs its own --state-dir. With --processes it
    uses as many processors: each process is a member of the group by itself.
    """
    settings = given(flags)
    processes = settings.processes or affordable_processes()
    if lineage is not None:
        _run_child(settings, ParentLink(Lineage.read(lineage)), take_over=take_over)
    elif processes == 1:
        _run_one(settings, take_over=take_over)
    else:
        _run_several(settings, processes, flags, take_over=take_over)


def _run_one(settings: Settings, link: ParentLink | None = None, *, take_over: bool) -> None:
    tracer = tracer_or_none(
        wanted=settings.traces, event_share=settings.trace_events, instance=settings.group_instance_id
    )
    instruments = Instruments(tracer)
    write_stderr_in_background(instruments.process.log_lines_lost.inc)
    name = None if link is None else link.lineage.name
    configure_logging(settings.log_format, settings.log_level, instance=name)
    use_light_records()
    take_closed_for_broken()
    try:
        event_loop.run(run_replica(settings, instruments, take_over=take_over, link=link))
    finally:
        if tracer is not None:
            tracer.close()


def _run_child(settings: Settings, link: ParentLink, *, take_over: bool) -> None:
    """Runs one of several processes; its parent says why it ended."""
    try:
        _run_one(settings, link, take_over=take_over)
    except LearnerError as error:
        link.end(error)
        sys.exit(exit_code(error))


def _run_several(settings: Settings, processes: int, flags: Mapping[str, Any], *, take_over: bool) -> None:
    children = make_children(settings, processes, arguments_of(flags), take_over=take_over)
    write_stderr_in_background(lambda: None)
    configure_logging(settings.log_format, settings.log_level)
    asyncio.run(supervise(settings, children))
