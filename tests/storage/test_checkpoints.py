"""Checkpoints: whole or absent whatever interrupts, never changed afterwards, and gone when discarded."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from gpbt_async.storage import checkpoints, files
from gpbt_async.storage.checkpoints import CheckpointError, CheckpointStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTENT = {
    "model.pt": b"weights" * 1000,
    "empty": b"",
    "sub/deep/state.bin": os.urandom(3_000_000),
    "sub/a b\udcff": b"x",
}


@pytest.fixture
def store() -> Iterator[CheckpointStore]:
    store = CheckpointStore()
    yield store
    store.close()


@pytest.fixture
def member(tmp_path: Path) -> Path:
    path = tmp_path / "members" / "0007"
    path.mkdir(parents=True)
    return path


def fill(scratch: Path, content: dict[str, bytes] = CONTENT) -> Path:
    for name, data in content.items():
        path = scratch / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    scratch.mkdir(exist_ok=True)
    return scratch


def found(folder: Path) -> dict[str, bytes]:
    """Everything in a folder but the manifest."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths if p != folder / "manifest.json"}


# ---- publishing


async def test_a_published_checkpoint_is_whole_and_read_only(store: CheckpointStore, member: Path) -> None:
    scratch, final = fill(member / "attempt-1"), member / "checkpoint"
    published = await store.publish(scratch, final)
    assert found(final) == CONTENT
    assert os.listdir(member) == ["checkpoint"]
    assert published.size == sum(map(len, CONTENT.values()))
    manifest = json.loads((final / "manifest.json").read_bytes())
    assert (manifest["size"], manifest["digest"]) == (published.size, published.digest)
    assert manifest["attempt"] == "attempt-1"
    assert [file["name"] for file in manifest["files"]] == sorted(CONTENT)
    for path in final.rglob("*"):
        assert path.is_dir() or stat.S_IMODE(path.stat().st_mode) & 0o222 == 0, path
    assert await store.verify(final) is None


async def test_the_digest_is_of_names_and_contents(store: CheckpointStore, member: Path) -> None:
    digests = []
    for n, content in enumerate([{"a": b"1"}, {"a": b"2"}, {"b": b"1"}, {"a": b"1"}, {}]):
        published = await store.publish(fill(member / f"attempt-{n}", content), member / f"checkpoint-{n}")
        digests.append(published.digest)
    assert digests[0] == digests[3]
    assert len(set(digests)) == 4


async def test_publishing_twice_returns_the_same(store: CheckpointStore, member: Path) -> None:
    scratch, final = fill(member / "attempt-1"), member / "checkpoint"
    assert await store.publish(scratch, final) == await store.publish(scratch, final)


async def test_the_checkpoint_of_another_attempt_is_not_accepted(store: CheckpointStore, member: Path) -> None:
    final = member / "checkpoint"
    await store.publish(fill(member / "attempt-1"), final)
    with pytest.raises(CheckpointError, match=r"attempt-2 is gone, and was not published"):
        await store.publish(member / "attempt-2", final)
    # its fsync failed after the rename, say, and the member was trained again: the facts speak of the second attempt
    published = await store.publish(fill(member / "attempt-2", {"second": b"2"}), final)
    assert found(final) == {"second": b"2"}
    assert (os.listdir(member), published.size) == (["checkpoint"], 1)


async def test_a_checkpoint_damaged_after_publishing_is_refused(store: CheckpointStore, member: Path) -> None:
    scratch, final = fill(member / "attempt-1"), member / "checkpoint"
    await store.publish(scratch, final)
    (final / "model.pt").write_bytes(b"short")
    with pytest.raises(CheckpointError, match=r"model\.pt has 5 bytes where 7000 were published"):
        await store.publish(scratch, final)
    (final / "model.pt").unlink()
    with pytest.raises(CheckpointError, match=r"model\.pt is missing"):
        await store.publish(scratch, final)


async def test_links_pipes_and_sockets_are_refused(
    store: CheckpointStore, member: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(path: Path) -> None:
        path.symlink_to("model.pt")

    def listening(path: Path) -> None:
        monkeypatch.chdir(path.parent)  # the name of a socket has room for 107 bytes
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)

    for n, (make, what) in enumerate(
        [(link, "a symbolic link"), (os.mkfifo, "a socket, pipe"), (listening, "a socket")]
    ):
        scratch = fill(member / f"attempt-{n}")
        make(scratch / "sub" / "odd")
        with pytest.raises(CheckpointError, match=f"{scratch}/sub/odd is {what}"):
            await store.publish(scratch, member / "checkpoint")
    (member / "attempt-9").symlink_to(member / "attempt-0")
    with pytest.raises(CheckpointError, match="attempt-9 is a symbolic link"):
        await store.publish(member / "attempt-9", member / "checkpoint")
    assert not (member / "checkpoint").exists()


async def test_the_manifests_name_is_reserved_at_the_top_only(store: CheckpointStore, member: Path) -> None:
    for mine in (b'{"mine": 1}', b"[]", b"\xff", b'{"checkpoint": 1, "digest": "", "size": 0, "files": [{}]}'):
        with pytest.raises(CheckpointError, match=r"manifest\.json has a reserved name"):
            await store.publish(fill(member / "attempt-1", {"manifest.json": mine}), member / "checkpoint")
    await store.publish(fill(member / "attempt-2", {"sub/manifest.json": b"{}"}), member / "checkpoint")
    assert await store.verify(member / "checkpoint") is None


async def test_a_copy_of_the_parents_folder_is_a_checkpoint_of_its_own(store: CheckpointStore, member: Path) -> None:
    parent, scratch, final = member / "parent", member / "attempt-1", member / "checkpoint"
    await store.publish(fill(member / "attempt-0"), parent)
    shutil.copytree(parent, scratch, copy_function=os.link)  # the manifest, too
    (scratch / "new").write_bytes(b"new")
    await store.publish(scratch, final)
    assert found(final) == {**CONTENT, "new": b"new"}
    assert await store.verify(final) is None
    assert await store.verify(parent) is None


async def test_many_at_once_use_few_threads(store: CheckpointStore, member: Path) -> None:
    places = [(fill(member / f"attempt-{n}", {"n": bytes([n])}), member / f"checkpoint-{n}") for n in range(12)]
    await asyncio.gather(*(store.publish(*place) for place in places))
    assert [found(final) for _, final in places] == [{"n": bytes([n])} for n in range(12)]
    names = [thread.name for thread in threading.enumerate()]
    assert 1 <= sum(name.startswith("gpbt-checkpoint") for name in names) <= 2
    assert not any(name.startswith("asyncio") for name in names)


# ---- verifying


async def test_a_bit_that_flips_between_rename_and_fact_is_found(store: CheckpointStore, member: Path) -> None:
    scratch, final = fill(member / "attempt-1"), member / "checkpoint"
    await store.publish(scratch, final)
    path = final / "model.pt"
    path.chmod(0o600)
    path.write_bytes(b"weightS" + path.read_bytes()[7:])
    with pytest.raises(CheckpointError, match=r"model\.pt is not what was published"):
        await store.publish(scratch, final)


async def test_no_bit_of_a_manifest_can_flip_unnoticed(store: CheckpointStore, member: Path) -> None:
    scratch, final = fill(member / "attempt-1", {"w": b"x"}), member / "checkpoint"
    await store.publish(scratch, final)
    path = final / "manifest.json"
    path.chmod(0o600)
    whole = path.read_bytes()
    blank = {at for at, byte in enumerate(whole) if byte in b" \n"}  # between the words nothing is said
    for at in set(range(len(whole))) - blank:
        for bit in range(8):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :])
            assert store.check(final) is not None, (at, bit)
    path.write_bytes(whole)
    assert store.check(final) is None


async def test_verify_says_what_is_wrong(store: CheckpointStore, member: Path) -> None:
    final = member / "checkpoint"
    await store.publish(fill(member / "attempt-1"), final)

    async def wrong() -> str:
        problem = await store.verify(final)
        assert problem is not None
        return problem

    model, good = final / "model.pt", CONTENT["model.pt"]
    model.chmod(0o644)
    model.write_bytes(b"W" + good[1:])
    assert await wrong() == f"{model} is not what was published: its digest differs"
    model.write_bytes(good[1:])
    assert await wrong() == f"{model} has 6999 bytes where 7000 were published"
    model.unlink()
    assert await wrong() == f"{model} is missing"
    model.mkdir()
    assert await wrong() == f"{model} cannot be read: Is a directory"
    model.rmdir()
    model.write_bytes(good)
    assert await store.verify(final) is None
    manifest = final / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text(manifest.read_text().replace("7000", "7001"))
    assert await wrong() == f"{final} has no whole manifest.json"
    manifest.unlink()
    assert await wrong() == f"{final} has no whole manifest.json"
    assert await store.verify(member / "never") == f"{member / 'never'} has no whole manifest.json"


# ---- preparing, deleting, cleaning up


async def test_prepare_makes_an_empty_folder(store: CheckpointStore, tmp_path: Path) -> None:
    scratch = tmp_path / "members" / "0001" / "attempt-1"
    store.prepare(scratch)  # the member's folder as well
    fill(scratch)
    store.prepare(scratch)
    assert list(scratch.iterdir()) == []
    store.close()  # what was left there is deleted behind our back, but it is
    assert os.listdir(scratch.parent) == ["attempt-1"]
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=f"cannot make .* {tmp_path}/file is not a folder"):
        store.prepare(tmp_path / "file" / "attempt-1")


async def test_discard_deletes_files_folders_and_accepts_missing_ones(store: CheckpointStore, member: Path) -> None:
    final, scratch = member / "checkpoint", fill(member / "attempt-2")
    await store.publish(fill(member / "attempt-1"), final)
    for folder in (scratch / "sub" / "deep", scratch / "sub", scratch):
        folder.chmod(0o500)  # an obstacle for all but root
    (member / "link").symlink_to(final)
    (member / "file").touch()
    outside = fill(member.parent / "outside", {"kept": b"1"})
    (member / "way-out").symlink_to(outside)
    await store.discard(final, scratch, member / "absent", member / "link", member / "file", member / "way-out")
    assert os.listdir(member) == []
    assert found(outside) == {"kept": b"1"}
    await store.discard()


async def test_a_half_deleted_checkpoint_is_never_seen(
    store: CheckpointStore, member: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = member / "checkpoint"
    await store.publish(fill(member / "attempt-1"), final)

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(checkpoints, "_delete", refuse)
    await store.discard(final)  # what is left of it has no name any more
    assert [name[:17] for name in os.listdir(member)] == [".trash-checkpoint"]
    monkeypatch.undo()
    store.sweep(member.parent, keep=())
    store.close()
    assert os.listdir(member) == []


async def test_a_checkpoint_that_cannot_be_renamed_is_an_error(
    store: CheckpointStore, member: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = fill(member / "attempt-1"), fill(member / "attempt-2")
    rename = os.rename

    def refuse(path: Path, to: Path) -> None:
        if path == second:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(path, to)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(CheckpointError, match=f"cannot delete {second}: input/output error"):
        await store.discard(first, second)
    assert os.listdir(member) == ["attempt-2"]


async def test_sweep_deletes_what_a_crash_left(store: CheckpointStore, member: Path) -> None:
    other = member.parent / "0008"
    for path in (member, other):
        fill(path / "attempt-1")
        fill(path / "attempt-2")
        fill(path / ".trash-checkpoint-abc")
        (path / ".manifest-attempt-1").touch()
        fill(path / "checkpoint")
        (path / "config.json").touch()
    (member.parent / "stray").touch()
    fill(member.parent / "another" / "checkpoint")
    store.sweep(member.parent, keep={"0007/attempt-2"}, published={"0007", "0009"})
    store.close()
    assert sorted(os.listdir(member)) == ["attempt-2", "checkpoint", "config.json"]
    assert sorted(os.listdir(other)) == ["config.json"]
    assert (member.parent / "another" / "checkpoint").is_dir()
    with pytest.raises(CheckpointError, match="cannot clean up"):
        store.sweep(member.parent / "nowhere", keep=())


async def test_closing_stops_a_long_publish(member: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(threads=1)
    scratch = fill(member / "attempt-1")
    digesting, closing = asyncio.Event(), threading.Event()
    real, loop = CheckpointStore._digest, asyncio.get_running_loop()

    def slow(self: CheckpointStore, fd: int) -> Any:
        loop.call_soon_threadsafe(digesting.set)
        assert closing.wait(10)
        return real(self, fd)

    monkeypatch.setattr(CheckpointStore, "_digest", slow)
    publishing = asyncio.ensure_future(store.publish(scratch, member / "checkpoint"))
    await digesting.wait()
    store._closing = True  # as close() does before it waits for the thread
    closing.set()
    with pytest.raises(CheckpointError, match="stopped: the run"):
        await publishing
    store.close()
    assert os.listdir(member) == ["attempt-1"]
    assert found(scratch) == CONTENT


# ---- interrupted anywhere

INTERRUPTED = """
import asyncio, os, signal, sys
from pathlib import Path
from gpbt_async.storage import checkpoints, files

class Os:  # os, until the n-th call of it; then the process is killed, or the disk is full, before or after the call
    def __init__(self, n, how):
        self.left, self.how = n, how
    def __getattr__(self, name):
        real = getattr(os, name)
        if not callable(real) or isinstance(real, type):
            return real
        def call(*args, **kwargs):
            self.left -= 1
            if self.left == 0 and self.how == "full" and name in ("open", "fsync", "rename", "fchmod"):
                raise OSError(28, os.strerror(28))
            if self.left == 0 and self.how == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*args, **kwargs)
            if self.left == 0 and self.how == "after":
                os.kill(os.getpid(), signal.SIGKILL)
            return result
        return call

member = Path(sys.argv[1])
for n in range(1, 200):
    for how in sys.argv[2:]:
        here = member / f"{n}-{how}"
        here.mkdir()
        (here / "attempt-1" / "sub").mkdir(parents=True)
        (here / "attempt-1" / "model.pt").write_bytes(b"1" * 1000)
        (here / "attempt-1" / "sub" / "b").write_bytes(b"2" * 10)
        (here / "checkpoint").mkdir()
        (here / "checkpoint" / "stale").write_bytes(b"of an earlier try")
        pid = os.fork()
        if pid == 0:
            checkpoints.os = files.os = proxy = Os(n, how)
            try:
                checkpoints.CheckpointStore()._publish(here / "attempt-1", here / "checkpoint")
            except checkpoints.CheckpointError as error:
                os._exit(3 if "no space left on device" in str(error) else 4)
            os._exit(5 if proxy.left > 0 else 0)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(n, how, status, flush=True)
    if status == 5:
        break
"""


@pytest.mark.slow
async def test_interrupted_anywhere_it_can_be_published_again(store: CheckpointStore, member: Path) -> None:
    words = [sys.executable, "-c", INTERRUPTED, member, "before", "after", "full"]
    process = await asyncio.create_subprocess_exec(*words, stdout=subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0
    lines = [line.split() for line in out.decode().splitlines()]
    assert len(lines) > 60  # some twenty calls
    assert {status for _, how, status in lines if how != "full"} == {"-9", "5"}
    assert {status for _, how, status in lines if how == "full"} == {"0", "3", "5"}
    content = {"model.pt": b"1" * 1000, "sub/b": b"2" * 10}
    for n, how, _ in lines:
        here = member / f"{n}-{how}"
        scratch, final = here / "attempt-1", here / "checkpoint"
        if scratch.exists():
            assert not final.exists() or found(final) == {"stale": b"of an earlier try"}
        else:
            assert await store.verify(final) is None
        await store.publish(scratch, final)  # as a resumed run does
        assert await store.verify(final) is None
        assert found(final) == content
    store.sweep(member, keep=())
    store.close()
    assert {tuple(os.listdir(member / f"{n}-{how}")) for n, how, _ in lines} == {("checkpoint",)}


@pytest.mark.parametrize("name", ["open", "fsync", "rename", "fchmod"])
async def test_a_full_disk_is_reported_with_its_path(
    store: CheckpointStore, member: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    scratch = fill(member / "attempt-1")
    monkeypatch.setattr(checkpoints.os, name, refuse)
    monkeypatch.setattr(files.os, name, refuse)
    with pytest.raises(CheckpointError, match=re.escape(f"cannot publish {scratch}: no space left on device")):
        await store.publish(scratch, member / "checkpoint")
    monkeypatch.undo()
    await store.publish(scratch, member / "checkpoint")
    assert await store.verify(member / "checkpoint") is None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    path = tmp_path / "small"
    path.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(path)]
    try:
        done = subprocess.run(words, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs: {done.stderr.decode().strip()}")
    yield path
    subprocess.run(["umount", str(path)], check=True)


async def test_a_disk_that_is_really_full(store: CheckpointStore, small_disk: Path) -> None:
    scratch, final = small_disk / "0007" / "attempt-1", small_disk / "0007" / "checkpoint"
    store.prepare(scratch)
    fill(scratch, {"model.pt": b"1" * 100_000})
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space left"):
        ballast.write_bytes(b"0" * 1_000_000)
    with pytest.raises(CheckpointError, match=re.escape(f"cannot publish {scratch}: no space left on device")):
        await store.publish(scratch, final)
    assert not final.exists()
    ballast.unlink()
    await store.publish(scratch, final)
    assert await store.verify(final) is None


@pytest.mark.parametrize("name", ["w", "manifest.json"])
@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.ESTALE])
def test_a_file_that_cannot_be_read_now_is_not_damaged(tmp_path, monkeypatch, name, number):
    """A damaged checkpoint is deleted, even if it is the best."""
    scratch, final = tmp_path / "attempt-1", tmp_path / "checkpoint"
    scratch.mkdir()
    (scratch / "w").write_bytes(b"x")
    store = CheckpointStore()
    store._publish(scratch, final)
    opens = {os: os.open, io: io.open}

    def refusing(module):
        def opened(path, *args, **options):
            if str(path) == str(final / name):
                raise OSError(number, os.strerror(number))
            return opens[module](path, *args, **options)

        return opened

    for module in opens:
        monkeypatch.setattr(module, "open", refusing(module))
    with pytest.raises(CheckpointError, match=f"(?i){os.strerror(number)}"):
        store.check(final)
    monkeypatch.undo()
    assert store.check(final) is None
    store.close()


def test_publishing_does_not_wait_for_verifying(tmp_path, monkeypatch):
    go = threading.Event()
    monkeypatch.setattr(CheckpointStore, "check", lambda self, final: go.wait(20) and None)

    async def main():
        store = CheckpointStore()
        reading = [asyncio.create_task(store.verify(tmp_path)) for _ in range(5)]
        await asyncio.sleep(0.05)
        (tmp_path / "attempt-1").mkdir()
        await asyncio.wait_for(store.publish(tmp_path / "attempt-1", tmp_path / "checkpoint"), 10)
        assert not any(task.done() for task in reading)
        go.set()
        await asyncio.gather(*reading)
        store.close()

    asyncio.run(main())
