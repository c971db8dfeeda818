"""Which partition an id or a key belongs to: Kafka's murmur2."""

import functools
from collections.abc import Callable

from aiokafka.partitioner import murmur2

_CACHED_IDS = 65_536
"""An auction's task is looked up once an event, an agent once a fact: nearly all of them are repeats."""


@functools.cache
def partitioner(partitions: int) -> Callable[[str], int]:
    """A function from an id to its partition, as every Kafka client with the default partitioner counts.

    Whoever asks for the same number of partitions gets the same function, and shares its cache.
    """

    @functools.lru_cache(_CACHED_IDS)
    def partition_of(identifier: str) -> int:
        return _partition(identifier.encode(), partitions)

    return partition_of


@functools.lru_cache(_CACHED_IDS)
def partition_of_key(key: bytes, partitions: int) -> int:
    """The partition of a record with this key, by the default partitioner."""
    return _partition(key, partitions)


def _partition(key: bytes, partitions: int) -> int:
    return int((murmur2(key) & 0x7FFFFFFF) % partitions)
