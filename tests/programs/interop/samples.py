"""docs/examples/, run as they stand: what they print is judged by the records on the topics."""

import json
import re
import sys
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from learner_worker.brokers import Broker
from learner_worker.contract.times import parse_time
from learner_worker.contract.topics import TopicNames
from tests.programs.interop.judging import Row
from tests.programs.interop.projects import MavenProject, NpmProject, Project, run
from tests.support import model, profit_model
from tests.support.workers import latest_metrics, read_topic, until

KEY = "examples"
FOLDER = Path(__file__).parents[3] / "docs" / "examples"
REPLY_TOPICS = ("suggest-bid-replies.agents",)
AGENT = "echo"
SECONDS = 120.0
_BID = re.compile(r"bids (\d+) sats: (.*)")

Running = Coroutine[Any, Any, None]


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample, and the command its reader types."""

    title: str
    project: Project
    words: tuple[str, ...]
    asks: bool = True

    @property
    def shown_command(self) -> str:
        """The command as the page names it."""
        return " ".join(("python", *self.words[1:]) if self.words[0] == sys.executable else self.words)


SAMPLES = (
    Sample(
        "docs/examples/python/swarm.py", Project(FOLDER / "python"), (sys.executable, "swarm.py"), asks=False
    ),
    Sample("docs/examples/python/agent.py", Project(FOLDER / "python"), (sys.executable, "agent.py")),
    Sample(
        "docs/examples/python/agent_blocking.py",
        Project(FOLDER / "python"),
        (sys.executable, "agent_blocking.py"),
    ),
    Sample(
        "docs/examples/java-spring",
        MavenProject(FOLDER / "java-spring"),
        ("mvn", "-q", "compile", "exec:java"),
    ),
    Sample("docs/examples/typescript", NpmProject(FOLDER / "typescript"), ("npm", "start")),
)


@dataclass(slots=True)
class SampleOutput:
    """What the samples printed, and what they should have."""

    expected_sats: dict[str, int] = field(default_factory=dict)
    base_sats: dict[str, int] = field(default_factory=dict)
    advised: dict[str, str] = field(default_factory=dict)
    alone: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


async def with_learner(sample: Sample, broker: Broker, names: TopicNames, output: SampleOutput) -> None:
    """Runs a sample while a worker answers; of the swarm's, waits until it is learned.

    Raises:
        ProjectError: it failed.
    """
    output.advised[sample.title] = await _output(sample, broker)
    events = await _events(broker, names)
    if not sample.asks:
        metrics = model.metrics(model.outcomes(events)).get(AGENT, model.NO_HISTORY)
        await _learned(broker, names, metrics.total_bids)
        return
    request = await _last_request(broker, names)
    output.expected_sats[sample.title] = _expected_sats(events, request)
    output.base_sats[sample.title] = request["base_bid_sats"]


def _expected_sats(events: Sequence[model.Event], request: Mapping[str, Any]) -> int:
    """What the strategy that the request names answers, by its model."""
    description, base = request["description"], request["base_bid_sats"]
    if request.get("strategy") == "expected-profit":
        asked = profit_model.Request(description, base, request["cost_sats"])
        return profit_model.answer(events, AGENT, asked).bid
    metrics = model.metrics(model.outcomes(events)).get(AGENT)
    return model.classic(metrics, description, base).suggested_bid_sats


async def without_learner(sample: Sample, broker: Broker, output: SampleOutput) -> None:
    """Runs a sample where nobody answers.

    Raises:
        ProjectError: it failed.
    """
    output.alone[sample.title] = await _output(sample, broker)


async def _output(sample: Sample, broker: Broker) -> str:
    servers = {"LEARNER_BOOTSTRAP_SERVERS": broker.bootstrap_servers}
    return await run(sample.words, sample.project.folder, seconds=SECONDS, environment=servers)


async def _events(broker: Broker, names: TopicNames) -> list[model.Event]:
    """What lies on the three event topics, as the model reads it."""
    bids = [
        json.loads(record.value) for record in await read_topic(broker.bootstrap_servers, names.bid_placed)
    ]
    closes = [
        json.loads(record.value)
        for record in await read_topic(broker.bootstrap_servers, names.auction_closed)
    ]
    results = [
        json.loads(record.value) for record in await read_topic(broker.bootstrap_servers, names.task_finished)
    ]
    return [
        *(model.BidPlaced(**{**bid, "placed_at": parse_time(bid["placed_at"])}) for bid in bids),
        *(model.AuctionClosed(**{**close, "closed_at": parse_time(close["closed_at"])}) for close in closes),
        *(model.TaskFinished(**{**done, "finished_at": parse_time(done["finished_at"])}) for done in results),
    ]


async def _learned(broker: Broker, names: TopicNames, total_bids: int) -> None:
    async def is_learned() -> bool:
        metrics = await latest_metrics(broker.bootstrap_servers, names)
        record: Mapping[str, Any] = metrics.get(AGENT, {})
        return bool(record.get("total_bids") == total_bids and record["tasks_completed"] == total_bids)

    await until(is_learned, f"{AGENT}'s {total_bids} auctions are learned")


async def _last_request(broker: Broker, names: TopicNames) -> dict[str, Any]:
    """The newest request for the samples' agent, as it lies on the topic."""
    records = await read_topic(broker.bootstrap_servers, names.requests)
    requests = [(record.timestamp, json.loads(record.value)) for record in records]
    ours = [(at, request) for at, request in requests if request["agent_id"] == AGENT]
    found: dict[str, Any] = max(ours, key=lambda item: item[0])[1]
    return found


def rows(output: SampleOutput) -> list[Row]:
    """A row a sample."""
    return [_row(sample, output) for sample in SAMPLES]


def _row(sample: Sample, output: SampleOutput) -> Row:
    if reason := output.failed.get(sample.title):
        return Row(sample.title, "", "", "", "", (f"did not run: {reason}",))
    if not sample.asks:
        return Row(
            sample.title,
            "",
            f"`{sample.shown_command}` publishes",
            output.advised[sample.title].strip(),
            "",
        )
    advised = _BID.search(output.advised[sample.title])
    alone = _BID.search(output.alone[sample.title])
    problems = []
    if advised is None or int(advised[1]) != output.expected_sats[sample.title]:
        problems.append(
            f"should bid {output.expected_sats[sample.title]}, printed {output.advised[sample.title]!r}"
        )
    if alone is None or int(alone[1]) != output.base_sats[sample.title]:
        problems.append(f"should bid its base with no learner, printed {output.alone[sample.title]!r}")
    return Row(
        sample.title,
        "",
        f"`{sample.shown_command}` with a learner, then with none",
        f"{2 - len(problems)} of 2",
        f"no learner: {alone[2]}" if alone else "",
        tuple(problems),
    )
