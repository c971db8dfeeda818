"""A reshard in the simulation: killed at any await, beside zombies, and without each of its safeguards.

SIMULATION_SEEDS=2000 pytest tests/simulation/test_reshard.py   the long run
SIMULATION_SEED=123 pytest tests/simulation/test_reshard.py     one seed again
"""

import functools
import os
from collections import UserDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any
from unittest import mock

import pytest
from aiokafka import TopicPartition

from learner_worker.domain.outcomes import Cutoff, later_cutoff
from learner_worker.group.commits import unnamed
from learner_worker.kafka.admin import Committed
from learner_worker.kafka.offsets import OffsetRange
from learner_worker.operations import reshard_copy, resharding
from learner_worker.operations.reshard_copy import AgentDigests, LayoutCopy
from learner_worker.operations.resharding import STEPS, Resharding
from learner_worker.shard.resume import commit_of
from tests.simulation.ablation import Run, first_to_fail, run_sequence, seed_runs
from tests.simulation.environment import simulated
from tests.simulation.known import KNOWN
from tests.simulation.reshard_command import Layouts
from tests.simulation.reshard_sequences import SEQUENCES
from tests.simulation.resharding import run_reshard_seed

_DEFAULT_SEEDS = 30
_MOST = 200  # seeds without a safeguard: several times as many as each needs


def _seeds() -> Sequence[int]:
    one = os.environ.get("SIMULATION_SEED")
    if one is not None:
        return [int(one)]
    return range(int(os.environ.get("SIMULATION_SEEDS", _DEFAULT_SEEDS)))


@pytest.mark.parametrize("kind", ["plain", "forgetful", "forgetting", "snapshots"])
def test_every_reshard_ends_in_the_models_outcomes(kind: str) -> None:
    """Storm, reshard, storm: files, changelog and metrics topic of the new layout are the model's."""
    with simulated():
        for seed in _seeds()[:: 1 if kind == "plain" else 3]:
            run_reshard_seed(seed, **_flags(kind))


def _flags(kind: str) -> dict[str, bool]:
    return {} if kind == "plain" else {kind: True}


@pytest.mark.parametrize("name", SEQUENCES)
def test_sequence_with_a_reshard(name: str) -> None:
    """The sequence ends in the model's outcomes and metrics."""
    with simulated():
        run_sequence(SEQUENCES[name])


# --- without a safeguard ----------------------------------------------------------------------------------

_replay_old = LayoutCopy.replay_old


async def _nothing(*_: object) -> None:
    """In place of a step."""


async def _no_events(*_: object) -> int:
    return 0


async def _to_the_end(copy: LayoutCopy, *arguments: Any) -> None:
    with mock.patch.object(reshard_copy, "LearnerError", _IgnoredError):
        try:
            await _replay_old(copy, *arguments)
        except _IgnoredError:
            return


class _IgnoredError(Exception):
    """A barrier is missing."""


def _committed(
    place: TopicPartition, held: OffsetRange, shards: int, commits: Mapping[TopicPartition, Committed]
) -> Committed:
    found = commits.get(place) if place.partition < shards else None
    return commit_of(held.start, held.start) if found is None else commit_of(found.offset, found.offset)


def _latest(shard: int, cutoffs: Mapping[int, Cutoff], shards: tuple[int, int]) -> Cutoff | None:
    assert shard < shards[1]
    found: Cutoff | None = None
    for cutoff in cutoffs.values():
        found = later_cutoff(found, cutoff)
    return found


class _OfFirstVersion(UserDict[tuple[str, int], Committed]):
    """The commits of a group of 0.1.0, whose workers name no incarnation that could tell them apart."""

    def __setitem__(self, place: tuple[str, int], one: Committed) -> None:
        super().__setitem__(place, Committed(one.offset, unnamed(one)))


def _one_group(layouts: Layouts) -> None:
    shared: Any = _OfFirstVersion()
    shared.data = layouts.new.log.committed
    layouts.old.log.committed = shared


_add = AgentDigests.add


def _without_markers(digests: AgentDigests, agent_id: Any, content: bytes) -> None:
    if b"forget_until" not in content:
        _add(digests, agent_id, content)


def _no_markers(*_: object) -> Iterator[Any]:
    return iter(())


SAFEGUARDS: dict[str, tuple[str, list[tuple[object, str, object]]]] = {
    "a barrier at the end of the old changelog": (
        "plain",
        [(Resharding, "fence", _nothing), (LayoutCopy, "replay_old", _to_the_end)],
    ),
    "sources from the rewind offsets, not the committed ones": (
        "plain",
        [(resharding, "rewound", _committed)],
    ),
    "commits inherited before the barriers": (
        "plain",
        [(resharding, "STEPS", (*STEPS[:4], "fenced", "inherited", "copied"))],
    ),
    "a group for each layout": ("plain", [(Layouts, "switched", _one_group)]),
    "rerouted events are copied": ("plain", [(LayoutCopy, "rerouted_events", _no_events)]),
    "the earliest cutoff": ("forgetful", [(resharding, "earliest_cutoff", _latest)]),
    "forget markers are copied": (
        "forgetting",
        [(LayoutCopy, "markers", _no_markers), (AgentDigests, "add", _without_markers)],
    ),
}


@pytest.mark.parametrize("safeguard", SAFEGUARDS)
def test_the_loss_of_a_safeguard_is_noticed(safeguard: str) -> None:
    """Without it one of the first seeds ends in something else than the model's outcomes."""
    kind, patches = SAFEGUARDS[safeguard]
    with simulated(), ExitStack() as stack:
        for target, name, replacement in patches:
            stack.enter_context(mock.patch.object(target, name, replacement))
        runs = [Run(name, functools.partial(run_sequence, play)) for name, play in SEQUENCES.items()]
        runs += seed_runs(_flags(kind), _MOST, run_reshard_seed)
        assert first_to_fail(runs, KNOWN.get(safeguard)), "nothing notices it"
