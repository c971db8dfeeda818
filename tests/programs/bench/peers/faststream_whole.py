"""FastStream in batches, the whole job: auctions joined in SQLite, a changelog, metrics, keywords.

Offsets are committed after SQLite's transaction and Kafka's acknowledgements.
"""

# mypy: disable-error-code="import-not-found,untyped-decorator,misc"
# (FastStream is installed in a venv of its own, beside this file)

import asyncio
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from aiokafka.partitioner import murmur2
from events import Bid, Close, Finish
from faststream import AckPolicy, FastStream
from faststream.kafka import KafkaBroker, KafkaPublishMessage
from learned import Learned
from meter import JOB, Meter, Outcomes
from pydantic import BaseModel

_RECORDS = 2_000
_PUBLISHED = 500  # messages of a batch, well below the size at which the producer refuses one
_BATCH_BYTES = 2**20
_CHANGELOG, _METRICS = JOB["outcomes"], JOB["metrics"]
broker = KafkaBroker(JOB["servers"], logger=None, acks="all", max_batch_size=_BATCH_BYTES)
meter = Meter(JOB["events"], two_stages=True)
auctions = Outcomes(str(Path(JOB["folder"], "auctions.sqlite3")))
outcomes = Learned(str(Path(JOB["folder"], "outcomes.sqlite3")))
options: Any = {
    "group_id": JOB["group"],
    "auto_offset_reset": "earliest",
    "batch": True,
    "max_records": _RECORDS,
    "ack_policy": AckPolicy.ACK,
}


class Outcome(BaseModel):
    """What is known of an agent in a task."""

    task_id: str
    agent_id: str
    won: bool
    bid_sats: int
    description: str
    succeeded: bool | None


@broker.subscriber(JOB["bids"], **options)
async def on_bids(bids: list[Bid]) -> None:
    """Keeps a batch of bids."""
    auctions.begin()
    auctions.bids((bid.task_id, bid.agent_id, bid.bid_sats, bid.description) for bid in bids)
    auctions.commit()
    await send(auctions.of_bidders((bid.task_id, bid.agent_id) for bid in bids), len(bids))


@broker.subscriber(JOB["closes"], **options)
async def on_closes(closes: list[Close]) -> None:
    """Settles a batch of auctions."""
    auctions.begin()
    auctions.closes((close.task_id, close.winner_agent_id) for close in closes)
    auctions.commit()
    await send(auctions.of_tasks(close.task_id for close in closes), len(closes))


@broker.subscriber(JOB["results"], **options)
async def on_results(results: list[Finish]) -> None:
    """Adds a batch of results."""
    auctions.begin()
    auctions.results((result.task_id, result.agent_id, result.succeeded) for result in results)
    auctions.commit()
    changed = auctions.of_bidders((result.task_id, result.agent_id) for result in results)
    await send(changed, len(results))


@broker.subscriber(_CHANGELOG, **options)
async def on_outcomes(found: list[Outcome]) -> None:
    """Learns a batch of outcomes, and publishes the metrics of the agents that changed."""
    keys = json.dumps([(outcome.task_id, outcome.agent_id) for outcome in found])
    changed = outcomes.learn((outcome.model_dump() for outcome in found), keys)
    await publish(_METRICS, [(agent, agent, metrics) for agent, metrics in changed.items()])
    meter.learned(len(found))


async def send(changed: list[dict[str, Any]], events: int) -> None:
    """Sends outcomes that may have changed to the changelog, by agent."""
    messages = [(row["agent_id"], f"{row['task_id']} {row['agent_id']}", row) for row in changed]
    await publish(_CHANGELOG, messages)
    meter.add(events, sent=len(changed))


async def publish(topic: str, messages: list[tuple[str, str, Any]]) -> None:
    """Publishes messages, each with the id that chooses its partition and its key, in batches."""
    by_partition: dict[int, list[KafkaPublishMessage]] = defaultdict(list)
    for agent, key, body in messages:
        partition = (murmur2(agent.encode()) & 0x7FFFFFFF) % JOB["partitions"]
        by_partition[partition].append(KafkaPublishMessage(body, key=key.encode()))
    acknowledged = [
        await broker.publish_batch(
            *found[start : start + _PUBLISHED], topic=topic, partition=partition, no_confirm=True
        )
        for partition, found in by_partition.items()
        for start in range(0, len(found), _PUBLISHED)
    ]
    await asyncio.gather(*acknowledged)


asyncio.run(FastStream(broker, logger=None).run())
