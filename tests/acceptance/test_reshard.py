"""`reshard`: more partitions, and every number stays what it was."""

import asyncio
import contextlib
import functools
import itertools
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from learner_worker.brokers import Broker
from learner_worker.client import LearnerClient
from learner_worker.contract.topics import TopicNames, Topics
from learner_worker.contract.topology import Topology, decode_topology, standing
from learner_worker.doctor import Level
from learner_worker.errors import LearnerError
from tests.acceptance.test_topology import command, until_deleted
from tests.crash_points.fuse import MARK
from tests.crash_points.reshards import DEATHS
from tests.integration.test_doctor import examined, messages
from tests.integration.test_whole_way import metrics_equal_the_model
from tests.support import forked, model
from tests.support.swarm import swarm_history
from tests.support.workers import (
    WorkerProcess,
    create_topics,
    outcomes_in_file,
    positions_in,
    publish,
    read_topic,
    running_worker,
    until,
)

BEFORE, AFTER = 12, 48
AUCTIONS = 160
BATCHES, AFTERWARDS = 40, 5
PAUSE_SECONDS = 0.3
"""Between two batches of the publishers, who go on before, during and after the reshard."""
FOREVER_SECONDS = 240.0  # for a machine with both cores busy


async def recorded(broker: Broker, names: TopicNames) -> Topology:
    """The record in effect."""
    records = await read_topic(broker.bootstrap_servers, names.topology)
    found = standing(decode_topology(record.value) for record in records)
    assert found is not None
    return found


class Asking:
    """Somebody who asks for advice all the time, and notes how long nobody answered.

    Attributes:
        longest: the longest time between two answers, in seconds.
    """

    def __init__(self, broker: Broker, prefix: str, agents: Sequence[str]) -> None:
        self._broker = broker
        self._prefix = prefix
        self._agents = agents
        self.longest = 0.0

    async def ask(self) -> None:
        """Asks for one agent after the other."""
        answered = time.monotonic()
        topics = Topics(prefix=self._prefix)
        async with LearnerClient(self._broker.bootstrap_servers, topics=topics, timeout_seconds=1) as learner:
            for agent_id in itertools.cycle(self._agents):
                with contextlib.suppress(LearnerError):
                    await learner.suggest_bid(agent_id, description="fix it", base_bid_sats=100)
                    now = time.monotonic()
                    self.longest, answered = max(self.longest, now - answered), now
                await asyncio.sleep(0.05)


async def publish_slowly(
    broker: Broker, names: TopicNames, events: Sequence[model.Event], switched: asyncio.Event
) -> None:
    """Publishers that go on; their clients learn of new partitions in their own time.

    The last batches come after the switch.
    """
    size = -(-len(events) // BATCHES)
    for number in range(BATCHES):
        if number == BATCHES - AFTERWARDS:
            await switched.wait()
        await publish(
            broker.bootstrap_servers, names, events[number * size : (number + 1) * size], keyed=number % 3 > 0
        )
        await asyncio.sleep(PAUSE_SECONDS)


@asynccontextmanager
async def supervised(broker: Broker, prefix: str, folder: Path) -> AsyncIterator[list[WorkerProcess]]:
    """A worker that a supervisor starts again whenever it ends with exit code 1; all of its runs."""
    runs: list[WorkerProcess] = []
    settings = {"--group-instance-id": folder.name}

    async def supervise() -> None:
        code = 1
        while code == 1:
            async with running_worker(
                broker.bootstrap_servers, prefix, folder, settings=settings, wait=False
            ) as worker:
                runs.append(worker)
                code = await worker.process.wait()
        assert code == 0, worker.log_path.read_text()[-2000:]

    task = asyncio.create_task(supervise())
    try:
        await until_true(lambda: bool(runs), task)
        yield runs
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until_true(holds: Callable[[], bool], task: "asyncio.Task[None]") -> None:
    """Waits for a condition, unless a task fails first."""

    async def true() -> bool:
        if task.done():
            task.result()
        return holds()

    await until(true, "it holds", seconds=FOREVER_SECONDS)


async def resharded_with_deaths(broker: Broker, prefix: str, folder: Path) -> None:
    """Runs the command until it dies, as often as it can die, and to its end."""
    words = ("reshard", "--partitions", str(AFTER), "--yes", "--replication-factor", "1")
    environment = {"LEARNER_BOOTSTRAP_SERVERS": broker.bootstrap_servers, "LEARNER_TOPIC_PREFIX": prefix}
    run = functools.partial(
        forked.run, *words, environment=environment, folder=folder, seconds=FOREVER_SECONDS
    )
    for death in DEATHS:
        code, out, err = await asyncio.to_thread(functools.partial(run, death=death))
        assert (code, MARK in err) == (-signal.SIGKILL, True), (death, out, err)
    code, _, err = await asyncio.to_thread(run)
    assert (code, "reshard --finish" in err) == (2, True), err


@pytest.mark.own_kafka
async def test_topics_are_resharded_under_load_with_kills(
    broker: Broker, prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twelve partitions become 48 while publishers go on, and the command is killed in and after every step.

    A supervisor starts both workers again, and they wait for the end. Every metrics record and every outcome
    is the model's; the old topics go with `--finish`, and doctor warns until then.
    """
    names = await create_topics(broker.bootstrap_servers, prefix, partitions=BEFORE)
    events = swarm_history(52, AUCTIONS)
    agents = sorted({event.agent_id for event in events if isinstance(event, model.BidPlaced)})
    asking = Asking(broker, prefix, agents)
    async with (
        supervised(broker, prefix, tmp_path / "a") as first,
        supervised(broker, prefix, tmp_path / "b") as second,
    ):
        await asyncio.gather(first[0].ready(), second[0].ready())
        asks = asyncio.create_task(asking.ask())
        switched = asyncio.Event()
        publishing = asyncio.create_task(publish_slowly(broker, names, events, switched))
        await resharded_with_deaths(broker, prefix, tmp_path)
        switched.set()
        topology = await recorded(broker, names)
        assert (topology.shards, topology.layout, topology.reshard) == (AFTER, 2, None)
        new = names.of_layout(2)
        assert (topology.topics.metrics, topology.events_group) == (new.metrics, f"{prefix}learner.layout2")
        await until_true(publishing.done, publishing)
        await metrics_equal_the_model(broker, new, events, seconds=FOREVER_SECONDS)
        asks.cancel()
        longest = asking.longest
        with capsys.disabled():
            sys.stdout.write(f"\nreshard with {len(DEATHS)} kills: {longest:.1f} s without an answer\n")
        await finished(broker, prefix, names, tmp_path / "a")
        assert min(len(first), len(second)) > 1
        assert [await runs[-1].stop() for runs in (first, second)] == [0, 0]
    assert owned_outcomes(new, tmp_path / "a", tmp_path / "b") == model.outcomes(events)


def owned_outcomes(names: TopicNames, *folders: Path) -> dict[tuple[str, str], model.Outcome]:
    """Every outcome in the files that have come furthest: a shard that moves on leaves its file behind."""
    found: dict[str, Path] = {}
    for path in (path for folder in folders for path in folder.glob("shard-*.sqlite3")):
        rival = found.get(path.name)
        if rival is None or positions_in(path, names.outcomes) > positions_in(rival, names.outcomes):
            found[path.name] = path
    return {key: outcome for path in found.values() for key, outcome in outcomes_in_file(path).items()}


async def finished(broker: Broker, prefix: str, names: TopicNames, folder: Path) -> None:
    """The old topics and groups are deleted; doctor warns until then."""

    async def said() -> tuple[list[str], list[str]]:
        report = await examined(
            folder.parent, broker.bootstrap_servers, prefix, group_id=f"{prefix}learner", state_dir=folder
        )
        return messages(report, "topology", Level.ERROR), messages(report, "topology", Level.WARNING)

    errors, (warned, *_) = await said()
    assert errors == []
    assert f"the topics of the layout before are still there ({names.outcomes}" in warned
    again = await command(broker, prefix, "reshard", "--partitions", "96", "--yes")
    assert (again.code, "reshard --finish" in again.sentence) == (2, True), again
    for out in (f"deleted {names.outcomes}", "there is nothing to delete"):
        ended = await command(broker, prefix, "reshard", "--finish")
        assert (ended.code, out in ended.out) == (0, True), ended
    await until_deleted(broker, names.of_one_layout)
    assert await said() == ([], [])
    check = await command(broker, prefix, "topics", "check", group=f"{prefix}learner")
    assert check.out == f"all topics are there, with {AFTER} shards, of group {prefix}learner\n"
