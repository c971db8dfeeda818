"""Retention: how outcomes expire, consistently in a shard's file, in the changelog and in the metrics.

The rule: a part of an outcome (a close, a bid, a result) whose own time is before the shard's cutoff counts
as if it had never been published. A row is deleted when none of its parts is left. The cutoff is one
retention before now; for bids and results it is one auction horizon earlier, so that none expires before the
close it belongs to.

Order does not matter, because a join keeps the greatest of each part, which is also the latest. So the state
under a cutoff is a function of the facts alone: joining before or after removal, one step of the cutoff or
many, copies, redelivery and re-reading all leave the same parts. In return, a bid placed more than a horizon
before its close, or a result that much older than its close, expires before that close does, on every
replica alike.

A forgotten agent has its own cutoff, given by its marker in the changelog, with or without a retention. learn
removes the parts of its rows when the marker is read (`Learn.forget`); this module filters its facts when
they are sent and read, and decides which tombstones are due.

1. now: the lesser of this worker's clock and the newest record time the shard has read from its sources.
   So a wrong clock of a worker or of a publisher alone expires nothing, and neither does a silent swarm.
2. The cutoff moves in steps of a hundredth of the retention, and never back. It is stored in the file, with
   the first rows it changed, and in the metadata of the changelog's commit, in case the file is lost.
3. Facts are filtered when they are sent and when they are read: an expired part is never inserted again.
4. Rows are swept in pages once the cutoff is in the file: every row that was joined under an earlier cutoff
   is in the file by then. Metrics change by the difference.
5. A tombstone for its key removes a fact from the changelog. The keys of a swept row are rebuilt from its
   parts; their tombstones are acknowledged before the checkpoint that deletes the row is written. A fact that
   is read with an expired part is tombstoned, too, unless its tombstone follows. What is left of
   a fact is sent as a new fact, and acknowledged, before the tombstone is sent.
6. Only a restored shard sends tombstones, because many are found later in the log. Safety does not depend on
   it: a tombstone states only that a time is before a cutoff, which stays true, whoever sends it and however
   late. A stalled owner's tombstones repeat the owner's or are at most one step ahead of them; any fact that
   it sends again is read by the owner and tombstoned again.

The keys of facts that a correction superseded before they expired are not found this way. They stay in the
changelog, where they do not count, until a shard is restored from the beginning and step 5 finds them.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from learner_worker.contract.facts import Fact, ForgetMarker, encode_fact, encode_marker
from learner_worker.contract.fields import AgentId
from learner_worker.contract.times import Micros
from learner_worker.domain.bucketed import bucketed, item_slices
from learner_worker.domain.outcomes import (
    Cutoff,
    Outcome,
    OutcomeKey,
    agents_cutoff,
    facts_behind,
    later_cutoff,
    living_fact,
)

SCANNED: Final = 2_000
"""Rows scanned in one read: more would occupy the file's thread while answers wait for it."""
EXPIRED: Final = 500
"""Expired rows returned by one read: their changes are held in memory until the next checkpoint."""
HELD: Final = 100_000
"""The most tombstones that a restoring shard holds back until it has read the log: bounds their memory."""
_MARK = ";cutoff="
_NOTE = re.compile(_MARK + r"(-?[0-9]{1,18}),(-?[0-9]{1,18})$", re.ASCII)
"""Accepts only numbers that the file can store: another tool may have committed any metadata."""
STEPS: Final = 100
"""Steps of the cutoff in one retention: each scans every row, and rows may expire one step late."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The retention policy.

    Attributes:
        retention_micros: how long a close counts; None if nothing expires.
        step_micros: the length of the cutoff's steps.
        grace_micros: how much longer than a close a bid or a result counts.
        now: this worker's clock.
    """

    retention_micros: int | None
    step_micros: int
    grace_micros: int
    now: Callable[[], Micros]


class Pages(Protocol):
    """Finds expired rows, in pages."""

    async def expired_after(
        self, after: OutcomeKey | None, cutoff: Cutoff, *, scanned: int, limit: int
    ) -> tuple[list[OutcomeKey], OutcomeKey | None]:
        """Keys of rows with an expired part, and the key to continue after; None at the end."""
        ...


class Retention:
    """One shard's cutoff, the progress of its sweep, and the facts whose tombstones are due.

    Args:
        filed: the cutoff in the shard's file.
        committed: the cutoff in the commit's metadata, which another owner may have written.
        forgotten: the time until which each agent of this shard is forgotten; learn adds to it.
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
        self._durable = filed
        self._snapshot: Cutoff | None = filed
        self._sweeping: Cutoff | None = None
        self._swept: Cutoff | None = None
        self._after: OutcomeKey | None = None
        self._due_tombstones: MutableMapping[bytes, Fact | None] = {}

    # --- the cutoff --------------------------------------------------------------------------------------

    def advance(self, newest: Micros) -> None:
        """Advances the cutoff after a record with this time was read."""
        policy = self._policy
        if policy.retention_micros is None:
            return
        oldest = min(newest, policy.now()) - policy.retention_micros
        closes = oldest // policy.step_micros * policy.step_micros
        found = Cutoff(Micros(closes), Micros(closes - policy.grace_micros))
        self.cutoff = later_cutoff(self.cutoff, found)

    def snapshot(self) -> Cutoff | None:
        """The cutoff for the next checkpoint."""
        self._snapshot = self.cutoff
        return self._snapshot

    def on_checkpoint_written(self) -> None:
        """Notes that the last snapshot is in the file: rows may be swept by its cutoff."""
        self._durable = self._snapshot

    # --- facts -------------------------------------------------------------------------------------------

    def filter_outgoing(self, facts: Sequence[Fact]) -> Sequence[Fact]:
        """The facts to send, without what has expired."""
        if self.cutoff is None and not self._forgotten:
            return facts
        left = (self._living(fact, self._cutoff_of(fact)) for fact in facts)
        return [fact for fact in left if fact is not None]

    def filter_read(self, fact: Fact) -> Fact | None:
        """A fact of the changelog, without what has expired; its tombstone is then due."""
        if self.cutoff is None and not self._forgotten:
            return fact
        return self._filter_read(fact, self._cutoff_of(fact))

    def _filter_read(self, fact: Fact, cutoff: Cutoff | None) -> Fact | None:
        left = self._living(fact, cutoff)
        if left is not fact:
            self._due_tombstones[encode_fact(fact)[0]] = left
            self._due_tombstones = bucketed(self._due_tombstones)
        return left

    def _cutoff_of(self, fact: Fact) -> Cutoff | None:
        return agents_cutoff(fact.agent_id, self.cutoff, self._forgotten)

    def _living(self, fact: Fact, cutoff: Cutoff | None) -> Fact | None:
        return fact if cutoff is None else living_fact(fact, cutoff)

    def on_tombstone_read(self, key: bytes | None) -> None:
        """Notes that a tombstone was read: its key needs no other."""
        if key is not None:
            self._due_tombstones.pop(key, None)

    def on_row_swept(self, row: Outcome, cutoff: Cutoff) -> None:
        """Notes that a row loses parts: tombstones of the facts that may hold them are due."""
        for fact in facts_behind(row):
            self._filter_read(fact, cutoff)

    def on_marker_superseded(self, marker: ForgetMarker) -> None:
        """Notes that a later marker of the agent was read: this one's tombstone is due."""
        self._due_tombstones[encode_marker(marker)[0]] = None

    def erases(self, agent_id: AgentId) -> bool:
        """Whether nothing may remain of this agent once it has no outcomes."""
        return self.cutoff is not None or agent_id in self._forgotten

    def take_due_tombstones(self, *, restored: bool) -> Iterator[list[tuple[bytes, Fact | None]]]:
        """Keys to tombstone, each with the remainder of its fact if that has to be sent first.

        They are taken some at a time; meanwhile others may become due, or be found in the changelog. The
        caller sends them, and calls again once they are acknowledged: only then is the tombstone of a key
        with a remainder due.
        """
        count = len(self._due_tombstones) - (0 if restored else HELD)
        for some in item_slices(self._due_tombstones):
            if count <= 0:
                return
            due = self._take(key for key, _ in some[:count])
            count -= len(due)
            yield due
        if not self._due_tombstones:
            self._due_tombstones = {}  # buckets keep the memory of what they held

    def _take(self, keys: Iterable[bytes]) -> list[tuple[bytes, Fact | None]]:
        due = [(key, self._due_tombstones[key]) for key in keys if key in self._due_tombstones]
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
        """Keys of some rows with an expired part; None when all rows are swept by the written cutoff."""
        if self._sweeping is None:
            if self._durable == self._swept:
                return None
            self._sweeping, self._after = self._durable, None
        cutoff = self._sweeping
        if cutoff is None:
            return None
        keys, self._after = await pages.expired_after(self._after, cutoff, scanned=SCANNED, limit=EXPIRED)
        if self._after is None:
            self._swept, self._sweeping = cutoff, None
        return keys


def cutoff_note(cutoff: Cutoff | None) -> str:
    """A cutoff, as in the metadata of the changelog's commit."""
    return "" if cutoff is None else f"{_MARK}{cutoff.closes},{cutoff.others}"


def read_cutoff_note(metadata: str) -> Cutoff | None:
    """The cutoff in a commit's metadata, if there is one."""
    found = _NOTE.search(metadata)
    return None if found is None else Cutoff(Micros(int(found[1])), Micros(int(found[2])))
