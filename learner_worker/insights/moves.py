"""What would move an answer of the learner: searched where the strategy answers alike here, and checked."""

import asyncio
from collections.abc import Sequence
from typing import Literal, NamedTuple

from learner_worker.contract.fields import AgentId
from learner_worker.contract.suggestions import SuggestBidReply
from learner_worker.domain.outcomes import Outcome
from learner_worker.errors import SuggestionError
from learner_worker.insights.sending import Sending
from learner_worker.laboratory.what_if import BidQuestion, KnownAgent, Move, known_agent, one_more


class CheckedMove(NamedTuple):
    """A move, and whether asking again said the same: of the change, and of one sat or result less."""

    move: Move
    confirmed: bool


class Moves(NamedTuple):
    """What would move an answer.

    Attributes:
        problem: why nothing was searched; empty if it was.
    """

    problem: str
    found: Sequence[CheckedMove] = ()


class MoveFinder:
    """Finds what would move answers.

    Args:
        paid_on: as the workers have it.
    """

    def __init__(self, sending: Sending, paid_on: Literal["success", "win"]) -> None:
        self._sending = sending
        self._paid_on = paid_on

    async def find(
        self, agent_id: AgentId, outcomes: Sequence[Outcome], question: BidQuestion, reply: SuggestBidReply
    ) -> Moves:
        """What would move a reply to a question.

        Args:
            outcomes: all of the agent.
        """
        agent = await asyncio.to_thread(known_agent, reply.strategy, outcomes, self._paid_on)
        if agent is None:
            return Moves(f"not searched: the strategy {reply.strategy} is not installed here")
        here = await asyncio.to_thread(agent.ask, question)
        if (here.suggested_bid_sats, here.factor) != (reply.suggested_bid_sats, reply.factor):
            return Moves(
                f"not searched: asked here, the strategy says {here.suggested_bid_sats:,} sats; either an "
                "outcome has come meanwhile, or the workers have another --paid-on or version"
            )
        moves = await asyncio.to_thread(agent.moves, question)
        return Moves("", [CheckedMove(one, await self._holds(agent_id, agent, reply, one)) for one in moves])

    async def _holds(self, agent_id: AgentId, agent: KnownAgent, reply: SuggestBidReply, move: Move) -> bool:
        if not move.amount:
            return True
        if move.kind in {"base", "cost"}:
            return await self._is_answered(agent_id, agent, move)
        return await asyncio.to_thread(_is_repeated, agent, reply.suggested_bid_sats, move)

    async def _is_answered(self, agent_id: AgentId, agent: KnownAgent, move: Move) -> bool:
        """Whether the learner says the same of the change, and of one sat less."""
        nearer = await asyncio.to_thread(agent.ask, move.nearer)
        try:
            replies = await asyncio.gather(
                *(self._asked(agent_id, one) for one in (move.question, move.nearer))
            )
        except SuggestionError:
            return False
        expected = [move.suggested_bid_sats, nearer.suggested_bid_sats]
        return [one.suggested_bid_sats for one in replies] == expected

    async def _asked(self, agent_id: AgentId, question: BidQuestion) -> SuggestBidReply:
        return await self._sending.ask(agent_id, **question._asdict())


def _is_repeated(agent: KnownAgent, advised_sats: int, move: Move) -> bool:
    """Whether so many results move the advice, and one less does not, each counted anew."""
    more = [one_more(move.kind, move.question, advised_sats)] * move.amount
    says = [agent.ask(move.question, some).suggested_bid_sats for some in (more, more[1:])]
    return says == [move.suggested_bid_sats, advised_sats]
