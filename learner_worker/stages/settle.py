"""settle: joins a task's bids and closes into facts, and remembers each task until it expires.

bid-placed, auction-closed, task-finished -> learner-outcomes
"""

import heapq
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from learner_worker.contract.decode import Closed, Finished, Placed
from learner_worker.contract.facts import Bid, Close, Fact, Result, description_digest
from learner_worker.contract.fields import TaskId
from learner_worker.contract.times import LAST_MICROS, Micros
from learner_worker.domain.auctions import Auction, AuctionState
from learner_worker.stages.release import GiveWay, GradualRelease

_EXPIRED_AT_ONCE = 1_000
"""The most tasks that expire in one step, so that it does not block the event loop; the rest follow."""


class Place(msgspec.Struct, frozen=True, gc=False):
    """The source of an event: its topic, offset and record time (microseconds), and when it was read."""

    topic: str
    offset: int
    micros: Micros
    now: Micros = LAST_MICROS


@dataclass(slots=True)
class _Task:
    """A remembered task. `snapshot` is the number of the last snapshot that may still read this object."""

    auction: Auction
    first_micros: Micros
    first_offsets: dict[str, int]
    snapshot: int


class ExpiredTasks(NamedTuple):
    """The number of tasks that expired, and of those among them that had never closed."""

    tasks: int
    never_closed: int


class Settle:
    """The auctions of one shard.

    Args:
        tolerance_micros: how long after its close a bid may be placed and still count.
        horizon_micros: how far apart the events of one auction may arrive.
    """

    def __init__(self, *, tolerance_micros: int, horizon_micros: int) -> None:
        self._tolerance = tolerance_micros
        self._horizon = horizon_micros
        self._tasks: dict[TaskId, _Task] = {}
        self._by_age: list[tuple[Micros, TaskId]] = []
        self._by_offset: dict[str, deque[tuple[int, TaskId]]] = {}
        self._changed: dict[TaskId, _Task | None] = {}
        self._snapshots = 0
        self.open = 0
        """The number of remembered tasks that have not closed."""

    @property
    def remembered(self) -> int:
        """The number of remembered tasks, open and closed."""
        return len(self._tasks)

    def restore(self, states: Mapping[TaskId, AuctionState]) -> None:
        """Restores some tasks from the file; `finish_restore` must follow the last call."""
        for task_id, state in states.items():
            auction = Auction(task_id, state.standing, set(state.notified), state.pending_bids)
            task = _Task(auction, Micros(state.first_micros), state.first_offsets, self._snapshots)
            self._tasks[task_id] = task
            self.open += state.standing is None
            self._by_age.append((task.first_micros, task_id))
            for topic, offset in task.first_offsets.items():
                self._by_offset.setdefault(topic, deque()).append((offset, task_id))

    def finish_restore(self) -> None:
        """Orders the restored tasks; done once, because each call of `restore` only appends."""
        heapq.heapify(self._by_age)
        self._by_offset = {topic: deque(sorted(queue)) for topic, queue in self._by_offset.items()}

    async def free(self, give_way: GiveWay) -> None:
        """Frees the memory in short steps, and gives way after each; nobody may use it any more."""
        unused = GradualRelease()
        unused.add_queue(self._by_age)
        for queue in self._by_offset.values():
            unused.add_queue(queue)
        unused.add(self._changed)
        unused.add(self._tasks)
        await unused.release(give_way)

    def bid(self, event: Placed, place: Place) -> list[Fact]:
        """Processes a bid: keeps it until a close, or settles it at once under the standing close."""
        placed_at = place.micros if event.placed_at is None else event.placed_at
        bid = Bid(placed_at, event.bid_sats, event.description)
        return self._changing(event.task_id, place, placed_at).place(event.agent_id, bid, self._tolerance)

    def close(self, event: Closed, place: Place) -> list[Fact]:
        """Processes a close: the first one, a newer one or a superseded one."""
        close = Close(
            place.micros if event.closed_at is None else event.closed_at,
            event.winner_agent_id,
            event.winning_bid_sats,
            None if event.description is None else description_digest(event.description),
            event.description,
        )
        auction = self._changing(event.task_id, place, close.closed_at)
        self.open -= auction.standing is None
        return auction.close(close, self._tolerance)

    @staticmethod
    def result(event: Finished, place: Place) -> list[Fact]:
        """Processes a result: forwards it at once, by rule 3 (docs/protocol.md)."""
        finished_at = place.micros if event.finished_at is None else event.finished_at
        return [Fact(event.task_id, event.agent_id, result=Result(finished_at, event.succeeded))]

    def expire_tasks(self, watermark: Micros) -> ExpiredTasks:
        """Forgets the tasks whose first event is more than the horizon before the watermark.

        This is rule 6 (docs/protocol.md).
        """
        tasks = never_closed = 0
        while self._by_age and self._by_age[0][0] + self._horizon < watermark and tasks < _EXPIRED_AT_ONCE:
            _, task_id = heapq.heappop(self._by_age)
            task = self._tasks.pop(task_id)
            self._changed[task_id] = None
            tasks += 1
            never_closed += task.auction.standing is None
        self.open -= never_closed
        return ExpiredTasks(tasks, never_closed)

    def rewind_offset(self, topic: str, position: int) -> int:
        """The smallest offset of a remembered task's events in a topic; the position if there is none.

        This is rule 7 (docs/protocol.md).
        """
        queue = self._by_offset.get(topic)
        while queue:
            offset, task_id = queue[0]
            task = self._tasks.get(task_id)
            if task is not None and task.first_offsets.get(topic) == offset:
                return min(offset, position)
            queue.popleft()
        return position

    def snapshot(self) -> Mapping[TaskId, AuctionState | None]:
        """Captures the tasks changed since the last snapshot, None for forgotten ones; makes rows on read."""
        changed, self._changed = self._changed, {}
        self._snapshots += 1
        return _Frozen(changed)

    def _changing(self, task_id: TaskId, place: Place, own_time: Micros) -> Auction:
        task = self._tasks.get(task_id)
        if task is None:
            first_micros = self._first_micros(place, own_time)
            task = _Task(Auction(task_id), first_micros, {}, self._snapshots)
            self._tasks[task_id] = task
            self.open += 1
            heapq.heappush(self._by_age, (first_micros, task_id))
        elif task.snapshot != self._snapshots:
            task = _Task(task.auction.copy(), task.first_micros, dict(task.first_offsets), self._snapshots)
            self._tasks[task_id] = task
        self._note_offset(task, task_id, place)
        self._changed[task_id] = task
        return task.auction

    def _first_micros(self, place: Place, own_time: Micros) -> Micros:
        """The time from which a task is remembered for the horizon: its first event's record time.

        A record time may be far off, as when a publisher gives seconds for milliseconds. So the event's own
        time counts if it is later, and neither counts beyond the time at which the event was read.
        """
        in_range = place.micros <= place.now + self._horizon
        return max(place.micros if in_range else place.now, min(own_time, place.now))

    def _note_offset(self, task: _Task, task_id: TaskId, place: Place) -> None:
        if place.topic not in task.first_offsets:
            task.first_offsets[place.topic] = place.offset
            self._by_offset.setdefault(place.topic, deque()).append((place.offset, task_id))


class _Frozen(Mapping[TaskId, AuctionState | None]):
    """The tasks of a snapshot: `_changing` copies a task before it changes it, so these stay as they are."""

    def __init__(self, tasks: Mapping[TaskId, _Task | None]) -> None:
        self._tasks = tasks

    def __getitem__(self, task_id: TaskId) -> AuctionState | None:
        task = self._tasks[task_id]
        return None if task is None else _state_of(task)

    def __iter__(self) -> Iterator[TaskId]:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)


def _state_of(task: _Task) -> AuctionState:
    auction = task.auction
    return AuctionState(
        task.first_micros,
        task.first_offsets,
        auction.standing,
        sorted(auction.notified),
        auction.pending_bids,
    )


def watermark_of(sources: Iterable[Micros | None]) -> Micros | None:
    """The shard's watermark: the smallest of its sources'; None while one of them is unknown."""
    known = list(sources)
    times = [micros for micros in known if micros is not None]
    return min(times) if times and len(times) == len(known) else None
