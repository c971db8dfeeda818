"""The order of preference of brokers: which can run here, which one the demo uses, and how to run them."""

import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import assert_never

from learner_worker.brokers import docker, embedded, kafka, servers
from learner_worker.brokers.broker import Broker, BrokerKind, Log, silent
from learner_worker.errors import BrokerError

NAMES = {
    BrokerKind.GIVEN: "given servers",
    BrokerKind.DOCKER: "Docker",
    BrokerKind.KAFKA: "Apache Kafka by Maven and Java",
    BrokerKind.EMBEDDED: "embedded",
}


def available_brokers(given: str | None = None) -> list[BrokerKind]:
    """The kinds that can run here, in the order of preference. Starts nothing, uses no network."""
    return [kind for kind in BrokerKind if not _obstacle(kind, given)]


def first_available(given: str | None = None) -> BrokerKind:
    """The kind that is preferred of those that can run here. Raises `BrokerError` when none can."""
    found = next((kind for kind in BrokerKind if not _obstacle(kind, given)), None)
    if found is None:
        raise BrokerError("No broker can be started here. " + " ".join(why_not(kind) for kind in BrokerKind))
    return found


def why_not(kind: BrokerKind) -> str:
    """A sentence on why the kind cannot run here and what to do; empty if it can."""
    obstacle = _obstacle(kind, None)
    return f"{NAMES[kind]}: {obstacle}." if obstacle else ""


def description(kind: BrokerKind, given: str | None = None) -> str:
    """The description of a running broker of the kind, without starting one."""
    match kind:
        case BrokerKind.GIVEN:
            return servers.description(given)
        case BrokerKind.DOCKER:
            return docker.description()
        case BrokerKind.KAFKA:
            return kafka.description()
        case BrokerKind.EMBEDDED:
            return embedded.description()
        case _:
            assert_never(kind)


@contextmanager
def running_broker(
    kind: BrokerKind, *, given: str | None = None, data_dir: Path | None = None, log: Log = silent
) -> Iterator[Broker]:
    """Starts a broker of the kind and waits until it answers; stops it on exit, also after Ctrl-C.

    Its data lives in `data_dir`, where a later start finds it again, or in a temporary folder. `log` is told
    what takes long. A SIGTERM that the program turns into no exception leaves the broker running. Raises
    `BrokerError` when it cannot be had here, does not start or does not stop.
    """
    if obstacle := _obstacle(kind, given):
        raise BrokerError(f"{NAMES[kind]}: {obstacle}.")
    with _folder(data_dir) as folder, _running(kind, given, folder, log) as broker:
        yield broker


def _obstacle(kind: BrokerKind, given: str | None) -> str:
    match kind:
        case BrokerKind.GIVEN:
            return "" if given else servers.NOT_GIVEN
        case BrokerKind.DOCKER:
            return docker.obstacle()
        case BrokerKind.KAFKA:
            return kafka.obstacle()
        case BrokerKind.EMBEDDED:
            return embedded.obstacle()
        case _:
            assert_never(kind)


def _running(kind: BrokerKind, given: str | None, folder: Path, log: Log) -> AbstractContextManager[Broker]:
    match kind:
        case BrokerKind.GIVEN:
            return servers.running(given or "")
        case BrokerKind.DOCKER:
            return docker.running(log)
        case BrokerKind.KAFKA:
            return kafka.running(folder, log)
        case BrokerKind.EMBEDDED:
            return embedded.running(folder, log)
        case _:
            assert_never(kind)


@contextmanager
def _folder(data_dir: Path | None) -> Iterator[Path]:
    if data_dir is not None:
        data_dir.mkdir(parents=True, exist_ok=True)
        yield data_dir.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="learner-broker-", ignore_cleanup_errors=True) as name:
        yield Path(name).resolve()
