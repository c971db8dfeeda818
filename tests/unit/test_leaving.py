"""Leaving the group for good: who is removed, what is said, and what the marker in the state folder does."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from aiokafka.errors import CoordinatorNotAvailableError, GroupAuthorizationFailedError, UnknownMemberIdError
from aiokafka.protocol.group import LeaveGroupRequest_v1
from aiokafka.protocol.types import Array, Bytes, Int16, Int32, Schema, String

from learner_worker.errors import BrokerError, ConfigurationError, LearnerError
from learner_worker.group.departure import leave_group, remove_instance
from learner_worker.group.placement import Claim
from learner_worker.kafka.admin import Cluster, GroupMember
from learner_worker.kafka.connection import Connection
from learner_worker.operations.stopping import ask_to_leave, stop_for_good
from learner_worker.refusals.wire import DESCRIBE_GROUPS, OldKafkaError, describe_instances
from learner_worker.store.leave_marker import leave_requested
from learner_worker.store.state_folder import lock_owner, locked_state_folder
from tests.support.wiring import PlayedClients, QuietConsumer


class PlayedAdmin:
    """An admin client of aiokafka whose coordinator answers LeaveGroup with an error code, or `answer`."""

    def __init__(self, code: int = 0, answer: Any = None) -> None:
        self._answer = answer or SimpleNamespace(error_code=code)
        self.sent: list[tuple[Any, int]] = []

    async def find_coordinator(self, group_id: str) -> int:
        assert group_id == "g"
        return 7

    async def _send_request(self, request: Any, node: int) -> Any:
        self.sent.append((request, node))
        return self._answer


def metadata(name: str, siblings: str = "") -> bytes:
    """What a member joins with, its claim in it."""
    claim = msgspec.json.encode(Claim(process="p", name=name, where=f"host {name}", siblings=siblings))
    return bytes(ConsumerProtocolMemberMetadata(0, ["t"], claim).encode())


def member(name: str, siblings: str = "") -> GroupMember:
    """A member of the group, with its claim."""
    return GroupMember(f"id-{name}", f"address {name}", metadata(name, siblings))


class PlayedGroup:
    """A group of static members that rebalances once, seen by an admin; an old Kafka names no instances."""

    def __init__(self, *names: str, old: bool = False, error: Exception | None = None) -> None:
        self.show([member(name) for name in names])
        self._old = old
        self._error = error
        self.removed: list[str] = []

    def show(self, members: list[GroupMember]) -> None:
        """Has the group show these members, and their claims after its rebalance."""
        self._members = members
        self.is_rebalancing = True

    async def static_members(self, group_id: str) -> list[GroupMember]:
        assert group_id == "g"
        if self._old:
            raise OldKafkaError("too old")
        names = [each.member_id.removeprefix("id-") for each in self._members]
        return [GroupMember(f"id-{name}", f"address {name}", b"", b"", name) for name in names]

    async def stable_members(self, group_id: str) -> list[GroupMember] | None:
        assert group_id == "g"
        if self.is_rebalancing:
            self.is_rebalancing = False
            return None
        return self._members

    async def remove_member(self, group_id: str, member_id: str) -> None:
        assert group_id == "g"
        if self._error is not None:
            raise self._error
        self.removed.append(member_id)


# --- the request -------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, UnknownMemberIdError.errno])
async def test_leave_group_goes_to_the_coordinator_with_the_member_id(code: int) -> None:
    """One request, which names the member; a member that the group has removed already is no error."""
    admin = PlayedAdmin(code)
    await Cluster(admin, Connection("nowhere:1"), "c", 1).remove_member("g", "m-1")
    [(request, node)] = admin.sent
    built = request.build(LeaveGroupRequest_v1)
    assert (built.group, built.member_id, node) == ("g", "m-1", 7)


async def test_a_refused_leave_group_is_raised() -> None:
    """This user may not read the group."""
    admin = PlayedAdmin(GroupAuthorizationFailedError.errno)
    with pytest.raises(GroupAuthorizationFailedError):
        await Cluster(admin, Connection("nowhere:1"), "c", 1).remove_member("g", "m-1")


@pytest.mark.parametrize(("error", "left"), [(None, True), (CoordinatorNotAvailableError(), False)])
async def test_a_worker_that_cannot_leave_ends_nevertheless(error: Exception | None, left: bool) -> None:
    """Its work is durable: the shards wait for the session timeout, and the log says why."""
    clients: Any = PlayedClients(QuietConsumer())
    clients.cluster = PlayedGroup(error=error)
    assert await leave_group(clients.administrator, "g", "m-1") is left


_TEXT = String("utf-8")
_ANSWER = Schema(
    ("throttle_ms", Int32),
    (
        "groups",
        Array(
            ("code", Int16),
            *((name, _TEXT) for name in ("group", "state", "protocol_type", "protocol")),
            (
                "members",
                Array(
                    *((name, _TEXT) for name in ("member_id", "instance_id", "client_id", "host")),
                    *((name, Bytes) for name in ("metadata", "assignment")),
                ),
            ),
            ("operations", Int32),
        ),
    ),
)
"""DescribeGroups, version 4, as Kafka's documentation has it."""


@pytest.mark.parametrize("rebalancing", [True, False])
async def test_static_members_are_known_also_in_a_rebalance(rebalancing: bool) -> None:
    """By their instance ids; Kafka then keeps metadata and assignments to itself. Others are left out."""
    content = (b"", b"") if rebalancing else (metadata("one"), b"assigned")
    state = "PreparingRebalance" if rebalancing else "Stable"
    members = [("m-1", "one", "c", "/10.0.0.1", *content), ("m-2", None, "c", "/10.0.0.2", *content)]
    asked = describe_instances("g").prepare({DESCRIBE_GROUPS: (0, 6)})
    encoded = _ANSWER.encode((0, [(0, "g", state, "consumer", "range", members, 0)]))
    admin = PlayedAdmin(answer=asked.RESPONSE_TYPE.decode(BytesIO(encoded)))
    found = await Cluster(admin, Connection("nowhere:1"), "c", 1).static_members("g")
    assert found == [GroupMember("m-1", "/10.0.0.1", *content, instance_id="one")]
    assert asked.encode() == b"\0\0\0\1\0\1g\0"
    assert [node for _, node in admin.sent] == [7]


async def test_a_group_that_is_not_shown_is_an_error() -> None:
    """This user may not see it; and a Kafka that has no such answer is asked nothing."""
    admin = PlayedAdmin(answer=(0, [(GroupAuthorizationFailedError.errno, "g", "", "", "", [], 0)]))
    with pytest.raises(GroupAuthorizationFailedError):
        await Cluster(admin, Connection("nowhere:1"), "c", 1).static_members("g")
    with pytest.raises(OldKafkaError):
        describe_instances("g").prepare({DESCRIBE_GROUPS: (0, 3)})


@pytest.mark.parametrize(("old", "where"), [(False, "address b"), (True, "host b")])
async def test_a_member_is_removed_by_its_name(old: bool, where: str) -> None:
    """At once, since the rebalance may wait for just this one; where the member ran is returned.

    An old Kafka names no instances: there the group is asked until it does not rebalance and shows claims.
    """
    group: Any = PlayedGroup("a", "b", old=old)
    assert await remove_instance(group, "g", "b") == {"b": where}
    assert (group.removed, group.is_rebalancing) == (["id-b"], not old)


async def test_all_processes_of_a_replica_are_removed_by_its_name() -> None:
    """They are of one parent, so they died with it; replicas that are named alike are others.

    Only claims tell parents, so the group is asked until it does not rebalance.
    """
    names = {"pod-2-0": "two", "pod-2-1": "two", "pod-2-old": "two", "pod-20-0": "twenty", "pod-2-9": ""}
    group: Any = PlayedGroup()
    group.show([member(name, siblings) for name, siblings in names.items()])
    assert await remove_instance(group, "g", "pod-2") == {
        "pod-2-0": "host pod-2-0",
        "pod-2-1": "host pod-2-1",
    }
    assert group.removed == ["id-pod-2-0", "id-pod-2-1"]


async def test_one_process_is_removed_by_its_own_name() -> None:
    """A member of that name is the one that is meant."""
    group: Any = PlayedGroup()
    group.show([member(name, "two") for name in ("pod-2-0", "pod-2-1")])
    assert await remove_instance(group, "g", "pod-2-1") == {"pod-2-1": "address pod-2-1"}
    assert group.removed == ["id-pod-2-1"]


async def test_a_name_that_no_member_has_is_refused_with_those_that_there_are() -> None:
    """A typing error must not remove another one."""
    group: Any = PlayedGroup("a", "b")
    with pytest.raises(
        ConfigurationError, match="the group g has no member 'c', it has a, b: check --instance"
    ):
        await remove_instance(group, "g", "c")
    assert group.removed == []


async def test_a_user_who_may_not_remove_is_told_what_to_allow() -> None:
    """One sentence, no traceback."""
    group: Any = PlayedGroup("a", error=GroupAuthorizationFailedError("g"))
    with pytest.raises(BrokerError, match="no right to use group g: `learner-worker doctor` prints"):
        await remove_instance(group, "g", "a")


# --- the state folder ----------------------------------------------------------------------------------

_HOLDER = """
import fcntl, os, signal, sys
handle = os.open(sys.argv[1] + "/lock", os.O_RDWR | os.O_CREAT)
fcntl.flock(handle, fcntl.LOCK_EX)
os.pwrite(handle, str(os.getpid()).encode(), 0)
{on_signal}
print("ready", flush=True)
signal.pause()
"""
_END_SECONDS = 60  # for a machine that is busy
_LEAVES = "signal.signal(signal.SIGTERM, lambda *_: (os.unlink(sys.argv[1] + '/leave'), sys.exit(0)))"


@contextmanager
def holder(folder: Path, on_signal: str = "") -> "Iterator[subprocess.Popen[bytes]]":
    """A process that holds the folder's lock, as a worker does; killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDER.format(on_signal=on_signal), str(folder)], stdout=subprocess.PIPE
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process
            process.wait(_END_SECONDS)
        finally:
            process.kill()


async def test_the_worker_of_a_folder_is_stopped_and_has_left_when_its_marker_is_gone(tmp_path: Path) -> None:
    """It is found by the lock, told by the marker, and signalled."""
    with holder(tmp_path, _LEAVES) as process:
        assert lock_owner(tmp_path) == str(process.pid)
        assert ask_to_leave(tmp_path) == process.pid
        assert leave_requested(tmp_path)
        await stop_for_good(tmp_path, process.pid)
    assert process.returncode == 0
    assert lock_owner(tmp_path) is None


async def test_a_worker_that_ends_without_leaving_is_reported(tmp_path: Path) -> None:
    """Its marker is still there: the operator is told how to remove its member."""
    with holder(tmp_path) as process:
        reaping = asyncio.create_task(asyncio.to_thread(process.wait))
        with pytest.raises(LearnerError, match=r"did not leave its group.*--instance NAME"):
            await stop_for_good(tmp_path, ask_to_leave(tmp_path))
        await reaping


async def test_a_worker_that_cannot_be_signalled_is_told_apart(tmp_path: Path) -> None:
    """It runs in another container, or has just ended: --when-stopped helps."""
    with holder(tmp_path) as process:
        found = ask_to_leave(tmp_path)
        process.kill()
    with pytest.raises(ConfigurationError, match=f"cannot signal process {found}.*--when-stopped"):
        await stop_for_good(tmp_path, found)


@pytest.mark.parametrize("lock", [True, False])
def test_a_folder_without_a_worker_is_refused(tmp_path: Path, lock: bool) -> None:
    """A lock file that nobody holds, or none: nothing is written, and --instance is named."""
    if lock:
        with locked_state_folder(tmp_path):
            assert lock_owner(tmp_path) == str(os.getpid())
    with pytest.raises(ConfigurationError, match=r"no worker uses the state folder .* --instance NAME"):
        ask_to_leave(tmp_path)
    assert not leave_requested(tmp_path)
