"""A disk that is full or refuses: the worker says so and ends; with room again nothing is lost."""

from learner_worker.brokers import Broker
from tests.crash_points.plays import planned, verdicts
from tests.crash_points.scene import FLAWLESS

_FAULTS = ("no-more-pages", "no-longer-files", "error-at-commit", "start-tiny-files", "restore-full")


async def test_a_failing_disk_ends_the_worker_and_costs_nothing(one_broker: Broker) -> None:
    """Exit code 1 and a sentence, no half checkpoint, no commit beyond the file; the next run is whole."""
    plays = list(planned(_FAULTS, times=1, first_seed=1))
    expected = dict.fromkeys(plays, FLAWLESS)

    assert expected == await verdicts(plays, one_broker.bootstrap_servers)
