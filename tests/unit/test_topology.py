"""The record of the topology, and what follows from it for topics that are or are not as it says."""

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner_worker.contract.facts import Fact, ForgetMarker, Result, agent_of_key, encode_fact, encode_marker
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import TopicName, Topics
from learner_worker.contract.topology import (
    KEEP_FOLDERS,
    OwnTopics,
    Topology,
    decode_topology,
    encode_topology,
    standing,
)
from learner_worker.errors import ConfigurationError, RecordError, UpgradeRequiredError
from learner_worker.group.topology import (
    LiveTopics,
    common_count,
    count_to_create,
    mismatches,
    misplaced,
    older_count,
    require_same,
)
from learner_worker.kafka.partitioner import partitioner
from learner_worker.kafka.patches import LightRecord

NAMES = Topics(prefix="eu.").named()
TOPOLOGY = Topology(
    generation=2,
    shards=12,
    cluster_id="c1",
    incarnation="i1",
    owner_group="learner",
    topics=OwnTopics.of(NAMES),
)
LIVE = LiveTopics("c1", NAMES, {**dict.fromkeys(NAMES.all, 12), NAMES.topology: 1, NAMES.replies: 3})
AGENTS = [AgentId(f"agent-{number}") for number in range(400)]


def grown(*topics: TopicName, to: int = 24) -> LiveTopics:
    """The topics with some of them raised; all that are sharded if none is named."""
    return replace(LIVE, counts={**LIVE.counts, **dict.fromkeys(topics or NAMES.sharded, to)})


def changed(**changes: Any) -> Topology:
    """The record with some fields changed."""
    return msgspec.structs.replace(TOPOLOGY, **changes)


# --- the record -----------------------------------------------------------------------------------


def test_a_record_is_json_and_comes_back_as_it_was() -> None:
    """Key and value as the contract has them; fields of later versions are passed over."""
    key, value = encode_topology(TOPOLOGY, "writer-1")
    assert json.loads(key) == [2, "writer-1"]
    assert json.loads(value) == {
        "generation": 2,
        "shards": 12,
        "cluster_id": "c1",
        "incarnation": "i1",
        "owner_group": "learner",
        "topics": {
            "outcomes": "eu.learner-outcomes",
            "metrics": "eu.learner-agent-metrics",
            "rerouted": "eu.learner-rerouted",
            "dead_letters": "eu.learner-dead-letters",
        },
        "taken_from": None,
        "v": 1,
        "layout": 1,
        "reshard": None,
        "former": [],
        "replaced": None,
        "former_owners": [],
    }
    assert decode_topology(value) == TOPOLOGY
    assert decode_topology(json.dumps({**json.loads(value), "more": [1]}).encode()) == TOPOLOGY


def test_a_record_of_a_newer_format_asks_for_an_upgrade() -> None:
    """Whatever else such a record holds."""
    with pytest.raises(UpgradeRequiredError, match=r"format 3, this version reads up to 2: upgrade"):
        decode_topology(b'{"v": 3, "layout": "elsewhere"}')


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"no JSON",
        b"[]",
        b"{}",
        b"\xff",
        json.dumps({**msgspec.to_builtins(TOPOLOGY), "shards": 0}).encode(),
        json.dumps({**msgspec.to_builtins(TOPOLOGY), "generation": "2"}).encode(),
        json.dumps({**msgspec.to_builtins(TOPOLOGY), "incarnation": ""}).encode(),
        b"[" * 100_000,
    ],
)
def test_what_is_no_record_is_told(value: bytes | None) -> None:
    """It is refused as a record, and never taken for a topology."""
    with pytest.raises(RecordError):
        decode_topology(value)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=8), st.data())
def test_the_first_record_of_the_highest_generation_stands_whatever_compaction_leaves(
    generations: Sequence[int], data: st.DataObject
) -> None:
    """Each writer has a key of its own, so compaction, which keeps the last of a key, takes none away."""
    written = [
        changed(generation=generation, incarnation=f"i{at}") for at, generation in enumerate(generations)
    ]
    records = [encode_topology(topology, f"writer-{at}") for at, topology in enumerate(written)]
    compacted_up_to = data.draw(st.integers(0, len(records)))
    last = {key: at for at, (key, _) in enumerate(records)}
    left = [value for at, (key, value) in enumerate(records) if at >= compacted_up_to or last[key] == at]
    first = next(one for one in written if one.generation == max(generations))
    assert standing(map(decode_topology, left)) == first


def test_without_a_record_nothing_stands() -> None:
    """An empty topic."""
    assert standing([]) is None


# --- topics against the record --------------------------------------------------------------------


def test_topics_as_recorded_are_right_for_the_owner() -> None:
    """Replies may have any number of partitions; a record without an owner is right for every group."""
    require_same(TOPOLOGY, LIVE, "learner")
    require_same(TOPOLOGY, LIVE, None)
    require_same(changed(owner_group=None), LIVE, "anybody")


def messages(topology: Topology, live: LiveTopics, group_id: str | None = "learner") -> str:
    """The sentence of a mismatch."""
    with pytest.raises(ConfigurationError) as caught:
        require_same(topology, live, group_id)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_raised_counts_are_refused_with_what_would_become_wrong() -> None:
    """Twelve recorded, twenty-four there: both numbers, half of the agents, and: keep the folders."""
    sentence = messages(TOPOLOGY, grown())
    assert sentence.startswith(
        "eu.learner-topology records 12 partitions, but all sharded topics have 24 now"
    )
    assert "about 50 % of all agents would be looked for on another partition" in sentence
    assert sentence.endswith(KEEP_FOLDERS)
    assert "keep every state folder" in sentence
    assert "another --state-dir" not in sentence


def test_one_raised_topic_is_named() -> None:
    """Also a topic of requests alone."""
    sentence = messages(TOPOLOGY, grown(NAMES.requests))
    assert "but eu.suggest-bid-requests has 24 now" in sentence
    assert "bid-placed" not in sentence


@pytest.mark.parametrize(("count", "share"), [(13, 92), (18, 67), (6, 50), (48, 75)])
def test_the_share_of_agents_that_another_count_would_lose(count: int, share: int) -> None:
    """What is said is what Kafka's hash does to many agents."""
    before, after = partitioner(12), partitioner(count)
    many = [f"agent-{number}" for number in range(20_000)]
    lost = sum(before(agent) != after(agent) for agent in many) / len(many)
    assert f"about {share} %" in messages(TOPOLOGY, grown(to=count))
    assert lost == pytest.approx(share / 100, abs=0.02)


def test_another_cluster_another_group_other_topics_are_refused() -> None:
    """Each with both values and with what to do."""
    assert "on cluster 'c1', this is cluster 'c2': give the address" in messages(
        TOPOLOGY, replace(LIVE, cluster_id="c2")
    )
    foreign = messages(TOPOLOGY, LIVE, "other")
    assert "belong to group 'learner' (eu.learner-topology), this group is 'other'" in foreign
    assert "--group-id learner" in foreign
    moved = changed(topics=msgspec.structs.replace(TOPOLOGY.topics, outcomes="eu.learner-outcomes-2"))
    assert "names 'eu.learner-outcomes-2' as the topic of outcomes" in messages(moved, LIVE)


def test_every_reason_is_told_to_who_asks_for_all() -> None:
    """doctor lists them side by side."""
    found = list(mismatches(changed(cluster_id="c0"), grown(), "other"))
    assert len(found) == 3
    assert all(mismatch.what and mismatch.remedy for mismatch in found)


def test_a_topic_that_is_not_listed_refuses_nothing_here() -> None:
    """A broker that starts may list less than there is: missing topics are told apart from changed ones."""
    counts = {name: count for name, count in LIVE.counts.items() if name != NAMES.bid_placed}
    partial = replace(LIVE, counts=counts)
    require_same(TOPOLOGY, partial, "learner")
    assert partial.missing == [NAMES.bid_placed]


# --- without a record -----------------------------------------------------------------------------


def test_the_common_count_of_the_sharded_topics() -> None:
    """Replies do not matter; unequal ones are listed, and the changelog is not to be deleted."""
    assert common_count(LIVE) == 12
    assert common_count(replace(LIVE, counts={})) == 0
    with pytest.raises(
        ConfigurationError, match=r"eu\.bid-placed has 24, eu\.auction-closed has 12"
    ) as caught:
        common_count(grown(NAMES.bid_placed))
    assert "keep eu.learner-outcomes" in str(caught.value)


def records(agents: Iterable[AgentId], partitions: int) -> list[LightRecord]:
    """A fact, its tombstone, a forget marker of each agent, in turn, as a learner with a count wrote them."""
    partition_of = partitioner(partitions)
    written = []
    kinds = itertools.cycle(["fact", "tombstone", "marker"])
    for offset, (agent, kind) in enumerate(zip(agents, kinds, strict=False)):
        fact = encode_fact(Fact(TaskId("t"), agent, result=Result(Micros(1), succeeded=True)))
        key, value = encode_marker(ForgetMarker(agent, Micros(1))) if kind == "marker" else fact
        content = None if kind == "tombstone" else value
        written.append(LightRecord(NAMES.outcomes, partition_of(agent), offset, 0, key, content))
    return written


def test_a_changelog_of_this_count_is_trusted() -> None:
    """Facts, tombstones and markers where the count has them; an empty changelog; strangers' records."""
    assert misplaced(records(AGENTS, 12), 12) is None
    assert misplaced([], 12) is None
    strangers = [
        LightRecord(NAMES.outcomes, 0, at, 0, key, b"{}")
        for at, key in enumerate(
            [None, b"", b"agent-1", b'["t","agent-1"]', b'["x","agent-1",1]', b"[1,2,3,4,5]"]
        )
    ]
    assert misplaced(strangers, 12) is None
    assert all(agent_of_key(one.key) is None for one in strangers)


@pytest.mark.parametrize(("older", "today"), [(12, 24), (12, 18), (1, 2), (5, 48)])
def test_a_grown_changelog_is_known_by_its_older_count(older: int, today: int) -> None:
    """The older count is named, with an agent that would be looked for elsewhere."""
    found = misplaced(records(AGENTS, older), today)
    assert found is not None
    assert (found.older, found.of) == (older, len(AGENTS))
    assert found.partition == partitioner(older)(found.agent_id) != partitioner(today)(found.agent_id)
    mismatch = found.mismatch(NAMES.outcomes, today)
    assert f"grown from {older} partitions" in mismatch.what
    assert mismatch.remedy == KEEP_FOLDERS


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_each_kind_of_record_alone_tells_of_an_older_count(kind: int) -> None:
    """A changelog may hold little else than tombstones or markers."""
    assert misplaced(records(AGENTS, 12)[kind::3], 24) is not None


def test_records_of_two_counts_are_refused_too() -> None:
    """Workers went on after the growth: no one older count explains all, and that is said."""
    found = misplaced([*records(AGENTS[:200], 12), *records(AGENTS[200:], 24)], 24)
    assert found is not None
    assert found.older is None
    assert "grown from another count" in found.mismatch(NAMES.outcomes, 24).what


def test_no_older_count_is_made_up() -> None:
    """Records anywhere fit none; and the count asked about is not older than itself."""
    assert older_count([(agent, 3) for agent in AGENTS], 24) is None
    twelve = partitioner(12)
    assert older_count([(agent, twelve(agent)) for agent in AGENTS], 12) is None


# --- with how many partitions to create -----------------------------------------------------------


def test_the_recorded_count_is_the_one_to_create_with() -> None:
    """Asked for or not; without a record that of the topics, and without topics the one asked for."""
    assert count_to_create(None, TOPOLOGY, LIVE, 7) == 12
    assert count_to_create(12, TOPOLOGY, replace(LIVE, counts={}), 7) == 12
    assert count_to_create(None, None, LIVE, 7) == 12
    assert count_to_create(5, None, replace(LIVE, counts={}), 7) == 5
    assert count_to_create(None, None, replace(LIVE, counts={}), 7) == 7


@pytest.mark.parametrize(
    ("topology", "live", "words"),
    [
        (TOPOLOGY, LIVE, "eu.learner-topology records 12 partitions, not 24"),
        (TOPOLOGY, grown(), "records 12 partitions, but all sharded topics have 24"),
        (None, LIVE, "have 12 partitions, not 24"),
        (None, grown(NAMES.outcomes), "must have the same number of partitions"),
    ],
)
def test_another_count_is_never_created(topology: Topology | None, live: LiveTopics, words: str) -> None:
    """Twenty-four asked for where twelve are recorded or there, or where the topics differ."""
    with pytest.raises(ConfigurationError) as caught:
        count_to_create(24, topology, live, 12)
    assert words in str(caught.value)
