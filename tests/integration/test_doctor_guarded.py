"""`doctor` on Apache Kafka with TLS, logins, rights and several brokers: each broken set-up is explained."""

import asyncio
import itertools
import secrets
import shlex
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import NewTopic

from learner_worker.brokers import BrokerKind, KafkaCluster
from learner_worker.contract.topics import TopicNames, Topics
from learner_worker.doctor import Level, Report
from tests.acceptance.test_refusals import learner_worker
from tests.integration.test_doctor import examined, messages, only
from tests.support.secured import GROUP, PASSWORD, READ, TOPIC, WRITE, SecuredKafka, allow, as_user
from tests.support.workers import administrator, create_topics, until

GUESSED = secrets.token_hex(8)


async def test_the_open_listener_of_a_right_set_up_has_nothing_to_say(
    secured: SecuredKafka, prefix: str, tmp_path: Path
) -> None:
    """Topics as `topics create` makes them: no warning, and Kafka says what one may do."""
    await create_topics(secured.open, prefix)
    report = await examined(tmp_path, secured.open, prefix)
    assert report.worst == Level.NOTE, report
    assert messages(report, "rights", Level.OK) == [
        "this client may do all that a worker does with 10 topics and its groups"
    ]


# --- how to talk to it ----------------------------------------------------------------------------------


async def test_no_login_where_one_is_wanted(secured: SecuredKafka, tmp_path: Path) -> None:
    """The broker would only hang up: the error says that it wants a login, and of which kind."""
    report = await examined(tmp_path, secured.login)
    assert only(report, "listener", Level.ERROR) == f"{secured.login} wants a login, the settings give none"
    (remedy,) = [finding.remedy for _, finding in report.findings if finding.level == Level.ERROR]
    assert "--security-protocol SASL_PLAINTEXT" in remedy
    assert "it takes PLAIN" in remedy


async def test_a_login_where_there_is_none(secured: SecuredKafka, tmp_path: Path) -> None:
    """Logging in at a listener without logins: an error."""
    report = await examined(tmp_path, secured.open, **as_user())
    assert "knows no logins, the settings want one" in only(report, "listener", Level.ERROR)


async def test_a_wrong_password(secured: SecuredKafka, tmp_path: Path) -> None:
    """The error names the user and repeats Kafka's words, never the password."""
    report = await examined(tmp_path, secured.login, **as_user(sasl_password=GUESSED))
    what = only(report, "login", Level.ERROR)
    assert what.startswith("Kafka refuses user 'worker': Authentication failed")
    assert GUESSED not in str(report)


async def test_a_wrong_mechanism(secured: SecuredKafka, tmp_path: Path) -> None:
    """The error says which kinds of login the listener takes."""
    report = await examined(tmp_path, secured.login, **as_user(sasl_mechanism="SCRAM-SHA-512"))
    assert "does not take logins by SCRAM-SHA-512" in only(report, "listener", Level.ERROR)
    assert "it takes PLAIN" in str(report)


async def test_plaintext_to_a_tls_port(secured: SecuredKafka, tmp_path: Path) -> None:
    """The error says that the port wants TLS."""
    report = await examined(tmp_path, secured.tls)
    assert only(report, "listener", Level.ERROR) == f"{secured.tls} wants TLS, the settings do not"


async def test_tls_to_a_plaintext_port(secured: SecuredKafka, tmp_path: Path) -> None:
    """The error says that the port does not speak TLS."""
    report = await examined(tmp_path, secured.open, security_protocol="SSL")
    what = only(report, "listener", Level.ERROR)
    assert what == f"{secured.open} does not speak TLS, the settings want it"


async def test_certificates_that_do_not_fit(secured: SecuredKafka, prefix: str, tmp_path: Path) -> None:
    """Not trusted, trusted but of another name, and right: the words of each."""
    await create_topics(secured.open, prefix)
    unknown = await examined(tmp_path, secured.tls, prefix, security_protocol="SSL")
    assert "self-signed certificate" in only(unknown, "listener", Level.ERROR)
    trusting = {"security_protocol": "SSL", "ssl_cafile": secured.certificate}
    by_address = secured.tls.replace("localhost", "127.0.0.1")
    misnamed = await examined(tmp_path, by_address, prefix, **trusting)
    assert "127.0.0.1" in only(misnamed, "listener", Level.ERROR)
    right = await examined(tmp_path, secured.tls, prefix, **trusting)
    assert right.worst == Level.NOTE, right
    assert messages(right, "listener", Level.OK) == [f"{secured.tls} speaks Kafka's protocol over SSL"]


async def test_a_broker_that_wants_this_clients_certificate(secured: SecuredKafka, tmp_path: Path) -> None:
    """The broker's own certificate is trusted, the client shows none: the error says that it must."""
    report = await examined(tmp_path, secured.mutual, security_protocol="SSL", ssl_cafile=secured.certificate)
    assert "the broker wants this client's certificate" in only(report, "listener", Level.ERROR)
    in_the_clear = await examined(tmp_path, secured.mutual)
    assert "wants TLS, the settings do not" in only(in_the_clear, "listener", Level.ERROR)


async def test_an_unreadable_certificate_file_hides_no_other_check(
    secured: SecuredKafka, tmp_path: Path
) -> None:
    """A file that is not there: an error with the flags, and the state folder is checked all the same."""
    report = await examined(
        tmp_path, secured.tls, security_protocol="SSL", ssl_cafile=tmp_path / "missing.pem"
    )
    assert "--ssl-cafile" in only(report, "listener", Level.ERROR)
    assert messages(report, "state folder", Level.NOTE)


async def test_a_broker_that_names_an_address_unknown_here(secured: SecuredKafka, tmp_path: Path) -> None:
    """The first answer comes, the next would never: the error says which address and which setting."""
    report = await examined(tmp_path, secured.abroad)
    what = only(report, "brokers", Level.ERROR)
    assert what.startswith("broker 1 tells clients to use kafka.inside.invalid:9092")
    assert "cannot resolve" in what
    assert "advertised.listeners" in str(report)


# --- rights ---------------------------------------------------------------------------------------------


async def test_missing_rights_are_named_in_one_round(
    secured: SecuredKafka, prefix: str, tmp_path: Path
) -> None:
    """No right at all: all are named, nothing else is called right, and the commands are enough."""
    names = await create_topics(secured.open, prefix)
    nobody = await examined(tmp_path, secured.login, prefix, **as_user())
    about_kafka = {"topics", "topology", "changelog", "configuration", "copies", "partitioning", "headers"}
    about_kafka |= {"dead letters", "clocks", "group", "requests"}
    assert [name for name, one in nobody.findings if name in about_kafka and one.level != Level.NOTE] == []
    read, written = names.bid_placed, names.dead_letters
    lacking = messages(nobody, "rights", Level.ERROR)
    assert len(lacking) == len(names.all) + 2
    assert f"user worker may not Read topic {read}" in lacking
    assert f"user worker may not Write topic {written}" in lacking
    assert f"user worker may not Read and Write topic {names.outcomes}" in lacking
    assert f"user worker may not Read group {prefix}learner.requests" in lacking
    withheld = f"user worker may not Read and Write topic {names.rerouted}"
    for name, finding in nobody.findings:
        if name == "rights" and finding.what != withheld:
            await paste(secured, finding.remedy)
    await allow(secured.open, resource=TOPIC, name=names.rerouted, operations=[READ])
    await refusals_become([f"user worker may not Write topic {names.rerouted}"], secured, prefix, tmp_path)
    await allow(secured.open, resource=TOPIC, name=names.rerouted, operations=[WRITE])
    async with AIOKafkaProducer(bootstrap_servers=secured.open) as producer:
        await producer.send_and_wait(names.dead_letters, b"a letter that a worker need not read")
    enough = await refusals_become([], secured, prefix, tmp_path)
    assert enough.worst == Level.NOTE, enough
    assert messages(enough, "dead letters", Level.NOTE) == [
        f"cannot be checked: this user has no right to use topic {names.dead_letters}"
    ]
    refused = await learner_worker(
        *("dead-letters", "list", "--bootstrap-servers", secured.login, "--topic-prefix", prefix),
        *("--security-protocol", "SASL_PLAINTEXT", "--sasl-username", "worker"),
        environment={"LEARNER_SASL_PASSWORD": PASSWORD},
    )
    assert refused.code == 2
    assert f"the records of {names.dead_letters} cannot be read, because this user has" in refused.sentence


async def paste(secured: SecuredKafka, remedy: str) -> None:
    """Does what a command of `kafka-acls.sh` does, as an administrator would."""
    command = shlex.split(remedy.partition("allow it: ")[2])
    assert command[:2] == ["kafka-acls.sh", "--bootstrap-server"]
    flags = list(itertools.pairwise(command))
    operations = [{"Read": READ, "Write": WRITE}[value] for flag, value in flags if flag == "--operation"]
    (principal,) = [value for flag, value in flags if flag == "--allow-principal"]
    assert principal == "User:worker"
    for kind, resource in (("--topic", TOPIC), ("--group", GROUP)):
        for name in [value for flag, value in flags if flag == kind]:
            await allow(secured.open, resource=resource, name=name, operations=operations)


async def refusals_become(expected: list[str], secured: SecuredKafka, prefix: str, tmp_path: Path) -> Report:
    """The report once the rights that were just given have reached the broker: that takes it a moment."""

    async def report() -> Report | None:
        found = await examined(tmp_path, secured.login, prefix, **as_user())
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


async def test_the_commands_exit_code_says_that_the_login_is_wrong(
    secured: SecuredKafka, tmp_path: Path
) -> None:
    """The command, with a password from the environment: exit code 2, and the password is not printed."""
    ended = await learner_worker(
        *("doctor", "--bootstrap-servers", secured.login, "--security-protocol", "SASL_PLAINTEXT"),
        *("--sasl-username", "worker", "--state-dir", str(tmp_path / "state")),
        environment={"LEARNER_SASL_PASSWORD": GUESSED},
    )
    assert ended.code == 2
    assert "ERROR    login: Kafka refuses user 'worker'" in ended.out
    assert GUESSED not in ended.out + ended.err
