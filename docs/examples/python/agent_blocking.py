"""A bidding agent without asyncio: the same questions, the same answers."""

import os

from learner_worker import BlockingLearnerClient
from learner_worker.client import token_file

BOOTSTRAP_SERVERS = os.environ.get("LEARNER_BOOTSTRAP_SERVERS", "localhost:9092")
TOKEN_FILE = os.environ.get("LEARNER_TOKEN_FILE")  # where the learner wants to know who asks
token = token_file(TOKEN_FILE) if TOKEN_FILE else None

with BlockingLearnerClient(BOOTSTRAP_SERVERS, token=token) as learner:
    advice = learner.suggest_bid_or_base("echo", description="Fix the invoice parser", base_bid_sats=1000)
reasons = [item.reason for item in advice.reply.adjustments] if advice.reply else [advice.reason]
print(f"echo bids {advice.bid_sats} sats: {reasons}")
