"""Verifies tokens: JSON Web Tokens (RFC 7519) that are signed by a known key and made for this learner."""

import math
from collections.abc import Callable
from typing import Final

import msgspec
from jwt import PyJWS, PyJWTError

from learner_worker.errors import LearnerError
from learner_worker.identity.keys import KeySet, VerificationKey
from learner_worker.identity.principal import ALL_AGENTS, Principal

MAX_TOKEN_BYTES: Final = 8 * 1024
"""As HTTP servers allow a header; larger ones are refused before any work on them."""
LEEWAY_SECONDS: Final = 5.0
"""By which the clocks of the issuer and the learner may differ: below it, a new token could be refused."""
_JWS = PyJWS()


class TokenError(LearnerError):
    """A token does not prove who asks. Neither `reason`, a word to count by, nor the message quotes it."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class TokenVerifier:
    """Turns a token into its principal.

    Args:
        keys: returns the keys that are valid now.
        audience: the name of this learner, which the token has to be made for.
        issuer: who has to have made it; None: anyone who has a key.
    """

    def __init__(self, keys: Callable[[], KeySet], *, audience: str, issuer: str | None = None) -> None:
        self._keys = keys
        self._audience = audience
        self._issuer = issuer

    def verify(self, token: bytes) -> Principal:
        """The principal of a token; whether it has expired, `require_time` says.

        Raises:
            TokenError: it is not signed by a known key, or not made for this learner.
        """
        if len(token) > MAX_TOKEN_BYTES:
            raise TokenError("too-large", f"the token has {len(token)} bytes, more than {MAX_TOKEN_BYTES}")
        key, payload = self._verified(token)
        claims = _claims(payload)
        if self._audience not in _listed(claims.aud):
            raise TokenError("audience", f"the token's audience (aud) has to be {self._audience!r}")
        if self._issuer is not None and claims.iss != self._issuer:
            raise TokenError("issuer", f"the token's issuer (iss) has to be {self._issuer!r}")
        return _principal(claims, key)

    def _verified(self, token: bytes) -> tuple[VerificationKey, bytes]:
        """The key that verifies a token's signature, and what was signed."""
        algorithm, key_id = _header(token)
        candidates = self._keys().candidates(algorithm, key_id)
        if not candidates:
            raise TokenError("unknown-key", "no key of the learner fits the token's algorithm and key id")
        for key in candidates:
            payload = _payload(token, key)
            if payload is not None:
                return key, payload
        raise TokenError("signature", "the token's signature does not verify")


def require_time(principal: Principal, now: float) -> None:
    """Refuses a principal whose token is not valid now (seconds since 1970).

    Raises:
        TokenError: it has expired, or is not valid yet.
    """
    if now >= principal.expires + LEEWAY_SECONDS:
        raise TokenError("expired", "the token has expired (exp)")
    if now < principal.not_before - LEEWAY_SECONDS:
        raise TokenError("not-yet-valid", "the token is not valid yet (nbf)")


class _Claims(msgspec.Struct):
    aud: str | list[str]
    exp: float
    sub: str | list[str] = []
    agent_prefix: str | list[str] = []
    nbf: float = 0.0
    iss: str | None = None


_decode_claims = msgspec.json.Decoder(_Claims).decode


def _header(token: bytes) -> tuple[str, str | None]:
    """The algorithm and the key id that a token names. They only choose among the keys."""
    try:
        header = _JWS.get_unverified_header(token)
    except (PyJWTError, ValueError, RecursionError) as error:
        raise TokenError("malformed", "the header authorization has no JSON Web Token") from error
    if "crit" in header:
        raise TokenError("malformed", "the token has critical extensions (crit), of which none is known")
    return str(header.get("alg")), header.get("kid")


def _payload(token: bytes, key: VerificationKey) -> bytes | None:
    """What a token has signed; None if this key has not signed it."""
    try:
        payload: bytes = _JWS.decode_complete(token, key.key, algorithms=[key.algorithm])["payload"]
    except (PyJWTError, ValueError):
        return None
    return payload


def _claims(payload: bytes) -> _Claims:
    try:
        claims = _decode_claims(payload)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise TokenError(
            "claims", "the token's claims need aud (text or a list) and exp (a number)"
        ) from error
    if not (math.isfinite(claims.exp) and math.isfinite(claims.nbf)):
        raise TokenError("claims", "the token's times (exp, nbf) have to be finite")
    return claims


def _principal(claims: _Claims, key: VerificationKey) -> Principal:
    agents, prefixes = frozenset(_listed(claims.sub)), tuple(_listed(claims.agent_prefix))
    if "" in prefixes:
        raise TokenError(
            "claims", f"an empty agent_prefix covers nobody; for all agents it is {ALL_AGENTS!r}"
        )
    everyone = ALL_AGENTS in prefixes
    return Principal(agents, ("",) if everyone else prefixes, claims.nbf, claims.exp, key.fingerprint)


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
