"""Keys and tokens, as an identity provider makes them, and as an attacker does."""

import base64
import hmac
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt import PyJWS
from jwt.algorithms import get_default_algorithms

AUDIENCE = "learner-worker"
SECRET = b"0123456789abcdef0123456789abcdef"
NOW = 1_767_225_600  # 2026-01-01, in seconds since 1970
_HOUR = 3_600  # in seconds
_PUBLIC_EXPONENT = 65_537  # the one that everybody uses


class Issuer:
    """An identity provider with one key.

    Attributes:
        jwk: its public key, as it publishes it.
    """

    def __init__(self, algorithm: str, key_id: str | None = "key-1") -> None:
        self.algorithm = algorithm
        self.key_id = key_id
        self._private = _private_key(algorithm)
        public: Any = get_default_algorithms()[algorithm]
        jwk = public.to_jwk(self._private.public_key(), as_dict=True)
        self.jwk: dict[str, Any] = jwk | ({} if key_id is None else {"kid": key_id})

    def token(self, *, text: bytes | None = None, **claims: Any) -> str:
        """A token with these claims; by default for ann, made for the learner, and valid for an hour."""
        named = {} if self.key_id is None else {"kid": self.key_id}
        return PyJWS().encode(text or payload(**claims), self._private, self.algorithm, headers=named)

    def valid_token(self, **claims: Any) -> str:
        """A token that is valid now, for an hour."""
        return self.token(exp=_in_an_hour(), **claims)


def _private_key(algorithm: str) -> Any:
    match algorithm[:2]:
        case "ES":
            return ec.generate_private_key(
                {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}[algorithm]
            )
        case "Ed":
            return Ed25519PrivateKey.generate()
        case _:
            return rsa.generate_private_key(_PUBLIC_EXPONENT, 2048)


def payload(**claims: Any) -> bytes:
    """The claims of a token for ann, changed by others; None leaves one out."""
    every = {"sub": "ann", "aud": AUDIENCE, "exp": NOW + _HOUR, **claims}
    return json.dumps({name: value for name, value in every.items() if value is not None}).encode()


def secret_token(secret: bytes = SECRET, *, text: bytes | None = None, **claims: Any) -> str:
    """A token that is signed with a secret; `text` stands for all of its claims."""
    return PyJWS().encode(text or payload(**claims), secret, "HS256")


def valid_token(secret: bytes = SECRET, **claims: Any) -> str:
    """A token that is signed with a secret and valid now, for an hour."""
    return secret_token(secret, exp=_in_an_hour(), **claims)


def confused_token(issuer: Issuer, **claims: Any) -> str:
    """A token signed by HS256 with the text of a public key, of which everybody has a copy.

    By hand: the library refuses to sign with a public key.
    """
    text, _, _ = unsigned({"alg": "HS256", "kid": issuer.key_id}, payload(**claims)).rpartition(".")
    signature = hmac.digest(json.dumps(issuer.jwk).encode(), text.encode(), "sha256")
    return f"{text}.{_base64url(signature)}"


def jwks(*keys: Mapping[str, Any]) -> bytes:
    """A JSON Web Key Set."""
    return json.dumps({"keys": keys}).encode()


def unsigned(header: Mapping[str, Any], body: bytes, signature: bytes = b"") -> str:
    """A token put together by hand."""
    parts = (json.dumps(header).encode(), body, signature)
    return ".".join(map(_base64url, parts))


def _in_an_hour() -> int:
    return int(time.time()) + _HOUR


def _base64url(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


def bearer(token: str | bytes) -> list[tuple[str, bytes]]:
    """The headers of a request that carries a token."""
    return [("authorization", b"Bearer " + (token.encode() if isinstance(token, str) else token))]


def secret_file(folder: Path, *secrets: bytes) -> Path:
    """A file of secrets."""
    path = folder / "secret"
    path.write_bytes(b"\n".join(secrets or (SECRET,)) + b"\n")
    return path
