"""Retention in parts: when the cutoff moves, what it takes, which tombstones are due, and the sweep."""

import asyncio
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from learner_worker.contract.facts import Bid, Close, Fact, Result, decode_fact, encode_fact
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.times import Micros
from learner_worker.domain.bucketed import LOOKED_AT
from learner_worker.domain.metrics import Metrics
from learner_worker.domain.outcomes import Cutoff, Outcome, OutcomeKey, facts_of, living, living_fact
from learner_worker.domain.retention import Policy, Retention, cutoff_note, read_cutoff_note
from learner_worker.observability import Instruments
from learner_worker.shard.shard import Shard
from learner_worker.store.statements import Checkpoint
from tests.simulation.log import Entry
from tests.support.shards import NEW, SHARD, TOPICS, RecordingSink, checkpoint, opened_file, shard_context

T, A = TaskId("t"), AgentId("a")
CLOSE, BID, RESULT = Close(Micros(10), A), Bid(Micros(8), 70, "parse"), Result(Micros(12), succeeded=True)
WHOLE = Outcome(T, A, CLOSE, BID, RESULT)


def policy(retention: int | None = 100, now: int = 1_000) -> Policy:
    return Policy(retention, step_micros=10, grace_micros=5, now=lambda: Micros(now))


def at(closes: int) -> Cutoff:
    return Cutoff(Micros(closes), Micros(closes - 5))


@pytest.mark.parametrize(
    ("newest", "now", "expected"),
    [(555, 1_000, 450), (2_000, 555, 450), (550, 1_000, 450), (549, 1_000, 440), (1, 1_000, -100)],
)
def test_the_cutoff_is_a_retention_before_the_lesser_witness(newest: int, now: int, expected: int) -> None:
    """Neither this worker's clock nor a record's time alone moves it; it moves in whole steps."""
    retention = Retention(policy(now=now), None, None)
    retention.advance(Micros(newest))
    assert at(expected) == retention.cutoff


def test_the_cutoff_never_moves_back() -> None:
    """Not by an older record, an older file, another owner's commit or a retention switched off."""
    for filed, committed in ((at(400), None), (None, at(400)), (at(390), at(400))):
        retention = Retention(policy(), filed, committed)
        retention.advance(Micros(300))
        assert at(400) == retention.cutoff
    switched_off = Retention(policy(None), at(400), None)
    switched_off.advance(Micros(900))
    assert at(400) == switched_off.cutoff
    assert switched_off.filter_outgoing([Fact(T, A, CLOSE)]) == []


def test_parts_expire_by_their_own_times() -> None:
    """A close at its time, bids and results a grace later; the time itself is not before it."""
    assert living(WHOLE, at(10)) is WHOLE
    assert Outcome(T, A, None, BID, RESULT) == living(WHOLE, at(11))
    assert Outcome(T, A, None, None, RESULT) == living(WHOLE, at(14))
    assert not living(WHOLE, at(18)).known
    assert [Fact(T, A, CLOSE, BID), Fact(T, A, result=RESULT)] == facts_of(WHOLE)
    assert living_fact(Fact(T, A, CLOSE, BID), at(14)) is None


def test_what_lives_of_a_fact_goes_before_its_tombstone() -> None:
    """First the bid as a fact of its own; with the next call, when Kafka has it, the tombstone."""
    retention = Retention(policy(), at(11), None)
    key = encode_fact(Fact(T, A, CLOSE, BID))[0]
    assert Fact(T, A, None, BID) == retention.filter_read(Fact(T, A, CLOSE, BID))
    assert [[(key, Fact(T, A, None, BID))]] == list(retention.take_due_tombstones(restored=True))
    assert [[(key, None)]] == list(retention.take_due_tombstones(restored=True))
    assert list(retention.take_due_tombstones(restored=True)) == []


def test_a_tombstone_that_is_read_saves_another() -> None:
    """And a shard that is not restored sends none: its tombstones may come later in the log."""
    retention = Retention(policy(), at(40), None)
    assert retention.filter_read(Fact(T, A, CLOSE)) is None
    assert list(retention.take_due_tombstones(restored=False)) == []
    retention.on_tombstone_read(encode_fact(Fact(T, A, CLOSE))[0])
    assert list(retention.take_due_tombstones(restored=True)) == []


def expired(count: int) -> list[Fact]:
    """Facts of so many tasks; under the cutoff of these tests only every hundredth one's bid lives."""
    return [
        Fact(TaskId(f"t{number}"), A, CLOSE, Bid(Micros(8 if number % 100 == 0 else 1), 70, "parse"))
        for number in range(count)
    ]


@pytest.mark.parametrize("count", [4 * LOOKED_AT, 12 * LOOKED_AT])
def test_due_tombstones_are_taken_some_at_a_time(count: int) -> None:
    """Each once, as many as the agent's history has left; what is read meanwhile is not taken any more.

    What is left of a fact comes first, and its tombstone only when the next ones are taken.
    """
    retention = Retention(policy(), at(11), None)
    facts = {encode_fact(fact)[0]: fact for fact in expired(count)}
    left = {key: retention.filter_read(fact) for key, fact in facts.items()}
    slices = retention.take_due_tombstones(restored=True)
    taken = next(slices)
    assert len(taken) <= 2 * LOOKED_AT
    read = next(key for key in facts if left[key] is None and (key, None) not in taken)
    retention.on_tombstone_read(read)
    rest = list(slices)
    assert max(map(len, rest)) <= 2 * LOOKED_AT
    taken += itertools.chain.from_iterable(rest)
    assert (len(taken), dict(taken)) == (count - 1, {key: left[key] for key in facts if key != read})
    second = list(itertools.chain.from_iterable(retention.take_due_tombstones(restored=True)))
    assert dict(second) == {key: None for key in facts if left[key] is not None}
    assert len(second) == count // 100
    assert list(retention.take_due_tombstones(restored=True)) == []


@pytest.mark.parametrize("held", [LOOKED_AT // 2, 6 * LOOKED_AT])
def test_a_restoring_shard_holds_so_many_tombstones_back(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what exceeds the bound is sent before the shard has read the log, and the rest after it."""
    monkeypatch.setattr("learner_worker.domain.retention.HELD", held)
    retention = Retention(policy(), at(40), None)
    for fact in expired(7 * LOOKED_AT):
        assert retention.filter_read(fact) is None
    early = sum(map(len, retention.take_due_tombstones(restored=False)))
    late = sum(map(len, retention.take_due_tombstones(restored=True)))
    assert (early, late) == (7 * LOOKED_AT - held, held)


async def test_tombstones_of_a_long_history_are_sent_while_the_changelog_is_read(tmp_path: Path) -> None:
    """One that is read before its turn comes saves another: they do not all leave the memory at once."""
    facts = expired(5 * LOOKED_AT)

    class ReadMeanwhile(RecordingSink):
        def append(self, *args: Any, **kwargs: Any) -> None:
            super().append(*args, **kwargs)
            if self.sends.total() == 1:
                for fact in facts:
                    shard.retention.on_tombstone_read(encode_fact(fact)[0])

    sink = ReadMeanwhile()
    shard = await Shard.open(SHARD, shard_context(sink), await opened_file(tmp_path), NEW)
    shard.retention.cutoff = at(40)
    for fact in facts:
        assert shard.retention.filter_read(fact) is None
    await checkpoint(shard)
    assert 0 < sink.sends[TOPICS.outcomes] <= 2 * LOOKED_AT
    assert list(shard.retention.take_due_tombstones(restored=True)) == []
    await shard.close()


def test_a_winners_close_without_its_text_has_a_key_of_its_own() -> None:
    """Its bid has expired; equal keys must mean equal content, and the close itself may carry the text."""
    close = Close(Micros(10), A, None, "digest", "the text")
    left = living_fact(Fact(T, A, Close(Micros(10), A, None, "digest"), Bid(Micros(1), 7, "old")), at(9))
    assert left is not None
    assert left.bid is None
    assert encode_fact(left)[0] != encode_fact(Fact(T, A, close))[0]


def test_a_cutoff_travels_in_a_commits_metadata() -> None:
    """What is noted is read; anything else says nothing."""
    assert at(400) == read_cutoff_note(f"rewind=7{cutoff_note(at(400))}")
    assert cutoff_note(None) == ""
    for cutoff in ("", ";cutoff=", ";cutoff=1", ";cutoff=x,y", f";cutoff={2**63},1"):
        assert read_cutoff_note(f"rewind=7{cutoff}") is None


async def test_no_sweep_while_loaded_facts_are_still_to_be_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result meets the row it was loaded for, or what a sweep left of it: the metrics stay the rows'."""
    file = await opened_file(tmp_path)
    sink = RecordingSink()
    shard = await Shard.open(SHARD, shard_context(sink), file, NEW)
    await shard.process(TOPICS.outcomes, [_entry(0, Fact(T, A, CLOSE, BID))])
    await checkpoint(shard)
    shard.retention.cutoff = at(11)
    await checkpoint(shard)  # the cutoff is written; the next checkpoint sweeps
    loaded, may_go_on = asyncio.Event(), asyncio.Event()
    load = file.load_outcomes

    async def load_slowly(keys: Sequence[OutcomeKey]) -> dict[OutcomeKey, Outcome]:
        rows = await load(keys)
        if not loaded.is_set():
            loaded.set()
            await may_go_on.wait()
        return rows

    monkeypatch.setattr(file, "load_outcomes", load_slowly)
    learning = asyncio.create_task(shard.process(TOPICS.outcomes, [_entry(1, Fact(T, A, result=RESULT))]))
    await loaded.wait()
    sweeping = asyncio.create_task(checkpoint(shard))
    await load([(T, A)])  # time for the sweep to look the row up, and to change it if it could
    await file.expired_after(None, at(11), scanned=10, limit=10)
    await load([(T, A)])
    may_go_on.set()
    await asyncio.gather(learning, sweeping)
    await checkpoint(shard)
    await checkpoint(shard)

    assert {(T, A): Outcome(T, A, None, BID, RESULT)} == await load([(T, A)])
    agents = await shard.agents.load([A])
    assert agents[A].metrics == Metrics()
    assert agents[A].tallies == {}
    await shard.close()


def _entry(offset: int, fact: Fact) -> Entry:
    key, value = encode_fact(fact)
    assert decode_fact(value) == fact
    return Entry(TOPICS.outcomes, 0, offset, 1, key, value)


async def test_a_page_of_rows_is_swept_and_counted(tmp_path: Path) -> None:
    """Rows go from the file, their facts by tombstones, and the counter says how many outcomes it were."""
    file = await opened_file(tmp_path)
    rows = {
        (TaskId(f"t{number}"), A): Outcome(
            TaskId(f"t{number}"), A, Close(Micros(number)), Bid(Micros(number), 1, "")
        )
        for number in range(700)
    }
    await file.write(Checkpoint(dict.fromkeys(TOPICS.subscribed, 0), outcomes=rows, cutoff=at(605)))
    sink = RecordingSink()
    instruments = Instruments()
    shard = await Shard.open(SHARD, shard_context(sink, instruments), file, NEW)
    for _ in range(4):
        await checkpoint(shard)
    left = [row async for page in file.all_outcomes() for row in page]
    assert sorted(row.bid.placed_at for row in left if row.bid is not None) == list(range(600, 700))
    assert instruments.registry.get_sample_value("learner_outcomes_expired_total") == 605
    assert sink.sends[TOPICS.outcomes] == 2 * 605 + 5
    await shard.close()
