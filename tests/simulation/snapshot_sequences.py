"""Minimal sequences with snapshots: what random seeds find too rarely."""

from dataclasses import replace
from typing import Final

import msgspec

from learner_worker.contract.fields import ShardId
from learner_worker.snapshots.catalog import new_name
from learner_worker.snapshots.manifest import SnapshotManifest, decode_manifest, encode_manifest
from tests.simulation import directed
from tests.simulation.checks import require, rows_of
from tests.simulation.directed import Scenario, bid, close, filed, lose_disk, publish, result, scenario
from tests.simulation.history import Planned
from tests.simulation.snapshots import Bucket
from tests.simulation.worker import HORIZON, SECOND, TOPICS, Habits
from tests.simulation.world import CALM, World
from tests.support.model import BidPlaced
from tests.support.swarm import START_US

SCENARIOS: Final[dict[str, Scenario]] = directed.SCENARIOS
"""All sequences: those of `directed`, and these."""
OF_SNAPSHOTS: Final = "a_lost_disk_takes_a_snapshot"
"""The first of these."""


def _world(*workers: str, habits: Habits = CALM) -> World:
    """One shard, whose snapshots are kept; the first worker has it."""
    made = World(workers or ("w0",), 1, habits, bucket=Bucket())
    for name in made.disks:
        made.start(name)
    made.settle()
    return made


def _bucket(there: World) -> Bucket:
    if there.bucket is None:
        raise TypeError("this world has no snapshots")
    return there.bucket


def _snapshots(there: World) -> list[SnapshotManifest]:
    objects = _bucket(there).objects
    found = [decode_manifest(content) for name, content in objects.items() if name.endswith(".json")]
    return [manifest for manifest in found if manifest.name in objects]


def _end(there: World) -> int:
    return there.broker.log.end(TOPICS.outcomes, 0)


def _kept(there: World) -> dict[str, bytes]:
    """Waits until a snapshot has all of the changelog; returns what the store holds then."""
    there.until(lambda: any(each.position == _end(there) for each in _snapshots(there)))
    there.settle()
    return dict(_bucket(there).objects)


def _only(there: World, objects: dict[str, bytes]) -> None:
    """The store has these objects alone, as if no later snapshot had been made."""
    _bucket(there).objects = dict(objects)


def _restored_from(there: World, objects: dict[str, bytes], taken: int) -> None:
    """The disk is lost, and of these snapshots so many are taken."""
    before = _bucket(there).taken
    there.crash("w0", lose_disk=True)
    _only(there, objects)
    there.start("w0")
    there.settle()
    found = _bucket(there).taken - before
    require(found == taken, "snapshots were taken, or were not", found, taken)


def _task(name: str, winner: str = "a") -> list[Planned]:
    return [bid(name, winner, 3, 4), close(name, winner, 5)]


def _forgotten_while_copied() -> tuple[World, int]:
    """A world whose owner has a copy from before an agent's marker on its way; and the marker's offset."""
    there = _world()
    publish(there, *_task("t"), *_task("u", "b"))
    there.settle()
    _bucket(there).objects.clear()
    publish(there, *_task("v"))
    _bucket(there).hold()
    there.until(lambda: there.disks["w0"].copies != {})
    there.forget("a", START_US + 30 * SECOND)
    marker = _end(there) - 1
    there.settle()
    _bucket(there).let_go()
    return there, marker


def _require_none_before(there: World, marker: int) -> None:
    old = [each for each in _snapshots(there) if each.position <= marker]
    require(not old, "a snapshot of a forgotten agent is left", old)


@scenario
def a_lost_disk_takes_a_snapshot() -> World:
    """It has the rows of then, and reads the rest of the changelog and the auctions that are open."""
    there = _world()
    publish(there, *_task("t"), bid("u", "a", 3, 4))
    there.settle()
    kept = _kept(there)
    publish(there, close("u", "a", 5), *_task("v", "b"), result("t", "a", 20))
    there.settle()
    _restored_from(there, kept, taken=1)
    return there


@scenario
def a_snapshot_is_made_of_a_snapshot() -> World:
    """Whoever took one publishes the next one, which is as good, and the store does not grow."""
    there = _world()
    for number in range(4):
        publish(there, *_task(f"t{number}"))
        there.settle()
        _restored_from(there, _kept(there), taken=1)
        require(len(_snapshots(there)) <= 2, "superseded snapshots are left", _snapshots(there))
    return there


@scenario
def the_same_topics_with_another_incarnation() -> World:
    """Topics made anew, and filled so that the last record of an old snapshot is where it was before."""
    there = _world()
    publish(there, *_task("t"))
    there.settle()
    publish(there, *_task("u"))
    there.settle()
    kept = _kept(there)
    before = there.broker.log.partitions[TOPICS.outcomes, 0].live
    there.reset_topics()
    there.start("w0")
    publish(there, *_task("v"))
    there.settle()
    publish(there, *_task("u"))
    there.settle()
    there.advance(3 * HORIZON)
    there.settle()
    now = there.broker.log.partitions[TOPICS.outcomes, 0]
    require((now.live[-1].offset, now.live[-1].key) == (before[-1].offset, before[-1].key), "another record")
    now.live[-1] = now.live[-1]._replace(timestamp=before[-1].timestamp)
    _restored_from(there, kept, taken=0)
    return there


@scenario
def topics_are_made_anew_and_a_snapshot_is_beyond_them() -> World:
    """All but the record of the topology: what a snapshot has read more is not written there again."""
    there = _world()
    publish(there, *_task("t"), *_task("u", "b"))
    there.settle()
    kept, incarnation = _kept(there), there.broker.incarnation
    there.reset_topics()
    there.broker.incarnation = incarnation
    publish(there, *_task("v"))
    _only(there, kept)
    there.start("w0")
    there.settle()
    require(_bucket(there).taken == 0, "a snapshot beyond the end was taken")
    return there


@scenario
def a_changelog_loses_its_end_and_grows_beyond_a_snapshot() -> World:
    """Its offsets stand for other records now: what the snapshot seems to have read is not in it."""
    there = _world()
    publish(there, bid("t", "a", 3, 4))
    for second in range(5, 12):
        publish(there, close("t", "a", second))
        there.settle()
    kept = _kept(there)
    there.lose_end(0, 0)
    there.settle()
    for number in range(8):
        publish(there, *_task(f"u{number}", "b"))
        there.settle()
    require(_end(there) >= max(each.position for each in _snapshots(there)), "the changelog is not as long")
    there.advance(3 * HORIZON)  # no auction is remembered, so nothing is sent again
    publish(there, Planned(BidPlaced("young", "z", 1, "", there.clock.micros)))
    there.settle()
    _restored_from(there, kept, taken=0)
    return there


@scenario
def an_owner_that_lost_the_shard_publishes() -> World:
    """A stalled worker finishes a snapshot after others went on: it is taken back, or does no harm."""
    there = _world("w0", "w1")
    owner = there.broker.group.owner(0)
    name = "w0" if owner is None else owner.name
    publish(there, *_task("t"))
    there.settle()
    _kept(there)
    publish(there, *_task("u"))
    there.until(lambda: there.disks[name].copies != {})
    there.processes[name].paused = True
    there.expire(name)
    publish(there, *_task("v"))
    there.settle()
    there.processes[name].paused = False
    there.processes[name].coordinate()
    there.settle()
    for each in sorted(there.processes):
        lose_disk(there, each)
    there.settle()
    return there


@scenario
def an_agent_is_forgotten_while_a_snapshot_is_made() -> World:
    """The copy is from before, and arrives when the owner has read the marker: it is taken back."""
    there, marker = _forgotten_while_copied()
    _kept(there)
    _require_none_before(there, marker)
    return there


@scenario
def a_snapshot_is_made_before_the_checkpoint_of_a_marker() -> World:
    """The owner has read the marker, its file has not: the copy has the agent, and is taken back."""
    there = _world()
    publish(there, *_task("t"), *_task("u", "b"))
    there.settle()
    _kept(there)
    there.habits = replace(CALM, checkpoint_seconds=3_600, snapshot_seconds=40)
    there.crash("w0")
    there.start("w0")
    there.settle()
    there.forget("a", START_US + 30 * SECOND)
    marker = _end(there) - 1
    there.until(lambda: "a" in there.processes["w0"].worker.ownership.shards[ShardId(0)].learn.forgotten)
    require(filed(there, "w0", TOPICS.outcomes) <= marker, "the marker is in the file already")
    _bucket(there).objects.clear()
    there.until(lambda: bool(_snapshots(there)))
    there.until(lambda: not _bucket(there).objects)
    seen: set[str] = set()
    until = there.clock.micros + 5 * SECOND

    def have_passed() -> bool:
        seen.update(_bucket(there).objects)
        return there.clock.micros > until

    there.until(have_passed)
    require(not seen, "the next copy does not wait for a checkpoint", seen)
    there.habits = CALM
    there.crash("w0")
    there.start("w0")
    there.settle()
    return there


@scenario
def a_worker_dies_before_it_takes_a_snapshot_back() -> World:
    """What it has put there has the agent, and is complete: the next owner deletes it."""
    there, marker = _forgotten_while_copied()
    there.until(lambda: bool(_snapshots(there)))
    there.crash("w0")
    require(_snapshots(there)[0].position <= marker, "the snapshot is not from before the marker")
    there.start("w0")
    _kept(there)
    _require_none_before(there, marker)
    return there


@scenario
def a_snapshot_comes_from_the_future() -> World:
    """Its maker's clock was a day ahead: the next one does not wait for that day, and deletes it."""
    there = _world()
    publish(there, *_task("t"))
    there.settle()
    _kept(there)
    (first, *_) = _snapshots(there)
    content = _bucket(there).objects[first.name]
    day_ms = first.created_ms + 86_400_000
    ahead = msgspec.structs.replace(first, name=new_name(ShardId(0), day_ms), created_ms=day_ms)
    beside = ahead.name.replace(".sqlite3", ".json")
    _only(there, {ahead.name: content, beside: encode_manifest(ahead)})
    publish(there, *_task("u"))
    _kept(there)
    require(ahead not in _snapshots(there), "a snapshot from the future is left")
    return there


@scenario
def a_snapshot_does_not_bring_a_forgotten_agent_back() -> World:
    """The marker is behind it in the changelog, also when all that it superseded is gone."""
    there = _world()
    publish(there, *_task("t"), *_task("u", "b"))
    there.settle()
    kept = _kept(there)
    there.tombstone_superseded("a", there.forget("a", START_US + 30 * SECOND))
    there.settle()
    there.compact(TOPICS.outcomes, 0, drop_tombstones=True)
    _restored_from(there, kept, taken=1)
    require({key[1] for key in rows_of(there.disks["w0"].databases[0])} == {"b"}, "the agent is back")
    return there


@scenario
def a_snapshot_does_not_bring_an_expired_outcome_back() -> World:
    """The cutoff is in the commit."""
    there = _world(habits=replace(CALM, retention=round((36_000 - 3) * SECOND)))
    publish(there, bid("t", "a", 3, 4), close("t", "a", 5), result("t", "a", 30))
    there.settle()
    kept = _kept(there)
    there.advance(10 * SECOND)
    publish(there, Planned(BidPlaced("young", "z", 1, "", there.clock.micros)))
    there.settle()
    _restored_from(there, kept, taken=1)
    return there


@scenario
def half_a_snapshot_is_none() -> World:
    """A worker dies between the file and its manifest, and the next one reads the changelog."""
    there = _world()
    publish(there, *_task("t"))
    there.until(lambda: bool(_bucket(there).of_shard(0)) and not _snapshots(there))
    there.crash("w0", lose_disk=True)
    there.start("w0")
    there.until(lambda: filed(there, "w0", TOPICS.outcomes) == _end(there))
    require(_bucket(there).taken == 0, "half a snapshot was taken")
    there.settle()
    return there
