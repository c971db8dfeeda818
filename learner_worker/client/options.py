"""Makes the clients' `kafka_options` from the same settings as the worker's."""

from pathlib import Path
from typing import Any, Literal

from learner_worker.errors import ConfigurationError
from learner_worker.refusals.certificates import tls_context


def kafka_options(
    *,
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT",
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN",
    sasl_username: str | None = None,
    sasl_password: str | None = None,
    ssl_cafile: Path | str | None = None,
    ssl_certfile: Path | str | None = None,
    ssl_keyfile: Path | str | None = None,
) -> dict[str, Any]:
    """The `kafka_options` of a client or publisher for TLS and a login.

        LearnerClient("kafka:9093", kafka_options=kafka_options(
            security_protocol="SASL_SSL", sasl_username="agent-7", sasl_password=password, ssl_cafile="ca.pem"
        ))

    Any other option of aiokafka's producers and consumers may be added to the result.

    Raises:
        ConfigurationError: the login is incomplete, or a certificate cannot be read.
    """
    options: dict[str, Any] = {"security_protocol": security_protocol}
    if security_protocol.startswith("SASL"):
        if not (sasl_username and sasl_password):
            raise ConfigurationError(f"{security_protocol} logs in: give sasl_username and sasl_password")
        options |= {
            "sasl_mechanism": sasl_mechanism,
            "sasl_plain_username": sasl_username,
            "sasl_plain_password": sasl_password,
        }
    if security_protocol.endswith("SSL"):
        files = (ssl_cafile, ssl_certfile, ssl_keyfile)
        options["ssl_context"] = tls_context(*(None if path is None else Path(path) for path in files))
    return options
