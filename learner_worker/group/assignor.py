"""Placement over Kafka's group protocol: claims travel with JoinGroup, placements with SyncGroup.

The protocol is named `range`, and falls back to that assignment if a member makes no claim, as an older
version or another program does: both kinds of members can share a group, whichever leads. (Two protocols side
by side would also work, but aiokafka joins once for each of them.)
"""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
import structlog
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.protocol import (
    ConsumerProtocolMemberAssignment,
    ConsumerProtocolMemberMetadata,
)

from learner_worker.contract.fields import ShardId
from learner_worker.group.placement import Claim, Placement, Term, next_term, place

_VERSION = 0  # of Kafka's consumer protocol: the one that `range` and aiokafka use
_log = structlog.get_logger("learner_worker.stream")


class _Given(msgspec.Struct, frozen=True):
    """The leader's data for a member besides its partitions."""

    term: Term = 0
    standbys: list[ShardId] = []


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_encode = msgspec.json.Encoder().encode
_claims = msgspec.json.Decoder(Claim)
_given = msgspec.json.Decoder(_Given)


class StateKeepingAssignor:
    """Assigns shards to members that have their state; an assignor for aiokafka's consumer.

    Args:
        claim: makes this member's claim, with the term and the owned shards of its last placement.
        on_placement: called before partitions are assigned, with the placement's term and the shards to
            follow.
        now_ms: a lower bound of terms, so that they grow even if all members that knew the last one are gone.
    """

    name = "range"

    def __init__(
        self,
        claim: Callable[[int], Claim],
        on_placement: Callable[[int, frozenset[ShardId]], None],
        now_ms: Callable[[], int] = _now_ms,
    ) -> None:
        self._claim = claim
        self._now_ms = now_ms
        self._on_placement = on_placement
        self._term = 0

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        """This member's subscription and claim, for JoinGroup."""
        return ConsumerProtocolMemberMetadata(_VERSION, sorted(topics), _encode(self._claim(self._term)))

    def assign(self, cluster: Any, members: Mapping[str, Any]) -> dict[str, Any]:
        """Assigns every member's partitions; called on the group's leader."""
        claims = {key: claim_of(metadata.user_data) for key, metadata in members.items()}
        known = {key: claim for key, claim in claims.items() if claim is not None}
        topics = {topic for metadata in members.values() for topic in metadata.subscription}
        counts = {topic: len(cluster.partitions_for_topic(topic) or ()) for topic in topics}
        subscriptions = {frozenset(metadata.subscription) for metadata in members.values()}
        # Members with different topic prefixes cannot be placed: a shard id alone would be ambiguous.
        if len(known) < len(claims) or len(set(counts.values())) != 1 or len(subscriptions) != 1:
            _log.warning(
                "placement.by_range",
                members=len(claims),
                without_claim=len(claims) - len(known),
                subscriptions=len(subscriptions),
            )
            return dict(RangePartitionAssignor.assign(cluster, members))
        shards = [ShardId(number) for number in range(next(iter(counts.values())))]
        term = max(next_term(known.values()), self._now_ms())
        placements = place(shards, known)
        _log.info("placement.made", term=term, **_summary(known, placements))
        return {
            key: _assignment(placement, sorted(topics), term, members[key].subscription)
            for key, placement in placements.items()
        }

    def on_assignment(self, assignment: ConsumerProtocolMemberAssignment) -> None:
        """Stores the placement's term and announces the shards to follow."""
        given = _decoded_given(assignment.user_data)
        self._term = given.term
        self._on_placement(given.term, frozenset(given.standbys))


def standbys_of(assignment: ConsumerProtocolMemberAssignment) -> frozenset[ShardId]:
    """The shards that an assignment tells a member to follow."""
    return frozenset(_decoded_given(assignment.user_data).standbys)


def claim_of(user_data: bytes | None) -> Claim | None:
    """The claim in a member's subscription; None if there is none that this version can read."""
    try:
        return _claims.decode(user_data or b"")
    except _UNREADABLE:
        return None


def _decoded_given(user_data: bytes | None) -> _Given:
    try:
        return _given.decode(user_data or b"")
    except _UNREADABLE:
        return _Given()


def _assignment(
    placement: Placement, topics: list[str], term: int, subscribed: Iterable[str]
) -> ConsumerProtocolMemberAssignment:
    wanted = set(subscribed)
    partitions = [(topic, sorted(placement.owned)) for topic in topics if topic in wanted]
    given = _encode(_Given(term, sorted(placement.standbys)))
    return ConsumerProtocolMemberAssignment(_VERSION, partitions, given)


def _summary(claims: Mapping[str, Claim], placements: Mapping[str, Placement]) -> dict[str, object]:
    """The placement for the log: each member's shards, and the number of shards that move."""
    moved = sum(
        shard not in claims[key].owned for key, placement in placements.items() for shard in placement.owned
    )
    members = {claims[key].name or key: sorted(placement.owned) for key, placement in placements.items()}
    return {"moved": moved, "members": members}
