"""Minimal sequences that broke earlier drafts; random seeds alone miss several."""

from collections.abc import Callable

from tests.model import AuctionClosed, BidPlaced, TaskFinished
from tests.simulation.checks import positions_of
from tests.simulation.history import Planned
from tests.simulation.worker import HORIZON, SECOND, TOPICS, Habits, Process
from tests.simulation.world import CALM, World, no_latency
from tests.swarm import START_US

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
    database = there.disks[name].databases.get(0)
    return 0 if database is None else positions_of(database).get(topic, 0)


def position(process: Process, topic: str) -> int:
    shards = process.ingest.ownership.shards
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
    there.until(lambda: bool(there.broker.waiting()))
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
    there.until(lambda: there.broker.log.committed[TOPICS.bid_placed, 0].metadata == "rewind=1")
    there.held.add("w0")
    flipped = result("t", "a", 21, succeeded=False)
    publish(there, flipped)
    there.until(lambda: bool(there.broker.waiting()))
    there.held.clear()
    there.deliver_all()
    there.held.add("w0")
    there.until(lambda: any(key[1] == TOPICS.metrics for key in there.broker.waiting()))
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
