"""`run --processes`: several processes are one replica, whose parts fail, move and end as replicas do."""

import asyncio
import json
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from learner_worker.brokers import Broker
from tests.acceptance.test_refusals import learner_worker
from tests.integration.test_whole_way import metrics_equal_the_model
from tests.support import model
from tests.support.swarm import swarm_history
from tests.support.workers import (
    WorkerProcess,
    create_topics,
    outcomes_on_disk,
    publish,
    running_worker,
    until,
)

AUCTIONS = 60
SECONDS = 120.0  # many times what anything here takes, also on a busy machine


async def test_processes_are_one_replica_whose_parts_come_back(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """Two processes, one killed, then their parent, then three and one: every outcome counts once.

    A killed process comes back with its shards. A folder's files follow the number of processes, so that no
    shard is restored by the one that is left, and members of a run that was killed do not keep any.
    """
    names = await create_topics(broker.bootstrap_servers, prefix)
    events, state_dir = swarm_history(5, AUCTIONS), tmp_path / "state"
    thirds = [events[number::3] for number in range(3)]

    def replica(processes: int, *, wait: bool = True) -> AbstractAsyncContextManager[WorkerProcess]:
        settings = {"--processes": str(processes), "--group-instance-id": "w"}
        return running_worker(broker.bootstrap_servers, prefix, state_dir, settings=settings, wait=wait)

    async with replica(2) as two:
        await publish(broker.bootstrap_servers, names, thirds[0])
        await metrics_equal_the_model(broker, names, thirds[0], seconds=SECONDS)
        await _kill_one_and_see_it_back(two)
        await publish(broker.bootstrap_servers, names, thirds[1])
        await metrics_equal_the_model(broker, names, [*thirds[0], *thirds[1]], seconds=SECONDS)
        assert await two.metric("learner_build_info") == 2
        assert len(two.logged("http.listening")) == 1
        await two.stop(signal.SIGKILL)

    async with replica(3) as three:
        await _all_own_shards(three, 3)
        assert three.logged("state.arranged")
        [removed] = three.logged("members.removed")
        assert removed["members"] == ["w-0", "w-1"]
        await publish(broker.bootstrap_servers, names, thirds[2])
        await metrics_equal_the_model(broker, names, events, seconds=SECONDS)
        left = await learner_worker("leave", "--state-dir", str(state_dir))
        assert left.code == 0
        assert await asyncio.wait_for(three.process.wait(), SECONDS) == 0
        assert len(three.logged("group.left")) == 3

    async with replica(1) as one:
        assert not any(line["rewound"] for line in _opened_last(one))
        assert _places(state_dir) == {"state": 4}
        assert await one.stop() == 0
    assert outcomes_on_disk(state_dir) == model.outcomes(events)


async def test_what_ends_a_first_start_is_said_once(broker: Broker, prefix: str, tmp_path: Path) -> None:
    """Without topics both processes are refused: one sentence, as of one worker, and its exit code."""
    ended = await learner_worker(
        *("run", "--processes", "2", "--bootstrap-servers", broker.bootstrap_servers),
        *("--topic-prefix", prefix, "--state-dir", str(tmp_path / "state"), "--log-format", "json"),
    )

    assert ended.code == 2
    assert "topics create" in ended.sentence


async def _kill_one_and_see_it_back(worker: WorkerProcess) -> None:
    """Kills one process as the system would; it starts again, and all shards are owned and ready."""
    [victim] = [line["process"] for line in worker.logged("worker.starting") if line["instance"] == "w-1"]
    os.kill(victim, signal.SIGKILL)
    ended = await until(lambda: _logged(worker, "process.ended"), "its end is logged", seconds=SECONDS)
    assert ended[0]["process"] == 1
    assert "signal 9" in ended[0]["reason"]
    await _all_own_shards(worker, 2)


async def _all_own_shards(worker: WorkerProcess, processes: int) -> None:
    """Waits until the replica is ready, and each of its processes owns shards."""

    async def own() -> bool:
        status, body = await worker.get("/readyz")
        found = json.loads(body) if status == 200 else {"shards": [], "processes": {}}
        shares = [each["shards"] for each in found["processes"].values()]
        return found["shards"] == [0, 1, 2, 3] and len(shares) == processes and all(shares)

    await until(own, f"{processes} processes own all shards", seconds=SECONDS)


async def _logged(worker: WorkerProcess, event: str) -> Sequence[Mapping[str, Any]] | None:
    return worker.logged(event) or None


def _opened_last(worker: WorkerProcess) -> Sequence[Mapping[str, Any]]:
    """How each shard was opened by the process that has it now."""
    last = {line["shard"]: line for line in worker.logged("shard.opened")}
    assert sorted(last) == [0, 1, 2, 3]
    return list(last.values())


def _places(state_dir: Path) -> dict[str, int]:
    """How many shards have their file in which folder."""
    folders = [path.parent.name for path in state_dir.rglob("shard-*.sqlite3")]
    return {folder: folders.count(folder) for folder in sorted(set(folders))}
