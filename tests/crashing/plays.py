"""Which points are played how, and playing them side by side."""

import asyncio
import dataclasses
import random
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.crashing.disk import DISK
from tests.crashing.points import POINTS
from tests.crashing.scene import Verdict, scene

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
