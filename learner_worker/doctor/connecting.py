"""Checks the way to Kafka: addresses, TLS, login, the brokers' advertised addresses, protocol versions."""

import asyncio
from collections.abc import Iterator, Sequence

from aiokafka.errors import AuthenticationFailedError, KafkaError, SaslAuthenticationFailed

from learner_worker.doctor.case import Case
from learner_worker.doctor.findings import Finding, error, ok, or_ok, warning
from learner_worker.doctor.kafka import connect
from learner_worker.doctor.listener import Listener, unreachable
from learner_worker.doctor.wire import describe_topics
from learner_worker.settings import Settings

_NEEDED = {
    0: ("Produce", 3),
    1: ("Fetch", 4),
    2: ("ListOffsets", 1),
    3: ("Metadata", 4),
    8: ("OffsetCommit", 2),
    9: ("OffsetFetch", 2),
    11: ("JoinGroup", 5),
    14: ("SyncGroup", 3),
    15: ("DescribeGroups", 3),
}
"""Kafka's requests by API key, each with the oldest version that the worker can use."""


async def check_addresses(case: Case) -> Sequence[Finding]:
    """Checks that each configured address resolves and accepts connections."""
    problems = await asyncio.gather(*(unreachable(*address) for address in case.addresses))
    case.reached = [one for one, problem in zip(case.addresses, problems, strict=True) if problem is None]
    # One address is enough to find the cluster; with none of them nothing works.
    say = warning if case.reached else error
    findings = [say(what, f"{remedy} (--bootstrap-servers)") for what, remedy in filter(None, problems)]
    return or_ok(findings, f"{case.settings.bootstrap_servers} takes connections")


async def check_listener(case: Case) -> Sequence[Finding]:
    """Checks that the listener speaks Kafka's protocol with the configured security protocol."""
    found = await case.listener()
    problems = [*_strange(found), *_misprotected(found, case.settings)]
    return or_ok(problems[:1], f"{found.host}:{found.port} speaks Kafka's protocol over {found.protocol}")


def _strange(found: Listener) -> Iterator[Finding]:
    address = f"{found.host}:{found.port}"
    if found.versions is not None:
        return
    if found.said.startswith(b"HTTP/"):
        yield error(f"a web server answers at {address}, not Kafka", "give Kafka's own port, often 9092")
    elif not found.tls:
        what = f"says {found.said[:20]!r}" if found.said else "says nothing"
        yield error(
            f"{address} takes connections, but {what} when asked as Kafka",
            "give the port of a Kafka listener, and not that of a controller",
        )


def _misprotected(found: Listener, settings: Settings) -> Iterator[Finding]:
    address, wanted = f"{found.host}:{found.port}", settings.security_protocol
    through_tls, with_login = wanted.endswith("SSL"), wanted.startswith("SASL")
    if found.tls and not through_tls:
        yield error(
            f"{address} wants TLS, the settings do not", _protocol("SASL_SSL" if with_login else "SSL")
        )
    if through_tls and not found.tls:
        remedy = _protocol("SASL_PLAINTEXT" if with_login else "PLAINTEXT")
        yield error(f"{address} does not speak TLS, the settings want it", f"{remedy}, or give its TLS port")
    if found.certificate_problem:
        yield error(
            f"the TLS certificates do not fit at {address}: {found.certificate_problem}",
            "give the certificates to trust with --ssl-cafile, use a host name that the broker's certificate "
            "holds, and give this client's own with --ssl-certfile and --ssl-keyfile if the broker wants one",
        )
    if found.wants_login and not with_login:
        remedy = f"{_protocol(found.protocol)} with a user name and password ({_offered(found)})"
        yield error(f"{address} wants a login, the settings give none", remedy)
    if with_login and not found.mechanisms:
        yield error(f"{address} knows no logins, the settings want one", _protocol(found.protocol))
    elif with_login and settings.sasl_mechanism not in found.mechanisms:
        yield error(
            f"{address} does not take logins by {settings.sasl_mechanism}",
            f"--sasl-mechanism: {_offered(found)}",
        )


def _protocol(name: str) -> str:
    return f"set --security-protocol {name}"


def _offered(found: Listener) -> str:
    return f"it takes {', '.join(found.mechanisms)}" if found.mechanisms else "it does not say which kind"


async def check_login(case: Case) -> Sequence[Finding]:
    """Checks that Kafka accepts the user name and password."""
    if not case.settings.security_protocol.startswith("SASL"):
        return [ok("no login is needed")]
    try:
        (await connect(case.connection(), *case.reached[0])).close()
    except (AuthenticationFailedError, SaslAuthenticationFailed) as refusal:
        return [
            error(
                f"Kafka refuses user {case.settings.sasl_username!r}: {' '.join(map(str, refusal.args))}",
                "correct --sasl-username and LEARNER_SASL_PASSWORD, or create that user in Kafka",
            )
        ]
    except (KafkaError, OSError, ValueError) as failure:
        return [error(f"the login fails: {failure!r}", "check --sasl-username and LEARNER_SASL_PASSWORD")]
    return [ok(f"logged in as {case.settings.sasl_username!r} by {case.settings.sasl_mechanism}")]


async def check_brokers(case: Case) -> Sequence[Finding]:
    """Checks the brokers' advertised addresses, to which clients connect after the first answer."""
    conn = await connect(case.connection(), *case.reached[0])
    try:
        _, brokers, *_ = await conn.send(describe_topics([]))
    finally:
        conn.close()
    problems = await asyncio.gather(*(unreachable(host, port) for _, host, port, _ in brokers))
    findings = [
        error(
            f"broker {node} tells clients to use {host}:{port}, but {problem[0]}",
            "correct advertised.listeners of that broker, or run the worker where this address works",
        )
        for (node, host, port, _), problem in zip(brokers, problems, strict=True)
        if problem is not None
    ]
    return or_ok(findings, f"every broker's own address works from here ({len(brokers)} brokers)")


async def check_versions(case: Case) -> Sequence[Finding]:
    """Checks that the broker supports the protocol versions that the worker needs."""
    versions = (await case.listener()).versions or {}
    lacking = [
        name for number, (name, needed) in _NEEDED.items() if versions.get(number, (0, -1))[1] < needed
    ]
    findings = [error(f"this Kafka is too old for {', '.join(lacking)}", "use Kafka 2.3 or newer")]
    return or_ok(findings if lacking else [], "it speaks every request that a worker sends")
