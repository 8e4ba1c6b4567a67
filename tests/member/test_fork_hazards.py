"""What does not survive a fork: native threads of the script's import are found, and so is a fork that hangs."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from launching import DECLARE, Open, reported, trained, write
from scripts.harness import begin

from gpbt_async.declaration.target import Target
from gpbt_async.member import fork_hazards
from gpbt_async.processes import deadlock, linux, wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpbt_async.processes.worker import Worker

#: a pool as libraries have it: a thread waits for work, and says when it is done
POOL = r"""
#include <pthread.h>
#include <semaphore.h>
static sem_t job, done;
static void *work(void *none) { for (;;) { sem_wait(&job); sem_post(&done); } return none; }
void start(void) { pthread_t t; sem_init(&job, 0, 0); sem_init(&done, 0, 0); pthread_create(&t, 0, work, 0); }
void use(void) { sem_post(&job); sem_wait(&done); }
"""
NATIVE = """
import ctypes, os
pool = ctypes.CDLL(os.environ["POOL"])

pool.start()

def train(member):
    pool.use()
    member.report(score=1)
"""
#: a thread of Python's that nearly always holds a lock, and so does at the moment of a fork
PYTHON = """
import threading, time
lock = threading.Lock()

def work():
    while True:
        with lock:
            time.sleep(0.05)

threading.Thread(target=work, name="my worker", daemon=True).start()
time.sleep(0.01)

def train(member):
    with lock:
        member.report(score=1)
"""


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, POOL, "pool.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-pthread", "-o", "mypool.so", "pool.c"], check=True, cwd=tmp_path)
    monkeypatch.setenv("POOL", str(tmp_path / "mypool.so"))


def declare(text: str) -> str:
    return text + DECLARE.format(train="train")


async def hung(launcher: Open, folder: Path, member: int) -> tuple[Worker, float]:
    """A member that hangs; and for how many seconds it did."""
    began = time.monotonic()
    async with asyncio.timeout(30):
        worker = await trained(launcher, folder, member)
    return worker, time.monotonic() - began


# -- before a fork: native threads after the import


@pytest.mark.usefixtures("pool")
async def test_native_threads_at_import_mean_fresh_processes(tmp_path: Path) -> None:
    async with Open(tmp_path) as launcher:
        await launcher.open_script(write(tmp_path, declare(NATIVE)))
        assert launcher.exec
        assert launcher.pids()["zygote"] is None
        assert (await trained(launcher, tmp_path, 0)).outcome.how == "returned"
    (said,) = launcher.said
    assert said == (
        "the script starts 1 native thread (mypool) while it is imported, so members start as fresh processes, which "
        "is slower: move this line into the training function: mine.py:5: pool.start()"
    )


@pytest.mark.usefixtures("pool")
async def test_the_line_is_named_in_an_embedding_applications_module_too(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    file = write(tmp_path / "mine", NATIVE, "inner.py")
    target = Target(str(file), "mine.inner", "train", (str(tmp_path), *sys.path))
    async with Open(tmp_path) as launcher:
        await launcher.open_target(target)
        assert (await trained(launcher, tmp_path, 0)).outcome.how == "returned"
    (said,) = launcher.said
    assert said.endswith("mine/inner.py:5: pool.start()")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(4) as pool:\n"
                     "    list(pool.map(str, range(100)))\n", id="a pool that was shut down"),
        pytest.param("import _thread, threading\nrelease = threading.Lock()\nrelease.acquire()\n"
                     "_thread.start_new_thread(release.acquire, ())\n", id="a thread behind the back of threading"),
        pytest.param("import faulthandler\nfaulthandler.dump_traceback_later(1000)\n", id="faulthandler's watchdog"),
        pytest.param("numpy = __import__('pytest').importorskip('numpy')\na = numpy.ones((300, 300))\na @ a\n",
                     id="numpy"),
        pytest.param("import pytest\npytest.importorskip('pyarrow.parquet')\nimport pyarrow, pyarrow.parquet as pq\n"
                     "pq.write_table(pyarrow.table({'a': [1, 2]}), 'a.pq')\nread = pq.read_table('a.pq')\n",
                     id="pyarrow"),
        pytest.param("import pytest\npytest.importorskip('tokenizers')\nfrom tokenizers import Tokenizer, models\n"
                     "t = Tokenizer(models.BPE())\nt.encode_batch(['hello world'] * 100)\n", id="tokenizers"),
        pytest.param("import pytest\ntqdm = pytest.importorskip('tqdm')\nfor _ in tqdm.tqdm(range(2)): pass\n",
                     id="tqdm"),
    ],
)  # fmt: skip
async def test_harmless_imports_keep_the_fork(tmp_path: Path, text: str) -> None:
    name = text.partition("importorskip('")[2].partition("'")[0].partition(".")[0]
    if name:
        pytest.importorskip(name)
    text += "def train(member): member.report(score=1)\n"
    async with Open(tmp_path) as launcher:
        await launcher.open_script(write(tmp_path, declare(text)))
        assert not launcher.exec
        assert (await trained(launcher, tmp_path, 0)).outcome.how == "returned"
    assert launcher.said == []


async def test_arrow_works_in_a_fork(tmp_path: Path) -> None:
    """Why its threads are held for harmless: its pools were used before the fork, and are used in it."""
    pytest.importorskip("pyarrow.parquet")
    text = """
import pyarrow, pyarrow.compute as compute, pyarrow.csv as csv, pyarrow.parquet as pq
pyarrow.set_cpu_count(4)
table = pyarrow.table({"a": list(range(100_000))})
pq.write_table(table, "a.pq")
csv.write_csv(table, "a.csv")

def work():
    return compute.sum(pq.read_table("a.pq")["a"]).as_py() + compute.sum(csv.read_csv("a.csv")["a"]).as_py()

expected = work()

def train(member):
    member.report(score=work() - expected)
"""
    async with Open(tmp_path) as launcher:
        await launcher.open_script(write(tmp_path, declare(text)))
        async with await launcher.start(begin(tmp_path)) as worker:
            assert await reported(worker) == {"score": 0.0}
            assert worker.forked
    assert launcher.said == []


async def test_tokenizers_may_have_threads_in_members(tmp_path: Path) -> None:
    text = "import os\nseen = os.environ.get('TOKENIZERS_PARALLELISM')\n"
    text += "def train(m): m.report(score='TOKENIZERS_PARALLELISM' in os.environ, off=seen == 'off')\n"
    async with Open(tmp_path) as launcher:
        await launcher.open_script(write(tmp_path, declare(text)))
        async with await launcher.start(begin(tmp_path)) as worker:
            assert await reported(worker) == {"score": 0.0, "off": 1.0}


def test_a_threads_library_is_found_on_its_stack() -> None:
    pytest.importorskip("torch")
    code = """
import torch
from gpbt_async.member import fork_hazards
torch.set_num_threads(2)
torch.ones(1 << 20).add(1)
while "libgomp" not in [fork_hazards.hazard(task) for task in fork_hazards.native()]:
    torch.ones(1 << 20).add(1)  # it spins for a moment before it waits
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# -- the import, statement by statement

WHOLE = '''"""What it is."""
from __future__ import annotations

"no docstring"
import dataclasses, inspect, sys

limit: Missing = 3

@dataclasses.dataclass
class Point:
    """A point."""

    x: Absent = 1

def outer(function):
    return function

@outer
def twice(a: Nothing) -> int:
    return (
        2 * a
    )

if limit > 2:
    names: list[int] = [n for n in range(limit)]
"neither is this"
source = inspect.getsource(twice)
'''


def run_both(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The names of a file that was run as a whole, and statement by statement."""
    split: dict[str, Any] = {"__name__": "split"}
    whole: dict[str, Any] = {"__name__": "whole"}
    for name, names in (("split", split), ("whole", whole)):
        sys.modules[name] = type(sys)(name)
        sys.modules[name].__dict__.update(names)
    try:
        codes = fork_hazards.statements(path.read_bytes(), str(path))
        assert codes is not None
        for _, code in codes:
            exec(code, sys.modules["split"].__dict__)
        exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), sys.modules["whole"].__dict__)
        return dict(vars(sys.modules["split"])), dict(vars(sys.modules["whole"]))
    finally:
        del sys.modules["split"], sys.modules["whole"]


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="a module with annotations stays whole there")
def test_a_module_is_the_same_statement_by_statement(tmp_path: Path) -> None:
    split, whole = run_both(write(tmp_path, WHOLE))
    assert split.keys() == whole.keys()
    assert split["__doc__"] == whole["__doc__"] == "What it is."
    assert split["__annotations__"] == whole["__annotations__"] == {"limit": "Missing", "names": "list[int]"}
    assert split["twice"].__annotations__ == {"a": "Nothing", "return": "int"}
    assert split["source"] == whole["source"]
    assert split["source"].startswith("@outer\ndef twice")
    assert split["twice"].__code__.co_lines
    assert list(split["twice"].__code__.co_lines()) == list(whole["twice"].__code__.co_lines())
    assert split["Point"](2).x == 2


def test_a_module_without_a_docstring_has_none(tmp_path: Path) -> None:
    split, whole = run_both(write(tmp_path, "x = 1\n'a text'\n'another'\n"))
    assert "__doc__" not in split or split["__doc__"] is None
    assert split.get("__doc__") == whole.get("__doc__")


def shape(code: CodeType) -> list[Any]:
    """What is inside a code object: by name, where, and with which flags and variables."""
    inner = sorted((c for c in code.co_consts if isinstance(c, CodeType)), key=lambda c: c.co_firstlineno)
    return [
        (c.co_qualname, c.co_firstlineno, c.co_flags, c.co_varnames, c.co_freevars, set(c.co_names), shape(c))
        for c in inner
    ]


@pytest.mark.parametrize("module", [fork_hazards, deadlock, wire])
def test_the_statements_of_a_file_are_its_code(module: ModuleType) -> None:
    file = module.__file__
    assert file is not None
    source = Path(file).read_bytes()
    codes = fork_hazards.statements(source, file)
    assert codes is not None
    whole = shape(compile(source, file, "exec", dont_inherit=True))
    assert [each for _, code in codes for each in shape(code)] == whole


@pytest.mark.parametrize(
    "line", ["return 3", "x = = 1", "yield", "from __future__ import annotations", "global print", "__debug__ = 1"]
)
def test_a_syntax_error_comes_before_anything_has_run(line: str) -> None:
    """And it is the one that Python raises: also of what only the whole module shows."""
    text = f"print('ran')\n{line}\n".encode()
    with pytest.raises(SyntaxError) as pythons:
        compile(text, "mine.py", "exec", dont_inherit=True)
    with pytest.raises(SyntaxError) as caught:
        fork_hazards.statements(text, "mine.py")
    assert (caught.value.msg, caught.value.lineno) == (pythons.value.msg, 2)


def test_a_syntax_warning_is_given_once() -> None:
    with pytest.warns(SyntaxWarning) as given:
        fork_hazards.statements(b"x = 1\ny = 1 is 1\n", "mine.py")
    assert [warning.lineno for warning in given] == [2]


async def test_a_script_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    text = declare("# -*- coding: latin-1 -*-\nword = 'caf\xe9'\ndef train(m): m.report(score=len(word))\n")
    path.write_bytes(text.encode("latin-1"))
    async with Open(tmp_path) as launcher:
        await launcher.open_script(path)
        async with await launcher.start(begin(tmp_path)) as worker:
            assert await reported(worker) == {"score": 4}


# -- after a fork: a member that hangs


@pytest.mark.usefixtures("pool")
@pytest.mark.parametrize(("text", "insists"), [(NATIVE, True), (PYTHON, False)], ids=["native", "python"])
async def test_a_fork_that_hangs_is_started_afresh(tmp_path: Path, text: str, insists: bool) -> None:
    async with Open(tmp_path, start="zygote" if insists else None) as launcher:
        await launcher.open_script(write(tmp_path, declare(text)))
        assert not launcher.exec
        worker, seconds = await hung(launcher, tmp_path, 0)
        assert worker.outcome.how == "lost"
        assert worker.outcome.error is not None
        assert "its only thread waits for another that is not there" in worker.outcome.error
        assert deadlock.SILENCE < seconds < 10
        assert launcher.exec
        assert (await trained(launcher, tmp_path, 1)).outcome.how == "returned"
    before, hangs = launcher.said
    if insists:
        assert "--start zygote insists on forks: move this line" in before
    else:
        assert "leaves 1 thread running after its import (my worker)" in before
    assert hangs.startswith("member 0 hung after its fork and was killed (its only thread waits")
    assert "members start as fresh processes from now on" in hangs


@pytest.mark.usefixtures("pool")
async def test_other_members_train_on_when_a_fork_hangs(tmp_path: Path) -> None:
    """A hanging member does not disturb others, and the zygote ends with the last of its forks."""
    text = NATIVE.replace("def train(member):", "def train(member):\n    if member.id: return wait(member)")
    text += "\ndef wait(member):\n    member.report(score=0)\n    open(member.config['fifo']).read()\n"
    os.mkfifo(tmp_path / "fifo")
    async with Open(tmp_path, start="zygote") as launcher:
        await launcher.open_script(write(tmp_path, declare(text)))
        zygote = launcher._zygote
        assert zygote is not None
        assert zygote._end is not None
        async with await launcher.start(begin(tmp_path, 1, fifo=str(tmp_path / "fifo"))) as sound:
            assert await reported(sound) == {"score": 0.0}
            worker, _ = await hung(launcher, tmp_path, 0)
            assert worker.outcome.how == "lost"
            assert not sound.dead
            (tmp_path / "fifo").write_text("go on")
            async for _ in sound:
                pass
            assert sound.outcome.how == "returned"
        async with asyncio.timeout(10):
            await asyncio.wait([zygote._end])


async def test_a_fork_that_hangs_before_hello(tmp_path: Path) -> None:
    text = "import os, threading\nlock = threading.Lock()\nlock.acquire()\n"
    text += "os.register_at_fork(after_in_child=lambda: lock.acquire())\ndef train(m): m.report(score=1)\n"
    async with Open(tmp_path) as launcher:
        await launcher.open_script(write(tmp_path, declare(text)))
        worker, seconds = await hung(launcher, tmp_path, 0)
        assert worker.outcome.how == "returned"
        assert not worker.forked
        assert seconds < 10
    (said,) = launcher.said
    assert said.startswith("a forked member hung after its fork and was killed (its only thread")


async def test_forks_that_a_user_insists_on_after_openmp_at_import(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    text = "import torch\ntorch.set_num_threads(2)\ntorch.ones(1 << 20).add(1)\n"
    text += "def train(member):\n torch.set_num_threads(2)\n member.report(score=torch.ones(1 << 20).add(1).mean())\n"
    async with Open(tmp_path, start="zygote") as launcher:
        await launcher.open_script(write(tmp_path, declare(text)))
        assert not launcher.exec
        async with await launcher.start(begin(tmp_path)) as worker:
            assert await reported(worker) == {"score": 2.0}
    starts, hangs = launcher.said
    assert "the script starts 1 native thread (libgomp) while it is imported" in starts
    assert "mine.py:3: torch.ones(1 << 20).add(1)" in starts
    assert "hung after its fork" in hangs


# -- what proves a deadlock, and what does not

READY = "import sys, os, threading, time, ctypes\ndef ready(): print('ready', flush=True)\n"
#: snippets that are silent, and can still go on
SOUND = {
    "sleeps": "ready(); time.sleep(100)",
    "computes": "ready()\nwhile True: pass",
    "reads": "ready(); sys.stdin.read()",
    "waits for a while": "ready(); threading.Event().wait(100)",
    "looks for a file again and again": "ready()\nwhile not os.path.exists('/nowhere'): threading.Event().wait(0.1)",
    "waits for a thread that reads": "t = threading.Thread(target=sys.stdin.read); t.start(); ready(); t.join()",
    "waits for a thread that sleeps": "t = threading.Thread(target=time.sleep, args=(100,)); t.start(); ready(); "
    "t.join()",
    "waits for a process": "import subprocess; p = subprocess.Popen(['sleep', '100']); ready(); p.wait()",
    "has a process, and waits for a lock": "import subprocess; subprocess.Popen(['sleep', '100']); ready(); "
    "threading.Event().wait()",
    "waits for an alarm": "import signal; signal.signal(signal.SIGALRM, lambda *_: None); signal.alarm(100); ready(); "
    "threading.Event().wait()",
    "waits for another process's semaphore": "import multiprocessing; s = multiprocessing.Semaphore(0); ready(); "
    "s.acquire()",
    "waits for a hangup": "import signal; signal.signal(signal.SIGHUP, lambda *_: None); ready(); "
    "threading.Event().wait()",
    "waits for a timer's signal": "import signal; signal.signal(signal.SIGRTMIN + 1, lambda *_: None); ready(); "
    "threading.Event().wait()",
    "stopped": "import signal; ready(); os.kill(os.getpid(), signal.SIGSTOP)",
}
#: a wait with a relative limit, as musl and Rust's parking_lot have it
RELATIVE = (
    "word, spec = ctypes.c_int(0), (ctypes.c_long * 2)({limit})\ncall = ctypes.CDLL(None).syscall\nready()\n"
    f"while True: call({deadlock._FUTEX}, ctypes.byref(word), 128, 0, spec)"
)
DEAD = {
    "an event": "ready(); threading.Event().wait()",
    "a lock": "l = threading.Lock(); l.acquire(); ready(); l.acquire()",
    "each other": "m = threading.main_thread(); t = threading.Thread(target=m.join); t.start(); ready(); t.join()",
    "again and again": RELATIVE.replace("{limit}", "0, 200_000_000"),
}


@pytest.fixture
def process(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    code = READY + str(request.param)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as made:
        assert made.stdout is not None
        assert made.stdout.readline() == "ready\n"
        yield made
        linux.kill_tree(made.pid)


def stands(pid: int) -> deadlock.Stand | None:
    """How it stands once it has settled: the first look that another one half a second later confirms."""
    for _ in range(20):
        first = deadlock.look(pid)
        time.sleep(0.5)  # what is asked is what it does for a while
        then = deadlock.look(pid)
        if first is not None and then is not None and then.still(first):
            return first
        if first is None and then is None:
            return None
    return None


@pytest.mark.parametrize("process", SOUND.values(), ids=SOUND, indirect=True)
def test_a_process_that_can_go_on_is_not_deadlocked(process: subprocess.Popen[str]) -> None:
    assert stands(process.pid) is None


@pytest.mark.skipif(deadlock._FUTEX is None, reason="the number of futex is not known here")
@pytest.mark.parametrize("process", DEAD.values(), ids=DEAD, indirect=True)
def test_a_process_that_cannot_go_on_is_deadlocked(process: subprocess.Popen[str]) -> None:
    seen = stands(process.pid)
    assert seen is not None
    assert seen.known
    assert seen.needed == (deadlock.POLLING if seen.polling else deadlock.UNLIMITED)


@pytest.mark.skipif(deadlock._FUTEX is None, reason="the number of futex is not known here")
@pytest.mark.parametrize("process", [RELATIVE.replace("{limit}", "100, 0")], ids=["100 s"], indirect=True)
def test_a_sleeping_process_is_not_deadlocked(process: subprocess.Popen[str]) -> None:
    """It waits with a relative limit, as a polling process does; but it has not run in between."""
    for _ in range(20):
        first = deadlock.look(process.pid)
        time.sleep(0.5)  # what is asked is what it does for a while
        then = deadlock.look(process.pid)
        if first is not None and first == then:
            break
    assert first is not None
    assert then is not None
    assert first.polling
    assert first == then
    assert not then.still(first)


@pytest.mark.parametrize("process", [DEAD["an event"]], ids=["an event"], indirect=True)
def test_the_evidence_is_weak_if_the_kernel_hides_the_call(
    process: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadlock, "_FUTEX", None)
    seen = stands(process.pid)
    assert seen is not None
    assert not seen.known
    assert seen.needed == deadlock.WEAK


@pytest.mark.skipif(deadlock._FUTEX is None, reason="the number of futex is not known here")
async def test_a_member_that_sleeps_in_a_wait_with_a_relative_limit_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadlock, "SILENCE", 0.2)
    monkeypatch.setattr(deadlock, "POLLING", 0.5)
    monkeypatch.setattr(deadlock, "PERIOD", 0.1)
    text = "import ctypes\ndef train(member):\n    word, spec = ctypes.c_int(0), (ctypes.c_long * 2)(2, 0)\n"
    text += f"    ctypes.CDLL(None).syscall({deadlock._FUTEX}, ctypes.byref(word), 128, 0, spec)\n"
    text += "    member.report(score=1)\n"
    async with Open(tmp_path) as launcher:
        await launcher.open_script(write(tmp_path, declare(text)))
        assert (await trained(launcher, tmp_path, 0)).outcome.how == "returned"
    assert launcher.said == []


@pytest.mark.parametrize("lives", [False, True])
async def test_weak_evidence_does_not_count_once_a_fork_has_lived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lives: bool
) -> None:
    monkeypatch.setattr(deadlock, "_FUTEX", None)
    monkeypatch.setattr(deadlock, "SILENCE", 0.2)
    monkeypatch.setattr(deadlock, "WEAK", 0.5)
    monkeypatch.setattr(deadlock, "PERIOD", 0.1)
    text = "import threading\ndef train(member):\n    member.config['lives'] and member.report(score=0)\n"
    text += "    threading.Event().wait(5)\n    member.report(score=1)\n"
    async with Open(tmp_path) as launcher:
        await launcher.open_script(write(tmp_path, declare(text)))
        worker = await trained(launcher, tmp_path, 0, lives=lives)
    assert worker.outcome.how == ("returned" if lives else "lost")


def test_a_process_that_has_ended_is_not_deadlocked() -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
        assert deadlock.look(gone.pid) is None


# -- whole runs


def test_jax_at_the_top_level_trains(tmp_path: Path) -> None:
    pytest.importorskip("jax")
    script = """
        import jax, jax.numpy as jnp, json
        import gpbt_async as gpbt

        data = jnp.arange(8.0)

        def train(member):
            slope = jax.jit(jax.grad(lambda w: jnp.mean((w - data) ** 2)))
            w = 0.0 if member.parent is None else json.loads((member.parent / "w.json").read_text())
            for _ in range(3):
                w = float(w - member.config["lr"] * slope(w))
            (member.checkpoint / "w.json").write_text(json.dumps(w))
            member.report(loss=jnp.mean((w - data) ** 2))

        experiment = gpbt.Experiment(
            train, space={"lr": gpbt.Float(1e-3, 0.3)}, score="loss", mode="min", population=2, generations=1
        )
    """
    write(tmp_path, textwrap.dedent(script))
    out = launched(tmp_path)
    assert "native threads (libjax_common) while it is imported" in out
    assert "mine.py:5: data = jnp.arange(8.0)" in out
    assert "2 finished" in out


RUN = """
import gpbt_async as gpbt
experiment = gpbt.Experiment(
    train, space={"lr": gpbt.Float(0.1, 1.0)}, score="score", mode="max", population=2, generations=1
)
"""


@pytest.mark.usefixtures("pool")
def test_a_run_goes_on_without_forks(tmp_path: Path) -> None:
    """Even if the user insists on forks, which experiment.json keeps: the attempts are lost, none has failed."""
    write(tmp_path, NATIVE + RUN)
    out = launched(tmp_path, "--start", "zygote")
    assert "--start zygote insists on forks: move this line into the training function: mine.py:5: pool.start()" in out
    assert out.count("members start as fresh processes from now on") == 1
    assert "2 finished, 2 lost" in out
    record = tmp_path / "runs" / "mine-1" / "experiment.json"
    assert json.loads(record.read_text())["options"].get("start") == "zygote"


@pytest.mark.usefixtures("pool")
def test_a_run_with_the_default_start_is_resumed_with_it(tmp_path: Path) -> None:
    write(tmp_path, NATIVE + RUN)
    out = launched(tmp_path)
    assert "so members start as fresh processes" in out
    assert "2 finished\n" in out
    assert json.loads((tmp_path / "runs" / "mine-1" / "experiment.json").read_text())["options"].get("start") is None


def launched(folder: Path, *options: str) -> str:
    command = [sys.executable, "-m", "gpbt_async", "launch", "mine.py", "--slots", "2", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    return done.stdout + done.stderr
