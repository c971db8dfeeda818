"""`doctor` on Apache Kafka with TLS, logins, rights and several brokers: each broken set-up is explained."""

import asyncio
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import NewTopic
from aiokafka.protocol.admin import CreateAclsRequest

from learner_worker.brokers import BrokerKind, KafkaCluster, maven
from learner_worker.brokers.probing import free_ports
from learner_worker.contract.topics import TopicNames, Topics
from learner_worker.doctor import Level, Report
from learner_worker.doctor.kafka import connect
from learner_worker.kafka.connection import Connection
from tests.acceptance.test_refusals import learner_worker
from tests.integration.test_doctor import examined, messages, only
from tests.support.workers import administrator, create_topics, until

PASSWORD = secrets.token_hex(8)
GUESSED = secrets.token_hex(8)
TOPIC, GROUP, LITERAL, ALLOW = 2, 3, 3, 3
READ, WRITE = 3, 4
GUARDED = {
    "listener.security.protocol.map": (
        "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,LOGIN:SASL_PLAINTEXT,TLS:SSL,MUTUAL:SSL,ABROAD:PLAINTEXT"
    ),
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": "User:ANONYMOUS",
    "listener.name.login.sasl.enabled.mechanisms": "PLAIN",
    "listener.name.login.plain.sasl.jaas.config": (
        "org.apache.kafka.common.security.plain.PlainLoginModule required "
        f'user_worker="{PASSWORD}" user_other="{PASSWORD}";'
    ),
    "listener.name.mutual.ssl.client.auth": "required",
    "ssl.keystore.type": "PKCS12",
    "ssl.keystore.password": PASSWORD,
    "ssl.key.password": PASSWORD,
}


@dataclass(frozen=True)
class Guarded:
    """A running broker: `open` takes everybody, who may do everything; the certificate names localhost."""

    open: str
    login: str
    tls: str
    mutual: str
    abroad: str
    certificate: Path


@pytest.fixture(scope="module")
def guarded(
    tmp_path_factory: pytest.TempPathFactory, broker_kinds: frozenset[BrokerKind]
) -> Iterator[Guarded]:
    """One node with a listener of each kind, for all tests of this module."""
    if BrokerKind.KAFKA not in broker_kinds:
        pytest.skip("Apache Kafka by Maven and Java is not among the brokers of this run")
    folder = tmp_path_factory.mktemp("guarded")
    keystore, certificate = key_and_certificate(folder)
    login, tls, mutual, abroad = free_ports(4)
    listeners = {
        "LOGIN": (f"127.0.0.1:{login}", f"127.0.0.1:{login}"),
        "TLS": (f"127.0.0.1:{tls}", f"localhost:{tls}"),
        "MUTUAL": (f"127.0.0.1:{mutual}", f"localhost:{mutual}"),
        "ABROAD": (f"127.0.0.1:{abroad}", "kafka.inside.invalid:9092"),
    }
    properties = {**GUARDED, "ssl.keystore.location": str(keystore)}
    with KafkaCluster(folder / "kafka", properties=properties, listeners=listeners) as kafka:
        yield Guarded(
            kafka.bootstrap_servers,
            f"127.0.0.1:{login}",
            f"localhost:{tls}",
            f"localhost:{mutual}",
            f"127.0.0.1:{abroad}",
            certificate,
        )


def key_and_certificate(folder: Path) -> tuple[Path, Path]:
    """A key for Kafka with its self-signed certificate, and the certificate alone for its clients."""
    keytool = Path(maven.java_program()).resolve().with_name("keytool")
    keystore, certificate = folder / "key.p12", folder / "certificate.pem"
    store = ["-keystore", str(keystore), "-storetype", "PKCS12", "-storepass", PASSWORD, "-alias", "kafka"]
    made = ["-genkeypair", "-keyalg", "RSA", "-keysize", "2048", "-validity", "2", "-dname", "CN=localhost"]
    for arguments in (
        [*made, "-ext", "SAN=dns:localhost", *store],
        ["-exportcert", "-rfc", "-file", str(certificate), *store],
    ):
        subprocess.run([str(keytool), *arguments], check=True, capture_output=True, timeout=60)
    return keystore, certificate


async def allow(address: str, *, resource: int, name: str, operations: list[int]) -> None:
    """Lets user `worker` do something, as an administrator would."""
    host, _, port = address.partition(":")
    conn = await connect(Connection(address), host, int(port))
    try:
        for operation in operations:
            answer = await conn.send(
                CreateAclsRequest(resource, name, LITERAL, "User:worker", "*", operation, ALLOW)
            )
            assert [code for code, _ in answer.creation_responses] == [0]
    finally:
        conn.close()


def as_worker(**changes: Any) -> dict[str, Any]:
    """The settings of somebody who logs in rightly, but for the changes."""
    right = {"security_protocol": "SASL_PLAINTEXT", "sasl_username": "worker", "sasl_password": PASSWORD}
    return {**right, **changes}


async def test_the_open_listener_of_a_right_set_up_has_nothing_to_say(
    guarded: Guarded, prefix: str, tmp_path: Path
) -> None:
    """Topics as `topics create` makes them: no warning, and Kafka says what one may do."""
    await create_topics(guarded.open, prefix)
    report = await examined(tmp_path, guarded.open, prefix)
    assert report.worst == Level.NOTE, report
    assert messages(report, "rights", Level.OK) == [
        "this client may do all that a worker does with 10 topics and its groups"
    ]


# --- how to talk to it ----------------------------------------------------------------------------------


async def test_no_login_where_one_is_wanted(guarded: Guarded, tmp_path: Path) -> None:
    """The broker would only hang up: the error says that it wants a login, and of which kind."""
    report = await examined(tmp_path, guarded.login)
    assert only(report, "listener", Level.ERROR) == f"{guarded.login} wants a login, the settings give none"
    (remedy,) = [finding.remedy for _, finding in report.findings if finding.level == Level.ERROR]
    assert "--security-protocol SASL_PLAINTEXT" in remedy
    assert "it takes PLAIN" in remedy


async def test_a_login_where_there_is_none(guarded: Guarded, tmp_path: Path) -> None:
    """Logging in at a listener without logins: an error."""
    report = await examined(tmp_path, guarded.open, **as_worker())
    assert "knows no logins, the settings want one" in only(report, "listener", Level.ERROR)


async def test_a_wrong_password(guarded: Guarded, tmp_path: Path) -> None:
    """The error names the user and repeats Kafka's words, never the password."""
    report = await examined(tmp_path, guarded.login, **as_worker(sasl_password=GUESSED))
    what = only(report, "login", Level.ERROR)
    assert what.startswith("Kafka refuses user 'worker': Authentication failed")
    assert GUESSED not in str(report)


async def test_a_wrong_mechanism(guarded: Guarded, tmp_path: Path) -> None:
    """The error says which kinds of login the listener takes."""
    report = await examined(tmp_path, guarded.login, **as_worker(sasl_mechanism="SCRAM-SHA-512"))
    assert "does not take logins by SCRAM-SHA-512" in only(report, "listener", Level.ERROR)
    assert "it takes PLAIN" in str(report)


async def test_plaintext_to_a_tls_port(guarded: Guarded, tmp_path: Path) -> None:
    """The error says that the port wants TLS."""
    report = await examined(tmp_path, guarded.tls)
    assert only(report, "listener", Level.ERROR) == f"{guarded.tls} wants TLS, the settings do not"


async def test_tls_to_a_plaintext_port(guarded: Guarded, tmp_path: Path) -> None:
    """The error says that the port does not speak TLS."""
    report = await examined(tmp_path, guarded.open, security_protocol="SSL")
    what = only(report, "listener", Level.ERROR)
    assert what == f"{guarded.open} does not speak TLS, the settings want it"


async def test_certificates_that_do_not_fit(guarded: Guarded, prefix: str, tmp_path: Path) -> None:
    """Not trusted, trusted but of another name, and right: the words of each."""
    await create_topics(guarded.open, prefix)
    unknown = await examined(tmp_path, guarded.tls, prefix, security_protocol="SSL")
    assert "self-signed certificate" in only(unknown, "listener", Level.ERROR)
    trusting = {"security_protocol": "SSL", "ssl_cafile": guarded.certificate}
    by_address = guarded.tls.replace("localhost", "127.0.0.1")
    misnamed = await examined(tmp_path, by_address, prefix, **trusting)
    assert "127.0.0.1" in only(misnamed, "listener", Level.ERROR)
    right = await examined(tmp_path, guarded.tls, prefix, **trusting)
    assert right.worst == Level.NOTE, right
    assert messages(right, "listener", Level.OK) == [f"{guarded.tls} speaks Kafka's protocol over SSL"]


async def test_a_broker_that_wants_this_clients_certificate(guarded: Guarded, tmp_path: Path) -> None:
    """The broker's own certificate is trusted, the client shows none: the error says that it must."""
    report = await examined(tmp_path, guarded.mutual, security_protocol="SSL", ssl_cafile=guarded.certificate)
    assert "the broker wants this client's certificate" in only(report, "listener", Level.ERROR)
    in_the_clear = await examined(tmp_path, guarded.mutual)
    assert "wants TLS, the settings do not" in only(in_the_clear, "listener", Level.ERROR)


async def test_an_unreadable_certificate_file_hides_no_other_check(guarded: Guarded, tmp_path: Path) -> None:
    """A file that is not there: an error with the flags, and the state folder is checked all the same."""
    report = await examined(
        tmp_path, guarded.tls, security_protocol="SSL", ssl_cafile=tmp_path / "missing.pem"
    )
    assert "--ssl-cafile" in only(report, "listener", Level.ERROR)
    assert messages(report, "state folder", Level.NOTE)


async def test_a_broker_that_names_an_address_unknown_here(guarded: Guarded, tmp_path: Path) -> None:
    """The first answer comes, the next would never: the error says which address and which setting."""
    report = await examined(tmp_path, guarded.abroad)
    what = only(report, "brokers", Level.ERROR)
    assert what.startswith("broker 1 tells clients to use kafka.inside.invalid:9092")
    assert "cannot resolve" in what
    assert "advertised.listeners" in str(report)


# --- rights ---------------------------------------------------------------------------------------------


async def test_missing_rights_are_named_one_by_one(guarded: Guarded, prefix: str, tmp_path: Path) -> None:
    """No right at all; then all but three; then all: what is missing, one by one."""
    names = await create_topics(guarded.open, prefix)
    nobody = await examined(tmp_path, guarded.login, prefix, **as_worker(sasl_username="other"))
    assert sorted(messages(nobody, "rights", Level.ERROR)) == [
        *sorted(f"user other may not Describe topic {name}" for name in names.all),
        f"user other may not Read group {prefix}learner",
        f"user other may not Read group {prefix}learner.requests",
    ]
    for name in names.all:
        read = name in {*names.sharded, names.topology}
        written = name in {
            names.outcomes,
            names.requests,
            names.replies,
            names.dead_letters,
            names.metrics,
            names.topology,
        }
        operations = [*([READ] if read else []), *([WRITE] if written else [])]
        if name != names.bid_placed:
            await allow(guarded.open, resource=TOPIC, name=name, operations=operations)
    await allow(guarded.open, resource=GROUP, name=f"{prefix}learner", operations=[READ])
    missing = [
        f"user worker may not Describe topic {names.bid_placed}",
        f"user worker may not Read group {prefix}learner.requests",
        f"user worker may not Write topic {names.rerouted}",
    ]
    some = await refusals_become(missing, guarded, prefix, tmp_path)
    assert not messages(some, "topics", Level.ERROR)
    await allow(guarded.open, resource=TOPIC, name=names.bid_placed, operations=[READ])
    await allow(guarded.open, resource=TOPIC, name=names.rerouted, operations=[WRITE])
    await allow(guarded.open, resource=GROUP, name=f"{prefix}learner.requests", operations=[READ])
    async with AIOKafkaProducer(bootstrap_servers=guarded.open) as producer:
        await producer.send_and_wait(names.dead_letters, b"a letter that a worker need not read")
    enough = await refusals_become([], guarded, prefix, tmp_path)
    assert enough.worst == Level.NOTE, enough
    assert "may not look there" in messages(enough, "dead letters", Level.NOTE)[0]
    refused = await learner_worker(
        *("dead-letters", "list", "--bootstrap-servers", guarded.login, "--topic-prefix", prefix),
        *("--security-protocol", "SASL_PLAINTEXT", "--sasl-username", "worker"),
        environment={"LEARNER_SASL_PASSWORD": PASSWORD},
    )
    assert refused.code == 1
    assert f"the records of {names.dead_letters} cannot be read" in refused.sentence


async def refusals_become(expected: list[str], guarded: Guarded, prefix: str, tmp_path: Path) -> Report:
    """The report once the rights that were just given have reached the broker: that takes it a moment."""

    async def report() -> Report | None:
        found = await examined(tmp_path, guarded.login, prefix, **as_worker())
        return found if sorted(messages(found, "rights", Level.ERROR)) == expected else None

    return await until(report, f"what is refused is {expected}", seconds=30)


# --- several brokers ------------------------------------------------------------------------------------


async def copied_topics(address: str, names: TopicNames) -> None:
    """Topics with three copies, two of them in sync for a record to count; but for three topics."""
    copies = {names.outcomes: 1, names.replies: 1}
    in_sync = {names.outcomes: "1", names.metrics: "1"}
    async with administrator(address) as admin:
        await admin.create_topics(
            [
                NewTopic(
                    name,
                    2,
                    copies.get(name, 3),
                    topic_configs={
                        **names.configuration(name),
                        "min.insync.replicas": in_sync.get(name, "2"),
                    },
                )
                for name in names.all
            ]
        )


async def examined_once_known(tmp_path: Path, servers: str, prefix: str) -> Report:
    """The report, once whichever broker is asked has heard of the topics that were just created."""

    async def known() -> Report | None:
        report = await examined(tmp_path, servers, prefix)
        return None if messages(report, "topics", Level.ERROR) else report

    return await until(known, "every topic is known")


async def test_single_copies_in_a_cluster_of_three_and_a_broker_that_is_away(
    broker_kinds: frozenset[BrokerKind], prefix: str, tmp_path: Path
) -> None:
    """One copy, one in sync, more in sync than copies: each is told; then a broker stops, and copies lack."""
    if BrokerKind.KAFKA not in broker_kinds:
        pytest.skip("Apache Kafka by Maven and Java is not among the brokers of this run")
    names = Topics(prefix=prefix).named()
    with KafkaCluster(tmp_path / "kafka", nodes=3) as kafka:
        await copied_topics(kafka.bootstrap_servers, names)
        report = await examined_once_known(tmp_path, kafka.bootstrap_servers, prefix)
        refused = f"{names.replies} takes no records on partitions [0, 1]: 2 copies must be in sync"
        assert only(report, "copies", Level.ERROR) == refused
        warnings = messages(report, "copies", Level.WARNING)
        single = "has one copy in a cluster of 3 brokers: with its broker its records are gone"
        assert f"{names.outcomes} {single}" in warnings
        assert f"{names.metrics} acknowledges records that only one broker has" in warnings
        assert len(warnings) == 3

        async with administrator(kafka.bootstrap_servers) as admin:
            assert set(await admin.list_topics()) == set(names.all)  # not even Kafka's own, for groups

        await asyncio.to_thread(kafka.stop, 3)
        missing = await examined(tmp_path, kafka.bootstrap_servers, prefix)
        lacking = f"{names.bid_placed} lacks copies of partitions [0, 1]"
        assert lacking in messages(missing, "copies", Level.WARNING)
        (address,) = messages(missing, "addresses", Level.WARNING)
        assert address.startswith("nothing listens at")


async def test_the_commands_exit_code_says_that_the_login_is_wrong(guarded: Guarded, tmp_path: Path) -> None:
    """The command, with a password from the environment: exit code 2, and the password is not printed."""
    ended = await learner_worker(
        *("doctor", "--bootstrap-servers", guarded.login, "--security-protocol", "SASL_PLAINTEXT"),
        *("--sasl-username", "worker", "--state-dir", str(tmp_path / "state")),
        environment={"LEARNER_SASL_PASSWORD": GUESSED},
    )
    assert ended.code == 2
    assert "ERROR    login: Kafka refuses user 'worker'" in ended.out
    assert GUESSED not in ended.out + ended.err
