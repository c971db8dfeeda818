"""The store of snapshots: a folder, and S3 as a server in this process speaks it."""

import os
import shutil
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from learner_worker.errors import MissingObjectError, SnapshotError
from learner_worker.snapshots import remote
from learner_worker.snapshots.object_store import ObjectStore, open_store
from learner_worker.store.needs import LEAST_BYTES

BUCKET = "snapshots"
LARGE = bytes(range(256)) * 4096 * 18
"""Longer than two parts of a download."""


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of an S3 server with a bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        connection = HTTPConnection(host, port)
        connection.request("PUT", f"/{BUCKET}")
        assert connection.getresponse().status == 200
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    if request.param == "folder":
        return open_store((tmp_path / "a folder").as_uri())
    address = request.getfixturevalue("s3")
    variables = {
        "AWS_ENDPOINT_URL": address,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return open_store(f"s3://{BUCKET}/{tmp_path.name}")


async def test_objects_come_back_as_they_were_made(store: ObjectStore, tmp_path: Path) -> None:
    """Small ones and files, under the names they were given, until they are deleted."""
    (tmp_path / "file").write_bytes(LARGE)
    parts: list[int] = []

    await store.upload("shard-00001/a.sqlite3", tmp_path / "file")
    await store.put("shard-00001/a.json", b"{}")
    await store.put("shard-00010/b.json", b"[]")

    assert sorted(await store.names("shard-00001")) == ["shard-00001/a.json", "shard-00001/a.sqlite3"]
    assert len(await store.names("")) == 3
    assert await store.get("shard-00001/a.json") == b"{}"
    await store.download("shard-00001/a.sqlite3", tmp_path / "arrived", len(LARGE), lambda: parts.append(1))
    assert (tmp_path / "arrived").read_bytes() == LARGE
    assert len(parts) == 3

    await store.delete(["shard-00001/a.json", "shard-00001/a.sqlite3", "shard-00001/never.json"])
    assert await store.names("shard-00001") == []
    assert await store.names("shard-00099") == []


async def test_no_object_is_overwritten(store: ObjectStore) -> None:
    """A name that is taken is refused, and what has it stays."""
    await store.put("shard-00001/a.json", b"first")

    with pytest.raises(SnapshotError, match="cannot write"):
        await store.put("shard-00001/a.json", b"second")

    assert await store.get("shard-00001/a.json") == b"first"


async def test_what_is_not_there_is_an_error_in_one_line(store: ObjectStore, tmp_path: Path) -> None:
    """The message names the store, and is fit for a log."""
    with pytest.raises(MissingObjectError, match="cannot read") as missing:
        await store.get("shard-00001/never.json")
    assert "\n" not in str(missing.value)

    with pytest.raises(MissingObjectError, match="cannot read"):
        await store.download("shard-00001/never.sqlite3", tmp_path / "arrived", 5, lambda: None)


async def test_a_folder_that_cannot_be_used_is_an_error_of_the_store(tmp_path: Path) -> None:
    """Of the first call, and of each one: a worker starts without it."""
    (tmp_path / "file").touch()
    store = open_store((tmp_path / "file" / "store").as_uri())

    for _ in range(2):
        with pytest.raises(SnapshotError, match="cannot list file://"):
            await store.names("")
    (tmp_path / "file").unlink()
    assert await store.names("") == []


async def test_a_folder_that_hangs_is_an_error_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of a file server that is gone, when it is made and when it is read."""
    goes_on = threading.Event()
    monkeypatch.setattr(remote, "private_folder", lambda _: goes_on.wait())
    store = remote.RemoteStore((tmp_path / "store").as_uri(), call_seconds=0.1)
    try:
        with pytest.raises(SnapshotError, match=r"cannot list .*: no answer within 0\.1 s"):
            await store.names("")
    finally:
        goes_on.set()

    (tmp_path / "store").mkdir()
    os.mkfifo(tmp_path / "store" / "hangs")
    store = remote.RemoteStore((tmp_path / "store").as_uri(), call_seconds=0.1)
    try:
        with pytest.raises(SnapshotError, match=r"cannot read .*: no answer within 0\.1 s"):
            await store.get("hangs")
        with pytest.raises(SnapshotError, match=r"cannot read .*: no answer within 0\.1 s"):
            await store.download("hangs", tmp_path / "arrived", 5, lambda: None)
    finally:
        os.close(os.open(tmp_path / "store" / "hangs", os.O_RDWR | os.O_NONBLOCK))


async def test_a_file_is_on_the_disk_before_it_counts(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There has to be space for it, and the disk keeps it before anybody renames it."""
    (tmp_path / "file").write_bytes(b"content")
    await store.upload("shard-00001/a.sqlite3", tmp_path / "file")
    kept: list[bytes] = []
    monkeypatch.setattr(os, "fsync", lambda _: kept.append((tmp_path / "arrived").read_bytes()))

    await store.download("shard-00001/a.sqlite3", tmp_path / "arrived", 7, lambda: None)
    assert kept == [b"content"]

    usage = shutil.disk_usage(tmp_path)._replace(free=LEAST_BYTES + 6)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(SnapshotError, match=r"needs 16,777,223 bytes, and 16,777,222 are free"):
        await store.download("shard-00001/a.sqlite3", tmp_path / "other", 7, lambda: None)
    assert not (tmp_path / "other").exists()
