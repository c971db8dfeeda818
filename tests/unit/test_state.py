"""A state folder looked into without a broker: sound files, damaged ones, newer ones, none."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from learner_worker.cli import cli
from learner_worker.contract.fields import ShardId
from learner_worker.contract.topics import TopicName
from learner_worker.errors import ConfigurationError, StateError, UnreadableFileError
from learner_worker.operations.comparison import side_by_side
from learner_worker.operations.overview import ShardOverview, overview
from learner_worker.store.formats import FORMAT
from learner_worker.store.replacement import replace
from learner_worker.store.shard_file import ShardFile, shard_path
from learner_worker.store.snapshot import snapshot_of
from learner_worker.store.statements import Checkpoint
from tests.unit.test_shard_file import IDENTITY, OUTCOME, WHOLE, A, T, write

OUTCOMES = TopicName("learner-outcomes")


def state(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["state", *arguments])


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """A shard's file with a bit of everything, closed."""
    path = shard_path(tmp_path, ShardId(3))
    await write(path, WHOLE)
    return path


def left_in(folder: Path) -> list[tuple[str, int]]:
    return sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir())


def only(path: Path) -> ShardOverview:
    (shard,) = overview(path.parent).shards
    return shard


# --- show -----------------------------------------------------------------------------------------


def test_a_sound_file_shows_its_counts_and_stays_as_it_is(path: Path) -> None:
    """Outcomes, invisible rows, agents, keywords, auctions and positions, and not a byte changed."""
    before = left_in(path.parent)
    held = only(path).contents
    assert held is not None
    assert (held.cluster_id, held.topic_prefix, held.partitions, held.format) == ("c1", "", "12", FORMAT)
    assert (held.outcomes, held.invisible, held.agents, held.keywords) == (1, 1, 2, 2)
    assert (held.metrics_due, held.open_auctions, held.closed_auctions) == (2, 0, 1)
    assert held.positions == {"bid-placed": 7, "learner-outcomes": 2**40}
    assert left_in(path.parent) == before


def test_a_folder_that_may_not_be_written_is_shown(path: Path) -> None:
    """Files and folder read-only, as on a mounted backup: shown all the same."""
    path.chmod(0o444)
    path.parent.chmod(0o555)
    try:
        assert only(path).contents is not None
    finally:
        path.parent.chmod(0o755)


async def test_a_file_in_use_is_shown_as_of_its_last_checkpoint(path: Path) -> None:
    """A writer with an open transaction neither waits nor shows, and its file and log count."""
    file = await ShardFile.open(path, IDENTITY)
    try:
        await file.write(Checkpoint({TopicName("task-finished"): 9}))
        with closing(sqlite3.connect(path, isolation_level=None)) as writer:
            writer.execute("BEGIN IMMEDIATE")
            writer.execute("DELETE FROM outcomes")
            held, size = only(path).contents, only(path).file
            writer.execute("ROLLBACK")
    finally:
        await file.close()
    assert held is not None
    assert (held.outcomes, held.positions["task-finished"]) == (1, 9)
    assert size.wal_bytes > 0


@pytest.mark.parametrize("content", [b"no SQLite" * 1000, b"SQLite format 3\0" + b"\0" * 4096])
def test_a_damaged_file_is_shown_as_such_with_what_to_do(path: Path, content: bytes) -> None:
    """Another file's bytes, a header and nothing: `damaged`, exit code 0, the command that mends it."""
    path.write_bytes(content)
    shown = state("show", "--state-dir", str(path.parent))
    assert shown.exit_code == 0
    assert "damaged" in shown.output
    assert "state rebuild --shard 3" in shown.output
    assert only(path).problem == "damaged"


def test_a_file_cut_in_two_is_shown_as_damaged(path: Path) -> None:
    """Half of a file's pages are gone: `damaged`, and the other shards are shown."""
    whole = path.read_bytes()
    shard_path(path.parent, ShardId(4)).write_bytes(whole)
    path.write_bytes(whole[: len(whole) // 2])
    found = overview(path.parent).shards
    assert [(shard.shard, shard.problem) for shard in found] == [(3, "damaged"), (4, None)]


def test_a_file_without_its_tables_is_shown_as_damaged(path: Path) -> None:
    """SQLite reads it, but it is no shard's file: `damaged`."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE agents")
    assert only(path).problem == "damaged"


def test_a_position_that_is_no_number_is_damage(path: Path) -> None:
    """SQLite holds any value in any column."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE positions SET next_offset = 'far'")
    assert only(path).problem == "damaged"


def test_a_folder_in_a_files_place_is_unreadable(path: Path) -> None:
    """What cannot be opened at all says nothing of its content, and the other shards are shown."""
    shard_path(path.parent, ShardId(4)).mkdir()
    found = overview(path.parent).shards
    assert [(shard.shard, shard.problem) for shard in found] == [(3, None), (4, "unreadable")]


def test_a_file_of_a_newer_format_is_shown_as_such(path: Path) -> None:
    """Its format and the newest this version reads."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {FORMAT + 1}")
    shard = only(path)
    assert shard.problem == "newer"
    assert f"format {FORMAT + 1}" in (shard.detail or "")


def test_a_file_that_was_never_written_is_shown_as_empty(path: Path) -> None:
    """What a kill at the very start leaves: no byte."""
    path.write_bytes(b"")
    assert only(path).problem == "empty"


def test_files_set_aside_are_listed(path: Path) -> None:
    """Damaged, newer and replaced ones, with their size."""
    for why in ("damaged", "newer", "replaced"):
        path.with_suffix(f".{why}").write_bytes(b"x" * 10)
    found = overview(path.parent).set_aside
    assert [(Path(file.path).suffix, file.file_bytes) for file in found] == [
        (".damaged", 10),
        (".newer", 10),
        (".replaced", 10),
    ]
    shown = state("show", "--state-dir", str(path.parent))
    assert "set aside: shard-00003.newer, 10 B" in shown.output


@pytest.mark.parametrize("command", ["show", "verify", "rebuild --all", "rebuild --shard 0"])
def test_a_missing_folder_is_named_and_not_made(command: str, tmp_path: Path) -> None:
    """Exit code 2's error with the folder, before Kafka is asked for anything."""
    ended = state(*command.split(), "--state-dir", str(tmp_path / "none"))
    assert isinstance(ended.exception, ConfigurationError)
    assert f"{tmp_path / 'none'} does not exist" in str(ended.exception)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("command", ["show", "verify", "rebuild --all"])
def test_a_folder_without_files_is_named(command: str, tmp_path: Path) -> None:
    """Exit code 2's error says that the folder holds none."""
    ended = state(*command.split(), "--state-dir", str(tmp_path))
    assert isinstance(ended.exception, ConfigurationError)
    assert f"{tmp_path} holds no shard's file" in str(ended.exception)


def test_a_folder_of_files_set_aside_only_is_shown(tmp_path: Path) -> None:
    """The shard's own file is gone, the damaged one is still to be seen."""
    (tmp_path / "shard-00001.damaged").write_bytes(b"x")
    assert [Path(file.path).name for file in overview(tmp_path).set_aside] == ["shard-00001.damaged"]


# --- flags ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        "rebuild",
        "rebuild --all --shard 1",
        "rebuild --shard -1",
        "verify --shard x",
        "show --shard 1",
        "mend",
    ],
)
def test_wrong_flags_are_refused_with_exit_code_2(arguments: str) -> None:
    """Neither or both of --all and --shard, no number, an unknown flag or command."""
    assert state(*arguments.split()).exit_code == 2


# --- snapshots ------------------------------------------------------------------------------------


async def test_a_snapshot_is_one_moment_while_checkpoints_go_on(path: Path) -> None:
    """Rows and positions read before and after a checkpoint belong to the same state."""
    file = await ShardFile.open(path, IDENTITY)
    try:
        await file.write(Checkpoint({OUTCOMES: 1}))
        with snapshot_of(path) as snapshot:
            position = snapshot.position(OUTCOMES)
            await file.write(
                Checkpoint({OUTCOMES: 2}, outcomes={(T, A): msgspec.structs.replace(OUTCOME, result=None)})
            )
            assert (position, snapshot.position(OUTCOMES)) == (1, 1)
            assert snapshot.outcomes([(T, A)]) == {(T, A): OUTCOME}
        with snapshot_of(path) as snapshot:
            assert snapshot.position(OUTCOMES) == 2
    finally:
        await file.close()


def test_a_file_at_rest_that_is_written_meanwhile_says_try_again(path: Path) -> None:
    """A worker starts and ends while a file is read: what was read is not trusted."""
    with pytest.raises(StateError, match="try again"), snapshot_of(path):
        asyncio.run(write(path, Checkpoint({OUTCOMES: 5})))


def test_a_file_that_is_gone_says_so(tmp_path: Path) -> None:
    """No traceback of SQLite's, and no file made."""
    with pytest.raises(StateError, match="No such file"), snapshot_of(tmp_path / "none.sqlite3"):
        pass
    assert list(tmp_path.iterdir()) == []


# --- replacement ----------------------------------------------------------------------------------


async def test_a_file_takes_anothers_place_and_the_old_one_is_kept(path: Path) -> None:
    """Old rows under .replaced, new ones in place, nothing left of the way there."""
    new = path.with_suffix(".rebuilding")
    await write(new, Checkpoint({OUTCOMES: 1}))
    assert replace(path, new) == path.with_suffix(".replaced")
    with snapshot_of(path) as snapshot:
        assert (snapshot.counts().rows, snapshot.positions()) == (0, {OUTCOMES: 1})
    with snapshot_of(path.with_suffix(".replaced")) as snapshot:
        assert snapshot.counts().rows == 2
    assert [name for name, _ in left_in(path.parent)] == ["shard-00003.replaced", "shard-00003.sqlite3"]


def test_a_log_without_its_file_does_not_meet_the_new_one(path: Path) -> None:
    """Somebody removed the file, its log stayed: the new file is not read with it."""
    new = path.with_suffix(".rebuilding")
    asyncio.run(write(new, Checkpoint({OUTCOMES: 1})))
    path.replace(path.with_name(path.name + "-wal"))
    assert replace(path, new) is None
    assert [name for name, _ in left_in(path.parent)] == ["shard-00003.sqlite3"]


def test_an_unreadable_file_says_of_which_kind(path: Path) -> None:
    """The kind is what `show` prints and `verify` reports."""
    path.write_bytes(b"no SQLite" * 1000)
    with pytest.raises(UnreadableFileError, match="is damaged") as raised, snapshot_of(path):
        pass
    assert raised.value.kind == "damaged"


# --- comparing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "right", "pairs"),
    [
        ("", "", []),
        ("a", "", [("a", None)]),
        ("", "a", [(None, "a")]),
        ("abd", "bce", [("a", None), ("b", "b"), (None, "c"), ("d", None), (None, "e")]),
    ],
)
def test_two_ordered_sides_are_paired_by_key(left: str, right: str, pairs: list[tuple[Any, Any]]) -> None:
    """Each key once, in order, with None where a side lacks it."""
    assert list(side_by_side(_each(left), _each(right), lambda letter: letter)) == pairs


def _each(each_of: str) -> Iterator[str]:
    yield from each_of
