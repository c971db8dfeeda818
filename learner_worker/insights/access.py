"""Who may look: this machine alone, or whoever has the token; and what browsers may do with the pages."""

import base64
import binascii
import hmac
import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web
from pydantic import SecretStr

from learner_worker.errors import ConfigurationError

ACCESS_VARIABLE: Final = "LEARNER_INSIGHTS_TOKEN"
_OPEN_PATHS = frozenset({"/healthz", "/readyz"})
"""What probes ask, which have no token; they say nothing of any agent."""
_OWN_SITES = frozenset({"same-origin", "none"})
"""What a browser says of a request from this server's own page, or from its address bar."""
_HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Access:
    """The rules.

    Attributes:
        host: the address that is listened on.
        anyone: whether other machines may look without a token.
    """

    host: str = "127.0.0.1"
    token: SecretStr | None = field(default=None)
    anyone: bool = False

    def require_safe(self) -> None:
        """Refuses to let other machines look unasked.

        Raises:
            ConfigurationError: the address is not of this machine alone, and there is no token.
        """
        if self.token is None and not self.anyone and not _is_loopback(self.host):
            raise ConfigurationError(
                f"anyone who reaches {self.host} could read every agent's bids: set {ACCESS_VARIABLE}, which "
                "whoever looks then has to give, or say --allow-anyone"
            )

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Lets a request pass, or answers it."""
        refusal = self._refusal(request)
        return await handler(request) if refusal is None else refusal

    def _refusal(self, request: web.Request) -> web.Response | None:
        if request.path in _OPEN_PATHS:
            return None
        if self.token is not None and not _gives(request, self.token.get_secret_value()):
            challenge = {"WWW-Authenticate": 'Basic realm="learner-worker insights", charset="UTF-8"'}
            return web.Response(
                status=401, text="Give the token, as bearer or as password.\n", headers=challenge
            )
        if self.token is None and not self.anyone and not _is_loopback(request.url.host or ""):
            return web.Response(status=403, text="Ask by the address of this machine.\n")
        if request.method != "GET" and request.headers.get("Sec-Fetch-Site", "none") not in _OWN_SITES:
            return web.Response(status=403, text="Not from another site's page.\n")
        return None


async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Tells browsers to run and load nothing but this server's own files, and to keep nothing."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)


def _is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's own; another name never is, wherever it points."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _gives(request: web.Request, token: str) -> bool:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            _, _, given = base64.b64decode(given, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(given.encode(), token.encode())
