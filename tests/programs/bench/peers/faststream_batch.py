"""FastStream in batches: one SQLite transaction a batch."""

# mypy: disable-error-code="import-not-found,untyped-decorator,misc"
# (FastStream is installed in a venv of its own, beside this file)

import asyncio
from pathlib import Path

from events import Bid, Close, Finish
from faststream import FastStream
from faststream.kafka import KafkaBroker
from meter import JOB, Meter, Outcomes

_RECORDS = 2_000
broker = KafkaBroker(JOB["servers"], logger=None)
meter = Meter(JOB["events"])
outcomes = Outcomes(str(Path(JOB["folder"], "outcomes.sqlite3")))
options = {"group_id": JOB["group"], "auto_offset_reset": "earliest", "batch": True, "max_records": _RECORDS}


@broker.subscriber(JOB["bids"], **options)
async def on_bids(bids: list[Bid]) -> None:
    """Keeps a batch of bids."""
    outcomes.begin()
    outcomes.bids((bid.task_id, bid.agent_id, bid.bid_sats, bid.description) for bid in bids)
    outcomes.commit()
    meter.add(len(bids))


@broker.subscriber(JOB["closes"], **options)
async def on_closes(closes: list[Close]) -> None:
    """Settles a batch of auctions."""
    outcomes.begin()
    outcomes.closes((close.task_id, close.winner_agent_id) for close in closes)
    outcomes.commit()
    meter.add(len(closes))


@broker.subscriber(JOB["results"], **options)
async def on_results(results: list[Finish]) -> None:
    """Adds a batch of results."""
    outcomes.begin()
    outcomes.results((result.task_id, result.agent_id, result.succeeded) for result in results)
    outcomes.commit()
    meter.add(len(results))


asyncio.run(FastStream(broker, logger=None).run())
