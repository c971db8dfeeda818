"""Shards' files move with the number of a replica's processes: one place each, and nothing is lost."""

import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest

from learner_worker.contract.topics import Topics
from learner_worker.contract.topology import OwnTopics, Topology
from learner_worker.errors import ConfigurationError, StateError
from learner_worker.store import arrangement, replacement
from learner_worker.store.arrangement import arranging_shard_files
from learner_worker.store.former import set_aside_former
from learner_worker.store.process_folders import process_folder
from learner_worker.store.state_folder import locked_state_folder, shard_files

SHARDS = range(6)
LATER = Topology(
    generation=9,
    shards=12,
    cluster_id="c",
    incarnation="new",
    owner_group="g",
    topics=OwnTopics.of(Topics().named()),
    layout=2,
)
"""After a reshard that is finished: the topics before it are gone."""


def file_of(folder: Path, shard: int, content: str, written: int) -> Path:
    """A shard's file with one row, written at that time."""
    folder.mkdir(exist_ok=True)
    path = folder / f"shard-{shard:05d}.sqlite3"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE said (what TEXT)")
        connection.execute("INSERT INTO said VALUES (?)", (content,))
        connection.commit()
    os.utime(path, (written, written))
    return path


def content_of(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("SELECT what FROM said").fetchone()[0])


def filled(folder: Path, shards: Iterable[int] = SHARDS) -> Path:
    """A state folder of one process."""
    for shard in shards:
        file_of(folder, shard, f"shard {shard}", written=1_000 + shard)
    return folder


def arrange(state_dir: Path, processes: int) -> list[int | None]:
    """Moves the files; returns whose members were removed before."""
    with arranging_shard_files(state_dir, processes) as former:
        return former


def places(state_dir: Path) -> dict[str, list[int]]:
    """Which folder has which shards."""
    found: dict[str, list[int]] = {}
    for path in sorted(state_dir.rglob("shard-*.sqlite3")):
        found.setdefault(path.parent.name, []).append(int(path.stem.removeprefix("shard-")))
    return found


def test_files_are_dealt_to_any_number_of_processes_and_come_back(tmp_path: Path) -> None:
    """1, 2, 3, 2 and 1 processes: shares are even, each shard has one file, and its rows are the same."""
    state_dir = filled(tmp_path / "state")

    known: list[int | None] = [None]
    for processes, shares in ((2, [3, 3]), (3, [2, 2, 2]), (2, [3, 3]), (1, [6])):
        assert arrange(state_dir, processes) == known
        assert arrange(state_dir, processes) == []
        known = [*range(processes)]
        found = places(state_dir)
        assert [len(shards) for shards in found.values()] == shares
        assert sorted(shard for shards in found.values() for shard in shards) == list(SHARDS)
        assert {shard: content_of(path) for shard, path in shard_files(state_dir).items()} == {
            shard: f"shard {shard}" for shard in SHARDS
        }

    assert [path.name for path in state_dir.iterdir() if path.is_dir()] == []


def test_files_stay_while_the_number_of_processes_does(tmp_path: Path) -> None:
    """The same number again moves nothing, however uneven it has become: the group decides who owns what."""
    state_dir = tmp_path / "state"
    arrange(filled(state_dir), 2)
    for path in (state_dir / "process-1").glob("shard-*"):
        path.replace(state_dir / "process-0" / path.name)

    arrange(state_dir, 2)

    assert places(state_dir) == {"process-0": list(SHARDS)}


def test_fewer_files_than_their_share_move_when_a_process_is_added(tmp_path: Path) -> None:
    """From two processes to three, each of the two keeps its share of those written last."""
    state_dir = tmp_path / "state"
    arrange(filled(state_dir), 2)
    before = places(state_dir)

    arrange(state_dir, 3)

    after = places(state_dir)
    assert set(after["process-0"]) < set(before["process-0"])
    assert set(after["process-1"]) < set(before["process-1"])


@pytest.mark.parametrize("processes", [1, 2])
def test_of_several_files_of_a_shard_the_one_written_last_stays(tmp_path: Path, processes: int) -> None:
    """Owned by one process after the other, a shard has two files: the older one is set aside, not read."""
    state_dir = tmp_path / "state"
    for number, written in ((0, 1_000), (1, 3_000), (2, 2_000)):
        state_dir.mkdir(exist_ok=True)
        file_of(state_dir / f"process-{number}", 4, f"written at {written}", written)

    arrange(state_dir, processes)

    [path] = state_dir.rglob("shard-*.sqlite3")
    assert content_of(path) == "written at 3000"
    aside = sorted(content_of(each) for each in state_dir.rglob("shard-*.replaced"))
    assert aside[-1] == "written at 2000"


def test_rows_in_the_log_of_a_killed_process_move_along(tmp_path: Path) -> None:
    """A killed process leaves its last rows in SQLite's log: it is taken in before the file moves."""
    state_dir = filled(tmp_path / "state", [0])
    path = state_dir / "shard-00000.sqlite3"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("UPDATE said SET what = 'in the log'")
        connection.commit()
        main, log = path.read_bytes(), path.with_name(f"{path.name}-wal").read_bytes()
    path.write_bytes(main)
    path.with_name(f"{path.name}-wal").write_bytes(log)

    arrange(state_dir, 2)

    assert content_of(state_dir / "process-0" / path.name) == "in the log"


def test_files_that_a_process_still_uses_do_not_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has outlived its parent has the lock of its folder: the start is refused."""
    monkeypatch.setattr(arrangement, "_PATIENCE_SECONDS", 0.0)
    state_dir = tmp_path / "state"
    arrange(filled(state_dir), 2)

    with locked_state_folder(state_dir / "process-1"), pytest.raises(ConfigurationError, match="in use"):
        arrange(state_dir, 1)

    assert len(places(state_dir)["process-1"]) == 3


def test_processes_without_files_are_added_and_taken_away(tmp_path: Path) -> None:
    """Four processes that only two shards kept busy, then two, then four again: these get their share."""
    state_dir = filled(tmp_path / "state", [0, 1])
    arrange(state_dir, 4)

    assert arrange(state_dir, 2) == [0, 1, 2, 3]
    assert sorted(path.name for path in state_dir.iterdir()) == ["process-0", "process-1"]
    filled(state_dir / "process-0", [2, 3])
    assert arrange(state_dir, 4) == [0, 1]

    assert [len(shards) for shards in places(state_dir).values()] == [1, 1, 1, 1]


def test_folders_of_others_do_not_make_every_start_a_change(tmp_path: Path) -> None:
    """What somebody else keeps in a folder that no process uses stays there."""
    state_dir = filled(tmp_path / "state")
    arrange(state_dir, 3)
    (state_dir / "process-2" / "notes").touch()

    assert arrange(state_dir, 2) == [0, 1, 2]
    assert arrange(state_dir, 2) == []
    assert (state_dir / "process-2" / "notes").exists()


def test_a_start_that_ends_before_the_members_are_removed_is_repeated(tmp_path: Path) -> None:
    """Nothing has moved until then, so the next start removes the same members."""
    state_dir = filled(tmp_path / "state")

    with pytest.raises(KeyError), arranging_shard_files(state_dir, 2) as former:
        raise KeyError(*former)

    assert places(state_dir) == {"state": list(SHARDS)}
    assert arrange(state_dir, 2) == [None]


def test_a_start_that_ends_between_two_moves_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file is in its old or its new place; the members of both are removed, and the rest moves."""
    state_dir, moves = filled(tmp_path / "state"), 0

    def move(path: Path, new: Path) -> None:
        nonlocal moves
        moves += 1
        if moves == 4:
            raise OSError(5, "Input/output error")
        replacement.move(path, new)

    monkeypatch.setattr(arrangement, "move", move)
    with pytest.raises(StateError, match="cannot move"):
        arrange(state_dir, 2)

    assert sorted(shard for shards in places(state_dir).values() for shard in shards) == list(SHARDS)
    assert arrange(state_dir, 2) == [None, 0, 1]
    assert places(state_dir).keys() == {"process-0", "process-1"}


@pytest.mark.parametrize(("before", "after"), [(1, 2), (3, 2), (2, 1)])
def test_files_of_a_former_layout_move_to_a_worker_that_removes_them(
    before: int, after: int, tmp_path: Path
) -> None:
    """A reshard's old files go once its topics are: also those of processes that there are no more."""
    state_dir = filled(tmp_path / "state")
    arrange(state_dir, before)
    for folder in {path.parent for path in state_dir.rglob("shard-*.sqlite3")}:
        former = next(folder.glob("shard-*.sqlite3"))
        former.rename(former.with_suffix(".former"))

    arrange(state_dir, after)
    used = [state_dir] if after == 1 else [process_folder(state_dir, number) for number in range(after)]
    assert len(list(state_dir.rglob("*.former"))) == before
    for folder in used:
        set_aside_former(folder, "", LATER)

    assert list(state_dir.rglob("*.former")) == []


def test_what_a_reader_left_of_a_file_does_not_move(tmp_path: Path) -> None:
    """SQLite's index of a file that has moved is nothing for the file of that shard elsewhere."""
    state_dir = filled(tmp_path / "state")
    arrange(state_dir, 2)
    (state_dir / "process-1" / "shard-00001.sqlite3-shm").write_bytes(b"an index")
    (state_dir / "process-1" / "shard-00001.sqlite3-wal").touch()

    arrange(state_dir, 1)

    assert sorted(path.name for path in state_dir.glob("*-*-*")) == []
    assert len(places(state_dir)["state"]) == len(SHARDS)
