"""Which strategies keep sums in a shard's file: each is stamped with the version that counted."""

from collections.abc import Mapping
from typing import Final

from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.domain.outcomes import OutcomeKey
from learner_worker.store.database import Database
from learner_worker.store.statements import strategy_of

_BEFORE_ALL_ROWS: Final[OutcomeKey] = (TaskId(""), AgentId(""))  # smaller than any key: an id is not empty
_NO_ROW: Final = (None, None)


async def claim_strategies(database: Database, versions: Mapping[str, int]) -> dict[str, OutcomeKey | None]:
    """Makes the file keep the sums of these strategies, each of a version, and of no others.

    The sums and the stamp of any other strategy are dropped in one transaction. A strategy without a stamp
    begins before the first row.

    Returns:
        The row up to which each has counted, in the order of keys; None: all rows.
    """
    kept = {row.name: row for row in map(strategy_of, await database.read("load_strategies"))}
    gone = {name for name, row in kept.items() if versions.get(name) != row.version}
    new = {name for name in versions if name not in kept} | (gone & versions.keys())
    first = _BEFORE_ALL_ROWS if await database.read("load_last_key") else None
    if gone or new:
        dropped = [(name,) for name in gone | new]
        stamps = [(name, versions[name], *(first or _NO_ROW)) for name in new]
        await database.transact(
            [
                ("delete_strategy_sums", dropped),
                ("delete_strategy", dropped),
                ("save_strategy", stamps),
            ]
        )
    return {name: first if name in new else kept[name].counted_to for name in versions}
