"""Makes the clients' `kafka_options` from the same settings as the worker's."""

from pathlib import Path
from typing import Any, Literal

from learner_worker.credentials.certificates import tls_context
from learner_worker.credentials.login import (
    Login,
    Mechanism,
    OAuthLogin,
    login_problem,
    password_of,
    token_provider,
)
from learner_worker.errors import ConfigurationError


def kafka_options(
    *,
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT",
    sasl_mechanism: Mechanism = "PLAIN",
    sasl_username: str | None = None,
    sasl_password: str | None = None,
    sasl_password_file: Path | str | None = None,
    oauth: OAuthLogin | None = None,
    ssl_cafile: Path | str | None = None,
    ssl_certfile: Path | str | None = None,
    ssl_keyfile: Path | str | None = None,
) -> dict[str, Any]:
    """The `kafka_options` of a client or publisher for TLS and a login.

        LearnerClient("kafka:9093", kafka_options=kafka_options(
            security_protocol="SASL_SSL", sasl_username="agent-7", sasl_password=password, ssl_cafile="ca.pem"
        ))

    New connections use files that have changed. Any other option of aiokafka's producers and consumers may be
    added to the result.

    Args:
        oauth: where tokens come from, for `sasl_mechanism="OAUTHBEARER"`.

    Raises:
        ConfigurationError: the login is incomplete, or a certificate or a secret cannot be read.
    """
    options: dict[str, Any] = {"security_protocol": security_protocol}
    if security_protocol.startswith("SASL"):
        login = Login(
            mechanism=sasl_mechanism,
            username=sasl_username,
            password=sasl_password,
            password_file=None if sasl_password_file is None else Path(sasl_password_file),
            oauth=oauth or OAuthLogin(),
        )
        options |= {"sasl_mechanism": sasl_mechanism, **_login_options(login, security_protocol)}
    if security_protocol.endswith("SSL"):
        files = (ssl_cafile, ssl_certfile, ssl_keyfile)
        options["ssl_context"] = tls_context(*(None if path is None else Path(path) for path in files))
    return options


def _login_options(login: Login, security_protocol: str) -> dict[str, Any]:
    if login.mechanism != "OAUTHBEARER" and not login.has_password:
        raise ConfigurationError(f"{security_protocol} logs in: give sasl_username and sasl_password")
    if problem := login_problem(login):
        raise ConfigurationError(f"{security_protocol} logs in: {problem}")
    if login.mechanism == "OAUTHBEARER":
        return {"sasl_oauth_token_provider": token_provider(login)}
    return {"sasl_plain_username": login.username, "sasl_plain_password": password_of(login)}
