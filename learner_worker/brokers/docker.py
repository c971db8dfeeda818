"""Second preference: Apache Kafka in a container, by testcontainers and a Docker engine."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

from learner_worker.brokers.broker import Broker, BrokerKind, Log
from learner_worker.brokers.probing import is_true_within, live_nodes
from learner_worker.errors import BrokerError

# testcontainers' Kafka module drives Confluent's build of Apache Kafka (7.6.0 is Kafka 3.6) by that image's
# own start scripts, which the apache/kafka image does not have.
IMAGE = "confluentinc/cp-kafka:7.6.0"
ANSWER_SECONDS = 30.0  # the container runs before the broker in it answers
NOT_INSTALLED = 'testcontainers is not installed; run: pip install "learner-worker[embedded]"'
NO_ENGINE = "no Docker engine answers; start Docker"


def obstacle() -> str:
    """Why no container can be started here, as half a sentence; empty when one can."""
    if importlib.util.find_spec("testcontainers") is None:
        return NOT_INSTALLED
    return "" if _container_module().engine_answers() else NO_ENGINE


def description() -> str:
    """The container's description for a header line."""
    return f"Apache Kafka by Docker ({IMAGE})"


@contextmanager
def running(log: Log) -> Iterator[Broker]:
    """Runs one node of Apache Kafka in a container, which is removed on exit.

    Raises `BrokerError` when the container does not start or does not answer.
    """
    log(f"starting {description()}; the first time, its image is pulled")
    with _container_module().running_container(IMAGE) as server:
        if not is_true_within(ANSWER_SECONDS, lambda: live_nodes(server) > 0):
            raise BrokerError(
                f"The container of {IMAGE} runs but does not answer on {server}: look at docker logs."
            )
        yield Broker(BrokerKind.DOCKER, server, description())


def _container_module() -> ModuleType:
    return import_module("learner_worker.brokers.container")
