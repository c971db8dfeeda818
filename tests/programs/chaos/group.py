"""A consumer group as its coordinator remembers it: the generation, which no administrator's request shows.

Kafka keeps a group's metadata in the compacted topic `__consumer_offsets`, one record a change: key (version
2, group), value (version, protocol type, generation, ...): GroupMetadataKey.json, GroupMetadataValue.json.
"""

import struct

from learner_worker.contract.topics import TopicName
from tests.support.workers import read_topic

_OFFSETS = TopicName("__consumer_offsets")
_GROUP_METADATA_KEY = 2
_FIRST_COMPACT_VERSION = 4


async def generation_of(bootstrap_servers: str, group_id: str) -> int:
    """The group's generation: it grows with every rebalance.

    Raises:
        LookupError: the group has no members.
    """
    key = struct.pack(">hh", _GROUP_METADATA_KEY, len(group_id.encode())) + group_id.encode()
    records = await read_topic(bootstrap_servers, _OFFSETS)
    values = [record.value for record in records if record.key == key]
    if not values or values[-1] is None:
        raise LookupError(f"group {group_id} has no members")
    return generation_in(values[-1])


def generation_in(value: bytes) -> int:
    """The generation in a group's metadata record."""
    (version,) = struct.unpack_from(">h", value)
    if version >= _FIRST_COMPACT_VERSION:
        following = 3 + value[2] - 1  # the length and one, in a byte: "consumer" is short
    else:
        (length,) = struct.unpack_from(">h", value, 2)
        following = 4 + length
    (generation,) = struct.unpack_from(">i", value, following)
    return int(generation)
