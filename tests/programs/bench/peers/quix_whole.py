"""Quix Streams, the whole job: auctions joined in state, a changelog, outcomes, metrics and keywords.

An agent's metrics record is written for every outcome that changes it.
"""

# mypy: disable-error-code="import-not-found"
# (Quix Streams is installed in a venv of its own, beside this file)

from typing import Any

from learned import METRICS, counted, words
from meter import JOB, Meter
from quixstreams import Application, State
from quixstreams.models import TopicConfig

meter = Meter(JOB["events"], two_stages=True)


def settle(event: dict[str, Any], state: State) -> list[dict[str, Any]]:
    """The outcomes that an event brings: those of its auction once it has closed."""
    known = state.get("auction", {"bids": {}, "closed": False, "winner": None, "succeeded": None})
    if "bid_sats" in event:
        known["bids"][event["agent_id"]] = [event["bid_sats"], event["description"]]
        changed = [event["agent_id"]]
    elif "succeeded" in event:
        known["succeeded"] = event["succeeded"]
        changed = [event["agent_id"]]
    else:
        known["closed"], known["winner"] = True, event["winner_agent_id"]
        changed = list(known["bids"])
    state.set("auction", known)
    outcomes = [
        {
            "task_id": event["task_id"],
            "agent_id": agent,
            "won": agent == known["winner"],
            "bid_sats": known["bids"][agent][0],
            "description": known["bids"][agent][1],
            "succeeded": known["succeeded"] if agent == known["winner"] else None,
        }
        for agent in (changed if known["closed"] else ())
        if agent in known["bids"]
    ]
    meter.add(sent=len(outcomes))
    return outcomes


def learn(outcome: dict[str, Any], state: State) -> list[dict[str, Any]]:
    """Takes an outcome for its agent; its metrics, if it changed anything."""
    before = state.get(f"outcome {outcome['task_id']}")
    if before == outcome:
        meter.learned()
        return []
    state.set(f"outcome {outcome['task_id']}", outcome)
    metrics = state.get("metrics", [0] * len(METRICS))
    pairs = zip(counted(before), counted(outcome), strict=True)
    metrics = [value + new - old for value, (old, new) in zip(metrics, pairs, strict=True)]
    state.set("metrics", metrics)
    for one, sign in ((before, -1), (outcome, 1)):
        for word, wins, failures in words(one):
            tally = state.get(f"word {word}", [0, 0])
            state.set(f"word {word}", [tally[0] + sign * wins, tally[1] + sign * failures])
    meter.learned()
    return [{"agent_id": outcome["agent_id"], **dict(zip(METRICS, metrics, strict=True))}]


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
changelog = app.topic(  # keyed by agent, so it must not be compacted
    f"{JOB['group']}-outcomes",
    value_serializer="json",
    value_deserializer="json",
    config=TopicConfig(num_partitions=JOB["partitions"], replication_factor=1),
)
metrics_topic = app.topic(JOB["metrics"], value_serializer="json")
facts = sources[0].concat(sources[1]).concat(sources[2]).apply(settle, stateful=True, expand=True)
facts.to_topic(changelog, key=lambda outcome: outcome["agent_id"])
learned = app.dataframe(changelog).apply(learn, stateful=True, expand=True)
learned.to_topic(metrics_topic, key=lambda metrics: metrics["agent_id"])
app.run()
