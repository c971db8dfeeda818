"""Forgotten agents: markers, what they take away in a file, and what they leave of a changelog."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from learner_worker.contract.facts import (
    Bid,
    Close,
    Fact,
    ForgetMarker,
    Result,
    decode_fact,
    decode_outcome_record,
    encode_fact,
    encode_marker,
)
from learner_worker.contract.fields import AgentId, TaskId
from learner_worker.contract.times import Micros
from learner_worker.domain.outcomes import Cutoff, Outcome, agents_cutoff
from learner_worker.domain.retention import Policy, Retention
from learner_worker.errors import RecordError, UpgradeRequiredError
from learner_worker.operations.comparison import compare
from learner_worker.operations.forget import SupersededFacts
from learner_worker.stages.learn import Learn, MarkerRecord
from learner_worker.store.shard_file import ShardFile
from learner_worker.store.snapshot import snapshot_of
from learner_worker.store.statements import Checkpoint
from tests.unit.test_changelog_replay import Read, opened
from tests.unit.test_learn import MemoryRows, agent_of, take

T, A, B = TaskId("t"), AgentId("a"), AgentId("b")
CLOSE, BID, RESULT = Close(Micros(9), A, 60), Bid(Micros(5), 70, "parse"), Result(Micros(20), succeeded=True)
SETTLED, FINISHED = Fact(T, A, CLOSE, BID), Fact(T, A, result=RESULT)


def forget(agent_id: AgentId, until: int) -> ForgetMarker:
    return ForgetMarker(agent_id, Micros(until))


def log(*contents: Fact | ForgetMarker | bytes) -> list[Read]:
    """Records of a changelog; bytes are the key of a tombstone."""
    found = []
    for offset, content in enumerate(contents):
        if isinstance(content, bytes):
            found.append(Read(offset, None, key=content))
            continue
        key, value = encode_marker(content) if isinstance(content, ForgetMarker) else encode_fact(content)
        found.append(Read(offset, value, key=key))
    return found


@pytest.fixture
async def file(tmp_path: Path) -> AsyncIterator[ShardFile]:
    file = await ShardFile.open(tmp_path / "shard-00003.sqlite3", {"shard": "3"})
    yield file
    await file.close()


# --- the record -------------------------------------------------------------------------------------


def test_a_marker_comes_back_and_its_key_is_no_facts() -> None:
    """Key: the word, the agent and until when; value: the same with its format."""
    key, value = encode_marker(forget(A, 5))
    assert (key, value) == (b'["forget","a",5]', b'{"agent_id":"a","forget_until":5,"v":2}')
    assert forget(A, 5) == decode_outcome_record(value)
    with pytest.raises(RecordError, match="marker"):
        decode_fact(value)


@pytest.mark.parametrize("value", [b'{"agent_id":"a","forget_until":"5","v":2}', b'{"agent_id":"a","v":1}'])
def test_what_is_neither_fact_nor_marker_is_refused(value: bytes) -> None:
    """A marker needs a number; a record without one is no fact either."""
    with pytest.raises(RecordError, match="not a fact"):
        decode_outcome_record(value)


def test_a_version_without_markers_asks_for_an_upgrade(monkeypatch: pytest.MonkeyPatch) -> None:
    """To whoever reads only the first format a marker is a newer record, and stops the shard."""
    monkeypatch.setattr("learner_worker.contract.facts._marker_in", lambda _: None)
    monkeypatch.setattr("learner_worker.contract.facts.MARKER_VERSION", 1)
    with pytest.raises(UpgradeRequiredError, match="format 2"):
        decode_outcome_record(encode_marker(forget(A, 5))[1])


def test_a_forgotten_agents_cutoff_is_just_behind_the_marker() -> None:
    """The marker's moment itself is forgotten; a later cutoff of everybody's goes before."""
    assert agents_cutoff(A, None, {}) is None
    assert agents_cutoff(A, None, {A: Micros(5)}) == Cutoff(Micros(6), Micros(6))
    assert agents_cutoff(A, Cutoff(Micros(9), Micros(2)), {A: Micros(5)}) == Cutoff(Micros(9), Micros(6))
    assert agents_cutoff(B, None, {A: Micros(5)}) is None


# --- a fold -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("until", "left"),
    [
        (4, Outcome(T, A, CLOSE, BID, RESULT)),
        (5, Outcome(T, A, CLOSE, None, RESULT)),
        (9, Outcome(T, A, None, None, RESULT)),
        (20, None),
    ],
)
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (0, 2, 1)])
async def test_a_marker_takes_away_what_is_not_later_wherever_it_stands(
    until: int, left: Outcome | None, order: Sequence[int], file: ShardFile
) -> None:
    """Before the facts, between or behind them: the same rows, and the metrics are the rows'."""
    contents = (SETTLED, FINISHED, forget(A, until))
    other = Fact(T, B, CLOSE, BID)
    applier = await opened(file)
    await applier.take(log(*(contents[index] for index in order), other))
    await applier.write()
    expected = {} if left is None else {(T, A): left}
    assert await file.load_outcomes([(T, A)]) == expected
    assert (T, B) in await file.load_outcomes([(T, B)])
    assert await file.load_forgotten() == {A: until}
    row, tallies = (await file.load_agents([A]))[A]
    assert row.metrics.total_bids == (left is not None and left.counts)
    assert bool(tallies) == (until < 5)  # the words were the bid's


async def test_a_marker_is_known_after_a_restart(file: ShardFile) -> None:
    """It is in the file with the position behind it: facts read by a later fold are refused."""
    first = await opened(file)
    await first.take(log(forget(A, 30)))
    await first.write()
    second = await opened(file)
    await second.take([read._replace(offset=read.offset + 1) for read in log(SETTLED, FINISHED)])
    await second.write()
    assert await file.load_outcomes([(T, A)]) == {}


async def test_a_marker_takes_rows_from_disk_and_memory(file: ShardFile) -> None:
    """Rows of the file, rows that no checkpoint has written, and more than a page of them."""
    facts = [Fact(TaskId(f"t{number:05}"), A, CLOSE, BID) for number in range(5_100)]
    applier = await opened(file)
    await applier.take(log(*facts[:5_050]))
    await applier.write()
    await applier.take(log(*facts, Fact(T, B, CLOSE, BID), forget(A, 30))[5_050:])
    await applier.write()
    keys = [(fact.task_id, A) for fact in facts]
    assert await file.load_outcomes([*keys, (T, B)]) == {(T, B): Outcome(T, B, CLOSE, BID)}


async def test_a_file_keeps_until_when_agents_are_forgotten(file: ShardFile) -> None:
    """The later moment of an agent stands."""
    await file.write(Checkpoint({}, forgotten={A: Micros(1)}))
    await file.write(Checkpoint({}, forgotten={A: Micros(2), B: Micros(3)}))
    assert await file.load_forgotten() == {A: 2, B: 3}


# --- learn ------------------------------------------------------------------------------------------


def ignore(row: Outcome, cutoff: Cutoff) -> None:
    """Nobody needs to know."""


async def test_a_forgotten_agent_is_as_one_without_history() -> None:
    """No metrics, keywords, time of a last change; its record is due, the marker in the next snapshot."""
    learn = Learn(MemoryRows(), cached_agents=10)
    await take(learn, [SETTLED, FINISHED])
    learn.snapshot()
    learn.unpublished.clear()
    await learn.forget([MarkerRecord(7, 9_000, forget(A, 30))], ignore)
    agent = await agent_of(learn, A)
    assert (agent.known, agent.as_of, agent.tallies) == (False, None, {})
    assert learn.unpublished == {A}
    changes = learn.snapshot()
    assert changes.forgotten == {A: 30}
    assert changes.outcomes == {(T, A): Outcome(T, A)}


async def test_the_latest_marker_stands_and_others_are_outdated() -> None:
    """Earlier, later and equal ones in one batch and in the next; the agent's record covers each."""
    learn = Learn(MemoryRows(), cached_agents=10)
    await take(learn, [FINISHED, Fact(T, A, Close(Micros(50), A), None)])
    first = [MarkerRecord(5 + index, 0, forget(A, until)) for index, until in enumerate((6, 8, 7))]
    assert await learn.forget(first, ignore) == [forget(A, 6), forget(A, 7)]
    assert learn.forgotten == {A: 8}
    assert await learn.forget([MarkerRecord(9, 0, forget(A, 8))], ignore) == []
    assert await learn.forget([MarkerRecord(10, 0, forget(A, 3))], ignore) == [forget(A, 3)]
    assert learn.forgotten == {A: 8}
    assert (await agent_of(learn, A)).row.outcome_offset == 10


# --- what leaves the changelog ----------------------------------------------------------------------


def test_retention_filters_and_tombstones_by_agent() -> None:
    """Without a retention: facts of a forgotten agent do not go out nor in, outdated markers leave."""
    retention = Retention(Policy(None, 1, 0, lambda: Micros(0)), None, None, {A: Micros(9)})
    other = Fact(T, B, CLOSE, BID)
    assert retention.filter_outgoing([SETTLED, FINISHED, other]) == [FINISHED, other]
    assert retention.filter_read(SETTLED) is None
    assert retention.filter_read(FINISHED) is FINISHED
    retention.on_marker_superseded(forget(A, 4))
    due = [(encode_fact(SETTLED)[0], None), (encode_marker(forget(A, 4))[0], None)]
    assert list(retention.take_due_tombstones(restored=True)) == [due]
    assert (retention.erases(A), retention.erases(B)) == (True, False)
    assert retention.idle


def test_relics_are_facts_of_the_agent_without_a_tombstone() -> None:
    """Superseded ones, too; of a fact that lives in part what is left; no marker, no junk, no others'."""
    older = Fact(T, A, Close(Micros(3), None), None)
    late = Fact(T, A, Close(Micros(50), A), BID)
    superseded = SupersededFacts(forget(A, 30))
    superseded.take(log(older, SETTLED, FINISHED, Fact(T, B, CLOSE, BID), forget(A, 30), late))
    superseded.take([Read(9, b"junk", key=b"k"), Read(10, b"{}"), *log(encode_fact(FINISHED)[0])])
    assert superseded.due_tombstones == {
        encode_fact(older)[0]: None,
        encode_fact(SETTLED)[0]: None,
        encode_fact(late)[0]: Fact(T, A, late.close),
    }


async def test_a_file_behind_a_marker_is_not_wrong(tmp_path: Path) -> None:
    """It holds what has left the changelog because of a marker that it has not read: no difference."""
    other = Fact(T, B, CLOSE, BID)
    for name, facts in (("file", [SETTLED, FINISHED, other]), ("fold", [other])):
        opened_file = await ShardFile.open(tmp_path / name, {"shard": "3"})
        applier = await opened(opened_file)
        await applier.take(log(*facts))
        await applier.write()
        await opened_file.close()
    with snapshot_of(tmp_path / "file") as file, snapshot_of(tmp_path / "fold") as changelog:
        assert compare(file, changelog).count > 0
        assert compare(file, changelog, forgotten_later={A: Micros(9)}).count > 0  # the result is later
        assert compare(file, changelog, forgotten_later={A: Micros(20)}).count == 0
