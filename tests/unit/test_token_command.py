"""The command that issues tokens, and the clients' ways to bring one."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from learner_worker.cli import cli
from learner_worker.client import token_file
from learner_worker.client.tokens import Token, fresh_token, in_a_thread
from learner_worker.errors import ConfigurationError, SuggestionError
from learner_worker.identity.authenticator import Authenticator
from learner_worker.identity.keys import KeySet, keys_of_secrets
from learner_worker.settings import load_settings
from tests.support.tokens import SECRET, secret_file

FAR = 4_000_000_000.0  # in 2096: later than any token that is issued here


def issue(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["token", "issue", *arguments])


def test_a_token_is_issued_and_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the agents and prefixes named, by the first secret; nothing else is printed."""
    secret = secret_file(tmp_path, SECRET, b"an older secret of enough length")
    monkeypatch.setenv("LEARNER_IDENTITY_SECRET_FILE", str(secret))
    issued = issue("ann", "bob", "--prefix", "a-", "--expires", "36500d")
    keys = KeySet(keys_of_secrets(SECRET))

    principal = Authenticator(lambda: keys, audience="learner-worker").principal(
        issued.output.strip().encode(), FAR
    )

    assert issued.exit_code == 0
    assert [each for each in ("ann", "bob", "a-1", "carl") if principal.covers(each)] == ["ann", "bob", "a-1"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("ann",), "make one with `openssl rand -hex 32 > FILE`"),
        (("ann", "--identity-secret-file", "missing"), "missing: cannot be read (No such file"),
        (("--identity-secret-file", "{secret}"), "a token has to be for somebody"),
        (("ann", "--expires", "soon"), "'soon' is no duration"),
        (("ann", "--expires", "0s"), "'0s' is no duration"),
        (("ann", "--expires", "999999d"), "'999999d' is no duration"),
    ],
)
def test_a_token_that_cannot_be_issued_is_refused(
    arguments: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    """The sentence names what is missing."""
    secret = secret_file(tmp_path)
    refused = issue(*(text.format(secret=secret) for text in arguments))

    assert refused.exit_code != 0
    assert words in refused.output + str(refused.exception)


def test_identity_needs_keys() -> None:
    """Without a file of keys nobody could be told apart."""
    with pytest.raises(ConfigurationError, match="--identity require verifies tokens: set --identity-jwks"):
        load_settings({"identity": "require"})


async def test_a_client_brings_a_token_in_every_way(tmp_path: Path) -> None:
    """A text, functions of each kind, a file that is renewed, none."""
    path = tmp_path / "token"
    path.write_text("first\n")
    renewed = token_file(path)

    async def later() -> str:
        return "later"

    assert await fresh_token(None) is None
    assert await fresh_token("text") == "text"
    assert await fresh_token(lambda: "made") == "made"
    assert await fresh_token(later) == "later"
    assert await fresh_token(in_a_thread(lambda: "made")) == "made"
    assert await fresh_token(in_a_thread(later)) == "later"
    assert await fresh_token(renewed) == "first"
    path.write_text("second")
    assert await fresh_token(renewed) == "second"


def fails() -> str:
    raise ValueError("secret-part")


@pytest.mark.parametrize(
    "token",
    [
        "Bearer secret-part",
        "secret-part\nx-injected: 1",
        "",
        "secret-part\u00e4",
        lambda: None,
        lambda: 7,
        fails,
    ],
)
async def test_a_token_that_is_none_is_not_sent_and_not_quoted(token: Any) -> None:
    """Nothing that would break the header; the error does not show it."""
    with pytest.raises(SuggestionError, match="UNAUTHENTICATED") as refused:
        await fresh_token(token)
    assert "secret-part" not in str(refused.value)


async def test_a_token_file_that_is_missing_is_named(tmp_path: Path) -> None:
    """The agent's operator is told which file cannot be read."""
    missing: Token = token_file(tmp_path / "missing")
    with pytest.raises(SuggestionError, match=r"cannot read the token in .*missing"):
        await fresh_token(missing)
