"""The only module that imports testcontainers, which is optional: `docker` imports it on demand."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from testcontainers.community.kafka import KafkaContainer
from testcontainers.core.docker_client import DockerClient

from learner_worker.errors import BrokerError

PING_SECONDS = 3  # a running engine answers at once
START_SECONDS = 90  # a JVM in a container on a slow machine
SETTINGS = {
    "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
}
DockerException: type[Exception] = import_module("docker.errors").DockerException


def engine_answers() -> bool:
    """Whether a Docker engine answers: an installed client is not enough."""
    try:
        return bool(DockerClient(timeout=PING_SECONDS).client.ping())
    except (DockerException, OSError):
        return False


@contextmanager
def running_container(image: str) -> Iterator[str]:
    """Runs one node in KRaft mode; yields its host:port, and removes the container on exit.

    Raises `BrokerError` when it does not start.
    """
    container = KafkaContainer(image).with_kraft().with_envs(**SETTINGS)
    try:
        _start(container)
        yield container.get_bootstrap_server()
    finally:
        container.stop()


def _start(container: KafkaContainer) -> None:
    try:
        container.start(timeout=START_SECONDS)
    except (DockerException, OSError, RuntimeError) as error:
        raise BrokerError(
            f"Docker could not start {container.image}, try docker run on it: {error}"
        ) from error
