"""The settings by which Kafka is reached: addresses, certificates and logins."""

from pathlib import Path
from ssl import SSLContext
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings

from learner_worker.credentials.certificates import tls_context
from learner_worker.credentials.login import (
    Login,
    Mechanism,
    OAuthLogin,
    login_problem,
    password_of,
    token_provider,
)
from learner_worker.kafka.connection import Connection

LAST_PORT: Final = 65_535  # the largest TCP port


def _reachable(value: str) -> str:
    for address in value.split(","):
        scheme, sign, rest = address.strip().rpartition("://")
        if sign:
            raise ValueError(f"{address} is a URL: write {rest.rstrip('/')}, without {scheme}://")
        host, _, port = address.strip().rpartition(":")
        if not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) <= LAST_PORT:
            raise ValueError(f"'{address}' is not host:port, as in kafka.example.org:9092")
    return value


class ConnectionSettings(BaseSettings):
    """The part of the settings that the connection to Kafka needs."""

    bootstrap_servers: Annotated[str, AfterValidator(_reachable)] = Field(
        "localhost:9092", description="Kafka bootstrap servers: host:port, or a comma-separated list."
    )
    client_id: str = Field("learner-worker", description="Client id that Kafka logs for this process.")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="Protocol used to connect to Kafka."
    )
    sasl_mechanism: Mechanism = Field("PLAIN", description="SASL mechanism, for a SASL protocol.")
    sasl_username: str | None = Field(None, description="SASL user name.")
    sasl_password: SecretStr | None = Field(None, description="SASL password; never logged.")
    sasl_password_file: Path | None = Field(
        None, description="File with the SASL password; read again for new connections when it changes."
    )
    sasl_oauth_token_url: str | None = Field(
        None, pattern=r"^https?://", description="URL that OAUTHBEARER tokens come from (client credentials)."
    )
    sasl_oauth_client_id: str | None = Field(None, description="Client id at the token URL.")
    sasl_oauth_client_secret_file: Path | None = Field(
        None, description="File with the client's secret at the token URL; read again when it changes."
    )
    sasl_oauth_scope: str | None = Field(None, description="Scope that tokens are asked for with.")
    sasl_oauth_provider: str | None = Field(
        None, description="Function that returns OAUTHBEARER tokens, as package.module:function."
    )
    ssl_cafile: Path | None = Field(None, description="PEM file with the CA certificates to trust.")
    ssl_certfile: Path | None = Field(None, description="PEM file with the client certificate.")
    ssl_keyfile: Path | None = Field(None, description="PEM file with the client's private key.")
    startup_timeout_seconds: float = Field(
        10, gt=0, description="How long to keep trying to reach Kafka at startup, in seconds."
    )

    @model_validator(mode="after")
    def _require_credentials(self) -> Self:
        if self.security_protocol.startswith("SASL") and (problem := login_problem(self.login())):
            raise ValueError(f"--security-protocol {self.security_protocol} logs in: {problem}")
        return self

    def login(self) -> Login:
        """How to log in at Kafka."""
        secret = self.sasl_password
        return Login(
            mechanism=self.sasl_mechanism,
            username=self.sasl_username,
            password=None if secret is None else secret.get_secret_value(),
            password_file=self.sasl_password_file,
            oauth=OAuthLogin(
                token_url=self.sasl_oauth_token_url,
                client_id=self.sasl_oauth_client_id,
                client_secret_file=self.sasl_oauth_client_secret_file,
                scope=self.sasl_oauth_scope,
                provider=self.sasl_oauth_provider,
            ),
        )

    def connection(self) -> Connection:
        """How to reach Kafka.

        Raises:
            ConfigurationError: a certificate or a secret cannot be read.
        """
        logs_in = self.security_protocol.startswith("SASL")
        password = password_of(self.login()) if logs_in else None
        return Connection(
            bootstrap_servers=self.bootstrap_servers,
            client_id=self.client_id,
            security_protocol=self.security_protocol,
            ssl_context=self._ssl_context(),
            sasl_mechanism=self.sasl_mechanism,
            sasl_username=self.sasl_username,
            sasl_password=None if password is None else SecretStr(password),
            sasl_oauth_token_provider=token_provider(self.login()) if logs_in else None,
        )

    def _ssl_context(self) -> SSLContext | None:
        if not self.security_protocol.endswith("SSL"):
            return None
        return tls_context(self.ssl_cafile, self.ssl_certfile, self.ssl_keyfile)
