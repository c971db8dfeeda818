"""The records of `learner-topology`: the shard count, the cluster, and the owner of the topics.

A change of any of this is a record of a higher generation. Of the highest generation the first record in
the topic stands: workers that write one at the same time all read back, and obey the same one.
"""

from collections.abc import Iterable
from typing import Annotated, Final

import msgspec

from learner_worker.contract.topics import TopicNames, in_layout
from learner_worker.errors import RecordError, UpgradeRequiredError

FIRST_VERSION: Final = 1  # of records about a layout that was never changed
TOPOLOGY_VERSION: Final = 2
"""The newest format: with a reshard, which older learners would misread."""
KEEP_FOLDERS: Final = (
    "leave the workers stopped and keep every state folder (an empty or another one would not help: its "
    "numbers would be wrong); Kafka cannot lower a count: `learner-worker reshard` moves everything to the "
    'higher one, or follow "Changed partition counts" in docs/operating.md'
)
"""The remedy for partition counts that differ from the recorded one."""
_Positive = Annotated[int, msgspec.Meta(ge=1)]
_Text = Annotated[str, msgspec.Meta(min_length=1)]


class OwnTopics(msgspec.Struct, frozen=True):
    """The full names of the topics that only the learner writes."""

    outcomes: _Text
    metrics: _Text
    rerouted: _Text
    dead_letters: _Text

    @classmethod
    def of(cls, names: TopicNames) -> "OwnTopics":
        """These topics among all topics."""
        return cls(names.outcomes, names.metrics, names.rerouted, names.dead_letters)


class Origin(msgspec.Struct, frozen=True):
    """The owner before a take-over: where the new owner's commits come from."""

    group_id: _Text
    cluster_id: str


class Reshard(msgspec.Struct, frozen=True):
    """A change of the shard count that is under way.

    Attributes:
        shards: the shard count to come.
        step: the last step that is done.
        began_ms: when it was announced, in milliseconds since 1970.
    """

    shards: _Positive
    step: _Text
    began_ms: int


class FormerLayout(msgspec.Struct, frozen=True):
    """A layout that a reshard has replaced: files and workers of it are out of date."""

    incarnation: _Text
    shards: _Positive


class LayoutTopics(msgspec.Struct, frozen=True):
    """The full names of the topics that one layout alone uses."""

    outcomes: _Text
    metrics: _Text
    rerouted: _Text

    @classmethod
    def of(cls, names: TopicNames) -> "LayoutTopics":
        """These topics among all topics."""
        return cls(names.outcomes, names.metrics, names.rerouted)


class Topology(msgspec.Struct, frozen=True):
    """The layout of a set of topics, and its owner.

    Attributes:
        shards: the number of partitions of every sharded topic.
        layout: the layout's number, from 1; a reshard makes the next one.
        incarnation: a random id of this set of topics: recreated topics of the same names have another one.
        owner_group: the consumer group whose workers write the topics; null until a worker has run.
        taken_from: the owner before, while its commits are not the new owner's yet; null otherwise.
        reshard: the change of the shard count that is under way; null otherwise. No worker runs meanwhile.
        former: the layouts before this one.
        replaced: the topics of the layout before, until they are deleted; null otherwise.
        former_owners: the groups that others have taken the topics over from, on this cluster.
    """

    generation: _Positive
    shards: _Positive
    cluster_id: str
    incarnation: _Text
    owner_group: str | None
    topics: OwnTopics
    taken_from: Origin | None = None
    v: int = FIRST_VERSION
    layout: _Positive = 1
    reshard: Reshard | None = None
    former: list[FormerLayout] = msgspec.field(default_factory=list)
    replaced: LayoutTopics | None = None
    former_owners: list[_Text] = msgspec.field(default_factory=list)

    @property
    def events_group(self) -> str | None:
        """The consumer group whose offsets are the owner's: each layout has its own."""
        return None if self.owner_group is None else in_layout(self.owner_group, self.layout)


class _Versioned(msgspec.Struct):
    v: int = FIRST_VERSION


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Topology)
_version_decoder = msgspec.json.Decoder(_Versioned)


def encode_topology(topology: Topology, writer: str) -> tuple[bytes, bytes]:
    """The record's key and value, both JSON. No two writers share a key, so compaction deletes none."""
    return _encoder.encode((topology.generation, writer)), _encoder.encode(topology)


def decode_topology(value: bytes | None) -> Topology:
    """Decodes the topology in a record's value.

    Raises:
        UpgradeRequiredError: a newer version of the learner wrote it.
        RecordError: the value is no topology.
    """
    content = value or b""
    try:
        _require_known(_version_decoder.decode(content).v)
        return _decoder.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordError("invalid", f"no topology of the learner: {error}") from error


def _require_known(version: int) -> None:
    if version > TOPOLOGY_VERSION:
        raise UpgradeRequiredError(
            f"learner-topology holds a record of format {version}, this version reads up to "
            f"{TOPOLOGY_VERSION}: upgrade it"
        )


def standing(topologies: Iterable[Topology]) -> Topology | None:
    """The topology in effect, of all records in offset order; None if there is none."""
    return max(topologies, key=lambda topology: topology.generation, default=None)
