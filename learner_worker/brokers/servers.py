"""First preference: the user's own servers, which are neither started nor stopped here."""

from collections.abc import Iterator
from contextlib import contextmanager

from learner_worker.brokers.broker import Broker, BrokerKind
from learner_worker.brokers.probing import accepts
from learner_worker.errors import BrokerError

NOT_GIVEN = "none are given; set LEARNER_BOOTSTRAP_SERVERS to host:port of a running Kafka"


def description(given: str | None) -> str:
    """The given servers' description for a header line."""
    return f"given servers {given}" if given else "given servers"


@contextmanager
def running(given: str) -> Iterator[Broker]:
    """The given servers, once one of them accepts a connection (TLS and passwords are the caller's).

    Raises `BrokerError` when none of them does.
    """
    if not any(accepts(server) for server in given.split(",")):
        raise BrokerError(
            f"Nothing answers at {given}: start that Kafka, or correct LEARNER_BOOTSTRAP_SERVERS."
        )
    yield Broker(BrokerKind.GIVEN, given, description(given))
