"""Finds free ports, and waits until a server answers."""

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

# Below every ephemeral range: a client that dials a stopped node's port again and again could otherwise be
# given that very port as its own, connect to itself and keep the node from ever coming back.
FIRST_PORT, LAST_PORT = 20_000, 32_000  # below the ephemeral ports of Linux, from 32,768: no client takes one
POLL_SECONDS = 0.05  # between two attempts: short beside a start
PROBE_SECONDS = 5.0  # a broker on this machine answers at once if it is up


def free_ports(count: int) -> list[int]:
    """Distinct free ports of 127.0.0.1; they are chosen at random, not reserved."""
    ports: set[int] = set()
    while len(ports) < count:
        port = FIRST_PORT + secrets.randbelow(LAST_PORT - FIRST_PORT)
        if _is_free(port):
            ports.add(port)
    return sorted(ports)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def is_true_within(seconds: float, condition: Callable[[], bool]) -> bool:
    """Waits until a condition holds; False after the time limit; passes on the condition's errors."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def accepts(server: str) -> bool:
    """Whether a server accepts connections at host:port."""
    host, _, port = server.strip().rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_SECONDS).close()
    except (OSError, ValueError):
        return False
    return True


def live_nodes(bootstrap_servers: str) -> int:
    """How many Kafka nodes the cluster lists as alive; 0 while nothing answers.

    Asks from a thread of its own, so that it also works inside a running event loop.
    """
    if not any(accepts(server) for server in bootstrap_servers.split(",")):
        return 0
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="broker-probe") as thread:
        return thread.submit(asyncio.run, _listed_nodes(bootstrap_servers)).result()


async def _listed_nodes(bootstrap_servers: str) -> int:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            await admin.start()
            return len((await admin.describe_cluster())["brokers"])
    except (KafkaError, OSError, TimeoutError):
        return 0
    finally:
        with contextlib.suppress(KafkaError, OSError):
            await admin.close()
