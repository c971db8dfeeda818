"""Killed at every named point of its work, its disk kept or lost: nothing is lost, nothing counts twice."""

from collections.abc import Sequence

import pytest

from learner_worker.brokers import Broker
from tests.crash_points.plays import Play, planned, verdicts
from tests.crash_points.points import POINTS
from tests.crash_points.scene import FLAWLESS

_PLAYS = list(planned(list(POINTS), times=1, first_seed=1))
_SIDE_BY_SIDE = 6


@pytest.mark.parametrize(
    "plays",
    [_PLAYS[start : start + _SIDE_BY_SIDE] for start in range(0, len(_PLAYS), _SIDE_BY_SIDE)],
    ids=lambda plays: f"{plays[0].name}-to-{plays[-1].name}",
)
async def test_a_worker_killed_there_loses_nothing(one_broker: Broker, plays: Sequence[Play]) -> None:
    """The file is a prefix of the changelog; the next worker, on that disk or none, ends at the model."""
    expected = dict.fromkeys(plays, FLAWLESS)

    assert expected == await verdicts(plays, one_broker.bootstrap_servers)
