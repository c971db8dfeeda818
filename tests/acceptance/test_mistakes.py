"""Mistakes of newcomers and operators: each ends with one sentence that names the cause and the remedy.

The commands are run on Apache Kafka with TLS, logins and rights, which is started once for all of them.
"""

import asyncio
import re
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from learner_worker.contract.topics import Topics
from tests.support import forked
from tests.support.model import AuctionClosed, BidPlaced
from tests.support.secured import (
    DESCRIBE,
    GROUP,
    PASSWORD,
    PREFIXED,
    READ,
    TOPIC,
    WRITE,
    SecuredKafka,
    allow,
    denied,
)
from tests.support.workers import create_topics, publish, read_topic, running_worker, until

PREFIX = "mistakes-"
_NO_SENTENCE = re.compile(
    r"Traceback|\[Errno|object at 0x|\b[A-Z]\w*(Error|Failed)\b|Unclosed|never retrieved"
)
CHECK = ("topics", "check")
RUN = ("run", "--http-port", "none")
ASK = ("suggest", "echo", "--description", "d", "--base", "100")


@dataclass(frozen=True)
class Mistake:
    """A command, in an environment and beside files of settings, and what it has to say."""

    name: str
    arguments: tuple[str, ...]
    words: tuple[str, ...]
    at: str = "open"
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    code: int = 2


def login(user: str, **others: str) -> dict[str, str]:
    """The environment of somebody who logs in."""
    return {
        "LEARNER_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "LEARNER_SASL_USERNAME": user,
        "LEARNER_SASL_PASSWORD": PASSWORD,
        **others,
    }


TLS = {"LEARNER_SECURITY_PROTOCOL": "SSL"}
TRUSTING = {**TLS, "LEARNER_SSL_CAFILE": "{certificate}"}
GUESSED = {**login("worker"), "LEARNER_SASL_PASSWORD": "guessed"}
WRONG_PASSWORD = ("Kafka refuses user 'worker'", "correct --sasl-username and LEARNER_SASL_PASSWORD")
NO_USER = ("--security-protocol SASL_PLAINTEXT logs in", "set --sasl-username", "LEARNER_SASL_PASSWORD")
NO_LOGIN = ("wants a login, the settings give none", "--security-protocol SASL_PLAINTEXT", "it takes PLAIN")
UNTRUSTED = ("certificates do not fit", "self-signed certificate", "--ssl-cafile")
HIDDEN = ("has no right to use topic", "`learner-worker doctor` prints the commands that allow it")
ABROAD = ("tells clients to use kafka.inside.invalid:9092", "advertised.listeners")

CONNECTING = (
    Mistake("wrong password, run", RUN, WRONG_PASSWORD, "login", GUESSED),
    Mistake("wrong password, topics check", CHECK, WRONG_PASSWORD, "login", GUESSED),
    Mistake("wrong password, suggest", ASK, WRONG_PASSWORD, "login", GUESSED),
    Mistake("wrong password, dead letters", ("dead-letters", "list"), WRONG_PASSWORD, "login", GUESSED),
    Mistake("no user, run", RUN, NO_USER, "login", {"LEARNER_SECURITY_PROTOCOL": "SASL_PLAINTEXT"}),
    Mistake("no user, suggest", ASK, NO_USER, "login", {"LEARNER_SECURITY_PROTOCOL": "SASL_PLAINTEXT"}),
    Mistake("empty password", CHECK, NO_USER, "login", login("worker", LEARNER_SASL_PASSWORD="")),
    Mistake("no login, run", RUN, NO_LOGIN, "login"),
    Mistake("no login, suggest", ASK, NO_LOGIN, "login"),
    Mistake("login where none is taken", CHECK, ("knows no logins", "PLAINTEXT"), "open", login("worker")),
    Mistake(
        "another kind of login",
        CHECK,
        ("does not take logins by SCRAM-SHA-512", "set --sasl-mechanism (it takes PLAIN)"),
        "login",
        login("worker", LEARNER_SASL_MECHANISM="SCRAM-SHA-512"),
    ),
    Mistake("plain text to a TLS port", CHECK, ("wants TLS", "set --security-protocol SSL"), "tls"),
    Mistake("plain text to a TLS port, suggest", ASK, ("wants TLS", "set --security-protocol SSL"), "tls"),
    Mistake(
        "TLS to a plain port",
        CHECK,
        ("does not speak TLS", "set --security-protocol PLAINTEXT"),
        "open",
        TLS,
    ),
    Mistake("unknown authority, run", RUN, UNTRUSTED, "tls", TLS),
    Mistake("unknown authority, suggest", ASK, UNTRUSTED, "tls", TLS),
    Mistake("no certificate of one's own", CHECK, ("wants this client's certificate",), "mutual", TRUSTING),
    Mistake(
        "a CA file that is not there",
        CHECK,
        ("cannot read /no/ca.pem (No such file or directory): correct --ssl-cafile",),
        "tls",
        {**TLS, "LEARNER_SSL_CAFILE": "/no/ca.pem"},
    ),
    Mistake(
        "a CA file that is none",
        CHECK,
        ("the certificates cannot be used", "give PEM files", "--ssl-cafile"),
        "tls",
        {**TLS, "LEARNER_SSL_CAFILE": "notes.txt"},
        {"notes.txt": "not a certificate"},
    ),
    Mistake("an address of the inside, topics check", CHECK, ABROAD, "abroad"),
    Mistake("an address of the inside, suggest", ASK, ABROAD, "abroad"),
    Mistake("a URL", CHECK, ("is a URL: write localhost:9092, without http://",), "http://localhost:9092"),
    Mistake("no port", CHECK, ("'localhost' is not host:port",), "localhost"),
    Mistake("a free port", CHECK, ("nothing listens at", "--bootstrap-servers"), "{nobody}", code=1),
    Mistake(
        "an unknown host",
        CHECK,
        ("cannot resolve the name kafka.invalid", "add kafka.invalid to DNS"),
        "kafka.invalid:9092",
        code=1,
    ),
)
RIGHTS = (
    Mistake("no right, topics check", CHECK, HIDDEN, "login", login("other")),
    Mistake("no right, topics create", ("topics", "create"), HIDDEN, "login", login("other")),
    Mistake("no right, dead letters", ("dead-letters", "list"), HIDDEN, "login", login("other")),
    Mistake("no right, suggest", ASK, HIDDEN, "login", login("other")),
    Mistake("no right, outcomes", ("outcomes", "list", "echo"), HIDDEN, "login", login("other")),
    Mistake("no right, forget", ("forget", "echo", "--yes"), HIDDEN, "login", login("other")),
    Mistake(
        "no right, run",
        RUN,
        (
            "user other lacks rights that a worker needs: Read on topic mistakes-bid-placed, ",
            "Read on group mistakes-learner, mistakes-learner.requests",
        ),
        "login",
        login("other"),
    ),
    Mistake(
        "read alone, run",
        RUN,
        ("user reader lacks rights that a worker needs: Write on topic mistakes-learner-rerouted, ",),
        "login",
        login("reader"),
    ),
    Mistake(
        "read alone, suggest",
        ASK,
        ("the request was not sent, because", "topic mistakes-suggest-bid-requests", "doctor"),
        "login",
        login("reader"),
    ),
    Mistake(
        "read alone, forget",
        ("forget", "echo", "--yes"),
        ("did not accept a record", "topic mistakes-learner-outcomes", "doctor"),
        "login",
        login("reader"),
    ),
    Mistake(
        "no right on the group, run",
        RUN,
        ("lacks rights that a worker needs: Read on group mistakes-learner, mistakes-learner.requests:",),
        "login",
        login("groupless"),
    ),
)
SETTINGS = (
    Mistake(
        "a misspelt variable",
        RUN,
        ("no setting reads the environment variable LEARNER_STATEDIR", "did you mean LEARNER_STATE_DIR?"),
        environment={"LEARNER_STATEDIR": "/data"},
    ),
    Mistake(
        "a misspelt key",
        RUN,
        ("no setting reads the key http_prot in learner-worker.toml", "did you mean http_port?"),
        files={"learner-worker.toml": "http_prot = 8080\n"},
    ),
    Mistake(
        "a section",
        RUN,
        ("learner-worker.toml has a section [learner]", "remove the line [learner]"),
        files={"learner-worker.toml": "[learner]\nhttp_port = 8080\n"},
    ),
    Mistake(
        "a misspelt line of .env",
        RUN,
        ("no setting reads the variable in .env LEARNER_GROUPID", "did you mean LEARNER_GROUP_ID?"),
        files={".env": "LEARNER_GROUPID=x\n"},
    ),
    Mistake(
        "a broken TOML file",
        RUN,
        ("learner-worker.toml is no valid TOML", "line 1"),
        files={"learner-worker.toml": "http_port =\n"},
    ),
    Mistake(
        "a choice that is none",
        RUN,
        ("--while-restoring (LEARNER_WHILE_RESTORING)", "'wait', 'refuse' or 'stale', not 'stop'"),
        environment={"LEARNER_WHILE_RESTORING": "stop"},
    ),
    Mistake(
        "an address of another machine for HTTP",
        ("run", "--http-host", "192.0.2.1", "--http-port", "0"),
        ("cannot listen on 192.0.2.1:0", "set --http-host to an address of this machine"),
    ),
    Mistake(
        "a state folder that is a file",
        (*RUN, "--state-dir", "notes.txt"),
        ("cannot write to the state folder notes.txt", "set --state-dir"),
        files={"notes.txt": ""},
    ),
)
TOPICS = (
    Mistake(
        "another count than the record's",
        ("topics", "create", "--partitions", "7"),
        ("mistakes-learner-topology records 4 partitions, not 7", "leave out --partitions"),
    ),
    Mistake(
        "another prefix, run",
        RUN,
        ("missing topics: other-bid-placed", "`learner-worker topics create`"),
        environment={"LEARNER_TOPIC_PREFIX": "other-"},
    ),
    Mistake(
        "another prefix, suggest",
        ASK,
        ("missing topics: other-suggest-bid-requests", "correct --topic-prefix"),
        environment={"LEARNER_TOPIC_PREFIX": "other-"},
    ),
)
MISTAKES = (*CONNECTING, *RIGHTS, *SETTINGS, *TOPICS)


@pytest.fixture(scope="module")
def addresses(secured: SecuredKafka) -> Iterator[Mapping[str, str]]:
    """The addresses by name, once the topics are there and each user has its rights."""
    asyncio.run(_prepared(secured))
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield {
            **{name: getattr(secured, name) for name in ("open", "login", "tls", "mutual", "abroad")},
            "{nobody}": f"127.0.0.1:{held.getsockname()[1]}",
            "certificate": str(secured.certificate),
        }


async def _prepared(secured: SecuredKafka) -> None:
    await create_topics(secured.open, PREFIX)
    for user, operations in (("reader", [READ, DESCRIBE]), ("groupless", [READ, WRITE, DESCRIBE])):
        await allow(
            secured.open, resource=TOPIC, name=PREFIX, operations=operations, user=user, pattern=PREFIXED
        )
    await allow(secured.open, resource=GROUP, name=PREFIX, operations=[READ], user="reader", pattern=PREFIXED)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_is_named_with_its_remedy(
    mistake: Mistake, addresses: Mapping[str, str], tmp_path: Path
) -> None:
    """One sentence on stderr, and its exit code: no traceback, no class name, no line of a library."""
    for name, text in mistake.files.items():
        (tmp_path / name).write_text(text)
    environment = {
        "LEARNER_BOOTSTRAP_SERVERS": addresses.get(mistake.at, mistake.at),
        "LEARNER_TOPIC_PREFIX": PREFIX,
        "LEARNER_GROUP_ID": f"{PREFIX}learner",
        "LEARNER_STARTUP_TIMEOUT_SECONDS": "2" if mistake.code == 1 else "20",
        **mistake.environment,
    }
    given = {name: value.format(**addresses) for name, value in environment.items()}

    code, out, err = forked.run(*mistake.arguments, environment=given, folder=tmp_path)

    lines = [line for line in err.splitlines() if not line.startswith('{"')]
    assert (code, out, len(lines)) == (mistake.code, "", 1), (out, err)
    assert [words for words in mistake.words if words not in lines[0]] == [], err
    assert not _NO_SENTENCE.search(out + err), err
    assert PASSWORD not in out + err


async def test_a_running_worker_says_what_is_refused(
    secured: SecuredKafka, prefix: str, tmp_path: Path
) -> None:
    """A right is withdrawn, and given back: log and /readyz say both, and it goes on.

    Without the right on the changelog it goes back to its last checkpoint ever more slowly.
    """
    await create_topics(secured.open, prefix)
    rights = {TOPIC: [READ, WRITE], GROUP: [READ]}
    for resource, operations in rights.items():
        await allow(secured.open, resource=resource, name=prefix, operations=operations, pattern=PREFIXED)
    settings = {
        "--security-protocol": "SASL_PLAINTEXT",
        "--sasl-username": "worker",
        "--sasl-password": PASSWORD,
    }
    async with running_worker(secured.login, prefix, tmp_path / "state", settings=settings) as worker:

        async def refused(what: str) -> bool:
            _, body = await worker.get("/readyz")
            return f"no right to use {what}" in body

        async def logged(event: str, times: int) -> bool:
            return len(worker.logged(event)) >= times

        names, now = Topics(prefix=prefix).named(), time.time_ns() // 1_000
        async with denied(secured.open, resource=TOPIC, name=names.outcomes, operation=WRITE):
            await publish(
                secured.open,
                names,
                [BidPlaced("t", "echo", 90, "d", now), AuctionClosed("t", "echo", 90, now)],
            )
            await until(partial(refused, f"topic {names.outcomes}"), "/readyz says what is refused")
            await until(partial(logged, "shards.reload", 3), "it tries again")
        await until(partial(logged, "kafka.accepted", 1), "it goes on")
        assert await read_topic(secured.open, names.outcomes)
        reloads = worker.logged("shards.reload")
        first, _, third, *_ = [datetime.fromisoformat(line["timestamp"]) for line in reloads]
        assert third - first >= timedelta(seconds=1.4), "pauses of 0.5 s and 1 s"
        async with denied(secured.open, resource=GROUP, name=f"{prefix}learner", operation=READ):
            await until(partial(refused, f"group {prefix}learner"), "/readyz says what is refused")
        await worker.ready()
        for said in worker.logged("kafka.refused"):
            assert "`learner-worker doctor` prints the commands that allow it" in said["reason"]
        assert await worker.stop() == 0
        assert worker.logged("kafka.accepted")
