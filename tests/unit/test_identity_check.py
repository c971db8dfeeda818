"""Requests with and without tokens: what is answered, what is refused, what is counted."""

import json
from pathlib import Path
from typing import Any

import pytest

from learner_worker.identity.keys import keys_of_secrets
from learner_worker.requests.identity import IdentitySettings
from tests.support.requests import REQUEST, OpenShard, Requests
from tests.support.tokens import AUDIENCE, bearer, secret_file, secret_token

OTHER = REQUEST.replace(b'"ann"', b'"bob"')
CONVENTIONS: dict[str, list[tuple[str, bytes]]] = {
    "plain": [("correlation_id", b"1")],
    "spring": [("kafka_correlationId", b"\x00\xff")],
    "smallrye": [("REPLY_CORRELATION_ID", b"1")],
}


def requests(folder: Path, *, required: bool = True) -> Requests:
    return Requests(
        OpenShard(),
        identity=IdentitySettings(
            required=required, files={secret_file(folder): keys_of_secrets}, audience=AUDIENCE
        ),
    )


def code(replies: list[dict[str, Any]]) -> str:
    (reply,) = replies
    return str(reply["error"]["code"]) if "error" in reply else "OK"


def counted(asked: Requests) -> dict[str, float]:
    """The results that were counted, each with its number."""
    (metric,) = asked.instruments.requests.identity.collect()
    return {
        sample.labels["result"]: sample.value for sample in metric.samples if sample.name.endswith("_total")
    }


@pytest.mark.parametrize("convention", CONVENTIONS.values(), ids=CONVENTIONS)
async def test_a_request_has_to_prove_who_asks(convention: list[tuple[str, bytes]], tmp_path: Path) -> None:
    """One's own id is answered; another's is FORBIDDEN; no, a wrong and an oversized token are refused."""
    asked = requests(tmp_path)
    good = bearer(secret_token())

    async def ask(value: bytes, headers: list[tuple[str, bytes]]) -> str:
        return code(await asked.ask(value, convention + headers))

    assert await ask(REQUEST, good) == "OK"
    assert await ask(OTHER, good) == "FORBIDDEN"
    assert await ask(REQUEST, []) == "UNAUTHENTICATED"
    assert await ask(REQUEST, [("authorization", b"Basic YW5uOnB3")]) == "UNAUTHENTICATED"
    assert await ask(REQUEST, bearer(b"x" * 100_000)) == "UNAUTHENTICATED"
    assert await ask(REQUEST, bearer(secret_token(exp=1))) == "UNAUTHENTICATED"
    assert await ask(REQUEST, [("authorization", b"bearer  " + secret_token().encode())]) == "OK"
    assert await ask(REQUEST, [*bearer("not this one"), *good]) == "OK"
    assert counted(asked) == {
        "ok": 3,
        "forbidden": 1,
        "missing": 1,
        "malformed": 1,
        "too-large": 1,
        "expired": 1,
    }


async def test_observe_answers_and_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every request is answered; the counter and a log line a second say who would be refused."""
    asked = requests(tmp_path, required=False)

    assert code(await asked.ask()) == "OK"
    assert code(await asked.ask(OTHER, bearer(secret_token()))) == "OK"
    asked.clock.advance(1)
    assert code(await asked.ask()) == "OK"
    assert counted(asked) == {"missing": 2, "forbidden": 1}
    assert capsys.readouterr().out.count("identity.would_refuse") == 2


async def test_an_error_and_the_log_never_show_a_token(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither a refused token nor an accepted one, whole or in part."""
    asked = requests(tmp_path)
    tokens = [secret_token(), secret_token(aud="another"), secret_token(b"a secret that this learner lacks")]
    replies: list[Any] = []
    for token in tokens:
        asked.clock.advance(1)
        replies += await asked.ask(OTHER, bearer(token))
    shown = json.dumps(replies) + "".join(capsys.readouterr())

    assert len(replies) == len(tokens)
    assert [part for token in tokens for part in token.split(".") if part in shown] == []


async def test_without_identity_a_token_is_not_looked_at() -> None:
    """Whatever the header holds, the request is answered, and nothing is counted."""
    asked = Requests(OpenShard())

    assert code(await asked.ask(OTHER, bearer(b"\xff"))) == "OK"
    assert counted(asked) == {}
