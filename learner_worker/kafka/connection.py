"""The connection settings that every consumer, producer and admin client shares."""

from dataclasses import dataclass
from ssl import SSLContext
from typing import Any

from aiokafka.abc import AbstractTokenProvider
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
    sasl_oauth_token_provider: AbstractTokenProvider | None = None

    def options(self) -> dict[str, Any]:
        """The keyword arguments that aiokafka's clients share."""
        return {
            "bootstrap_servers": self.bootstrap_servers,
            "client_id": self.client_id,
            "security_protocol": self.security_protocol,
            "ssl_context": self.ssl_context,
            "sasl_mechanism": self.sasl_mechanism,
            "sasl_plain_username": self.sasl_username,
            "sasl_oauth_token_provider": self.sasl_oauth_token_provider,
            "sasl_plain_password": self.sasl_password and self.sasl_password.get_secret_value(),
        }
