"""Every way to log in at Kafka: the worker, both kinds of clients and the commands, and what is renewed.

With `-rP` or `-s` the test prints its table: what was done, by which way to log in.
"""

import asyncio
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from learner_worker import BlockingLearnerClient, EventPublisher, LearnerClient
from learner_worker.brokers import BrokerKind
from learner_worker.contract.topics import TopicNames, Topics
from learner_worker.credentials.login import Login, OAuthLogin, token_provider
from learner_worker.errors import SuggestionError
from learner_worker.kafka.connection import Connection
from learner_worker.kafka.partitioner import partitioner
from learner_worker.refusals.denials import CORRECT_TOKENS
from learner_worker.refusals.diagnosis import addresses_of, login_problem
from learner_worker.settings import load_settings
from tests.support import forked
from tests.support.certificates import Authority
from tests.support.commands import (
    AFTER_IT,
    AGENT,
    BESIDE_A_WORKER,
    COMMANDS,
    SECONDS,
    Caller,
    commands_of_kafka,
    problem,
    send_dead_letters,
    write_swarm_file,
)
from tests.support.logins import PASSWORD, USER, GuardedKafka, guarded_kafka, unsecured_token
from tests.support.workers import (
    WorkerProcess,
    create_topics,
    latest_metrics,
    running_worker,
    until,
)

WAYS = ("TLS", "mTLS", "PLAIN", "SCRAM-SHA-512", "OAUTHBEARER")
CLIENTS = Authority("clients")
BUSY_SECONDS = 180.0  # for what takes seconds, on a machine whose processors all are busy
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
        return web.json_response({"access_token": unsecured_token(), "expires_in": 600})

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


@dataclass
class Way:
    """One way to log in, with a worker, an agent on a shard of its own, and somebody who runs commands."""

    name: str
    settings: Settings
    prefix: str
    caller: Caller
    worker: WorkerProcess

    @property
    def agent(self) -> str:
        """An agent of the shard with the way's number."""
        names = (f"{AGENT}-{number}" for number in range(1_000))
        return next(name for name in names if partitioner(len(WAYS))(name) == self.caller.number)

    def client(self) -> dict[str, Any]:
        """What both kinds of clients and the publisher are made with."""
        options = load_settings(self.settings).connection().options()
        left_out = {"bootstrap_servers", "client_id"}
        kafka_options = {name: value for name, value in options.items() if name not in left_out}
        return {"topics": Topics(prefix=self.prefix), "kafka_options": kafka_options}

    async def publish(self, task: str) -> None:
        """Publishes an auction that both agents bid in."""
        task = f"{task}-{self.caller.number}"
        async with EventPublisher(self.settings["bootstrap_servers"], **self.client()) as events:
            for agent in (self.agent, AGENT):
                await (await events.bid_placed(task, agent, bid_sats=5, description="d"))
            await (await events.auction_closed(task, winner_agent_id=self.agent, winning_bid_sats=5))

    async def ask(self) -> None:
        """Asks for the way's agent, on its task."""
        async with LearnerClient(
            self.settings["bootstrap_servers"], **self.client(), timeout_seconds=SECONDS
        ) as learner:
            task = f"first-{self.caller.number}"
            await learner.suggest_bid(self.agent, description="d", base_bid_sats=5, task_id=task)

    async def ask_blocking(self) -> None:
        """Asks by the blocking client."""

        def ask() -> None:
            with BlockingLearnerClient(
                self.settings["bootstrap_servers"], **self.client(), timeout_seconds=SECONDS
            ) as learner:
                learner.suggest_bid(self.agent, description="d", base_bid_sats=5)

        await asyncio.to_thread(ask)


@dataclass
class Table:
    """What went wrong, by what was done and the way to log in; empty texts are what is wanted."""

    ways: list[Way]
    cells: dict[str, list[str]]

    async def do(self, row: str, action: Callable[[Way], Awaitable[object]]) -> None:
        """Does something by all ways at once."""
        ended = await asyncio.gather(*map(action, self.ways), return_exceptions=True)
        self.cells[row] = [repr(each) if isinstance(each, BaseException) else "" for each in ended]

    async def command(self, name: str) -> None:
        """Runs a command by all ways at once."""
        calls = [way.caller.call(name) for way in self.ways]
        ended = await asyncio.to_thread(forked.run_all, calls)
        self.cells[name] = [problem(name, each) for each in ended]

    def __str__(self) -> str:
        lines = [("", *(way.name for way in self.ways))]
        lines += [(row, *("FAILED" if each else "ok" for each in cells)) for row, cells in self.cells.items()]
        return "\n".join(f"{row:20}" + "".join(f"{each:>15}" for each in cells) for row, *cells in lines)

    def problems(self) -> list[tuple[str, str, str]]:
        """Every cell that is not as wanted."""
        return [
            (row, way.name, each)
            for row, cells in self.cells.items()
            for way, each in zip(self.ways, cells, strict=True)
            if each
        ]


@asynccontextmanager
async def all_ways(kafka: GuardedKafka, prefix: str, folder: Path) -> AsyncIterator[list[Way]]:
    """A worker for each way to log in: one group, one shard each."""
    async with AsyncExitStack() as stack:
        ways = []
        for number, name in enumerate(WAYS):
            own = folder / name
            own.mkdir()
            write_swarm_file(own)
            settings = await stack.enter_async_context(way_in(name, kafka, own))
            worker_settings = {
                **settings,
                "topic_prefix": prefix,
                "group_id": f"{prefix}learner",
                "state_dir": str(own / "state"),
                "group_instance_id": name,
                "session_timeout_seconds": "300",  # it is a member until `leave`, on a busy machine, too
                "advice_log": "true",
            }
            worker = await stack.enter_async_context(worker_of(worker_settings, own / "state"))
            environment = {f"LEARNER_{key.upper()}": value for key, value in of_commands(worker_settings)}
            ways.append(Way(name, settings, prefix, Caller(number, environment, own), worker))
        yield ways


def of_commands(settings: Settings) -> Iterator[tuple[str, str]]:
    """The settings of commands: those of the worker, but that a function brings tokens, not a URL."""
    by_token = "sasl_oauth_token_url" in settings
    yield from ((name, value) for name, value in settings.items() if "oauth" not in name)
    if by_token:
        yield "sasl_oauth_provider", f"{unsecured_token.__module__}:{unsecured_token.__name__}"


def worker_of(settings: Mapping[str, str], state_dir: Path) -> Any:
    """A worker with these settings, which may not be ready."""
    named = {f"--{name.replace('_', '-')}": value for name, value in settings.items()}
    servers, prefix = named.pop("--bootstrap-servers"), named.pop("--topic-prefix")
    return running_worker(servers, prefix, state_dir, settings=named, wait=False)


@pytest.mark.timeout(600)  # five workers and some ninety commands on few cores
async def test_every_way_to_log_in_works_for_all(guarded: GuardedKafka, prefix: str, tmp_path: Path) -> None:
    """Workers, publishers, both kinds of clients, every command; then what they log in with is replaced.

    Kafka takes the old certificate and password no more, and ends every connection: nobody restarts, and
    nothing is lost.
    """
    assert COMMANDS.keys() == commands_of_kafka()
    names = await create_topics(guarded.open, prefix, partitions=len(WAYS), advice_log=True)
    async with all_ways(guarded, prefix, tmp_path) as ways:
        table = Table(ways, {})
        await table.do("run", own_a_shard)
        await table.do("publish", lambda way: way.publish("first"))
        await table.do("ask", lambda way: way.ask())
        await table.do("ask, blocking", lambda way: way.ask_blocking())
        dead_letters = await send_dead_letters(guarded.open, names, len(WAYS), len(ways))
        known, busy = len(ways), BUSY_SECONDS
        await until(lambda: bids_known(guarded, names, known), "the first auctions are learned", seconds=busy)
        await until(lambda: set_aside(ways, dead_letters), "the dead letters are written", seconds=busy)
        for name in BESIDE_A_WORKER:
            await table.command(name)
        await asyncio.to_thread(replace_logins, guarded, ways, tmp_path)
        await table.do("publish again", lambda way: way.publish("again"))
        await table.do("ask again", asks_again)
        await table.do("run on", lambda way: way.worker.ready(BUSY_SECONDS))
        bids = 2 * len(ways) + 1  # the last one is that of `import`
        await until(lambda: bids_known(guarded, names, bids), "everything is learned", seconds=BUSY_SECONDS)
        await table.do("stop", stops)
        for name in ("leave", *AFTER_IT):
            await table.command(name)
    metrics = await latest_metrics(guarded.open, names)
    sys.stdout.write(f"{table}\n")
    assert table.problems() == []
    won = {way.agent: (2, 2) for way in ways}  # before and after the logins were replaced
    found = {agent: (each["total_bids"], each["auctions_won"]) for agent, each in metrics.items()}
    assert found == {AGENT: (bids, 1), **won}
    assert [way.name for way in ways if way.worker.logged("credentials.changed")] == ["mTLS", "SCRAM-SHA-512"]


async def test_a_token_that_kafka_refuses_is_no_outage(guarded: GuardedKafka) -> None:
    """Its refusal is named with Kafka's answer and the remedy, not as a connection that was lost."""
    login = Login(mechanism="OAUTHBEARER", oauth=OAuthLogin(provider=f"{__name__}:token_of_the_future"))
    connection = Connection(
        guarded.sasl,
        security_protocol="SASL_SSL",
        ssl_context=ssl.create_default_context(cafile=guarded.ca),
        sasl_mechanism="OAUTHBEARER",
        sasl_oauth_token_provider=token_provider(login),
    )
    [address] = addresses_of(guarded.sasl)
    refused = await login_problem(connection.options(), *address)
    assert refused is not None
    assert (refused.what, refused.remedy) == (
        'Kafka refuses the login by a token: Kafka answers {"status":"invalid_token"}',
        CORRECT_TOKENS,
    )


def token_of_the_future() -> str:
    """A token that no Kafka takes yet."""
    return unsecured_token(issued_ago=-300.0)


async def own_a_shard(way: Way) -> None:
    """Waits until the worker owns the one that is its share."""

    async def owns() -> bool:
        return await way.worker.metric("learner_shards") == 1

    await way.worker.ready(BUSY_SECONDS)
    await until(owns, "it owns its share", seconds=BUSY_SECONDS)


async def bids_known(guarded: GuardedKafka, names: TopicNames, bids: int) -> bool:
    """Whether the metrics of the agent that bids for everybody know so many bids."""
    record = (await latest_metrics(guarded.open, names)).get(AGENT, {})
    return bool(record.get("total_bids") == bids)


async def set_aside(ways: list[Way], dead_letters: int) -> bool:
    """Whether so many dead letters are written."""
    counts = [await way.worker.metric("learner_dead_letters_total") for way in ways]
    return sum(counts) >= dead_letters


def replace_logins(guarded: GuardedKafka, ways: list[Way], folder: Path) -> None:
    """Replaces the certificate and the password of SCRAM, at Kafka and for those who log in by them."""
    settings = {way.name: way.settings for way in ways}
    new, changed = Authority("new"), f"{PASSWORD}-new"
    guarded.trusted.write_bytes(new.pem)
    certificate, key = (Path(settings["mTLS"][f"ssl_{name}file"]) for name in ("cert", "key"))
    new.issue(USER, certificate, key)
    guarded.set_password(changed, folder)
    Path(settings["SCRAM-SHA-512"]["sasl_password_file"]).write_text(changed)
    guarded.restart()


async def asks_again(way: Way) -> None:
    """Asks until there is an answer: a request for a worker that is still without Kafka expires."""

    async def is_answered() -> bool:
        try:
            await way.ask()
        except SuggestionError:
            return False
        return True

    await until(is_answered, "it is answered again", seconds=BUSY_SECONDS)


async def stops(way: Way) -> None:
    """Stops the worker, which stays a member: the first one that leaves has the group wait for the others."""
    assert await way.worker.stop() == 0
