"""The replicas under test: real worker processes, their names surviving restarts, each with its folder."""

import asyncio
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from learner_worker.contract.fields import ShardId
from learner_worker.store.shard_file import shard_path
from tests.support.workers import WorkerProcess, running_worker, until

READY_SECONDS = 180.0
_WRITE_POLL_SECONDS = 0.0002
_MEMORY_POLL_SECONDS = 1.0


@dataclass(slots=True)
class Replica:
    """One replica, running or not."""

    name: str
    state_dir: Path
    worker: WorkerProcess | None = None
    life: AsyncExitStack = field(default_factory=AsyncExitStack)
    _read_bytes: int = 0
    _shards: frozenset[int] = frozenset()

    @property
    def running(self) -> WorkerProcess:
        """The process; the replica is expected to run."""
        assert self.worker is not None, f"replica {self.name} does not run"
        return self.worker

    @property
    def shards(self) -> frozenset[int]:
        """The shards that the group gave it last; none if it does not run."""
        if self.worker is not None:
            self._follow_log(self.worker.log_path)
        return self._shards

    def _follow_log(self, path: Path) -> None:
        """Reads what the log says since the last look: it is asked for many times a second."""
        with path.open("rb") as log:
            log.seek(self._read_bytes)
            whole, newline, _ = log.read().rpartition(b"\n")
        self._read_bytes += len(whole) + len(newline)
        for line in whole.splitlines():
            if b'"shards.assigned"' in line:
                self._shards = frozenset(json.loads(line)["shards"])

    def forget_process(self) -> None:
        """Its process has ended: the next one has a log of its own, and no shards yet."""
        self.worker, self._read_bytes, self._shards = None, 0, frozenset()

    def file_of(self, shard: int) -> Path:
        """Where its file of a shard lies, or would lie."""
        return shard_path(self.state_dir, ShardId(shard))

    def lose_disk(self) -> None:
        """Deletes everything it keeps."""
        shutil.rmtree(self.state_dir, ignore_errors=True)

    def rss_bytes(self) -> int:
        """The memory its process holds; 0 if it does not run, or where there is no /proc."""
        if self.worker is None or self.worker.process.returncode is not None:
            return 0
        try:
            pages = Path(f"/proc/{self.worker.process.pid}/statm").read_text().split()[1]
        except OSError:
            return 0
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


class Replicas:
    """A group of replicas on one cluster.

    Args:
        piped: whether other processes read their logs, through small pipes.

    Attributes:
        logs: the logs of all processes so far.
        peak_bytes: the most memory that any of them held.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        prefix: str,
        folder: Path,
        *,
        partitions: int,
        settings: Mapping[str, str],
        piped: bool = False,
    ) -> None:
        self._servers = bootstrap_servers
        self._prefix = prefix
        self._folder = folder
        self._partitions = partitions
        self._settings = dict(settings)
        self._piped = piped
        self._all: dict[str, Replica] = {}
        self.logs: list[Path] = []
        self.peak_bytes = 0

    @property
    def group_id(self) -> str:
        """The group's name in Kafka."""
        return f"{self._prefix}learner"

    @property
    def running(self) -> list[Replica]:
        """Those that run."""
        return [replica for replica in self._all.values() if replica.worker is not None]

    def __getitem__(self, name: str) -> Replica:
        return self._all.setdefault(name, Replica(name, self._folder / name))

    async def start(self, *names: str) -> None:
        """Starts replicas, without waiting until they are ready."""
        await asyncio.gather(*(self._start(self[name]) for name in names))

    async def _start(self, replica: Replica) -> None:
        settings = {"--group-instance-id": replica.name, **self._settings}
        replica.state_dir.mkdir(parents=True, exist_ok=True)
        replica.worker = await replica.life.enter_async_context(
            running_worker(
                self._servers,
                self._prefix,
                replica.state_dir,
                settings=settings,
                wait=False,
                piped=self._piped,
            )
        )
        self.logs.append(replica.worker.log_path)

    async def stop(self, name: str) -> int:
        """SIGTERM, and the exit code."""
        replica = self[name]
        code = await replica.running.stop()
        await self._gone(replica)
        return code

    async def kill(self, name: str, *, in_a_write: bool = False) -> None:
        """kill -9; `in_a_write` waits, for two seconds at most, for a shard's file to be written just now."""
        replica = self[name]
        kill = replica.running.process.kill
        if in_a_write:
            paths = [wal_of(replica.file_of(shard)) for shard in replica.shards]
            await asyncio.to_thread(kill_at_a_write, paths, kill)
        else:
            kill()
        await replica.running.process.wait()
        await self._gone(replica)

    async def _gone(self, replica: Replica) -> None:
        replica.forget_process()
        await replica.life.aclose()

    def stop_log(self, name: str, number: signal.Signals) -> None:
        """Sends a signal to the process that reads the replica's log."""
        reader = self[name].running.log_reader
        assert reader is not None, "the replicas' logs are not piped"
        os.kill(reader.pid, number)

    def suspend(self, name: str) -> None:
        """SIGSTOP."""
        self[name].running.process.send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """SIGCONT."""
        self[name].running.process.send_signal(signal.SIGCONT)

    async def close(self) -> None:
        """Ends whatever still runs."""
        for replica in self.running:
            await self._gone(replica)

    # --- what they say -----------------------------------------------------------------------------------

    def owners(self) -> dict[int, str]:
        """Who was given which shard last, by shard."""
        return {shard: replica.name for replica in self.running for shard in replica.shards}

    async def settled(self, seconds: float = READY_SECONDS) -> None:
        """Waits until every replica is ready and every shard has one owner."""
        for replica in self.running:
            await replica.running.ready(seconds)

        async def shared_out() -> bool:
            given = [shard for replica in self.running for shard in replica.shards]
            return sorted(given) == list(range(self._partitions)) and await self._all_ready()

        await until(shared_out, "every shard has one ready owner", seconds=seconds)

    async def followed(self, seconds: float = READY_SECONDS) -> None:
        """Waits until every replica follows other shards and has caught up with all of them."""

        async def caught_up() -> bool:
            workers = [replica.running for replica in self.running]
            left = [await worker.metric("learner_standby_records_left") for worker in workers]
            return all(worker.logged("standbys.follow") for worker in workers) and not any(left)

        await until(caught_up, "the standbys have caught up", seconds=seconds)

    async def _all_ready(self) -> bool:
        answers = await asyncio.gather(*(replica.running.get("/readyz") for replica in self.running))
        return all(status == 200 for status, _ in answers)

    async def watch_memory(self) -> None:
        """Keeps the highest memory of any replica, until cancelled."""
        while True:
            self.peak_bytes = max(self.peak_bytes, self.rss_bytes())
            await asyncio.sleep(_MEMORY_POLL_SECONDS)

    def rss_bytes(self) -> int:
        """The memory of the replica that holds most."""
        return max((replica.rss_bytes() for replica in self.running), default=0)

    def tracebacks(self) -> list[str]:
        """The logs in which a replica left a traceback."""
        return [str(path) for path in self.logs if "Traceback" in path.read_text(errors="replace")]


def wal_of(path: Path) -> Path:
    """The write-ahead log beside a SQLite file."""
    return path.with_name(f"{path.name}-wal")


def kill_at_a_write(paths: Collection[Path], kill: Callable[[], None], *, seconds: float = 2.0) -> None:
    """Kills as soon as one of the files changes, or when the time is up."""
    before = {path: _stamp(path) for path in paths}
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while all(_stamp(path) == stamp for path, stamp in before.items()) and time.monotonic() < deadline:
        pause.wait(_WRITE_POLL_SECONDS)
    kill()


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except FileNotFoundError:
        return (0, 0)
    return (found.st_mtime_ns, found.st_size)
