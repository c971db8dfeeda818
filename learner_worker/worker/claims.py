"""This replica's claims to the group's leader: the shards it owns and the position of each of its files."""

import os
import socket
from dataclasses import dataclass

from learner_worker.contract.fields import ShardId
from learner_worker.contract.topics import TopicName
from learner_worker.group.placement import Claim
from learner_worker.worker.ownership import Ownership
from learner_worker.worker.platform import StateFiles
from learner_worker.worker.probation import Probation
from learner_worker.worker.standbys import Standbys


@dataclass(frozen=True, slots=True)
class MemberIdentity:
    """Who this replica is in its group.

    Attributes:
        process: identifies this run of this process.
        instance_id: the id for static membership, or None.
        siblings: identifies the parent that this process has in common with others; empty without one.
    """

    process: str
    instance_id: str | None
    siblings: str = ""


class Claims:
    """Makes this replica's claims.

    Args:
        topic: the changelog; a file's position in it says how current its rows are.
        identity: who this replica is.
        standby_replicas: number of standbys of each shard.
        probation: whether this replica is to own nothing for now.
    """

    def __init__(
        self,
        *,
        ownership: Ownership,
        standbys: Standbys,
        files: StateFiles,
        topic: TopicName,
        identity: MemberIdentity,
        standby_replicas: int,
        probation: Probation,
    ) -> None:
        self._ownership = ownership
        self._standbys = standbys
        self._files = files
        self._topic = topic
        self._identity = identity
        self._where = f"host {socket.gethostname()}, process {os.getpid()}"
        self._name = identity.instance_id or self._where
        self._standby_replicas = standby_replicas
        self._probation = probation
        self._held: dict[ShardId, int] = {}

    async def look_into_files(self) -> None:
        """Reads the positions of the files that are in the folder at startup."""
        self._held.update(await self._files.positions(self._topic))

    def claim(self, term: int) -> Claim:
        """The claim for the next placement; `term` is that of the last one."""
        shards = self._ownership.shards
        self._held.update(self._standbys.positions)
        self._held.update({shard_id: shard.positions[self._topic] for shard_id, shard in shards.items()})
        return Claim(
            process=self._identity.process,
            name=self._name,
            where=self._where,
            term=term,
            owned=sorted(self._ownership.assigned or ()),
            held=dict(self._held),
            standby_replicas=self._standby_replicas,
            on_probation=self._probation.active,
            siblings=self._identity.siblings,
        )
