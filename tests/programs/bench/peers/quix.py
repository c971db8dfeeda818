"""Quix Streams, both stages: a task's events joined in state, outcomes through a topic, agents in state."""

# mypy: disable-error-code="import-not-found"
# (Quix Streams is installed in a venv of its own, beside this file)

from typing import Any

from meter import JOB, Meter
from quixstreams import Application, State

_OUTCOMES = f"{JOB['group']}-outcomes"
meter = Meter(JOB["events"], two_stages=True)


def settle(event: dict[str, Any], state: State) -> list[dict[str, Any]]:
    """The outcomes that an event brings: those of its auction once it has closed."""
    known = state.get("auction", {"bids": {}, "close": None, "result": None})
    if "bid_sats" in event:
        known["bids"][event["agent_id"]] = [event["bid_sats"], event["description"]]
        notified = [event["agent_id"]]
    elif "succeeded" in event:
        known["result"] = event["succeeded"]
        notified = [event["agent_id"]]
    else:
        known["close"] = event["winner_agent_id"]
        notified = list(known["bids"])
    state.set("auction", known)
    meter.add(sent=0 if known["close"] is None else len(notified))
    if known["close"] is None:
        return []
    winner = known["close"]
    return [
        {
            "task_id": event["task_id"],
            "agent_id": agent,
            "won": agent == winner,
            "bid": known["bids"].get(agent),
            "succeeded": known["result"] if agent == winner else None,
        }
        for agent in notified
    ]


def learn(outcome: dict[str, Any], state: State) -> None:
    """Counts an outcome for its agent."""
    counts = state.get("counts", {"bids": 0, "won": 0, "completed": 0})
    counts["bids"] += 1
    counts["won"] += outcome["won"]
    counts["completed"] += bool(outcome["succeeded"])
    state.set("counts", counts)
    meter.learned()


app = Application(
    broker_address=JOB["servers"],
    consumer_group=JOB["group"],
    auto_offset_reset="earliest",
    state_dir=JOB["folder"],
    loglevel="ERROR",
    use_changelog_topics=True,
)
sources = [
    app.dataframe(app.topic(JOB[name], value_deserializer="json")) for name in ("bids", "closes", "results")
]
joined = sources[0].concat(sources[1]).concat(sources[2])
outcomes = app.topic(_OUTCOMES, value_serializer="json", value_deserializer="json")
facts = joined.apply(settle, stateful=True, expand=True)
facts.to_topic(outcomes, key=lambda outcome: outcome["agent_id"])
app.dataframe(outcomes).update(learn, stateful=True)
app.run()
