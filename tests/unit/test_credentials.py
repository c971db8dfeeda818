"""Certificates, passwords and tokens: read again when their files change, never shown."""

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from aiohttp import web
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaConnectionError, SaslAuthenticationFailed

from learner_worker.client import OAuthLogin, kafka_options
from learner_worker.credentials.certificates import tls_context
from learner_worker.credentials.oauth import ClientCredentials, OwnTokens, token_function
from learner_worker.credentials.passwords import FilePassword
from learner_worker.errors import ConfigurationError
from learner_worker.refusals.denials import denial
from learner_worker.settings import load_settings
from tests.support.certificates import Authority


@asynccontextmanager
async def tls_server(folder: Path, authority: Authority) -> AsyncIterator[int]:
    """A server that wants its clients' certificates, and answers with the name in them; its port."""
    certificate, key, trusted = folder / "server.pem", folder / "server.key", folder / "clients.pem"
    authority.issue("localhost", certificate, key)
    trusted.write_bytes(authority.pem)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(trusted))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificate, key)

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        subject = writer.get_extra_info("peercert")["subject"]
        writer.write(subject[0][0][1].encode())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def name_seen(port: int, context: ssl.SSLContext) -> str:
    """Whom a server took a new connection for."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname="localhost"
    )
    try:
        return (await reader.read()).decode()
    finally:
        writer.close()


async def test_new_connections_use_the_certificates_of_now(tmp_path: Path) -> None:
    """The own one is replaced, and is broken for a while; then the authority is another."""
    first, second = Authority("first"), Authority("second")
    ca, certificate, key = tmp_path / "ca.pem", tmp_path / "c.pem", tmp_path / "c.key"
    ca.write_bytes(first.pem)
    first.issue("ann", certificate, key)
    context = tls_context(ca, certificate, key)
    async with tls_server(tmp_path, first) as port:
        assert await name_seen(port, context) == "ann"
        first.issue("bob", certificate, key)
        assert await name_seen(port, context) == "bob"
        certificate.write_text("half")
        assert await name_seen(port, context) == "bob"
        certificate.unlink()
        assert await name_seen(port, context) == "bob"
        first.issue("carl", certificate, key)
        assert await name_seen(port, context) == "carl"

        ca.write_bytes(second.pem)
        with pytest.raises(ssl.SSLCertVerificationError):
            await name_seen(port, context)


async def test_every_login_uses_the_password_of_now(tmp_path: Path) -> None:
    """As aiokafka's connections begin a login by PLAIN and by SCRAM; a broken file changes nothing."""
    path = tmp_path / "password"
    path.write_text("first\n")
    password = FilePassword.of(path, "--sasl-password-file")
    assert (password, password.current) == ("first", "first")

    def sent() -> bytes:
        conn = AIOKafkaConnection(
            "localhost", 1, sasl_mechanism="PLAIN", sasl_plain_username="u", sasl_plain_password=password
        )
        first: bytes = conn.authenticator_plain()._step(None)[0]
        conn._sasl_mechanism = "SCRAM-SHA-256"
        assert conn.authenticator_scram()._sasl_plain_password == first.rpartition(b"\0")[2]
        return first

    assert sent() == b"u\0u\0first"
    path.write_text("second")
    assert sent() == b"u\0u\0second"
    path.write_text("")
    assert sent() == b"u\0u\0second"
    path.write_text("third\r\n")
    assert sent() == b"u\0u\0third"


@asynccontextmanager
async def token_server(answers: list[Any]) -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    """A token URL that gives these answers one after the other; and what it was asked."""
    asked: list[dict[str, Any]] = []

    async def give(request: web.Request) -> web.Response:
        asked.append({"login": request.headers["Authorization"], **parse_qs(await request.text())})
        answer = answers.pop(0)
        return web.Response(status=answer) if isinstance(answer, int) else web.json_response(answer)

    app = web.Application()
    app.router.add_post("/token", give)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/token", asked
    finally:
        await runner.cleanup()


async def test_a_token_url_is_asked_once_for_many_logins() -> None:
    """By client credentials with the secret of now; a token is kept for most of its lifetime."""
    secrets = ["second", "first"]
    answers = [{"access_token": "one", "expires_in": 3600}, {"access_token": "two", "expires_in": 0}]
    async with token_server(answers) as (url, asked):
        seconds = [0.0]
        tokens = ClientCredentials(url, "me", secrets.pop, "kafka", now=lambda: seconds[0])

        assert await asyncio.gather(*(tokens.token() for _ in range(5))) == ["one"] * 5
        assert await tokens.token() == "one"
        seconds[0] = 3600.0
        assert await tokens.token() == "two"

    logins = [base64.b64decode(each["login"].removeprefix("Basic ")) for each in asked]
    assert logins == [b"me:first", b"me:second"]
    assert asked[0]["grant_type"] == ["client_credentials"]
    assert asked[0]["scope"] == ["kafka"]


async def test_a_token_url_that_refuses_is_no_outage() -> None:
    """A status or no token is a refusal, which names the settings; no answer is an outage."""
    async with token_server([401, {"token": "x"}]) as (url, _):
        tokens = ClientCredentials(url, "me", lambda: "secret-part", None)
        for words in ("answers 401", "answers without a token"):
            with pytest.raises(SaslAuthenticationFailed, match=words) as refused:
                await tokens.token()
            found = denial(refused.value)
            assert found is not None
            assert "--sasl-oauth-client-secret-file" in found.remedy
    with pytest.raises(KafkaConnectionError, match="cannot be asked") as away:
        await tokens.token()
    assert denial(away.value) is None
    assert "secret-part" not in repr(tokens) + str(away.value)


def own_token() -> str:
    """What `--sasl-oauth-provider` names in a test."""
    return "own"


async def _later() -> str:
    return "later"


def _fails() -> str:
    raise ValueError("secret-part")


async def test_a_function_brings_tokens() -> None:
    """Async or not; one that fails or returns nothing is a refusal that shows nothing of it."""
    assert await OwnTokens(token_function("tests.unit.test_credentials:own_token")).token() == "own"
    assert await OwnTokens(_later).token() == "later"
    for function in (_fails, lambda: ""):
        with pytest.raises(SaslAuthenticationFailed, match="the token function") as refused:
            await OwnTokens(function).token()
        assert "secret-part" not in str(refused.value)
    for name in ("no.such:thing", "tests.unit.test_credentials:nothing", "os:sep", "x"):
        with pytest.raises(ConfigurationError, match=r"package\.module:function"):
            token_function(name)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"sasl_mechanism": "OAUTHBEARER"}, "set --sasl-oauth-token-url"),
        ({"sasl_mechanism": "OAUTHBEARER", "sasl_oauth_token_url": "ftp://x"}, "--sasl-oauth-token-url"),
        ({"sasl_username": "u"}, "or --sasl-password-file"),
    ],
)
def test_an_incomplete_login_is_refused(flags: dict[str, str], words: str) -> None:
    """The sentence says what is missing, for workers, commands and clients."""
    with pytest.raises(ConfigurationError, match=words):
        load_settings({"security_protocol": "SASL_SSL", **flags})


def test_workers_and_clients_log_in_alike(tmp_path: Path) -> None:
    """The same settings give the same options of aiokafka."""
    secret, held, url = tmp_path / "secret", "s3cret", "http://localhost/token"
    secret.write_text(held)
    by_file = {"sasl_username": "u", "sasl_password_file": secret}
    worker = load_settings({"security_protocol": "SASL_PLAINTEXT", **by_file}).connection()
    client = kafka_options(security_protocol="SASL_PLAINTEXT", sasl_username="u", sasl_password_file=secret)
    oauth = kafka_options(
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="OAUTHBEARER",
        oauth=OAuthLogin(token_url=url, client_id="me", client_secret_file=secret),
    )

    assert worker.options()["sasl_plain_password"] == client["sasl_plain_password"] == held
    assert isinstance(worker.options()["sasl_plain_password"], FilePassword)
    assert isinstance(oauth["sasl_oauth_token_provider"], ClientCredentials)
    assert held not in repr(worker) + repr(oauth)
    for missing in ("no-such-file", str(tmp_path / "empty")):
        (tmp_path / "empty").write_text("\n")
        with pytest.raises(ConfigurationError, match="--sasl-password-file"):
            load_settings(
                {"security_protocol": "SASL_SSL", "sasl_username": "u", "sasl_password_file": missing}
            ).connection()
