"""Minimal sequences that broke earlier drafts; random seeds alone miss several."""

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import replace

from learner_worker.contract.topics import HOP_HEADER
from tests.simulation.checks import (
    agents_of,
    cutoff_of,
    join_facts,
    living,
    require,
    rows_of,
    strategies_of,
    sums_of,
)
from tests.simulation.history import Planned
from tests.simulation.log import Sent
from tests.simulation.worker import HORIZON, SECOND, TOPICS, Habits, Process, instruments
from tests.simulation.world import CALM, World, no_latency
from tests.support.model import AuctionClosed, BidPlaced, TaskFinished
from tests.support.swarm import START_US

ONE_BY_ONE = Habits(
    latency=no_latency,
    fetch_limit=lambda: 1,
    batch_limit=lambda: 100,
    refuses=lambda: False,
    fetch_seconds=0.1,
    checkpoint_seconds=0.01,
)
"""Every poll brings one record of each partition, and a checkpoint follows."""
Scenario = Callable[[], World]
SCENARIOS: dict[str, Scenario] = {}


def scenario(run: Scenario) -> Scenario:
    """Lists a scenario by its name."""
    SCENARIOS[run.__name__] = run
    return run


def bid(task: str, agent: str, sats: int, at: float, text: str = "parse invoices") -> Planned:
    return Planned(BidPlaced(task, agent, sats, text, START_US + round(at * SECOND)))


def close(task: str, winner: str | None, at: float, sats: int | None = None) -> Planned:
    return Planned(AuctionClosed(task, winner, sats, START_US + round(at * SECOND)))


def result(task: str, agent: str, at: float, *, succeeded: bool = True) -> Planned:
    return Planned(TaskFinished(task, agent, succeeded, START_US + round(at * SECOND)))


def world(*workers: str, habits: Habits = CALM) -> World:
    """One shard; the first worker has it, the others wait for it."""
    made = World(workers or ("w0",), 1, habits)
    for name in made.disks:
        made.start(name)
    made.until(lambda: made.broker.group.rebalance is None and bool(made.broker.group.assignment))
    made.settle()
    return made


def world_with_standby(habits: Habits = CALM) -> World:
    """One shard; w0 owns it and w1 follows it."""
    made = World(("w0", "w1"), 1, dataclasses.replace(habits, standby_replicas=1), None)
    for name in made.disks:
        made.start(name)
    made.settle()
    require(made.processes["w1"].worker.standbys.positions.keys() == {0}, "w1 does not follow the shard")
    return made


def world_of_two_shards(habits: Habits = CALM) -> World:
    """w0 owns shard 0, w1 owns shard 1."""
    made = World(("w0", "w1"), 2, habits)
    for name in made.disks:
        made.start(name)
    made.settle()
    return made


def named(there: World, shard: int, prefix: str) -> str:
    """An id of a shard."""
    return next(name for n in range(99) if there.partition_of(name := f"{prefix}{n}") == shard)


def publish(there: World, *events: Planned) -> None:
    for event in events:
        there.publish(event)


def lose_disk(there: World, name: str) -> None:
    """kill -9, an empty disk, a new start."""
    there.crash(name, lose_disk=True)
    there.start(name)


def committed(there: World, topic: str) -> int:
    found = there.broker.log.committed.get((topic, 0))
    return 0 if found is None else found.offset


def filed(there: World, name: str, topic: str) -> int:
    return there.filed(name, topic, 0)


def lost_records() -> float:
    """How many records workers said that Kafka deleted before they were read."""
    return sum(
        sample.value
        for metric in instruments().shards.records_lost.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    )


def position(process: Process, topic: str) -> int:
    shards = process.shards
    return (
        shards[next(iter(shards))].positions[next(t for t in TOPICS.subscribed if t == topic)]
        if shards
        else 0
    )


# --- forgetting ------------------------------------------------------------------------------------------


@scenario
def an_older_close_after_an_outage() -> World:
    """Closed at 12 for b; the older close (5, c) is read long after newer bids: not forgotten too early."""
    there = world(habits=ONE_BY_ONE)
    publish(there, close("t", "b", 12))
    there.settle()
    there.crash("w0")
    there.advance(HORIZON // 2)
    publish(there, *(close(f"filler-{number}", None, 5) for number in range(6)), close("t", "c", 5))
    there.advance(2 * HORIZON)
    publish(there, bid("new", "a", 1, 20))
    there.start("w0")
    there.settle()
    return there


@scenario
def a_close_after_an_outage_longer_than_the_horizon() -> World:
    """A bid is read, then nothing for three horizons; its close was published in time and still counts."""
    there = world(habits=ONE_BY_ONE)
    publish(there, bid("t", "a", 1, 4))
    there.settle()
    there.crash("w0")
    there.advance(HORIZON // 2)
    publish(there, *(close(f"filler-{number}", None, 5) for number in range(6)), close("t", "b", 5))
    there.advance(3 * HORIZON)
    there.start("w0")
    there.settle()
    return there


@scenario
def results_before_and_after_the_auction_is_forgotten() -> World:
    """A result comes before its auction, a later one when the auction is long forgotten."""
    there = world()
    publish(there, result("t", "a", 20, succeeded=False))
    there.settle()
    publish(there, bid("t", "a", 1, 4), close("t", "a", 5))
    there.settle()
    there.advance(2 * HORIZON)
    publish(there, bid("u", "b", 1, 4))
    there.settle()
    publish(there, result("t", "a", 22))
    there.settle()
    return there


# --- closes and bids in any order ------------------------------------------------------------------------


@scenario
def a_bid_above_the_cutoff_waits_for_a_correction() -> World:
    """Bid at 9, bid at 11, close at 9: the first counts, until a corrected close admits the second."""
    there = world()
    publish(there, bid("t", "a", 5, 9), bid("t", "a", 3, 11), close("t", "b", 9))
    there.settle()
    there.check()
    publish(there, close("t", "b", 15))
    there.settle()
    return there


@scenario
def a_winner_without_a_bid_is_replaced() -> World:
    """Close (0, a), then close (7, b), and neither bid: a has no outcome any more."""
    there = world()
    publish(there, close("t", "a", 0))
    there.settle()
    publish(there, close("t", "b", 7))
    there.settle()
    return there


@scenario
def equal_times_and_a_duplicate() -> World:
    """Two bids of equal time with a duplicate of the first: no order matters."""
    first, second = bid("t", "a", 5, 9, "parse invoices"), bid("t", "a", 5, 9, "label images")
    there = world()
    publish(there, first, second, first, bid("u", "a", 5, 9, "label images"))
    there.settle()
    publish(there, close("t", "a", 10), close("u", "a", 10), bid("u", "a", 5, 9), result("t", "a", 20))
    publish(there, bid("u", "a", 5, 9, "label images"), result("u", "a", 20))
    there.settle()
    return there


@scenario
def a_superseded_close_was_first_in_an_earlier_life() -> World:
    """Moved close (0, a) is settled, the disk lost; then close (7, b) is read first, and a learns of it."""
    there = world(habits=ONE_BY_ONE)
    moved = Sent(None, close("t", "a", 0).body(), ((HOP_HEADER, b"auction-closed"),))
    there.broker.log.append(TOPICS.rerouted, 0, moved, there.clock.milliseconds)
    there.published.append(close("t", "a", 0).event)
    there.until(lambda: there.broker.log.end(TOPICS.outcomes, 0) == 1)
    require(committed(there, TOPICS.rerouted) == 0, "the moved close is committed already")
    there.crash("w0", lose_disk=True)
    publish(there, close("t", "b", 7))
    there.start("w0")
    there.settle()
    return there


# --- lost disks ------------------------------------------------------------------------------------------


@scenario
def re_reading_sees_only_the_superseded_close() -> World:
    """After a lost disk, reading starts at another task's event and meets only the superseded close of t."""
    there = world()
    publish(there, close("t", "b", 7))
    there.settle()
    there.advance(HORIZON * 9 // 10)
    publish(there, close("u", "c", 3), close("t", "a", 0))
    there.settle()
    there.advance(HORIZON // 2)
    publish(there, bid("u", "c", 1, 3))
    there.settle()
    lose_disk(there, "w0")
    there.settle()
    return there


@scenario
def an_open_auction_survives_a_lost_disk() -> World:
    """A bid is read and committed, the disk lost, then the close comes: the rewind offset brings it back."""
    there = world()
    publish(there, bid("t", "a", 1, 4))
    there.settle()
    lose_disk(there, "w0")
    publish(there, close("t", "b", 5))
    there.settle()
    return there


@scenario
def a_new_bid_settled_before_its_old_close_is_re_read() -> World:
    """While the sources are read again, a new bid meets the superseded close before the standing one."""
    there = world()
    publish(there, close("t", "a", 0), close("t", "b", 7), bid("t", "c", 2, 0.5))
    there.settle()
    there.habits = ONE_BY_ONE
    lose_disk(there, "w0")
    publish(there, bid("t", "d", 1, 0.2), bid("t", "d", 1, 5))
    there.settle()
    return there


@scenario
def result_compaction_then_outcome() -> World:
    """A result, then compaction, then the outcome, compaction and a lost disk: the result still counts."""
    there = world()
    publish(there, result("t", "a", 20))
    there.settle()
    there.compact(TOPICS.outcomes, 0)
    publish(there, bid("t", "a", 1, 4), close("t", "a", 5))
    there.settle()
    there.compact(TOPICS.outcomes, 0)
    lose_disk(there, "w0")
    there.settle()
    return there


# --- zombies ---------------------------------------------------------------------------------------------


def _zombies_poorer_record() -> World:
    there = world("w0", "w1")
    there.held.add("w0")
    publish(there, close("t", "a", 5))
    there.until(lambda: bool(there.broker.pending()))
    there.processes["w0"].paused = True
    publish(there, bid("t", "a", 3, 4))
    there.expire("w0")
    there.until(lambda: filed(there, "w1", TOPICS.outcomes) > 0)
    there.held.clear()
    there.deliver_all()
    return there


@scenario
def a_zombie_sends_less_than_the_owner() -> World:
    """A zombie's (close, no bid) lands after the owner's (close, bid): the bid stays."""
    there = _zombies_poorer_record()
    there.settle()
    return there


@scenario
def a_zombies_poorer_record_last_then_compaction() -> World:
    """The zombie's poorer record is last, compaction runs, and the disk is lost before it was read."""
    there = _zombies_poorer_record()
    there.compact(TOPICS.outcomes, 0)
    lose_disk(there, "w1")
    there.settle()
    return there


# --- where to resume -------------------------------------------------------------------------------------


@scenario
def a_file_ahead_in_bids_and_behind_in_closes() -> World:
    """w0's file is ahead of the commit for bids, w1's commit ahead of it for closes: never mix the two."""
    there = World(("w0", "w1"), 1, ONE_BY_ONE)
    there.start("w0")
    publish(there, bid("t", "a", 1, 4), bid("t", "b", 2, 4))
    bids, closes = TOPICS.bid_placed, TOPICS.auction_closed
    there.until(lambda: filed(there, "w0", bids) == 2)
    there.broker.log.committed.clear()
    there.crash("w0")
    there.expire("w0")
    publish(there, close("t", "c", 5))
    there.start("w1")
    there.until(lambda: (committed(there, bids), committed(there, closes)) == (1, 1))
    there.crash("w1")
    there.expire("w1")
    there.start("w0")
    there.settle()
    return there


@scenario
def a_crash_right_after_a_rewind() -> World:
    """A rewound shard crashes before its first checkpoint; others' commits go below its file's positions."""
    there = world("w0", "w1")
    publish(there, bid("t", "a", 1, 4))
    there.settle()
    publish(there, bid("u", "b", 1, 4))
    there.settle()
    there.expire("w0")
    there.processes["w0"].paused = True
    publish(there, bid("v", "c", 1, 4))
    there.until(lambda: committed(there, TOPICS.bid_placed) == 3)
    there.crash("w1", lose_disk=True)
    there.expire("w1")
    there.crash("w0")
    there.start("w0")
    there.until(lambda: not there.disks["w0"].databases[0].execute("SELECT * FROM auctions").fetchall())
    there.crash("w0")
    there.expire("w0")
    there.habits = ONE_BY_ONE
    there.start("w1")
    there.until(lambda: committed(there, TOPICS.bid_placed) == 2)
    there.crash("w1", lose_disk=True)
    there.expire("w1")
    there.start("w0")
    publish(there, *(close(task, None, 5) for task in "tuv"))
    there.settle()
    return there


@scenario
def state_and_positions_are_of_one_moment() -> World:
    """While a checkpoint waits for Kafka, a close is settled whose facts never arrive: it is read again."""
    there = world()
    there.held.add("w0")
    publish(there, bid("t", "a", 1, 4), result("u", "b", 20))
    process = there.processes["w0"]
    there.until(lambda: position(process, TOPICS.task_finished) == 1 == position(process, TOPICS.bid_placed))
    there.until(process.worker.ownership.checkpointing.locked)
    publish(there, close("t", "b", 5))
    there.until(lambda: position(process, TOPICS.auction_closed) == 1)
    (key,) = there.broker.pending()
    there.until(lambda: len(there.broker.queues[key]) == 2)
    there.broker.deliver(key)
    there.until(lambda: filed(there, "w0", TOPICS.task_finished) == 1)
    there.crash("w0")
    there.held.clear()
    there.start("w0")
    there.settle()
    return there


# --- the metrics topic -----------------------------------------------------------------------------------


@scenario
def rows_written_before_the_metrics_topic_was_read() -> World:
    """Restored rows reach the file, the worker dies before it may publish metrics: the next run does."""
    there = world("w0", habits=ONE_BY_ONE)
    publish(there, bid("t", "a", 1, 4), close("t", "a", 5))
    there.until(lambda: there.broker.log.end(TOPICS.outcomes, 0) > 0)
    there.crash("w0")
    there.start("w0")
    there.until(lambda: filed(there, "w0", TOPICS.outcomes) == there.broker.log.end(TOPICS.outcomes, 0))
    if there.broker.log.end(TOPICS.metrics, 0) == 0:
        there.crash("w0")
        there.start("w0")
    there.settle()
    return there


@scenario
def an_older_owners_metrics_after_compaction_hid_a_change() -> World:
    """Compaction hides that a result flipped and flipped back; a zombie's record of between comes last."""
    there = world("w0", "w1")
    publish(there, bid("t", "a", 1, 4), close("t", "a", 5), result("t", "a", 20))
    there.settle()
    there.advance(2 * HORIZON)
    there.settle()
    there.until(lambda: there.broker.log.committed[TOPICS.bid_placed, 0].metadata.endswith("rewind=1"))
    there.held.add("w0")
    flipped = result("t", "a", 21, succeeded=False)
    publish(there, flipped)
    there.until(lambda: bool(there.broker.pending()))
    there.held.clear()
    there.deliver_all()
    there.held.add("w0")
    there.until(lambda: any(key[1] == TOPICS.metrics for key in there.broker.pending()))
    there.processes["w0"].paused = True
    publish(there, result("t", "a", 22), flipped)
    there.expire("w0")
    there.until(lambda: committed(there, TOPICS.task_finished) == 4)
    there.compact(TOPICS.outcomes, 0)
    lose_disk(there, "w1")
    there.until(there.is_at_rest)
    there.held.clear()
    there.deliver_all()
    there.settle()
    return there


@scenario
def a_suspended_worker() -> World:
    """A laptop sleeps for two horizons between a fetch's answer and its receipt; a close came in time."""
    there = world(habits=ONE_BY_ONE)
    publish(there, bid("t", "a", 1, 4))
    there.settle()
    there.advance(HORIZON // 2)
    there.until(lambda: there.processes["w0"].consumer.awaiting)
    publish(there, close("t", "b", 5))
    there.advance(2 * HORIZON)
    there.settle()
    return there


@scenario
def a_stalled_owners_metrics_read_before_a_crash() -> World:
    """Stale metrics records are read, and the worker dies before it has read that topic to its end."""
    there = world("w0", "w1")
    there.held.add("w0")
    publish(there, *(bid("t", agent, 1, 4) for agent in "ab"), close("t", "a", 5))
    there.until(lambda: bool(there.broker.pending()))
    there.held.clear()
    there.deliver_all()
    there.held.add("w0")
    there.until(
        lambda: any(
            sum(len(flight.records) for flight in queue) == 2
            for key, queue in there.broker.queues.items()
            if key[1] == TOPICS.metrics
        )
    )
    there.processes["w0"].paused = True
    there.expire("w0")
    publish(there, *(bid("u", agent, 1, 4) for agent in "ab"), close("u", "b", 5))
    there.until(there.is_at_rest)
    there.crash("w1")
    there.held.clear()
    before = there.broker.log.end(TOPICS.metrics, 0)
    there.deliver_all()
    end = there.broker.log.end(TOPICS.metrics, 0)
    require(end >= before + 2, "the stalled owner sent no two records")
    there.habits = dataclasses.replace(ONE_BY_ONE, fetch_seconds=1.0)
    process = there.start("w1")
    there.until(lambda: position(process, TOPICS.metrics) == end - 1)
    checkpoints = process.worker.checkpointer.completed
    there.until(lambda: process.worker.checkpointer.completed > checkpoints + 1)
    require(position(process, TOPICS.metrics) == end - 1, "the topic was read to its end")
    there.crash("w1")
    there.start("w1")
    there.settle()
    return there


# --- wrong partitions ------------------------------------------------------------------------------------


@scenario
def an_event_on_the_wrong_partition_of_a_lagging_shard() -> World:
    """w0 is away for two horizons, and a bid for w1's task lies unread on its partition: it still counts."""
    there = world_of_two_shards()
    task, agent = named(there, 1, "t"), named(there, 1, "a")
    there.crash("w0")
    publish(there, close(task, None, 5))
    there.publish(bid(task, agent, 1, 4), partition=0)
    for _ in range(3):
        _pass(there, HORIZON)
    there.start("w0")
    there.settle()
    return there


@scenario
def a_backlog_read_at_two_speeds() -> World:
    """After a long outage w1 has caught up long before w0 comes to the events that it has to move."""
    there = world_of_two_shards()
    task, agent = named(there, 1, "t"), named(there, 1, "a")
    there.crash("w0")
    there.crash("w1")
    publish(there, bid(task, agent, 1, 4))
    filler = named(there, 0, "f")
    publish(there, *(bid(filler, "b", 1, 4) for _ in range(8)))
    there.publish(close(task, agent, 5), partition=0)
    there.advance(3 * HORIZON)
    there.start("w1")
    _pass(there, 0)
    there.start("w0")
    there.settle()
    return there


@scenario
def a_moved_event_behind_an_answer_on_its_way() -> World:
    """All have read everything, but w1's last answer about moved events is older than the one it awaits."""
    there = world_of_two_shards()
    task, agent = named(there, 1, "t"), named(there, 1, "a")
    there.crash("w1")
    there.crash("w0")
    publish(there, bid(task, agent, 1, 4))
    there.publish(close(task, agent, 5), partition=0)
    there.advance(3 * HORIZON)
    there.habits = dataclasses.replace(CALM, fetch_seconds=20.0, frontier_seconds=0.5)
    slow = there.start("w1")
    for _ in range(4):
        there.until(lambda: slow.consumer.awaiting)
        there.until(lambda: not slow.consumer.awaiting)
    there.until(lambda: slow.consumer.awaiting)
    there.habits = CALM
    there.start("w0")
    there.settle()
    return there


@scenario
def auctions_are_forgotten_nevertheless() -> World:
    """When everything everywhere is read, the horizon forgets: memory is bounded."""
    there = world_of_two_shards()
    for shard in (0, 1):
        task, agent = named(there, shard, "t"), named(there, shard, "a")
        there.publish(bid(task, agent, 1, 4), partition=1 - shard)
        there.publish(close(task, agent, 5))
    there.settle()
    there.advance(2 * HORIZON)
    _pass(there, 0)
    _pass(there, 0)
    for process in there.processes.values():
        for state in process.shards.values():
            require(state.events.settle.remembered == 0, "an auction is remembered after its horizon")
    there.settle()
    return there


def _pass(there: World, micros: int) -> None:
    """Lets time pass, and everybody act in it."""
    there.advance(micros)
    for _ in range(60):
        there.turn()


# --- standbys --------------------------------------------------------------------------------------------


@scenario
def a_standby_is_promoted_and_demoted_again() -> World:
    """w0 is lost with its disk: w1 goes on from its own file; w0 comes back and follows."""
    there = world_with_standby()
    publish(there, *(bid("t", agent, 1, 4) for agent in "abc"), close("t", "a", 5), result("t", "a", 20))
    there.settle()
    end = there.broker.log.end(TOPICS.outcomes, 0)
    require(filed(there, "w1", TOPICS.outcomes) == end, "the standby is behind")
    publish(there, bid("u", "a", 1, 4))
    there.settle()
    there.crash("w0", lose_disk=True)
    there.expire("w0")
    publish(there, close("u", "b", 5))
    there.start("w0")
    there.settle()
    require(there.broker.group.owner(0) is there.processes["w1"], "the shard moved away from its state")
    require(there.processes["w0"].worker.standbys.positions.keys() == {0}, "w0 does not follow the shard")
    return there


@scenario
def a_standbys_checkpoint_is_cut_short() -> World:
    """The worker is built anew in the middle of a standby's transaction: its rows are read once more."""
    there = world_with_standby()
    publish(there, *(bid("t", agent, 1, 4) for agent in "abc"), close("t", "a", 5))
    there.until(lambda: there.disks["w1"].writing(0, "INSERT INTO outcomes"))
    there.processes["w1"].rebuild()
    there.settle()
    return there


@scenario
def kafka_is_away_when_the_first_standby_comes() -> World:
    """Its consumer cannot be started at first: the worker waits, it does not end."""
    away = True
    there = World(("w0", "w1"), 1, dataclasses.replace(CALM, standby_replicas=1, refuses=lambda: away), None)
    for name in there.disks:
        there.start(name)
    for _ in range(20):
        there.turn()
    away = False
    publish(there, bid("t", "a", 1, 4), close("t", "a", 5))
    there.settle()
    return there


@scenario
def a_placement_comes_while_a_shard_is_released() -> World:
    """A standby about to be promoted is demoted in the same moment: it follows on."""
    there = World(("w0", "w1"), 2, dataclasses.replace(CALM, standby_replicas=1, idle_seconds=20.0), None)
    for name in there.disks:
        there.start(name)
    agent = named(there, 0, "a")  # w0 knows most of shard 0, so it will get that one back
    publish(there, bid("t", agent, 1, 4), close("t", agent, 5))
    there.settle()
    there.processes["w0"].paused = True
    (released,) = there.broker.group.standbys("w1")
    there.expire("w0")
    there.until(lambda: released in there.processes["w1"].worker.ownership.in_use)
    there.processes["w0"].paused = False
    there.processes["w0"].coordinate()
    there.settle()
    return there


@scenario
def a_stalled_owner_claims_its_shards() -> World:
    """w0 stalls, w1 and w2 are given its shards; w0 wakes up, and they keep their share of what they own."""
    there = World(("w0", "w1", "w2"), 4, CALM, None)
    there.start("w0")
    there.settle()
    there.processes["w0"].paused = True
    there.expire("w0")
    there.start("w1")
    there.start("w2")
    there.settle()
    there.processes["w0"].paused = False
    there.processes["w0"].coordinate()
    there.settle()
    return there


# --- logs that lose records ------------------------------------------------------------------------------


@scenario
def a_changelog_loses_its_end() -> World:
    """An unclean leader knows nothing of the last facts: the owner, who has read them, writes them again."""
    there = world()
    close = AuctionClosed("t", "a", None, START_US + 5 * SECOND, "label images")
    publish(there, Planned(close))
    there.settle()
    publish(there, bid("t", "a", 1, 4))
    there.settle()
    there.lose_end(0, 0)
    there.settle()
    publish(there, result("t", "a", 20))
    there.settle()
    return there


@scenario
def a_changelog_loses_what_only_memory_has() -> World:
    """The owner has read the facts and not yet written its file, their sender's positions are past them."""
    there = World(("w0", "w1"), 2, dataclasses.replace(CALM, checkpoint_seconds=30.0))
    there.start("w0")
    there.habits = CALM
    there.start("w1")
    task, agent = named(there, 1, "t"), named(there, 0, "a")
    there.until(lambda: all(there.broker.group.owner(shard) for shard in (0, 1)))
    _pass(there, 0)
    there.publish(bid(task, agent, 1, 4))
    there.publish(close(task, agent, 5))
    there.until(lambda: position(there.processes["w0"], TOPICS.outcomes) > 0)
    there.until(lambda: there.filed("w1", TOPICS.auction_closed, 1) == 1)
    require(there.filed("w0", TOPICS.outcomes, 0) == 0, "the file has the facts already")
    there.lose_end(0, 0)
    there.settle()
    return there


@scenario
def only_a_standby_has_what_the_changelog_lost() -> World:
    """The owner dies with its disk and the changelog loses its end; the standby notices, and is promoted."""
    there = world_with_standby()
    publish(there, bid("t", "a", 1, 4), close("t", "a", 5), result("t", "a", 20))
    there.settle()
    there.crash("w0", lose_disk=True)
    there.lose_end(0, 1)
    there.until(lambda: there.processes["w1"].worker.standbys.positions == {0: 1})
    _pass(there, 0)
    there.crash("w1")
    there.start("w1")
    _pass(there, 0)
    there.expire("w0")
    there.settle()
    lose_disk(there, "w1")
    there.settle()
    return there


@scenario
def retention_overtakes_a_worker_that_is_down() -> World:
    """Unread bids are deleted: everything else counts, and the loss is said."""
    there = world()
    publish(there, bid("t", "a", 1, 4))
    there.settle()
    there.crash("w0")
    publish(there, bid("u", "b", 1, 4), bid("v", "c", 1, 4), *(close(task, None, 5) for task in "tuv"))
    before = lost_records()
    there.lose_beginning(TOPICS.bid_placed, 0, 2)
    there.lost_tasks = {"u"}  # the file remembers t
    there.start("w0")
    there.settle()
    require(lost_records() == before + 1, "the loss was not noticed")
    return there


@scenario
def retention_overtakes_a_worker_that_reads() -> World:
    """The same while it reads: Kafka refuses the position, and the shard goes on behind the gap."""
    there = world(habits=ONE_BY_ONE)
    publish(there, bid("t", "a", 1, 4))
    there.settle()
    there.processes["w0"].paused = True
    publish(there, bid("u", "b", 1, 4), bid("v", "c", 1, 4), *(close(task, None, 5) for task in "tuv"))
    before = lost_records()
    there.advance(SECOND)
    there.lose_beginning(TOPICS.bid_placed, 0, 2)
    there.lost_tasks = {"u"}  # the file remembers t
    there.processes["w0"].paused = False
    there.settle()
    require(lost_records() == before + 1, "the loss was not noticed")
    return there


# --- retention -------------------------------------------------------------------------------------------


def _forgetful(*workers: str, closes_from: float) -> World:
    """A world whose cutoff is now so many seconds after the start of the events' times."""
    habits = replace(CALM, retention=round((36_000 - closes_from) * SECOND))
    return world(*workers, habits=habits)


def _age(there: World, seconds: float) -> None:
    """Time passes, and an event of another task says so."""
    there.advance(round(seconds * SECOND))
    publish(there, Planned(BidPlaced("young", "z", 1, "", there.clock.micros)))
    there.settle()


def _left_in_the_changelog(there: World) -> int:
    """How many facts the changelog holds after compaction."""
    there.compact(TOPICS.outcomes, 0)
    return sum(entry.value is not None for entry in there.broker.log.partitions[TOPICS.outcomes, 0].live)


def _forget_everything(there: World, names: str) -> None:
    """Bids, closes and results of a moment ago age until nothing of them is left."""
    agents = list(names)
    publish(there, *(bid("t", agent, 3, 4) for agent in agents), close("t", "a", 5))
    publish(there, result("t", "a", 6), close("u", "b", 5, 70))
    there.settle()
    require(_left_in_the_changelog(there) >= len(agents) + 2, "facts are there before they age")
    _age(there, 5)
    there.check()
    _age(there, 20)
    require(_left_in_the_changelog(there) == 0, "a fact of expired parts is left in the changelog")


@scenario
def outcomes_age_away_everywhere() -> World:
    """First the closes, then bids and results expire: no row, no fact, no metrics record is left."""
    there = _forgetful(closes_from=3)
    _forget_everything(there, "abc")
    return there


@scenario
def a_lost_disk_brings_nothing_back() -> World:
    """Before the cleaner ran and after it: an empty disk finds the cutoff with the commit."""
    there = _forgetful(closes_from=3)
    publish(there, bid("t", "a", 3, 4), bid("t", "b", 2, 4), close("t", "a", 5), result("t", "a", 30))
    there.settle()
    _age(there, 10)
    lose_disk(there, "w0")
    there.settle()
    there.check()
    there.compact(TOPICS.outcomes, 0)
    lose_disk(there, "w0")
    there.settle()
    return there


@scenario
def an_empty_disk_knows_the_cutoff_before_it_reads_an_event() -> World:
    """The clock of the next worker is behind: the commit's cutoff stands, and old facts do not come back."""
    there = _forgetful(closes_from=3)
    publish(there, bid("t", "a", 3, 4), close("t", "a", 5))
    there.settle()
    _age(there, 10)
    before = cutoff_of(there.disks["w0"].databases[0])
    there.clock.micros -= 8 * SECOND
    lose_disk(there, "w0")
    publish(there, close("u", "a", 6), close("v", "a", 14))
    there.settle()
    require(cutoff_of(there.disks["w0"].databases[0]) == before, "the cutoff moved", before)
    there.advance(8 * SECOND)
    return there


@scenario
def a_correction_in_time_of_an_expired_close() -> World:
    """A close has expired, its bids have not: a correction that is young enough finds them."""
    there = _forgetful(closes_from=3)
    publish(there, bid("t", "a", 3, 4), bid("t", "b", 2, 4), close("t", "a", 5), result("t", "b", 20))
    there.settle()
    _age(there, 4)
    there.compact(TOPICS.outcomes, 0)
    lose_disk(there, "w0")
    publish(there, close("t", "b", 16))
    there.settle()
    return there


@scenario
def an_old_topic_read_again_sends_nothing() -> World:
    """The group's offsets are lost: the sources are read from their beginning, past retention in silence."""
    there = _forgetful(closes_from=3)
    _forget_everything(there, "abc")
    there.crash("w0")
    there.broker.log.committed.clear()
    there.advance(HORIZON)
    there.disks["w0"].databases[0].execute("DELETE FROM positions")
    facts = there.broker.log.end(TOPICS.outcomes, 0)
    there.start("w0")
    there.settle()
    require(there.broker.log.end(TOPICS.outcomes, 0) == facts, "facts were sent again")
    return there


@scenario
def a_zombie_sends_expired_facts_again() -> World:
    """What a stalled owner had in flight lands when it has expired: it does not count, and it goes."""
    there = _forgetful("w0", "w1", closes_from=3)
    there.held.add("w0")
    publish(there, bid("t", "a", 3, 4), close("t", "a", 5))
    there.until(lambda: bool(there.broker.pending()))
    there.processes["w0"].paused = True
    there.expire("w0")
    there.until(lambda: filed(there, "w1", TOPICS.outcomes) > 0)
    there.advance(30 * SECOND)
    publish(there, Planned(BidPlaced("young", "z", 1, "", there.clock.micros)))
    there.until(lambda: _without_expired(there) and not there.lags())
    there.held.clear()
    there.deliver_all()
    require(not _without_expired(there), "the zombie's fact is in the log")
    there.settle()
    _require_swept(there, "w1")
    require(_without_expired(there), "the zombie's fact stays in the log")
    return there


def _require_swept(there: World, name: str) -> None:
    """No row of the first shard that holds anything of before its cutoff."""
    database = there.disks[name].databases[0]
    rows = rows_of(database)
    require(rows == living(rows, cutoff_of(database)), "a row holds an expired part", rows)


@scenario
def a_cutoff_moves_over_rows_that_no_checkpoint_has_written() -> World:
    """Facts are joined and expire between two checkpoints: the sweep waits until they are in the file."""
    there = world(habits=replace(CALM, retention=(36_000 - 3) * SECOND, checkpoint_seconds=60.0))
    publish(there, bid("t", "a", 3, 4), close("t", "a", 5))
    there.until(lambda: position(there.processes["w0"], TOPICS.outcomes) > 0)
    require(filed(there, "w0", TOPICS.outcomes) == 0, "a checkpoint was faster")
    _age(there, 10)
    _require_swept(there, "w0")
    return there


@scenario
def results_meet_a_sweep() -> World:
    """A result is joined at any moment of the sweep that takes the close of its row away."""
    there = _forgetful(closes_from=3)
    for number in range(40):
        now = (there.clock.micros - START_US) / SECOND - 36_000
        publish(there, bid(f"t{number}", "a", 3, now + 4), close(f"t{number}", "a", now + 5))
        there.settle()
        there.advance(6 * SECOND)
        young = Planned(BidPlaced("young", "z", 1, "", there.clock.micros))
        publish(there, result(f"t{number}", "a", now + 20), young)
        for _ in range(number * 3):
            there.deliver_all()
            there.processes["w0"].step(1)
        publish(there, result(f"t{number}", "a", now + 21, succeeded=False))
        there.settle()
        there.check_disk("w0")
    return there


@scenario
def a_bid_survives_the_fact_that_brought_it() -> World:
    """A close expires before its bid; the agent's shard loses its disk, and only then a correction comes."""
    there = World(("w0", "w1"), 2, replace(CALM, retention=(36_000 - 3) * SECOND))
    for name in there.disks:
        there.start(name)
    there.until(lambda: there.broker.group.rebalance is None and len(there.broker.group.assignment) == 2)
    task = next(name for name in map("t{}".format, range(99)) if there.partition_of(name) == 0)
    agent = next(name for name in "abcdefgh" if there.partition_of(name) == 1)
    publish(there, bid(task, agent, 3, 14), close(task, None, 15))
    there.settle()
    there.advance(round(11.5 * SECOND))
    for shard in (0, 1):
        young = next(name for name in map("y{}".format, range(99)) if there.partition_of(name) == shard)
        publish(there, Planned(BidPlaced(young, "z", 1, "", there.clock.micros)))
    there.settle()
    there.compact(TOPICS.outcomes, 1)
    owner = there.broker.group.owner(1)
    require(owner is not None, "the agent's shard has an owner")
    if owner is not None:
        lose_disk(there, owner.name)
    there.settle()
    publish(there, close(task, None, 27))
    there.settle()
    require(len(rows_of(there.disks["w1"].databases[1])) == 1, "the corrected close is past retention")
    return there


def _without_expired(there: World) -> bool:
    """Whether the changelog, as its cleaner would leave it, says nothing of before the owner's cutoff."""
    owner = there.broker.group.owner(0)
    database = None if owner is None else there.disks[owner.name].databases.get(0)
    last = {entry.key: entry for entry in there.broker.log.partitions[TOPICS.outcomes, 0].live}
    known = join_facts(last.values())
    return database is not None and known == living(known, cutoff_of(database))


@scenario
def an_agent_that_comes_back() -> World:
    """All its outcomes expired and its record is a tombstone; then it bids again."""
    there = _forgetful(closes_from=3)
    publish(there, bid("t", "a", 3, 4), close("t", "a", 5), result("t", "a", 6))
    there.settle()
    _age(there, 30)
    agents = there.disks["w0"].databases[0].execute("SELECT count(*) FROM agents").fetchone()
    require(agents == (0,), "an agent without outcomes has a row", agents)
    there.check()
    publish(there, bid("u", "a", 3, 40), close("u", "a", 41))
    there.settle()
    lose_disk(there, "w0")
    there.settle()
    return there


# --- forgotten agents ------------------------------------------------------------------------------------


def _at(seconds: float) -> int:
    """A moment of the events' time, in microseconds."""
    return START_US + round(seconds * SECOND)


def _history(names: str = "ab") -> list[Planned]:
    """One auction at 5 that the first agent wins; it is done at 20."""
    first = names[0]
    return [*(bid("t", name, 3, 4) for name in names), close("t", first, 5), result("t", first, 20)]


def _forgotten(there: World, agent_id: str, seconds: float) -> None:
    """What the command does: the marker, then the changelog is relieved of what it found there."""
    there.tombstone_superseded(agent_id, there.forget(agent_id, _at(seconds)))


def _facts_of(there: World, agent_id: str) -> int:
    """How many facts of an agent the cleaner would leave in the changelog."""
    last = {entry.key: entry for entry in there.broker.log.partitions[TOPICS.outcomes, 0].live}
    return sum(key[1] == agent_id for key in join_facts(last.values()))


@scenario
def an_agent_is_forgotten_everywhere() -> World:
    """Its rows, metrics and facts go, at the owner and at the standby; everybody else keeps theirs."""
    there = world_with_standby()
    publish(there, *_history())
    there.settle()
    require(_facts_of(there, "a") > 0, "there is something to forget")
    there.forget("a", _at(30))
    there.settle()
    require(_facts_of(there, "a") == 0, "a fact of the agent is left in the changelog")
    for disk in there.disks.values():
        require({key[1] for key in rows_of(disk.databases[0])} == {"b"}, "a row is left on some disk")
    return there


@scenario
def a_part_of_an_agents_past_is_forgotten() -> World:
    """What is later than the marker's moment stays: of one task the result, of another all but the bid."""
    there = world()
    publish(there, *_history(), bid("u", "a", 3, 9), close("u", "a", 11, 70), result("u", "a", 21))
    publish(there, bid("v", "a", 3, 14), close("v", "b", 15))
    there.settle()
    _forgotten(there, "a", 9)
    there.settle()
    there.check()
    there.compact(TOPICS.outcomes, 0)
    lose_disk(there, "w0")
    there.settle()
    return there


@scenario
def a_replica_comes_back_when_the_tombstones_are_gone() -> World:
    """It was away when the agent was forgotten and knows nothing but its old rows: the marker stands."""
    there = world_with_standby()
    publish(there, *_history())
    there.settle()
    there.crash("w1")
    there.expire("w1")
    _forgotten(there, "a", 30)
    there.settle()
    there.compact(TOPICS.outcomes, 0, drop_tombstones=True)
    there.compact(TOPICS.metrics, 0, drop_tombstones=True)
    require(("t", "a") in rows_of(there.disks["w1"].databases[0]), "w1 remembers")
    there.start("w1")
    there.settle()
    there.check()
    there.crash("w0", lose_disk=True)
    there.expire("w0")
    there.settle()
    there.start("w0")
    there.settle()
    return there


@scenario
def a_lost_disk_re_reads_what_is_forgotten() -> World:
    """The sources are read from their beginning once more: their facts do not count, and leave again."""
    there = world()
    publish(there, *_history())
    there.settle()
    _forgotten(there, "a", 30)
    there.settle()
    there.compact(TOPICS.outcomes, 0, drop_tombstones=True)
    there.crash("w0", lose_disk=True)
    there.broker.log.committed.clear()
    there.start("w0")
    there.settle()
    require(_facts_of(there, "a") == 0, "a fact that was sent again stays in the changelog")
    return there


@scenario
def a_restart_remembers_who_is_forgotten() -> World:
    """The marker is in the file: an old result that arrives after a restart counts for nothing."""
    there = world()
    publish(there, bid("t", "a", 3, 4), close("t", "a", 25))
    there.settle()
    there.forget("a", _at(21))
    there.settle()
    there.crash("w0")
    there.start("w0")
    publish(there, result("t", "a", 20), result("t", "b", 20))
    there.settle()
    require(("t", "a") in rows_of(there.disks["w0"].databases[0]), "the close is later than the marker")
    return there


@scenario
def a_zombie_sends_what_is_forgotten() -> World:
    """What a stalled owner had in flight lands after the marker: it does not count, and it leaves again."""
    there = world("w0", "w1")
    there.held.add("w0")
    publish(there, bid("t", "a", 3, 4), close("t", "a", 5))
    there.until(lambda: bool(there.broker.pending()))
    there.processes["w0"].paused = True
    there.expire("w0")
    there.until(lambda: filed(there, "w1", TOPICS.outcomes) > 0)
    _forgotten(there, "a", 30)
    there.until(lambda: _facts_of(there, "a") == 0 and not there.lags())
    there.held.clear()
    there.deliver_all()
    require(_facts_of(there, "a") > 0, "the zombie's fact is in the log")
    there.settle()
    require(_facts_of(there, "a") == 0, "the zombie's fact stays in the log")
    return there


@scenario
def a_marker_comes_before_the_facts() -> World:
    """Somebody is forgotten whose events are only read later; what is later than the marker counts."""
    there = world_with_standby()
    there.forget("a", _at(11))
    there.settle()
    publish(there, *_history(), bid("u", "a", 3, 14), close("u", "a", 15), result("u", "a", 21))
    there.settle()
    require(_facts_of(there, "a") == 2, "two tasks are left")  # of t the result alone
    there.check()
    there.crash("w0", lose_disk=True)
    there.expire("w0")
    there.settle()
    there.start("w0")
    there.settle()
    return there


def _forgotten_twice(first: float, second: float) -> World:
    """One marker after the other, with the cleaner between them and after; then an empty disk."""
    there = world()
    publish(there, *_history(), bid("u", "a", 3, 9), close("u", "a", 10), result("u", "a", 22))
    there.settle()
    for seconds in (first, second):
        _forgotten(there, "a", seconds)
        there.settle()
        there.check()
        there.compact(TOPICS.outcomes, 0)
    markers = [
        entry for entry in there.broker.log.partitions[TOPICS.outcomes, 0].live if _is_marker(entry.value)
    ]
    require(len(markers) == 1, "one marker is left", markers)
    lose_disk(there, "w0")
    there.settle()
    return there


def _is_marker(value: bytes | None) -> bool:
    return value is not None and b"forget_until" in value


@scenario
def forgotten_until_then_until_later() -> World:
    """The later marker stands, and the earlier one leaves the changelog."""
    return _forgotten_twice(6, 12)


@scenario
def forgotten_until_then_until_earlier() -> World:
    """An earlier marker that is written later takes nothing away from the later one, and leaves."""
    return _forgotten_twice(12, 6)


@scenario
def two_markers_are_compacted_before_anybody_reads_them() -> World:
    """No worker runs while an agent is forgotten twice, until later first: the cleaner keeps both."""
    there = world()
    publish(there, *_history())
    there.settle()
    there.crash("w0")
    there.forget("a", _at(30))
    there.forget("a", _at(4))
    there.compact(TOPICS.outcomes, 0)
    there.start("w0")
    there.settle()
    return there


@scenario
def a_crash_while_an_agent_is_forgotten() -> World:
    """Marker, rows and metrics are in one transaction: killed at any callback, all or nothing is on disk."""
    there = world(habits=replace(CALM, checkpoint_seconds=0.01))
    for number in range(30):
        publish(there, *_history("abc"))
        there.settle()
        there.forget("abc"[number % 3], _at(5 + number))
        for _ in range(number * 2):
            there.deliver_all()
            there.processes["w0"].step(1)
        there.crash("w0")
        there.start("w0")
    there.settle()
    return there


@scenario
def rows_that_no_checkpoint_has_written_are_forgotten() -> World:
    """The rows are in memory alone, or on their way to disk, when the marker is read."""
    there = world(habits=replace(CALM, checkpoint_seconds=60.0))
    publish(there, *_history())
    there.until(lambda: position(there.processes["w0"], TOPICS.outcomes) > 2)
    require(filed(there, "w0", TOPICS.outcomes) == 0, "a checkpoint was faster")
    there.forget("a", _at(30))
    there.settle()
    return there


@scenario
def an_agent_comes_back_from_zero() -> World:
    """What it does after it was forgotten counts anew: as for an agent without history."""
    there = world()
    publish(there, *_history())
    there.settle()
    _forgotten(there, "a", 30)
    there.settle()
    publish(there, bid("u", "a", 3, 40), close("u", "a", 41), result("u", "a", 42))
    there.settle()
    there.check()
    lose_disk(there, "w0")
    there.settle()
    return there


@scenario
def a_changelog_loses_a_marker() -> World:
    """An unclean leader knows nothing of it: the owner, who has read it, writes it again."""
    there = world()
    publish(there, *_history())
    there.settle()
    end = there.broker.log.end(TOPICS.outcomes, 0)
    there.forget("a", _at(30))
    there.settle()
    there.lose_end(0, end)
    there.settle()
    lose_disk(there, "w0")
    there.settle()
    return there


@scenario
def superseded_facts_are_forgotten() -> World:
    """Closes and results that others went over stand behind no row: who forgets finds them in the log."""
    there = world()
    publish(there, *_history())
    there.settle()
    publish(there, close("t", "b", 7), bid("t", "a", 1, 6), result("t", "a", 21))
    there.settle()
    require(
        _left_in_the_changelog(there) > len(rows_of(there.disks["w0"].databases[0])), "none is superseded"
    )
    _forgotten(there, "a", 30)
    there.settle()
    require(_facts_of(there, "a") == 0, "a superseded fact is left in the changelog")
    return there


# --- strategies' sums ------------------------------------------------------------------------------------


def restarted_with(
    there: World, strategies: list[str] | None, name: str = "w0", *, by_kill: bool = False
) -> None:
    """A worker is stopped and started with other strategies."""
    there.habits = replace(there.habits, strategies=lambda: strategies)
    if by_kill:
        there.crash(name)
    else:
        there.processes[name].stop()
        there.until(lambda: name not in there.processes)
    there.start(name)


def sold(task: str, winner: str, sats: int, at: float) -> list[Planned]:
    """An auction of three: the others bid more."""
    bids = [bid(task, agent, sats + 7 * "abc".index(agent), at - 1) for agent in "abc" if agent != winner]
    return [*bids, bid(task, winner, sats, at - 1), close(task, winner, at, sats)]


def has_counted(there: World, name: str = "w0") -> bool:
    """Whether a worker's file says that expected-profit has counted every row."""
    return strategies_of(there.disks[name].databases[0]) == {"expected-profit": None}


@scenario
def a_price_is_corrected() -> World:
    """The winner stays, its price changes: no metric does, and all the same the losers' sums do."""
    there = world()
    publish(there, *sold("t", "a", 60, 5), *sold("u", "b", 80, 6))
    there.settle()
    there.check()
    publish(there, close("t", "a", 7, 40), close("u", None, 8))
    there.settle()
    require(sums_of(there.disks["w0"].databases[0]) != {}, "nothing was counted")
    return there


@scenario
def a_strategy_is_on_then_off_then_on() -> World:
    """Off its sums and its stamp are dropped; what happens meanwhile is counted when it is on again."""
    there = world()
    publish(there, *sold("t", "a", 60, 5))
    there.settle()
    restarted_with(there, ["classic"])
    publish(there, *sold("u", "b", 80, 6), close("t", "a", 7, 40))
    there.settle()
    dropped = sums_of(there.disks["w0"].databases[0]), strategies_of(there.disks["w0"].databases[0])
    require(dropped == ({}, {}), "sums or stamps of a strategy that is off", dropped)
    restarted_with(there, None)
    there.settle()
    require(has_counted(there), "rows are not counted")
    return there


def _old_file(*events: Planned) -> World:
    """Rows that no strategy has counted, and a worker that is about to count them."""
    there = world(habits=replace(CALM, strategies=lambda: ["classic"]))
    publish(there, *events)
    there.settle()
    there.habits = replace(there.habits, checkpoint_seconds=0.01)  # several while rows are counted
    return there


def _tasks(count: int) -> list[Planned]:
    return [event for n in range(count) for event in sold(f"t{n}", "abc"[n % 3], 50 + n, 5 + n)]


def _in_the_middle(there: World, name: str = "w0") -> Callable[[], bool]:
    """A condition: a checkpoint has written that some of the rows are counted, and not all."""

    def holds() -> bool:
        found = strategies_of(there.disks[name].databases[0]).get("expected-profit")
        return found is not None and found > ("", "")

    return holds


@scenario
def corrections_while_rows_are_counted() -> World:
    """Rows before and behind the last one counted change; each is counted once, as it is in the end."""
    there = _old_file(*_tasks(9))
    restarted_with(there, None)
    there.until(_in_the_middle(there))
    publish(there, *(close(f"t{n}", "abc"[n % 3], 40, 30 + n) for n in range(9)), *sold("t00", "b", 77, 9))
    there.settle()
    require(has_counted(there), "rows are not counted")
    return there


@scenario
def a_crash_while_rows_are_counted() -> World:
    """The next process goes on behind the last row that is in the file, again and again."""
    there = _old_file(*_tasks(12))
    restarted_with(there, None, by_kill=True)
    for _ in range(3):
        there.until(_in_the_middle(there))
        there.crash("w0")
        there.start("w0")
    there.settle()
    require(has_counted(there), "rows are not counted")
    return there


def _crash_once_sums_are_written(there: World) -> None:
    """kill -9 at the first moment at which the file has other sums than before, and a new start."""
    file = there.disks["w0"].databases[0]
    before = sums_of(file)
    there.until(lambda: sums_of(file) != before)
    there.crash("w0")
    there.start("w0")


@scenario
def a_crash_once_sums_are_written() -> World:
    """Whatever is in the file with them, or is not: no row is counted twice, and none is left out."""
    there = world(habits=replace(ONE_BY_ONE, strategies=lambda: None))
    publish(there, *_tasks(3))
    _crash_once_sums_are_written(there)
    _crash_once_sums_are_written(there)
    there.settle()
    return there


@scenario
def a_crash_once_counted_rows_are_written() -> World:
    """The same where the rows of an older file are counted: how far is known with what was counted."""
    there = _old_file(*_tasks(12))
    restarted_with(there, None, by_kill=True)
    _crash_once_sums_are_written(there)
    _crash_once_sums_are_written(there)
    there.settle()
    require(has_counted(there), "rows are not counted")
    return there


@scenario
def an_agent_is_forgotten_while_rows_are_counted() -> World:
    """Of its rows some are counted, others are not: nothing of them is left."""
    there = _old_file(*_tasks(9))
    restarted_with(there, None)
    there.until(_in_the_middle(there))
    there.forget("a", _at(30))
    there.settle()
    require("a" not in agents_of(there.disks["w0"].databases[0]), "something of a is left")
    require(has_counted(there), "rows are not counted")
    return there


@scenario
def outcomes_expire_while_rows_are_counted() -> World:
    """The cutoff passes rows that are counted and rows that are not."""
    there = World(("w0",), 1, replace(CALM, strategies=lambda: ["classic"], retention=36_100 * SECOND))
    there.start("w0")
    publish(there, *_tasks(9))
    there.settle()
    there.habits = replace(there.habits, checkpoint_seconds=0.01)
    restarted_with(there, None)
    there.until(_in_the_middle(there))
    there.habits = replace(there.habits, retention=(36_000 - 9) * SECOND)
    restarted_with(there, None, by_kill=True)
    publish(there, bid("new", "b", 9, 50))
    there.settle()
    require(has_counted(there), "rows are not counted")
    return there


@scenario
def a_standby_without_the_strategy_takes_over() -> World:
    """Its file has no sums: the rows are counted once the replica is started with the strategy."""
    there = world_with_standby()
    there.habits = replace(there.habits, strategies=lambda: ["classic"])
    there.processes["w1"].stop()
    there.until(lambda: "w1" not in there.processes)
    there.start("w1")
    publish(there, *_tasks(4))
    there.settle()
    require(strategies_of(there.disks["w1"].databases[0]) == {}, "the standby has the strategy")
    there.crash("w0", lose_disk=True)
    there.expire("w0")
    publish(there, close("t0", "a", 40, 33))
    there.settle()
    restarted_with(there, None, "w1")
    there.settle()
    require(has_counted(there, "w1"), "rows are not counted")
    return there


@scenario
def a_standby_counts_too() -> World:
    """It keeps the sums as the owner does, and has them when the owner is lost."""
    there = world_with_standby()
    publish(there, *_tasks(4))
    there.settle()
    publish(there, close("t0", "a", 40, 33))
    there.settle()
    require(has_counted(there, "w1"), "the standby has not counted")
    require(sums_of(there.disks["w1"].databases[0]) == sums_of(there.disks["w0"].databases[0]), "sums differ")
    there.crash("w0", lose_disk=True)
    there.expire("w0")
    there.settle()
    return there


@scenario
def a_rolling_restart_mixes_settings() -> World:
    """One replica after the other is started without the strategy, then with it, while events go on."""
    there = world_of_two_shards(replace(CALM, standby_replicas=1))
    tasks = iter(_tasks(20))
    for strategies in (["classic"], None, ["classic"], None):
        for name in ("w0", "w1"):
            publish(there, *itertools.islice(tasks, 8))
            restarted_with(there, strategies, name)
            there.settle()
            there.check()
    for shard in (0, 1):
        owner = there.broker.group.owner(shard)
        found = [] if owner is None else [strategies_of(there.disks[owner.name].databases[shard])]
        require(found == [{"expected-profit": None}], "rows are not counted", found)
    return there
