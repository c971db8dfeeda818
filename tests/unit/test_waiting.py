"""Tests wait for conditions: none sleeps for a fixed time, and a wait that is in vain fails and says so."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.support.conditions import becomes_true
from tests.support.workers import WorkerProcess, shards_held_by_both, until

TESTS = Path(__file__).parents[1]
OTHER_CLOCKS = {"programs", "simulation"}
"""Programs that run for minutes, and the clock that a test moves."""
LOOPS = (ast.While, ast.For, ast.AsyncFor)


def fixed_sleeps(code: str) -> Iterator[int]:
    """The lines that sleep for a time, in no loop that looks at something; methods belong to fakes."""

    def within(node: ast.AST) -> Iterator[int]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (*LOOPS, ast.ClassDef)):
                continue
            match child:
                case ast.Call(
                    func=ast.Attribute(attr="sleep") | ast.Name(id="sleep"), args=[ast.Constant(value=value)]
                ) if value:
                    yield child.lineno
            yield from within(child)

    return within(ast.parse(code))


def test_no_test_sleeps_for_a_fixed_time() -> None:
    """Whoever waits looks again and again, so that a slow machine takes longer and fails nothing."""
    found = [
        f"{path.relative_to(TESTS)}:{line}"
        for path in sorted(TESTS.rglob("*.py"))
        if not OTHER_CLOCKS & set(path.relative_to(TESTS).parts)
        for line in fixed_sleeps(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_a_fixed_sleep_is_found() -> None:
    """The check itself: awaited or not; not a turn of the loop, not between two looks."""
    assert list(fixed_sleeps("time.sleep(0.5)\nasync def f():\n    await asyncio.sleep(1)")) == [1, 3]
    assert list(fixed_sleeps("while not done():\n    time.sleep(0.1)\nasyncio.sleep(0)")) == []


async def test_a_wait_in_vain_fails_and_says_for_what() -> None:
    """Both ways to wait, after the time that they are given."""

    async def never() -> None:
        return None

    with pytest.raises(AssertionError, match="each has half of the shards"):
        await until(never, "each has half of the shards", seconds=0.01)
    with pytest.raises(AssertionError, match=r"not within 0\.01 s"):
        await becomes_true(lambda: False, seconds=0.01)


def replica(path: Path, *changes: tuple[int, str, list[int]]) -> WorkerProcess:
    """A worker that has ended, with its log."""
    lines = [
        {"timestamp": f"2026-01-31T12:00:{second:02}Z", "event": event, "shards": shards}
        for second, event, shards in changes
    ]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return WorkerProcess(cast("Any", SimpleNamespace(returncode=0)), path)


@pytest.mark.parametrize(("revoked", "both"), [(3, set[int]()), (5, {2, 3})])
def test_a_shard_that_two_replicas_had_at_once_is_found(revoked: int, both: set[int], tmp_path: Path) -> None:
    """However briefly, by what both logs claim: the second one has it before the first one lets it go."""
    one = replica(
        tmp_path / "one",
        (1, "shards.assigned", [0, 1, 2, 3]),
        (revoked, "shards.revoked", [0, 1, 2, 3]),
        (6, "shards.assigned", [0, 1]),
    )
    two = replica(tmp_path / "two", (2, "shards.assigned", []), (4, "shards.assigned", [2, 3]))
    assert shards_held_by_both(one, two) == both
