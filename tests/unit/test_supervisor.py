"""Several processes as one replica: their metrics in one page, how many there are, how they are started."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from learner_worker.commands.options import arguments_of
from learner_worker.contract.fields import ShardId
from learner_worker.errors import ConfigurationError
from learner_worker.group.placement import Claim, place
from learner_worker.settings import load_settings
from learner_worker.supervisor import processors
from learner_worker.supervisor.exposition import joined
from learner_worker.supervisor.processors import affordable_processes
from learner_worker.worker.parent_link import JOIN, STOP, Lineage, ParentMessage

MIB = 1024**2
WAIT_SECONDS = 60.0  # many times what it takes, also on a busy machine
BUSY = """
import asyncio, sys
from learner_worker.worker.parent_link import Lineage, ParentLink
async def main():
    ParentLink(Lineage.read(sys.argv[1])).serve({}, lambda: None)
    print("busy", flush=True)
    while True:
        pass
asyncio.run(main())
"""
ENDED = """
import asyncio, sys
from learner_worker.worker.parent_link import Lineage, ParentLink
async def main():
    ParentLink(Lineage.read(sys.argv[1])).serve({}, lambda: None)
asyncio.run(main())
print("ended", flush=True)
sys.stdin.read()
"""
SHARDS = [ShardId(number) for number in range(12)]


def page(events: int, shard: str) -> str:
    """The metrics of one process, as it serves them."""
    registry = CollectorRegistry()
    Counter("events", "Events read.", ["topic"], registry=registry).labels('a{"b} c').inc(events)
    Gauge("lag", "Lag.", registry=registry).set(events)
    Histogram("seconds", "Duration.", buckets=(1, 2), registry=registry).observe(1.5)
    Gauge("shards", "Shards.", ["shard"], registry=registry).labels(shard).set(1)
    return generate_latest(registry).decode()


def test_joined_metrics_are_each_process_own_with_its_number() -> None:
    """Prometheus' parser reads the same families and values, each with its process as a further label."""
    pages = {"0": page(3, "a"), "1": page(5, "b")}

    together = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(joined(pages))
        for sample in family.samples
    }

    expected = {
        (sample.name, frozenset({**sample.labels, "process": process}.items())): sample.value
        for process, text in pages.items()
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert together == expected


def test_every_family_stands_once_in_one_piece() -> None:
    """Prometheus refuses a page in which a family is described twice."""
    lines = joined({"0": page(3, "a"), "1": page(5, "b")}).splitlines()

    described = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    sampled = [line.split("{")[0].removesuffix("_bucket") for line in lines if not line.startswith("#")]

    assert len(described) == len(set(described))
    assert sampled.count("seconds") == sum(name == "seconds" for name in sampled[slice(*_span(sampled))])


def _span(names: list[str]) -> tuple[int, int]:
    """From the first to the last line of the histogram."""
    own = [index for index, name in enumerate(names) if name.startswith("seconds")]
    assert all(names[index].startswith("seconds") for index in range(own[0], own[-1] + 1))
    return own[0], own[-1] + 1


UNIT = "0::/system.slice/learner.service"
OLD_UNIT = "4:memory:/system.slice/learner.service\n3:cpu,cpuacct:/system.slice/learner.service\n0::/"


@pytest.mark.parametrize(
    ("files", "membership", "expected"),
    [
        ({}, None, 8),
        ({"cpu.max": "max 100000", "memory.max": "max"}, "0::/", 8),
        ({"cpu.max": "250000 100000", "memory.max": str(4096 * MIB)}, "0::/", 2),
        ({"cpu.max": "50000 100000"}, None, 1),
        ({"cpu.max": "400000 100000", "memory.max": str(1152 * MIB)}, "0::/", 2),
        ({"memory.max": str(1024 * MIB)}, "0::/", 1),
        ({"memory.max": str(100 * MIB)}, "0::/", 1),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, "3:cpu:/docker/1", 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None, 8),
        ({"system.slice/learner.service/cpu.max": "200000 100000"}, UNIT, 2),
        ({"system.slice/memory.max": str(1664 * MIB), "memory.max": "max"}, UNIT, 3),
        ({"memory/system.slice/learner.service/memory.limit_in_bytes": str(1664 * MIB)}, OLD_UNIT, 3),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, OLD_UNIT, 4),
        ({"cpu.max": "300000 100000", "x/cpu.max": "100000 100000"}, "0::/../x", 3),
    ],
)
def test_auto_is_what_the_cgroup_allows(
    files: dict[str, str],
    membership: str | None,
    expected: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Quota and memory of its cgroup and of those above it, of either version, less the parent's share.

    For a unit of systemd, and for a container, whether it sees its cgroup as the root or the host's path.
    """
    monkeypatch.setattr(processors, "_available", lambda: 8.0)
    own = tmp_path / "membership"
    if membership is not None:
        own.write_text(f"{membership}\n", encoding="ascii")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n", encoding="ascii")

    assert affordable_processes(tmp_path, own) == expected


def test_number_of_processes_is_a_setting() -> None:
    """A number or `auto`, and one without it; anything else is named."""
    assert load_settings({}).processes == 1
    assert load_settings({"processes": "3"}).processes == 3
    assert load_settings({"processes": "auto"}).processes is None
    for wrong in ("0", "257", "many"):
        with pytest.raises(ConfigurationError, match="--processes"):
            load_settings({"processes": wrong})


def test_flags_reach_a_process_as_they_were_given() -> None:
    """A switch stays a switch, also one that is off; what was not given stays away."""
    flags = {"topic_prefix": "a b", "traces": True, "advice_log": False, "log_level": None}

    assert arguments_of(flags) == ["--topic-prefix=a b", "--traces", "--no-advice-log"]


def test_lineage_survives_the_command_line() -> None:
    """An instance id may hold a comma."""
    lineage = Lineage("parent", "a,b-0", 7)

    assert Lineage.read(str(lineage)) == lineage


@contextmanager
def child(program: str, first_line: bytes) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """A process that has a parent here and has printed its first line, and the parent's end of the socket."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(Lineage("parent", "w-0", theirs.fileno()))],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
    with process, ours:
        assert process.stdout is not None
        assert process.stdout.readline() == first_line
        try:
            yield process, ours
        finally:
            process.kill()


def test_a_process_ends_with_its_parent_even_in_the_middle_of_work() -> None:
    """The socket ends with the parent, however that ends; a loop that is busy does not keep the process."""
    with child(BUSY, b"busy\n") as (process, ours):
        ours.close()
        assert process.wait(WAIT_SECONDS) == 1


def test_a_process_that_cannot_listen_to_its_parent_any_more_ends() -> None:
    """Whatever ends the thread that listens: nobody could stop such a process, which holds its folder."""
    with child(BUSY, b"busy\n") as (process, ours):
        ours.sendall(b"no JSON\n")
        assert process.wait(WAIT_SECONDS) == 1


def test_a_word_after_the_end_of_the_loop_changes_nothing() -> None:
    """A process that is about to end by itself keeps its exit code."""
    with child(ENDED, b"ended\n") as (process, ours):
        for message in (ParentMessage(0, STOP), ParentMessage(0, JOIN), ParentMessage(1, "/healthz")):
            ours.sendall(msgspec.json.encode(message) + b"\n")
        assert b'"stuck"' in ours.makefile("rb").readline()
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(WAIT_SECONDS) == 0


def claims(*members: tuple[str, str]) -> dict[str, Claim]:
    """Members that keep one standby for each shard, each with its parent."""
    return {
        name: Claim(process=name, name=name, siblings=parent, standby_replicas=1) for name, parent in members
    }


def test_a_sibling_is_no_standby() -> None:
    """Two machines with two processes each: every shard's standby is on the other machine."""
    members = claims(("a-0", "a"), ("a-1", "a"), ("b-0", "b"), ("b-1", "b"))

    placed = place(SHARDS, members)

    for name, placement in placed.items():
        assert len(placement.owned) == len(placement.standbys) == 3
        for shard in placement.standbys:
            [owner] = [other for other, its in placed.items() if shard in its.owned]
            assert owner[0] != name[0]


def test_processes_of_one_parent_alone_have_no_standbys() -> None:
    """A standby that ends with its owner is none: it would only cost."""
    placed = place(SHARDS[:4], claims(("a-0", "a"), ("a-1", "a")))

    assert all(not placement.standbys for placement in placed.values())
    assert sorted(len(placement.owned) for placement in placed.values()) == [2, 2]


def test_several_standbys_of_a_shard_are_not_siblings() -> None:
    """Of three machines with two processes, the two standbys of a shard are on the two others."""
    members = {
        f"{parent}-{number}": Claim(
            process=f"{parent}{number}", name=f"{parent}-{number}", siblings=parent, standby_replicas=2
        )
        for parent in "abc"
        for number in range(2)
    }

    placed = place(SHARDS, members)

    for shard in SHARDS:
        machines = [name[0] for name, its in placed.items() if shard in its.owned | its.standbys]
        assert sorted(machines) == ["a", "b", "c"]
