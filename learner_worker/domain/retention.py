"""Retention: how outcomes expire, consistently in a shard's file, in the changelog and in the metrics.

The rule: a part of an outcome (a close, a bid, a result) whose own time lies before the shard's cutoff counts
as if it had never been published. A row is deleted when none of its parts is left. The cutoff is one
retention before now; for bids and results one auction horizon earlier, so that none expires before the close
it belongs to.

Why order cannot matter: of each part the greatest stands, and the greatest is the latest. So the state under
a cutoff is a function of the facts alone. Joining before or after taking away, one step of the cutoff or
many, copies, redelivery and re-reading all leave the same parts. The price: a bid placed more than a horizon
before its close, or a result that much older than its close, expires before that close does, on every
replica alike.

A forgotten agent has a cutoff of its own, by its marker in the changelog, with or without a retention. learn
takes away the parts of its rows when the marker is read (`Learn.forget`); this module filters its facts when
they are sent and read, and says which tombstones are due.

1. now: the lesser of this worker's clock and the newest record time the shard has read from its sources.
   Neither a worker's nor a publisher's wrong clock alone forgets anything; a silent swarm forgets nothing.
2. The cutoff moves in steps of a hundredth of the retention, never back: it is in the file, written with
   the first rows it changed, and in the metadata of the changelog's commit, for when the file is lost.
3. Facts are filtered where they are sent and where they are read: an expired part is never inserted again.
4. Rows are swept in pages once the cutoff is in the file: every row that was joined under an earlier one
   is in the file by then. Metrics change by the difference.
5. The changelog forgets a fact by a tombstone for its key. The keys of a swept row are rebuilt from its
   parts; their tombstones are acknowledged before the checkpoint that deletes the row is written. A fact that
   is read with an expired part is tombstoned too, unless its tombstone is read after it. What still lives of
   a fact is sent as a fact of its own, and acknowledged, before the tombstone is sent.
6. Only a restored shard sends tombstones, because many are found later in the log. Safety does not depend on
   it: a tombstone says only that a time lies before a cutoff, which stays true, whoever sends it and however
   late. A stalled owner's tombstones repeat the owner's or are at most one step ahead of them; whatever else
   it sends again is read by the owner and tombstoned again.

What is not found again: the keys of facts that a correction superseded before they expired. They stay in the
changelog, where they no longer count, until a shard is restored from the beginning: then step 5 finds them.
"""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from learner_worker.contract.facts import Fact, ForgetMarker, encode_fact, encode_marker
from learner_worker.contract.fields import AgentId
from learner_worker.contract.times import Micros
from learner_worker.domain.outcomes import (
    Cutoff,
    Outcome,
    OutcomeKey,
    agents_cutoff,
    facts_behind,
    later_cutoff,
    living_fact,
)

SCANNED: Final = 5_000
"""Rows looked at in one read: so many keep the file's own thread for about two milliseconds."""
EXPIRED: Final = 500
"""Expired rows found in one read: as many as are read and changed between two reads of a page."""
HELD: Final = 100_000
"""Tombstones that a restoring shard keeps back, because many are found later in the log: memory for them."""
_MARK = ";cutoff="
_NOTE = re.compile(_MARK + r"(-?[0-9]{1,18}),(-?[0-9]{1,18})$", re.ASCII)
"""Only numbers that the file can hold: whoever may commit for the group may have written anything else."""
STEPS: Final = 100
"""Steps of the cutoff in one retention: each costs a look at every row, and is how late a row may go."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What expires, and when.

    Attributes:
        retention_micros: how long a close counts; None: nothing more expires.
        step_micros: the length of the cutoff's steps.
        grace_micros: how much longer than a close a bid or a result counts.
        now: this worker's clock.
    """

    retention_micros: int | None
    step_micros: int
    grace_micros: int
    now: Callable[[], Micros]


class Pages(Protocol):
    """Where expired rows are looked for."""

    async def expired_after(
        self, after: OutcomeKey | None, cutoff: Cutoff, *, scanned: int, limit: int
    ) -> tuple[list[OutcomeKey], OutcomeKey | None]:
        """Keys of rows with an expired part, and the key to go on after; None at the end."""
        ...


class Retention:
    """One shard's cutoff, how far its rows are swept, and the facts whose tombstones are due.

    Args:
        filed: the cutoff in the shard's file.
        committed: the cutoff in the commit's metadata, maybe another owner's.
        forgotten: until when agents of this shard are forgotten; learn adds to it.
    """

    def __init__(
        self,
        policy: Policy,
        filed: Cutoff | None,
        committed: Cutoff | None,
        forgotten: Mapping[AgentId, Micros] | None = None,
    ) -> None:
        self._policy = policy
        self._forgotten = {} if forgotten is None else forgotten
        self.cutoff = later_cutoff(filed, committed)
        self._written = filed
        self._snapshot: Cutoff | None = filed
        self._sweeping: Cutoff | None = None
        self._swept: Cutoff | None = None
        self._after: OutcomeKey | None = None
        self._due_tombstones: dict[bytes, Fact | None] = {}

    # --- the cutoff --------------------------------------------------------------------------------------

    def advance(self, newest: Micros) -> None:
        """Moves the cutoff, now that a record of this time was read."""
        policy = self._policy
        if policy.retention_micros is None:
            return
        oldest = min(newest, policy.now()) - policy.retention_micros
        closes = oldest // policy.step_micros * policy.step_micros
        found = Cutoff(Micros(closes), Micros(closes - policy.grace_micros))
        self.cutoff = later_cutoff(self.cutoff, found)

    def snapshot(self) -> Cutoff | None:
        """The cutoff as the file will have it."""
        self._snapshot = self.cutoff
        return self._snapshot

    def on_checkpoint_written(self) -> None:
        """The last snapshot is in the file: rows may be swept by its cutoff."""
        self._written = self._snapshot

    # --- facts -------------------------------------------------------------------------------------------

    def filter_outgoing(self, facts: Sequence[Fact]) -> Sequence[Fact]:
        """The facts on their way out, without what has expired."""
        if self.cutoff is None and not self._forgotten:
            return facts
        left = (self._living(fact, self._cutoff_of(fact)) for fact in facts)
        return [fact for fact in left if fact is not None]

    def filter_read(self, fact: Fact) -> Fact | None:
        """A fact of the changelog, without what has expired; it is remembered for its tombstone."""
        if self.cutoff is None and not self._forgotten:
            return fact
        return self._filter_read(fact, self._cutoff_of(fact))

    def _filter_read(self, fact: Fact, cutoff: Cutoff | None) -> Fact | None:
        left = self._living(fact, cutoff)
        if left is not fact:
            self._due_tombstones[encode_fact(fact)[0]] = left
        return left

    def _cutoff_of(self, fact: Fact) -> Cutoff | None:
        return agents_cutoff(fact.agent_id, self.cutoff, self._forgotten)

    def _living(self, fact: Fact, cutoff: Cutoff | None) -> Fact | None:
        return fact if cutoff is None else living_fact(fact, cutoff)

    def on_tombstone_read(self, key: bytes | None) -> None:
        """A tombstone was read: its key needs no other."""
        if key is not None:
            self._due_tombstones.pop(key, None)

    def on_row_swept(self, row: Outcome, cutoff: Cutoff) -> None:
        """A row loses parts: the facts that may have brought them are to be tombstoned."""
        for fact in facts_behind(row):
            self._filter_read(fact, cutoff)

    def on_marker_superseded(self, marker: ForgetMarker) -> None:
        """A later marker of the agent was read: this one is to be tombstoned."""
        self._due_tombstones[encode_marker(marker)[0]] = None

    def erases(self, agent_id: AgentId) -> bool:
        """Whether nothing may remain of this agent once it has no outcomes."""
        return self.cutoff is not None or agent_id in self._forgotten

    def take_due_tombstones(self, *, restored: bool) -> list[tuple[bytes, Fact | None]]:
        """Keys to tombstone; with what is left of a key's fact, if that has to be sent first.

        The caller sends them, and calls again after they are acknowledged: then a key whose fact left
        something is due itself.
        """
        count = len(self._due_tombstones) if restored else max(0, len(self._due_tombstones) - HELD)
        due = list(itertools.islice(self._due_tombstones.items(), count))
        for key, left in due:
            if left is None:
                del self._due_tombstones[key]
            else:
                self._due_tombstones[key] = None
        return due

    # --- rows --------------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether every row is swept by the cutoff, and no tombstone is due."""
        return self._swept == self.cutoff and not self._due_tombstones

    async def next_page(self, pages: Pages) -> list[OutcomeKey] | None:
        """Some rows with an expired part; None when all rows were looked at under the written cutoff."""
        if self._sweeping is None:
            if self._written == self._swept:
                return None
            self._sweeping, self._after = self._written, None
        cutoff = self._sweeping
        if cutoff is None:
            return None
        keys, self._after = await pages.expired_after(self._after, cutoff, scanned=SCANNED, limit=EXPIRED)
        if self._after is None:
            self._swept, self._sweeping = cutoff, None
        return keys


def cutoff_note(cutoff: Cutoff | None) -> str:
    """A cutoff as it travels with the commit of the changelog's position."""
    return "" if cutoff is None else f"{_MARK}{cutoff.closes},{cutoff.others}"


def read_cutoff_note(metadata: str) -> Cutoff | None:
    """The cutoff in a commit's metadata, if there is one."""
    found = _NOTE.search(metadata)
    return None if found is None else Cutoff(Micros(int(found[1])), Micros(int(found[2])))
