"""Brings the token that a request carries: given once, made anew for each request, or read from a file."""

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

from learner_worker.contract.suggestions import UNAUTHENTICATED
from learner_worker.errors import ConfigurationError, SuggestionError

TokenSource: TypeAlias = Callable[[], str | Awaitable[str]]
Token: TypeAlias = str | TokenSource | None
_IS_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]+")  # what a bearer token may consist of (RFC 6750)


async def fresh_token(token: Token) -> str | None:
    """The token for one request; None without one.

    Raises:
        SuggestionError: UNAUTHENTICATED, there is none; neither this nor any other error quotes a token.
    """
    if token is None:
        return None
    brought = await _brought(token) if callable(token) else token
    if not isinstance(brought, str) or not _IS_TOKEN.fullmatch(brought):
        raise SuggestionError(
            UNAUTHENTICATED, "the token has to be text without spaces or line ends, and without `Bearer`"
        )
    return brought


async def _brought(source: TokenSource) -> str:
    try:
        brought = source()
        return await brought if inspect.isawaitable(brought) else brought
    except Exception as error:
        reason = str(error) if isinstance(error, ConfigurationError) else type(error).__name__
        raise SuggestionError(UNAUTHENTICATED, f"the token could not be brought ({reason})") from error


def in_a_thread(token: Token) -> Token:
    """The same, for a client on a shared event loop: a function that blocks must not stop other requests."""
    if not callable(token) or inspect.iscoroutinefunction(token):
        return token
    source = token

    async def bring() -> str:
        brought = await asyncio.to_thread(source)
        return await brought if inspect.isawaitable(brought) else brought

    return bring


def token_file(path: Path | str) -> Callable[[], str]:
    """A token that is read from a file for each request, as whoever renews it replaces the file.

    LearnerClient("kafka:9092", token=token_file("/var/run/secrets/learner/token"))
    """
    return partial(read_token, Path(path))


def read_token(path: Path) -> str:
    """The token in a file.

    Raises:
        ConfigurationError: it cannot be read.
    """
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise ConfigurationError(f"cannot read the token in {path}: {reason}") from error
