"""A safeguard whose removal nothing notices is not tested: each is taken out, and the simulation finds it."""

import itertools

import pytest

from tests.simulation.ablation import (
    ABLATIONS,
    Without,
    leaves_a_worker,
    scenarios_that_notice,
    seeds_that_notice,
)
from tests.simulation.environment import simulated

_SEEDS = range(400)


@pytest.mark.parametrize("safeguard", ABLATIONS)
def test_its_removal_is_noticed(safeguard: str) -> None:
    """Without the safeguard some directed sequence or one of the first seeds fails, but not everything."""
    with simulated(), Without(safeguard):
        assert leaves_a_worker()
        runs = (
            scenarios_that_notice(),
            map(str, seeds_that_notice(_SEEDS)),
            map(str, seeds_that_notice(_SEEDS, forgetful=True)),
            map(str, seeds_that_notice(_SEEDS, forgetting=True)),
        )
        noticed = next(itertools.chain.from_iterable(runs), None)

    assert noticed is not None
