"""Asks the workers themselves for the states of their shards, over their HTTP."""

import asyncio
import socket
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import msgspec
from aiohttp import (
    ClientError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    ConnectionTimeoutError,
    TCPConnector,
)

_MOST_ADDRESSES = (
    200  # more replicas than any group has: a name that resolves to all of a network is a mistake
)
_MOST_BYTES = 2**20  # more than a worker says of thousands of restoring shards
_HTTP = 80  # the port of an address that names none
_ANSWERS = frozenset({HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE})
"""What `/readyz` answers with: ready, and not ready."""


class Patience(NamedTuple):
    """How long to wait for a replica: until it is resolved and connected, and until it has answered."""

    reach_seconds: float
    answer_seconds: float


_PATIENCE: Final = Patience(
    reach_seconds=2.0,  # to resolve a name, and then to connect: takes milliseconds if the replica is up
    answer_seconds=5.0,  # longer than a parent waits for a stuck process before it answers
)


class RestoreState(msgspec.Struct, frozen=True):
    """How far a shard's restore is; rates are known once two reports were made."""

    records_left: int
    records_a_second: int | None = None
    seconds_left: int | None = None


class ReplicaState(msgspec.Struct, frozen=True):
    """What a worker's `/readyz` says: its status, its shards' states by number, and what Kafka refuses.

    A worker that is starting or rebuilding does not name its shards.
    """

    status: str
    shards: Sequence[int] = ()
    states: Mapping[int, str] = {}
    restoring: Mapping[int, RestoreState] = {}
    refused: Sequence[str] = ()


class ReplicaAnswer(NamedTuple):
    """An address, and what was answered there, or why nothing was."""

    address: str
    state: ReplicaState | None = None
    problem: str = ""


class _Address(NamedTuple):
    """An address of a worker, as `10.0.0.7:8080`, and what its URL calls it."""

    place: str
    called: str


_decode = msgspec.json.Decoder(ReplicaState, strict=False).decode


async def ask_replicas(urls: Sequence[str], *, patience: Patience = _PATIENCE) -> Sequence[ReplicaAnswer]:
    """Asks every address of every URL at the same time."""
    found = await asyncio.gather(*(_addresses_of(url, patience.reach_seconds) for url in urls))
    unresolved = [answer for answer in found if isinstance(answer, ReplicaAnswer)]
    addresses = sorted({one for several in found if isinstance(several, list) for one in several})
    timeout = ClientTimeout(patience.answer_seconds, sock_connect=patience.reach_seconds)
    async with ClientSession(timeout=timeout, connector=TCPConnector(limit=_MOST_ADDRESSES)) as session:
        asked = (_ask(session, one, patience) for one in addresses[:_MOST_ADDRESSES])
        answers = await asyncio.gather(*asked)
    left_out = [
        ReplicaAnswer(one.place, problem=f"not asked: more than {_MOST_ADDRESSES} addresses")
        for one in addresses[_MOST_ADDRESSES:]
    ]
    return [*answers, *left_out, *unresolved]


def shard_states(answers: Sequence[ReplicaAnswer]) -> dict[int, str]:
    """Of each shard what its workers say of it; two may, while it moves."""
    said: dict[int, list[str]] = {}
    for state in (answer.state for answer in answers if answer.state is not None):
        for shard, word in state.states.items():
            said.setdefault(shard, []).append(_in_words(word, state.restoring.get(shard)))
    return {shard: "; ".join(words) for shard, words in said.items()}


def _in_words(word: str, restore: RestoreState | None) -> str:
    if restore is None:
        return word
    left = f"{word}, {restore.records_left:,} records left"
    return left if restore.seconds_left is None else f"{left}, about {restore.seconds_left:,} s"


async def _addresses_of(url: str, seconds: float) -> "list[_Address] | ReplicaAnswer":
    """The addresses of a URL's host, IPv4's alone if it has any: both kinds lead to the same workers."""
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(seconds):
            found = await loop.getaddrinfo(parts.hostname, parts.port or _HTTP, type=socket.SOCK_STREAM)
    except TimeoutError:
        return ReplicaAnswer(url, problem=f"the name was not resolved within {seconds:g} s")
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        return ReplicaAnswer(url, problem=f"the name cannot be resolved ({reason})")
    families = {family for family, *_ in found}
    wanted = socket.AF_INET if socket.AF_INET in families else socket.AF_INET6
    return [_Address(_place(*at[:2]), parts.netloc) for family, *_, at in found if family == wanted]


def _place(ip: object, port: object) -> str:
    return f"[{ip}]:{port}" if ":" in str(ip) else f"{ip}:{port}"


async def _ask(session: ClientSession, address: _Address, patience: Patience) -> ReplicaAnswer:
    place, host = address.place, {"Host": address.called}
    try:
        async with session.get(f"http://{place}/readyz", headers=host, allow_redirects=False) as response:
            if response.status not in _ANSWERS:
                return ReplicaAnswer(place, problem=f"no worker: it answers {response.status}")
            state = _decode(await _body(response))
    except ConnectionTimeoutError:
        return ReplicaAnswer(place, problem=f"cannot be reached within {patience.reach_seconds:g} s")
    except TimeoutError:
        return ReplicaAnswer(place, problem=f"does not answer within {patience.answer_seconds:g} s")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ReplicaAnswer(place, problem="no worker: it answers something else")
    except (ClientError, OSError) as error:
        return ReplicaAnswer(place, problem=f"does not answer ({error})")
    return ReplicaAnswer(place, state)


async def _body(response: ClientResponse) -> bytes:
    """The body, at most a megabyte of it: what is longer is cut, and is then no JSON."""
    body = bytearray()
    async for part in response.content.iter_any():
        body += part
        if len(body) > _MOST_BYTES:
            break
    return bytes(body[:_MOST_BYTES])
