"""Whose commits these are: each names the incarnation of the topics whose offsets it holds.

A mirror can copy a group's commits to another cluster. It translates their offsets and keeps their metadata,
so the rewind offset in it is still one of the original, and may lie behind what has to be read again. The
topics of the copy have another incarnation: there such a commit counts as none.
"""

import re
from collections.abc import Mapping

from aiokafka import TopicPartition

from learner_worker.kafka.admin import Committed

_NOTE = re.compile(r"incarnation=([^;]*);")


def noted(committed: Committed, incarnation: str) -> Committed:
    """A commit that names the incarnation of its topics."""
    return Committed(committed.offset, f"incarnation={incarnation};{committed.metadata}")


def unnamed(committed: Committed) -> str:
    """A commit's metadata without the incarnation."""
    return _NOTE.sub("", committed.metadata, count=1)


def own_commits(
    committed: Mapping[TopicPartition, Committed], incarnation: str
) -> dict[TopicPartition, Committed]:
    """The commits of topics of an incarnation, with those that name none: commands and 0.1.0 write these."""
    return {place: one for place, one in committed.items() if _incarnation_of(one) in {None, incarnation}}


def _incarnation_of(committed: Committed) -> str | None:
    found = _NOTE.match(committed.metadata)
    return None if found is None else found[1]
