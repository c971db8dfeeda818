"""`import`: afterwards every agent is known as the swarm's own rules have it, however large the file is.

The first test takes a file of any size, and prints what it took:

    IMPORT_ROWS=1000000 .venv/bin/python -m pytest tests/integration/test_import.py \\
        -k rules -s --timeout 0 --brokers kafka
"""

import asyncio
import hashlib
import json
import os
import resource
import sqlite3
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learner_worker.brokers import Broker
from learner_worker.client import LearnerClient
from learner_worker.contract.topics import TopicNames, Topics
from tests.acceptance.test_refusals import learner_worker
from tests.integration import test_retention as retention
from tests.support import model
from tests.support.forked import clean_environment
from tests.support.seed import Swarm, metrics_by_the_rows, row, write_rows, write_swarm
from tests.support.workers import (
    WorkerProcess,
    create_topics,
    latest_metrics,
    outcomes_on_disk,
    read_topic,
    running_worker,
    until,
)

ROWS = int(os.environ.get("IMPORT_ROWS", "2000"))
AGENTS = max(40, ROWS // 200)
MOST_MEGABYTES = 300
BASE_BIDS = (0, 1, 137, 2**53 - 1)
DESCRIPTIONS = ("parse invoices", "Translate the German contract", "label images urgent", "", "nothing known")
ASKED_AT_ONCE = 200
LEARN_SECONDS = 60 + ROWS / 500
STATIC = {"--group-instance-id": "one", "--checkpoint-interval-seconds": "0.2"}


@dataclass(frozen=True)
class Imported:
    """How the command ended, what it printed, and what it took."""

    code: int
    out: str
    err: str
    seconds: float
    processor_seconds: float
    megabytes: float

    @property
    def report(self) -> dict[str, Any]:
        """The report, printed as JSON."""
        assert self.code == 0, self.err
        assert self.err == ""
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found

    def rows(self, section: str) -> dict[str, int]:
        """Of a section of the report, how many rows by reason."""
        return {finding["reason"]: finding["rows"] for finding in self.report[section]}


async def imported(broker: Broker, prefix: str, path: Path, *flags: str) -> Imported:
    """Runs `learner-worker import` as a process of its own."""
    arguments = (
        *("-m", "learner_worker", "import", str(path), "--json"),
        *("--bootstrap-servers", broker.bootstrap_servers, "--topic-prefix", prefix),
        *("--group-id", f"{prefix}learner", *flags),
    )
    began, used = time.monotonic(), _used_by_children()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=clean_environment(),
    )
    peak = asyncio.create_task(_peak_megabytes(process.pid))
    out, err = await process.communicate()
    assert process.returncode is not None
    seconds, processor_seconds = time.monotonic() - began, _used_by_children() - used
    return Imported(process.returncode, out.decode(), err.decode(), seconds, processor_seconds, await peak)


def _used_by_children() -> float:
    """The processor time of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


async def _peak_megabytes(pid: int) -> float:
    """The most memory that a process had resident, as Linux counts it until the process ends."""
    peak = 0.0
    while (status := await asyncio.to_thread(_status, pid)) and "VmHWM" in status:
        peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
        await asyncio.sleep(0.05)
    return peak


def _status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def digest(path: Path) -> str:
    """The file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- equality -----------------------------------------------------------------------------------------


async def test_every_agent_is_known_as_by_the_swarms_own_rules(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """A file of IMPORT_ROWS rows: metrics, keywords and suggestions of all agents without a bad task."""
    path = tmp_path / "swarm" / "swarm.db"
    path.parent.mkdir()
    swarm = write_swarm(path, ROWS, seed=5, agents=AGENTS)
    before = digest(path)
    names = await create_topics(broker.bootstrap_servers, prefix)
    async with running_worker(
        broker.bootstrap_servers, prefix, tmp_path / "state", settings=STATIC
    ) as worker:
        ended = await imported(broker, prefix, path)
        _is_whole(ended, swarm)
        began = time.monotonic()
        await _learned(worker, ended)
        learned = time.monotonic() - began
        expected = metrics_by_the_rows(path, swarm.spoilt)
        await _metrics_equal(broker, names, expected)
        await _suggestions_equal(broker, prefix, expected)
        assert await worker.stop() == 0
    assert digest(path) == before
    assert [found.name for found in path.parent.iterdir()] == ["swarm.db"]
    assert ended.megabytes <= MOST_MEGABYTES
    sys.stdout.write(
        f"\n{broker.kind}: {swarm.rows:,} rows imported in {ended.seconds:.0f} s "
        f"({ended.processor_seconds:.0f} s of a processor) with {ended.megabytes:.0f} MB, "
        f"learned {learned:.0f} s later; {len(expected):,} agents equal the swarm's own rules\n"
    )


def _is_whole(ended: Imported, swarm: Swarm) -> None:
    """Every row is accounted for, and what is refused is what was made bad."""
    report = ended.report
    assert report["rows"] == swarm.rows
    assert ended.rows("refused") == dict(swarm.refused)
    assert report["bids"] == swarm.rows - swarm.refused.total()
    assert (report["different"], report["not_counted"], report["dry_run"]) == ([], [], False)


async def _learned(worker: WorkerProcess, ended: Imported) -> None:
    """Waits until the worker has read all events."""
    events = sum(int(ended.report[kind]) for kind in ("bids", "closes", "results"))

    async def all_read() -> bool:
        return await worker.metric("learner_events_total") >= events

    await until(all_read, f"{events} events are read", seconds=LEARN_SECONDS)


async def _metrics_equal(broker: Broker, names: TopicNames, expected: dict[str, model.Metrics]) -> None:
    """The metrics topic says of these agents what the rows say; there are some that have no bad task."""
    assert len(expected) >= 5
    found: dict[str, Any] = {}
    wanted = {agent: _as_record(metrics) for agent, metrics in expected.items()}

    async def equal() -> bool:
        found.clear()
        for agent, record in (await latest_metrics(broker.bootstrap_servers, names)).items():
            if agent in wanted:
                found[agent] = {name: record[name] for name in wanted[agent]}
        return bool(found == wanted)

    try:
        await until(equal, "the metrics equal the swarm's own rules", seconds=60)
    except AssertionError:
        assert found == wanted
        raise


def _as_record(metrics: model.Metrics) -> dict[str, Any]:
    words = [vars(word) for word in model.strongest_keywords(metrics)]
    assert len(words) < model.STRONGEST_KEYWORDS  # so that the record holds all of them
    counts = {
        name: value
        for name, value in vars(metrics).items()
        if name not in {"keyword_wins", "keyword_failures"}
    }
    return {**counts, "learned_keywords": words}


async def _suggestions_equal(broker: Broker, prefix: str, expected: dict[str, model.Metrics]) -> None:
    """Every agent is told what classic says by the swarm's own rules."""
    asking = asyncio.Semaphore(ASKED_AT_ONCE)
    async with LearnerClient(broker.bootstrap_servers, topics=Topics(prefix=prefix)) as learner:

        async def ask(number: int, agent: str) -> None:
            description = DESCRIPTIONS[number % len(DESCRIPTIONS)]
            base = BASE_BIDS[number % len(BASE_BIDS)]
            async with asking:
                reply = await learner.suggest_bid(agent, description=description, base_bid_sats=base)
            wanted = model.classic(expected[agent], description, base)
            assert (reply.suggested_bid_sats, reply.factor) == (wanted.suggested_bid_sats, wanted.factor)
            assert [(item.rule, item.multiplier) for item in reply.adjustments] == wanted.rules

        async with asyncio.TaskGroup() as tasks:
            for number, agent in enumerate(expected):
                tasks.create_task(ask(number, agent))


# --- again, later -------------------------------------------------------------------------------------


async def test_a_second_import_changes_nothing_and_says_what_flipped(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """The same file: equal events. One changed at equal times: the contract's order stands, and is said."""
    path, state = tmp_path / "swarm.db", tmp_path / "state"
    write_rows(path, [row(f"t-{number}", "echo", won=1, succeeded=1) for number in range(4)])
    write_rows(path, [row(f"t-{number}", "foxtrot", sats=200) for number in range(4)])
    await create_topics(broker.bootstrap_servers, prefix)
    async with running_worker(broker.bootstrap_servers, prefix, state, settings=STATIC) as worker:
        first = await imported(broker, prefix, path)
        await _learned(worker, first)
        before = await _outcomes(state, 8)
        again = await imported(broker, prefix, path)
        assert again.report == first.report
        _change(path, "UPDATE task_outcomes SET task_succeeded = 0 WHERE task_id = 't-1' AND won_auction")
        _change(path, "UPDATE task_outcomes SET bid_sats = 300 WHERE task_id = 't-2' AND NOT won_auction")
        _change(path, "UPDATE task_outcomes SET won_auction = (agent_id = 'foxtrot') WHERE task_id = 't-3'")
        changed = await imported(broker, prefix, path)
        assert changed.rows("different") == {"result_flipped": 1, "close": 2, "bid": 1}

        async def failed() -> bool:
            return outcomes_on_disk(state)["t-1", "echo"].succeeded is False

        await until(failed, "failed stands", seconds=30)
        assert await worker.stop() == 0
    after = outcomes_on_disk(state)
    assert after.pop(("t-1", "echo")).succeeded is False
    before.pop(("t-1", "echo"))
    assert after == before


def _change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()


async def _outcomes(state: Path, count: int) -> dict[tuple[str, str], model.Outcome]:
    """The outcomes in the files, once there are so many."""

    async def all_there() -> bool:
        return len(outcomes_on_disk(state)) == count

    await until(all_there, f"{count} outcomes are on disk", seconds=30)
    return outcomes_on_disk(state)


async def test_records_have_the_time_of_sending_and_events_that_of_the_rows(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """A bid's own time, of close and result the latest of the task; a lost task closes with nobody."""
    path = tmp_path / "swarm.db"
    write_rows(
        path,
        [
            row("t-1", "echo", won=1, succeeded=0, created_at="2025-03-01 12:00:00"),
            row("t-1", "foxtrot", sats=200, created_at="2025-03-01 12:00:09"),
            row("t-2", "foxtrot", succeeded=1, description=None, created_at="2025-03-02 12:00:00"),
        ],
    )
    names = await create_topics(broker.bootstrap_servers, prefix)
    began = time.time() * 1000
    report = (await imported(broker, prefix, path)).report
    assert (report["bids"], report["closes"], report["results"]) == (3, 2, 1)
    topics = (names.bid_placed, names.auction_closed, names.task_finished)
    records = [record for topic in topics for record in await read_topic(broker.bootstrap_servers, topic)]
    assert all(began - 1000 <= record.timestamp <= time.time() * 1000 + 1000 for record in records)
    assert sorted((json.loads(record.value) for record in records), key=str) == sorted(
        [
            _bid("t-1", "echo", 100, "parse invoices", "2025-03-01T12:00:00.000000Z"),
            _bid("t-1", "foxtrot", 200, "parse invoices", "2025-03-01T12:00:09.000000Z"),
            _bid("t-2", "foxtrot", 100, "", "2025-03-02T12:00:00.000000Z"),
            _closed("t-1", "echo", 100, "2025-03-01T12:00:09.000000Z"),
            _closed("t-2", None, None, "2025-03-02T12:00:00.000000Z"),
            {
                "task_id": "t-1",
                "agent_id": "echo",
                "succeeded": False,
                "finished_at": "2025-03-01T12:00:09.000000Z",
            },
        ],
        key=str,
    )


def _bid(task_id: str, agent_id: str, sats: int, description: str, placed_at: str) -> dict[str, Any]:
    return {
        "task_id": task_id,
        "agent_id": agent_id,
        "bid_sats": sats,
        "description": description,
        "placed_at": placed_at,
    }


def _closed(task_id: str, winner: str | None, sats: int | None, closed_at: str) -> dict[str, Any]:
    return {
        "task_id": task_id,
        "winner_agent_id": winner,
        "winning_bid_sats": sats,
        "closed_at": closed_at,
    }


# --- what the learner forgets -------------------------------------------------------------------------


async def test_rows_older_than_a_retention_are_said_not_to_count(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """By what the workers committed, without the setting; by the setting alone in a rehearsal."""
    path, state = tmp_path / "swarm.db", tmp_path / "state"
    young = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    write_rows(path, [row("old", won=1), row("young", won=1, created_at=young)])
    names = await create_topics(broker.bootstrap_servers, prefix)
    settings = {**STATIC, "--outcome-retention-seconds": "86400"}
    async with running_worker(broker.bootstrap_servers, prefix, state, settings=settings) as worker:
        await retention.say_what_time_it_is(broker, names)

        async def reported() -> bool:
            return (await imported(broker, prefix, path)).rows("not_counted") == {"retention": 1}

        await until(reported, "the cutoff is committed and reported", seconds=60)
        rehearsed = await imported(broker, prefix, path, "--dry-run", "--outcome-retention-seconds", "86400")
        assert rehearsed.rows("not_counted") == {"retention": 1}
        assert await worker.stop() == 0
    assert [task for task, _ in outcomes_on_disk(state)] == ["young"]


async def test_rows_of_a_forgotten_agent_are_said_not_to_count(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """The file is imported, the agent forgotten, the file imported again: nothing brings it back."""
    path, state = tmp_path / "swarm.db", tmp_path / "state"
    write_rows(path, [row("t-1", "echo", won=1), row("t-1", "foxtrot")])
    await create_topics(broker.bootstrap_servers, prefix)
    async with running_worker(broker.bootstrap_servers, prefix, state, settings=STATIC) as worker:
        await _learned(worker, await imported(broker, prefix, path))
        await _outcomes(state, 2)
        forgotten = await learner_worker(
            *("forget", "echo", "--yes", "--bootstrap-servers", broker.bootstrap_servers),
            *("--topic-prefix", prefix, "--group-id", f"{prefix}learner"),
        )
        assert forgotten.code == 0
        again = await imported(broker, prefix, path)
        assert again.rows("not_counted") == {"forgotten": 1}
        assert again.rows("different") == {}
        assert [agent for _, agent in await _outcomes(state, 1)] == ["foxtrot"]
        assert await worker.stop() == 0


# --- refusals -----------------------------------------------------------------------------------------


async def test_a_rehearsal_needs_no_kafka_and_refusals_are_listed(tmp_path: Path) -> None:
    """Exit code 0, with each reason, its rows and examples, in lines that move no cursor."""
    path = tmp_path / "swarm.db"
    write_rows(path, [row(), row("t-2", sats=-1), row("t-3\x1b[2J", won=1), *[row("t-4", sats=-2)] * 7])
    ended = await learner_worker("import", str(path), "--dry-run")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == [
        f"{path}: 10 rows",
        "would send 1 bid, 1 close, 0 results",
        "refused:",
        "  1 row (task_id): task_id is not text of 1 to 256 characters without control characters",
        "    id 3: task_id is 't-3\\x1b[2J'",
        "  8 rows (bid_sats): bid_sats is not an integer from 0 to 9007199254740991",
        "    id 2: bid_sats is -1",
        *(f"    id {number}: bid_sats is -2" for number in range(4, 8)),
        "    and 3 more",
    ]


async def test_what_cannot_be_imported_is_a_sentence_and_an_exit_code(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """A foreign or missing file and missing topics: 2. No Kafka: 1."""
    path, foreign = tmp_path / "swarm.db", tmp_path / "foreign.db"
    write_rows(path, [row()])
    foreign.write_text("id,task_id")
    for given, code, sentence in (
        ((str(foreign),), 2, "is not an SQLite database"),
        ((str(tmp_path / "missing.db"),), 2, "no such file"),
        ((str(path),), 2, "missing topics"),
        (
            (str(path), "--bootstrap-servers", "127.0.0.1:1", "--startup-timeout-seconds", "1"),
            1,
            "reach Kafka",
        ),
    ):
        ended = await imported(broker, prefix, Path(given[0]), *given[1:])
        assert (ended.code, ended.out) == (code, "")
        assert sentence in ended.err
        assert len(ended.err.splitlines()) == 1
