"""What is otherwise while the simulation runs: nothing is logged, pages are small, names are not random."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import structlog

from learner_worker.snapshots import catalog
from learner_worker.stages import learn
from tests.simulation.snapshots import in_turn
from tests.simulation.world import OPEN


@contextmanager
def simulated() -> Iterator[None]:
    """The worker's code logs nothing, and worlds that failed are closed."""
    before, page = structlog.get_config(), mock.patch.object(learn, "BACKFILLED", 2)
    names = mock.patch.object(catalog, "random_part", in_turn)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        with page, names:
            yield
    finally:
        for world in list(OPEN):  # of failures
            world.close()
        structlog.configure(**before)
