"""Where a shard reads on from: rule 8 (docs/protocol.md) as a function of its file and Kafka's offsets."""

import re
from collections.abc import Mapping

import structlog

from learner_worker.contract.topics import TopicName, TopicNames
from learner_worker.group.offsets import BrokerOffsets
from learner_worker.kafka.admin import Committed

REWIND = "rewind="
"""Before the rewind offset, in the metadata of a source's commit."""
_OFFSET = re.compile(r"[0-9]{1,19}")
_log = structlog.get_logger("learner_worker.shard")


def resume_positions(
    filed: Mapping[str, int], offsets: BrokerOffsets, topics: TopicNames
) -> tuple[dict[TopicName, int], bool]:
    """Where to read on from, and whether the file's auctions have to be dropped.

    The file's positions hold if every source's is at or past what the group committed. Otherwise somebody
    else came further: its rows stay, its auctions go, and the sources are read again from the smallest
    offset of any task that was remembered at that commit.
    """
    sources = (topics.bid_placed, topics.auction_closed, topics.rerouted, topics.task_finished)
    ahead = all(
        topic in filed and filed[topic] >= offsets.committed[topic].offset
        for topic in sources
        if topic in offsets.committed
    )
    positions: dict[TopicName, int] = {}
    for topic in topics.subscribed:
        log = offsets.ranges[topic]
        wanted = filed.get(topic, log.start)
        if topic in sources and not ahead:
            wanted = _rewound(offsets.committed.get(topic), log.start)
        if wanted > log.end:
            _log.warning("shard.position_beyond_end", topic=topic, position=wanted, end=log.end)
            wanted = log.start
        positions[topic] = max(log.start, wanted)
    return positions, not ahead


def lost_unread(filed: Mapping[str, int], offsets: BrokerOffsets, topics: TopicNames) -> dict[TopicName, int]:
    """How many offsets Kafka deleted before they were read, by topic; a first start has nothing to miss."""
    lost: dict[TopicName, int] = {}
    for topic in topics.subscribed:
        reached = [filed[topic]] if topic in filed else []
        reached += [offsets.committed[topic].offset] if topic in offsets.committed else []
        start = offsets.ranges[topic].start
        missing = start - max(reached, default=start)
        if missing > 0:
            lost[topic] = missing
    return lost


def _rewound(committed: Committed | None, start: int) -> int:
    if committed is None:
        return start
    text = committed.metadata.removeprefix(REWIND)
    # A commit by somebody else's hand says nothing of what was remembered: all there is is read again.
    return min(int(text), committed.offset) if _OFFSET.fullmatch(text) else start
