"""Each sequence that broke an earlier draft of the protocol, replayed against the real code."""

from collections.abc import Iterator

import pytest

from tests.simulation.directed import Scenario
from tests.simulation.environment import simulated
from tests.simulation.snapshot_sequences import SCENARIOS


@pytest.fixture(autouse=True)
def _simulated() -> Iterator[None]:
    with simulated():
        yield


@pytest.mark.parametrize("run", SCENARIOS.values(), ids=SCENARIOS.keys())
def test_directed_sequence(run: Scenario) -> None:
    """The sequence ends in the model's outcomes and metrics, in files, changelog and metrics topic."""
    world = run()
    try:
        world.check()
    finally:
        world.close()
