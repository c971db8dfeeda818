"""A bidding agent: asks the learner what to bid, and bids its base where there is no advice."""

import asyncio
import os

from learner_worker import LearnerClient

BOOTSTRAP_SERVERS = os.environ.get("LEARNER_BOOTSTRAP_SERVERS", "localhost:9092")


async def main() -> None:
    async with LearnerClient(BOOTSTRAP_SERVERS) as learner:
        # strategy="expected-profit", cost_sats=550 besides: bids for profit, from what the effort costs
        advice = await learner.suggest_bid_or_base(
            "echo", description="Fix the invoice parser", base_bid_sats=1000
        )
    reasons = [item.reason for item in advice.reply.adjustments] if advice.reply else [advice.reason]
    print(f"echo bids {advice.bid_sats} sats: {reasons}")


asyncio.run(main())
