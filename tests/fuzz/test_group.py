"""What other members of the group wrote: claims, placements, and the metadata of commits."""

from collections.abc import Mapping

import msgspec
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata
from hypothesis import given
from hypothesis import strategies as st

from learner_worker.contract.fields import ShardId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import Topics
from learner_worker.domain.outcomes import Cutoff
from learner_worker.domain.retention import cutoff_note, read_cutoff_note
from learner_worker.group.assignor import StateKeepingAssignor, claim_of, standbys_of
from learner_worker.group.offsets import BrokerOffsets
from learner_worker.group.placement import LAST_TERM, Claim
from learner_worker.kafka.admin import Committed
from learner_worker.kafka.offsets import OffsetRange
from learner_worker.shard.resume import lost_unread, resume_positions
from tests.fuzz import FUZZ, strategies
from tests.simulation.broker import Counts

TOPICS = Topics().named()
SHARDS = 4
_SHARDS = st.integers(-1, SHARDS + 1).map(ShardId) | st.integers(-(2**64), 2**65).map(ShardId)
_CLAIMS = st.builds(
    Claim,
    process=st.text(max_size=5),
    name=st.text(max_size=5),
    where=st.text(max_size=5),
    term=st.sampled_from([0, 1, 2**53, LAST_TERM - 1, LAST_TERM]),
    owned=st.lists(_SHARDS, max_size=6),
    held=st.dictionaries(_SHARDS, st.integers(-(2**64), 2**65), max_size=6),
    standby_replicas=st.sampled_from([0, 1, 2, -1, 2**64]),
)
_USER_DATA = st.one_of(
    _CLAIMS.map(msgspec.json.encode), strategies.broken(_CLAIMS.map(msgspec.json.encode)), st.none()
)


def metadata_of(user_data: bytes | None) -> ConsumerProtocolMemberMetadata:
    return ConsumerProtocolMemberMetadata(0, list(TOPICS.subscribed), user_data)


def assignor(standbys: list[frozenset[ShardId]]) -> StateKeepingAssignor:
    return StateKeepingAssignor(
        lambda term: Claim("us", term=term), lambda _, followed: standbys.append(followed), lambda: 1
    )


@FUZZ
@given(_CLAIMS)
def test_a_claim_written_and_read_is_the_same_claim(claim: Claim) -> None:
    """Whatever a member may claim, the leader reads it as it was written."""
    assert claim_of(msgspec.json.encode(claim)) == claim


@FUZZ
@given(st.dictionaries(st.text(max_size=5), _USER_DATA, min_size=1, max_size=5))
def test_the_leader_deals_every_shard_whatever_the_members_claim(
    user_data: Mapping[str, bytes | None],
) -> None:
    """Each partition has one owner, balanced to one, and every member can read what it is given."""
    announced: list[frozenset[ShardId]] = []
    members = {key: metadata_of(content) for key, content in user_data.items()}
    dealt = assignor(announced).assign(Counts(SHARDS), members)
    assert dealt.keys() == members.keys()
    for topic in TOPICS.subscribed:
        owned = {key: _shards(assignment, topic) for key, assignment in dealt.items()}
        assert sorted(shard for shards in owned.values() for shard in shards) == list(range(SHARDS))
        assert max(map(len, owned.values())) - min(map(len, owned.values())) <= 1
    for assignment in dealt.values():
        assignor(announced).on_assignment(assignment)
        standbys = announced.pop()
        assert standbys <= set(range(SHARDS)) - set(_shards(assignment, TOPICS.outcomes))


def _shards(assignment: ConsumerProtocolMemberAssignment, topic: str) -> list[int]:
    return [shard for name, shards in assignment.assignment for shard in shards if name == topic]


@FUZZ
@given(
    strategies.broken(
        st.builds(
            lambda term, standbys: msgspec.json.encode({"term": term, "standbys": standbys}),
            st.integers(0, 2**64 - 1),
            st.lists(st.integers(0, 9), max_size=3),
        )
    )
)
def test_a_member_takes_any_placement(user_data: bytes) -> None:
    """Bytes that are no placement give no standbys; after any of them the member can claim again."""
    announced: list[frozenset[ShardId]] = []
    member = assignor(announced)
    assignment = ConsumerProtocolMemberAssignment(0, [], user_data)
    member.on_assignment(assignment)
    assert announced == [standbys_of(assignment)]
    assert claim_of(member.metadata(TOPICS.subscribed).user_data) is not None


# --- commits ---------------------------------------------------------------------------------------------

_OFFSETS = st.integers(0, 2**62)
_DIGITS = st.text("0123456789-+ ٣²_,;", max_size=25) | st.sampled_from(["9" * 18, "9" * 19, "9" * 5_000])
_METADATA = st.one_of(
    st.builds("rewind={}".format, _OFFSETS),
    st.builds("incarnation={};rewind={}".format, st.text(max_size=3), _OFFSETS),
    st.builds("rewind={};cutoff={},{}".format, _OFFSETS, _OFFSETS, _OFFSETS),
    st.builds("rewind={};cutoff={},{}".format, _DIGITS, _DIGITS, _DIGITS),
    st.builds("{}{}".format, st.sampled_from(["rewind=", ";cutoff=", "rewind=7;cutoff=1,2"]), st.text()),
    st.text(),
)


@FUZZ
@given(
    st.dictionaries(st.sampled_from(TOPICS.subscribed), _OFFSETS),
    st.dictionaries(st.sampled_from(TOPICS.subscribed), st.builds(Committed, _OFFSETS, _METADATA)),
    st.lists(st.tuples(_OFFSETS, _OFFSETS).map(sorted), min_size=6, max_size=6),
)
def test_a_shard_resumes_within_its_topics_whatever_was_committed(
    filed: dict[str, int], committed: dict[str, Committed], ends: list[list[int]]
) -> None:
    """Every position lies between a topic's first offset and its end, whoever wrote the metadata."""
    within = {topic: OffsetRange(*held) for topic, held in zip(TOPICS.subscribed, ends, strict=True)}
    offsets = BrokerOffsets(
        {topic: committed[topic] for topic in TOPICS.subscribed if topic in committed}, within
    )
    positions, _ = resume_positions(filed, offsets, TOPICS)
    assert positions.keys() == set(TOPICS.subscribed)
    for topic, position in positions.items():
        assert within[topic].start <= position <= within[topic].end
    assert all(count > 0 for count in lost_unread(filed, offsets, TOPICS).values())


@FUZZ
@given(st.none() | st.builds(Cutoff, *(st.integers(-(10**17), 10**17).map(Micros),) * 2), _METADATA)
def test_a_cutoff_comes_back_from_a_commit_and_nothing_else_does(cutoff: Cutoff | None, text: str) -> None:
    """What was noted is read; from other metadata comes no cutoff, or one that a file can keep."""
    assert read_cutoff_note(f"rewind=7{cutoff_note(cutoff)}") == cutoff
    found = read_cutoff_note(text)
    assert found is None or all(-(2**63) <= micros < 2**63 for micros in found)
