"""Which file system is full, found out in the process that met it. Real small file systems, where they can be had."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from gpbt_async.member import failure
from gpbt_async.processes import remedies
from gpbt_async.storage import full_disk
from gpbt_async.storage.full_disk import FileSystem, culprit, logged, paths

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MIB = 1 << 20


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Makes file systems of 1 MiB with room for 20 files."""
    made: list[Path] = []

    def make(name: str) -> Path:
        place = tmp_path / name
        place.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=20", "none", str(place)]
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
            pytest.skip("no tmpfs can be mounted here: it takes root")
        made.append(place)
        return place

    yield make
    for place in made:
        subprocess.run(["umount", "-l", str(place)], check=True)


def raised(write: Callable[[], object]) -> list[BaseException]:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever the library says
        write()
    return failure.chain(caught.value)


def with_open(path: Path) -> None:
    with open(path, "wb") as file:
        file.write(b"\0" * 4 * MIB)


def with_a_name_that_is_gone(path: Path) -> None:
    with open(f"{path}", "w") as file:
        path = path.parent.parent
        file.write("0" * 4 * MIB)


def with_sqlite(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("create table t(a)")
    connection.execute("insert into t values (?)", (b"\0" * 4 * MIB,))


def with_files(path: Path) -> None:
    path.mkdir()
    for n in range(100):
        (path / str(n)).touch()


def with_torch(path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save(torch.zeros(MIB), path)


def with_old_torch(path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save(torch.zeros(MIB), path, _use_new_zipfile_serialization=False)


def with_numpy(path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    numpy.zeros(MIB).tofile(path)


def with_copy(path: Path) -> None:
    source = path.parent.parent / "source"
    source.write_bytes(b"\0" * 4 * MIB)
    shutil.copy(source, path)


WRITERS = [
    with_open,
    with_a_name_that_is_gone,
    with_sqlite,
    with_files,
    with_torch,
    with_old_torch,
    with_numpy,
    with_copy,
]


@pytest.mark.parametrize("write", WRITERS)
def test_the_full_file_system_is_named_for_every_library(
    tiny: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None]
) -> None:
    """Some say where, some that it is full, and some neither (torch.save)."""
    place = tiny("tmp")
    monkeypatch.setenv("TMPDIR", str(place))  # one of the usual places, for texts that name no path
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    lacks, where = culprit(raised(lambda: write(place / "x")), str(checkpoint))
    assert lacks
    assert where is not None
    assert where.path == str(place)
    assert where.full
    # and where it is the member's own
    for left in place.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    fault, remedy = failure.diagnosed(raised(lambda: write(place / "y"))[0], str(place), None)
    assert fault == remedies.DISK
    assert remedy.startswith(f"{place} has no room (1 MiB in all, ")


def test_a_file_system_that_is_not_the_runs_is_described_as_such(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    place = tiny("cache")
    fault, remedy = failure.diagnosed(raised(lambda: with_open(place / "x"))[0], str(tmp_path), None)
    assert fault == remedies.ELSEWHERE
    assert remedy.startswith(f"{place} has no room (1 MiB in all, 0 MiB free), which is not the run's disk: delete ")


def test_an_error_without_a_full_file_system() -> None:
    assert culprit([ValueError("no"), OSError(errno.EIO, "Input/output error")], "/") == (False, None)
    # it looks like one, and no file system is full
    lookalike = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")
    assert culprit([lookalike], os.curdir) == (False, None)


def test_a_quota_is_named_as_a_quota(tmp_path: Path) -> None:
    error = OSError(errno.EDQUOT, "Disk quota exceeded", str(tmp_path / "x"))
    lacks, where = culprit([error], str(tmp_path))
    assert lacks
    assert where is not None
    assert str(where) == f"the quota on {where.path} is used up"
    assert failure.diagnosed(error, str(tmp_path), None)[0] == remedies.DISK
    # without a path: written to, nowhere is refused, so it is none of the usual places
    assert culprit([OSError(errno.EDQUOT, "Disk quota exceeded")], str(tmp_path)) == (True, None)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("cp: error writing '/a b/x': No space left on device", ["/a b/x"]),
        ("dd: error writing ‘/tmp/x’: No space left on device", ["/tmp/x"]),
        ("sh: 1: cannot create /tmp/x: No space left on device", ["/tmp/x"]),
        ("OSError: [Errno 28] No space left on device: '/a' -> '/b'", ["/b", "/a"]),
        ("panic: write /tmp/x: no space left on device", ["/tmp/x"]),
        ("/home/me/solver.sh: line 3: echo: write error: No space left on device", []),
        ("unable to write to file </torch_12_0>: No space left on device (28)", ["/dev/shm/torch_12_0"]),
        ("RuntimeError: write(): fd 3 failed with No space left on device\nin /usr/lib/libc10.so", []),
    ],
)
def test_paths_in_the_output_of_programs(line: str, found: list[str]) -> None:
    assert paths(line) == found


def test_a_programs_log_names_it(tiny: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tiny("tmp")
    named = logged(f"hello\ncp: error writing '{place}/x': No space left on device", str(tmp_path))
    assert named[1] is not None
    assert named[1].path == str(place)
    monkeypatch.setenv("TMPDIR", str(place))
    raised(lambda: with_open(place / "x"))
    assert logged("echo: write error: No space left on device", str(tmp_path))[1] == full_disk.of(place)
    assert logged("all is well", str(tmp_path)) == (False, None)


def test_a_missing_path_is_on_the_file_system_of_its_parent(tmp_path: Path) -> None:
    missing, present = full_disk.of(tmp_path / "a" / "b"), full_disk.of(tmp_path)
    assert missing is not None
    assert present is not None
    # Free space changes while other tests write; all else must agree.
    assert replace(missing, free=0) == replace(present, free=0)
    assert FileSystem("/x", 1, MIB, 10 * MIB, inodes=True).full
    assert "no inodes left" in str(FileSystem("/x", 1, MIB, 10 * MIB, inodes=True))
