"""The connection settings that every consumer, producer and admin client shares, and the groups' names."""

from dataclasses import dataclass
from ssl import SSLContext
from typing import Any

from pydantic import SecretStr


@dataclass(frozen=True, slots=True)
class Connection:
    """The address of the cluster and the credentials. A repr never shows secrets."""

    bootstrap_servers: str
    client_id: str = "learner-worker"
    security_protocol: str = "PLAINTEXT"
    ssl_context: SSLContext | None = None
    sasl_mechanism: str = "PLAIN"
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None

    def options(self) -> dict[str, Any]:
        """The keyword arguments that aiokafka's clients share."""
        return {
            "bootstrap_servers": self.bootstrap_servers,
            "client_id": self.client_id,
            "security_protocol": self.security_protocol,
            "ssl_context": self.ssl_context,
            "sasl_mechanism": self.sasl_mechanism,
            "sasl_plain_username": self.sasl_username,
            "sasl_plain_password": self.sasl_password and self.sasl_password.get_secret_value(),
        }


def requests_group(group_id: str) -> str:
    """The group that keeps the offsets of a group's answered requests."""
    return f"{group_id}.requests"
