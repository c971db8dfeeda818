"""Every decoder: the message, or the one error it documents, and what the contract says of the bytes."""

import json

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from learner_worker.client.replies import read_reply
from learner_worker.contract.decode import (
    decode_event,
    decode_metrics,
    decode_request,
    event_of,
    readable_id,
    readable_ids,
    request_of,
)
from learner_worker.contract.encode import encode_message
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
from learner_worker.contract.fields import TaskId
from learner_worker.contract.suggestions import (
    AgentMetrics,
    AgentMetricsRecord,
    LearnedKeyword,
    SuggestBidReply,
)
from learner_worker.contract.times import LAST_MICROS, Micros
from learner_worker.contract.topics import EventKind
from learner_worker.contract.validation import validate_event, validate_request
from learner_worker.errors import RecordError, RequestError, SuggestionError, UpgradeRequiredError
from tests.fuzz import FUZZ, model, strategies
from tests.fuzz.strategies import REQUEST_SHAPE, Headers
from tests.simulation.log import Entry

EVENTS = strategies.of_any_kind(
    lambda shape: strategies.mostly(strategies.values(shape), strategies.sizable(shape))
)
REQUESTS = strategies.mostly(
    strategies.values(strategies.FULL_REQUEST_SHAPE), strategies.sizable(REQUEST_SHAPE)
)


# --- events and requests ---------------------------------------------------------------------------------


def decided(kind: EventKind, value: bytes | None) -> model.Message | str:
    """The decision as the model puts it, the fields or the reason; the contract's models decide the same."""
    try:
        event = event_of(validate_event(kind, value))
    except RecordError as error:
        str(error).encode()  # it travels in a dead letter's header
        with pytest.raises(RecordError) as decoded:
            decode_event(kind, value)
        same = (decoded.value.reason, str(decoded.value)) == (error.reason, str(error))
        return error.reason if same else f"decoded otherwise: {decoded.value}"
    assert decode_event(kind, value) == event
    return msgspec.structs.asdict(event)


@FUZZ
@given(EVENTS)
def test_an_event_is_read_as_the_contract_says_or_refused_with_its_reason(
    found: tuple[EventKind, bytes | None],
) -> None:
    """The decoder and the naive validator agree on every field of what is accepted, and on the reason."""
    kind, value = found
    decision = decided(kind, value)
    try:
        expected: model.Message | str = model.message(kind, value)
    except model.BrokenError as error:
        expected = error.reason
    except model.UndecidedError:
        return
    assert decision == expected


@FUZZ
@given(strategies.of_any_kind(strategies.good_values))
def test_an_event_written_again_is_the_same_event(found: tuple[EventKind, bytes]) -> None:
    """What keeps the contract is accepted; encoded and decoded it is the same, years permitting."""
    kind, value = found
    expected = model.message(kind, value)
    event = validate_event(kind, value)
    times = [expected[name] for name in ("placed_at", "closed_at", "finished_at") if expected.get(name)]
    if all(0 <= micros <= LAST_MICROS for micros in times):
        assert decode_event(kind, encode_message(event)) == event_of(event)


@FUZZ
@given(REQUESTS)
@example(b'{"note":"\\ud800","note":1,"agent_id":"a","base_bid_sats":0,"description":""}')
def test_a_request_is_read_as_the_contract_says_or_is_invalid(value: bytes | None) -> None:
    """The decoder and the naive validator agree on every field of what is accepted, and on what is not."""
    decision: model.Message | str
    try:
        request = decode_request(value)
    except RequestError as error:
        str(error).encode()
        decision = error.code
    else:
        decision = msgspec.structs.asdict(request)
    try:
        expected: model.Message | str = model.message("request", value)
    except model.BrokenError:
        expected = "INVALID_REQUEST"
    except model.UndecidedError:
        return
    assert decision == expected


@FUZZ
@given(strategies.good_values(REQUEST_SHAPE))
def test_a_request_written_again_is_the_same_request(value: bytes) -> None:
    """A request that keeps the contract is accepted; encoded and decoded it is the same."""
    request = validate_request(value)
    if request.deadline is None or 0 <= request.deadline <= LAST_MICROS:
        assert decode_request(encode_message(request)) == request_of(request)


@FUZZ
@given(REQUESTS)
@example(b'{"\xff":"","base_bid_sats":0,"agent_id":"a"}')
def test_the_ids_of_a_broken_request_are_those_that_can_be_read(value: bytes | None) -> None:
    """Of JSON, however broken the request, both ids where they keep the contract; else no other."""
    found = readable_ids(value)
    assert all(name is None or model.is_id(name) for name in found)
    try:
        assert found == model.readable_ids(value)
    except model.UndecidedError:
        return


@FUZZ
@given(
    st.none() | st.binary(max_size=20) | strategies.IDS.map(str.encode) | strategies.ODD_IDS.map(str.encode)
)
def test_a_key_is_an_id_or_none(key: bytes | None) -> None:
    """A key is read as an id exactly if it is one in UTF-8."""
    try:
        text = (key or b"").decode()
    except UnicodeDecodeError:
        text = ""
    assert readable_id(key) == (text if model.is_id(text) else None)


# --- what learners write ---------------------------------------------------------------------------------

_TIMES = st.one_of(st.sampled_from([-(2**63), 2**63 - 1, 0, -1]), st.integers(0, LAST_MICROS)).map(Micros)
_ANY_TEXT = st.one_of(strategies.IDS, strategies.TEXTS)
_CLOSES = st.builds(
    Close,
    closed_at=_TIMES,
    winner=st.none() | _ANY_TEXT,
    winning_bid_sats=st.none() | strategies.SATS,
    description_digest=st.none() | st.just("d" * 64),
    description=st.none() | strategies.TEXTS,
)
_BIDS = st.builds(Bid, _TIMES, strategies.SATS, strategies.TEXTS)
_RESULTS = st.builds(Result, _TIMES, st.booleans())
_FACTS = st.builds(Fact, _ANY_TEXT, _ANY_TEXT, st.none() | _CLOSES, st.none() | _BIDS, st.none() | _RESULTS)


@FUZZ
@given(_FACTS)
def test_a_fact_written_and_read_is_the_same_fact(fact: Fact) -> None:
    """Facts of any ids, texts and times, and the same key and value for what was read."""
    key, value = encode_fact(fact)
    assert decode_fact(value) == fact
    assert encode_fact(decode_fact(value)) == (key, value)


@FUZZ
@given(st.builds(ForgetMarker, _ANY_TEXT, _TIMES))
def test_a_marker_written_and_read_is_the_same_marker(marker: ForgetMarker) -> None:
    """Markers of any agent and time; none is taken for a fact, and no fact has its key."""
    key, value = encode_marker(marker)
    assert decode_outcome_record(value) == marker
    assert len(json.loads(key)) != len(json.loads(encode_fact(Fact(TaskId("t"), marker.agent_id))[0]))
    with pytest.raises(RecordError):
        decode_fact(value)


@FUZZ
@given(strategies.broken(_FACTS.map(lambda fact: encode_fact(fact)[1])))
def test_the_changelogs_decoder_knows_facts_upgrades_and_dead_letters(value: bytes) -> None:
    """Whatever the changelog holds is a fact that SQLite can keep, a newer format, or no fact."""
    try:
        fact = decode_fact(value)
    except UpgradeRequiredError:
        return
    except RecordError as error:
        f"{error.reason} {error}".encode()
        return
    assert decode_fact(encode_fact(fact)[1]) == fact
    for part in (fact.close, fact.bid, fact.result):
        for field in () if part is None else part.__struct_fields__:
            number = getattr(part, field)
            assert not isinstance(number, int) or -(2**63) <= number < 2**63
    (fact.task_id + fact.agent_id).encode()


_COUNTS = st.integers(0, 2**62)
_FLOATS = st.floats(0, 1e300)
_KEYWORDS = st.lists(
    st.builds(LearnedKeyword, keyword=st.just("parse"), wins=_COUNTS, failures=_COUNTS, net=_COUNTS)
)
_METRICS = {
    "total_bids": _COUNTS,
    "auctions_won": _COUNTS,
    "tasks_completed": _COUNTS,
    "tasks_failed": _COUNTS,
    "win_rate": _FLOATS,
    "success_rate": _FLOATS,
    "avg_winning_bid_sats": _FLOATS,
}
_RECORDS = st.builds(
    AgentMetricsRecord,
    **_METRICS,
    agent_id=strategies.IDS,
    learned_keywords=_KEYWORDS,
    as_of=st.none() | strategies.TIMES,
    outcome_offset=_COUNTS,
)


@FUZZ
@given(_RECORDS)
def test_a_metrics_record_says_what_was_written(record: AgentMetricsRecord) -> None:
    """The content read back is the record's, so an owner finds its own record equal."""
    content = decode_metrics(encode_message(record))
    assert content is not None
    assert (content.agent_id, content.total_bids) == (record.agent_id, record.total_bids)
    assert content.avg_winning_bid_sats == record.avg_winning_bid_sats
    assert content.learned_keywords == [keyword.model_dump() for keyword in record.learned_keywords]
    assert decode_metrics(encode_message(record)) == content


@FUZZ
@given(strategies.broken(_RECORDS.map(encode_message)))
def test_a_broken_metrics_record_is_none(value: bytes) -> None:
    """Whatever lies in the metrics topic is a record's content or nothing."""
    content = decode_metrics(value)
    assert content is None or content.agent_id.encode() is not None


# --- what clients read -----------------------------------------------------------------------------------

_REPLIES = st.builds(
    SuggestBidReply,
    request_id=st.none() | strategies.IDS,
    agent_id=strategies.IDS,
    base_bid_sats=strategies.SATS,
    suggested_bid_sats=strategies.SATS,
    strategy=st.just("classic"),
    factor=_FLOATS,
    adjustments=st.just([]),
    metrics=st.builds(AgentMetrics, **_METRICS),
    learned_keywords=_KEYWORDS,
    as_of=st.none() | strategies.TIMES,
    stale=st.booleans(),
)
_ERRORS = st.sampled_from(
    [
        b'{"error":{"code":"OVERLOADED","message":"later","retry_after_ms":100}}',
        b'{"error":{"code":"NEW","message":""}}',
    ]
)


@FUZZ
@given(_REPLIES)
def test_a_client_reads_the_reply_that_was_sent(reply: SuggestBidReply) -> None:
    """A reply, encoded and read by the client, is the same."""
    assert read_reply(Entry("suggest-bid-replies", 0, 0, 0, None, encode_message(reply))) == reply


@FUZZ
@given(
    strategies.broken(_REPLIES.map(encode_message)) | strategies.broken(_ERRORS) | st.none(),
    st.sampled_from([[], *([("learner-error", code)] for code in (b"INTERNAL", b"\xff", strategies.NULL))]),
)
def test_a_client_reads_any_reply_or_says_so(value: bytes | None, headers: Headers) -> None:
    """Whatever arrives on the reply topic is advice or the client's own error."""
    record = Entry("suggest-bid-replies", 0, 0, 0, None, value, headers)
    try:
        reply = read_reply(record)
    except SuggestionError:
        return
    assert model.is_id(reply.agent_id)
