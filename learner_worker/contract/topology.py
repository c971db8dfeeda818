"""The records of `learner-topology`: how many shards there are, on which cluster, and who owns these topics.

A change of any of this is a record of a higher generation. Of the highest generation the first record in
the topic stands: workers that write one at the same time all read back, and obey the same one.
"""

from collections.abc import Iterable
from typing import Annotated, Final

import msgspec

from learner_worker.contract.topics import TopicNames
from learner_worker.errors import RecordError, UpgradeRequiredError

TOPOLOGY_VERSION: Final = 1  # raised with a change that older learners would misread
KEEP_FOLDERS: Final = (
    "leave the workers stopped and keep every state folder (an empty or another one would not help: its "
    'numbers would be wrong); Kafka cannot lower a count: follow "Changed partition counts" in '
    "docs/operating.md"
)
"""What to do about partition counts that are not the recorded one."""
_Positive = Annotated[int, msgspec.Meta(ge=1)]
_Text = Annotated[str, msgspec.Meta(min_length=1)]


class OwnTopics(msgspec.Struct, frozen=True):
    """The full names of the topics that the learner alone writes."""

    outcomes: _Text
    metrics: _Text
    rerouted: _Text
    dead_letters: _Text

    @classmethod
    def of(cls, names: TopicNames) -> "OwnTopics":
        """Those among all topics."""
        return cls(names.outcomes, names.metrics, names.rerouted, names.dead_letters)


class Topology(msgspec.Struct, frozen=True):
    """How the topics are laid out, and whose they are.

    Attributes:
        shards: the number of partitions of every sharded topic.
        incarnation: a random id of this set of topics: topics created anew under the same names have another.
        owner_group: the consumer group whose workers write the topics; null: no worker has run yet.
    """

    generation: _Positive
    shards: _Positive
    cluster_id: str
    incarnation: _Text
    owner_group: str | None
    topics: OwnTopics
    v: int = TOPOLOGY_VERSION


class _Versioned(msgspec.Struct):
    v: int = TOPOLOGY_VERSION


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Topology)
_version_decoder = msgspec.json.Decoder(_Versioned)


def encode_topology(topology: Topology, writer: str) -> tuple[bytes, bytes]:
    """The record's key and value, both JSON. No two writers share a key, so compaction drops nothing."""
    return _encoder.encode((topology.generation, writer)), _encoder.encode(topology)


def decode_topology(value: bytes | None) -> Topology:
    """The topology in a record's value.

    Raises:
        UpgradeRequiredError: a newer learner wrote it.
        RecordError: it is none.
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
    """The one that holds, of all in the order of the topic; None if there is none."""
    return max(topologies, key=lambda topology: topology.generation, default=None)
