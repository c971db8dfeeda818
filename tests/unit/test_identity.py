"""Tokens: which are taken, which are refused and why, and that a known one is not verified again."""

from pathlib import Path
from typing import Any

import pytest

from learner_worker.errors import ConfigurationError
from learner_worker.identity.authenticator import Authenticator
from learner_worker.identity.cache import TokenCache
from learner_worker.identity.issuing import issued
from learner_worker.identity.key_files import KeyFiles
from learner_worker.identity.keys import KeySet, keys_of_jwks, keys_of_secrets
from learner_worker.identity.tokens import LEEWAY_SECONDS, MAX_TOKEN_BYTES, TokenError
from tests.support.tokens import (
    AUDIENCE,
    NOW,
    SECRET,
    Issuer,
    confused_token,
    jwks,
    payload,
    secret_token,
    unsigned,
)

ISSUERS = {name: Issuer(name) for name in ("RS256", "PS256", "ES256", "ES384", "ES512", "EdDSA")}
RSA = ISSUERS["RS256"]
KEYS = KeySet([*keys_of_jwks(jwks(RSA.jwk)), *keys_of_secrets(SECRET)])


def authenticator(keys: KeySet = KEYS, **options: Any) -> Authenticator:
    return Authenticator(lambda: keys, audience=AUDIENCE, **options)


def refusal(token: str | bytes, now: float = NOW, **options: Any) -> str:
    """Why a token is refused."""
    with pytest.raises(TokenError) as refused:
        authenticator(**options).principal(token.encode() if isinstance(token, str) else token, now)
    return refused.value.reason


@pytest.mark.parametrize("issuer", ISSUERS.values(), ids=ISSUERS)
def test_a_token_of_each_kind_of_key_stands_for_its_agent(issuer: Issuer) -> None:
    """RSA with both paddings, the three curves and Ed25519, from a JWKS."""
    keys = KeySet(keys_of_jwks(jwks({**issuer.jwk, "alg": issuer.algorithm})))

    principal = authenticator(keys).principal(issuer.token().encode(), NOW)

    assert (principal.covers("ann"), principal.covers("bob")) == (True, False)


@pytest.mark.parametrize(
    ("claims", "covered", "others"),
    [
        ({}, ["ann"], ["an", "anna", "bob", ""]),
        ({"sub": ["ann", "bob"]}, ["ann", "bob"], ["carl"]),
        ({"sub": None, "agent_prefix": "swarm-a/"}, ["swarm-a/1", "swarm-a/"], ["swarm-b/1", "ann"]),
        ({"sub": None, "agent_prefix": ["a-", "b-"]}, ["a-1", "b-1"], ["c-1"]),
        ({"agent_prefix": "*"}, ["ann", "any", "*"], []),
        ({"sub": None}, [], ["ann", ""]),
        ({"aud": ["others", AUDIENCE]}, ["ann"], ["bob"]),
    ],
)
def test_a_token_covers_its_subjects_and_prefixes(
    claims: dict[str, Any], covered: list[str], others: list[str]
) -> None:
    """An id, a list, a prefix, several, all; without any of them nobody."""
    principal = authenticator().principal(secret_token(**claims).encode(), NOW)

    assert [agent for agent in (*covered, *others) if principal.covers(agent)] == covered


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (secret_token(exp=NOW - LEEWAY_SECONDS), "expired"),
        (secret_token(nbf=NOW + LEEWAY_SECONDS + 1), "not-yet-valid"),
        (secret_token(aud="another"), "audience"),
        (secret_token(aud=["another"]), "audience"),
        (secret_token(aud=None), "claims"),
        (secret_token(exp=None), "claims"),
        (secret_token(exp="soon"), "claims"),
        (secret_token(sub=7), "claims"),
        (secret_token(agent_prefix=""), "claims"),
        (secret_token(secret=b"another secret, of the same length"), "signature"),
        (Issuer("RS256").token(), "signature"),
        (Issuer("RS256", "key-2").token(), "unknown-key"),
        (Issuer("ES256").token(), "unknown-key"),
        (unsigned({"alg": "none"}, payload()), "unknown-key"),
        (unsigned({"alg": "HS256", "crit": ["b64"], "b64": False}, payload()), "malformed"),
        ("", "malformed"),
        ("..", "malformed"),
        ("a.b", "malformed"),
        ("{}.{}.{}", "malformed"),
        (b"\xff.\xff.\xff", "malformed"),
        (unsigned({"alg": ["HS256"]}, payload()), "unknown-key"),
        (unsigned({"alg": "HS256"}, payload(), b"short"), "signature"),
        ("x" * (MAX_TOKEN_BYTES + 1), "too-large"),
        ("[" * MAX_TOKEN_BYTES, "malformed"),
    ],
)
def test_a_token_that_proves_nothing_is_refused_with_its_reason(token: str | bytes, reason: str) -> None:
    """Expired, early, for others, by a wrong key, unsigned, and what is no token."""
    assert refusal(token) == reason


def test_the_public_key_is_no_secret() -> None:
    """A token signed by HS256 with the text of the RSA key, of which everybody has a copy, is refused."""
    forged = confused_token(RSA)

    assert refusal(forged, keys=KeySet(keys_of_jwks(jwks(RSA.jwk)))) == "unknown-key"
    assert refusal(forged) == "signature"


def test_a_token_that_was_changed_is_refused() -> None:
    """Another agent's id in the claims, with the signature of the old ones."""
    header, _, signature = secret_token().split(".")
    _, other, _ = unsigned({}, payload(sub="bob")).split(".")

    assert refusal(f"{header}.{other}.{signature}") == "signature"


def test_the_issuer_counts_if_there_is_to_be_one() -> None:
    """With --identity-issuer another one, and none, are refused."""
    good = authenticator(issuer="https://login").principal(secret_token(iss="https://login").encode(), NOW)

    assert good.covers("ann")
    assert refusal(secret_token(iss="https://other"), issuer="https://login") == "issuer"
    assert refusal(secret_token(), issuer="https://login") == "issuer"


def test_the_clocks_may_differ_by_the_leeway() -> None:
    """Just expired, or just made on a clock that is ahead."""
    just = secret_token(exp=NOW - LEEWAY_SECONDS + 1, nbf=NOW + LEEWAY_SECONDS).encode()

    assert authenticator().principal(just, NOW).covers("ann")


def test_a_known_token_is_taken_until_it_expires_or_its_key_is_gone() -> None:
    """The cache holds it; the time and the keys are asked each time."""
    cache, keys = TokenCache(), [KEYS]
    known = Authenticator(lambda: keys[0], audience=AUDIENCE, cache=cache)
    token = RSA.token().encode()
    first = known.principal(token, NOW)

    assert known.principal(token, NOW) is first
    with pytest.raises(TokenError, match="expired"):
        known.principal(token, NOW + 3600 + LEEWAY_SECONDS)
    keys[0] = KeySet(keys_of_jwks(jwks(Issuer("RS256").jwk)))
    with pytest.raises(TokenError, match="signature"):
        known.principal(token, NOW)
    keys[0] = KeySet(keys_of_jwks(jwks(Issuer("RS256", "new").jwk, RSA.jwk)))
    assert known.principal(token, NOW) is first


def test_the_cache_is_bounded_and_holds_no_refused_token() -> None:
    """At most twice its size; what is asked for again stays; refused ones never enter."""
    cache = TokenCache(max_recent=10)
    checked = authenticator(cache=cache)
    kept = secret_token(sub="kept").encode()
    first = checked.principal(kept, NOW)
    for number in range(50):
        checked.principal(secret_token(sub=str(number)).encode(), NOW)
        assert checked.principal(kept, NOW) is first
        with pytest.raises(TokenError):
            checked.principal(secret_token(sub=str(number), aud="another").encode(), NOW)

    assert 10 <= len(cache) <= 20


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a JSON Web Key Set"),
        (b'{"keys": 1}', "not a JSON Web Key Set"),
        (b"[" * 100_000, "not a JSON Web Key Set"),
        (jwks(), "no key for signatures"),
        (jwks({"kty": "EC", "crv": "secp256k1", "x": "", "y": ""}), "no key for signatures"),
        (jwks({**RSA.jwk, "use": "enc"}), "no key for signatures"),
        (jwks({**RSA.jwk, "alg": "HS256"}), "no key for signatures"),
        (jwks({"kty": "oct", "k": "c2VjcmV0"}), "a secret or private key"),
        (jwks({**RSA.jwk, "d": "AQAB"}), "a secret or private key"),
        (jwks({**RSA.jwk, "n": RSA.jwk["n"][:100]}), "fewer than 2048"),
        (jwks({"kty": "RSA", "kid": "k"}), "key 'k' cannot be used"),
        (jwks(*[RSA.jwk] * 65), "65 keys, at most 64"),
    ],
)
def test_a_key_set_that_cannot_be_used_is_refused(content: bytes, words: str) -> None:
    """The sentence says what is wrong, and quotes no secret."""
    with pytest.raises(ConfigurationError, match=words) as refused:
        keys_of_jwks(content)
    assert "c2VjcmV0" not in str(refused.value)


def test_a_public_key_is_refused_as_a_secret() -> None:
    """Whoever puts the JWKS where the secret belongs is told."""
    with pytest.raises(ConfigurationError, match="looks like a JWK"):
        keys_of_secrets(jwks(RSA.jwk))


@pytest.mark.parametrize("content", [b"", b"\n", b"short\n", SECRET + b"\nshort"])
def test_a_weak_secret_is_refused(content: bytes) -> None:
    """Every line needs 32 bytes."""
    with pytest.raises(ConfigurationError, match="32 bytes or more"):
        keys_of_secrets(content)


class _Time:
    """A monotonic clock that a test moves on."""

    seconds = 0.0

    def __call__(self) -> float:
        self.seconds += 2
        return self.seconds


def test_keys_are_read_again_when_their_file_changes(tmp_path: Path) -> None:
    """A new secret counts besides the old one, then alone; a broken or missing file changes nothing."""
    path, old, new = tmp_path / "secret", SECRET, b"another secret, of enough length"
    path.write_bytes(old)
    files = KeyFiles({path: keys_of_secrets}, _Time())
    known = Authenticator(files.current, audience=AUDIENCE)

    def taken() -> list[bool]:
        return [_is_taken(known, secret_token(secret)) for secret in (old, new)]

    assert taken() == [True, False]
    path.write_bytes(new + b"\n" + old)
    assert taken() == [True, True]
    path.write_bytes(b"broken")
    assert taken() == [True, True]
    path.unlink()
    assert taken() == [True, True]
    path.write_bytes(new)
    assert taken() == [False, True]


def _is_taken(known: Authenticator, token: str) -> bool:
    try:
        return known.principal(token.encode(), NOW).covers("ann")
    except TokenError:
        return False


def test_keys_that_are_not_there_at_the_start_are_an_error(tmp_path: Path) -> None:
    """The sentence names the file."""
    with pytest.raises(ConfigurationError, match=r"cannot read .*missing"):
        KeyFiles({tmp_path / "missing": keys_of_secrets}, _Time())


def test_an_issued_token_is_taken() -> None:
    """For agents and prefixes, until it expires; for nobody none is issued."""
    (key,) = keys_of_secrets(SECRET)
    made: dict[str, Any] = {"audience": AUDIENCE, "issuer": "us", "now": NOW, "expires": NOW + 60}
    token = issued(key, agents=["ann", "bob"], prefixes=["a-"], **made).encode()
    principal = authenticator(issuer="us").principal(token, NOW)

    assert [principal.covers(agent) for agent in ("ann", "bob", "a-1", "carl")] == [True, True, True, False]
    assert refusal(token, NOW + 60 + LEEWAY_SECONDS) == "expired"
    with pytest.raises(ConfigurationError, match="has to be for somebody"):
        issued(key, agents=[], prefixes=[], **made)
