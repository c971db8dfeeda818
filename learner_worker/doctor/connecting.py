"""Checks the way to Kafka: addresses, TLS, login, the brokers' advertised addresses, protocol versions."""

import asyncio
from collections.abc import Sequence

from aiokafka.errors import KafkaError

from learner_worker.doctor.case import Case
from learner_worker.doctor.findings import Finding, error, ok, or_ok, warning
from learner_worker.refusals.denials import in_words
from learner_worker.refusals.diagnosis import advertised, broker_problem, listener_problems, login_problem
from learner_worker.refusals.listener import unreachable

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
    findings = [say(one.what, f"{one.remedy} (--bootstrap-servers)") for one in problems if one is not None]
    return or_ok(findings, f"{case.settings.bootstrap_servers} takes connections")


async def check_listener(case: Case) -> Sequence[Finding]:
    """Checks that the listener speaks Kafka's protocol with the configured security protocol."""
    found, settings = await case.listener(), case.settings
    problems = listener_problems(found, settings.security_protocol, settings.sasl_mechanism)
    findings = [error(*problem) for problem in problems]
    return or_ok(findings[:1], f"{found.host}:{found.port} speaks Kafka's protocol over {found.protocol}")


async def check_login(case: Case) -> Sequence[Finding]:
    """Checks that Kafka accepts the user name and password."""
    if not case.settings.security_protocol.startswith("SASL"):
        return [ok("no login is needed")]
    try:
        problem = await login_problem(case.connection().options(), *case.reached[0])
    except (KafkaError, OSError) as failure:
        return [
            error(f"the login fails ({in_words(failure)})", "check --sasl-username and LEARNER_SASL_PASSWORD")
        ]
    if problem is not None:
        return [error(*problem)]
    return [ok(f"logged in as {case.settings.sasl_username!r} by {case.settings.sasl_mechanism}")]


async def check_brokers(case: Case) -> Sequence[Finding]:
    """Checks the brokers' advertised addresses, to which clients connect after the first answer."""
    brokers = await advertised(case.connection().options(), *case.reached[0])
    problems = await asyncio.gather(*(unreachable(host, port) for _, host, port in brokers))
    findings = [
        error(*broker_problem(broker, problem))
        for broker, problem in zip(brokers, problems, strict=True)
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
