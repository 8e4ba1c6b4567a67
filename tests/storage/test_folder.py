"""The folder: names, making and finding a run, the lock between processes, files written whole."""

from __future__ import annotations

import asyncio
import errno
import json
import math
import os
import signal
import socket
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gpbt_async.errors import FolderError
from gpbt_async.storage.files import read_json, write_json
from gpbt_async.storage.folder import RunFolder, check_name, free_name, locate, runs
from gpbt_async.storage.lock import Lock

if TYPE_CHECKING:
    from collections.abc import Iterator


def begun(path: Path) -> RunFolder:
    """A run with an experiment.json."""
    folder = RunFolder.create(path)
    folder.experiment.write_text("{}")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return begun(tmp_path / "runs" / "digits-1")


# ---- places


def test_the_places_of_a_run() -> None:
    folder = RunFolder("/r/digits-1")
    assert (folder.name, str(folder.journal), str(folder.lock_file)) == (
        "digits-1",
        "/r/digits-1/journal.jsonl",
        "/r/digits-1/lock",
    )
    member = folder.member(7)
    assert str(member.config) == "/r/digits-1/members/0007/config.json"
    assert str(member.checkpoint) == "/r/digits-1/members/0007/checkpoint"
    assert str(member.attempt(2)) == "/r/digits-1/members/0007/attempt-2"
    assert folder.member(12345).path.name == "12345"


def test_a_folder_stays_where_it_was_when_the_process_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = RunFolder("runs/x")
    monkeypatch.chdir("/")
    assert folder.path == tmp_path / "runs" / "x"


# ---- making


def test_create_makes_a_private_folder_and_its_parents(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "a" / "b" / "run")
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert folder.members.is_dir()


def test_create_accepts_only_an_empty_folder(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700
    # left by a launch that was killed during the import of its script: as good as empty; the lock decides
    folder.lock_file.touch()
    RunFolder.create(tmp_path)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(FolderError, match=r"exists and is not empty.*--name"):
        RunFolder.create(tmp_path)


def test_create_refuses_a_run_and_names_the_remedy(folder: RunFolder) -> None:
    with pytest.raises(FolderError, match=r"holds a run: .*`gpbt-async resume .*digits-1`.*--name"):
        RunFolder.create(folder.path)


def test_create_names_the_file_in_the_way(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for path in (file, file / "run", file / "deep" / "run"):
        with pytest.raises(FolderError, match=rf"cannot make the run's folder {path}: {file} is not a folder$"):
            RunFolder.create(path)


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC, errno.EROFS])
def test_create_names_path_and_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(path: object, *_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(
        FolderError, match=rf"cannot make the run's folder {tmp_path}/run: {os.strerror(number).lower()}"
    ):
        RunFolder.create(tmp_path / "run")


def test_create_where_no_folder_can_be_made(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="cannot make the run's folder /proc/nothing/run: "):
        RunFolder.create("/proc/nothing/run")


def test_unmake_deletes_a_folder_without_members(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    folder.script_log.write_text("ImportError")
    folder.unmake()
    assert not folder.path.exists()
    folder = RunFolder.create(tmp_path / "run")
    folder.journal.touch()
    folder.unmake()
    assert folder.path.exists()


# ---- names


def test_names_are_numbered_from_the_first_free_one(tmp_path: Path) -> None:
    assert free_name(tmp_path / "runs", "digits") == "digits-1"
    for n in (1, 2, 4):
        begun(tmp_path / f"digits-{n}")
    assert RunFolder.fresh(tmp_path, "digits").name == "digits-3"
    assert free_name(tmp_path, "digits") == "digits-5"
    (tmp_path / "dangling-1").symlink_to("nowhere")
    assert free_name(tmp_path, "dangling") == "dangling-2"


@pytest.mark.parametrize(("stem", "name"), [("my code (2)", "my-code-2--1"), (".hidden", "hidden-1"), ("", "run-1")])
def test_any_stem_makes_a_valid_name(tmp_path: Path, stem: str, name: str) -> None:
    assert check_name(free_name(tmp_path, stem)) == name


def test_simultaneous_launches_get_different_names(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: RunFolder.fresh(tmp_path / "runs", "digits").name, range(40)))
    assert sorted(made) == sorted(f"digits-{n}" for n in range(1, 41))


def test_fresh_fails_where_no_folder_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    with pytest.raises(FolderError, match="is not a folder"):
        RunFolder.fresh(tmp_path / "runs", "digits")


@pytest.mark.parametrize("name", ["", ".hidden", "-x", "a/b", "a b", "ü", "a\n"])
def test_an_invalid_name(name: str) -> None:
    with pytest.raises(FolderError, match="cannot be a run's name"):
        check_name(name)


def test_locate_takes_a_name_or_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    begun(tmp_path / "here")
    begun(tmp_path / "runs" / "both")
    begun(tmp_path / "both")
    assert locate("digits-1", "runs") == tmp_path / "runs" / "digits-1"
    assert locate("both", "runs") == tmp_path / "runs" / "both"
    assert locate("here", "runs") == tmp_path / "here"
    assert locate("./both", "runs") == tmp_path / "both"
    assert locate("/some/where", "runs") == Path("/some/where")
    assert locate(".", "runs") == tmp_path
    with pytest.raises(FolderError):
        locate("no such name", "runs")


# ---- finding


def test_open_finds_a_run(folder: RunFolder) -> None:
    assert RunFolder.open(folder.path).path == folder.path
    assert [run.name for run in runs(folder.path.parent)] == ["digits-1"]
    assert runs("/nowhere") == []


def test_open_names_the_missing_file_and_the_existing_runs(folder: RunFolder) -> None:
    beside = folder.path.parent
    begun(beside / "other-1")
    with pytest.raises(
        FolderError, match=rf"no run at {beside}/digit-1: it does not exist; there is digits-1, and 1 more$"
    ):
        RunFolder.open(beside / "digit-1")
    with pytest.raises(FolderError, match="there is digits-1, other-1"):
        RunFolder.open(beside / "zzz")
    with pytest.raises(FolderError, match=r"experiment\.json is missing"):
        RunFolder.open(beside)
    with pytest.raises(FolderError, match=r"is not a folder$"):
        RunFolder.open(folder.experiment)


def test_a_run_with_members_and_no_journal_is_refused(folder: RunFolder) -> None:
    folder.member(0).path.mkdir()
    with pytest.raises(FolderError, match=r"journal\.jsonl is missing"):
        RunFolder.open(folder.path)


# ---- the lock

HOLDER = """
import asyncio, os, subprocess, sys
from gpbt_async.storage.folder import RunFolder
async def main():
    lock = await RunFolder(sys.argv[1]).lock()
    child = None
    if "child" in sys.argv:
        child = subprocess.Popen(["cat"], pass_fds=[lock.fileno()], stdin=sys.stdin)
        lock.release()
    print("held", child and child.pid, flush=True)
    if child is None:
        sys.stdin.readline()
asyncio.run(main())
"""


@pytest.fixture
def other(folder: RunFolder) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock."""
    with _start(folder) as process:
        yield process
        process.kill()


def _start(folder: RunFolder, *args: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", HOLDER, str(folder.path), *args]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("held")
    return process


async def test_two_processes(folder: RunFolder, other: subprocess.Popen[str]) -> None:
    expected = rf"{folder.path} is being run by process {other.pid} on {socket.gethostname()}"
    with pytest.raises(FolderError, match=expected):
        await folder.lock()
    held = folder.locked()
    assert held is not None
    assert held["pid"] == other.pid
    waiting = asyncio.ensure_future(folder.lock(patience=30))
    other.send_signal(signal.SIGKILL)  # leaves no stale lock
    lock = await waiting
    assert lock.previous is not None
    assert (lock.previous["pid"], lock.rebooted) == (other.pid, False)
    held = folder.locked()
    assert held is not None
    assert held["pid"] == os.getpid()
    lock.release()
    lock.release()
    assert folder.locked() is None


async def test_a_child_that_inherited_the_lock_keeps_it(folder: RunFolder) -> None:
    with _start(folder, "child") as process:
        process.wait()
        assert folder.locked() is not None  # the scheduler has ended, its child has not
        with pytest.raises(FolderError, match="is being run by"):
            await folder.lock(patience=0)
        waiting = asyncio.ensure_future(folder.lock(patience=30))
        assert process.stdin is not None
        process.stdin.close()  # cat ends
        (await waiting).release()


async def test_constant_probing_does_not_prevent_taking_the_lock(folder: RunFolder) -> None:
    prober = (
        "import sys\nfrom gpbt_async.storage.folder import RunFolder\nfolder = RunFolder(sys.argv[1])\n"
        "open(folder.lock_file, 'a').close()\nprint('held', flush=True)\nwhile True: folder.locked()\n"
    )
    words = [sys.executable, "-c", prober, str(folder.path)]
    process = await asyncio.create_subprocess_exec(*words, stdout=subprocess.PIPE)
    assert process.stdout is not None
    await process.stdout.readline()
    try:
        for _ in range(20):
            (await folder.lock(patience=30)).release()
    finally:
        process.kill()
        await process.communicate()


async def test_a_restarted_machine_is_noticed(folder: RunFolder) -> None:
    lock = await folder.lock()
    assert (lock.previous, lock.rebooted) == (None, False)
    lock.release()
    held = json.loads(folder.lock_file.read_text())
    folder.lock_file.write_text(json.dumps({**held, "boot": "another"}))
    lock = await folder.lock()
    assert lock.rebooted
    lock.release()


async def test_a_lock_without_folder_or_with_a_damaged_file(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="cannot lock"):
        await RunFolder(tmp_path / "nowhere").lock()
    assert RunFolder(tmp_path / "nowhere").locked() is None
    (tmp_path / "lock").write_text("[no holder")
    lock = await RunFolder(tmp_path).lock()
    assert isinstance(lock, Lock)
    assert lock.previous is None
    lock.release()


# ---- files


async def test_json_is_written_strictly_and_read_back(folder: RunFolder) -> None:
    value = {"a": [1.5, math.nan, (math.inf, -math.inf)], "ü": {"x": None, "\ud800": True}}
    await write_json(folder.summary, value)
    assert read_json(folder.summary) == {
        "a": [1.5, "NaN", ["Infinity", "-Infinity"]],
        "ü": {"x": None, "\ud800": True},
    }
    await write_json(folder.summary, [], durable=False)
    assert read_json(folder.summary) == []
    assert {path.name for path in folder.path.iterdir()} == {"experiment.json", "members", "summary.json"}


async def test_a_write_that_fails_leaves_the_old_file(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    await write_json(folder.summary, 1)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(FolderError, match=rf"cannot write {folder.summary}: no space left on device"):
        await write_json(folder.summary, 2)
    monkeypatch.undo()
    with pytest.raises(TypeError):
        await write_json(folder.summary, {"x": object()})
    assert read_json(folder.summary) == 1
    assert {path.name for path in folder.path.iterdir()} == {"experiment.json", "members", "summary.json"}


async def test_a_cancelled_write_is_finished_first(folder: RunFolder) -> None:
    for turns in range(8):
        folder.summary.unlink(missing_ok=True)
        task = asyncio.ensure_future(write_json(folder.summary, turns))
        for _ in range(turns + 1):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert read_json(folder.summary) == turns


def test_reading_a_file_that_is_missing_or_not_json(folder: RunFolder) -> None:
    with pytest.raises(FolderError, match=rf"cannot read {folder.summary}: no such file"):
        read_json(folder.summary)
    folder.summary.write_text("{")
    with pytest.raises(FolderError, match=rf"cannot read {folder.summary}: Expecting"):
        read_json(folder.summary)


def test_best_that_points_at_the_member_already_stays_as_it_is(folder: RunFolder) -> None:
    for member in (3, 4):
        folder.member(member).path.mkdir()
    folder.point_best(3)
    before = os.lstat(folder.best).st_ino
    folder.point_best(3)
    assert os.lstat(folder.best).st_ino == before
    folder.best.unlink()  # by hand: it comes back
    folder.point_best(3)
    folder.point_best(4)
    assert folder.best.resolve() == folder.member(4).path


def test_best_points_at_a_member_wherever_the_folder_is(folder: RunFolder) -> None:
    for member in (3, 12345):
        folder.member(member).path.mkdir()
        (folder.path / ".best").symlink_to("left by a crash")
        folder.point_best(member)
        assert folder.best.resolve() == folder.member(member).path
    moved = folder.path.rename(folder.path.parent / "moved")
    assert (moved / "best").resolve() == moved / "members" / "12345"
    assert not os.path.lexists(moved / ".best")
    (moved / "best").unlink()
    (moved / "best").mkdir()
    with pytest.raises(FolderError, match="cannot point at the best member"):
        RunFolder(moved).point_best(3)
