"""What surrounds a training function in a member: no terminal, threads that are left, processes of its own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from launching import DECLARE, Open, trained, write

from gpbt_async.errors import ScriptError

if TYPE_CHECKING:
    from pathlib import Path

    from gpbt_async.processes.worker import Worker

WHERE = "a member of a run has no terminal: train one in the foreground instead, gpbt-async try SCRIPT"


async def trained_by(folder: Path, text: str, start: str | None = None, **config: Any) -> Worker:
    async with Open(folder, start=start) as launcher:
        await launcher.open_script(write(folder, text + DECLARE.format(train="train")))
        worker = await trained(launcher, folder, 0, **config)
    assert launcher.said == []
    return worker


# -- no terminal


@pytest.mark.parametrize("start", [None, "exec"])
@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("breakpoint()", f"RuntimeError: breakpoint() was called, and {WHERE}"),
        ("input('name? ')", f"EOFError: EOF when reading a line (input() was called, and {WHERE})"),
        ("import pdb; pdb.set_trace()", f"BdbQuit (a debugger was started, and {WHERE})"),
    ],
)
async def test_debuggers_and_questions_fail_at_once(tmp_path: Path, start: str | None, line: str, error: str) -> None:
    worker = await trained_by(tmp_path, f"def train(member):\n    {line}\n    member.report(score=1)\n", start)
    assert (worker.outcome.how, worker.outcome.error) == ("raised", error)
    assert worker.outcome.where is not None
    assert worker.outcome.where.startswith("mine.py:")


async def test_the_end_of_another_file_is_not_taken_for_a_question(tmp_path: Path) -> None:
    text = "import pickle\ndef train(member):\n    open('empty', 'w').close()\n    pickle.load(open('empty', 'rb'))\n"
    worker = await trained_by(tmp_path, text)
    assert worker.outcome.error == "EOFError: Ran out of input"


@pytest.mark.parametrize(("hook", "how"), [("0", "returned"), ("mine.debug", "returned"), ("", "raised")])
async def test_pythonbreakpoint_is_respected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hook: str, how: str
) -> None:
    """0 switches breakpoints off, and a debugger of the user's own (a remote one) is called; empty means none."""
    monkeypatch.setenv("PYTHONBREAKPOINT", hook)
    text = "called = []\ndef debug(): called.append(1)\n"
    text += "def train(member):\n    breakpoint()\n    member.report(score=len(called))\n"
    assert (await trained_by(tmp_path, text)).outcome.how == how


@pytest.mark.parametrize("line", ["breakpoint()", "input()"])
async def test_the_scripts_top_level_has_no_terminal_either(tmp_path: Path, line: str) -> None:
    async with Open(tmp_path) as launcher:
        with pytest.raises(ScriptError, match="gpbt-async try SCRIPT") as caught:
            await launcher.open_script(write(tmp_path, f"x = 1\n{line}\n"))
    assert str(caught.value).startswith("mine.py:2: ")


# -- threads that are left

HEAD = """
import functools, threading, time
from concurrent.futures import ThreadPoolExecutor
release = threading.Event()
"""
#: what is started in `train`, and the names of the threads that are reported
LEFT = {
    "a thread": ("threading.Thread(target=wait, name='saver').start()", ["saver"]),
    "of a partial": ("threading.Thread(target=functools.partial(wait), name='saver').start()", ["saver"]),
    "of a class": ("type('Mine', (threading.Thread,), {'run': lambda self: wait()})(name='saver').start()", ["saver"]),
    "a timer": ("t = threading.Timer(0.3, release.is_set); t.function = wait; t.name = 'later'; t.start()", ["later"]),
    "a daemon": ("threading.Thread(target=wait, daemon=True).start()", []),
    "one that ends": ("threading.Thread(target=time.sleep, args=(0.01,)).start()", []),
    "one of mine that ends": ("threading.Thread(target=lambda: time.sleep(0.01)).start()", []),
    "one that was joined": ("t = threading.Thread(target=lambda: None); t.start(); t.join()", []),
    "an idle executor": ("global pool; pool = ThreadPoolExecutor(2); pool.submit(len, 'a').result()", []),
}


@pytest.mark.parametrize(("line", "names"), LEFT.values(), ids=LEFT)
async def test_threads_that_the_user_leaves_are_reported(tmp_path: Path, line: str, names: list[str]) -> None:
    text = HEAD + "def wait():\n    release.wait(0.3)\n"
    text += f"def train(member):\n    member.report(score=1)\n    {line}\n"
    worker = await trained_by(tmp_path, text)
    assert worker.outcome.how == "returned"
    assert worker.end is not None
    assert worker.end.telemetry["threads"] == names


async def test_threads_of_libraries_are_not_reported(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    text = """
import torch
from torch.utils.data import DataLoader, TensorDataset

def train(member):
    global left
    left = iter(DataLoader(TensorDataset(torch.ones(64)), 4, num_workers=2, persistent_workers=True))
    next(left)
    try:
        from tqdm import tqdm
        for _ in tqdm(range(3)): pass
    except ImportError:
        pass
    member.report(score=1)
"""
    worker = await trained_by(tmp_path, text)
    assert worker.outcome.how == "returned"
    assert worker.end is not None
    assert worker.end.telemetry["threads"] == []


# -- processes of its own


@pytest.mark.parametrize("start", [None, "exec"])
async def test_reads_in_a_dataloaders_workers_count(tmp_path: Path, start: str | None) -> None:
    pytest.importorskip("torch")
    text = """
import torch
from torch.utils.data import DataLoader, Dataset

class Data(Dataset):
    def __init__(self, member): self.member = member
    def __len__(self): return 8
    def __getitem__(self, i): return torch.tensor(self.member.config["p"])

def train(member):
    total = sum(float(batch.sum()) for batch in DataLoader(Data(member), 4, num_workers=2))
    member.report(score=total)
"""
    worker = await trained_by(tmp_path, text, start, p=0.5, q=1.0)
    assert worker.outcome.how == "returned"
    assert worker.end is not None
    assert worker.end.telemetry["read"] == ["p"]


async def test_reads_in_forked_processes_count(tmp_path: Path) -> None:
    text = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

def look(n):
    return here.config["p"] * n

def train(member):
    global here
    here = member
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        member.report(score=sum(pool.map(look, range(4))))
"""
    worker = await trained_by(tmp_path, text, p=0.5, q=1.0)
    assert worker.outcome.how == "returned"
    assert worker.end is not None
    assert worker.end.telemetry["read"] == ["p"]


async def test_a_config_sent_to_a_process_counts_as_read(tmp_path: Path) -> None:
    """A pickled config is a plain dict, so all of it counts as read: better no finding than a wrong one."""
    text = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

def look(config):
    return type(config).__name__ == "dict" and config["p"]

def train(member):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        member.report(score=pool.submit(look, member.config).result())
"""
    worker = await trained_by(tmp_path, text, p=0.5, q=1.0)
    assert worker.outcome.how == "returned"
    assert worker.end is not None
    assert worker.end.telemetry["read"] == ["p", "q"]
    assert os.path.exists(tmp_path / "member-0-1" / "metrics.jsonl")
