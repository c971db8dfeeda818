"""A safeguard whose removal nothing notices is not tested: each is taken out, and the simulation finds it."""

import pytest

from tests.simulation.ablation import ABLATIONS, Without, leaves_a_worker, who_notices
from tests.simulation.environment import simulated

_SEEDS = 1_000  # of each kind; the suite runs as many with all safeguards in place


@pytest.mark.parametrize("safeguard", ABLATIONS)
def test_its_removal_is_noticed(safeguard: str) -> None:
    """Without the safeguard some directed sequence or one of the first seeds fails, but not everything."""
    with simulated(), Without(safeguard):
        assert leaves_a_worker()
        assert who_notices(safeguard, _SEEDS), "nothing notices it"
