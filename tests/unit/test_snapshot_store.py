"""The store of snapshots: a folder, and S3 as a server in this process speaks it."""

import hashlib
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from learner_worker.errors import SnapshotError
from learner_worker.snapshots.object_store import ObjectStore, open_store

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
    digest = await store.download(
        "shard-00001/a.sqlite3", tmp_path / "arrived", len(LARGE), lambda: parts.append(1)
    )
    assert digest == hashlib.sha256(LARGE).hexdigest()
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
    with pytest.raises(SnapshotError, match="cannot read") as missing:
        await store.get("shard-00001/never.json")
    assert "\n" not in str(missing.value)

    with pytest.raises(SnapshotError, match="cannot read"):
        await store.download("shard-00001/never.sqlite3", tmp_path / "arrived", 5, lambda: None)
