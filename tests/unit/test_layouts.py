"""Layouts: their names, their files, and the record that ends one's changelog."""

from pathlib import Path

import msgspec
import pytest

from learner_worker.contract.facts import (
    Barrier,
    ForgetMarker,
    agent_of_key,
    decode_outcome_record,
    encode_barrier,
    encode_marker,
    is_barrier,
)
from learner_worker.contract.fields import AgentId, ShardId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import Topics, in_first_layout
from learner_worker.contract.topology import (
    FormerLayout,
    LayoutTopics,
    OwnTopics,
    Topology,
    decode_topology,
    encode_topology,
)
from learner_worker.errors import UpgradeRequiredError
from learner_worker.settings import Settings, settings_in_layout
from learner_worker.store.former import set_aside_former
from learner_worker.store.identity import shard_identity
from learner_worker.store.shard_file import ShardFile, shard_path

NAMES = Topics(prefix="p-").named()
RESHARDED = Topology(
    generation=9,
    shards=8,
    layout=2,
    cluster_id="c",
    incarnation="new",
    owner_group="g",
    topics=OwnTopics.of(NAMES.of_layout(2)),
    former=[FormerLayout("old", 4)],
    replaced=LayoutTopics.of(NAMES),
)


def test_a_layout_has_topics_and_a_group_of_its_own() -> None:
    """The first one adds nothing; settings and topics agree on what the others add."""
    assert NAMES.of_layout(1) == NAMES
    later = NAMES.of_layout(12)
    changed = {later.outcomes, later.metrics, later.rerouted}
    assert changed == set(later.all) - set(NAMES.all)
    assert {in_first_layout(name) for name in changed} == {NAMES.outcomes, NAMES.metrics, NAMES.rerouted}
    settings = Settings(topic_prefix="p-", group_id="g")
    assert settings_in_layout(settings, 12).topics().named() == later
    groups = [settings_in_layout(settings, layout).group_id for layout in (1, 12)]
    assert groups == ["g", "g.layout12"]
    assert RESHARDED.events_group == "g.layout2"


def test_a_record_of_a_layout_is_read_as_written() -> None:
    """And one of before there were layouts is of the first."""
    assert decode_topology(encode_topology(RESHARDED, "me")[1]) == RESHARDED
    _, value = encode_topology(RESHARDED, "me")
    older = decode_topology(value[: value.index(b',"layout"')] + b"}")
    assert (older.layout, older.reshard, older.former, older.replaced) == (1, None, [], None)


def test_whoever_reads_a_barrier_stops() -> None:
    """It is about no agent, and no two writers' are compacted into one."""
    (key, value), (other, _) = (encode_barrier(Barrier(2), writer) for writer in ("me", "you"))
    assert (is_barrier(key), is_barrier(encode_marker(ForgetMarker(AgentId("a"), Micros(1)))[0])) == (
        True,
        False,
    )
    assert not is_barrier(None)
    assert key != other
    assert agent_of_key(key) is None
    with pytest.raises(UpgradeRequiredError, match="learner-worker reshard"):
        decode_outcome_record(value)


async def test_files_of_a_former_layout_are_set_aside_until_its_topics_are_deleted(tmp_path: Path) -> None:
    """Those of this layout, of other topics and of another cluster stay where they are."""
    identities = {
        0: identity(0, 4, "old"),
        1: identity(1, 4, None),  # the first version wrote none
        2: identity(2, 8, "new"),
        3: identity(3, 4, "somebody else's"),
        4: identity(4, 4, "old") | {"cluster_id": "another"},
        5: identity(5, 4, "old") | {"topic_prefix": "another"},
    }
    for shard, whose in identities.items():
        await (await ShardFile.open(shard_path(tmp_path, ShardId(shard)), whose)).close()
    set_aside_former(tmp_path, "p-", RESHARDED)
    kept = [shard for shard in identities if shard_path(tmp_path, ShardId(shard)).exists()]
    assert kept == [2, 3, 4, 5]
    assert set_aside(tmp_path) == ["shard-00000.former", "shard-00001.former"]
    set_aside_former(tmp_path, "p-", RESHARDED)
    assert len(set_aside(tmp_path)) == 2
    set_aside_former(tmp_path, "p-", msgspec.structs.replace(RESHARDED, replaced=None))
    assert set_aside(tmp_path) == []


def identity(shard: int, partitions: int, incarnation: str | None) -> dict[str, str]:
    return shard_identity(
        cluster_id="c",
        topic_prefix="p-",
        partitions=partitions,
        shard=ShardId(shard),
        incarnation=incarnation,
    )


def set_aside(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.former"))
