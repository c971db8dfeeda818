"""Processes of a replica that fail, hang or say nonsense: what their parent does, and what it answers."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from learner_worker.commands.options import arguments_of
from learner_worker.errors import ConfigurationError, LearnerError
from learner_worker.settings import Settings, load_settings
from learner_worker.store.leave_marker import request_leave
from learner_worker.supervisor import child as child_module
from learner_worker.supervisor import pages as pages_module
from learner_worker.supervisor import supervisor as supervisor_module
from learner_worker.supervisor.child import STARTING, Child, ProcessEnd
from learner_worker.supervisor.children import make_children
from learner_worker.supervisor.pages import SharedPages
from learner_worker.supervisor.supervisor import Supervisor
from learner_worker.worker import stopping as stopping_module
from learner_worker.worker.parent_link import JOIN, STOP, Answer, Lineage
from learner_worker.worker.probes import Verdict
from tests.support.conditions import becomes_true

WAIT_SECONDS = 120.0  # many times what it takes, also on a busy machine
READY = {"status": "ready", "shards": [0], "states": {"0": "running"}, "restoring": {}, "refused": []}
LINKED = """
import asyncio, os, sys, time
from learner_worker.worker import parent_link
from learner_worker.worker.parent_link import Answer, Lineage, ParentLink
parent_link._ANSWER_SECONDS = 600
stop = asyncio.Event()
def hang():
    while not os.path.exists(sys.argv[2]):
        time.sleep(0.01)
    return Answer(True)
def fail():
    raise KeyError("no such shard")
async def main():
    link = ParentLink(Lineage.read(sys.argv[1]))
    answers = {"/readyz": lambda: Answer(True, {"status": "ready"}), "/healthz": fail, "/hang": hang}
    link.serve(answers, stop.set)
    await stop.wait()
asyncio.run(main())
"""
GARBAGE = """
import os, sys, time
os.write(int(sys.argv[1].rsplit(",", 1)[1]), b"no JSON\\n")
while os.read(int(sys.argv[1].rsplit(",", 1)[1]), 1):
    pass
sys.exit(7)
"""


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Limits of stopping that were set: in a test no timer may end the process."""
    begun: list[float] = []
    monkeypatch.setattr(stopping_module, "end_by_force_after", begun.append)
    monkeypatch.setattr(supervisor_module, "_FIRST_PAUSE_SECONDS", 0.001)
    return begun


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A replica without HTTP."""
    return load_settings({"state_dir": str(tmp_path), "http_port": "none", "bootstrap_servers": "nowhere:1"})


class PlayedChild:
    """A process that is always ready, and runs until it is stopped, or ends as it is told to.

    Args:
        ends: how its first runs end.
        when: what these wait for before they end.
    """

    def __init__(self, number: int, *ends: ProcessEnd, when: Callable[[], bool] = lambda: True) -> None:
        self.number = number
        self.said: list[str] = []
        self.starts = 0
        self.is_loaded = True
        self._ends = list(ends)
        self._when = when
        self._stopped = asyncio.Event()

    async def run(self) -> ProcessEnd:
        self.starts += 1
        if self._ends:
            await becomes_true(self._when, seconds=WAIT_SECONDS)
            return self._ends.pop(0)
        await self._stopped.wait()
        return ProcessEnd(0, None)

    async def ask(self, _: str) -> Answer:
        return Answer(True, READY)

    def let_join(self) -> None:
        self.said.append(JOIN)

    def stop(self) -> None:
        self.said.append(STOP)
        self._stopped.set()


async def supervised(settings: Settings, children: Sequence[Any], stopping: asyncio.Event) -> None:
    """Runs the processes; fails if these do not end."""
    async with asyncio.timeout(WAIT_SECONDS):
        await Supervisor(settings, children).live(stopping)


def linked(program: str = LINKED, end_of_hanging: Path = Path("/")) -> Child:
    """A real process that says to its parent what the program says."""

    def command(descriptor: int, _: bool) -> list[str]:
        return ["-c", program, str(Lineage("parent", "w-0", descriptor)), str(end_of_hanging)]

    return Child(0, command)


@asynccontextmanager
async def running(child: Child) -> AsyncIterator[None]:
    """Starts the process and waits until it answers; at the end it has no parent any more, and ends."""
    async with asyncio.timeout(WAIT_SECONDS):
        task = asyncio.create_task(child.run())
        try:
            while not child.is_loaded:
                await child.ask("/readyz")
                await asyncio.sleep(0.001)
            yield
        finally:
            child.hang_up()
            await task


# --- starts that fail, and ends ------------------------------------------------------------------------


async def test_a_process_that_cannot_be_started_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No memory, no process id left, no interpreter: an end like others, and the next start is a first."""
    firsts: list[bool] = []

    def command(_: int, first: bool) -> list[str]:
        firsts.append(first)
        return ["-c", ""]

    child = Child(3, command)
    with monkeypatch.context() as broken:
        broken.setattr(sys, "executable", "/no/such/interpreter")
        end = await child.run()

    assert end == ProcessEnd(1, "process 3 cannot be started (No such file or directory)")
    assert await child.run() == ProcessEnd(0, None)
    assert await child.run() == ProcessEnd(0, None)
    assert firsts == [True, True, False]


async def test_a_process_that_says_nonsense_is_let_go_and_waited_for() -> None:
    """Nobody could ask or stop it any more: its socket is closed, so that it ends, and the reason is told."""
    async with asyncio.timeout(WAIT_SECONDS):
        end = await linked(GARBAGE).run()

    assert end.code == 7
    assert end.sentence is not None
    assert end.sentence.startswith("process 0 said what cannot be read")


async def test_failures_after_the_start_are_started_again_with_growing_pauses(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once all were ready, a process that fails comes back, and its siblings work on."""
    monkeypatch.setattr(supervisor_module, "_LONGEST_PAUSE_SECONDS", 0.004)
    monkeypatch.setattr(pages_module, "_LOOK_SECONDS", 0.001)
    stopping = asyncio.Event()
    failure = ProcessEnd(1, "cannot be started")
    failing = PlayedChild(1, *4 * [failure], when=lambda: JOIN in sibling.said)
    sibling = PlayedChild(0)

    with capture_logs() as lines:
        task = asyncio.create_task(supervised(settings, [sibling, failing], stopping))
        await becomes_true(lambda: failing.starts == 5, seconds=WAIT_SECONDS)
        assert sibling.said == [JOIN]
        stopping.set()
        await task

    ended = [line for line in lines if line["event"] == "process.ended"]
    assert [line["restart_seconds"] for line in ended] == [0.001, 0.002, 0.004, 0.004]
    assert {(line["process"], line["reason"]) for line in ended} == {(1, "cannot be started")}
    assert sibling.starts == 1


@pytest.mark.parametrize(("code", "error"), [(1, LearnerError), (2, ConfigurationError)])
async def test_what_a_restart_cannot_mend_stops_all_in_order_and_within_limits(
    code: int, error: type[LearnerError], settings: Settings, limits: list[float]
) -> None:
    """A first failure, and a refusal: siblings finish their work, and one that hangs does not hold it up."""
    sibling = PlayedChild(0)

    with pytest.raises(error, match="the topics are missing"):
        await supervised(
            settings, [sibling, PlayedChild(1, ProcessEnd(code, "the topics are missing"))], asyncio.Event()
        )

    assert STOP in sibling.said
    assert limits == [stopping_module.STOP_SECONDS + stopping_module.CLOSE_SECONDS + 5]


async def test_a_process_that_is_refused_alone_leaves_its_siblings_at_work(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once all were ready, one that cannot use its folder is started again until it can."""
    monkeypatch.setattr(pages_module, "_LOOK_SECONDS", 0.001)
    stopping, refusal = asyncio.Event(), ProcessEnd(2, "the folder is read-only")
    siblings = [PlayedChild(0), PlayedChild(1, refusal, when=lambda: refused.starts > 2)]
    refused = PlayedChild(2, refusal, refusal, when=lambda: JOIN in refused.said)

    task = asyncio.create_task(supervised(settings, [*siblings, refused], stopping))
    await becomes_true(lambda: siblings[1].starts == 2, seconds=WAIT_SECONDS)
    assert [child.said for child in siblings] == [[JOIN], [JOIN]]
    stopping.set()
    await task

    assert (siblings[0].starts, refused.starts) == (1, 3)


async def test_processes_that_are_all_refused_later_end(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Topics that changed while all worked: no process is left, and a restart mends nothing."""
    monkeypatch.setattr(pages_module, "_LOOK_SECONDS", 0.001)
    refusals = 20 * [ProcessEnd(2, "other partition counts")]
    children = [PlayedChild(number, *refusals, when=lambda: JOIN in children[1].said) for number in range(2)]

    with pytest.raises(ConfigurationError, match="other partition counts"):
        await supervised(settings, children, asyncio.Event())

    assert [child.said for child in children] == [[JOIN, STOP], [JOIN, STOP]]


async def test_an_error_of_the_parent_itself_stops_the_processes_first(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, limits: list[float]
) -> None:
    """It is raised at the end: until then the processes make their work durable."""

    async def broken(*_: Any) -> None:
        raise KeyError("a fault")

    monkeypatch.setattr(SharedPages, "keep_asking", broken)
    children = [PlayedChild(0), PlayedChild(1)]

    with pytest.raises(KeyError, match="a fault"):
        await supervised(settings, children, asyncio.Event())

    assert [child.said for child in children] == [[STOP], [STOP]]
    assert len(limits) == 1


async def test_processes_are_stopped_even_if_they_cannot_be_told_to_leave(settings: Settings) -> None:
    """A folder that is gone: the request to leave is lost, the stop is not, and the error is told."""
    request_leave(settings.state_dir)
    children, stopping = [PlayedChild(0), PlayedChild(1)], asyncio.Event()
    stopping.set()

    with pytest.raises(ConfigurationError, match="process-0"):
        await supervised(settings, children, stopping)

    assert [child.said for child in children] == [[STOP], [STOP]]


# --- answers -------------------------------------------------------------------------------------------


async def test_a_process_that_hangs_is_stuck_and_its_parent_goes_on_answering(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its loop is blocked: `/healthz` and `/readyz` fail, with the answers of its siblings."""
    monkeypatch.setattr(child_module, "_ANSWER_SECONDS", WAIT_SECONDS)
    child = linked(end_of_hanging=tmp_path / "end")
    siblings: list[Any] = [child, PlayedChild(1)]
    pages = SharedPages(siblings)
    async with running(child):
        before = await pages.ready()
        hanging = asyncio.create_task(child.ask("/hang"))
        await asyncio.sleep(0)  # the question is on its way
        monkeypatch.setattr(child_module, "_ANSWER_SECONDS", 0.1)
        healthy, ready = await pages.healthy(), await pages.ready()
        hanging.cancel()
        (tmp_path / "end").touch()

    assert before.good
    assert healthy == Verdict(False, {"status": "stuck", "processes": {"0": {"status": "stuck"}, "1": READY}})
    assert (ready.good, ready.details["status"], ready.details["shards"]) == (False, "stuck", [0])


async def test_a_probe_that_raises_is_answered_and_the_process_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its parent has to be able to ask and to stop it after that, too."""
    monkeypatch.setattr(child_module, "_ANSWER_SECONDS", WAIT_SECONDS)
    child = linked()
    async with running(child):
        failed = await child.ask("/healthz")
        unknown = await child.ask("/of-another-version")
        ready = await child.ask("/readyz")

    assert failed == unknown == Answer(False, {"status": "failed"})
    assert ready == Answer(True, {"status": "ready"})


async def test_all_processes_are_asked_over_one_port(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The supervisor's HTTP: readiness and health of all, and 503 while one is only being started."""
    served = settings.model_copy(update={"http_port": 0})
    children: list[Any] = [PlayedChild(0), PlayedChild(1)]
    found: dict[str, tuple[int, Mapping[str, Any]]] = {}
    stopping = asyncio.Event()
    with capture_logs() as lines:
        task = asyncio.create_task(supervised(served, children, stopping))
        await becomes_true(
            lambda: any(line["event"] == "http.listening" for line in lines), seconds=WAIT_SECONDS
        )
        [url] = [line["url"] for line in lines if line["event"] == "http.listening"]
        async with aiohttp.ClientSession() as session:
            for path in ("/healthz", "/readyz"):
                async with session.get(url + path) as response:
                    found[path] = response.status, await response.json()
            monkeypatch.setattr(children[1], "ask", _starting)
            async with session.get(url + "/readyz") as response:
                assert response.status == 503
        stopping.set()
        await task

    assert found["/healthz"][0] == found["/readyz"][0] == 200
    assert found["/readyz"][1]["processes"].keys() == {"0", "1"}


async def _starting(_: str) -> Answer:
    return STARTING


# --- command lines -------------------------------------------------------------------------------------


def test_a_process_has_its_parents_flags_and_what_is_its_own(settings: Settings) -> None:
    """Its own come last, where they stand; the topics are taken over once, at the first start."""
    named = settings.model_copy(update={"group_instance_id": "w"})
    flags = arguments_of({"http_port": "8080", "traces": True})

    _, second = make_children(named, 2, flags, take_over=True)
    first_start, next_start = (second.command(7, first) for first in (True, False))

    assert first_start[:4] == ["-m", "learner_worker", "run", "--take-over"]
    assert next_start[3] == "--child-of"
    assert next_start[4].endswith(",w-1,7")
    assert next_start[5:7] == ["--http-port=8080", "--traces"]
    assert set(next_start[7:]) == {
        f"--state-dir={settings.state_dir / 'process-1'}",
        "--http-port=none",
        "--processes=1",
        "--group-instance-id=w-1",
    }
