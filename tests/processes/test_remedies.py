"""What is known of an error: whether it passes, and what to do about it; in the process it was raised in."""

from __future__ import annotations

import json
import os
import pickle
import sqlite3
import subprocess
import urllib.error
import zipfile
from typing import TYPE_CHECKING

import pytest

from gpbt_async.formatting import LONGEST, parts
from gpbt_async.member import failure
from gpbt_async.member.failure import described, diagnosed, fault, remedy
from gpbt_async.processes import remedies
from gpbt_async.processes.outcome import Outcome, reason
from gpbt_async.processes.remedies import LASTING, PASSING, remedy_for, same
from gpbt_async.processes.wire import Exit

if TYPE_CHECKING:
    from pathlib import Path

MISMATCH = (
    "Error(s) in loading state_dict for Linear:\n\tsize mismatch for weight: copying a param with shape "
    "torch.Size([9, 4]) from checkpoint, the shape in current model is torch.Size([8, 4])."
)


def caused(error: BaseException, by: BaseException) -> BaseException:
    try:
        raise error from by
    except type(error) as raised:
        return raised


class Awkward(Exception):
    def __str__(self) -> str:
        raise KeyError("no text")


class RateLimitError(Exception):
    """As clients of web services have them: derived from nothing that Python knows."""


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (RuntimeError(MISMATCH), LASTING),
        (RuntimeError('Error(s) in loading state_dict: Missing key(s) in state_dict: "connection.weight"'), LASTING),
        (ValueError("loaded state dict has a different number of parameter groups"), LASTING),
        (ValueError("n_estimators must be positive"), ""),
        (KeyError("width"), ""),
        (AssertionError(), ""),
        (UserWarning("be warned"), ""),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (8x4 and 5x8)"), ""),
        (ExceptionGroup("two", [ValueError("a"), TypeError("b")]), ""),
        (Awkward(), ""),
        (FileNotFoundError(2, "No such file or directory", "a.csv"), PASSING),
        (ConnectionResetError(104, "reset"), PASSING),
        (TimeoutError(), PASSING),
        (MemoryError(), PASSING),
        (KeyboardInterrupt(), PASSING),
        (SystemExit(1), PASSING),
        (EOFError("Ran out of input"), PASSING),
        (pickle.UnpicklingError("pickle data was truncated"), PASSING),
        (zipfile.BadZipFile("File is not a zip file"), PASSING),
        (sqlite3.OperationalError("database is locked"), PASSING),
        (subprocess.CalledProcessError(1, "nvcc"), PASSING),
        (urllib.error.HTTPError("http://x", 503, "unavailable", None, None), PASSING),  # type: ignore[arg-type]
        (RateLimitError("slow down"), PASSING),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), PASSING),
        (RuntimeError("NCCL communicator was aborted"), PASSING),
        (RuntimeError("DataLoader worker (pid 71) is killed by signal: Killed."), PASSING),
        (caused(RuntimeError("cannot load the data"), OSError(5, "Input/output error")), PASSING),
        (ExceptionGroup("two", [ValueError("a"), OSError(5, "io")]), PASSING),
    ],
)
def test_the_fault_of_an_error(error: BaseException, what: str) -> None:
    assert fault(error) == what


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (pickle.UnpicklingError("Weights only load failed. ..."), "state_dict()"),
        (RuntimeError("Cannot re-initialize CUDA in forked subprocess."), "--start"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "--share 1"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error."), "--shm-size"),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), "num_workers"),
        (AssertionError("daemonic processes are not allowed to have children"), "num_workers=0"),
        (AttributeError("Can't get attribute 'Net' on <module 'mine'>"), "top level of a module"),
        (ImportError("attempted relative import with no known parent package"), "launch package.module"),
        (ModuleNotFoundError("No module named 'helpers'"), "PYTHONPATH"),
        (OSError(24, "Too many open files"), "ulimit -n"),
        (OSError(98, "Address already in use"), "port of its own"),
        (RuntimeError("Attempting to deserialize object on a CUDA device but ..."), "map_location=member.device"),
        (caused(RuntimeError("no"), ModuleNotFoundError("No module named 'helpers'")), "PYTHONPATH"),
    ],
)
def test_known_errors_have_a_remedy(error: BaseException, words: str) -> None:
    assert words in remedy(error)
    assert len(remedy(error)) <= remedies.LONGEST


def test_other_errors_have_no_remedy() -> None:
    for error in (
        ValueError("no"),
        Awkward(),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        OSError(5, ""),
    ):
        assert remedy(error) == ""
    # a root does not load its parent's weights
    assert remedy(RuntimeError(MISMATCH), parent=None) == ""
    assert "cannot be inherited" in remedy(RuntimeError(MISMATCH), parent="/p")
    assert all(len(what) <= remedies.LONGEST for _, what in remedies.TABLE)


def test_a_file_that_is_not_there_or_may_not_be_written(tmp_path: Path) -> None:
    parent, own = str(tmp_path / "parent"), str(tmp_path / "own")
    with pytest.raises(FileNotFoundError) as relative:
        os.open("data/train.csv", os.O_RDONLY)
    assert f"was called in, {os.getcwd()}" in diagnosed(relative.value, own, parent)[1]
    with pytest.raises(FileNotFoundError) as missing:
        os.open(f"{parent}/model.pt", os.O_RDONLY)
    assert diagnosed(missing.value, own, parent)[1].startswith("the parent's checkpoint holds no model.pt")
    assert diagnosed(missing.value, own, None)[1] == ""
    refused = PermissionError(13, "Permission denied", f"{parent}/model.pt")
    assert "write to member.checkpoint" in diagnosed(refused, own, parent)[1]
    copied = PermissionError(13, "Permission denied", f"{own}/model.pt")
    assert "shutil.copyfile" in diagnosed(copied, own, parent)[1]
    assert diagnosed(copied, own, parent)[0] == PASSING


def test_any_exception_fits_on_one_line() -> None:
    assert described(ValueError("no")) == "ValueError: no"
    assert described(AssertionError()) == "AssertionError"
    assert described(Awkward()) == "Awkward: (without text: __str__ raised KeyError)"
    group = ExceptionGroup("two", [ValueError("a"), TypeError("b")])
    assert described(group) == "ExceptionGroup: two (2 sub-exceptions): the first: ValueError: a"
    assert len(described(ValueError("x" * 10_000_000))) <= 4000
    looped = ValueError("a")
    looped.__cause__ = looped
    assert failure.chain(looped) == [looped]


def test_a_reason_is_one_line_with_its_remedy_behind_it() -> None:
    text = reason(Outcome(Exit.RAISED, 0.0, f"RuntimeError: {MISMATCH}", "mine.py:5 in train", remedy="take it\nout"))
    assert "\n" not in text
    assert parts(text)[0].endswith("(mine.py:5 in train)")
    assert parts(text)[1] == "take it out"
    assert parts("boom") == ("boom", "")
    assert "dmesg" in parts(reason(Outcome(Exit.DIED, 0.0, "killed by SIGKILL", status=-9)))[1]
    assert parts(reason(Outcome(Exit.DIED, 0.0, "exit status 3", status=3)))[1] == ""
    assert len(reason(Outcome(Exit.RAISED, 0.0, "x" * 9000, remedy="y" * 900))) <= 2 * LONGEST + 50


def test_the_same_failure_twice_is_known_by_its_words() -> None:
    one = "ValueError: <Net at 0x7f01> in /r/members/0003/attempt-1/w (mine.py:5 in train)"
    assert same(one, one.replace("0x7f01", "0x7eff").replace("attempt-1", "attempt-2"))
    assert not same(one, one.replace("mine.py:5", "mine.py:6"))
    assert not same("ValueError: loss is 3.5", "ValueError: loss is 3.6")


def test_the_remedy_for_a_text_alone() -> None:
    assert remedy_for(json.dumps(MISMATCH)) == remedies.SHAPE
    assert remedy_for("killed by SIGBUS").startswith("/dev/shm")
    assert remedy_for("exit status 1") == ""
