"""Which partition an id belongs to: Kafka's murmur2 on its UTF-8."""

import functools
from collections.abc import Callable

from aiokafka.partitioner import murmur2

_CACHED_IDS = 65_536
"""An auction's task is looked up once an event, an agent once a fact: nearly all of them are repeats."""


def partitioner(partitions: int) -> Callable[[str], int]:
    """A function from an id to its partition, as every Kafka client with the default partitioner counts."""

    @functools.lru_cache(_CACHED_IDS)
    def partition_of(identifier: str) -> int:
        return int((murmur2(identifier.encode()) & 0x7FFFFFFF) % partitions)

    return partition_of
