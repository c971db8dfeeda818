"""Compares an import's rows with what the learner already knows, and reports where that takes precedence.

The changelog is read once, before anything is sent. A part of an outcome that the learner knows is kept if it
is later than the file's, or as late and first in the contract's order: of two results at one time the failed
one, of two closes the one without a winner, then the smaller winner, of two bids the lower.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from learner_worker.contract.facts import (
    Bid,
    Close,
    Fact,
    ForgetMarker,
    Result,
    decode_fact,
    decode_outcome_record,
)
from learner_worker.contract.fields import AgentId, ShardId, TaskId
from learner_worker.contract.times import format_time
from learner_worker.domain.outcomes import Cutoff, Outcome, join, living
from learner_worker.errors import RecordError
from learner_worker.kafka.records import Record
from learner_worker.operations.changelog import Changelog
from learner_worker.operations.cutoffs import Cutoffs
from learner_worker.operations.import_report import ReportedRows, RowsByReason, shown
from learner_worker.operations.import_staging import KnownRow, Staging, StandingRow
from learner_worker.operations.progress import StepProgress

DIFFERENT: Final = {
    "result_flipped": "the learner knows the opposite result, of the same time: failed stands",
    "result": "the learner knows another result: it is later, or the file has none",
    "close": "the learner knows another winner or winning bid, and that stands",
    "bid": "the learner knows another bid, and that stands",
}
NOT_COUNTED: Final = {
    "retention": "older than the retention: such outcomes are forgotten",
    "forgotten": "the agent is forgotten until a later time",
}


async def read_changelog(changelog: Changelog, staging: Staging, progress: StepProgress) -> None:
    """Adds the changelog's facts about the file's rows, and every forgotten agent, to the staging.

    Raises:
        BrokerError: Kafka does not answer.
        UpgradeRequiredError: a newer version of the learner wrote a record.
    """
    shards = [ShardId(number) for number in range(changelog.partitions)]
    ranges = {shard: await changelog.range_of(shard) for shard in shards}
    progress.begin("reading what is known", sum(end - start for start, end in ranges.values()))
    for shard, offsets in ranges.items():
        position = offsets.start
        async for batch in changelog.records(shard, offsets):
            staging.add_facts(_facts_in(batch, staging))
            progress.advance(batch[-1].offset + 1 - position)
            position = batch[-1].offset + 1
        progress.advance(offsets.end - position)


def _facts_in(batch: Iterable[Record], staging: Staging) -> list[tuple[TaskId, AgentId, bytes]]:
    facts = []
    for record in batch:
        found = _decoded(record.value)
        if isinstance(found, ForgetMarker):
            staging.add_forgotten(found.agent_id, found.forget_until)
        elif found is not None and record.value is not None:
            facts.append((found.task_id, found.agent_id, record.value))
    return facts


def _decoded(value: bytes | None) -> Fact | ForgetMarker | None:
    """Decodes a record; None for a tombstone and for a record that workers skip."""
    if value is None:
        return None
    try:
        return decode_outcome_record(value)
    except RecordError:
        return None


def differences(staging: Staging, cutoffs: Cutoffs) -> list[ReportedRows]:
    """Reports where the learner's outcomes differ from the file's."""
    findings = RowsByReason(DIFFERENT)
    for known in staging.known():
        cutoff = cutoffs.of(known.row.agent_id)
        for reason, example in _differences(known, cutoff):
            findings.add(reason, f"task {known.row.task_id}, agent {known.row.agent_id}: {example}")
    return findings.listed()


def not_counted(row: StandingRow, cutoffs: Cutoffs) -> str | None:
    """The reason why a row's outcome will not count, a key of NOT_COUNTED; None if it counts."""
    cutoff = cutoffs.by_retention(row.agent_id)
    if cutoff is not None and (row.closed_at < cutoff.closes or row.placed_at < cutoff.others):
        return "retention"
    return "forgotten" if cutoffs.is_forgotten(row.agent_id, row.placed_at) else None


def _differences(known: KnownRow, cutoff: Cutoff | None) -> Iterator[tuple[str, str]]:
    given = _outcome_of(known.row)
    before = Outcome(given.task_id, given.agent_id)
    for fact in map(decode_fact, known.facts):
        before = join(before, fact)
    if cutoff is not None:
        given, before = living(given, cutoff), living(before, cutoff)
    after = join(before, Fact(given.task_id, given.agent_id, given.close, given.bid, given.result))
    if given.close is None or after.close is None:
        return  # expired: reported as not counted
    if _flipped(before.result, given.result):
        yield "result_flipped", f"{_result(before.result)}, in the file {_result(given.result)}"
    elif given.won and after.won and _succeeded(after.result) != _succeeded(given.result):
        yield "result", f"{_result(after.result)}, in the file {_result(given.result)}"
    if _close(after.close) != _close(given.close):
        yield "close", f"{_close(after.close)}, in the file {_close(given.close)}"
    if (after.bid_sats, after.description) != (given.bid_sats, given.description):
        yield "bid", f"{_bid(after)}, in the file {_bid(given)}"


def _outcome_of(row: StandingRow) -> Outcome:
    close = Close(row.closed_at, row.winner, row.winning_bid_sats)
    bid = Bid(row.placed_at, row.bid_sats, row.description)
    has_result = row.winner == row.agent_id and row.succeeded is not None
    result = Result(row.closed_at, bool(row.succeeded)) if has_result else None
    return Outcome(row.task_id, row.agent_id, close, bid, result)


def _flipped(before: Result | None, given: Result | None) -> bool:
    if before is None or given is None:
        return False
    return before.finished_at == given.finished_at and before.succeeded != given.succeeded


def _succeeded(result: Result | None) -> bool | None:
    return None if result is None else result.succeeded


def _result(result: Result | None) -> str:
    if result is None:
        return "no result"
    return f"{'completed' if result.succeeded else 'failed'} at {format_time(result.finished_at)}"


def _close(close: Close) -> str:
    if close.winner is None:
        return "won by nobody"
    sats = "an unknown bid" if close.winning_bid_sats is None else f"{close.winning_bid_sats} sats"
    return f"won by {close.winner} with {sats}"


def _bid(outcome: Outcome) -> str:
    return f"{outcome.bid_sats} sats for {shown(outcome.description)}"
