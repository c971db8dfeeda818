"""What a worker needs of its machine: open files, disk space, inodes and locks."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from learner_worker.errors import Mismatch
from learner_worker.unix import RESOURCE

DESCRIPTORS_OF_SHARD: Final = 5  # two connections to its file: the file and its log twice, the index once
DESCRIPTORS_BESIDES: Final = 100  # Kafka's connections, HTTP, and what the process itself has open
LEAST_BYTES: Final = 16 * 1024**2  # below this not even the files of a few shards can be made
LEAST_INODES: Final = 100  # several files for each of a dozen shards
_UNLIMITED: Final = 1_000_000  # more than any worker opens


def allowed_descriptors() -> int:
    """How many files this process may have open."""
    if RESOURCE is None:
        return _UNLIMITED
    soft, _ = RESOURCE.getrlimit(RESOURCE.RLIMIT_NOFILE)
    return _UNLIMITED if soft == RESOURCE.RLIM_INFINITY else int(soft)


def raise_descriptor_limit() -> None:
    """Takes as many open files as this user may have: a shell's default is often too low for many shards."""
    if RESOURCE is not None:
        _, hard = RESOURCE.getrlimit(RESOURCE.RLIMIT_NOFILE)
        RESOURCE.setrlimit(RESOURCE.RLIMIT_NOFILE, (hard, hard))


def lacking_descriptors(shards: int) -> Mismatch | None:
    """Whether this process may open too few files to own this many shards at once."""
    needed, allowed = DESCRIPTORS_BESIDES + DESCRIPTORS_OF_SHARD * shards, allowed_descriptors()
    if allowed >= needed:
        return None
    return Mismatch(
        f"this process may open {allowed} files, and {shards} shards need {needed}",
        "raise the limit of open files (ulimit -n, or LimitNOFILE of the service)",
    )


def lacking_space(path: Path) -> Iterator[Mismatch]:
    """What a folder's file system is short of: space or inodes."""
    free = shutil.disk_usage(path).free
    if free < LEAST_BYTES:
        yield Mismatch(f"{free // 1024**2} MiB are free in {path}", "free some space")
    if hasattr(os, "statvfs"):
        system = os.statvfs(path)
        if system.f_files and system.f_favail < LEAST_INODES:
            yield Mismatch(
                f"{system.f_favail} inodes are free in {path}", "delete files there: each file takes an inode"
            )
