"""A broker: its kind, its address and its description."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

Log = Callable[[str], None]


class BrokerKind(StrEnum):
    """The kinds of brokers, in the order of preference."""

    GIVEN = "given"
    DOCKER = "docker"
    KAFKA = "kafka"
    EMBEDDED = "embedded"


@dataclass(frozen=True, slots=True)
class Broker:
    """A broker that answers. `bootstrap_servers` is host:port, comma separated."""

    kind: BrokerKind
    bootstrap_servers: str
    description: str


def silent(_sentence: str) -> None:
    """A log that discards its lines."""
