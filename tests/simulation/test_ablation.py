"""A safeguard whose removal nothing notices is not tested: each is taken out, and the simulation finds it."""

import pytest

from tests.simulation.ablation import ABLATIONS, Without, leaves_a_worker, who_notices
from tests.simulation.environment import simulated

_SEEDS = 400  # of each kind: several times as many as nearly all of them need


@pytest.mark.parametrize("safeguard", ABLATIONS)
def test_its_removal_is_noticed(safeguard: str) -> None:
    """Without the safeguard some directed sequence or one of the first seeds fails, but not everything."""
    with simulated(), Without(safeguard):
        assert leaves_a_worker()
        assert who_notices(safeguard, _SEEDS), "nothing notices it"
