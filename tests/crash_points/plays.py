"""Which points are played how, and playing them side by side."""

import asyncio
import dataclasses
import random
import secrets
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.crash_points.disk import DISK
from tests.crash_points.points import POINTS
from tests.crash_points.scene import FLAWLESS, Verdict, scene

AT_ONCE = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Play:
    """One run of a point: on which history, at which passing, and whether the disk is lost after it."""

    name: str
    seed: int
    passings: int
    lose_disk: bool


def planned(names: Sequence[str], times: int, first_seed: int) -> Iterator[Play]:
    """Each point so many times: other histories, other passings; every other death loses the disk, too."""
    for place, name in enumerate(names):
        point = {**POINTS, **DISK}[name]
        rng = random.Random(f"{name}/{first_seed}")
        for number in range(times):
            lose_disk = point.kills and (place + number) % 2 == 1
            yield Play(name, first_seed + number, rng.randint(1, point.most), lose_disk)


async def played(play: Play, servers: str) -> Verdict:
    """Plays one, on topics and in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="learner-crashing-") as folder:
        prefix = f"x{secrets.token_hex(4)}-"
        async with scene(servers, prefix, Path(folder), play.seed) as found:
            return await found.play(play.name, play.passings, lose_disk=play.lose_disk)


async def verdicts(plays: Sequence[Play], servers: str, at_once: int = AT_ONCE) -> dict[Play, Verdict]:
    """Plays them all, some at once.

    Raises:
        AssertionError: a worker did not end, or left its disk, as it should; a note names the play.
    """
    free = asyncio.Semaphore(at_once)

    async def one(play: Play) -> Verdict:
        async with free:
            try:
                return await played(play, servers)
            except Exception as error:
                error.add_note(repr(play))
                raise

    return dict(zip(plays, await asyncio.gather(*map(one, plays)), strict=True))


@dataclasses.dataclass(slots=True)
class Row:
    """What became of a point's runs."""

    times: int = 0
    lost: int = 0
    duplicated: int = 0
    different: int = 0
    failed: int = 0

    def add(self, verdict: Verdict | None) -> None:
        """Counts one run; None is one that did not come to a verdict."""
        self.times += 1
        if verdict is None:
            self.failed += 1
            return
        self.lost += verdict.lost
        self.duplicated += verdict.duplicated
        self.different += verdict.different

    def __str__(self) -> str:
        numbers = (self.times, self.lost, self.duplicated, self.different, self.failed)
        return "".join(f"{number:11}" for number in numbers)


async def play_all(plays: Sequence[Play], servers: str, at_once: int) -> dict[str, Row]:
    """Plays them all, some at once; what fails is told at once."""
    rows = {play.name: Row() for play in plays}
    left = iter(plays)

    async def play_on() -> None:
        for play in left:
            rows[play.name].add(await _verdict_of(play, servers))

    await asyncio.gather(*(play_on() for _ in range(at_once)))
    return rows


async def _verdict_of(play: Play, servers: str) -> Verdict | None:
    try:
        verdict = await played(play, servers)
    except Exception:  # noqa: BLE001 (the run goes on, and its row says so)
        print(f"{play}\n{traceback.format_exc()}", flush=True)  # noqa: T201 (this is its output)
        return None
    if verdict != FLAWLESS:
        print(f"{play}: {verdict}", flush=True)  # noqa: T201 (this is its output)
    return verdict
