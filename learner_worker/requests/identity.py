"""Checks that a request's token covers the agent that it asks about."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import structlog
from prometheus_client import Counter

from learner_worker.contract.headers import AUTHORIZATION, Headers, header
from learner_worker.contract.suggestions import FORBIDDEN, UNAUTHENTICATED
from learner_worker.errors import RequestError
from learner_worker.identity.authenticator import Authenticator
from learner_worker.identity.key_files import KeyFiles, KeyReader
from learner_worker.identity.keys import keys_of_jwks, keys_of_secrets
from learner_worker.identity.tokens import TokenError
from learner_worker.requests.clock import Clock
from learner_worker.settings import Settings

CHECKED_AT_ONCE: Final = 50
"""Requests between two yields to the event loop: a signature takes up to some 100 microseconds."""
_LOG_SECONDS: Final = 1.0  # between two log lines: a flood of refusals must not fill a disk
_SCHEME: Final = b"bearer "
_MICROS = 1_000_000  # microseconds in a second
_log = structlog.get_logger("learner_worker.requests")


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentitySettings:
    """How requests prove who asks.

    Attributes:
        required: whether a request that does not is refused; otherwise it is only counted.
        files: the files of keys, and how each is read.
    """

    required: bool
    files: Mapping[Path, KeyReader]
    audience: str
    issuer: str | None = None

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """Extracts them from a worker's settings; None: requests need not prove who asks."""
        if settings.identity == "off":
            return None
        readers = {settings.identity_jwks_file: keys_of_jwks, settings.identity_secret_file: keys_of_secrets}
        return cls(
            required=settings.identity == "require",
            files={path: reader for path, reader in readers.items() if path is not None},
            audience=settings.identity_audience,
            issuer=settings.identity_issuer,
        )


class IdentityCheck:
    """Checks requests, counts the results, and refuses what is not proved if it has to be.

    Raises:
        ConfigurationError: a file of keys cannot be read.
    """

    def __init__(self, settings: IdentitySettings, checks: Counter, clock: Clock) -> None:
        keys = KeyFiles(settings.files, clock.monotonic)
        self._authenticator = Authenticator(keys.current, audience=settings.audience, issuer=settings.issuer)
        self._required = settings.required
        self._checks_of = functools.cache(checks.labels)
        self._clock = clock
        self._log_at = clock.monotonic()
        self._unlogged = 0

    def check(self, headers: Headers, agent_id: str) -> None:
        """Checks that a request may ask about an agent.

        Raises:
            RequestError: UNAUTHENTICATED or FORBIDDEN, if a proof is required.
        """
        try:
            principal = self._authenticator.principal(_token(headers), self._clock.now() / _MICROS)
        except TokenError as error:
            self._refuse(error.reason, agent_id, RequestError(UNAUTHENTICATED, str(error)))
            return
        if principal.covers(agent_id):
            self._checks_of("ok").inc()
        else:
            message = f"the token is not for agent {agent_id!r}: neither sub nor agent_prefix covers it"
            self._refuse("forbidden", agent_id, RequestError(FORBIDDEN, message))

    def _refuse(self, reason: str, agent_id: str, error: RequestError) -> None:
        self._checks_of(reason).inc()
        self._tell(reason, agent_id)
        if self._required:
            raise error

    def _tell(self, reason: str, agent_id: str) -> None:
        """Logs who was refused and why, one request a second: the counter has all of them."""
        now = self._clock.monotonic()
        if now < self._log_at:
            self._unlogged += 1
            return
        event = "identity.refused" if self._required else "identity.would_refuse"
        _log.warning(event, agent_id=agent_id, reason=reason, others=self._unlogged)
        self._log_at, self._unlogged = now + _LOG_SECONDS, 0


def _token(headers: Headers) -> bytes:
    """The token in a request's headers.

    Raises:
        TokenError: there is none.
    """
    value = header(headers, AUTHORIZATION)
    if not value:
        raise TokenError("missing", "no token: the header authorization has to be `Bearer` and a token")
    if value[: len(_SCHEME)].lower() != _SCHEME:
        raise TokenError("malformed", "the header authorization has to be `Bearer`, a space and a token")
    return value[len(_SCHEME) :].strip()
