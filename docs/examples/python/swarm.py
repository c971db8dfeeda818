"""A swarm service: reports its auctions to the learner, and never waits for it."""

import asyncio
import os
import uuid

from learner_worker import EventPublisher

BOOTSTRAP_SERVERS = os.environ.get("LEARNER_BOOTSTRAP_SERVERS", "localhost:9092")


async def auction(events: EventPublisher, task_id: str) -> None:
    """Two agents bid, the cheaper one wins and delivers."""
    description = "Fix the invoice parser"
    await events.bid_placed(task_id, "echo", bid_sats=900, description=description)
    await events.bid_placed(task_id, "foxtrot", bid_sats=1100, description=description)
    await events.auction_closed(task_id, winner_agent_id="echo", winning_bid_sats=900)
    await events.task_finished(task_id, "echo", succeeded=True)


async def main() -> None:
    async with EventPublisher(BOOTSTRAP_SERVERS) as events:
        await asyncio.gather(*(auction(events, f"task-{uuid.uuid4()}") for _ in range(5)))
    print("echo won 5 auctions against foxtrot, and delivered")


asyncio.run(main())
