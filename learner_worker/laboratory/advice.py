"""The advice log joined with the outcomes: auctions with their base bids, the league, and the regret."""

from collections.abc import Sequence
from typing import NamedTuple

from learner_worker.contract.advice import AdviceRecord
from learner_worker.domain.outcomes import Outcome
from learner_worker.laboratory.league import League, advised_bids, league
from learner_worker.laboratory.recording import RecordedAuction, auctions_of
from learner_worker.laboratory.regret import Regret, regret_ledger
from learner_worker.strategies.protocol import PaidOn


class AdviceResults(NamedTuple):
    """What came of advice: the league of the strategies, and the whole regret ledger."""

    league: League
    ledger: Sequence[Regret]


def advised_auctions(outcomes: Sequence[Outcome], advice: Sequence[AdviceRecord]) -> list[RecordedAuction]:
    """The auctions of outcomes that count, with the base bids that agents named in their requests."""
    advised = advised_bids(advice, auctions_of(outcomes))
    bases: dict[tuple[str, str], int] = {key: one.advice.base_bid_sats for key, one in advised.items()}
    return auctions_of(outcomes, bases)


def advice_results(
    advice: Sequence[AdviceRecord], auctions: Sequence[RecordedAuction], paid_on: PaidOn
) -> AdviceResults:
    """What came of the advice, in auctions with their base bids."""
    return AdviceResults(
        league(advice, auctions, paid_on), regret_ledger(auctions, advised_bids(advice, auctions))
    )
