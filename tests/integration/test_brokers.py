"""The brokers and their order of preference, against the real brokers of this machine."""

import asyncio
import importlib.util
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import NewTopic

from learner_worker.brokers import (
    Broker,
    BrokerKind,
    KafkaCluster,
    available_brokers,
    cluster,
    first_available,
    maven,
    running_broker,
    why_not,
)
from learner_worker.brokers.probing import accepts, free_ports, live_nodes
from learner_worker.errors import BrokerError
from tests.conftest import BrokerPool
from tests.support.processes import running
from tests.support.workers import administrator

QUICK_FAILOVER = {"broker.session.timeout.ms": "3000", "broker.heartbeat.interval.ms": "500"}
FAILOVER_SECONDS = 60
NO_JAVA = "there is no Java 17 or newer; install a JDK and put it on PATH or in JAVA_HOME"


async def create_topic(servers: str, topic: str, *, replicas: int = 1) -> None:
    async with administrator(servers) as admin:
        await admin.create_topics([NewTopic(topic, 1, replicas)])


async def send(servers: str, topic: str, values: list[bytes]) -> None:
    async with AIOKafkaProducer(bootstrap_servers=servers, enable_idempotence=True) as producer:
        for value in values:
            await producer.send_and_wait(topic, value, partition=0)


async def receive(servers: str, topic: str, count: int) -> list[bytes | None]:
    async with AIOKafkaConsumer(bootstrap_servers=servers, auto_offset_reset="earliest") as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        return [(await consumer.getone()).value for _ in range(count)]


async def partition(servers: str, topic: str) -> Any:
    async with administrator(servers) as admin:
        [described] = await admin.describe_topics([topic])
        return described["partitions"][0]


async def round_trip(servers: str, topic: str) -> list[bytes | None]:
    async with asyncio.timeout(30):
        await create_topic(servers, topic)
        await send(servers, topic, [b"one", b"two"])
        return await receive(servers, topic, 2)


def processes_on(folder: Path) -> list[str]:
    """The command lines that name the folder. A process that has ended and waits for init has none."""
    return [process.arguments for process in running() if str(folder) in process.arguments]


async def test_every_broker_of_the_suite_keeps_records(broker: Broker, prefix: str) -> None:
    """A record that aiokafka sends to the broker comes back from it."""
    assert await round_trip(broker.bootstrap_servers, f"{prefix}round-trip") == [b"one", b"two"]


def test_the_session_has_one_broker_of_a_kind(broker: Broker, broker_pool: BrokerPool) -> None:
    """Asking the pool again for a broker gives the one that runs, also while another runs beside it."""
    first = broker_pool.broker(broker.kind)
    assert broker_pool.broker(broker.kind) is first
    assert accepts(first.bootstrap_servers)


async def test_a_started_broker_leaves_nothing_running(started_kind: BrokerKind, tmp_path: Path) -> None:
    """A broker of our own answers inside the block; after it its port is closed and its process gone."""
    with running_broker(started_kind, data_dir=tmp_path) as broker:
        assert await round_trip(broker.bootstrap_servers, "round-trip") == [b"one", b"two"]
    assert not accepts(broker.bootstrap_servers)
    assert processes_on(tmp_path) == []


def test_an_interrupted_broker_leaves_nothing_running(started_kind: BrokerKind, tmp_path: Path) -> None:
    """Ctrl-C inside the block ends the broker as well."""
    servers: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        run_until_interrupted(started_kind, tmp_path, servers)
    assert [accepts(server) for server in servers] == [False]
    assert processes_on(tmp_path) == []


def run_until_interrupted(kind: BrokerKind, folder: Path, servers: list[str]) -> None:
    with running_broker(kind, data_dir=folder) as broker:
        servers.append(broker.bootstrap_servers)
        raise KeyboardInterrupt


async def test_a_broker_keeps_its_data_folder(started_kind: BrokerKind, tmp_path: Path) -> None:
    """A second start on the same folder finds what was written in the first."""
    if started_kind is BrokerKind.DOCKER:
        pytest.skip("a container takes its data with it")
    with running_broker(started_kind, data_dir=tmp_path) as broker:
        await round_trip(broker.bootstrap_servers, "kept")
    with running_broker(started_kind, data_dir=tmp_path) as broker:
        assert await receive(broker.bootstrap_servers, "kept", 2) == [b"one", b"two"]


def test_a_data_folder_serves_one_broker(broker_kinds: frozenset[BrokerKind], tmp_path: Path) -> None:
    """A second noida-db on a folder in use is refused instead of joining the first, which runs on."""
    if BrokerKind.EMBEDDED not in broker_kinds:
        pytest.skip("noida-db is not among the brokers of this run")
    second = running_broker(BrokerKind.EMBEDDED, data_dir=tmp_path)
    with running_broker(BrokerKind.EMBEDDED, data_dir=tmp_path) as broker:
        with pytest.raises(BrokerError, match="already runs on"), second:
            pass
        assert accepts(broker.bootstrap_servers)


async def test_given_servers_are_used_and_left_running(broker: Broker, prefix: str) -> None:
    """Given servers are handed out as they are, and still answer afterwards."""
    servers = broker.bootstrap_servers
    with running_broker(BrokerKind.GIVEN, given=servers) as given:
        assert given == Broker(BrokerKind.GIVEN, servers, f"given servers {servers}")
    assert await round_trip(servers, f"{prefix}given") == [b"one", b"two"]


def test_given_servers_that_do_not_answer_are_an_error() -> None:
    """A wrong address is told at once, with what to do."""
    [port] = free_ports(1)
    with (
        pytest.raises(BrokerError, match=rf"Nothing answers at 127.0.0.1:{port}: start that Kafka"),
        running_broker(BrokerKind.GIVEN, given=f"127.0.0.1:{port}"),
    ):
        pass


def hide_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")


def hide_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME", raising=False)


def hide_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)


@pytest.mark.parametrize(
    ("kind", "hide", "reason"),
    [
        (
            BrokerKind.GIVEN,
            hide_docker,
            "given servers: none are given; set LEARNER_BOOTSTRAP_SERVERS to host:port of a running Kafka.",
        ),
        (BrokerKind.DOCKER, hide_docker, "Docker: no Docker engine answers; start Docker."),
        (
            BrokerKind.DOCKER,
            hide_packages,
            'Docker: testcontainers is not installed; run: pip install "learner-worker[embedded]".',
        ),
        (
            BrokerKind.KAFKA,
            hide_java,
            f"Apache Kafka by Maven and Java: {NO_JAVA}.",
        ),
        (
            BrokerKind.EMBEDDED,
            hide_packages,
            'embedded: noida-db is not installed; run: pip install "learner-worker[embedded]".',
        ),
    ],
)
def test_a_broker_that_cannot_run_says_why(
    kind: BrokerKind, hide: Callable[[pytest.MonkeyPatch], None], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kind that is not here is left out, and asking for it tells what to install."""
    hide(monkeypatch)
    assert kind not in available_brokers()
    assert why_not(kind) == reason
    with pytest.raises(BrokerError) as raised, running_broker(kind):
        pass
    assert str(raised.value) == reason


def test_the_first_that_is_there_is_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given servers come first; with nothing at all, the error names every way out."""
    assert first_available("127.0.0.1:9092") is BrokerKind.GIVEN
    hide_java(monkeypatch)
    hide_packages(monkeypatch)
    with pytest.raises(BrokerError) as raised:
        first_available()
    assert [why_not(kind) in str(raised.value) for kind in BrokerKind] == [True] * 4


def install_maven(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> Path:
    """Put a Maven of our own first on PATH and an empty cache beside it; gives the cache folder."""
    folder.joinpath("mvn").write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    folder.joinpath("mvn").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    return folder / "cache" / "learner-worker"


def test_a_failed_fetch_leaves_no_half_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When Maven fails, its words are told and nothing is kept that a later start would take for Kafka."""
    kept = install_maven(monkeypatch, tmp_path, "echo no route to Maven Central; exit 1")
    with pytest.raises(BrokerError, match="check the network:\nno route to Maven Central"):
        maven.fetched_jars(print)
    assert [path.name for path in kept.iterdir()] == ["kafka-4.4.0.lock"]


def test_two_starts_fetch_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two starts on an empty cache do not race: one fetches, the other waits for it."""
    find_folder = 'for word in "$@"; do case $word in -DoutputDirectory=*) folder=${word#*=};; esac; done'
    write_jar = 'mkdir -p "$folder" && touch "$folder/kafka_2.13-4.4.0.jar"'
    script = f"echo fetched >> {tmp_path}/calls\n{find_folder}\n{write_jar}"
    kept = install_maven(monkeypatch, tmp_path, script)
    with ThreadPoolExecutor(2) as threads:
        folders = list(threads.map(lambda _: maven.fetched_jars(print), range(2)))
    assert folders == [kept / "kafka-4.4.0"] * 2
    assert (tmp_path / "calls").read_text(encoding="utf-8") == "fetched\n"


@pytest.fixture
def kafka_only(broker_kinds: frozenset[BrokerKind]) -> None:
    """For tests of Apache Kafka's own processes: only where the suite runs on it."""
    if BrokerKind.KAFKA not in broker_kinds:
        pytest.skip("Apache Kafka by Maven and Java is not among the brokers of this run")


@pytest.mark.usefixtures("kafka_only")
def test_a_node_that_dies_at_its_start_tells_its_last_words(tmp_path: Path) -> None:
    """When Kafka ends at its start, the error carries the end of its log."""
    kafka = KafkaCluster(tmp_path)
    host, port = kafka.bootstrap_servers.split(":")
    with socket.create_server((host, int(port))), pytest.raises(BrokerError, match="failed to bind"), kafka:
        pass
    assert processes_on(tmp_path) == []


@pytest.mark.usefixtures("kafka_only")
def test_an_interrupted_start_leaves_nothing_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while Kafka is still starting ends its process."""

    def interrupt(_server: str) -> int:
        assert processes_on(tmp_path) != []
        raise KeyboardInterrupt

    monkeypatch.setattr(cluster, "live_nodes", interrupt)
    with pytest.raises(KeyboardInterrupt), KafkaCluster(tmp_path):
        pass
    assert processes_on(tmp_path) == []


@pytest.mark.usefixtures("kafka_only")
async def test_a_cluster_survives_the_kill_of_a_node(tmp_path: Path) -> None:
    """Three nodes lose the one that leads a partition, go on, and take it back on its old port."""
    with KafkaCluster(tmp_path, nodes=3, properties=QUICK_FAILOVER) as kafka:
        servers = kafka.bootstrap_servers
        async with asyncio.timeout(FAILOVER_SECONDS):
            await create_topic(servers, "events", replicas=3)
            await send(servers, "events", [b"before"])
            leader = await leader_of(servers, "events")
            kafka.kill(leader)
            await send(servers, "events", [b"after"])
            assert await receive(servers, "events", 2) == [b"before", b"after"]
            assert await leader_of(servers, "events") != leader
            kafka.start(leader)
            await all_in_sync(servers, "events", [1, 2, 3])
        assert kafka.bootstrap_servers == servers


async def leader_of(servers: str, topic: str) -> int:
    described = await partition(servers, topic)
    return int(str(described["leader"]))


async def all_in_sync(servers: str, topic: str, nodes: list[int]) -> None:
    while sorted((await partition(servers, topic))["isr"]) != nodes:
        await asyncio.to_thread(live_nodes, servers)
