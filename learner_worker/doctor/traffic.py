"""What the newest records show: how publishers partition, what could not be read, whose clock is ahead."""

import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from learner_worker.contract.decode import Closed, decode_event, own_time, readable_ids
from learner_worker.contract.times import Micros, record_micros
from learner_worker.contract.topics import HOP_HEADER, EventKind, TopicName, TopicNames
from learner_worker.doctor.case import Case
from learner_worker.doctor.findings import Finding, note, ok, or_ok, warning
from learner_worker.doctor.topology import expected_count
from learner_worker.errors import RecordError
from learner_worker.group.topology import older_count
from learner_worker.kafka.partitioner import partitioner
from learner_worker.kafka.records import Record
from learner_worker.operations.dead_letters import parse_dead_letter, parse_mark
from learner_worker.settings import Settings

_DAY_MS = 24 * 60 * 60 * 1000  # milliseconds in a day
_AHEAD_MS = 1_000  # the tolerance for late bids
_TOP = 3  # causes named: the rest is in the list
_BY_MURMUR2 = "publish with the id as key and Kafka's murmur2 (librdkafka: partitioner=murmur2_random)"
_SEE_TOPOLOGY = "see `topology` and `changelog` above"
IdOf = Callable[[Record], str | None]


async def check_partitioning(case: Case) -> Sequence[Finding]:
    """The share of the newest events and requests that lie where the learner looks for them."""
    kafka, names = await case.kafka(), case.names
    existing = await kafka.existing(names.all)
    count = await expected_count(case)
    if count is None or any(
        len(existing[name].partitions) != count for name in existing if name in names.sharded
    ):
        return [
            note(
                "the topics do not have the one recorded partition count: publishers cannot be judged",
                _SEE_TOPOLOGY,
            )
        ]
    findings: list[Finding] = []
    seen = 0
    for name in _written_by_others(names):
        if name in existing:
            records = (await kafka.newest(name)).records
            seen += len(records)
            findings += _misplaced(name, records, count, _id_of(case, name))
    return or_ok(findings, f"the newest {seen} events and requests lie on the right partitions")


def _written_by_others(names: TopicNames) -> tuple[TopicName, ...]:
    """The topics of events and requests."""
    return names.bid_placed, names.auction_closed, names.task_finished, names.requests


def _id_of(case: Case, name: TopicName) -> IdOf:
    kind = case.names.event_kind(name)

    def task_id(record: Record) -> str | None:
        try:
            return None if kind is None else decode_event(kind, record.value).task_id
        except RecordError:
            return None

    def agent_id(record: Record) -> str | None:
        moved = any(header == HOP_HEADER for header, _ in record.headers)
        return None if moved else readable_ids(record.value)[1]

    return agent_id if kind is None else task_id


def _misplaced(name: TopicName, records: Sequence[Record], count: int, id_of: IdOf) -> Iterator[Finding]:
    right = partitioner(count)
    known = [(record, identifier) for record in records if (identifier := id_of(record)) is not None]
    wrong = [(record, identifier) for record, identifier in known if right(identifier) != record.partition]
    if wrong:
        share = 100 * len(wrong) / len(known)
        cause, remedy = _cause(wrong, count)
        yield warning(
            f"{len(wrong)} of the newest {len(known)} records of {name} ({share:.0f} %) lie on a wrong "
            f"partition: {cause}; they are counted right, but each costs a move",
            remedy,
        )


def _cause(wrong: Sequence[tuple[Record, str]], count: int) -> tuple[str, str]:
    """What their publishers do, as the records tell, and what to do."""
    without = sum(record.key is None for record, _ in wrong)
    other = sum(record.key is not None and record.key != name.encode() for record, name in wrong)
    crc32 = sum(
        record.key is not None and zlib.crc32(record.key) % count == record.partition for record, _ in wrong
    )
    older = older_count([(name, record.partition) for record, name in wrong], count)
    if older is not None and len(wrong) > max(crc32, without, other):
        return f"the topic had {older} partitions when they were written", _SEE_TOPOLOGY
    causes = (
        (crc32, "their client hashes keys by CRC32, librdkafka's default"),
        (without, "they have no key"),
        (other, "their key is another than the id"),
    )
    share, words = max(causes, key=lambda cause: cause[0])
    return words if share else "their client partitions in a way of its own", _BY_MURMUR2


async def check_prices(case: Case) -> Sequence[Finding]:
    """Which of the newest closes say what the winner bid: from the others the losers learn no price."""
    kafka, name = await case.kafka(), case.names.auction_closed
    existing = await kafka.existing(case.names.all)
    records = (await kafka.newest(name)).records if name in existing else []
    sold = [close for close in map(_close_of, records) if close is not None and close.winner_agent_id]
    silent = sum(close.winning_bid_sats is None for close in sold)
    if not silent:
        return [ok(f"the newest {len(sold)} closes with a winner say what it bid")]
    return [
        note(
            f"{silent} of the newest {len(sold)} closes with a winner do not say winning_bid_sats: "
            "the losers learn no price from them, which expected-profit needs",
            "have auction-closed carry winning_bid_sats",
        )
    ]


def _close_of(record: Record) -> Closed | None:
    try:
        event = decode_event("auction-closed", record.value)
    except RecordError:
        return None
    return event if isinstance(event, Closed) else None


async def check_dead_letters(case: Case) -> Sequence[Finding]:
    """Open dead letters of the last day, among the newest."""
    kafka, name = await case.kafka(), case.names.dead_letters
    await kafka.require_visible(name)
    if name not in await kafka.existing(case.names.all):
        return [note("there is no topic for dead letters yet")]
    records = (await kafka.newest(name)).records
    handled = {marked[0] for record in records if (marked := parse_mark(record)) is not None}
    since = _now_ms() - _DAY_MS
    found = [dead_letter for record in records if (dead_letter := parse_dead_letter(record)) is not None]
    open_ones = [one for one in found if one.id not in handled and one.timestamp_ms >= since]
    if not open_ones:
        return [ok("no open dead letters of the last day")]
    causes = Counter(f"{one.reason} in {one.topic}" for one in open_ones).most_common(_TOP)
    listed = ", ".join(f"{count} x {cause}" for cause, count in causes)
    return [
        warning(
            f"at least {len(open_ones)} dead letters of the last day are open: {listed}",
            "look at them with `learner-worker dead-letters list`, then replay or drop them",
        )
    ]


async def check_headers(case: Case) -> Sequence[Finding]:
    """Records that Kafka's clients cannot read, and with them what follows in the same batch."""
    kafka, names = await case.kafka(), case.names
    looked_at = (*_written_by_others(names), names.dead_letters)
    existing = await kafka.existing(looked_at)
    gaps = [gap for name in looked_at if name in existing for gap in (await kafka.newest(name)).gaps]
    findings = [
        warning(
            str(gap),
            "name headers in UTF-8 where that record came from, and publish again what stood behind it",
        )
        for gap in gaps
    ]
    return or_ok(findings, "the newest records can all be read")


async def check_clocks(case: Case) -> Sequence[Finding]:
    """Checks for records from this machine's future, whose publisher's or broker's clock is ahead.

    Measured is the newest record's time against this clock, a bound from one side: requests carry the
    brokers' clock, events their publishers'. A clock that is behind cannot be told without writing.
    """
    kafka, names = await case.kafka(), case.names
    existing = await kafka.existing(names.all)
    findings = []
    for name in (names.requests, names.bid_placed, names.auction_closed, names.task_finished):
        records = (await kafka.newest(name)).records if name in existing else []
        ahead = max((record.timestamp for record in records), default=0) - _now_ms()
        if ahead > _AHEAD_MS:
            whose = "a broker's" if name == names.requests else "a publisher's"
            findings.append(
                warning(
                    f"{whose} clock is at least {ahead / 1000:.1f} s ahead of this machine's ({name})",
                    "keep all clocks by NTP: deadlines and late bids are judged by them",
                )
            )
        kind = names.event_kind(name)
        findings += [] if kind is None else record_times_off(name, kind, records, case.settings)
    return or_ok(findings, "no record comes from this clock's future, and events have their record's times")


def record_times_off(
    name: TopicName, kind: EventKind, records: Sequence[Record], settings: Settings
) -> Iterator[Finding]:
    """Compares the events' own times with their records': further apart than the auction horizon is odd."""
    apart = [abs(own - record_micros(record.timestamp)) / 1e6 for record, own in _own_times(kind, records)]
    off = [seconds for seconds in apart if seconds > settings.auction_horizon_seconds]
    if off:
        yield warning(
            f"{len(off)} of the newest {len(apart)} records of {name} are up to {max(off):.0f} s away from "
            "their events' own times",
            "let Kafka's client set the record time, or give it in milliseconds; an import is no mistake",
        )


def _own_times(kind: EventKind, records: Sequence[Record]) -> Iterator[tuple[Record, Micros]]:
    for record in records:
        try:
            own = own_time(decode_event(kind, record.value))
        except RecordError:
            continue
        if own is not None:
            yield record, own


def _now_ms() -> int:
    return round(time.time() * 1000)
