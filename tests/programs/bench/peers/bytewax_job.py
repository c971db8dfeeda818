"""Bytewax: a task's events joined in memory; without recovery, without a table."""

# mypy: disable-error-code="import-not-found"
# (Bytewax is installed in a venv of its own, beside this file)

import json
from typing import Any

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, run_main
from meter import JOB, Meter

meter = Meter(JOB["events"])


def decode(message: Any) -> tuple[str, dict[str, Any]]:
    """An event by its task."""
    event = json.loads(message.value)
    return event["task_id"], event


def settle(task: dict[str, Any] | None, event: dict[str, Any]) -> tuple[dict[str, Any] | None, list[str]]:
    """The agents whose outcomes an event brings."""
    task = task or {"bids": {}, "winner": None}
    if "bid_sats" in event:
        task["bids"][event["agent_id"]] = event["bid_sats"]
    elif "succeeded" not in event:
        task["winner"] = event["winner_agent_id"]
    meter.add()
    closed = "winner_agent_id" in event
    return task, list(task["bids"]) if closed else []


flow = Dataflow("outcomes")
source = KafkaSource(
    [JOB["servers"]], [JOB["bids"], JOB["closes"], JOB["results"]], tail=True, batch_size=1_000
)
messages = op.input("events", flow, source)
by_task = op.map("decode", messages, decode)
notified = op.stateful_map("settle", by_task, settle)
agents = op.flat_map("agents", notified, lambda item: [(agent, 1) for agent in item[1]])
counted = op.stateful_map("count", agents, lambda count, one: ((count or 0) + one, (count or 0) + one))
op.output("out", counted, TestingSink([]))
run_main(flow)
