"""`leave`: stops a worker for good, or removes the member of one that died."""

import asyncio
from typing import Any

import click

from learner_worker.commands.options import CONNECTION, TOPICS, given, settings_flags
from learner_worker.observability import configure_logging
from learner_worker.operations.members import remove_member
from learner_worker.operations.stopping import ask_to_leave, stop_for_good


@click.command()
@click.option(
    "--when-stopped",
    is_flag=True,
    help="Leave at the worker's next stop, whoever stops it, instead of stopping it now.",
)
@click.option(
    "--instance",
    metavar="NAME",
    help="Remove a dead replica and all of its processes from the group, by its --group-instance-id; "
    "NAME-0 = only its process 0.",
)
@settings_flags(*CONNECTION, *TOPICS, "group_id", "state_dir")
def leave(*, when_stopped: bool, instance: str | None, **flags: Any) -> None:
    """Stop a worker for good: other replicas have its shards at once.

    The worker of --state-dir on this machine makes its work durable and leaves its group as its last act.
    Without this, the shards of a static member (--group-instance-id) that stops wait until its session times
    out, because it may come back. A worker that starts again, or that was alive when its member was removed,
    joins again.
    """
    if when_stopped and instance is not None:
        raise click.UsageError("--when-stopped and --instance exclude each other")
    settings = given(flags)
    configure_logging()
    if instance is not None:
        removed = asyncio.run(remove_member(settings, instance))
        listed = ", ".join(f"{name} ({where})" for name, where in removed.items())
        click.echo(f"removed {listed} from the group {settings.group_id}")
        return
    process = ask_to_leave(settings.state_dir)
    if when_stopped:
        click.echo(f"process {process} leaves its group at its next stop")
        return
    asyncio.run(stop_for_good(settings.state_dir, process))
    click.echo(f"process {process} has left its group")
