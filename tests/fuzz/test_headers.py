"""Header conventions against a naive model of the contract's table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner_worker.contract.headers import reply_address, reply_headers
from learner_worker.contract.suggestions import ERROR_CODES, ReplyError
from learner_worker.contract.topics import ReplyTopics, TopicName, Topics
from learner_worker.errors import RefusedReplyError
from tests.fuzz import FUZZ, model, strategies
from tests.fuzz.strategies import Headers

TOPICS = Topics().named()
REPLY_TOPICS = ReplyTopics(TOPICS.reply_patterns, (*TOPICS.sharded, TOPICS.dead_letters))
NAMED = ["suggest-bid-replies", "suggest-bid-replies.team", "suggest-bid-requests.reply", *TOPICS.all]
HEADERS = strategies.headers(NAMED)
ERRORS = st.none() | st.builds(
    ReplyError, code=st.sampled_from(list(ERROR_CODES)), message=st.text(max_size=20)
)


@FUZZ
@given(HEADERS)
def test_a_reply_goes_where_the_table_says_or_the_request_is_refused(headers: Headers) -> None:
    """Convention, correlation id, topic and partition are the model's; a refusal has one of its reasons."""
    expected = model.address(headers, TOPICS.replies)
    if isinstance(expected, set):
        with pytest.raises(RefusedReplyError) as refused:
            reply_address(headers, TOPICS.replies)
        assert refused.value.reason in expected
    else:
        found = reply_address(headers, TOPICS.replies)
        assert model.Address(found.convention, found.correlation_id, found.topic, found.partition) == expected


@FUZZ
@given(HEADERS, ERRORS)
def test_a_reply_carries_its_conventions_headers_and_no_other(
    headers: Headers, error: ReplyError | None
) -> None:
    """Exactly the table's headers: each once, an error's code on every error, never where to reply to."""
    expected = model.address(headers, TOPICS.replies)
    if isinstance(expected, set):
        return
    found = reply_headers(reply_address(headers, TOPICS.replies), error=error)
    described = None if error is None else (error.code, error.message)
    assert len(dict(found)) == len(found)
    assert dict(found) == model.reply_headers(expected, described)
    assert not set(dict(found)) & {*strategies.TOPIC_NAMES, *strategies.PARTITION_NAMES}
    if expected.convention == "plain":
        b"".join(value for name, value in found if name != "correlation_id").decode()


@FUZZ
@given(st.one_of(st.sampled_from(NAMED), st.text(max_size=5).map("suggest-bid-replies".__add__), st.text()))
def test_the_allow_list_admits_what_the_contract_lists(topic: str) -> None:
    """Only the four defaults, whatever else a request names: no topic that the learner or the swarm reads."""
    assert REPLY_TOPICS.allows(topic) == model.is_allowed(topic)
    assert not REPLY_TOPICS.allows(TopicName(topic)) or topic not in TOPICS.sharded
