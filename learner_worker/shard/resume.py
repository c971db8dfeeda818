"""Where a shard resumes: rule 8 (docs/protocol.md), as a function of its file and Kafka's offsets."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import structlog

from learner_worker.contract.fields import AgentId, ShardId, TaskId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import TopicName, TopicNames
from learner_worker.domain.auctions import AuctionState
from learner_worker.domain.outcomes import Cutoff
from learner_worker.domain.retention import Retention, cutoff_note, read_cutoff_note
from learner_worker.group.offsets import BrokerOffsets
from learner_worker.kafka.admin import Committed
from learner_worker.shard.context import ShardContext
from learner_worker.shard.sums import claimed_sums
from learner_worker.stages.strategy_sums import StrategySums
from learner_worker.store.shard_file import ShardFile

_REWIND = re.compile(r"(?:^|;)rewind=([0-9]{1,19})(?![^;])")
"""The rewind offset in the metadata of a source's commit."""
_log = structlog.get_logger("learner_worker.shard")


class ResumedState(NamedTuple):
    """The state with which a shard starts.

    Attributes:
        positions: the next offset to read, by topic.
        rewound: whether another replica had read further, so that the file's auctions were dropped.
        restore_until: the changelog's end offset.
        changelog_lost_end: whether the rows are ahead of the changelog, so that they must be republished.
        auctions: settle's auctions.
        unpublished: the agents whose metrics record is due.
        forgotten: the time until which each agent is forgotten.
        retention: with the later cutoff of the file and the commit; it shares `forgotten`.
        sums: the sums of the worker's strategies, as far as the file has counted its rows.
    """

    positions: dict[TopicName, int]
    rewound: bool
    restore_until: int
    changelog_lost_end: bool
    auctions: Mapping[TaskId, AuctionState]
    unpublished: set[AgentId]
    forgotten: dict[AgentId, Micros]
    retention: Retention
    sums: Sequence[StrategySums]


async def resume(
    shard_id: ShardId, context: ShardContext, file: ShardFile, offsets: BrokerOffsets
) -> ResumedState:
    """Reads a shard's state at the positions that follow from its file and the group's commits.

    Raises:
        StateError: the file cannot be read or written.
    """
    topics, changelog = context.topics, context.topics.outcomes
    filed = await file.load_positions()
    positions, rewound = resume_positions(filed, offsets, topics)
    if rewound:
        sources = (*context.sources, topics.task_finished)
        await file.rewind({topic: positions[topic] for topic in sources})
    for topic, count in lost_unread(filed, offsets, topics).items():
        _log.error("shard.records_lost", shard=shard_id, topic=topic, records=count)
        context.instruments.records_lost.labels(topic).inc(count)
    if filed.get(topics.metrics, 0) > offsets.ranges[topics.metrics].end:
        await file.mark_unpublished()
    forgotten = await file.load_forgotten()
    committed = offsets.committed.get(changelog)
    noted = None if committed is None else read_cutoff_note(committed.metadata)
    end = offsets.ranges[changelog].end
    return ResumedState(
        positions,
        rewound,
        restore_until=end,
        changelog_lost_end=filed.get(changelog, 0) > end,
        auctions={} if rewound else await file.load_auctions(),
        unpublished=await file.load_unpublished(),
        forgotten=forgotten,
        retention=Retention(context.settings.retention, await file.load_cutoff(), noted, forgotten),
        sums=await claimed_sums(file, context.settings.strategies),
    )


def resume_positions(
    filed: Mapping[str, int], offsets: BrokerOffsets, topics: TopicNames
) -> tuple[dict[TopicName, int], bool]:
    """The positions to resume from, and whether the file's auctions have to be dropped.

    The file's positions are valid if every source's is at or after the group's commit. Otherwise another
    replica has read further: the file's rows stay, its auctions are dropped, and the sources are read again
    from the smallest offset of any task that was remembered at that commit.
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
            wanted = rewound_position(offsets.committed.get(topic), log.start)
        if wanted > log.end:
            _log.warning("shard.position_beyond_end", topic=topic, position=wanted, end=log.end)
            wanted = log.start
        positions[topic] = max(log.start, wanted)
    return positions, not ahead


def lost_unread(filed: Mapping[str, int], offsets: BrokerOffsets, topics: TopicNames) -> dict[TopicName, int]:
    """Number of offsets that Kafka deleted before they were read, by topic; empty on a first start."""
    lost: dict[TopicName, int] = {}
    for topic in topics.subscribed:
        reached = [filed[topic]] if topic in filed else []
        reached += [offsets.committed[topic].offset] if topic in offsets.committed else []
        start = offsets.ranges[topic].start
        missing = start - max(reached, default=start)
        if missing > 0:
            lost[topic] = missing
    return lost


def rewound_position(committed: Committed | None, start: int) -> int:
    """The offset to rewind a source to: the commit's rewind offset, or the topic's first offset."""
    if committed is None:
        return start
    found = _REWIND.search(committed.metadata)
    # A commit by another tool has no rewind offset: the whole topic is read again.
    return start if found is None else min(int(found[1]), committed.offset)


def commit_of(offset: int, rewind_offset: int, cutoff: Cutoff | None = None) -> Committed:
    """A position's commit, with the metadata that a replica without a file needs."""
    return Committed(offset, f"rewind={rewind_offset}{cutoff_note(cutoff)}")
