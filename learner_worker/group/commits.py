"""Tells the commits of a group apart by the incarnation of the topics that each one names.

A mirror can copy a group's commits to another cluster. It translates the offset but keeps the metadata, so
the rewind offset in it is still the original's, and may be past events that have to be read again. The topics
of the copy have another incarnation, so such a commit is ignored there.
"""

import re
from collections.abc import Mapping

from aiokafka import TopicPartition

from learner_worker.kafka.admin import Committed

_NOTE = re.compile(r"incarnation=([^;]*);")


def noted(committed: Committed, incarnation: str) -> Committed:
    """The commit, with the incarnation of its topics in the metadata, and no other one."""
    return Committed(committed.offset, f"incarnation={incarnation};{unnamed(committed)}")


def unnamed(committed: Committed) -> str:
    """A commit's metadata without the incarnation."""
    return _NOTE.sub("", committed.metadata, count=1)


def own_commits(
    committed: Mapping[TopicPartition, Committed], incarnation: str | None
) -> dict[TopicPartition, Committed]:
    """The commits that name this incarnation, or none, as those of 0.1.0.

    Args:
        incarnation: None if the topics have no record; then it is not known which commits are foreign.
    """
    return {
        place: one
        for place, one in committed.items()
        if incarnation is None or _incarnation_of(one) in {None, incarnation}
    }


def _incarnation_of(committed: Committed) -> str | None:
    found = _NOTE.match(committed.metadata)
    return None if found is None else found[1]
