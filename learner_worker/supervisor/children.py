"""The processes of a replica: derives the command line of each from the replica's own."""

import uuid
from collections.abc import Callable, Sequence

from learner_worker.group.departure import process_instance
from learner_worker.settings import Settings
from learner_worker.store.process_folders import process_folder
from learner_worker.supervisor.child import Child
from learner_worker.worker.parent_link import Lineage


def make_children(
    settings: Settings, processes: int, arguments: Sequence[str], *, take_over: bool
) -> list[Child]:
    """The processes, not yet started.

    Args:
        arguments: the flags of this replica; those that differ in a process follow and override them.
        take_over: whether the group becomes the owner of the topics when they start for the first time.
    """
    parent = uuid.uuid4().hex
    return [
        Child(number, _command(settings, number, parent, arguments, take_over=take_over))
        for number in range(processes)
    ]


def _command(
    settings: Settings, number: int, parent: str, arguments: Sequence[str], *, take_over: bool
) -> Callable[[int, bool], list[str]]:
    own = [f"--state-dir={process_folder(settings.state_dir, number)}", "--http-port=none", "--processes=1"]
    name = f"process-{number}"
    if settings.group_instance_id is not None:
        name = process_instance(settings.group_instance_id, number)
        own.append(f"--group-instance-id={name}")

    def command(descriptor: int, first: bool) -> list[str]:
        lineage = Lineage(parent, name, descriptor)
        taking_over = ["--take-over"] if take_over and first else []
        program = ["-m", "learner_worker", "run"]
        return [*program, *taking_over, "--child-of", str(lineage), *arguments, *own]

    return command
