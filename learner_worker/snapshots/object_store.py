"""The interface of a store of snapshots, and how a store is opened."""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol

from learner_worker.errors import ConfigurationError

OnProgress = Callable[[], None]


class ObjectStore(Protocol):
    """Objects by name. A name is used only once, so no object ever changes.

    Every method raises SnapshotError if the store refuses, or does not answer within a time limit; those
    that read raise MissingObjectError if there is no such object.
    """

    async def names(self, folder: str) -> list[str]:
        """The names of all objects in a folder, including the folder's name."""
        ...

    async def get(self, name: str) -> bytes:
        """The content of a small object."""
        ...

    async def put(self, name: str, content: bytes) -> None:
        """Creates a small object; refuses a name that is in use."""
        ...

    async def upload(self, name: str, path: Path) -> None:
        """Creates an object from a file's content."""
        ...

    async def download(self, name: str, path: Path, size: int, on_progress: OnProgress) -> None:
        """Writes an object to a file, and has the disk keep it.

        Args:
            size: its length in bytes.
            on_progress: called after each part.
        """
        ...

    async def delete(self, names: Sequence[str]) -> None:
        """Deletes objects; it is no error if some are already gone."""
        ...


def open_store(url: str) -> ObjectStore:
    """The store at an address.

    Raises:
        ConfigurationError: the extra for stores is not installed, or the address is not that of a store.
    """
    try:
        module = import_module("learner_worker.snapshots.remote")
    except ImportError as error:
        raise ConfigurationError(
            "--snapshot-url (LEARNER_SNAPSHOT_URL) needs obstore: install learner-worker with the extra "
            "snapshots"
        ) from error
    store: ObjectStore = module.RemoteStore(url)
    return store
