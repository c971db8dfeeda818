"""The watchdog: what stands still for how long before it says so, and what it never suspects."""

import math

from aiokafka import TopicPartition

from learner_worker.contract.topics import TopicName
from learner_worker.kafka.watchdog import Observation, Reading, Watchdog

REQUESTS = TopicPartition("requests", 0)
ONE, TWO = TopicPartition("bids", 0), TopicPartition("bids", 1)


def seen(
    *,
    failing: str | None = None,
    settled: bool = True,
    checkpoints: int = 0,
    positions: dict[TopicPartition, int] | None = None,
    ends: dict[TopicPartition, int] | None = None,
    requests: Reading | None = None,
) -> Observation:
    """An observation of loops that move, but for what is said."""
    readings = {"events": Reading(positions or {}, ends or {}), "requests": requests or Reading()}
    return Observation(frozenset([failing] if failing else []), settled, checkpoints, readings)


def first_word(
    observations: list[Observation], *, every_seconds: float = 5, checkpoint_seconds: float = 0
) -> tuple[float, str] | None:
    """When the watchdog speaks first, and what it says."""
    watchdog = Watchdog(checkpoint_seconds)
    for number, observation in enumerate(observations):
        problem = watchdog.judge(number * every_seconds, observation)
        if problem is not None:
            return number * every_seconds, problem
    return None


def test_an_idle_worker_is_never_suspected() -> None:
    """Everything read, checkpoints go on: an hour without a record is no standstill."""
    hour = [seen(checkpoints=n, positions={ONE: 7}, ends={ONE: 7}) for n in range(720)]
    assert first_word(hour) is None


def test_a_backlog_that_moves_is_never_suspected() -> None:
    """As long as any partition is read on, others may wait their turn for some minutes."""
    minutes = [
        seen(checkpoints=n, positions={ONE: n, TWO: 3}, ends={ONE: 9_999, TWO: 9_999}) for n in range(59)
    ]
    assert first_word(minutes) is None


def test_one_partition_left_behind_for_minutes_is_said() -> None:
    """The others go on, one does not: five minutes."""
    long = [
        seen(checkpoints=n, positions={ONE: n, TWO: 3}, ends={ONE: 9_999, TWO: 9_999}) for n in range(100)
    ]
    assert first_word(long) == (310, "reading bids/1 makes no progress")


def test_nothing_read_on_with_records_there_is_said_after_a_minute() -> None:
    """Kafka has more, and no position moves."""
    still = [seen(checkpoints=n, positions={ONE: 3, TWO: 9}, ends={ONE: 5, TWO: 9}) for n in range(40)]
    assert first_word(still) == (70, "reading events makes no progress")


def test_requests_that_are_not_read_on_are_said_while_events_are() -> None:
    """Every consumer has a connection of its own, and any of them may stand still."""
    still = Reading({REQUESTS: 3}, {REQUESTS: 5})
    busy = [seen(checkpoints=n, positions={ONE: n}, ends={ONE: 9_999}, requests=still) for n in range(1, 40)]
    assert first_word(busy) == (70, "reading requests makes no progress")


def test_checkpoints_that_fail_for_two_minutes_are_said() -> None:
    """A producer that Kafka does not hear any more shows in checkpoints."""
    assert first_word([seen(checkpoints=4) for _ in range(40)]) == (130, "no checkpoint succeeds")


def test_checkpoints_may_be_as_far_apart_as_they_are_set() -> None:
    """With a checkpoint each five minutes, none for five minutes is no standstill, none for seven is."""
    five_minutes = [seen(checkpoints=number // 60) for number in range(720)]
    assert first_word(five_minutes, checkpoint_seconds=300) is None
    assert first_word([seen(checkpoints=1) for _ in range(99)], checkpoint_seconds=300) == (
        430,
        "no checkpoint succeeds",
    )


def test_a_replica_without_its_shards_is_said_after_two_minutes() -> None:
    """Revoked and never asked back, or shards that do not open."""
    observations = [seen(settled=False, checkpoints=n) for n in range(1, 40)]
    problem = "the group assigns no shards to this replica, or they do not open"
    assert first_word(observations) == (125, problem)


def test_a_shard_that_takes_long_to_open_is_not_suspected_while_it_goes_on() -> None:
    """Writing a large file's rows into Kafka again takes as long as it takes."""
    watchdog = Watchdog()
    for number in range(1, 200):
        watchdog.opening_goes_on()
        assert watchdog.judge(number * 5.0, seen(settled=False, checkpoints=number)) is None
    problems = [watchdog.judge(n * 5.0, seen(settled=False, checkpoints=n)) for n in range(200, 230)]
    assert any(problems)


def test_what_fails_again_and_again_is_said_after_a_minute() -> None:
    """It may happen to one connection while another one reaches Kafka."""
    failing = [seen(failing="reading", checkpoints=n) for n in range(40)]
    assert first_word(failing) == (65, "reading fails repeatedly")


def test_how_far_a_topic_is_read() -> None:
    """Over the partitions that are being read; not known while Kafka does not say where they end."""
    reading = Reading({ONE: 7, TWO: 3, REQUESTS: 1}, {ONE: 9, TWO: 3, REQUESTS: 90})
    topic = TopicName(ONE.topic)
    assert (reading.lag_of(topic), Reading().lag_of(topic)) == (2, 0)
    assert math.isnan(Reading(reading.positions).lag_of(topic))


def test_whether_everything_has_moved_once() -> None:
    """A worker that was built anew has to show it: joined, a checkpoint made, nothing left behind."""
    for never in (
        seen(settled=False, checkpoints=1),
        seen(checkpoints=0),
        seen(failing="requests", checkpoints=1),
    ):
        watchdog = Watchdog()
        watchdog.judge(0.0, never)
        assert not watchdog.all_has_moved
        watchdog.judge(5.0, seen(checkpoints=2))
        assert watchdog.all_has_moved


def test_an_outage_of_kafka_is_forgiven() -> None:
    """Whoever finds Kafka away forgives, and the time begins anew."""
    watchdog = Watchdog()
    for number in range(100):
        problem = watchdog.judge(number * 5.0, seen(failing="reading", checkpoints=number))
        if problem is not None:
            watchdog.forgive()
            assert watchdog.judge(number * 5.0 + 60, seen(failing="reading", checkpoints=number)) is None
            return
    raise AssertionError("the watchdog never spoke")
