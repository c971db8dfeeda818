"""Tokens for logins by OAUTHBEARER: from a token URL by client credentials, or from a function."""

import asyncio
import base64
import inspect
import math
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from importlib import import_module
from typing import Any, Final
from urllib.parse import quote_plus

import aiohttp
import msgspec
from aiokafka.abc import AbstractTokenProvider
from aiokafka.conn import OAuthAuthenticator
from aiokafka.errors import KafkaConnectionError, SaslAuthenticationFailed

from learner_worker.errors import ConfigurationError, LearnerError
from learner_worker.lifecycle import replace_method

_RENEWED_AFTER: Final = 0.8  # of its lifetime: clocks differ, and a login takes its time
_FALLBACK_SECONDS: Final = 60.0  # a lifetime that the server does not state: short, and no request a login
_REQUEST_SECONDS: Final = 5.0  # a token server that takes longer is away
_SHOWN_BYTES: Final = 200
"""Of Kafka's answer to a token: enough for its status."""
TokenFunction = Callable[[], str | Awaitable[str]]
_step = OAuthAuthenticator.step


class _Answer(msgspec.Struct):
    """The answer of a token URL (RFC 6749, 5.1)."""

    access_token: str
    expires_in: float = _FALLBACK_SECONDS


class ClientCredentials(AbstractTokenProvider):
    """Asks a token URL by client credentials (RFC 6749, 4.4); a token is used until most of its time is over.

    Args:
        secret: returns the client's secret of now.
        now: returns the time in seconds, on any clock that does not go back.
    """

    def __init__(
        self,
        url: str,
        client_id: str,
        secret: Callable[[], str],
        scope: str | None,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._client_id = client_id
        self._secret = secret
        self._scope = scope
        self._now = now
        self._token = ""
        self._renew_at = -math.inf
        self._asking: asyncio.Task[str] | None = None

    def __repr__(self) -> str:
        return f"ClientCredentials({self._url!r}, {self._client_id!r})"

    async def token(self) -> str:
        """A valid token; several logins at once wait for one answer.

        Raises:
            SaslAuthenticationFailed: the server refuses; the message says what it answered.
            KafkaConnectionError: it cannot be asked now.
        """
        if self._now() < self._renew_at:
            return self._token
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name="ask-for-kafka-token")
        return await asyncio.shield(self._asking)

    async def _ask(self) -> str:
        asked = {"grant_type": "client_credentials", **({"scope": self._scope} if self._scope else {})}
        limit = aiohttp.ClientTimeout(total=_REQUEST_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=limit, trust_env=True) as session,
                session.post(self._url, data=asked, headers=self._headers(), allow_redirects=False) as answer,
            ):
                content = await answer.read()
                if answer.status != HTTPStatus.OK:
                    raise SaslAuthenticationFailed(f"the token URL {self._url} answers {answer.status}")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise KafkaConnectionError(
                f"the token URL {self._url} cannot be asked ({error or 'no answer'})"
            ) from error
        return self._taken(content)

    def _headers(self) -> dict[str, str]:
        login = f"{quote_plus(self._client_id)}:{quote_plus(self._secret())}"
        encoded = base64.b64encode(login.encode()).decode()
        return {"Authorization": f"Basic {encoded}", "Accept": "application/json"}

    def _taken(self, content: bytes) -> str:
        try:
            answer = msgspec.json.decode(content, type=_Answer)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise SaslAuthenticationFailed(f"the token URL {self._url} answers without a token") from error
        self._token = answer.access_token
        self._renew_at = self._now() + _RENEWED_AFTER * answer.expires_in
        return self._token


class OwnTokens(AbstractTokenProvider):
    """Tokens of a function, async or not; it is called for every login, and keeps its own cache."""

    def __init__(self, function: TokenFunction) -> None:
        self._function = function

    async def token(self) -> str:
        """A valid token, from the function; one that is not async may block, in a thread.

        Raises:
            SaslAuthenticationFailed: it raised an error, or returned no text.
        """
        try:
            if inspect.iscoroutinefunction(self._function):
                brought: Any = await self._function()
            else:
                brought = await asyncio.to_thread(self._function)
                brought = await brought if inspect.isawaitable(brought) else brought
        except Exception as error:  # the message of foreign code may hold a secret
            reason = str(error) if isinstance(error, LearnerError) else type(error).__name__
            raise SaslAuthenticationFailed(f"the token function failed ({reason})") from error
        if not isinstance(brought, str) or not brought:
            raise SaslAuthenticationFailed("the token function returned no text")
        return brought


async def _step_or_refusal(authenticator: OAuthAuthenticator, payload: bytes | None) -> Any:
    """A step of the login; an answer to the token that is not empty says why it is refused (RFC 7628, 3.2.2).

    Raises:
        SaslAuthenticationFailed: Kafka refuses the token.
    """
    if payload:
        raise SaslAuthenticationFailed(f"Kafka answers {payload[:_SHOWN_BYTES].decode(errors='replace')}")
    return await _step(authenticator, payload)


def notice_refused_tokens() -> None:
    """Makes logins by a token fail if Kafka refuses it, in this process.

    aiokafka does not look at the answer, goes on, and takes the connection that Kafka closes for an outage.
    It is left unchanged if its method has other parameters.
    """
    replace_method(OAuthAuthenticator, "step", ["self", "payload"], lambda _: _step_or_refusal)


def token_function(name: str) -> TokenFunction:
    """The function of a name as `package.module:function`.

    Raises:
        ConfigurationError: there is none.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(
            f"cannot import {name} ({error}): --sasl-oauth-provider is package.module:function"
        ) from error
    if not callable(found):
        raise ConfigurationError(f"{name} is no function: --sasl-oauth-provider is package.module:function")
    brings: TokenFunction = found
    return brings
