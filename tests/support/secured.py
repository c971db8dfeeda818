"""One Apache Kafka node with TLS, logins and rights, shared by every test that needs them."""

import secrets
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiokafka.protocol.admin import CreateAclsRequest, DeleteAclsRequest

from learner_worker.brokers import KafkaCluster, maven
from learner_worker.brokers.probing import free_ports
from learner_worker.interface.rights import ROLES, GrantedRight
from learner_worker.kafka.connection import Connection
from learner_worker.kafka.rights import OPERATIONS
from learner_worker.refusals.diagnosis import connect

PASSWORD = secrets.token_hex(8)
TOPIC, GROUP, LITERAL, PREFIXED, DENY, ALLOW = 2, 3, 3, 4, 2, 3
READ, WRITE, DESCRIBE = 3, 4, 8
CODES = {"topic": TOPIC, "group": GROUP, "cluster": 4}
USERS = ("worker", "other", "reader", "groupless", *(f"only-{role}" for role in ROLES))
"""Everybody who may log in; the last ones are for tests of exactly a role's rights."""
_LOGINS = (
    "org.apache.kafka.common.security.plain.PlainLoginModule required "
    + " ".join(f'user_{name}="{PASSWORD}"' for name in USERS)
    + ";"
)
_PROPERTIES = {
    "listener.security.protocol.map": (
        "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,LOGIN:SASL_PLAINTEXT,BOTH:SASL_SSL,TLS:SSL,MUTUAL:SSL,"
        "ABROAD:PLAINTEXT"
    ),
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": "User:ANONYMOUS",
    "listener.name.login.sasl.enabled.mechanisms": "PLAIN",
    "listener.name.login.plain.sasl.jaas.config": _LOGINS,
    "listener.name.both.sasl.enabled.mechanisms": "PLAIN",
    "listener.name.both.plain.sasl.jaas.config": _LOGINS,
    "listener.name.mutual.ssl.client.auth": "required",
    "ssl.keystore.type": "PKCS12",
    "ssl.keystore.password": PASSWORD,
    "ssl.key.password": PASSWORD,
}


@dataclass(frozen=True)
class SecuredKafka:
    """A running broker: `open` takes everybody, who may do everything; the certificate names localhost.

    Attributes:
        login_tls: a login through TLS.
    """

    open: str
    login: str
    login_tls: str
    tls: str
    mutual: str
    abroad: str
    certificate: Path


@contextmanager
def secured_kafka(folder: Path) -> Iterator[SecuredKafka]:
    """Runs one node with a listener of each kind."""
    keystore, certificate = key_and_certificate(folder)
    login, both, tls, mutual, abroad = free_ports(5)
    listeners = {
        "LOGIN": (f"127.0.0.1:{login}", f"127.0.0.1:{login}"),
        "BOTH": (f"127.0.0.1:{both}", f"localhost:{both}"),
        "TLS": (f"127.0.0.1:{tls}", f"localhost:{tls}"),
        "MUTUAL": (f"127.0.0.1:{mutual}", f"localhost:{mutual}"),
        "ABROAD": (f"127.0.0.1:{abroad}", "kafka.inside.invalid:9092"),
    }
    properties = {**_PROPERTIES, "ssl.keystore.location": str(keystore)}
    with KafkaCluster(folder / "kafka", properties=properties, listeners=listeners) as kafka:
        yield SecuredKafka(
            kafka.bootstrap_servers,
            f"127.0.0.1:{login}",
            f"localhost:{both}",
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
    made = [
        "-genkeypair",
        "-keyalg",
        "EC",
        "-groupname",
        "secp256r1",
        "-validity",
        "2",
        "-dname",
        "CN=localhost",
    ]
    for arguments in (
        [*made, "-ext", "SAN=dns:localhost", *store],
        ["-exportcert", "-rfc", "-file", str(certificate), *store],
    ):
        subprocess.run([str(keytool), *arguments], check=True, capture_output=True, timeout=60)
    return keystore, certificate


async def allow(
    address: str,
    *,
    resource: int,
    name: str,
    operations: list[int],
    user: str = "worker",
    pattern: int = LITERAL,
) -> None:
    """Lets a user do something, as an administrator would."""
    for operation in operations:
        request = CreateAclsRequest(resource, name, pattern, f"User:{user}", "*", operation, ALLOW)
        answer = await _answer(address, request)
        assert [code for code, _ in answer.creation_responses] == [0]


@asynccontextmanager
async def denied(address: str, *, resource: int, name: str, operation: int) -> AsyncIterator[None]:
    """Forbids user `worker` something, until the block ends."""
    rule = (resource, name, LITERAL, "User:worker", "*", operation, DENY)
    answer = await _answer(address, CreateAclsRequest(*rule))
    assert [code for code, _ in answer.creation_responses] == [0]
    try:
        yield
    finally:
        await _answer(address, DeleteAclsRequest(*rule))


async def grant(address: str, user: str, right: GrantedRight) -> None:
    """Lets a user do what an entry of the table of rights says."""
    await allow(
        address,
        resource=CODES[right.kind],
        name=right.name,
        operations=[OPERATIONS[each] for each in right.operations],
        user=user,
        pattern=PREFIXED if right.prefixed else LITERAL,
    )


@asynccontextmanager
async def taken_away(address: str, user: str, right: GrantedRight, operation: int) -> AsyncIterator[None]:
    """A user lacks one operation of an entry that it was granted, until the block ends."""
    pattern = PREFIXED if right.prefixed else LITERAL
    rule = (CODES[right.kind], right.name, pattern, f"User:{user}", "*", operation, ALLOW)
    deleted = await _answer(address, DeleteAclsRequest(*rule))
    assert [(code, len(found)) for code, _, found in deleted.filter_responses] == [(0, 1)]
    try:
        yield
    finally:
        await _answer(address, CreateAclsRequest(*rule))


async def _answer(address: str, request: Any) -> Any:
    host, _, port = address.partition(":")
    conn = await connect(Connection(address).options(), host, int(port))
    try:
        return await conn.send(request)
    finally:
        conn.close()


def as_user(name: str = "worker", **changes: Any) -> dict[str, Any]:
    """The settings of somebody who logs in with the right password, but for the changes."""
    right = {"security_protocol": "SASL_PLAINTEXT", "sasl_username": name, "sasl_password": PASSWORD}
    return {**right, **changes}
