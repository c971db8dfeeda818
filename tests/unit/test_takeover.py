"""Another group takes the topics over: what is recorded, waited for and copied, whenever it is killed."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from aiokafka import TopicPartition
from aiokafka.errors import UnknownMemberIdError

from learner_worker.contract.topics import Topics
from learner_worker.contract.topology import Origin, OwnTopics, Reshard, Topology, standing
from learner_worker.errors import BrokerError, ConfigurationError, SupersededError
from learner_worker.group import takeover, topology_guard
from learner_worker.group.takeover import complete, record_owner
from learner_worker.group.topology import LiveTopics, require_same
from learner_worker.group.topology_guard import TopologyGuard
from learner_worker.group.topology_view import Seen
from learner_worker.kafka.admin import Committed
from learner_worker.kafka.connection import Connection
from learner_worker.kafka.outage import Outage
from learner_worker.operations.reshard_plan import plan

NAMES = Topics().named()
OLD, NEW = "old", "new"
OWNED = Topology(
    generation=2, shards=2, cluster_id="c", incarnation="i", owner_group=OLD, topics=OwnTopics.of(NAMES)
)
LIVE = LiveTopics("c", NAMES, {**dict.fromkeys(NAMES.all, 2), NAMES.topology: 1})
EVENTS = {
    TopicPartition(NAMES.bid_placed, 0): Committed(7, "rewind=3"),
    TopicPartition(NAMES.outcomes, 1): Committed(9, "incarnation=i;rewind=9;cutoff=5,6"),
}
INHERITED = {
    TopicPartition(NAMES.bid_placed, 0): Committed(7, "incarnation=i;rewind=3"),
    TopicPartition(NAMES.outcomes, 1): Committed(9, "incarnation=i;rewind=9;cutoff=5,6"),
}
ANSWERED = {TopicPartition(NAMES.requests, 1): Committed(4, "")}
FOREIGN = {
    TopicPartition("somebody-elses", 0): Committed(1, ""),
    TopicPartition(NAMES.bid_placed, 1): Committed(8, "incarnation=of-the-original;rewind=8"),
}


class PlayedView:
    """The topics, their record and two groups, as a worker that takes over sees them."""

    def __init__(self, *records: Topology, live: LiveTopics = LIVE) -> None:
        self.records = list(records)
        self.commits: dict[str, Mapping[TopicPartition, Committed]] = {
            OLD: {**EVENTS, **FOREIGN},
            f"{OLD}.requests": ANSWERED,
        }
        self.cluster = self
        self.members = {OLD: [["member"], None, []]}
        self.refuses = False
        self.asked: list[str] = []
        self.live = live

    async def look(self) -> Seen:
        return Seen(self.live, standing(self.records))

    async def write(self, topology: Topology) -> Topology:
        self.records.append(topology)
        found = standing(self.records)
        assert found is not None
        return found

    async def stable_members(self, group_id: str) -> list[str] | None:
        self.asked.append(group_id)
        left = self.members[group_id]
        return left.pop(0) if len(left) > 1 else left[0]

    async def committed(self, group_id: str) -> Mapping[TopicPartition, Committed]:
        return self.commits.get(group_id, {})

    async def start_of(self, place: TopicPartition) -> int:
        return 100 + int(place.partition)

    async def commit(self, group_id: str, offsets: Mapping[TopicPartition, Committed]) -> None:
        if self.refuses:
            raise UnknownMemberIdError
        assert self.members[OLD] == [[]], "the old group still has members"
        self.commits[group_id] = offsets

    @property
    def stands(self) -> Topology:
        found = standing(self.records)
        assert found is not None
        return found


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(takeover, "_LOOK_SECONDS", 0.0)


class PlayedAccess:
    """What the command `reshard` sees of the topics."""

    def __init__(self, view: PlayedView) -> None:
        self.view = view

    async def topology(self) -> Topology:
        return self.view.stands

    async def require_rights(self, *_: object) -> None:
        """All are there."""


async def taken_over(view: Any, group_id: str = NEW) -> Topology:
    await record_owner(view, group_id)
    return await complete(view, view.stands, group_id)


async def test_the_new_owner_is_recorded_first_and_begins_with_the_old_ones_commits() -> None:
    """Offsets, rewind metadata and requests, once the old group is empty; others' topics are left out.

    So is what a mirror has copied, and what is inherited names the topics.
    """
    view = PlayedView(OWNED)
    done = await taken_over(view)
    steps = [(one.generation, one.owner_group, one.taken_from) for one in view.records[1:]]
    assert steps == [(3, NEW, Origin(OLD, "c")), (4, NEW, None)]
    assert done == view.records[-1]
    assert (done.incarnation, done.shards) == ("i", 2)
    assert view.commits[NEW] == INHERITED
    assert view.commits[f"{NEW}.requests"] == ANSWERED
    assert view.asked == [OLD, OLD, OLD]


@pytest.mark.parametrize("killed_after", ["recorded", "half of the commits", "all commits"])
async def test_a_worker_killed_while_it_takes_over_is_followed_by_one_that_completes_it(
    killed_after: str,
) -> None:
    """The next one needs no flag: the record says what is still to do, and copying again copies the same."""
    view: Any = PlayedView(OWNED)
    await record_owner(view, NEW)
    if killed_after != "recorded":
        view.commits[NEW] = INHERITED
    if killed_after == "all commits":
        view.commits[f"{NEW}.requests"] = ANSWERED
    done = await complete(view, view.stands, NEW)
    assert (done.generation, done.taken_from) == (4, None)
    assert (view.commits[NEW], view.commits[f"{NEW}.requests"]) == (INHERITED, ANSWERED)


async def test_of_two_groups_that_take_over_at_once_the_first_has_it() -> None:
    """Both write generation 3: the one that is second in the topic obeys, and the origin is kept."""
    view: Any = PlayedView(OWNED)
    await record_owner(view, NEW)
    loser = msgspec.structs.replace(view.records[1], owner_group="other")
    view.records.append(loser)
    assert view.stands.owner_group == NEW


async def test_a_third_group_inherits_from_the_last_that_worked() -> None:
    """The second never completed its take-over, so it has no commits to inherit."""
    view: Any = PlayedView(OWNED)
    await record_owner(view, NEW)
    await record_owner(view, "third")
    assert (view.stands.owner_group, view.stands.taken_from) == ("third", Origin(OLD, "c"))


async def test_a_group_that_lost_the_topics_cannot_take_them_back() -> None:
    """Both always start with the flag: the second keeps the topics, and the first is told so."""
    view: Any = PlayedView(OWNED)
    await taken_over(view)
    before = list(view.records)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"'new' has taken .* from group 'old'.* never owned"):
            await record_owner(view, OLD)
        await record_owner(view, NEW)
    assert view.records == before
    await record_owner(view, "third")
    assert view.stands.former_owners == [NEW, OLD]


async def test_on_a_copy_of_the_cluster_a_group_that_lost_the_topics_may_begin() -> None:
    """Whoever is first there has them; the others are refused as ever."""
    lost = msgspec.structs.replace(OWNED, owner_group=NEW, former_owners=[OLD])
    view: Any = PlayedView(lost, live=replace(LIVE, cluster_id="mirror"))
    await record_owner(view, OLD)
    assert (view.stands.owner_group, view.stands.former_owners) == (OLD, [NEW])
    with pytest.raises(ConfigurationError, match="cannot take them back"):
        await record_owner(view, NEW)


async def test_a_copy_made_during_a_reshard_is_not_taken_over() -> None:
    """The reshard cannot end there: nothing is recorded, nobody waits for it, and none goes on with it."""
    half = msgspec.structs.replace(OWNED, reshard=Reshard(4, "fenced", 1))
    view: Any = PlayedView(half, live=replace(LIVE, cluster_id="mirror"))
    with pytest.raises(ConfigurationError, match="'c' was being resharded when this copy"):
        await record_owner(view, OLD)
    with pytest.raises(ConfigurationError, match="was written on cluster 'c', this is cluster 'mirror'"):
        require_same(half, view.live, OLD)
    access: Any = PlayedAccess(view)
    with pytest.raises(ConfigurationError, match="was written on cluster 'c'"):
        await plan(access, None, None)
    assert view.records == [half]
    assert (await topology_guard.until_resharded(view)).topology == half


@pytest.mark.parametrize("owner", [NEW, None])
async def test_an_owner_takes_nothing_over(owner: str | None) -> None:
    """The flag is harmless for the owner, and where there is none yet."""
    view: Any = PlayedView(msgspec.structs.replace(OWNED, owner_group=owner))
    await record_owner(view, NEW)
    assert len(view.records) == 1
    unrecorded: Any = PlayedView()
    await record_owner(unrecorded, NEW)
    assert unrecorded.records == []


async def test_grown_topics_are_not_taken_over() -> None:
    """Only cluster and owner may change: nothing is recorded."""
    view: Any = PlayedView(OWNED, live=replace(LIVE, counts={**LIVE.counts, NAMES.bid_placed: 4}))
    with pytest.raises(ConfigurationError, match="records 2 partitions, but bid-placed has 4"):
        await record_owner(view, NEW)
    assert view.records == [OWNED]


async def test_another_cluster_begins_at_the_start_of_every_topic() -> None:
    """A mirror's offsets are its own; what the changelog's commits say of expired outcomes is kept."""
    view = PlayedView(OWNED, live=replace(LIVE, cluster_id="mirror"))
    view.members[OLD] = [[]]
    done = await taken_over(view, OLD)
    assert (done.cluster_id, done.owner_group, done.generation) == ("mirror", OLD, 4)
    assert done.incarnation != "i"
    commits, named = view.commits[OLD], f"incarnation={done.incarnation};"
    assert commits[TopicPartition(NAMES.bid_placed, 1)] == Committed(101, f"{named}rewind=101")
    assert commits[TopicPartition(NAMES.outcomes, 1)] == Committed(101, f"{named}rewind=9;cutoff=5,6")
    assert len(commits) == 2 * len(NAMES.subscribed)
    assert view.commits[f"{OLD}.requests"].keys() == {TopicPartition(NAMES.requests, n) for n in (0, 1)}
    assert view.asked == []


async def test_an_old_group_that_never_empties_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its workers are too old to notice, or dead with a long session: what to do is said."""
    monkeypatch.setattr(takeover, "EMPTY_SECONDS", 0.0)
    view: Any = PlayedView(OWNED)
    view.members[OLD] = [["member"]]
    with pytest.raises(ConfigurationError, match=r"'old' still has members.*leave --group-id old"):
        await taken_over(view)
    assert view.stands.taken_from == Origin(OLD, "c")


async def test_commits_that_kafka_refuses_are_somebody_elses_success_or_an_error() -> None:
    """A group with members refuses them: another worker has completed the take-over, or it is in use."""
    view: Any = PlayedView(OWNED)
    view.refuses = True
    with pytest.raises(BrokerError, match="could not be copied to new"):
        await taken_over(view)
    recorded = view.stands
    view.records.append(msgspec.structs.replace(recorded, generation=4, taken_from=None))
    assert await complete(view, recorded, NEW) == view.records[-1]


# --- the old group's workers ---------------------------------------------------------------------------


class PlayedGuard(TopologyGuard):
    """A guard of the old group whose record a test changes; `away` plays an outage."""

    def __init__(self) -> None:
        super().__init__(Connection("nowhere:1"), NAMES, OLD, Outage())
        self.record = OWNED
        self.away = False
        self.incarnation = "i"

    async def _seen(self) -> tuple[LiveTopics, Topology | None]:
        if self.away:
            raise BrokerError("away")
        return LIVE, self.record


async def test_a_worker_that_looks_in_time_is_told_to_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stops as by SIGTERM; what it says at its end names the new owner."""
    monkeypatch.setattr(topology_guard, "_EVERY_SECONDS", 0.0)
    guard, stopping = PlayedGuard(), asyncio.Event()
    guard.record = msgspec.structs.replace(OWNED, owner_group=NEW, generation=3)
    async with asyncio.timeout(60):
        await guard.watch(stopping)
    assert stopping.is_set()
    assert "group new has taken these topics over" in str(guard.superseded)


async def test_a_worker_that_stalled_writes_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it does next, a checkpoint or the watch: it looks first, and ends with the error."""
    monkeypatch.setattr(topology_guard, "_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(topology_guard, "_OLD_SECONDS", -1.0)
    guard = PlayedGuard()
    guard.record = msgspec.structs.replace(OWNED, owner_group=NEW, generation=3)
    with pytest.raises(SupersededError):
        await guard.confirm()
    with pytest.raises(SupersededError):
        await guard.watch(asyncio.Event())


async def test_a_member_in_doubt_looks_however_recent_the_last_look_is() -> None:
    """A stall of a session is shorter than a look is recent: the topics may have been taken over in it."""
    guard = PlayedGuard()
    guard.record = msgspec.structs.replace(OWNED, owner_group=NEW, generation=3)
    assert await guard.confirm()
    with pytest.raises(SupersededError):
        await guard.confirm_anew()


async def test_without_an_answer_a_stalled_worker_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kafka is away: it is not known who owns the topics, and nothing could be written anyway."""
    guard = PlayedGuard()
    guard.away = True
    assert await guard.confirm()  # it has looked just now
    monkeypatch.setattr(topology_guard, "_OLD_SECONDS", -1.0)
    assert not await guard.confirm()
    guard.away = False
    assert await guard.confirm()
