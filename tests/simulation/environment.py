"""What has to stand aside while the simulation runs: Kafka's administrator, and the logs."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import structlog

from learner_worker.group import frontier
from learner_worker.worker import consumer, standbys
from tests.simulation.clients import connected
from tests.simulation.world import OPEN


@contextmanager
def simulated() -> Iterator[None]:
    """The worker's code finds the simulated administrator, and logs nothing."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        with (
            mock.patch.object(consumer, "connected", connected),
            mock.patch.object(frontier, "connected", connected),
            mock.patch.object(standbys, "_POLL_MS", 500),  # fewer idle polls, faster seeds
        ):
            yield
    finally:
        for world in list(OPEN):  # of failures
            world.close()
        structlog.configure(**before)
