"""One Apache Kafka node that takes every kind of login, through TLS and with its authorizer on."""

import json
import secrets
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from learner_worker.brokers import KafkaCluster, maven
from learner_worker.brokers.probing import free_ports
from tests.support.certificates import Authority
from tests.support.tokens import unsigned

USER = "learner"
PASSWORD = secrets.token_hex(8)
_SECURITY = "org.apache.kafka.common.security"
_UNSECURED = f"{_SECURITY}.oauthbearer.internals.unsecured.OAuthBearerUnsecuredValidatorCallbackHandler"
_ALTER = """\
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.ScramCredentialInfo;
import org.apache.kafka.clients.admin.ScramMechanism;
import org.apache.kafka.clients.admin.UserScramCredentialUpsertion;

public class Alter {
    public static void main(String[] at) throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", at[0]))) {
            var kind = new ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096);
            admin.alterUserScramCredentials(
                List.of(new UserScramCredentialUpsertion(at[1], kind, at[2]))).all().get();
        }
    }
}
"""


def unsecured_token(*, issued_ago: float = 60.0) -> str:
    """A token that this Kafka takes, as an identity provider or a function of the user's brings it.

    Args:
        issued_ago: seconds since it was issued: Kafka refuses a token of the future, even of a millisecond.
    """
    claims = {"sub": USER, "iat": time.time() - issued_ago, "exp": time.time() + 600}
    return unsigned({"alg": "none"}, json.dumps(claims).encode())


@dataclass(frozen=True)
class GuardedKafka:
    """A running broker: `open` is for the test itself; `tls`, `mutual` and `sasl` are for whom it guards.

    Attributes:
        trusted: the authorities of clients' certificates; read at the broker's start.
        ca: what clients trust.
    """

    cluster: KafkaCluster
    open: str
    tls: str
    mutual: str
    sasl: str
    trusted: Path
    ca: Path

    def set_password(self, password: str, folder: Path) -> None:
        """Gives the user a password for SCRAM-SHA-512, as an administrator would."""
        source = folder / "Alter.java"
        source.write_text(_ALTER)
        jars = f"{maven.jar_folder()}/*"
        command = [maven.java_program(), "-cp", jars, str(source), self.open, USER, password]
        subprocess.run(command, check=True, capture_output=True, timeout=120)

    def restart(self) -> None:
        """Ends every connection, and reads `trusted` again."""
        self.cluster.stop(1)
        self.cluster.start(1)


@contextmanager
def guarded_kafka(folder: Path, clients: Authority) -> Iterator[GuardedKafka]:
    """Runs one node that takes certificates of this authority."""
    own, certificate, key = Authority("broker"), folder / "broker.pem", folder / "broker.key"
    own.issue("localhost", certificate, key)
    keystore, ca, trusted = folder / "keystore.pem", folder / "ca.pem", folder / "trusted.pem"
    keystore.write_bytes(key.read_bytes() + certificate.read_bytes() + own.pem)
    ca.write_bytes(own.pem)
    trusted.write_bytes(clients.pem)
    ports = dict(zip(("TLS", "MUTUAL", "EVERY"), free_ports(3), strict=True))
    listeners = {name: (f"127.0.0.1:{port}", f"localhost:{port}") for name, port in ports.items()}
    tls, mutual, sasl = (address for _, address in listeners.values())
    with KafkaCluster(
        folder / "kafka", properties=_properties(keystore, trusted), listeners=listeners
    ) as kafka:
        yield GuardedKafka(kafka, kafka.bootstrap_servers, tls, mutual, sasl, trusted, ca)


def _properties(keystore: Path, trusted: Path) -> Mapping[str, str]:
    every = "listener.name.every"
    return {
        "listener.security.protocol.map": (
            "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,TLS:SSL,MUTUAL:SSL,EVERY:SASL_SSL"
        ),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": f"User:ANONYMOUS;User:{USER};User:CN={USER}",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(keystore),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(trusted),
        "listener.name.mutual.ssl.client.auth": "required",
        f"{every}.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512,OAUTHBEARER",
        f"{every}.plain.sasl.jaas.config": (
            f'{_SECURITY}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
        ),
        f"{every}.scram-sha-512.sasl.jaas.config": f"{_SECURITY}.scram.ScramLoginModule required;",
        f"{every}.oauthbearer.sasl.jaas.config": (
            f'{_SECURITY}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";'
        ),
        f"{every}.oauthbearer.sasl.server.callback.handler.class": _UNSECURED,
    }
