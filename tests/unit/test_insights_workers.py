"""The page of the workers, part by part: what is kept, and what the workers themselves say."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from learner_worker.errors import BrokerError
from learner_worker.insights.kept import BrokenLookError, KeptAnswer, NotFoundYetError
from learner_worker.insights.replicas import Patience, ReplicaAnswer, ReplicaState, ask_replicas, shard_states
from learner_worker.observability import Instruments
from learner_worker.settings import Settings
from learner_worker.worker.probes import Verdict, serving
from learner_worker.worker.replica import Replica
from tests.support.insights import EVERYWHERE

PATIENT = Patience(reach_seconds=60, answer_seconds=60)
RESTORING = {"3": {"records_left": 1_200, "records_a_second": 400, "seconds_left": 3}}


@contextlib.asynccontextmanager
async def worker(host: str = "127.0.0.1", port: int = 0, **details: Any) -> AsyncIterator[int]:
    """The HTTP of a worker that is ready, or says what keeps it from that; its port."""
    said = {"status": "ready", "shards": [], "states": {}, "restoring": {}, "refused": [], **details}
    verdict = Verdict(said["status"] == "ready", said)
    async with serving(
        host=host, port=port, healthy=lambda: verdict, ready=lambda: verdict, metrics=lambda: ""
    ) as listened:
        yield listened


@contextlib.asynccontextmanager
async def other_server(answer: bytes | None) -> AsyncIterator[int]:
    """A server that gives every connection this answer, or none; its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if answer is not None:
            writer.write(answer)
            await writer.drain()
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


def http(status: str, body: bytes, *headers: str) -> bytes:
    """An HTTP answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "Connection: close", "", ""]
    return "\r\n".join(lines).encode() + body


async def asked(*ports: int) -> list[ReplicaAnswer]:
    """What is answered at these ports, in their order."""
    answers = await ask_replicas([f"http://127.0.0.1:{port}" for port in ports], patience=PATIENT)
    return [next(one for one in answers if one.address == f"127.0.0.1:{port}") for port in ports]


async def test_workers_say_how_their_shards_are() -> None:
    """Ready or not, both are answers; of a restore what is left, and of a shard that moves both states."""
    async with (
        worker(shards=[0, 2], states={"0": "running", "2": "running"}) as first,
        worker(
            status="restoring", shards=[2, 3], states={"2": "opening", "3": "restoring"}, restoring=RESTORING
        ) as second,
        worker(status="refused", refused=["grant Read on topic learner-outcomes"]) as third,
    ):
        answers = await asked(first, second, third)
    states = [answer.state for answer in answers]
    assert [state and state.status for state in states] == ["ready", "restoring", "refused"]
    assert [state and list(state.shards) for state in states] == [[0, 2], [2, 3], []]
    assert states[2] is not None
    assert list(states[2].refused) == ["grant Read on topic learner-outcomes"]
    assert shard_states(answers) == {
        0: "running",
        2: "running; opening",
        3: "restoring, 1,200 records left, about 3 s",
    }


async def test_a_worker_that_is_starting_is_a_worker() -> None:
    """It says its status, and nothing of shards: the answer is the replica's own."""
    said = Replica(Settings(), Instruments()).questions()["/readyz"]()
    verdict = Verdict(said.good, said.details)
    async with serving(
        host="127.0.0.1", port=0, healthy=lambda: verdict, ready=lambda: verdict, metrics=lambda: ""
    ) as port:
        [answer] = await asked(port)
    assert (answer.problem, answer.state) == ("", ReplicaState("starting", refused=[]))


async def test_all_addresses_are_asked_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as may be asked: nobody answers before all are asked."""
    replicas = 200
    everyone = asyncio.Barrier(replicas)

    async def resolved(_: str, port: int, **__: object) -> list[tuple[Any, ...]]:
        kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [(*kind, (f"127.0.1.{last}", port)) for last in range(1, replicas + 1)]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await everyone.wait()
        writer.write(http("200 OK", b'{"status": "ready"}'))
        await writer.drain()
        writer.close()

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolved)
    async with await asyncio.start_server(serve, EVERYWHERE, 0, backlog=replicas) as server:
        port = server.sockets[0].getsockname()[1]
        answers = await ask_replicas([f"http://replicas.example:{port}"], patience=PATIENT)
    assert [answer.state for answer in answers] == [ReplicaState("ready")] * replicas


async def test_who_is_silent_is_said_so() -> None:
    """After the time that one may take."""
    async with other_server(None) as silent:
        [answer] = await ask_replicas([f"http://127.0.0.1:{silent}"], patience=Patience(60, 0.1))
    assert answer.problem == "does not answer within 0.1 s"


async def test_who_cannot_be_reached_is_said_so() -> None:
    """A host that takes no connection, as one that is gone does, is not waited for as long as an answer."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        at = full.getsockname()
        with contextlib.ExitStack() as clients:
            for _ in range(3):  # the kernel takes as many as wait to be accepted, and ignores the next ones
                client = clients.enter_context(socket.socket())
                client.setblocking(False)
                client.connect_ex(at)
            [answer] = await ask_replicas([f"http://127.0.0.1:{at[1]}"], patience=Patience(0.1, 60))
    assert answer.problem == "cannot be reached within 0.1 s"


async def test_who_is_no_worker_is_said_so() -> None:
    """Beside the others' answers; a redirect is not followed, and an answer without an end is not read."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and not listening: connections are refused
        closed = bound.getsockname()[1]
        async with (
            other_server(http("200 OK", b"<h1>Welcome</h1>")) as page,
            other_server(http("302 Found", b"", "Location: /elsewhere")) as redirect,
            other_server(http("200 OK", b"[" * 2_000_000)) as endless,
            other_server(b"SSH-2.0-server\r\n") as other_protocol,
            worker() as well,
        ):
            answers = await asked(page, redirect, endless, other_protocol, closed, well)
    problems = [answer.problem for answer in answers]
    assert problems[:3] == [
        "no worker: it answers something else",
        "no worker: it answers 302",
        "no worker: it answers something else",
    ]
    assert all(problem.startswith("does not answer (") for problem in problems[3:5])
    assert (answers[5].problem, shard_states(answers)) == ("", {})


async def test_every_address_of_a_name_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two replicas behind one name, once each, however often it is given; IPv4 goes before IPv6."""

    async def resolved(host: str, port: int, **_: object) -> list[tuple[Any, ...]]:
        assert host == "replicas.example"
        kind = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        v6 = (socket.AF_INET6, *kind, ("::1", port, 0, 0))
        return [v6, *((socket.AF_INET, *kind, (f"127.0.0.{last}", port)) for last in (1, 2, 1))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolved)
    async with (
        worker(shards=[0], states={"0": "running"}) as port,
        worker("127.0.0.2", port, shards=[1], states={"1": "running"}),
    ):
        answers = await ask_replicas([f"http://replicas.example:{port}"] * 2, patience=PATIENT)
    assert [answer.address for answer in answers] == [f"127.0.0.1:{port}", f"127.0.0.2:{port}"]
    assert shard_states(answers) == {0: "running", 1: "running"}


async def test_a_name_that_does_not_resolve_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the resolver's reason."""

    async def resolved(*_: object, **__: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolved)
    [answer] = await ask_replicas(["http://nobody.example:8080"])
    assert answer.problem == "the name cannot be resolved (Name or service not known)"
    monkeypatch.undo()
    [answer] = await ask_replicas(["http://no..body:8080"])
    assert answer.problem.startswith("the name cannot be resolved (")


async def test_an_answer_serves_everyone_and_goes_on_being_looked_for() -> None:
    """Who waits too long is told so; the next one gets what was found meanwhile, without another look."""
    looks, found = 0, asyncio.Event()

    async def find() -> int:
        nonlocal looks
        looks += 1
        await found.wait()
        return looks

    kept = KeptAnswer(find, seconds=3_600, patience_seconds=0)
    for _ in range(2):
        with pytest.raises(NotFoundYetError, match="look again in a moment"):
            await kept.get()
    found.set()
    await until_done(kept)
    assert (await kept.get(), await kept.get(), looks) == (1, 1, 1)


async def test_an_answer_that_is_too_old_is_looked_for_again_and_failures_are_no_exception() -> None:
    """A failure is told to everyone for as long as an answer would be; one that nobody foresaw is logged."""
    looks = iter(range(1, 5))

    async def find() -> int:
        look = next(looks)
        if look == 1:
            raise BrokerError("first")
        if look == 2:
            raise TypeError("second")
        return look

    kept = KeptAnswer(find, seconds=-1, patience_seconds=60)
    with capture_logs() as logs:
        with pytest.raises(BrokerError, match="first"):
            await kept.get()
        with pytest.raises(BrokenLookError, match=r"TypeError\('second'\)"):
            await kept.get()
        assert [await kept.get(), await kept.get()] == [3, 4]
    assert [(entry["event"], repr(entry["exc_info"])) for entry in logs] == [
        ("look.failed", "TypeError('second')")
    ]


async def until_done(kept: KeptAnswer[int]) -> None:
    """Lets the search end."""
    while True:
        try:
            await kept.get()
        except NotFoundYetError:
            await asyncio.sleep(0)
        else:
            return
