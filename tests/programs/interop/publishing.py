"""10,000 events by librdkafka, keyed and without keys in turn: the outcomes are the model's all the same."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from learner_worker.brokers import Broker
from learner_worker.contract.topics import TopicNames
from tests.integration.test_whole_way import metrics_equal_the_model
from tests.programs.interop.clients import PYTHON
from tests.programs.interop.judging import Row, read_report
from tests.programs.interop.projects import run
from tests.support import model
from tests.support.swarm import swarm_history
from tests.support.workers import create_topics, outcomes_on_disk, running_worker, topic_of

KEY = "publishing"
TITLE = "confluent-kafka publishes"
PREFIX = "crc32-"
EVENTS = 10_000
AUCTIONS = 1_500
PARTITIONS = 12
PUBLISH_SECONDS = 120.0
LEARN_SECONDS = 120.0


async def check(broker: Broker, folder: Path) -> Row:
    """Publishes, waits until the metrics are the model's, stops the worker and compares every outcome.

    Raises:
        ProjectError: the publisher failed.
    """
    events = swarm_history(5, AUCTIONS)[:EVENTS]
    names = await create_topics(broker.bootstrap_servers, PREFIX, partitions=PARTITIONS)
    path, state_dir = folder / "events.jsonl", folder / "crc32-state"
    path.write_text("".join(_lines(events, names)), encoding="utf-8")
    async with running_worker(broker.bootstrap_servers, PREFIX, state_dir) as worker:
        command = PYTHON.command("publish.py", broker.bootstrap_servers, str(path))
        output = await run(command, PYTHON.folder, seconds=PUBLISH_SECONDS)
        problems = [] if '"unsent": 0, "failed": 0' in output else [f"not all events were sent: {output}"]
        try:
            await metrics_equal_the_model(broker, names, events, seconds=LEARN_SECONDS)
        except AssertionError:
            problems.append("the metrics records are not the model's")
        _, text = await worker.get("/metrics")
        moved = sum(
            int(float(line.rsplit(" ", 1)[1]))
            for line in text.splitlines()
            if line.startswith("learner_events_total{") and 'result="rerouted"' in line
        )
        if code := await worker.stop():
            problems.append(f"the worker ended with {code}")
    return _judged(events, state_dir, read_report(output).version, moved, problems)


def _lines(events: Sequence[model.Event], names: TopicNames) -> Iterator[str]:
    for number, event in enumerate(events):
        key = event.task_id if number % 2 == 0 else None
        yield json.dumps([topic_of(event, names), key, event.to_json().decode()]) + "\n"


def _judged(
    events: Sequence[model.Event], state_dir: Path, version: str, moved: int, problems: list[str]
) -> Row:
    expected, found = model.outcomes(events), outcomes_on_disk(state_dir)
    right = sum(found.get(key) == outcome for key, outcome in expected.items())
    if found != expected:
        problems.append(f"{len(expected) - right} outcomes differ, {len(found)} found")
    if not moved:
        problems.append("no event lay on a wrong partition: nothing was shown")
    return Row(
        TITLE,
        version,
        f"{len(events):,} events, keyed (CRC32) and without a key in turn, {moved:,} of them moved",
        f"{right:,} of {len(expected):,} outcomes",
        "",
        tuple(problems),
    )
