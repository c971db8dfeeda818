"""Seeds by the thousand against the real code: storms, crashes and lost disks, and every run is judged.

SIMULATION_SEEDS=20000 pytest tests/simulation/test_random.py   the long run
SIMULATION_SEED=123 pytest tests/simulation/test_random.py      one seed again
"""

import os

import pytest

from tests.simulation.driver import run_seed
from tests.simulation.environment import simulated

_CHUNK = 50
_DEFAULT_SEEDS = 1_000
_FORGETFUL = 3
"""Of so many seeds one is run with a retention, too, and one where agents are forgotten."""
_WITH_SNAPSHOTS = 5
"""Of so many seeds one is run with snapshots, too: each lasts longer, because it ends with lost disks."""


def _chunks() -> list[range]:
    one = os.environ.get("SIMULATION_SEED")
    if one is not None:
        return [range(int(one), int(one) + 1)]
    count = int(os.environ.get("SIMULATION_SEEDS", _DEFAULT_SEEDS))
    return [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]


@pytest.mark.parametrize("seeds", _chunks(), ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_every_seed_ends_in_the_models_outcomes(seeds: range) -> None:
    """After any storm files, changelog and metrics topic are what the model folds from the events."""
    with simulated():
        for seed in seeds:
            run_seed(seed)


@pytest.mark.parametrize("seeds", _chunks(), ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_every_seed_with_a_retention_ends_in_what_the_model_remembers(seeds: range) -> None:
    """After any storm the shards hold what the model folds from the events that retention leaves."""
    with simulated():
        for seed in seeds[::_FORGETFUL]:
            run_seed(seed, forgetful=True)


@pytest.mark.parametrize("seeds", _chunks(), ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_every_seed_in_which_agents_are_forgotten_ends_without_them(seeds: range) -> None:
    """After any storm nothing of a forgotten agent's past is anywhere, and what came later counts anew."""
    with simulated():
        for seed in seeds[::_FORGETFUL]:
            run_seed(seed, forgetting=True)


@pytest.mark.parametrize("seeds", _chunks(), ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_every_seed_with_snapshots_ends_in_the_models_outcomes(seeds: range) -> None:
    """After any storm, lost disks, lost ends and topics made anew, snapshots have brought nothing back."""
    with simulated():
        for seed in seeds[::_WITH_SNAPSHOTS]:
            run_seed(seed, snapshots=True)
