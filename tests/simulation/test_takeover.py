"""A take-over in the simulation: killed at any await, beside workers that stall, and without its safeguards.

SIMULATION_SEEDS=2000 pytest tests/simulation/test_takeover.py   the long run
SIMULATION_SEED=123 pytest tests/simulation/test_takeover.py     one seed again
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any
from unittest import mock

import pytest
from aiokafka import TopicPartition

from learner_worker.group import takeover
from learner_worker.kafka.admin import Committed
from tests.simulation.ablation import first_to_fail, seed_runs
from tests.simulation.environment import simulated
from tests.simulation.known import KNOWN
from tests.simulation.takeovers import SimulatedGuard, run_take_over_seed

_DEFAULT_SEEDS = 24
_MOST = 100  # seeds without a safeguard: several times as many as each needs
_inherited = takeover.commits_to_inherit


def _seeds() -> Sequence[int]:
    one = os.environ.get("SIMULATION_SEED")
    return [int(one)] if one is not None else range(int(os.environ.get("SIMULATION_SEEDS", _DEFAULT_SEEDS)))


@pytest.mark.parametrize("kind", ["plain", "forgetful", "forgetting"])
def test_every_take_over_ends_in_the_models_outcomes(kind: str) -> None:
    """Storm, take-over, storm: files, changelog and metrics topic are the model's, whoever wrote them."""
    with simulated():
        for seed in _seeds()[:: 1 if kind == "plain" else 3]:
            run_take_over_seed(seed, **({} if kind == "plain" else {kind: True}))


async def _without_rewinds(*known: Any) -> Mapping[str, Mapping[TopicPartition, Committed]]:
    found = await _inherited(*known)
    return {
        group: {place: Committed(one.offset, f"rewind={one.offset}") for place, one in commits.items()}
        for group, commits in found.items()
    }


async def _nothing(_: SimulatedGuard) -> None:
    """In place of a look at the record."""


SAFEGUARDS: dict[str, tuple[object, str, object]] = {
    "rewind offsets are copied with the offsets": (takeover, "commits_to_inherit", _without_rewinds),
    "the old group's workers look at the record": (SimulatedGuard, "look", _nothing),
}


@pytest.mark.parametrize("safeguard", SAFEGUARDS)
def test_the_loss_of_a_safeguard_is_noticed(safeguard: str) -> None:
    """Without it one of the first seeds ends in something else, or its old workers never do."""
    with simulated(), mock.patch.object(*SAFEGUARDS[safeguard]):
        runs = seed_runs({}, _MOST, run_take_over_seed)
        assert first_to_fail(runs, KNOWN.get(safeguard)), "nothing notices it"
