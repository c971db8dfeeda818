"""Tokens of every kind, broken in every way: each is the model's decision, and nothing else ever happens."""

import contextlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner_worker.errors import ConfigurationError, RequestError
from learner_worker.identity.keys import keys_of_jwks, keys_of_secrets
from learner_worker.observability import Instruments
from learner_worker.requests.identity import IdentityCheck, IdentitySettings
from tests.fuzz import FUZZ
from tests.support.requests import ManualClock
from tests.support.tokens import AUDIENCE, NOW, SECRET, Issuer, jwks, secret_file, secret_token, unsigned

ISSUERS = [Issuer("ES256", "ec"), Issuer("EdDSA", "ed")]
AGENTS = ["ann", "an", "a/1", "", "*", "ünï"]
LEEWAY = 5
TEXTS = st.sampled_from([*AGENTS, "a/", AUDIENCE, "other"]) | st.text(max_size=5)
LISTED = TEXTS | st.lists(TEXTS, max_size=3)
ODD = st.none() | st.booleans() | st.integers() | st.floats() | LISTED | st.dictionaries(TEXTS, TEXTS)
TIMES = st.sampled_from([NOW - LEEWAY - 1, NOW - LEEWAY, NOW, NOW + LEEWAY, NOW + LEEWAY + 1, NOW + 60])
CLAIMS = st.fixed_dictionaries(
    {},
    optional={
        "sub": LISTED | ODD,
        "aud": st.just(AUDIENCE) | LISTED | ODD,
        "exp": TIMES | ODD,
        "nbf": TIMES | ODD,
        "agent_prefix": LISTED | ODD,
        "iss": ODD,
    },
)
SIGNERS = st.sampled_from(["secret", "other secret", "ec", "ed", "none"])
HEADERS = st.fixed_dictionaries(
    {}, optional={"alg": ODD | st.sampled_from(["none", "HS256", "RS256", "ES256"]), "kid": ODD, "crit": ODD}
)

JWKS = st.fixed_dictionaries(
    {},
    optional={
        "kty": st.sampled_from(["RSA", "EC", "OKP", "oct"]) | ODD,
        "crv": st.sampled_from(["P-256", "Ed25519"]) | ODD,
        "alg": st.sampled_from(["RS256", "ES256", "EdDSA", "HS256"]) | ODD,
        **{name: st.sampled_from(["AQAB", "AA", "!"]) | ODD for name in ("n", "e", "x", "y", "d")},
        **dict.fromkeys(("kid", "use"), ODD),
    },
)


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> IdentityCheck:
    """A learner that requires tokens, by a secret and two public keys."""
    folder: Path = tmp_path_factory.mktemp("keys")
    keys = folder / "jwks"
    keys.write_bytes(jwks(*(issuer.jwk for issuer in ISSUERS)))
    files = {secret_file(folder): keys_of_secrets, keys: keys_of_jwks}
    settings = IdentitySettings(required=True, files=files, audience=AUDIENCE)
    return IdentityCheck(settings, Instruments().requests.identity, ManualClock())


def signed(signer: str, claims: dict[str, Any]) -> str:
    """A token with exactly these claims."""
    text = json.dumps(claims).encode()
    match signer:
        case "secret":
            return secret_token(SECRET, text=text)
        case "other secret":
            return secret_token(SECRET[::-1], text=text)
        case "none":
            return unsigned({"alg": "none"}, text)
        case _:
            return next(issuer for issuer in ISSUERS if issuer.key_id == signer).token(text=text)


def listed(value: Any) -> list[str] | None:
    """A claim's texts; None if it is of another type."""
    if isinstance(value, str):
        return [value]
    is_list = isinstance(value, list) and all(isinstance(item, str) for item in value)
    return value if is_list else None


def number(value: Any) -> float | None:
    """A claim's number; None if it is none that is finite."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def decision(signer: str, claims: dict[str, Any], agent: str) -> str:
    """What the contract says of a token, by the words of docs/security.md."""
    subjects, prefixes = listed(claims.get("sub", [])), listed(claims.get("agent_prefix", []))
    audience, expires, begins = (
        listed(claims.get("aud")),
        number(claims.get("exp")),
        number(claims.get("nbf", 0)),
    )
    issuer = claims.get("iss")
    if signer in {"none", "other secret"} or None in (subjects, prefixes, audience, expires, begins):
        return "UNAUTHENTICATED"
    assert subjects is not None
    assert prefixes is not None
    assert audience is not None
    assert expires is not None
    assert begins is not None
    in_time = begins - LEEWAY <= NOW < expires + LEEWAY
    if (
        not in_time
        or AUDIENCE not in audience
        or "" in prefixes
        or not (issuer is None or isinstance(issuer, str))
    ):
        return "UNAUTHENTICATED"
    covered = agent in subjects or any(each in {"*", agent[: len(each)]} for each in prefixes)
    return "OK" if covered else "FORBIDDEN"


def result(check: IdentityCheck, headers: list[tuple[str, bytes]], agent: str) -> str:
    """What the check says; any other error than a refusal fails the test."""
    try:
        check.check(headers, agent)
    except RequestError as error:
        return error.code
    return "OK"


@FUZZ
@given(SIGNERS, CLAIMS, st.sampled_from(AGENTS))
def test_any_claims_are_decided_as_the_documents_say(
    check: IdentityCheck, signer: str, claims: dict[str, Any], agent: str
) -> None:
    """Signed by a known key or not, with claims of any type, once from the signature and once remembered."""
    headers = [("authorization", f"Bearer {signed(signer, claims)}".encode())]

    assert [result(check, headers, agent) for _ in range(2)] == [decision(signer, claims, agent)] * 2


@FUZZ
@given(HEADERS, st.binary(max_size=60), st.binary(max_size=70))
def test_no_header_makes_an_unsigned_token_count(
    check: IdentityCheck, header: dict[str, Any], body: bytes, signature: bytes
) -> None:
    """Any algorithm and key id, with any body and signature."""
    value = f"Bearer {unsigned(header, body, signature)}".encode()

    assert result(check, [("authorization", value)], "ann") == "UNAUTHENTICATED"


@FUZZ
@given(st.binary(max_size=200) | st.none(), st.booleans())
def test_any_bytes_are_refused(check: IdentityCheck, value: Any, named: bool) -> None:
    """Whatever the header holds, as it is or after `Bearer`."""
    content = b"Bearer " + (value or b"") if named else value

    assert result(check, [("authorization", content)], "ann") == "UNAUTHENTICATED"


@FUZZ
@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_token_with_one_byte_changed_is_refused(check: IdentityCheck, place: int, change: int) -> None:
    """Wherever it is: even the bits of a signature's last letter that mean nothing have to be zero."""
    good = secret_token(SECRET).encode()
    at = place % len(good)
    changed = good[:at] + bytes([good[at] ^ change]) + good[at + 1 :]

    assert result(check, [("authorization", b"Bearer " + changed)], "ann") == "UNAUTHENTICATED"


@FUZZ
@given(
    st.binary(max_size=300)
    | st.recursive(ODD, lambda inner: st.dictionaries(TEXTS, inner)).map(str).map(str.encode)
)
def test_any_file_is_a_file_of_keys_or_is_refused(content: bytes) -> None:
    """No content raises anything but the error that says what is wrong."""
    for reader in (keys_of_jwks, keys_of_secrets):
        with contextlib.suppress(ConfigurationError):
            assert reader(content)
