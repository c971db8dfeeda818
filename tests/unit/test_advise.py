"""A reply's bytes: those of its model."""

import pytest

from learner_worker.contract.decode import request_of
from learner_worker.contract.encode import encode_message, encode_reply
from learner_worker.contract.fields import AgentId
from learner_worker.contract.suggestions import SuggestBidReply, SuggestBidRequest
from learner_worker.domain.agents import Agent, AgentRow
from learner_worker.domain.keywords import Tally
from learner_worker.domain.metrics import Metrics
from learner_worker.stages.advise import Advise
from learner_worker.strategies.classic import CLASSIC

A = AgentId("ä")
KNOWN = Agent(A, AgentRow(Metrics(9, 8, 3, 2, 7, 2**53 - 1), 1_769_860_800_123, 7), {"parse": Tally(3, 1)})
NEW = Agent(A, AgentRow(Metrics(), 0, -1), {})


@pytest.mark.parametrize("agent", [KNOWN, NEW])
@pytest.mark.parametrize("wishes", [{}, {"request_id": "r"}, {"include": ["learned_keywords"]}])
@pytest.mark.parametrize("stale", [True, False])
def test_a_reply_is_written_as_its_model(agent: Agent, wishes: dict[str, object], *, stale: bool) -> None:
    """Every field in its order, what was not asked for left out."""
    asked = {"agent_id": A, "base_bid_sats": 100, "description": "parse", **wishes}
    request = SuggestBidRequest.model_validate(asked)
    value = encode_reply(Advise([CLASSIC]).answer(request_of(request), agent, stale=stale))
    reply = SuggestBidReply.model_validate_json(value)
    assert encode_message(reply) == value
    assert (reply.request_id, reply.stale) == (request.request_id, stale)
    assert ("learned_keywords" in reply.model_fields_set) == ("include" in wishes)


def test_a_learner_that_keeps_metrics_to_itself_tells_the_advice_alone() -> None:
    """Bid, factor and rules are the same; metrics are zeros, and nothing states a figure in words."""
    asked = {"agent_id": A, "base_bid_sats": 100, "description": "parse", "include": ["learned_keywords"]}
    request = request_of(SuggestBidRequest.model_validate(asked))
    known = Agent(A, AgentRow(Metrics(9, 8, 3, 2, 7, 700), 1_769_860_800_123, 7), {"parse": Tally(3, 1)})
    full = SuggestBidReply.model_validate_json(encode_reply(Advise([CLASSIC]).answer(request, known)))
    value = encode_reply(Advise([CLASSIC], tells_metrics=False).answer(request, known))
    reply = SuggestBidReply.model_validate_json(value)

    assert encode_message(reply) == value
    assert (reply.suggested_bid_sats, reply.factor) == (full.suggested_bid_sats, full.factor)
    assert [each.rule for each in reply.adjustments] == [each.rule for each in full.adjustments] != []
    assert {each.reason for each in reply.adjustments} == {"this learner does not tell reasons"}
    assert (reply.metrics_withheld, full.metrics_withheld) == (True, False)
    assert set(reply.metrics.model_dump().values()) == {0}
    assert (reply.as_of, reply.learned_keywords) == (None, [])
