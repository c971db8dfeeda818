"""Quotas of Kafka's users, set by `kafka-configs.sh` as Apache Kafka ships it."""

import subprocess
from collections.abc import Sequence

from learner_worker.brokers import maven
from learner_worker.brokers.broker import Log

_ARTIFACT = "kafka-tools"
_PROGRAM = "org.apache.kafka.tools.ConfigCommand"  # what the script starts
_SECONDS = 60.0  # a JVM starts and asks once, on a slow machine


def set_quota(servers: str, user: str, bytes_a_second: int | None, say: Log) -> None:
    """Limits what a user may produce, or lifts the limit.

    Raises:
        CalledProcessError: Kafka refuses it.
    """
    name = "producer_byte_rate"
    change = (
        ["--delete-config", name] if bytes_a_second is None else ["--add-config", f"{name}={bytes_a_second}"]
    )
    _kafka_configs(
        ["--bootstrap-server", servers, "--alter", "--entity-type", "users", "--entity-name", user, *change],
        say,
    )


def _kafka_configs(arguments: Sequence[str], say: Log) -> None:
    jars = maven.fetched_jars(say, _ARTIFACT)
    command = [maven.java_program(), "-XX:TieredStopAtLevel=1", "-cp", f"{jars}/*", _PROGRAM, *arguments]
    subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS)
