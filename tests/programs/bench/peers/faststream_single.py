"""FastStream, a message at a time: each is committed to SQLite by itself."""

# mypy: disable-error-code="import-not-found,untyped-decorator,misc"
# (FastStream is installed in a venv of its own, beside this file)

import asyncio
from pathlib import Path

from events import Bid, Close, Finish
from faststream import FastStream
from faststream.kafka import KafkaBroker
from meter import JOB, Meter, Outcomes

broker = KafkaBroker(JOB["servers"], logger=None)
meter = Meter(JOB["events"])
outcomes = Outcomes(str(Path(JOB["folder"], "outcomes.sqlite3")))


@broker.subscriber(JOB["bids"], group_id=JOB["group"], auto_offset_reset="earliest")
async def on_bid(bid: Bid) -> None:
    """Keeps a bid."""
    outcomes.begin()
    outcomes.bids([(bid.task_id, bid.agent_id, bid.bid_sats, bid.description)])
    outcomes.commit()
    meter.add()


@broker.subscriber(JOB["closes"], group_id=JOB["group"], auto_offset_reset="earliest")
async def on_close(close: Close) -> None:
    """Settles an auction."""
    outcomes.begin()
    outcomes.closes([(close.task_id, close.winner_agent_id)])
    outcomes.commit()
    meter.add()


@broker.subscriber(JOB["results"], group_id=JOB["group"], auto_offset_reset="earliest")
async def on_result(result: Finish) -> None:
    """Adds a result."""
    outcomes.begin()
    outcomes.results([(result.task_id, result.agent_id, result.succeeded)])
    outcomes.commit()
    meter.add()


asyncio.run(FastStream(broker, logger=None).run())
