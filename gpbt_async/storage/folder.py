"""A run's folder: the path of every file of a run in one class; making, finding and opening runs.

One system call, without a race, answers each question between processes:

* *Is the name free?* mkdir, for a name that we make up; for a name that was given, the lock, which is taken next.
* *Does a scheduler run it?* flock (lock), which the kernel drops with the last process that holds the file open.
* *Does a scheduler listen?* Opening its FIFO to write, which fails when no process reads it (control).
* *Is the file whole?* It is written beside its place, synced and renamed (files).
"""

from __future__ import annotations

import asyncio
import difflib
import itertools
import os
import re
import shlex
import shutil
from contextlib import suppress
from pathlib import Path

from ..errors import FolderError, JournalError
from .files import explained
from .lock import Holder, Lock, acquire, holder

#: seconds between two looks whether a run's folder is still there
LOOK = 0.5
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class MemberFolder:
    """The paths of one member: members/0007/."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.json"
        self.metrics = path / "metrics.jsonl"
        self.log = path / "log.txt"
        self.checkpoint = path / "checkpoint"  # published: whole, or not there at all

    def attempt(self, attempt: int) -> Path:
        """The private folder an attempt writes its checkpoint to; renamed to `checkpoint` when published."""
        return self.path / f"attempt-{attempt}"


class RunFolder:
    """A run's folder. Constructing one only names paths; `create` and `open` look at the disk."""

    def __init__(self, path: os.PathLike[str] | str) -> None:
        self.path = Path(os.path.abspath(path))
        self.name = self.path.name
        self.experiment = self.path / "experiment.json"
        self.journal = self.path / "journal.jsonl"
        self.lock_file = self.path / "lock"
        self.control = self.path / "control"
        self.script_log = self.path / "script.log"
        self.members = self.path / "members"
        self.best = self.path / "best"
        self.schedule = self.path / "schedule.json"
        self.gpus = self.path / "gpus.json"
        self.summary = self.path / "summary.json"
        self.report = self.path / "report.html"
        self.trace = self.path / "trace.json"
        self.tracking = self.path / "tracking"  # trackers' positions, and their output by default
        self._lock: Lock | None = None

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @property
    def shell_name(self) -> str:
        """The run as a person types it after `gpbt-async resume`: its name where that is enough."""
        try:
            here = Path.cwd()
        except FileNotFoundError:  # the working directory was deleted, perhaps with the run
            return shlex.quote(str(self.path))
        if self.path == here / "runs" / self.name:
            return self.name
        return shlex.quote(str(self.path.relative_to(here) if self.path.is_relative_to(here) else self.path))

    def logs(self) -> list[Path]:
        """The logs of the script and of the members."""
        return [self.script_log, *(self.members.glob("*/log.txt"))]

    def member(self, member: int) -> MemberFolder:
        return MemberFolder(self.members / f"{member:04}")

    def count_members(self) -> int:
        """How many members have a folder."""
        return len(os.listdir(self.members)) if self.members.exists() else 0

    def emptied(self, members: int) -> JournalError:
        """The error of a journal without a fact in a run that has members."""
        return JournalError(
            f"{self.journal} is empty, but there are {members} members: bring it back, or launch a new run"
        )

    # ---- making and finding

    @classmethod
    def create(cls, path: os.PathLike[str] | str) -> RunFolder:
        """Make the folder of a new run. Raises FolderError when it is taken, or cannot be made."""
        folder = cls(path)
        with explained("cannot make the run's folder", folder.path):
            folder.path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                folder.path.mkdir()
            if not folder._is_unused():
                raise FolderError(_taken(folder))
            folder.path.chmod(0o700)
            folder.members.mkdir(exist_ok=True)
        return folder

    def _is_unused(self) -> bool:
        """Is it empty, or left by a launch that was killed during its import? If one is alive, it has the lock."""
        left = {self.lock_file.name, self.control.name, self.members.name, f".{self.experiment.name}.part"}
        return set(os.listdir(self.path)) <= left and not (self.members.exists() and os.listdir(self.members))

    @classmethod
    def fresh(cls, runs_dir: os.PathLike[str] | str, stem: str) -> RunFolder:
        """Make the folder of a new run under the first free name: `stem`-1, `stem`-2, ... Raises FolderError."""
        runs_dir = Path(os.path.abspath(runs_dir))
        with explained("cannot make a run in", runs_dir):
            runs_dir.mkdir(parents=True, exist_ok=True)
            while True:
                folder = cls(runs_dir / free_name(runs_dir, stem))
                with suppress(FileExistsError):  # another launch was quicker: the next name
                    folder.path.mkdir(mode=0o700)  # the claim
                    folder.members.mkdir()
                    return folder

    @classmethod
    def open(cls, path: os.PathLike[str] | str) -> RunFolder:
        """An existing run. Raises FolderError, naming what is missing, and runs of a similar name."""
        folder = cls(path)
        with explained("cannot open the run", folder.path):
            exists, declared = folder.path.is_dir(), folder.experiment.is_file()
        if not exists:
            what = "is not a folder" if folder.path.exists() else "does not exist"
            raise FolderError(f"no run at {folder.path}: it {what}{_similar(folder)}")
        if not declared:
            if (scheduler := folder.locked()) is not None:
                raise FolderError(
                    f"{folder.name} is still importing its script (process {scheduler.get('pid')}): try again soon"
                )
            raise FolderError(f"no run at {folder.path}: {folder.experiment.name} is missing{_remedy(folder)}")
        with explained("cannot open the run", folder.path):
            # a run killed before its first fact may start again; but without a journal its members are unknown
            if not folder.journal.exists() and folder.members.is_dir() and os.listdir(folder.members):
                raise FolderError(
                    f"cannot open the run {folder.path}: {folder.journal.name} is missing: bring it back from a copy, "
                    "or launch a new run under another name"
                )
            folder.members.mkdir(exist_ok=True)
        return folder

    def unmake(self) -> None:
        """Undo `create`, unless something has started in the folder: a launch that failed leaves nothing behind."""
        if not self.moved() and not self.journal.exists() and not any(self.members.glob("*")):
            shutil.rmtree(self.path, ignore_errors=True)

    # ---- the lock

    async def lock(self, patience: float = 0.1) -> Lock:
        """Take the lock. Tries for `patience` seconds, then raises FolderError naming the holder."""
        self._lock = await acquire(self.lock_file, patience)
        return self._lock

    def locked(self) -> Holder | None:
        """The scheduler that runs this run (pid, host, boot, t; empty while it is written), or None. Takes no lock."""
        return holder(self.lock_file)

    # ---- the folder moved or deleted under a run

    def place(self) -> str:
        """Tells the folder from a copy of it under any name. Raises FolderError."""
        with explained("cannot open the run", self.path):
            status = self.path.stat()
        return f"{status.st_dev:x}-{status.st_ino:x}"

    def moved(self) -> str:
        """Where the folder went whose lock we hold, as an error's text; empty if it is still at its path."""
        where = self._lock.current_path() if self._lock is not None else ""
        if where is None and self.journal.exists():
            text = f"{self.lock_file} was deleted while its run went on, so another scheduler could run it, too"
            return f"{text}; to continue: `gpbt-async resume {self.shell_name}`"
        if where is None:
            return f"{self.path} was deleted while its run went on, with everything in it: launch a new run"
        if not where:
            return ""
        return (
            f"{self.path} was moved to {where} while its run went on; to continue there: `gpbt-async resume "
            f"{shlex.quote(where)}` (stop a run before you move it)"
        )

    async def until_moved(self) -> FolderError:
        """Wait until the folder has been moved or deleted."""
        while True:
            await asyncio.sleep(LOOK)
            with suppress(OSError):  # a file server that does not answer
                if text := await asyncio.to_thread(self.moved):
                    return FolderError(text)

    # ---- the best

    def point_best(self, member: int) -> None:
        """Let `best` point at the member, atomically, and by a relative path, so that the folder can be moved."""
        beside, target = self.path / ".best", self.member(member).path.relative_to(self.path)
        with explained("cannot point at the best member", self.best):
            with suppress(OSError):  # it is asked after every member, and the best is mostly the same one
                if os.readlink(self.best) == os.fspath(target):
                    return
            with suppress(FileNotFoundError):
                beside.unlink()
            beside.symlink_to(target)
            beside.replace(self.best)


# ---- names


def free_name(runs_dir: os.PathLike[str] | str, stem: str) -> str:
    """The first name not taken: `stem`-1, `stem`-2, ... Only looks; `RunFolder.fresh` looks and takes."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).lstrip("._-") or "run"
    return next(name for n in itertools.count(1) if not os.path.lexists(Path(runs_dir, name := f"{stem}-{n}")))


def locate(run: str, runs_dir: os.PathLike[str] | str) -> Path:
    """The folder that RUN means: a name under `runs_dir`, or a path. Raises FolderError when it can be neither."""
    if os.sep in run or run in (".", ".."):
        return Path(os.path.abspath(run))
    inside = Path(os.path.abspath(runs_dir), check_name(run))
    return inside if inside.exists() or not is_run(run) else Path(os.path.abspath(run))


def check_name(name: str) -> str:
    """The name, if a run can have it. Raises FolderError."""
    if not _NAME.fullmatch(name):
        raise FolderError(f"{name!r} cannot be a run's name: letters, digits and '._-', and not one of '._-' first")
    return name


def is_run(path: os.PathLike[str] | str) -> bool:
    return os.path.isfile(Path(path, "experiment.json"))  # Path.is_file raises for a folder without permission


def runs(runs_dir: os.PathLike[str] | str) -> list[RunFolder]:
    """The runs under a folder, by name; none if there is no such folder."""
    try:
        return [RunFolder(path) for path in sorted(Path(runs_dir).iterdir()) if is_run(path)]
    except OSError:
        return []


def _taken(folder: RunFolder) -> str:
    other = "give another name with --name"
    if is_run(folder.path):
        return f"{folder.path} holds a run: continue it with `gpbt-async resume {folder.shell_name}`, or {other}"
    return f"{folder.path} exists and is not empty: {other}"


def _remedy(folder: RunFolder) -> str:
    if not folder.journal.exists():
        return _similar(folder)  # it never was a run
    return ": bring it back from a copy, or launch a new run under another name (--name)"


def _similar(folder: RunFolder) -> str:
    names = [run.name for run in runs(folder.path.parent)]
    close = difflib.get_close_matches(folder.name, names, n=5) or names[-5:]
    more = f", and {len(names) - len(close)} more" if len(names) > len(close) else ""
    return f"; there is {', '.join(close)}{more}" if close else ""
