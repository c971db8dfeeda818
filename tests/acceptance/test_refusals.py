"""What cannot start says so in one sentence with what to do next: exit code 2 or 1, never a traceback."""

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from learner_worker.brokers import Broker
from learner_worker.contract.topics import TopicNames, Topics
from learner_worker.kafka.admin import connected
from learner_worker.kafka.connection import Connection
from tests.support import forked
from tests.support.forked import clean_environment
from tests.support.workers import create_topics, running_worker

FULL_DEVICE = Path("/dev/full")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one line on stderr that is no log line."""
        (line,) = [line for line in self.err.splitlines() if not line.startswith("{")]
        return line


async def learner_worker(*arguments: str, environment: Mapping[str, str] | None = None) -> Ended:
    """Runs the command line as a process of its own."""
    return Ended(*await asyncio.to_thread(forked.run, *arguments, environment=environment or {}))


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port that nobody listens on; held, so that nobody comes to."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


async def test_run_without_a_broker_says_how_to_give_one(free_port: int, tmp_path: Path) -> None:
    """Nothing listens at the address: exit code 1 and the flag that names another."""
    ended = await learner_worker(
        *("run", "--bootstrap-servers", f"127.0.0.1:{free_port}", "--state-dir", str(tmp_path)),
        *("--startup-timeout-seconds", "2"),
    )
    assert ended.code == 1
    assert f"cannot reach Kafka at 127.0.0.1:{free_port}" in ended.sentence
    assert "--bootstrap-servers" in ended.sentence


@pytest.mark.parametrize("address", ["no-such-host.invalid:9092", "127.0.0.1:99999", "127.0.0.1:port", ":::"])
async def test_run_with_a_wrong_address_names_it(address: str, tmp_path: Path) -> None:
    """An address that cannot be one: one sentence that repeats it."""
    ended = await learner_worker(
        *("run", "--bootstrap-servers", address, "--state-dir", str(tmp_path)),
        *("--startup-timeout-seconds", "2"),
    )
    assert ended.code in {1, 2}
    assert address in ended.sentence


async def test_run_with_topics_missing_names_them_and_the_command(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """No topics yet: exit code 2, the missing ones, and `topics create`."""
    ended = await _run(broker, prefix, tmp_path)
    assert ended.code == 2
    assert f"{prefix}bid-placed" in ended.sentence
    assert "learner-worker topics create" in ended.sentence
    check = await learner_worker(
        *("topics", "check", "--bootstrap-servers", broker.bootstrap_servers, "--topic-prefix", prefix)
    )
    assert (check.code, check.sentence) == (2, ended.sentence)


async def test_run_with_unequal_partition_counts_lists_them(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """One topic with other partitions: exit code 2 and every count."""
    names = await _uneven_topics(broker, prefix)
    ended = await _run(broker, prefix, tmp_path)
    assert ended.code == 2
    assert f"{names.bid_placed} has 3" in ended.sentence
    assert f"{names.task_finished} has 4" in ended.sentence


async def _uneven_topics(broker: Broker, prefix: str) -> TopicNames:
    odd = Topics(prefix=prefix, auction_closed="unused-1", task_finished="unused-2", requests="unused-3")
    async with connected(Connection(broker.bootstrap_servers), patience_seconds=30) as cluster:
        await cluster.create_topics(odd.named(), partitions=3, replication_factor=1)
        names = Topics(prefix=prefix).named()
        await cluster.create_topics(names, partitions=4, replication_factor=1)
    return names


async def test_run_with_an_unwritable_state_folder_says_so(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """A file stands where the folder should: exit code 2 and `--state-dir`, for root too."""
    await create_topics(broker.bootstrap_servers, prefix)
    (tmp_path / "file").write_text("not a folder")
    ended = await _run(broker, prefix, tmp_path / "file" / "state")
    assert ended.code == 2
    assert "cannot write to the state folder" in ended.sentence
    assert "--state-dir" in ended.sentence


async def test_run_with_a_state_folder_in_use_names_the_process(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """A second worker on the same folder: exit code 2 and the first one's process id."""
    await create_topics(broker.bootstrap_servers, prefix)
    async with running_worker(broker.bootstrap_servers, prefix, tmp_path / "state") as first:
        ended = await _run(broker, prefix, tmp_path / "state")
        assert ended.code == 2
        assert f"in use by another worker (process {first.process.pid})" in ended.sentence
        assert await first.stop() == 0


async def test_run_with_another_prefixes_state_folder_is_refused(
    broker: Broker, prefix: str, tmp_path: Path
) -> None:
    """A folder that belongs to another prefix: exit code 2, and whose it is."""
    await create_topics(broker.bootstrap_servers, prefix)
    await create_topics(broker.bootstrap_servers, f"{prefix}other-")
    async with running_worker(broker.bootstrap_servers, prefix, tmp_path / "state") as first:
        assert await first.stop(signal.SIGINT) == 0
    ended = await _run(broker, f"{prefix}other-", tmp_path / "state")
    assert ended.code == 2
    assert f"belongs to topic_prefix '{prefix}'" in ended.sentence


async def test_run_with_an_http_port_in_use_says_so(broker: Broker, prefix: str, tmp_path: Path) -> None:
    """A port that is taken: exit code 2 and `--http-port`."""
    await create_topics(broker.bootstrap_servers, prefix)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = await _run(broker, prefix, tmp_path, "--http-port", str(port))
    assert ended.code == 2
    assert f"cannot listen on 127.0.0.1:{port}" in ended.sentence
    assert "--http-port" in ended.sentence


@pytest.mark.parametrize(
    ("environment", "flag"),
    [
        ({"LEARNER_HTTP_PORT": "eighty"}, "--http-port"),
        ({"LEARNER_AUCTION_HORIZON_SECONDS": "-1"}, "--auction-horizon-seconds"),
        ({"LEARNER_STRATEGY": "clever"}, "--strategy"),
        ({"LEARNER_TOPIC_PREFIX": "no spaces/"}, "--topic-prefix"),
    ],
)
async def test_a_setting_that_is_not_allowed_is_named(environment: dict[str, str], flag: str) -> None:
    """A bad value from the environment: exit code 2, the flag, the variable and the value."""
    ended = await learner_worker("run", environment=environment)
    ((variable, value),) = environment.items()
    assert ended.code == 2
    assert f"{flag} ({variable})" in ended.sentence
    assert value in ended.sentence


async def test_an_unknown_flag_is_a_usage_error() -> None:
    """A flag that does not exist: exit code 2 and a hint to --help."""
    ended = await learner_worker("run", "--no-such-flag")
    assert ended.code == 2
    assert "--help" in ended.err
    assert "Traceback" not in ended.err


async def test_suggest_without_a_broker_says_so(free_port: int) -> None:
    """Asking where nothing listens: exit code 1, one sentence."""
    ended = await learner_worker(
        *("suggest", "echo", "--description", "fix it", "--base", "100"),
        *("--bootstrap-servers", f"127.0.0.1:{free_port}", "--timeout", "2"),
    )
    assert ended.code == 1
    assert f"127.0.0.1:{free_port}" in ended.sentence


async def test_suggest_refuses_what_no_learner_would_answer(free_port: int) -> None:
    """A bid below 0 is a mistake in what was asked: exit code 2, and the field's name."""
    ended = await learner_worker(
        *("suggest", "echo", "--description", "fix it", "--base", "-1"),
        *("--bootstrap-servers", f"127.0.0.1:{free_port}", "--timeout", "2"),
    )
    assert ended.code == 2
    assert "base_bid_sats" in ended.sentence


@pytest.mark.skipif(not FULL_DEVICE.exists(), reason="the machine has no /dev/full")
def test_output_to_a_full_disk_is_one_sentence() -> None:
    """What is printed cannot be written: exit code 1 and no traceback."""
    with FULL_DEVICE.open("wb") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "learner_worker", "--version"],
            stdout=full,
            stderr=subprocess.PIPE,
            env=clean_environment(),
            timeout=60,
            check=False,
        )
    assert ended.returncode == 1
    assert ended.stderr.startswith(b"learner-worker: cannot write (No space left on device)")
    assert b"Traceback" not in ended.stderr


async def _run(broker: Broker, prefix: str, state_dir: Path, *flags: str) -> Ended:
    return await learner_worker(
        *("run", "--bootstrap-servers", broker.bootstrap_servers, "--topic-prefix", prefix),
        *("--group-id", f"{prefix}learner", "--state-dir", str(state_dir), "--log-format", "json", *flags),
    )
