"""The bid to place: the suggested one, or the agent's base bid if there is no advice."""

from dataclasses import dataclass

from learner_worker.contract.suggestions import SuggestBidReply


@dataclass(frozen=True, slots=True)
class BidAdvice:
    """The result of `suggest_bid_or_base`: always a bid."""

    bid_sats: int
    """The bid to place: the suggested one, or the agent's own base bid."""
    reply: SuggestBidReply | None
    """The learner's full reply; None without advice."""
    reason: str | None
    """Why there is no advice, for example `TIMEOUT: no reply within 2.0 s`; None with advice."""

    @property
    def advised(self) -> bool:
        """Whether the learner answered; it may still have suggested the base bid."""
        return self.reply is not None
