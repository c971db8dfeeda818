"""Snapshots with real workers: a replica without a file takes one, and `forget` deletes those from before."""

import json
import re
import shutil
import time
from pathlib import Path

from learner_worker.brokers import Broker
from tests.acceptance.test_refusals import Ended, learner_worker
from tests.integration.test_forget import SECOND, SETTINGS, auctions, count, forget, rows_of
from tests.support.workers import WorkerProcess, create_topics, publish, running_worker, until


async def snapshots(url: str, *arguments: str) -> Ended:
    """A command about the store."""
    return await learner_worker("state", *arguments, "--snapshot-url", url)


async def positions(url: str) -> list[int]:
    """How far the snapshots of the first shard in the store have read."""
    listed = json.loads((await snapshots(url, "list", "--json")).out)
    return [each["position"] for each in listed.get("0", {"snapshots": []})["snapshots"]]


async def published(worker: WorkerProcess, shards: int) -> None:
    """Waits until the worker has published a snapshot of so many shards."""

    async def are() -> bool:
        return len({line["shard"] for line in worker.logged("snapshot.published")}) >= shards

    await until(are, f"snapshots of {shards} shards")


async def test_a_replica_without_files_takes_snapshots(broker: Broker, prefix: str, tmp_path: Path) -> None:
    """It reads only the rest of the changelog; then an agent is forgotten, also there."""
    names = await create_topics(broker.bootstrap_servers, prefix, partitions=1)
    store, folder = tmp_path / "store", tmp_path / "state"
    url, closed_at = store.as_uri(), time.time_ns() // 1000 - 60 * SECOND
    settings = {**SETTINGS, "--snapshot-url": url, "--snapshot-interval-seconds": "1"}
    async with running_worker(broker.bootstrap_servers, prefix, folder, settings=settings) as worker:
        await publish(broker.bootstrap_servers, names, auctions("old", "ann", "bob", closed_at))
        await count(broker, names, {"ann": 3, "bob": 3})
        await published(worker, 1)
        assert await worker.stop() == 0
    made = await learner_worker(
        *("state", "snapshot", "--state-dir", str(folder), "--snapshot-url", url, "--topic-prefix", prefix)
    )
    assert (made.code, made.err) == (0, ""), made
    shutil.rmtree(folder)

    async with running_worker(broker.bootstrap_servers, prefix, folder, settings=settings) as worker:
        await publish(broker.bootstrap_servers, names, auctions("new", "ann", "bob", closed_at, 2))
        await count(broker, names, {"ann": 5, "bob": 5})
        (taken,) = worker.logged("snapshot.taken")
        (opened,) = worker.logged("shard.opened")
        assert taken["position"] > 0
        assert opened["restore_records"] == 0
        assert worker.logged("snapshot.refused") == []

        assert await positions(url) != []
        done = await forget(broker, prefix, "ann", "--yes", "--snapshot-url", url)
        assert done.code == 0, done
        assert re.search(r"^\d+ snapshots? deleted$", done.out, re.MULTILINE), done
        marker = int(done.out.partition("the marker is at offset ")[2].split()[0])

        async def are_from_after_it() -> bool:
            found = await positions(url)
            return found != [] and min(found) > marker

        await until(are_from_after_it, "snapshots from after the marker, and no others")
        assert await worker.stop() == 0
    assert rows_of(folder, "ann")["outcomes"] == 0
    verified = await learner_worker(
        *("state", "verify", "--state-dir", str(folder), "--bootstrap-servers", broker.bootstrap_servers),
        *("--topic-prefix", prefix),
    )
    assert verified.code == 0, verified

    async def all_are_deleted() -> bool:
        pruned = await snapshots(url, "prune", "--older-than", "1s")
        assert pruned.code == 0, pruned
        return await positions(url) == []

    await until(all_are_deleted, "the last snapshot is older than a second, and deleted")
