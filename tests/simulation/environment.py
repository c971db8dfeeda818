"""What has to stand aside while the simulation runs: the logs."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from tests.simulation.world import OPEN


@contextmanager
def simulated() -> Iterator[None]:
    """The worker's code logs nothing, and worlds that failed are closed."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        for world in list(OPEN):  # of failures
            world.close()
        structlog.configure(**before)
