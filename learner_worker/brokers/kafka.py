"""Third preference: real Apache Kafka, by Maven and Java."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from learner_worker.brokers import maven
from learner_worker.brokers.broker import Broker, BrokerKind, Log
from learner_worker.brokers.cluster import KafkaCluster


def obstacle() -> str:
    """Why Apache Kafka cannot be started here, as half a sentence; empty when it can."""
    return maven.obstacle()


def description() -> str:
    """Apache Kafka's description for a header line."""
    return f"Apache Kafka {maven.KAFKA_VERSION} (KRaft, from Maven Central)"


@contextmanager
def running(data_dir: Path, log: Log) -> Iterator[Broker]:
    """Runs one node of Apache Kafka on 127.0.0.1, with its data in the folder; stops it on exit.

    Raises `BrokerError` when it cannot be fetched or does not start.
    """
    with KafkaCluster(data_dir, log=log) as cluster:
        yield Broker(BrokerKind.KAFKA, cluster.bootstrap_servers, description())
