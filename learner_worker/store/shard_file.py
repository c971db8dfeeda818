"""A shard's SQLite file: its identity, reads in batches, and a checkpoint's transaction."""

import sys
from collections.abc import AsyncIterator, Mapping, MutableMapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Final, Self

import msgspec

from learner_worker.contract.fields import AgentId, ShardId, TaskId
from learner_worker.contract.times import Micros
from learner_worker.contract.topics import TopicName
from learner_worker.domain.agents import AgentRow
from learner_worker.domain.auctions import AuctionState
from learner_worker.domain.bucketed import bucketed
from learner_worker.domain.keywords import Tally, shared, tally_of
from learner_worker.domain.outcomes import Cutoff, Outcome, OutcomeKey
from learner_worker.domain.sums import KeptSums
from learner_worker.store.database import Database
from learner_worker.store.formats import CHANGES, FormatChange
from learner_worker.store.identity import gained, mismatch, stranger
from learner_worker.store.statements import (
    Checkpoint,
    agent_of,
    auction_of,
    ids_parameter,
    keyword_of,
    outcome_of,
    pairs_parameter,
    sums_of,
    writes_of,
)
from learner_worker.store.strategies import claim_strategies

_BATCH: Final = 500  # rows of a read: more would block the event loop for longer than a chunk
_KEYWORDS: Final = 2_000  # rows turned into keywords between two yields to the event loop: a few milliseconds
_CONVERTED_PAGES: Final = 10  # per checkpoint: a small part of the time between two checkpoints
_SCANNED: Final = 5_000  # rows scanned in one read: more would make answers wait for the file's thread


def shard_path(state_dir: Path, shard: ShardId) -> Path:
    """The path of a shard's file."""
    return state_dir / f"shard-{shard:05d}.sqlite3"


class ShardFile:
    """An open file. One task writes checkpoints; reads use their own connection and never wait for it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    async def open(
        cls, path: Path, identity: dict[str, str], changes: Mapping[int, FormatChange] = CHANGES
    ) -> Self:
        """Opens or creates the file; sets aside a damaged one or one of a newer format.

        Args:
            changes: the changes that lead to the current format.

        Raises:
            ConfigurationError: the file belongs to another cluster, prefix, partition count or incarnation.
            StateError: it cannot be read or written.
        """
        file = cls(await Database.open(path, changes))
        try:
            await claim(file._database, identity)
        except BaseException:
            await file.close()
            raise
        return file

    @property
    def path(self) -> Path:
        """The file's path."""
        return self._database.path

    async def close(self) -> None:
        """Closes the file after the reads in progress; later reads fail."""
        await self._database.close()

    async def load_positions(self) -> dict[str, int]:
        """The next offset by topic; empty for a new file."""
        rows = await self._database.read("load_positions")
        return {str(topic): int(str(offset)) for topic, offset in rows}

    async def load_auctions(self) -> dict[TaskId, AuctionState]:
        """Loads all of settle's auctions, in pages: one read must not block the loop longer than a chunk."""
        found: dict[TaskId, AuctionState] = {}
        last = ""
        while rows := await self._database.read("load_auctions", last, _BATCH):
            found.update(map(auction_of, rows))
            last = str(rows[-1][0])
        return found

    async def load_outcomes(self, keys: Sequence[OutcomeKey]) -> dict[OutcomeKey, Outcome]:
        """Loads the rows of the given (task, agent) pairs; missing ones are left out."""
        found: dict[OutcomeKey, Outcome] = {}
        for start in range(0, len(keys), _BATCH):
            rows = await self._database.read("load_outcomes", pairs_parameter(keys[start : start + _BATCH]))
            found.update(((row.task_id, row.agent_id), row) for row in map(outcome_of, rows))
        return found

    async def all_outcomes(self) -> AsyncIterator[list[Outcome]]:
        """Loads all rows, in pages."""
        after = (TaskId(""), AgentId(""))
        while page := await self.outcomes_after(after, _BATCH):
            yield page
            after = page[-1].task_id, page[-1].agent_id

    async def outcomes_after(self, after: OutcomeKey, limit: int) -> list[Outcome]:
        """The next so many rows after a key, in the order of keys."""
        return [outcome_of(row) for row in await self._database.read("load_outcomes_after", *after, limit)]

    async def load_cutoff(self) -> Cutoff | None:
        """The cutoff before which parts of outcomes have expired; None if there never was one.

        Rows may still hold expired parts until they are swept: `living` removes them.
        """
        for row in await self._database.read("load_cutoff"):
            return msgspec.convert(row, Cutoff)
        return None

    async def expired_after(
        self, after: OutcomeKey | None, cutoff: Cutoff, *, scanned: int, limit: int
    ) -> tuple[list[OutcomeKey], OutcomeKey | None]:
        """Finds rows with an expired part among the next `scanned` rows in key order.

        There is no index on the times, because it would slow down every insert, even without a retention.

        Returns:
            At most `limit` keys, and the key to continue after; None at the table's end.
        """
        first = after or ("", "")
        page_end = await self._database.read("load_page_end", *first, scanned - 1)
        last = page_end or await self._database.read("load_last_key")
        if not last:
            return [], None
        times = (cutoff.closes, cutoff.others, cutoff.others)
        found = await self._database.read("load_expired", *first, *map(str, last[0]), *times, limit)
        keys = [msgspec.convert(row, OutcomeKey) for row in found]
        if len(keys) == limit:
            return keys, keys[-1]
        return keys, msgspec.convert(page_end[0], OutcomeKey) if page_end else None

    async def load_forgotten(self) -> dict[AgentId, Micros]:
        """Loads the time until which each agent is forgotten."""
        return dict(
            msgspec.convert(await self._database.read("load_forgotten"), list[tuple[AgentId, Micros]])
        )

    async def keys_of_agents(self, ids: Sequence[AgentId]) -> AsyncIterator[list[OutcomeKey]]:
        """Finds the keys of all rows of some agents, in pages.

        It scans every row: an index by agent would slow down every insert for a rare operation.
        """
        parameter, after = ids_parameter(ids), ("", "")
        while last := await _page_end(self._database, after, _SCANNED):
            found = await self._database.read("load_keys_of_agents", *after, *last, parameter)
            yield [msgspec.convert(row, OutcomeKey) for row in found]
            after = last

    async def load_agents(
        self, ids: Sequence[AgentId]
    ) -> dict[AgentId, tuple[AgentRow, MutableMapping[str, Tally]]]:
        """Loads the metrics and keywords of the given agents; unknown ones are left out."""
        parameter = ids_parameter(ids)
        found: dict[AgentId, tuple[AgentRow, MutableMapping[str, Tally]]] = {
            agent_id: (row, {})
            for agent_id, row in map(agent_of, await self._database.read("load_agents", parameter))
        }
        async with aclosing(self._database.read_in_pages("load_keywords", _KEYWORDS, parameter)) as pages:
            async for page in pages:
                for row in map(keyword_of, page):
                    if row.agent_id in found:
                        # Words and small counts repeat between agents: shared objects save most memory.
                        found[row.agent_id][1][shared(row.keyword)] = tally_of(row.wins, row.failures)
                if row.agent_id in found:  # the page's last agent: only this one may have more rows
                    agent_row, tallies = found[row.agent_id]
                    found[row.agent_id] = agent_row, bucketed(tallies)
        return found

    async def load_sums(self, ids: Sequence[AgentId]) -> dict[AgentId, dict[str, KeptSums]]:
        """The strategies' sums of the given agents; agents without any are left out."""
        found: dict[AgentId, dict[str, KeptSums]] = {}
        for row in map(sums_of, await self._database.read("load_sums", ids_parameter(ids))):
            found.setdefault(row.agent_id, {})[sys.intern(row.strategy)] = KeptSums.of(row.cells)
        return found

    async def claim_strategies(self, versions: Mapping[str, int]) -> dict[str, OutcomeKey | None]:
        """Makes the file keep the sums of these strategies, each of a version, and of no others.

        Returns:
            The row up to which each has counted; None: all rows.

        Raises:
            StateError: the file cannot be read or written.
        """
        return await claim_strategies(self._database, versions)

    async def load_unpublished(self) -> set[AgentId]:
        """Loads the agents whose metrics record is due."""
        return {
            msgspec.convert(agent_id, AgentId)
            for (agent_id,) in await self._database.read("load_unpublished")
        }

    async def mark_unpublished(self) -> None:
        """Makes the metrics record of every agent due: the topic has lost what was written.

        Raises:
            StateError: SQLite refused; nothing is changed.
        """
        await self._database.transact([("mark_unpublished", [()])])

    async def write(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint's rows and positions in one transaction.

        Then it converts some of the rows that a change of the format has left, if any: few enough to take a
        fraction of the time between two checkpoints.

        Raises:
            StateError: SQLite refused; the refused transaction is not in the file.
        """
        await self._database.transact(writes_of(checkpoint))
        for _ in range(_CONVERTED_PAGES):
            if not await self._database.convert_page():
                return

    async def rewind(self, positions: Mapping[TopicName, int]) -> None:
        """Deletes settle's auctions and sets the positions to read again from, in one transaction.

        A file without its auctions but with its old positions would look complete to the next start.
        """
        await self._database.transact([("delete_auctions", [()]), ("save_position", list(positions.items()))])


async def _page_end(database: Database, after: tuple[str, str], scanned: int) -> tuple[str, str] | None:
    """The key `scanned` rows further, or the table's last key; None if no row follows `after`."""
    rows = await database.read("load_page_end", *after, scanned - 1) or await database.read("load_last_key")
    last = (str(rows[0][0]), str(rows[0][1])) if rows else after
    return last if last > after else None


async def claim(database: Database, identity: dict[str, str]) -> None:
    """Notes whose file it is; refuses the file of another."""
    found = {str(name): str(value) for name, value in await database.read("load_identity")}
    other = stranger(found, identity) if found else None
    if other is not None:
        raise mismatch(database.path, other, found, identity).error()
    missing = gained(found, identity) if found else identity
    if missing:
        await database.transact([("save_identity", list(missing.items()))])
