"""Shard files of a layout that a reshard has replaced: set aside, and removed when its topics are."""

from collections.abc import Mapping
from pathlib import Path

import structlog

from learner_worker.contract.topology import Topology
from learner_worker.errors import StateError
from learner_worker.store.obstacles import obstacle
from learner_worker.store.replacement import move, remove
from learner_worker.store.state_folder import filed_identities

_SUFFIX = ".former"
_log = structlog.get_logger("learner_worker.store")


def set_aside_former(state_dir: Path, topic_prefix: str, topology: Topology) -> None:
    """Moves the files of former layouts of these topics out of the way: their rows are in the new changelog.

    They are removed once the topics of their layout are: until then they are a copy of what those hold.

    Raises:
        StateError: the folder cannot be written.
    """
    try:
        for path, identity in filed_identities(state_dir).items():
            if identity.get("topic_prefix") == topic_prefix and is_former(identity, topology):
                move(path, path.with_suffix(_SUFFIX))
                _log.info("state.former_layout", path=str(path), partitions=identity.get("partitions"))
        if topology.replaced is None:
            for path in state_dir.glob(f"*{_SUFFIX}"):
                remove(path)
    except OSError as error:
        raise StateError(
            f"cannot clear {state_dir} of former files ({obstacle(state_dir, error)})"
        ) from error


def is_former(identity: Mapping[str, str], topology: Topology) -> bool:
    """Whether a file of the same topics belongs to one of their former layouts.

    The first version's files name no incarnation; it never wrote for a layout that a reshard made.
    """
    if identity.get("cluster_id") != topology.cluster_id:
        return False
    incarnation = identity.get("incarnation")
    if incarnation is None:
        return any(identity.get("partitions") == str(one.shards) for one in topology.former)
    return any(incarnation == one.incarnation for one in topology.former)
