"""What this replica tells the group's leader: what it owns, and how far each file of its folder reaches."""

import os
import socket

from learner_worker.contract.fields import ShardId
from learner_worker.contract.topics import TopicName
from learner_worker.group.placement import Claim
from learner_worker.worker.ownership import Ownership
from learner_worker.worker.platform import StateFiles
from learner_worker.worker.standbys import Standbys


class Claims:
    """Makes this replica's claims.

    Args:
        topic: the changelog; the position in it says how far a file's rows reach.
        process: names this run of this process.
        instance_id: the name for static membership, if it has one.
        standby_replicas: how many standbys every shard is to have.
    """

    def __init__(
        self,
        *,
        ownership: Ownership,
        standbys: Standbys,
        files: StateFiles,
        topic: TopicName,
        process: str,
        instance_id: str | None,
        standby_replicas: int,
    ) -> None:
        self._ownership = ownership
        self._standbys = standbys
        self._files = files
        self._topic = topic
        self._process = process
        self._where = f"host {socket.gethostname()}, process {os.getpid()}"
        self._name = instance_id or self._where
        self._standby_replicas = standby_replicas
        self._held: dict[ShardId, int] = {}

    async def look_into_files(self) -> None:
        """Takes the positions of the files that lie in the folder at the start."""
        self._held.update(await self._files.positions(self._topic))

    def claim(self, term: int) -> Claim:
        """The claim for the next placement, with the term of the last one."""
        shards = self._ownership.shards
        self._held.update(self._standbys.positions)
        self._held.update({shard_id: shard.positions[self._topic] for shard_id, shard in shards.items()})
        return Claim(
            process=self._process,
            name=self._name,
            where=self._where,
            term=term,
            owned=sorted(self._ownership.assigned or ()),
            held=dict(self._held),
            standby_replicas=self._standby_replicas,
        )
