"""Maps an id or a key to its partition, by Kafka's default partitioner (murmur2)."""

import functools
from collections.abc import Callable

from aiokafka.partitioner import murmur2

_CACHED_IDS = 65_536
"""Large enough for the tasks and agents that are active at one time: nearly all lookups repeat."""


@functools.cache
def partitioner(partitions: int) -> Callable[[str], int]:
    """Returns the function from an id to its partition, as in Kafka's default partitioner.

    Calls with the same number of partitions return the same function, which shares its cache.
    """

    @functools.lru_cache(_CACHED_IDS)
    def partition_of(identifier: str) -> int:
        return _partition(identifier.encode(), partitions)

    return partition_of


@functools.lru_cache(_CACHED_IDS)
def partition_of_key(key: bytes, partitions: int) -> int:
    """The partition of a record with this key, by Kafka's default partitioner."""
    return _partition(key, partitions)


@functools.lru_cache(_CACHED_IDS)
def hash_of(identifier: str) -> int:
    """The number whose remainder by the partition count is an id's partition."""
    return _hash(identifier.encode())


def _hash(key: bytes) -> int:
    return int(murmur2(key) & 0x7FFFFFFF)


def _partition(key: bytes, partitions: int) -> int:
    return _hash(key) % partitions
