"""Probes a port: whether it answers, speaks Kafka's protocol, uses TLS, and requires a login."""

import asyncio
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from aiokafka.protocol.admin import SaslHandShakeRequest
from aiokafka.protocol.metadata import MetadataRequest

from learner_worker.refusals.wire import NotKafkaError, Versions, stream

_SECONDS = 3.0  # a listener answers a greeting at once, or never
_ILLEGAL_STATE = 34  # Kafka's ILLEGAL_SASL_STATE: the listener has no SASL
_TLS_ALERT = b"\x15"


@dataclass(frozen=True, slots=True)
class Listener:
    """A listener, as found by probing its address.

    Attributes:
        versions: the API versions that it supports; None if it does not speak Kafka's protocol.
        said: the start of its answer, if that is not Kafka's protocol.
        tls: whether it uses TLS.
        wants_login: whether it closes connections that do not authenticate.
        mechanisms: its SASL mechanisms.
        certificate_problem: why its certificate or this client's is not accepted; empty if both are.
    """

    host: str
    port: int
    versions: Versions | None
    said: bytes = b""
    tls: bool = False
    wants_login: bool = False
    mechanisms: Sequence[str] = ()
    certificate_problem: str = ""

    @property
    def protocol(self) -> str:
        """Its security protocol."""
        return ("SASL_" if self.wants_login else "") + ("SSL" if self.tls else "PLAINTEXT")


class Unreachable(NamedTuple):
    """The reason why no connection can be made, and the remedy."""

    what: str
    remedy: str
    is_name_unknown: bool = False


async def unreachable(host: str, port: int) -> Unreachable | None:
    """The reason why no connection can be made; None if one can."""
    address = f"{host}:{port}"
    try:
        async with asyncio.timeout(_SECONDS):
            await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, TimeoutError, UnicodeError):
        return Unreachable(
            f"this machine cannot resolve the name {host}", f"correct it, or add {host} to DNS", True
        )
    try:
        async with asyncio.timeout(_SECONDS):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return Unreachable(
            f"{address} does not answer", "open the firewall or the network's rules for this port"
        )
    except ConnectionRefusedError:
        return Unreachable(f"nothing listens at {address}", "start Kafka there, or correct the port")
    except OSError as error:
        return Unreachable(
            f"{address} cannot be reached ({error.strerror or error})", "check the network to that host"
        )
    writer.close()
    return None


async def look_at(host: str, port: int, context: ssl.SSLContext | None) -> Listener:
    """Probes the listener at an address.

    Args:
        context: the TLS context of this worker's settings; None if they use no TLS.
    """
    lenient = _lenient()
    said = b""
    problem = "" if context is None else await _certificate_problem(host, port, context)
    asked_for = lenient if problem else context
    for through in (None, lenient) if context is None else (asked_for, None):
        try:
            async with asyncio.timeout(_SECONDS), stream(host, port, through) as asked:
                versions = await asked.versions()
        except NotKafkaError as error:
            said = said or error.answer
        except (OSError, EOFError, TimeoutError) as error:
            problem = problem or (_refusal_of_client(error) if through else "")
        else:
            return await _with_login(
                Listener(host, port, versions, tls=through is not None, certificate_problem=problem), through
            )
    tls = said.startswith(_TLS_ALERT) or bool(problem)
    return Listener(host, port, None, said, tls=tls, certificate_problem=problem)


def _lenient() -> ssl.SSLContext:
    """A TLS context that trusts every certificate: only to detect TLS, never to send secrets."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def _certificate_problem(host: str, port: int, context: ssl.SSLContext) -> str:
    """The reason why a handshake fails on a certificate; empty if it does not."""
    try:
        async with asyncio.timeout(_SECONDS), stream(host, port, context) as asked:
            await asked.versions()
    except ssl.SSLCertVerificationError as error:
        return str(error.verify_message).rstrip(".")
    except ssl.SSLError as error:
        return _refusal_of_client(error)
    except (OSError, EOFError, TimeoutError, NotKafkaError):
        return ""
    return ""


def _refusal_of_client(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or ""
    return "the broker wants this client's certificate" if "CERTIFICATE" in reason else ""


async def _with_login(found: Listener, context: ssl.SSLContext | None) -> Listener:
    versions = found.versions or {}
    wants = not await _serves_anybody(found, context)
    mechanisms: Sequence[str] = ()
    try:
        async with asyncio.timeout(_SECONDS), stream(found.host, found.port, context) as asked:
            answer = await asked.ask(SaslHandShakeRequest("PLAIN"), versions)
            mechanisms = () if answer.error_code == _ILLEGAL_STATE else answer.enabled_mechanisms
    except (OSError, EOFError, TimeoutError, NotImplementedError):
        pass  # it does not support SASL
    return Listener(
        found.host,
        found.port,
        versions,
        tls=found.tls,
        wants_login=wants,
        mechanisms=tuple(mechanisms),
        certificate_problem=found.certificate_problem,
    )


async def _serves_anybody(found: Listener, context: ssl.SSLContext | None) -> bool:
    try:
        async with asyncio.timeout(_SECONDS), stream(found.host, found.port, context) as asked:
            await asked.ask(MetadataRequest([]), found.versions or {})
    except TimeoutError:
        return True  # an overloaded broker, too, is late
    except (OSError, EOFError):
        return False
    return True
