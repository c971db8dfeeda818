"""A bidding agent: asks the learner what to bid, and bids its base where there is no advice."""

import asyncio
import os

from learner_worker import LearnerClient
from learner_worker.client import token_file

BOOTSTRAP_SERVERS = os.environ.get("LEARNER_BOOTSTRAP_SERVERS", "localhost:9092")
TOKEN_FILE = os.environ.get("LEARNER_TOKEN_FILE")  # where the learner wants to know who asks


async def main() -> None:
    token = token_file(TOKEN_FILE) if TOKEN_FILE else None
    async with LearnerClient(BOOTSTRAP_SERVERS, token=token) as learner:
        advice = await learner.suggest_bid_or_base(
            "echo",
            description="Fix the invoice parser",
            base_bid_sats=1000,
            strategy="expected-profit",
            cost_sats=550,  # what the effort costs this agent, whether it succeeds or not
        )
    reasons = [item.reason for item in advice.reply.adjustments] if advice.reply else [advice.reason]
    print(f"echo bids {advice.bid_sats} sats: {reasons}")


asyncio.run(main())
