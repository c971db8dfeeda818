"""Who may look at insights: a server with the real rules, asked in every way."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from pydantic import SecretStr

from learner_worker.errors import ConfigurationError
from learner_worker.insights.access import Access

TOKEN = SecretStr("sesame")
EVERYWHERE = str(IPv4Address(0))


@asynccontextmanager
async def server(access: Access) -> AsyncIterator[tuple[str, ClientSession]]:
    """A server that answers everything with 200, behind the rules."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response()

    app = web.Application(middlewares=[access.middleware])
    app.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(app, host="127.0.0.1") as started, ClientSession() as session:
        yield str(started.make_url("/")), session


@pytest.mark.parametrize("host", [EVERYWHERE, "192.0.2.7", "learner.example", ""])
def test_other_machines_may_look_only_with_a_token_or_when_that_is_said(host: str) -> None:
    """The refusal names both ways out."""
    with pytest.raises(ConfigurationError, match=r"LEARNER_INSIGHTS_TOKEN.*--allow-anyone"):
        Access(host).require_safe()
    Access(host, TOKEN).require_safe()
    Access(host, anyone=True).require_safe()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "localhost"])
def test_this_machine_needs_no_token(host: str) -> None:
    """The addresses that no other machine reaches."""
    Access(host).require_safe()


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("", 401),
        ("Bearer sesame", 200),
        ("bearer sesame", 200),
        ("Bearer sesam", 401),
        ("Bearer ", 401),
        ("Basic YW55Ym9keTpzZXNhbWU=", 200),  # anybody:sesame
        ("Basic YW55Ym9keTpvdGhlcg==", 401),
        ("Basic not base64", 401),
        ("Basic /w==", 401),
        ("Digest sesame", 401),
    ],
)
async def test_a_token_is_asked_of_everyone_but_probes(authorization: str, status: int) -> None:
    """As bearer, or as the password of any user."""
    headers = {"Authorization": authorization} if authorization else {}
    async with server(Access(EVERYWHERE, TOKEN)) as (url, session):
        async with session.get(url, headers=headers) as answer:
            assert answer.status == status
            assert ("WWW-Authenticate" in answer.headers) == (status == 401)
        async with session.get(f"{url}healthz") as answer:
            assert answer.status == 200


@pytest.mark.parametrize(
    ("host", "status"), [("localhost:1", 200), ("127.0.0.1", 200), ("[::1]:9", 200), ("evil.example", 403)]
)
async def test_without_a_token_only_addresses_of_this_machine_are_answered(host: str, status: int) -> None:
    """Another site's name that points here is refused: its pages could read the answers."""
    async with server(Access()) as (url, session), session.get(url, headers={"Host": host}) as answer:
        assert answer.status == status


@pytest.mark.parametrize(("site", "status"), [("same-origin", 200), ("none", 200), ("cross-site", 403)])
async def test_other_sites_pages_send_nothing(site: str, status: int) -> None:
    """A browser says from where a form comes."""
    headers = {"Sec-Fetch-Site": site}
    async with server(Access()) as (url, session), session.post(url, headers=headers) as answer:
        assert answer.status == status
