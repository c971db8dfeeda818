"""The keys that verify tokens: a JWKS of public keys, or secrets. A key's type fixes its only algorithm."""

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

import msgspec
from jwt import PyJWK, PyJWTError
from jwt.algorithms import get_default_algorithms

from learner_worker.errors import ConfigurationError

SHARED_ALGORITHM: Final = "HS256"
MIN_SECRET_BYTES: Final = 32
"""As long as the digest of HS256: a shorter secret is weaker than the signature (RFC 7518, 3.2)."""
_MIN_RSA_BITS: Final = 2048  # RFC 7518, 3.3
_MAX_KEYS: Final = 64  # identity providers publish two to four; a token that names no key tries each
_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_ALGORITHMS: Final[Mapping[tuple[str, str | None], Sequence[str]]] = {
    ("RSA", None): _RSA,
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}
"""By type and curve of a public key: the algorithms it may name; the first is its own if it names none."""


class VerificationKey(msgspec.Struct, frozen=True):
    """A key, the algorithm that it is for, and a fingerprint by which it is recognized after a reload."""

    key_id: str | None
    algorithm: str
    fingerprint: bytes
    key: Any

    def __repr__(self) -> str:
        return f"VerificationKey({self.key_id!r}, {self.algorithm!r})"


class KeySet:
    """The keys that are valid now."""

    def __init__(self, keys: Sequence[VerificationKey]) -> None:
        self.fingerprints = frozenset(key.fingerprint for key in keys)
        self._keys = tuple(keys)

    @property
    def first(self) -> VerificationKey:
        """The key that signs, of the secrets in a file."""
        return self._keys[0]

    def candidates(self, algorithm: str, key_id: str | None) -> Sequence[VerificationKey]:
        """The keys that may have signed a token: of its algorithm, and with its key id if both have one."""
        of_algorithm = [key for key in self._keys if key.algorithm == algorithm]
        if key_id is None:
            return of_algorithm
        named = [key for key in of_algorithm if key.key_id == key_id]
        return named or [key for key in of_algorithm if key.key_id is None]


def keys_of_secrets(content: bytes) -> list[VerificationKey]:
    """The secrets in a file, one a line: any of them verifies, and the first one signs.

    Raises:
        ConfigurationError: a secret is too short, or there is none.
    """
    secrets = [line.strip() for line in content.splitlines() if line.strip()]
    if not secrets or min(map(len, secrets)) < MIN_SECRET_BYTES:
        raise ConfigurationError(
            f"a secret has to have {MIN_SECRET_BYTES} bytes or more, one secret a line: "
            "make one with `openssl rand -hex 32`"
        )
    _require_few(len(secrets))
    return [_secret_key(each) for each in secrets]


def keys_of_jwks(content: bytes) -> list[VerificationKey]:
    """The public keys for signatures in a JSON Web Key Set (RFC 7517).

    Raises:
        ConfigurationError: it is none, has no such key, or has a secret or a private key.
    """
    try:
        published = msgspec.json.decode(content, type=_Published).keys
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ConfigurationError('not a JSON Web Key Set: it has to be {"keys": [...]}') from error
    _require_few(len(published))
    keys = list(_verification_keys(published))
    if not keys:
        raise ConfigurationError("no key for signatures in it: it needs one of type RSA, EC or OKP (Ed25519)")
    return keys


def _secret_key(secret: bytes) -> VerificationKey:
    try:
        prepared = get_default_algorithms()[SHARED_ALGORITHM].prepare_key(secret)
    except PyJWTError as error:  # a public key, which everybody has
        raise ConfigurationError(f"this is no secret: {error}") from error
    return VerificationKey(None, SHARED_ALGORITHM, _fingerprint("secret", secret), prepared)


class _Published(msgspec.Struct):
    keys: list[dict[str, Any]]


def _require_few(count: int) -> None:
    if count > _MAX_KEYS:
        raise ConfigurationError(f"{count} keys, at most {_MAX_KEYS} are allowed: remove the old ones")


def _verification_keys(published: Sequence[Mapping[str, Any]]) -> Iterator[VerificationKey]:
    for jwk in published:
        if jwk.get("kty") == "oct" or "d" in jwk:
            raise ConfigurationError(
                "a secret or private key in it: workers need public keys only; a shared secret goes into "
                "--identity-secret-file"
            )
        allowed = _ALGORITHMS.get((str(jwk.get("kty")), jwk.get("crv")), ())
        algorithm = jwk.get("alg") or next(iter(allowed), None)
        # Others are for encryption, or of a kind that this version does not know.
        if jwk.get("use", "sig") == "sig" and algorithm in allowed:
            yield _verification_key(dict(jwk), str(algorithm))


def _verification_key(jwk: dict[str, Any], algorithm: str) -> VerificationKey:
    key_id = jwk.get("kid")
    try:
        key = PyJWK(jwk, algorithm).key
    except PyJWTError as error:
        raise ConfigurationError(f"key {key_id!r} cannot be used: {_in_words(error)}") from error
    if algorithm in _RSA and key.key_size < _MIN_RSA_BITS:
        raise ConfigurationError(f"key {key_id!r} has {key.key_size} bits, fewer than {_MIN_RSA_BITS}")
    parts = "|".join(f"{name}={jwk.get(name)}" for name in ("kty", "crv", "n", "e", "x", "y"))
    fingerprint = _fingerprint(algorithm, parts.encode())
    return VerificationKey(None if key_id is None else str(key_id), algorithm, fingerprint, key)


def _in_words(error: PyJWTError) -> str:
    if "cryptography" in str(error):
        return "public keys need the package cryptography: pip install 'learner-worker[identity]'"
    return str(error)


def _fingerprint(kind: str, content: bytes) -> bytes:
    return sha256(kind.encode() + b"\x00" + content).digest()
