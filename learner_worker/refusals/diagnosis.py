"""Asks why Kafka cannot be used: aiokafka reports every cause as the same failure to bootstrap."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, Final, NamedTuple

from aiokafka.conn import create_conn
from aiokafka.errors import KafkaError

from learner_worker.errors import BrokerError, LearnerError, Mismatch, RefusedError
from learner_worker.refusals.denials import CORRECT_LOGIN, CORRECT_TOKENS, LOGIN_ERRORS, in_words
from learner_worker.refusals.listener import Listener, Unreachable, look_at, unreachable
from learner_worker.refusals.wire import describe_topics

_LOGIN_MS = 3_000  # a broker that is asked for a login answers at once, or never
_CONNECTING: Final = (
    "client_id",
    "ssl_context",
    "security_protocol",
    "sasl_mechanism",
    "sasl_plain_username",
    "sasl_plain_password",
    "sasl_kerberos_service_name",
    "sasl_kerberos_domain_name",
    "sasl_oauth_token_provider",
)
"""The options of aiokafka's clients that a single connection takes, too."""
Options = Mapping[str, Any]


class Diagnosis(NamedTuple):
    """Why Kafka cannot be used, with the remedy; `refused` if waiting cannot help."""

    what: str
    remedy: str
    refused: bool

    def error(self, servers: str) -> BrokerError:
        """The diagnosis as an error."""
        if self.refused:
            return RefusedError(Mismatch(self.what, self.remedy))
        return BrokerError(f"cannot reach Kafka at {servers} ({self.what}): {self.remedy}")


async def diagnosed(options: Options, seconds: float) -> Diagnosis | None:
    """Finds out why a client with these options of aiokafka cannot connect; None if it does not in time."""
    try:
        async with asyncio.timeout(seconds):
            return await _diagnosed(options)
    except (KafkaError, LearnerError, OSError, EOFError, TimeoutError):
        return None


async def _diagnosed(options: Options) -> Diagnosis | None:
    addresses = addresses_of(options["bootstrap_servers"])
    problems = await asyncio.gather(*(unreachable(*address) for address in addresses))
    reached = [one for one, problem in zip(addresses, problems, strict=True) if problem is None]
    if not reached:
        return _of_addresses([problem for problem in problems if problem is not None])
    context = options.get("ssl_context") if protocol_of(options).endswith("SSL") else None
    found = await look_at(*reached[0], context)
    for problem in listener_problems(found, protocol_of(options), options.get("sasl_mechanism") or "PLAIN"):
        return Diagnosis(*problem, refused=_stays(found))
    login = await login_problem(options, *reached[0])
    if login is not None:
        return Diagnosis(*login, refused=True)
    return await _of_brokers(options, *reached[0])


def _of_addresses(problems: Sequence[Unreachable]) -> Diagnosis:
    first = problems[0]
    return Diagnosis(first.what, f"{first.remedy} (--bootstrap-servers)", refused=False)


def _stays(found: Listener) -> bool:
    """Whether what was found is a listener's nature; one that is overloaded or stopping just says nothing."""
    if found.versions is None:
        return bool(found.said or found.certificate_problem)
    return bool(found.mechanisms or not found.wants_login)


async def _of_brokers(options: Options, host: str, port: int) -> Diagnosis | None:
    brokers = await advertised(options, host, port)
    problems = [(broker, await unreachable(*broker[1:])) for broker in brokers]
    found = [broker_problem(broker, problem) for broker, problem in problems if problem is not None]
    if not found or len(found) < len(brokers):
        return None  # a client is content with one of them
    unknown = all(problem.is_name_unknown for _, problem in problems if problem is not None)
    return Diagnosis(*found[0], refused=unknown)


# --- what doctor reports one by one -----------------------------------------------------------------------


def addresses_of(servers: str | Sequence[str]) -> list[tuple[str, int]]:
    """Host and port of each of the bootstrap servers."""
    listed = servers.split(",") if isinstance(servers, str) else servers
    texts = [text.strip().rpartition(":") for text in listed]
    return [(host.strip("[]"), int(port)) for host, _, port in texts]


def protocol_of(options: Options) -> str:
    """The security protocol of aiokafka's options."""
    return str(options.get("security_protocol") or "PLAINTEXT")


def listener_problems(found: Listener, protocol: str, mechanism: str) -> Iterator[Mismatch]:
    """The differences between a listener and how the settings address it; the first is the cause."""
    yield from _strange(found)
    yield from _misprotected(found, protocol)
    yield from _mismatched_login(found, protocol, mechanism)


def _strange(found: Listener) -> Iterator[Mismatch]:
    address = f"{found.host}:{found.port}"
    if found.versions is not None:
        return
    if found.said.startswith(b"HTTP/"):
        yield Mismatch(f"a web server answers at {address}, not Kafka", "give Kafka's own port, often 9092")
    elif not found.tls:
        what = f"says {found.said[:20]!r}" if found.said else "says nothing"
        yield Mismatch(
            f"{address} takes connections, but {what} when asked as Kafka",
            "give the port of a Kafka listener, and not that of a controller",
        )


def _misprotected(found: Listener, wanted: str) -> Iterator[Mismatch]:
    address = f"{found.host}:{found.port}"
    through_tls, with_login = wanted.endswith("SSL"), wanted.startswith("SASL")
    if found.tls and not through_tls:
        yield Mismatch(
            f"{address} wants TLS, the settings do not", _protocol("SASL_SSL" if with_login else "SSL")
        )
    if through_tls and not found.tls:
        remedy = _protocol("SASL_PLAINTEXT" if with_login else "PLAINTEXT")
        yield Mismatch(
            f"{address} does not speak TLS, the settings want it", f"{remedy}, or give its TLS port"
        )
    if found.certificate_problem:
        yield Mismatch(
            f"the TLS certificates do not fit at {address}: {found.certificate_problem}",
            "give the certificates to trust with --ssl-cafile, use a host name that the broker's certificate "
            "holds, and give this client's own with --ssl-certfile and --ssl-keyfile if the broker wants one",
        )


def _mismatched_login(found: Listener, wanted: str, mechanism: str) -> Iterator[Mismatch]:
    address, with_login = f"{found.host}:{found.port}", wanted.startswith("SASL")
    if found.wants_login and not with_login:
        remedy = f"{_protocol(found.protocol)} with a user name and password ({_offered(found)})"
        yield Mismatch(f"{address} wants a login, the settings give none", remedy)
    if with_login and not found.mechanisms:
        yield Mismatch(f"{address} knows no logins, the settings want one", _protocol(found.protocol))
    elif with_login and mechanism not in found.mechanisms:
        yield Mismatch(
            f"{address} does not take logins by {mechanism}", f"set --sasl-mechanism ({_offered(found)})"
        )


def _protocol(name: str) -> str:
    return f"set --security-protocol {name}"


def _offered(found: Listener) -> str:
    return f"it takes {', '.join(found.mechanisms)}" if found.mechanisms else "it does not say which kind"


async def login_problem(options: Options, host: str, port: int) -> Mismatch | None:
    """The reason why Kafka does not accept the login; None if it does, or none is needed.

    Raises:
        KafkaError, OSError, TimeoutError: there is no connection.
    """
    if not protocol_of(options).startswith("SASL"):
        return None
    try:
        (await connect(options, host, port)).close()
    except LOGIN_ERRORS as error:
        if options.get("sasl_mechanism") == "OAUTHBEARER":
            return Mismatch(f"Kafka refuses the login by a token: {in_words(error)}", CORRECT_TOKENS)
        user = options.get("sasl_plain_username")
        return Mismatch(f"Kafka refuses user '{user}': {in_words(error)}", CORRECT_LOGIN)
    return None


async def advertised(options: Options, host: str, port: int) -> list[tuple[int, str, int]]:
    """The brokers' ids and the addresses that they tell clients to use.

    Raises:
        KafkaError, OSError, TimeoutError: there is no connection.
    """
    with closing(await connect(options, host, port)) as conn:
        _, brokers, *_ = await conn.send(describe_topics([]))
    return [(node, address, number) for node, address, number, _ in brokers]


def broker_problem(broker: tuple[int, str, int], problem: Unreachable) -> Mismatch:
    """A broker's advertised address that does not work here, as a mismatch."""
    node, host, port = broker
    return Mismatch(
        f"broker {node} tells clients to use {host}:{port}, but {problem.what}",
        "correct advertised.listeners of that broker, or run the worker where this address works",
    )


async def connect(options: Options, host: str, port: int, *, request_timeout_ms: int = _LOGIN_MS) -> Any:
    """Opens an authenticated connection to one broker.

    Raises:
        KafkaError, OSError, TimeoutError: it cannot be made; the error says why.
    """
    own = {name: options[name] for name in _CONNECTING if name in options}
    return await create_conn(host, port, request_timeout_ms=request_timeout_ms, **own)
