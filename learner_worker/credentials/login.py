"""A login at Kafka, checked and turned into what its clients take."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from aiokafka.abc import AbstractTokenProvider

from learner_worker.credentials.oauth import (
    ClientCredentials,
    OwnTokens,
    notice_refused_tokens,
    token_function,
)
from learner_worker.credentials.passwords import FilePassword, secret_in

Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuthLogin:
    """Where the tokens of OAUTHBEARER come from: a token URL, or a function as `package.module:function`."""

    token_url: str | None = None
    client_id: str | None = None
    client_secret_file: Path | None = None
    scope: str | None = None
    provider: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """Who logs in, and by what. A repr never shows the password."""

    mechanism: Mechanism
    username: str | None = None
    password: str | None = None
    password_file: Path | None = None
    oauth: OAuthLogin = OAuthLogin()

    def __repr__(self) -> str:
        return f"Login({self.mechanism!r}, {self.username!r})"

    @property
    def has_password(self) -> bool:
        """Whether there is a user with a password."""
        return bool(self.username and (self.password or self.password_file))


def login_problem(login: Login) -> str | None:
    """What a login lacks, with the remedy; None if it is complete."""
    if login.mechanism == "OAUTHBEARER":
        oauth = login.oauth
        if not oauth.provider and not (oauth.token_url and oauth.client_id and oauth.client_secret_file):
            return (
                "set --sasl-oauth-token-url, --sasl-oauth-client-id and --sasl-oauth-client-secret-file, or "
                "--sasl-oauth-provider"
            )
        return None
    if not login.has_password:
        return (
            "set --sasl-username (LEARNER_SASL_USERNAME) and LEARNER_SASL_PASSWORD, or --sasl-password-file"
        )
    return None


def password_of(login: Login) -> str | None:
    """The password of a complete login; that of a file is looked at before each login.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    if login.password_file is not None:
        return FilePassword.of(login.password_file, "--sasl-password-file")
    return login.password


def token_provider(login: Login) -> AbstractTokenProvider | None:
    """What brings the tokens of a complete login by OAUTHBEARER; None for other logins.

    Raises:
        ConfigurationError: the function cannot be imported, or the client's secret cannot be read.
    """
    oauth = login.oauth
    if login.mechanism != "OAUTHBEARER":
        return None
    notice_refused_tokens()
    if oauth.provider is not None:
        return OwnTokens(token_function(oauth.provider))
    if oauth.token_url is None or oauth.client_id is None or oauth.client_secret_file is None:
        return None
    secret = partial(secret_in, oauth.client_secret_file, "--sasl-oauth-client-secret-file")
    secret()
    return ClientCredentials(oauth.token_url, oauth.client_id, secret, oauth.scope)
