"""What snapshots need of the store that keeps them, and how it is opened."""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol

from learner_worker.errors import ConfigurationError

OnProgress = Callable[[], None]


class ObjectStore(Protocol):
    """Objects by name. A name is given once, so no object ever changes.

    Every method raises SnapshotError if the store does not answer, or refuses.
    """

    async def names(self, folder: str) -> list[str]:
        """The names of all objects in a folder, with the folder's own."""
        ...

    async def get(self, name: str) -> bytes:
        """The content of a small object."""
        ...

    async def put(self, name: str, content: bytes) -> None:
        """Makes a small object; refuses a name that is taken."""
        ...

    async def upload(self, name: str, path: Path) -> None:
        """Makes an object of a file's content."""
        ...

    async def download(self, name: str, path: Path, size: int, on_progress: OnProgress) -> str:
        """Writes an object to a file; returns the checksum (SHA-256) of what was written.

        Args:
            size: how long it is.
            on_progress: called after each part.
        """
        ...

    async def delete(self, names: Sequence[str]) -> None:
        """Deletes objects; those that are gone already are no error."""
        ...


def open_store(url: str) -> ObjectStore:
    """The store at an address.

    Raises:
        ConfigurationError: the extra that reaches stores is not installed, or the address is none of a store.
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
