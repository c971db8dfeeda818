"""A replica that fails again and again: how its failures are counted, and when it is given shards again."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from learner_worker.errors import StateError
from learner_worker.store.starts import forget_starts, note_start
from learner_worker.worker import probation
from learner_worker.worker.probation import Probation, noted_start, probation_seconds
from tests.support.conditions import becomes_true


@pytest.mark.parametrize(
    ("failures", "seconds"), [(0, 0), (2, 0), (3, 30), (4, 60), (5, 120), (6, 240), (7, 300), (99, 300)]
)
def test_each_failure_makes_the_probation_longer(failures: int, seconds: float) -> None:
    """Two failures may be chance; no probation is longer than five minutes."""
    assert probation_seconds(failures) == seconds


def test_starts_that_did_not_end_well_are_counted_for_ten_minutes(tmp_path: Path) -> None:
    """Older ones, and those that a clock set back has put into the future, do not count."""
    assert [note_start(tmp_path, now) for now in (1_000, 1_010, 1_020, 1_605, 1_000)] == [0, 1, 2, 2, 0]
    forget_starts(tmp_path)
    assert note_start(tmp_path, 1_001) == 0


@pytest.mark.parametrize("content", ["x\n", "1000.0\n10.0.", "\u00e9"])
def test_a_file_that_is_damaged_counts_for_nothing(tmp_path: Path, content: str) -> None:
    """It is a hint, and no reason to refuse a start."""
    (tmp_path / "starts").write_text(content, encoding="utf-8")
    assert note_start(tmp_path, 1_001) == 0


async def test_a_run_that_fails_is_counted_and_one_that_ends_well_is_not(tmp_path: Path) -> None:
    """Three failures: the fourth run is on probation, and after it has ended well the fifth is not."""
    found = []

    def run(error: Exception | None = None) -> None:
        with noted_start(tmp_path) as seconds:
            found.append(seconds)
            if error is not None:
                raise error

    for _ in range(3):
        with pytest.raises(StateError):
            run(StateError("the disk"))
    run()
    run()
    assert found == [0, 0, 0, probation.FIRST_SECONDS, 0]


async def test_a_start_that_is_told_to_stop_is_no_failure(tmp_path: Path) -> None:
    """SIGTERM while it waits for Kafka."""
    with pytest.raises(asyncio.CancelledError), noted_start(tmp_path):
        raise asyncio.CancelledError
    assert not (tmp_path / "starts").exists()


async def test_a_run_that_goes_on_is_proven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill after that is the first one again."""
    monkeypatch.setattr(probation, "_PROVEN_SECONDS", 0.0)
    with noted_start(tmp_path):
        await becomes_true(lambda: not (tmp_path / "starts").exists())


async def test_after_its_probation_a_replica_joins_anew() -> None:
    """Its claim says that it may own shards before the group is asked."""
    state = Probation(0.001)
    asked: list[bool] = []
    membership: Any = SimpleNamespace(request_rejoin=lambda: asked.append(state.active))
    assert state.active
    await state.serve(membership, asyncio.Event())
    assert asked == [False]
    await state.serve(membership, asyncio.Event())
    assert asked == [False]


async def test_a_replica_that_stops_on_probation_asks_for_nothing() -> None:
    """It is about to leave."""
    state, stopping = Probation(60), asyncio.Event()
    stopping.set()
    membership: Any = SimpleNamespace()
    await state.serve(membership, stopping)
    assert state.active
