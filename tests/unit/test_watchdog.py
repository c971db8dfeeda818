"""The watchdog: what stands still for how long before it says so, and what it never suspects."""

from aiokafka import TopicPartition

from learner_worker.stream.watchdog import Observation, Watchdog

ONE, TWO = TopicPartition("bids", 0), TopicPartition("bids", 1)


def seen(
    *,
    reading: bool = True,
    settled: bool = True,
    checkpoints: int = 0,
    positions: dict[TopicPartition, int] | None = None,
    ends: dict[TopicPartition, int] | None = None,
    silent: bool = False,
) -> Observation:
    """An observation of loops that move, but for what is said."""
    return Observation(reading, settled, checkpoints, positions or {}, None if silent else ends or {})


def first_word(observations: list[Observation], *, every_seconds: float = 5) -> tuple[float, str] | None:
    """When the watchdog speaks first, and what it says."""
    watchdog = Watchdog()
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
    assert first_word(long) == (310, "bids/1 is not read on")


def test_nothing_read_on_with_records_there_is_said_after_a_minute() -> None:
    """Kafka has more, and no position moves."""
    still = [seen(checkpoints=n, positions={ONE: 3, TWO: 9}, ends={ONE: 5, TWO: 9}) for n in range(40)]
    assert first_word(still) == (70, "nothing is read on")


def test_checkpoints_that_fail_for_two_minutes_are_said() -> None:
    """A producer that Kafka does not hear any more shows in checkpoints."""
    assert first_word([seen(checkpoints=4) for _ in range(40)]) == (130, "no checkpoint succeeds")


def test_a_replica_without_its_shards_is_said_after_two_minutes() -> None:
    """Revoked and never asked back, or shards that do not open."""
    waiting = [seen(settled=False, checkpoints=n) for n in range(40)]
    assert first_word(waiting) == (125, "the group gives this replica no shards, or they do not open")


def test_polls_that_fail_and_a_silent_connection_are_said_after_a_minute() -> None:
    """Either may happen while another connection reaches Kafka."""
    assert first_word([seen(reading=False, checkpoints=n) for n in range(40)]) == (65, "reading fails")
    silent = [seen(silent=True, checkpoints=n) for n in range(40)]
    assert first_word(silent) == (65, "the consumer's connection does not answer")


def test_an_outage_of_kafka_is_forgiven() -> None:
    """Whoever finds Kafka away forgives, and the time begins anew."""
    watchdog = Watchdog()
    for number in range(100):
        problem = watchdog.judge(number * 5.0, seen(silent=True, checkpoints=number))
        if problem is not None:
            watchdog.forgive()
            assert watchdog.judge(number * 5.0 + 60, seen(silent=True, checkpoints=number)) is None
            return
    raise AssertionError("the watchdog never spoke")
