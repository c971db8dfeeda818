"""The whole way of a request, whatever it is: one reply, refusal, expiry or move, and never silence."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pytest
from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from learner_worker.client.replies import read_reply
from learner_worker.errors import SuggestionError
from learner_worker.kafka.partitioner import partition_of_key
from tests.fuzz import FUZZ, model, strategies
from tests.fuzz.strategies import Headers
from tests.fuzz.world import PARTITIONS, SHARDS, Change, FuzzWorld, Worlds
from tests.simulation.clients import REPLY_PARTITIONS, RequestReader
from tests.simulation.log import Entry, Sent
from tests.simulation.worker import REQUEST_TTL_SECONDS, SECOND, TOPICS
from tests.support.model import rfc3339

_LAST_US = 253_370_764_800_000_000 - 1
"""The last microsecond of the year 9998."""
_CLOSE_CALL_US = 5 * SECOND
_NAMED = [*REPLY_PARTITIONS, "suggest-bid-requests-replies", "suggest-bid-replies.gone", *TOPICS.all]
_HOPS = st.lists(st.tuples(st.just("learner-hop"), strategies.HOPS), max_size=2)
_HEADERS = st.builds(
    list[tuple[str, bytes]].__add__,
    strategies.mostly(
        strategies.conventions(list(REPLY_PARTITIONS)), strategies.headers(_NAMED), of_sixteen=9
    ),
    strategies.mostly(st.just([]), _HOPS, of_sixteen=13),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it is laid into its partition; its age in milliseconds, or its very record time."""

    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    age_ms: int = 0
    timestamp_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Due:
    """What must become of a request: how it is counted, and its reply, if one is due."""

    code: str
    asked: Asked | None = None
    address: model.Address | None = None


_AGES = st.sampled_from([0, 0, 0, 0, 0, 60_000, -3_600_000])
_TIMESTAMPS = st.sampled_from([None] * 12 + [-1, 0, 2**62, 10**15])
_REQUESTS = strategies.mostly(
    strategies.good_values(strategies.REQUEST_SHAPE, timeless=True),
    strategies.mostly(strategies.REQUESTS, strategies.sizable(strategies.REQUEST_SHAPE)),
    of_sixteen=9,
)
ASKED = st.builds(Asked, st.integers(0, SHARDS - 1), strategies.KEYS, _REQUESTS, _HEADERS, _AGES, _TIMESTAMPS)


def due(asked: Asked, world: FuzzWorld) -> Iterator[Due]:
    """What must become of a request, by the contract; of one that is moved, there as well.

    Raises:
        UndecidedError: the contract does not say, or it is a matter of seconds.
    """
    found = model.address(asked.headers, TOPICS.replies)
    if isinstance(found, set) or not model.is_allowed(found.topic):
        yield Due("REFUSED")
        return
    exists = (found.partition or 0) < REPLY_PARTITIONS.get(found.topic, 0)
    now = world.clock.micros
    try:
        fields = model.message("request", asked.value)
        deadline = _deadline(asked, fields["deadline"], now)
    except model.BrokenError:
        yield Due("INVALID_REQUEST", asked, found) if exists else Due("REFUSED")
        return
    if abs(deadline - now) < _CLOSE_CALL_US:
        raise model.UndecidedError
    right = world.partition_of(fields["agent_id"])
    hops = [name for name, _ in asked.headers if name == "learner-hop"]
    if deadline < now:
        yield Due("EXPIRED")
    elif right == asked.partition:
        yield Due("OK", asked, found) if exists else Due("REFUSED")
    elif hops:
        yield Due("INTERNAL", asked, found) if exists else Due("REFUSED")
    else:
        yield Due("REROUTED")
        headers = [item for item in asked.headers if item[0] != "deadline"]
        headers += [("learner-hop", b""), ("deadline", rfc3339(deadline).encode())]
        yield from due(Asked(right, asked.key, asked.value, headers), world)


def _deadline(asked: Asked, in_body: int | None, now: int) -> int:
    latest = min(max(_record_ms(asked, now), 0) * 1_000, _LAST_US) + REQUEST_TTL_SECONDS * SECOND
    text = model.last_header(asked.headers, "deadline")
    if in_body is not None:
        latest = min(latest, in_body)
        if not any(name == "learner-hop" for name, _ in asked.headers):
            return min(latest, _LAST_US)
    if text is None:
        return min(latest, _LAST_US)
    try:
        given = model.micros_of(text.decode())
    except UnicodeDecodeError:
        given = None
    if given is None:
        raise model.BrokenError("invalid")
    return min(latest, given, _LAST_US)


def _record_ms(asked: Asked, now: int) -> int:
    return now // 1_000 - asked.age_ms if asked.timestamp_ms is None else asked.timestamp_ms


def sent(asked: Asked, now: int) -> tuple[str, int, Sent]:
    record = Sent(asked.key, asked.value, tuple(asked.headers), _record_ms(asked, now))
    return TOPICS.requests, asked.partition, record


def answers(reply: Entry, one: Due) -> bool:
    """Whether a reply is the one that is due: its place, key, headers and body, exactly."""
    asked, address = one.asked, one.address
    if asked is None or address is None:
        return False
    body = json.loads(reply.value or b"")
    error = body.get("error")
    described = None if error is None else (error["code"], error["message"])
    code = "OK" if described is None else described[0]
    return (
        (code, reply.topic, reply.key) == (one.code, address.topic, asked.key)
        and reply.partition in _places(asked, address)
        and dict(reply.headers) == model.reply_headers(address, described)
        and _names(body, asked)
    )


def _places(asked: Asked, address: model.Address) -> Sequence[int]:
    if address.partition is not None:
        return [address.partition]
    count = REPLY_PARTITIONS[address.topic]
    return range(count) if asked.key is None else [partition_of_key(asked.key, count)]


def _names(body: dict[str, object], asked: Asked) -> bool:
    """The ids that could be read, and of an answer what was asked for."""
    request_id, agent_id = model.readable_ids(asked.value)
    named = (body.get("request_id"), body.get("agent_id")) == (request_id, agent_id)
    if "error" in body:
        return named
    return named and body["base_bid_sats"] == model.message("request", asked.value)["base_bid_sats"]


def check_surely(change: Change, asked: Sequence[Asked]) -> None:
    """What holds of any request: one end each, and nothing written where a request may not point."""
    counts = change.counted("learner_requests_total")
    assert sum(counts.values()) == len(asked) + counts["REROUTED"]
    assert len(change.written[TOPICS.requests]) == len(asked) + counts["REROUTED"]
    written = [entry for topic in REPLY_PARTITIONS for entry in change.written[topic]]
    assert len(written) == sum(counts.values()) - sum(
        counts[silent] for silent in ("REROUTED", "REFUSED", "EXPIRED")
    )
    for entry in written:
        assert entry.partition < PARTITIONS[entry.topic]
        try:
            read_reply(entry)
        except SuggestionError as error:
            assert ("learner-error", error.code.encode()) in entry.headers  # noqa: PT017 (one of two good ends)
    untouched = set(PARTITIONS) - {*REPLY_PARTITIONS, TOPICS.requests}
    assert not [entry for topic in untouched for entry in change.written[topic]]


def check_exactly(change: Change, expected: Sequence[Due]) -> None:
    """Every request became what the model says, and every reply is due to one."""
    assert change.counted("learner_requests_total") == Counter(one.code for one in expected)
    written = [entry for topic in REPLY_PARTITIONS for entry in change.written[topic]]
    for one in expected:
        if one.asked is not None:
            fitting = next((entry for entry in written if answers(entry, one)), None)
            assert fitting is not None, f"no reply is {one}: {written}"
            written.remove(fitting)
    assert written == []


@pytest.fixture(name="worlds")
def _worlds() -> Iterator[Worlds]:
    worlds = Worlds()
    yield worlds
    worlds.close()


def test_every_request_ends_once_and_where_the_contract_says(worlds: Worlds) -> None:
    """Any key, value, headers, time and partition: one reply, refusal, expiry or move; nothing is stuck."""

    @FUZZ
    @given(st.lists(ASKED, min_size=1, max_size=3))
    def ask(asked: list[Asked]) -> None:
        with worlds.example() as world:
            now = world.clock.micros
            expected: list[Due] | None
            try:
                expected = [one for each in asked for one in due(each, world)]
            except model.UndecidedError:
                expected = None
            change = world.take([sent(each, now) for each in asked])
            check_surely(change, asked)
            if expected is not None:
                check_exactly(change, expected)

    ask()
    worlds.judge()


def test_a_request_that_arrives_while_its_partition_is_taken_over_is_answered(
    worlds: Worlds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that comes between the two questions where to begin is neither skipped nor answered twice."""
    look_up = RequestReader.offsets_for_times
    asked = Asked(0, b"k", b"no request", [("correlation_id", b"c")])

    async def and_one_arrives(consumer: RequestReader, times: Mapping[TopicPartition, int]) -> object:
        found = await look_up(consumer, times)
        topic, partition, record = sent(asked, consumer.now_us)
        consumer.lay(topic, partition, record)
        return found

    monkeypatch.setattr(RequestReader, "offsets_for_times", and_one_arrives)
    with worlds.example() as world:
        replies = [world.broker.log.partitions[TOPICS.replies, number].live for number in range(3)]
        assert [dict(reply.headers)["correlation_id"] for found in replies for reply in found] == [b"c"]
