"""The store of snapshots, by obstore: a folder or S3. Imported only if snapshots are configured.

For S3, the address and the login come from AWS's own variables (`AWS_ACCESS_KEY_ID`, `AWS_REGION`,
`AWS_ENDPOINT_URL` and so on), a web identity or the machine's role.
"""

import asyncio
import atexit
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, Final, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore, S3Store

from learner_worker.errors import ConfigurationError, MissingObjectError, SnapshotError
from learner_worker.snapshots.object_store import OnProgress
from learner_worker.store.needs import LEAST_BYTES
from learner_worker.store.obstacles import obstacle
from learner_worker.store.permissions import FILE_MODE, private_file, private_folder

T = TypeVar("T")
_PART_BYTES: Final = 8 * 2**20
"""Bytes of a file in one request: few requests, and a few times this much memory at most."""
_PARTS_AT_ONCE: Final = 2  # one is being sent while the next one is read
_CALL_SECONDS: Final = 30.0
"""How long a restore waits for an answer: it can read the changelog instead."""
_RETRY: Final = timedelta(seconds=_CALL_SECONDS)  # as long as somebody waits for the answer
_LEAST_RATE: Final = 2**20
"""Bytes a second below which an upload is given up: no network that workers share is slower."""
_MISSING: Final = (FileNotFoundError, NotFoundError)
_FAILURES: Final = (BaseError, OSError, ValueError)
"""What obstore raises."""

_LET_GO_SECONDS: Final = 0.3
"""How long obstore's threads may take to let go of their last results, also on a busy machine.

One that needs the interpreter for it while that ends aborts the process.
"""
atexit.register(time.sleep, _LET_GO_SECONDS)


class RemoteStore:
    """The objects below an address.

    Args:
        call_seconds: time limit for a call, and for each part of a file.

    Raises:
        ConfigurationError: it is not the address of a store.
    """

    def __init__(self, url: str, call_seconds: float = _CALL_SECONDS) -> None:
        self._url = url
        self._call_seconds = call_seconds
        self._folder = Path(unquote(urlsplit(url).path)) if url.startswith("file:") else None
        self._store: LocalStore | S3Store | None = None
        # A folder's own: calls to one that hangs must not use up the threads that everything else needs.
        self._thread = ThreadPoolExecutor(1, "snapshot-folder")
        if self._folder is None:
            try:
                self._store = S3Store.from_url(url, retry_config={"retry_timeout": _RETRY})
            except _FAILURES as error:
                raise ConfigurationError(
                    f"--snapshot-url (LEARNER_SNAPSHOT_URL): {url}: {_words(error)}"
                ) from error

    async def names(self, folder: str) -> list[str]:
        """The names of all objects in a folder, including the folder's name."""
        async with self._answering("list") as store:
            return [each["path"] async for page in obstore.list(store, folder or None) for each in page]

    async def get(self, name: str) -> bytes:
        """The content of a small object."""
        async with self._answering("read") as store:
            return bytes(await (await obstore.get_async(store, name)).bytes_async())

    async def put(self, name: str, content: bytes) -> None:
        """Creates a small object; refuses a name that is in use."""
        async with self._answering("write") as store:
            await obstore.put_async(store, name, content, mode="create")
            await self._make_private(name)

    async def upload(self, name: str, path: Path) -> None:
        """Creates an object from a file's content."""
        size = (await asyncio.to_thread(path.stat)).st_size
        async with self._answering("write", size / _LEAST_RATE) as store:
            await obstore.put_async(store, name, path, chunk_size=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE)
            await self._make_private(name)

    async def download(self, name: str, path: Path, size: int, on_progress: OnProgress) -> None:
        """Writes an object to a file, and has the disk keep it."""
        with _writing(path, size) as file:
            for start in range(0, size, _PART_BYTES):
                async with self._answering("read") as store:
                    end = min(start + _PART_BYTES, size)
                    part = await obstore.get_range_async(store, name, start=start, end=end)
                await asyncio.to_thread(file.write, bytes(part))
                on_progress()
            await asyncio.to_thread(_keep, file)

    async def delete(self, names: Sequence[str]) -> None:
        """Deletes objects; it is no error if some are already gone."""
        for name in names:
            async with self._answering("delete") as store:
                try:
                    await obstore.delete_async(store, name)
                except _MISSING:
                    continue

    async def _make_private(self, name: str) -> None:
        """Makes an object in a folder accessible to its owner alone, like the files of the state folder."""
        if self._folder is not None:
            path = self._folder / name
            await self._in_thread(lambda: path.chmod(FILE_MODE))

    @asynccontextmanager
    async def _answering(self, what: str, more_seconds: float = 0.0) -> AsyncIterator[LocalStore | S3Store]:
        """The store, for a call that has a time limit."""
        seconds = self._call_seconds + more_seconds
        try:
            async with asyncio.timeout(seconds):
                yield await self._opened()
        except _MISSING as error:
            raise MissingObjectError(f"cannot {what} {self._url}: {_words(error)}") from error
        except TimeoutError as error:
            raise SnapshotError(f"cannot {what} {self._url}: no answer within {seconds:g} s") from error
        except _FAILURES as error:
            raise SnapshotError(f"cannot {what} {self._url}: {_words(error)}") from error

    async def _opened(self) -> LocalStore | S3Store:
        """The store; its folder is made by the first call."""
        if self._store is None:
            self._store = await self._in_thread(self._folder_store)
        return self._store

    def _folder_store(self) -> LocalStore | S3Store:
        if self._folder is not None:
            private_folder(self._folder)
        return LocalStore(self._folder)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


def _keep(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def _writing(path: Path, size: int) -> Iterator[BinaryIO]:
    """A new file of a size on the worker's own disk.

    Raises:
        SnapshotError: there is no space for it, or it cannot be written.
    """
    try:
        free, needed = shutil.disk_usage(path.parent).free, size + LEAST_BYTES
        if free < needed:
            raise SnapshotError(f"{path} needs {needed:,} bytes, and {free:,} are free there")
        private_file(path)
        with path.open("wb") as file:
            yield file
    except OSError as error:
        raise SnapshotError(f"cannot write {path} ({obstacle(path, error)})") from error


def _words(error: BaseException) -> str:
    """The first line of an error: obstore prints a whole structure after it."""
    return str(error).partition("\n")[0]
