"""Real worker processes, and what a test reads of them: readiness, metrics records, files."""

import asyncio
import contextlib
import fcntl
import json
import mmap
import os
import signal
import sqlite3
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from learner_worker.contract.topics import TopicName, TopicNames, Topics
from learner_worker.group.topology_view import create_topics as create_missing
from learner_worker.group.topology_view import topology_view
from learner_worker.kafka.admin import connected
from learner_worker.kafka.connection import Connection
from tests.support import forked
from tests.support.forked import ForkedProcess, clean_environment
from tests.support.model import AuctionClosed, BidPlaced, Event, Outcome, TaskFinished

START_SECONDS = 60.0
HEALTH_SECONDS = 0.5
_RECOVERY_SECONDS = 180.0
OUTAGE_EVENTS = ("kafka.away", "kafka.back")
STOP_SECONDS = 40.0
Process = asyncio.subprocess.Process | ForkedProcess
T = TypeVar("T")


async def until(condition: Callable[[], Awaitable[T | None]], what: str, *, seconds: float = 60.0) -> T:
    """Waits for a condition's first true value."""
    deadline = time.monotonic() + seconds
    while not (value := await condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        await asyncio.sleep(0.1)
    return value


@contextlib.asynccontextmanager
async def administrator(bootstrap_servers: str) -> AsyncIterator[Any]:
    """An admin client of aiokafka, started."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def create_topics(
    bootstrap_servers: str,
    prefix: str,
    *,
    partitions: int = 4,
    replication_factor: int | None = 1,
    advice_log: bool = False,
) -> TopicNames:
    """Creates all topics under a prefix; without a factor three copies, or as many as there are brokers."""
    names = Topics(prefix=prefix, advice_log=advice_log).named()
    async with topology_view(Connection(bootstrap_servers), names, patience_seconds=30) as view:
        await create_missing(
            view, partitions=partitions, replication_factor=replication_factor, group_id=None
        )
    return names


async def roomy_topics(
    bootstrap_servers: str, prefix: str, *, partitions: int, record_bytes: int
) -> TopicNames:
    """The topics, with a bid topic that takes long records, as an operator may have configured it."""
    bids = Topics(prefix=prefix).named().bid_placed
    async with administrator(bootstrap_servers) as admin:
        configs = {"max.message.bytes": str(record_bytes)}
        await admin.create_topics([NewTopic(bids, partitions, 1, topic_configs=configs)])
    return await create_topics(bootstrap_servers, prefix, partitions=partitions)


@dataclass
class WorkerProcess:
    """A running `learner-worker run`, its log and its HTTP address."""

    process: Process
    log_path: Path
    log_reader: asyncio.subprocess.Process | None = None
    _url: str | None = None

    @property
    def log(self) -> list[dict[str, Any]]:
        """The log's JSON lines so far."""
        lines = self.log_path.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The log lines of one event."""
        return [line for line in self.log if line["event"] == event]

    async def get(self, path: str) -> tuple[int, str]:
        """An HTTP answer of the worker: status and body; status 0 while there is none."""
        if self._url is None:
            listening = self.logged("http.listening")
            self._url = listening[0]["url"] if listening else None
        return (0, "") if self._url is None else await asyncio.to_thread(http_get, self._url + path)

    async def ready(self, seconds: float = START_SECONDS) -> None:
        """Waits for readiness."""

        async def is_ready() -> bool:
            if self.process.returncode is not None:
                raise AssertionError(f"the worker ended early:\n{self.log_path.read_text()}")
            return (await self.get("/readyz"))[0] == 200

        await until(is_ready, "the worker is ready", seconds=seconds)

    async def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        _, text = await self.get("/metrics")
        samples = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
        return sum(float(value) for sample, value in samples if sample.split("{")[0] == name)

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal and waits for the end; the exit code."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), STOP_SECONDS)


def shards_held_by_both(one: WorkerProcess, two: WorkerProcess) -> set[int]:
    """The shards that both had at some moment, by their logs: from an assignment to what ends it."""
    changes = sorted(
        (line["timestamp"], number, line["event"], line["shards"])
        for number, worker in enumerate((one, two))
        for line in worker.log
        if line["event"] in ("shards.assigned", "shards.revoked")
    )
    held: list[set[int]] = [set(), set()]
    both: set[int] = set()
    for _, number, event, shards in changes:
        held[number] = set(shards) if event == "shards.assigned" else set()
        both |= held[0] & held[1]
    return both


def http_get(url: str) -> tuple[int, str]:
    """An HTTP answer: status and body; status 0 without one."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 (our own worker)
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def _arguments(flag: str, value: str) -> tuple[str, ...]:
    """A setting on the command line; a switch is its flag alone, or `--no-` and its name."""
    match value:
        case "true":
            return (flag,)
        case "false":
            return (f"--no-{flag.removeprefix('--')}",)
        case _:
            return (flag, value)


@contextlib.asynccontextmanager
async def running_worker(
    bootstrap_servers: str,
    prefix: str,
    state_dir: Path,
    *,
    settings: Mapping[str, str] | None = None,
    flags: Sequence[str] = (),
    program: Sequence[str] = ("-m", "learner_worker"),
    environment: Mapping[str, str] | None = None,
    preexec_fn: Callable[[], None] | None = None,
    wait: bool = True,
    piped: bool = False,
    fresh: bool = False,
) -> AsyncIterator[WorkerProcess]:
    """A worker process; killed at the end if the test has not stopped it.

    Args:
        program: what Python runs.
        environment: variables besides a clean environment.
        preexec_fn: what the new process does before.
        piped: another process reads its log through a small pipe and writes the file.
        fresh: Python is started for it, as it is in production, and imports the program.
    """
    given = {
        "--bootstrap-servers": bootstrap_servers,
        "--topic-prefix": prefix,
        "--group-id": f"{prefix}learner",
        "--state-dir": str(state_dir),
        "--log-format": "json",
        **(settings or {}),
    }
    arguments = [*flags, *(text for name, value in given.items() for text in _arguments(name, value))]
    log_path = state_dir.parent / f"{state_dir.name}-{time.monotonic_ns()}.log"
    async with contextlib.AsyncExitStack() as files:
        log: IO[bytes] = files.enter_context(log_path.open("wb"))
        reader = None
        if piped:
            reader, log = await _log_reader(log, files)
        process = await started(
            (*program, "run", *arguments),
            log=log,
            environment=environment,
            fresh=fresh,
            preexec_fn=preexec_fn,
        )
    worker = WorkerProcess(process, log_path, reader)
    try:
        if wait:
            await worker.ready()
        yield worker
    finally:
        for each in (process, reader):
            if each is not None and each.returncode is None:
                each.kill()
                await each.wait()


async def started(
    command: Sequence[str],
    *,
    log: IO[bytes],
    environment: Mapping[str, str] | None = None,
    fresh: bool = False,
    preexec_fn: Callable[[], None] | None = None,
) -> Process:
    """Starts what Python would run; a module in a forked process, unless Python is to start for it."""
    whole = {**clean_environment(), **(environment or {})}
    if fresh or preexec_fn is not None or command[0] != "-m":
        return await asyncio.create_subprocess_exec(
            *(sys.executable, *command), stdout=log, stderr=log, env=whole, preexec_fn=preexec_fn
        )
    _, module, *arguments = command
    program = forked.PROGRAM if module == "learner_worker" else module
    return await asyncio.to_thread(
        forked.start, arguments, environment=whole, stdout=log, stderr=log, program=program
    )


async def _log_reader(
    log: IO[bytes], files: contextlib.AsyncExitStack
) -> tuple[asyncio.subprocess.Process, IO[bytes]]:
    """A process that copies a pipe of one page to the file, and the pipe's other end."""
    reading, writing = map(os.fdopen, os.pipe(), ("rb", "wb"))
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, mmap.PAGESIZE)
    with reading:
        process = await asyncio.create_subprocess_exec("cat", stdin=reading, stdout=log)
    return process, files.enter_context(writing)


@dataclass(slots=True)
class Health:
    """What /healthz answered to whoever asked all the time.

    Attributes:
        good: how many answers were 200; `bad` are the others, in words.
    """

    good: int = 0
    bad: list[str] = field(default_factory=list)


@contextlib.asynccontextmanager
async def health_watched(workers: Mapping[str, WorkerProcess]) -> AsyncIterator[Health]:
    """Asks each worker's /healthz twice a second, until the block ends."""
    health = Health()

    async def watch(name: str, worker: WorkerProcess) -> None:
        while True:
            status, body = await worker.get("/healthz")
            if status == 200:
                health.good += 1
            else:
                health.bad.append(f"/healthz of {name} answered {status}: {body}")
            await asyncio.sleep(HEALTH_SECONDS)

    async with asyncio.TaskGroup() as tasks:
        watching = [tasks.create_task(watch(name, worker)) for name, worker in workers.items()]
        yield health
        for task in watching:
            task.cancel()


def outages_said(worker: WorkerProcess) -> dict[str, int]:
    """How often a worker's log has said so far that Kafka is away, and that it is back."""
    return {event: len(worker.logged(event)) for event in OUTAGE_EVENTS}


async def said_back(worker: WorkerProcess) -> None:
    """Waits until a worker's log has said as often that Kafka is back as that it is away."""

    async def said() -> bool:
        away, back = outages_said(worker).values()
        return away == back > 0

    await until(said, "the worker says that Kafka is back", seconds=_RECOVERY_SECONDS)


def topic_of(event: Event, names: TopicNames) -> TopicName:
    """The topic that carries an event."""
    match event:
        case BidPlaced():
            return names.bid_placed
        case AuctionClosed():
            return names.auction_closed
        case TaskFinished():
            return names.task_finished


async def publish(
    bootstrap_servers: str,
    names: TopicNames,
    events: Sequence[Event],
    *,
    keyed: bool = True,
    timestamp_ms: int | None = None,
) -> None:
    """Publishes events: keyed by task with Kafka's default partitioner, or without keys, anywhere."""
    async with AIOKafkaProducer(bootstrap_servers=bootstrap_servers, acks="all", linger_ms=5) as producer:
        sends = [
            await producer.send(
                topic_of(event, names),
                event.to_json(),
                key=event.task_id.encode() if keyed else None,
                timestamp_ms=timestamp_ms,
            )
            for event in events
        ]
        await asyncio.gather(*sends)


class TopicReader:
    """Reads a topic from its beginning, each record once, as often as it is asked to read on.

    Attributes:
        records: what was read so far; in order for each partition.
    """

    def __init__(self, consumer: AIOKafkaConsumer, partitions: Sequence[TopicPartition]) -> None:
        self._consumer = consumer
        self._partitions = partitions
        self.records: list[Any] = []

    async def read_on(self) -> list[Any]:
        """Reads up to the end as it is now; every record so far."""
        ends = await self._consumer.end_offsets(self._partitions)
        while any([await self._consumer.position(each) < ends[each] for each in self._partitions]):
            batches = await self._consumer.getmany(timeout_ms=200)
            self.records += [record for batch in batches.values() for record in batch]
        return self.records

    async def latest(self) -> dict[str, dict[str, Any]]:
        """The last record of every key up to the end as it is now, unless it is a tombstone."""
        records = sorted(await self.read_on(), key=lambda record: (record.partition, record.offset))
        last = {record.key.decode(): record.value for record in records}
        return {key: json.loads(value) for key, value in last.items() if value is not None}


@contextlib.asynccontextmanager
async def reading(bootstrap_servers: str, topic: TopicName) -> AsyncIterator[TopicReader]:
    """A reader of a topic with as many partitions as it has now."""
    async with connected(Connection(bootstrap_servers), patience_seconds=30) as cluster:
        count = (await cluster.partitions([topic]))[topic]
    partitions = [TopicPartition(topic, number) for number in range(count)]
    async with AIOKafkaConsumer(
        bootstrap_servers=bootstrap_servers, auto_offset_reset="earliest", enable_auto_commit=False
    ) as consumer:
        consumer.assign(partitions)
        yield TopicReader(consumer, partitions)


async def read_topic(bootstrap_servers: str, topic: TopicName) -> list[Any]:
    """Every record of a topic as it is now."""
    async with reading(bootstrap_servers, topic) as reader:
        return await reader.read_on()


async def latest_metrics(bootstrap_servers: str, names: TopicNames) -> dict[str, dict[str, Any]]:
    """The last record of every agent in the metrics topic, unless it is a tombstone."""
    async with reading(bootstrap_servers, names.metrics) as reader:
        return await reader.latest()


def positions_in(path: Path, topic: TopicName) -> int:
    """A topic's position in a file that may be in use."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        found = database.execute("SELECT next_offset FROM positions WHERE topic = ?", (topic,)).fetchone()
        return 0 if found is None else int(found[0])


def outcomes_on_disk(*state_dirs: Path) -> dict[tuple[str, str], Outcome]:
    """Every outcome that counts in the shard files of some replicas, as the model describes outcomes."""
    found: dict[tuple[str, str], Outcome] = {}
    for path in (path for folder in state_dirs for path in sorted(folder.glob("shard-*.sqlite3"))):
        for key, outcome in outcomes_in_file(path).items():
            assert key not in found, f"{key} stands in two shards"
            found[key] = outcome
    return found


def outcomes_in_file(path: Path) -> dict[tuple[str, str], Outcome]:
    """Every outcome that counts in one shard's file."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return {(row[0], row[1]): _outcome(row) for row in connection.execute(_OUTCOMES)}


_OUTCOMES = """
SELECT task_id, agent_id, closed_at, winner_agent_id, winning_bid_sats, close_description,
       placed_at, bid_sats, description, finished_at, succeeded FROM outcomes
WHERE closed_at IS NOT NULL AND (placed_at IS NOT NULL OR winner_agent_id = agent_id)
"""


def _outcome(row: Sequence[Any]) -> Outcome:
    _, agent_id, closed_at, winner, winning_bid, close_text, placed_at, bid, text, finished_at, succeeded = (
        row
    )
    won = winner == agent_id
    return Outcome(
        won=won,
        bid_sats=winning_bid if won and winning_bid is not None else bid,
        description=text if placed_at is not None else close_text or "",
        succeeded=bool(succeeded) if won and finished_at is not None else None,
        closed_at=closed_at,
        placed_at=placed_at,
        finished_at=finished_at if won else None,
    )
