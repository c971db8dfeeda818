"""Checks the state folder: permissions, its lock, free space, and the identity of its files."""

import asyncio
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from learner_worker.contract.topology import Topology
from learner_worker.doctor.case import Case
from learner_worker.doctor.findings import Finding, error, note, ok, or_ok, warning
from learner_worker.doctor.topology import expected_count, recorded
from learner_worker.store.formats import FORMAT
from learner_worker.store.former import is_former
from learner_worker.store.identity import mismatch, stranger
from learner_worker.store.needs import (
    allowed_descriptors,
    lacking_descriptors,
    lacking_space,
    raise_descriptor_limit,
)
from learner_worker.store.obstacles import obstacle, user_name
from learner_worker.store.process_folders import state_folders
from learner_worker.store.state_folder import named_owner, shard_files
from learner_worker.store.statements import statement
from learner_worker.unix import FCNTL

_LISTED = 3  # paths in a sentence
_LOW_BYTES, _EMPTY_BYTES = 1024**3, 64 * 1024**2  # room for many checkpoints; for hardly one
_FILE_SECONDS = 2.0  # a check of twelve files has 20 s
_STEPS = 100_000  # SQLite instructions between two looks at the clock: some milliseconds
_ASIDE = ("*.damaged", "*.newer")
_REBUILT = "move it away: it is rebuilt from Kafka"


async def check_folder(case: Case) -> Sequence[Finding]:
    """Checks that this user can create or write the folder and lock it, and what its disk has free."""
    path = case.settings.state_dir
    barred = _barred_above(path)
    if barred is not None:
        what = f"{user_name()} may not enter {barred}, above the state folder {path}"
        return [error(what, "set --state-dir to a folder of that user, or let them enter the folders above")]
    if not path.exists():
        return [_absent(path)]
    if not path.is_dir():
        return [error(f"{path} is a file, not a folder", "give --state-dir a folder")]
    closed = [one for one in (path, *sorted(path.iterdir())) if not _may_use(one)]
    if closed:
        listed = ", ".join(str(one) for one in closed[:_LISTED])
        return [
            error(
                f"{user_name()} may not read and write {listed}",
                "give --state-dir a folder of that user, or run the worker as the user that owns it",
            )
        ]
    findings = [*_space(path), *_owner(path), *_set_aside(path), *_other_user(path)]
    return or_ok(findings, f"{path} is free and has room, and {user_name()} may write to it")


def _barred_above(path: Path) -> Path | None:
    """The topmost folder above the path that this user may not enter: nothing below it can be checked."""
    first = next((one for one in reversed(path.absolute().parents) if not os.access(one, os.X_OK)), None)
    return first if first is not None and first.is_dir() else None


def _may_use(path: Path) -> bool:
    return os.access(path, os.R_OK | os.W_OK | (os.X_OK if path.is_dir() else 0))


def _other_user(path: Path) -> Iterator[Finding]:
    """Root may write everywhere: what it finds says nothing about the worker's own user."""
    if hasattr(os, "geteuid") and os.geteuid() == 0 != path.stat().st_uid:
        yield warning(
            f"this check runs as root, and {path} belongs to user {path.stat().st_uid}",
            "run doctor as the user that runs the worker",
        )


async def check_limits(case: Case) -> Sequence[Finding]:
    """Checks that this process may open as many files as a worker with all shards needs."""
    count = await expected_count(case)
    if count is None:
        return [note("the number of shards is not known yet")]
    raise_descriptor_limit()
    lack = lacking_descriptors(count)
    if lack is not None:
        return [warning(*lack)]
    return [ok(f"{allowed_descriptors()} files may be open, enough to own all {count} shards")]


def _absent(path: Path) -> Finding:
    parent = next((folder for folder in path.absolute().parents if folder.exists()), Path("/"))
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        return error(f"{path} is not there and cannot be made", "give --state-dir a folder that can be made")
    return note(f"{path} is not there yet", "the first `learner-worker run` makes it")


def _space(path: Path) -> Iterator[Finding]:
    lacks = [error(*lack) for lack in lacking_space(path)]
    yield from lacks
    free = shutil.disk_usage(path).free
    text = f"{free // 1024**2} MiB are free in {path}"
    if not lacks and free < _EMPTY_BYTES:
        yield error(text, "free some space: without it no checkpoint can be written")
    elif not lacks and free < _LOW_BYTES:
        yield warning(text, "free some space before it is full")


def _owner(path: Path) -> Iterator[Finding]:
    """Tries the lock as a worker would, without creating its file: without one, the folder's own."""
    if FCNTL is None:
        yield error("this system has no locks for a state folder", "run the worker on Linux or macOS")
        return
    lock = path / "lock"
    handle = os.open(lock if lock.exists() else path, os.O_RDONLY)
    try:
        FCNTL.flock(handle, FCNTL.LOCK_SH | FCNTL.LOCK_NB)
    except BlockingIOError:
        yield note(
            f"a worker (process {named_owner(handle)}) uses {path} now",
            "fine if it is the one you mean; another worker needs its own --state-dir",
        )
    except OSError as failure:
        yield error(f"{path} cannot be locked", obstacle(path, failure))
    finally:
        os.close(handle)


def _set_aside(path: Path) -> Iterator[Finding]:
    folders = state_folders(path)
    for file in sorted(found for folder in folders for kind in _ASIDE for found in folder.glob(kind)):
        yield note(
            f"{file} was set aside ({file.suffix[1:]}) and rebuilt from Kafka", "delete it when you like"
        )


async def check_files(case: Case) -> Sequence[Finding]:
    """Checks that the shard files belong to this cluster, prefix and shard count, and are intact."""
    files = list(shard_files(case.settings.state_dir).values())
    if not files:
        return [note(f"{case.settings.state_dir} holds no shards yet")]
    identity, topology = await _identity(case), await recorded(case)
    findings = [
        finding for file in files for finding in await asyncio.to_thread(_look_into, file, identity, topology)
    ]
    return or_ok(findings, f"{len(files)} shard files are whole and belong here")


async def _identity(case: Case) -> Mapping[str, str]:
    """The identity that a file of this worker must have, as far as Kafka tells it."""
    cluster_id, _ = await (await case.kafka()).identity()
    known = {"cluster_id": cluster_id, "topic_prefix": case.settings.topic_prefix}
    count, topology = await expected_count(case), await recorded(case)
    if count is not None:
        known["partitions"] = str(count)
    if topology is not None:
        known |= {"incarnation": topology.incarnation, "generation": str(topology.generation)}
    return known


def _look_into(path: Path, identity: Mapping[str, str], topology: Topology | None) -> list[Finding]:
    try:
        with closing(_read_only(path)) as connection:
            ((version,),) = connection.execute("PRAGMA user_version")
            if version > FORMAT:
                return [
                    warning(f"{path} is of format {version}, newer than this worker's", "upgrade this worker")
                ]
            whose = dict(connection.execute(statement("load_identity")))
            if topology is not None and is_former(whose, topology):
                return [
                    note(f"{path} is of the layout before a reshard", "its worker sets it aside at its start")
                ]
            return [*_foreign(path, whose, identity), *_damaged(path, connection)]
    except sqlite3.Error as failure:
        return [error(f"{path} cannot be read ({failure})", f"stop its worker and {_REBUILT}")]


def _read_only(path: Path) -> sqlite3.Connection:
    """Opens a file read-only; one without a log as immutable, because SQLite would create a log to read."""
    lies_still = not path.with_name(f"{path.name}-wal").exists()
    mode = "immutable=1" if lies_still else "mode=ro"
    return sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True)


def _foreign(path: Path, whose: Mapping[str, str], identity: Mapping[str, str]) -> Iterator[Finding]:
    name = stranger(whose, identity) if whose else None
    if name is not None:
        what, remedy = mismatch(path, name, whose, identity)
        yield error(f"{what}; the worker will refuse to start", remedy)


def _damaged(path: Path, connection: sqlite3.Connection) -> list[Finding]:
    deadline = time.monotonic() + _FILE_SECONDS
    connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
    try:
        ((verdict,),) = connection.execute("PRAGMA quick_check(1)")
    except sqlite3.OperationalError as failure:
        if failure.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        return [ok(f"{path} is too large to be looked through in {_FILE_SECONDS:g} s")]
    if verdict == "ok":
        return []
    return [error(f"{path} is damaged ({verdict})", f"stop its worker and {_REBUILT}")]
