"""The store of snapshots, by obstore: a folder or S3. Imported only if snapshots are configured.

For S3, the address and the login come from AWS's own variables (`AWS_ACCESS_KEY_ID`, `AWS_REGION`,
`AWS_ENDPOINT_URL` and so on), a web identity or the machine's role.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, Final
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from learner_worker.errors import ConfigurationError, SnapshotError
from learner_worker.snapshots.object_store import OnProgress
from learner_worker.store.permissions import FILE_MODE, private_file, private_folder

_PART_BYTES: Final = 8 * 2**20
"""Bytes of a file in one request: few requests, and a few times this much memory at most."""
_PARTS_AT_ONCE: Final = 2  # one is being sent while the next one is read
_RETRY_SECONDS: Final = 30.0
"""How long a request is retried: a restore waits for it, and can read the changelog instead."""
_FAILURES: Final = (BaseError, OSError, ValueError)
"""What obstore raises."""


class RemoteStore:
    """The objects below an address.

    Raises:
        ConfigurationError: it is not the address of a store, or the folder cannot be created.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._folder: Path | None = None
        try:
            if url.startswith("file:"):
                self._folder = Path(unquote(urlsplit(url).path))
                private_folder(self._folder)
            self._store = self._opened()
        except _FAILURES as error:
            raise ConfigurationError(
                f"--snapshot-url (LEARNER_SNAPSHOT_URL): {url}: {_words(error)}"
            ) from error

    def _opened(self) -> LocalStore | S3Store:
        if self._folder is not None:
            return LocalStore(self._folder)
        return S3Store.from_url(self._url, retry_config={"retry_timeout": timedelta(seconds=_RETRY_SECONDS)})

    async def names(self, folder: str) -> list[str]:
        """The names of all objects in a folder, including the folder's name."""
        with self._failures("list"):
            return [each["path"] async for page in obstore.list(self._store, folder or None) for each in page]

    async def get(self, name: str) -> bytes:
        """The content of a small object."""
        with self._failures("read"):
            return bytes(await (await obstore.get_async(self._store, name)).bytes_async())

    async def put(self, name: str, content: bytes) -> None:
        """Creates a small object; refuses a name that is in use."""
        with self._failures("write"):
            await obstore.put_async(self._store, name, content, mode="create")
            await self._make_private(name)

    async def upload(self, name: str, path: Path) -> None:
        """Creates an object from a file's content."""
        with self._failures("write"):
            await obstore.put_async(
                self._store, name, path, chunk_size=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE
            )
            await self._make_private(name)

    async def download(self, name: str, path: Path, size: int, on_progress: OnProgress) -> str:
        """Writes an object to a file; returns the checksum (SHA-256) of what was written."""
        digest = hashlib.sha256()
        with self._failures("read"):
            private_file(path)
            with path.open("wb") as file:
                async for part in self._parts(name, size):
                    await asyncio.to_thread(_add, part, digest, file)
                    on_progress()
        return digest.hexdigest()

    async def _parts(self, name: str, size: int) -> AsyncIterator[bytes]:
        for start in range(0, size, _PART_BYTES):
            end = min(start + _PART_BYTES, size)
            yield bytes(await obstore.get_range_async(self._store, name, start=start, end=end))

    async def delete(self, names: Sequence[str]) -> None:
        """Deletes objects; it is no error if some are already gone."""
        for name in names:
            with self._failures("delete"):
                try:
                    await obstore.delete_async(self._store, name)
                except FileNotFoundError:
                    continue

    async def _make_private(self, name: str) -> None:
        """Makes an object in a folder accessible to its owner alone, like the files of the state folder."""
        if self._folder is not None:
            await asyncio.to_thread((self._folder / name).chmod, FILE_MODE)

    @contextmanager
    def _failures(self, what: str) -> Iterator[None]:
        try:
            yield
        except _FAILURES as error:
            raise SnapshotError(f"cannot {what} {self._url}: {_words(error)}") from error


def _add(part: bytes, digest: "hashlib._Hash", file: BinaryIO) -> None:
    digest.update(part)
    file.write(part)


def _words(error: BaseException) -> str:
    """The first line of an error: obstore prints a whole structure after it."""
    return str(error).partition("\n")[0]
