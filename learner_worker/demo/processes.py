"""Runs the learner as processes: creates its topics, and starts, watches and stops replicas and insights."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final

import aiohttp

from learner_worker.brokers.guardian import GUARDIAN
from learner_worker.demo.cluster import DemoCluster
from learner_worker.errors import LearnerError

REPLICAS: Final = 2  # the fewest that show shared work
READY_SECONDS: Final = 60.0  # two processes start and a group rebalances, on a slow machine
STOP_SECONDS: Final = 30.0  # above a worker's limit for its last checkpoint
POLL_SECONDS: Final = 0.05  # between two reads of a log
LAST_LINES: Final = 12  # of a log: enough for an error and its reason


class ProcessError(LearnerError):
    """A process of the demo did not start, keep running or end properly; exit code 1."""


@dataclass(frozen=True, slots=True)
class ServiceProcess:
    """A running `learner-worker run` or `insights`; `name` is what it is called in sentences."""

    name: str
    process: asyncio.subprocess.Process
    log_file: Path

    def check_alive(self) -> None:
        """Raises `ProcessError` with the log's last lines when the process has ended."""
        if self.process.returncode is not None:
            raise self.error(f"ended with exit code {self.process.returncode}")

    def error(self, what: str) -> ProcessError:
        """Makes the error for a failed process, with its last log lines and its log file."""
        text = self.log_file.read_text(encoding="utf-8", errors="replace")
        last_words = "\n".join(text.splitlines()[-LAST_LINES:]) or "(nothing)"
        return ProcessError(f"{self.name} {what}. Its last words:\n{last_words}\nAll: {self.log_file}")

    def url(self) -> str | None:
        """The address its log names; None until it listens."""
        for line in self.log_file.read_text(encoding="utf-8", errors="replace").splitlines():
            entry = _entry(line)
            if entry.get("event") == "http.listening" and isinstance(url := entry.get("url"), str):
                return url
        return None


def _entry(line: str) -> dict[str, object]:
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}


async def create_topics(cluster: DemoCluster) -> None:
    """Run `topics create`. Raises `ProcessError` with what it said when it fails."""
    process = await _spawn(
        cluster, "topics", "create", "--partitions", str(cluster.partitions), output=asyncio.subprocess.PIPE
    )
    try:
        output, _ = await process.communicate()
    finally:
        await _end([process])
    if process.returncode != 0:
        raise ProcessError(f"The topics could not be created:\n{output.decode(errors='replace').strip()}")


@asynccontextmanager
async def running_replicas(
    cluster: DemoCluster, count: int = REPLICAS
) -> AsyncIterator[Sequence[ServiceProcess]]:
    """Starts replicas and waits until they are ready; on exit stops them with SIGTERM and waits.

    Raises `ProcessError` when one does not get ready, or at the end when one does not exit with 0.
    """
    commands = {f"Worker {number}": _replica(cluster, number) for number in range(1, count + 1)}
    async with _running(cluster, commands) as replicas:
        yield replicas


def _replica(cluster: DemoCluster, number: int) -> Sequence[str]:
    state_dir = cluster.folder / "state" / str(number)
    return ("run", "--state-dir", str(state_dir), "--group-id", cluster.group_id, "--http-port", "0")


@asynccontextmanager
async def running_insights(
    cluster: DemoCluster, port: int, replicas: Sequence[ServiceProcess]
) -> AsyncIterator[ServiceProcess]:
    """Starts insights and waits until everything is read; on exit stops them. Raises as above.

    Args:
        replicas: the replicas, which are ready; insights asks them for the states of their shards.
    """
    workers = (f"--worker-url={replica.url()}" for replica in replicas)
    command = ("insights", "--http-port", str(port), *workers)
    async with _running(cluster, {"Insights": command}) as (insights,):
        yield insights


@asynccontextmanager
async def _running(
    cluster: DemoCluster, commands: Mapping[str, Sequence[str]]
) -> AsyncIterator[Sequence[ServiceProcess]]:
    processes: list[ServiceProcess] = []
    try:
        for name, command in commands.items():
            processes.append(await _start(cluster, name, command))
        await _wait_until_ready(processes)
        yield processes
    finally:
        alive = [each for each in processes if each.process.returncode is None]
        await _end([each.process for each in processes])
        for each in alive:
            if each.process.returncode != 0:
                raise each.error(f"got SIGTERM and ended with {_ending(each.process.returncode)}")


def _ending(exit_code: int | None) -> str:
    if exit_code == -signal.SIGKILL:
        return f"SIGKILL, after it had not stopped within {STOP_SECONDS:.0f} s"
    return f"exit code {exit_code}"


async def _start(cluster: DemoCluster, name: str, command: Sequence[str]) -> ServiceProcess:
    log_file = cluster.folder / f"{name.lower().replace(' ', '-')}.log"
    with log_file.open("wb") as log:
        process = await _spawn(cluster, *command, "--log-format", "json", output=log.fileno())
    return ServiceProcess(name, process, log_file)


async def _spawn(cluster: DemoCluster, *arguments: str, output: int) -> asyncio.subprocess.Process:
    """Start a command in its own process group, so that the terminal's Ctrl-C reaches only the demo."""
    where = ["--bootstrap-servers", cluster.broker.bootstrap_servers, "--topic-prefix", cluster.prefix]
    if cluster.advice_log:
        where.append("--advice-log")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "learner_worker", *arguments, *where),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=asyncio.subprocess.STDOUT,
        env=cluster.environment,
        cwd=cluster.working_folder,
        process_group=0,
    )
    GUARDIAN.add("process", str(process.pid))
    return process


async def _wait_until_ready(replicas: Sequence[ServiceProcess]) -> None:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
        for replica in replicas:
            try:
                async with asyncio.timeout(READY_SECONDS):
                    await _until_ready(replica, session)
            except TimeoutError as error:
                raise replica.error(f"was not ready within {READY_SECONDS:.0f} s") from error


async def _until_ready(replica: ServiceProcess, session: aiohttp.ClientSession) -> None:
    while not await _is_ready(replica, session):
        replica.check_alive()
        await asyncio.sleep(POLL_SECONDS)


async def _is_ready(replica: ServiceProcess, session: aiohttp.ClientSession) -> bool:
    url = replica.url()
    if url is None:
        return False
    try:
        async with session.get(f"{url}/readyz") as response:
            return response.status == HTTPStatus.OK
    except (aiohttp.ClientError, TimeoutError):
        return False


async def _end(processes: Sequence[asyncio.subprocess.Process]) -> None:
    """Sends SIGTERM to all running processes, then SIGKILL to those that take too long."""
    running = [process for process in processes if process.returncode is None]
    try:
        await _end_all(running)
    finally:
        for process in processes:
            GUARDIAN.remove("process", str(process.pid))


async def _end_all(running: Sequence[asyncio.subprocess.Process]) -> None:
    for process in running:
        process.terminate()
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await asyncio.gather(*(process.wait() for process in running))
    except TimeoutError:
        for process in running:
            if process.returncode is None:
                process.kill()
        await asyncio.gather(*(process.wait() for process in running))
