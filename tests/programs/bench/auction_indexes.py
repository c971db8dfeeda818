"""What the indexes of auctions cost: the same facts into the temporary file of insights, with and without."""

import time
from collections.abc import Sequence
from typing import NamedTuple

from learner_worker.contract.facts import encode_fact
from learner_worker.insights.facts import CACHE_KIB, FACTS, INDEXES, FactStore
from learner_worker.insights.temporary_file import temporary_database
from learner_worker.kafka.records import Record, Unreadable
from tests.programs.bench.figures import Figure
from tests.programs.bench.load import past_fact
from tests.programs.bench.readings import reading
from tests.programs.bench.stage import in_turns

_BATCH = 2_000  # records, as insights poll them
_MEGABYTE = 2**20


class _Filled(NamedTuple):
    """How long the store took for all facts, and how large its file is."""

    seconds: float
    megabytes: float


async def index_figures(section: str, *, outcomes: int, agents: int, turns: int) -> list[Figure]:
    """The figures; they need no broker."""
    indexed, bare = await in_turns(
        turns, lambda: _filled(outcomes, agents, INDEXES), lambda: _filled(outcomes, agents, ())
    )
    sizes = {"agents": agents, "outcomes": outcomes}
    return [
        Figure(
            section,
            name,
            unit,
            reading([getattr(one, field) for one in indexed]),
            reading([getattr(one, field) for one in bare]),
            "without indexes",
            sizes=sizes,
            notes=["facts by task and by the time of the close, which the pages of auctions read"],
        )
        for name, unit, field in (
            ("all facts into the temporary file", "s", "seconds"),
            ("temporary file with the indexes of auctions", "MB", "megabytes"),
        )
    ]


async def _filled(outcomes: int, agents: int, indexes: Sequence[str]) -> _Filled:
    seconds = 0.0
    async with temporary_database((FACTS, *indexes), cache_kib=CACHE_KIB) as database:
        store = FactStore(database)
        for first in range(0, outcomes, _BATCH):
            records = _records(range(first, min(outcomes, first + _BATCH)), agents)
            began = time.perf_counter()
            await store.take(records)
            seconds += time.perf_counter() - began
        size = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
        [(file_bytes,)] = await database.execute_fetchall(size)
    return _Filled(seconds, file_bytes / _MEGABYTE)


def _records(numbers: Sequence[int], agents: int) -> list[Record]:
    pairs = ((number, encode_fact(past_fact(number, agents))) for number in numbers)
    return [Unreadable("outcomes", 0, number, key=key, value=value) for number, (key, value) in pairs]
