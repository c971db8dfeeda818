"""Faust (faust-streaming): a task's events joined in a table, agents counted in another."""

# mypy: disable-error-code="import-not-found,untyped-decorator,misc"
# (Faust is installed in a venv of its own, beside this file)

import sys
from typing import Any

import faust
from meter import JOB, Meter

_OUTCOMES = f"{JOB['group']}-outcomes"
meter = Meter(JOB["events"])
app = faust.App(
    JOB["group"],
    broker=f"kafka://{JOB['servers']}",
    store="memory://",
    datadir=JOB["folder"],
    topic_partitions=JOB["partitions"],
    topic_replication_factor=1,
    consumer_auto_offset_reset="earliest",
    web_enabled=False,
)
tasks = app.Table("tasks", default=dict, partitions=JOB["partitions"])
agents = app.Table("agents", default=int, partitions=JOB["partitions"])
outcomes = app.topic(_OUTCOMES, value_serializer="json", partitions=JOB["partitions"], internal=True)


@app.agent(app.topic(JOB["bids"], JOB["closes"], JOB["results"], value_serializer="json"))
async def settle(events: Any) -> None:
    """Joins a task's events; a close sends its outcomes on, and so does what comes after it."""
    async for event in events:
        task = dict(tasks[event["task_id"]])
        if "bid_sats" in event:
            task[event["agent_id"]] = event["bid_sats"]
        elif "succeeded" not in event:
            task["closed"] = event["winner_agent_id"]
        tasks[event["task_id"]] = task
        if "closed" in task:
            bidders = (
                [event["agent_id"]] if "agent_id" in event else [name for name in task if name != "closed"]
            )
            for agent in bidders:
                await outcomes.send(key=agent, value={"agent_id": agent, "task_id": event["task_id"]})
        meter.add()


@app.agent(outcomes)
async def learn(facts: Any) -> None:
    """Counts outcomes for their agents."""
    async for fact in facts:
        agents[fact["agent_id"]] += 1


sys.argv = [sys.argv[0], "worker", "-l", "error", "--without-web"]
app.main()
