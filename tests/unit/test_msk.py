"""Tokens for AWS MSK with IAM: what they say, who signs them, and what is said where they cannot be made."""

import base64
import hashlib
import hmac
import sys
from collections.abc import Iterator
from urllib.parse import parse_qsl, quote, urlsplit

import pytest
from aiokafka.errors import SaslAuthenticationFailed

from learner_worker.credentials import msk
from learner_worker.credentials.oauth import OwnTokens, token_function
from learner_worker.errors import ConfigurationError

NAME = "learner_worker.credentials.msk:token"
REGION, KEY_ID, KEY, SESSION = "eu-west-1", "AKIDEXAMPLE", "secret-part", "session/part"
NOT_SIGNED = {"X-Amz-Signature", "User-Agent"}


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine that has nothing of AWS but what the environment says."""
    for name, value in {
        "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": KEY_ID,
        "AWS_SECRET_ACCESS_KEY": KEY,
        "AWS_SESSION_TOKEN": SESSION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    msk.shared_credentials.cache_clear()
    yield
    msk.shared_credentials.cache_clear()


def signature(asked: dict[str, str], host: str) -> str:
    """AWS's Signature Version 4 of a request without a body, step by step as AWS documents it."""
    day, region, service, end = asked["X-Amz-Credential"].split("/")[1:]
    query = "&".join(f"{quote(name, safe='')}={quote(asked[name], safe='')}" for name in sorted(asked))
    request = f"GET\n/\n{query}\nhost:{host}\n\nhost\n{hashlib.sha256(b'').hexdigest()}"
    hashed = hashlib.sha256(request.encode()).hexdigest()
    signed = f"AWS4-HMAC-SHA256\n{asked['X-Amz-Date']}\n{day}/{region}/{service}/{end}\n{hashed}"
    key = f"AWS4{KEY}".encode()
    for part in (day, region, service, end, signed):
        key = hmac.digest(key, part.encode(), "sha256")
    return key.hex()


async def test_a_token_is_a_signed_request_to_connect() -> None:
    """An address of MSK's, base64url without padding, which the key's owner has signed for 15 minutes."""
    brought = await OwnTokens(token_function(NAME)).token()

    address = urlsplit(base64.urlsafe_b64decode(brought + "=" * (-len(brought) % 4)).decode())
    said = dict(parse_qsl(address.query, strict_parsing=True))
    signed = {name: value for name, value in said.items() if name not in NOT_SIGNED}
    assert "=" not in brought
    assert (address.scheme, address.netloc, address.path) == ("https", f"kafka.{REGION}.amazonaws.com", "/")
    assert signed == {
        "Action": "kafka-cluster:Connect",
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{KEY_ID}/{said['X-Amz-Date'][:8]}/{REGION}/kafka-cluster/aws4_request",
        "X-Amz-Date": said["X-Amz-Date"],
        "X-Amz-Expires": "900",
        "X-Amz-SignedHeaders": "host",
        "X-Amz-Security-Token": SESSION,
    }
    assert said["X-Amz-Signature"] == signature(signed, address.netloc)
    assert KEY not in str(said)


@pytest.mark.parametrize(
    ("lacking", "words"), [("AWS_REGION", "set AWS_REGION"), ("AWS_ACCESS_KEY_ID", "give it an IAM role")]
)
async def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, lacking: str, words: str) -> None:
    """A refusal that says what to set, and nothing of the credentials."""
    monkeypatch.delenv(lacking)
    with pytest.raises(SaslAuthenticationFailed, match=words) as refused:
        await OwnTokens(token_function(NAME)).token()
    assert "part" not in str(refused.value)


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS's library is heavy, so it is not there unless it is asked for."""
    monkeypatch.delitem(sys.modules, msk.__name__)
    monkeypatch.setitem(sys.modules, "aws_msk_iam_sasl_signer", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'learner-worker\[msk\]'"):
        token_function(NAME)
