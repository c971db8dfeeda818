"""Every way to log in at Kafka: the worker, both kinds of clients and the commands, and what is renewed."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from aiohttp import web

from learner_worker import BlockingLearnerClient, EventPublisher, LearnerClient
from learner_worker.brokers import BrokerKind
from learner_worker.contract.topics import Topics
from learner_worker.settings import load_settings
from tests.support import forked
from tests.support.certificates import Authority
from tests.support.logins import PASSWORD, USER, GuardedKafka, guarded_kafka
from tests.support.tokens import unsigned
from tests.support.workers import WorkerProcess, create_topics, running_worker, until

SECONDS = 30.0  # for an answer: far above what one takes, on a busy machine
CLIENTS = Authority("clients")
Settings = dict[str, str]


@pytest.fixture(scope="module")
def guarded(
    tmp_path_factory: pytest.TempPathFactory, broker_kinds: frozenset[BrokerKind]
) -> Iterator[GuardedKafka]:
    """One Apache Kafka that takes every kind of login."""
    if BrokerKind.KAFKA not in broker_kinds:
        pytest.skip("Apache Kafka by Maven and Java is not among the brokers of this run")
    folder = tmp_path_factory.mktemp("guarded")
    with guarded_kafka(folder, CLIENTS) as kafka:
        kafka.set_password(PASSWORD, folder)
        yield kafka


@asynccontextmanager
async def token_url(folder: Path) -> AsyncIterator[Settings]:
    """The settings of a login by tokens of a URL, as of an identity provider."""

    async def give(_: web.Request) -> web.Response:
        claims = {"sub": USER, "iat": time.time(), "exp": time.time() + 600}
        token = unsigned({"alg": "none"}, json.dumps(claims).encode())
        return web.json_response({"access_token": token, "expires_in": 600})

    app = web.Application()
    app.router.add_post("/token", give)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    secret = folder / "client-secret"
    secret.write_text(PASSWORD)
    try:
        yield {
            "sasl_mechanism": "OAUTHBEARER",
            "sasl_oauth_token_url": f"http://127.0.0.1:{runner.addresses[0][1]}/token",
            "sasl_oauth_client_id": USER,
            "sasl_oauth_client_secret_file": str(secret),
        }
    finally:
        await runner.cleanup()


def by_certificate(kafka: GuardedKafka, folder: Path) -> Settings:
    """The settings of a login by a certificate, which is written."""
    certificate, key = folder / "client.pem", folder / "client.key"
    CLIENTS.issue(USER, certificate, key)
    return {
        "bootstrap_servers": kafka.mutual,
        "security_protocol": "SSL",
        "ssl_cafile": str(kafka.ca),
        "ssl_certfile": str(certificate),
        "ssl_keyfile": str(key),
    }


def by_password(kafka: GuardedKafka, folder: Path, mechanism: str) -> Settings:
    """The settings of a login by a password in a file, which is written."""
    password = folder / "password"
    password.write_text(f"{PASSWORD}\n")
    return {
        "bootstrap_servers": kafka.sasl,
        "security_protocol": "SASL_SSL",
        "ssl_cafile": str(kafka.ca),
        "sasl_mechanism": mechanism,
        "sasl_username": USER,
        "sasl_password_file": str(password),
    }


@asynccontextmanager
async def way_in(way: str, kafka: GuardedKafka, folder: Path) -> AsyncIterator[Settings]:
    """The settings of one way to log in."""
    match way:
        case "TLS":
            yield {
                "bootstrap_servers": kafka.tls,
                "security_protocol": "SSL",
                "ssl_cafile": str(kafka.ca),
            }
        case "mTLS":
            yield by_certificate(kafka, folder)
        case "OAUTHBEARER":
            async with token_url(folder) as login:
                rest = {"security_protocol": "SASL_SSL", "ssl_cafile": str(kafka.ca)}
                yield {"bootstrap_servers": kafka.sasl, **rest, **login}
        case _:
            yield by_password(kafka, folder, way)


@asynccontextmanager
async def worker_of(settings: Settings, prefix: str, state_dir: Path) -> AsyncIterator[WorkerProcess]:
    """A worker with these settings."""
    named = {f"--{name.replace('_', '-')}": value for name, value in settings.items()}
    servers = named.pop("--bootstrap-servers")
    async with running_worker(servers, prefix, state_dir, settings=named) as worker:
        yield worker
        assert await worker.stop() == 0


async def publishes_and_asks(settings: Settings, prefix: str, task: str) -> None:
    """An auction is published; both kinds of clients ask."""
    connection = load_settings(settings).connection()
    options = {name: value for name, value in connection.options().items() if not name.startswith("boot")}
    options.pop("client_id")
    servers, topics = settings["bootstrap_servers"], Topics(prefix=prefix)

    def ask_blocking() -> None:
        with BlockingLearnerClient(
            servers, topics=topics, kafka_options=options, timeout_seconds=SECONDS
        ) as learner:
            learner.suggest_bid("ann", description="d", base_bid_sats=5)

    async with EventPublisher(servers, topics=topics, kafka_options=options) as events:
        await (await events.bid_placed(task, "ann", bid_sats=5, description="d"))
        await (await events.auction_closed(task, winner_agent_id="ann", winning_bid_sats=5))
    async with LearnerClient(
        servers, topics=topics, kafka_options=options, timeout_seconds=SECONDS
    ) as learner:
        await learner.suggest_bid("ann", description="d", base_bid_sats=5)
    await asyncio.to_thread(ask_blocking)


@pytest.mark.parametrize("way", ["TLS", "mTLS", "PLAIN", "SCRAM-SHA-512", "OAUTHBEARER"])
async def test_every_way_to_log_in_works_for_all(
    way: str, guarded: GuardedKafka, prefix: str, tmp_path: Path
) -> None:
    """The worker, the publisher, both clients, and commands that read and write."""
    await create_topics(guarded.open, prefix)
    async with (
        way_in(way, guarded, tmp_path) as settings,
        worker_of(settings, prefix, tmp_path / "s") as worker,
    ):
        await publishes_and_asks(settings, prefix, "t-1")

        async def learned() -> bool:
            return await worker.metric("learner_outcomes_total") >= 1

        await until(learned, "the outcome is learned")
        environment = {f"LEARNER_{name.upper()}": value for name, value in settings.items()}
        environment |= {"LEARNER_TOPIC_PREFIX": prefix, "LEARNER_GROUP_ID": f"{prefix}learner"}
        for arguments in (
            ("topics", "check"),
            ("suggest", "ann", "--description", "d", "--base", "5", "--timeout", str(SECONDS)),
            ("outcomes", "list", "ann"),
            ("dead-letters", "list"),
            ("forget", "bob", "--yes", "--wait", "0"),
        ):
            code, out, err = await asyncio.to_thread(
                partial(forked.run, *arguments, environment=environment, folder=tmp_path)
            )
            assert code == 0, (arguments, out, err)


async def test_a_certificate_and_a_password_change_while_workers_run(
    guarded: GuardedKafka, prefix: str, tmp_path: Path
) -> None:
    """Kafka takes the old ones no more, and ends every connection: no restart, and nothing is lost."""
    await create_topics(guarded.open, prefix)
    folders = [tmp_path / name for name in ("certificate", "password")]
    for folder in folders:
        folder.mkdir()
    certificate = by_certificate(guarded, folders[0])
    password = by_password(guarded, folders[1], "SCRAM-SHA-512")
    async with (
        worker_of(certificate, prefix, folders[0] / "s") as first,
        worker_of(password, prefix, folders[1] / "s") as second,
    ):
        await publishes_and_asks(password, prefix, "before")
        new, changed = Authority("new"), f"{PASSWORD}-new"
        guarded.trusted.write_bytes(new.pem)
        new.issue(USER, Path(certificate["ssl_certfile"]), Path(certificate["ssl_keyfile"]))
        await asyncio.to_thread(guarded.set_password, changed, tmp_path)
        (folders[1] / "password").write_text(changed)
        await asyncio.to_thread(guarded.restart)

        await publishes_and_asks(password, prefix, "after")
        await publishes_and_asks(certificate, prefix, "last")

        async def learned() -> bool:
            counts = [await each.metric("learner_outcomes_total") for each in (first, second)]
            return sum(counts) >= 3

        await until(learned, "all three outcomes are learned", seconds=180)
        await asyncio.gather(first.ready(120), second.ready(120))
        assert first.logged("credentials.changed")
        assert second.logged("credentials.changed")
