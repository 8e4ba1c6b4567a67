"""Resident processes: one trains member after member, each begins as in a new process, and what cannot be put back ends
the process."""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from launching import DECLARE, Open, write
from scripts.harness import begin, dead

from gpbt_async.member import residence
from gpbt_async.processes import wire

if TYPE_CHECKING:
    from pathlib import Path

#: members report what they find, and then change what their config says
SCRIPT = """
import atexit, gc, locale, logging, os, random, signal, subprocess, sys, threading, time, warnings
COUNT, SEEN, KEPT, FIXED = 0, [], [], {"a": 1}

def looks(member):
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    return dict(
        variable="OF_MEMBER" in os.environ, folder=os.getcwd() != FOLDER,
        handler=signal.getsignal(signal.SIGUSR1) is not signal.SIG_DFL, blocked=signal.SIGUSR2 in blocked,
        timer=signal.getitimer(signal.ITIMER_REAL)[0], umask=os.umask(0o22) != 0o22, filters=len(warnings.filters),
        stdout=type(sys.stdout).__name__ != "TextIOWrapper", path="nowhere" in sys.path, argv="more" in sys.argv,
        level=logging.root.level, handlers=len(logging.root.handlers), limit=sys.getrecursionlimit(),
        gc=not gc.isenabled(), draw=random.random(), threads=threading.active_count(), pid=os.getpid(), count=COUNT,
        resident=member.start == "resident", finders=len(sys.meta_path),
    )

def change():
    os.environ["OF_MEMBER"] = "1"
    os.chdir("/")
    signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    signal.setitimer(signal.ITIMER_REAL, 1000)
    os.umask(0)
    warnings.simplefilter("error")
    import io
    sys.stdout = io.StringIO()
    sys.path.append("nowhere")
    sys.argv.append("more")
    logging.basicConfig(level=5)
    sys.setrecursionlimit(5000)
    gc.disable()

def train(member):
    global COUNT
    member.report(score=0, **looks(member))
    print("member", member.id, end="")
    do = member.config.get("do")
    if do == "change": change()
    elif do == "globals":
        COUNT += 1
        SEEN.append(1)
    elif do == "leak": KEPT.append(bytearray(os.urandom(1 << 20) * 50))
    elif do == "thread": threading.Thread(target=lambda: time.sleep(1000), name="of mine", daemon=True).start()
    elif do == "process": subprocess.Popen(["sleep", "1000"])
    elif do == "file": KEPT.append(open(member.checkpoint / "x", "w"))
    elif do == "sockets":
        import socket
        KEPT.extend(socket.socketpair())
    elif do == "exit": atexit.register(print, "goodbye", flush=True)
    elif do == "raise": raise ValueError("as it was told")
    elif do == "hang": time.sleep(1000)
    elif do == "die": os.kill(os.getpid(), 9)
"""


def script(folder: Path) -> Path:
    return write(folder, f"{SCRIPT}\nFOLDER = {str(folder)!r}\n{DECLARE.format(train='train')}")


class Residents(Open):
    """A launcher of resident processes, and members whose reports are returned."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder, start=options.pop("start", "resident"), **options)
        self.folder, self.members = folder, 0

    async def member(self, do: str = "", seed: int = 1) -> dict[str, Any]:
        """Train one; what it found, and as "how" how it ended."""
        self.members += 1
        told = wire.Begin(**{**_fields(begin(self.folder, self.members, seed=seed, do=do)), "cwd": str(self.folder)})
        found: dict[str, Any] = {}
        async with await self.start(told) as worker:
            async for message in worker:
                if isinstance(message, wire.Report):
                    found |= message.metrics
                    if do == "hang":
                        await worker.stop("its deadline", 0.0, 0.1)
        return {**found, "how": worker.outcome.how, "stays": worker.stays, "why": worker.retires}


def _fields(message: wire.Begin) -> dict[str, Any]:
    return {name: getattr(message, name) for name in message.__dataclass_fields__}


async def test_one_process_trains_member_after_member_and_each_begins_as_the_first(tmp_path: Path) -> None:
    async with Residents(tmp_path) as launcher:
        await launcher.open_script(script(tmp_path))
        first, second, third = [await launcher.member("change") for _ in range(3)]
    assert first["pid"] == second["pid"] == third["pid"]
    assert first["resident"]
    assert [found["how"] for found in (first, second, third)] == ["returned"] * 3
    assert second == first
    assert third == first
    assert launcher.said == []
    assert [(tmp_path / f"member-{id}-1" / "log.txt").read_text() for id in (1, 2, 3)] == [
        "member 1", "member 2", "member 3"
    ]  # fmt: skip


async def test_what_an_import_sets_stays_as_the_module_does(tmp_path: Path) -> None:
    packages = tmp_path / "site-packages"
    packages.mkdir()
    text = """
import logging, os, sys, warnings
os.environ["OF_LIBRARY"] = "there"
os.environ.pop("REMOVED", None)
sys.path.insert(0, "/first")
sys.path.append("/last")
warnings.filterwarnings("ignore", message="noisy")
logging.getLogger("lib_sets").addHandler(logging.NullHandler())
logging.basicConfig(level=5)
"""
    write(packages, text, "lib_sets.py")
    text = f"""
import decimal, logging, os, sys, warnings
sys.path.append({str(packages)!r})
os.environ["REMOVED"] = "1"
def train(member):
    os.environ["MINE"] = "1"
    import lib_sets
    member.report(
        score=0, variable=os.environ.get("OF_LIBRARY") == "there", removed="REMOVED" not in os.environ,
        first=sys.path[0] == "/first", last=sys.path[-1] == "/last",
        handlers=len(logging.getLogger("lib_sets").handlers),
        filters=sum("noisy" in str(f[1]) for f in warnings.filters), mine=len(logging.getLogger("mine").handlers),
        root=len(logging.root.handlers), level=logging.root.level,
        precision=decimal.getcontext().prec, digits=sys.get_int_max_str_digits(),
    )
    decimal.getcontext().prec = 5
    sys.set_int_max_str_digits(1000)
    logging.getLogger("mine").addHandler(logging.StreamHandler())
    for name in ("OF_LIBRARY", "MINE"):
        os.environ[name] = "changed"
    logging.captureWarnings(True)
"""
    async with Residents(tmp_path) as launcher:
        await launcher.open_script(write(tmp_path, text + DECLARE.format(train="train")))
        found = [await launcher.member() for _ in range(3)]
    for member in found:
        expected = {
            "variable": 1,
            "removed": 1,
            "first": 1,
            "last": 1,
            "handlers": 1,
            "filters": 1,
            "mine": 0,
            "root": 1,
            "level": 5,
        }
        assert member.items() >= {**expected, "precision": 28, "digits": 4300, "stays": True}.items()


async def test_a_process_with_another_priority_ends(tmp_path: Path) -> None:
    text = f"import os\ndef train(member):\n    os.nice(1)\n    member.report(score=0)\n{DECLARE.format(train='train')}"
    async with Residents(tmp_path) as launcher:
        await launcher.open_script(write(tmp_path, text))
        assert (await launcher.member())["why"] == "the member changed the priority of its process"


async def test_a_fork_finds_the_same(tmp_path: Path) -> None:
    async with Residents(tmp_path) as launcher, Residents(tmp_path, start="zygote") as forking:
        await launcher.open_script(script(tmp_path))
        await forking.open_script(tmp_path / "mine.py")
        await launcher.member("change")
        resident = await launcher.member()
        forking.members = 10
        forked = await forking.member()
    differ = {name for name in forked if forked[name] != resident[name]}
    assert differ == {"pid", "resident", "stays", "finders"}, "two import hooks are its own"


async def test_the_globals_of_the_script_survive_and_are_named(tmp_path: Path) -> None:
    async with Residents(tmp_path) as launcher:
        await launcher.open_script(script(tmp_path))
        counts = [(await launcher.member("globals"))["count"] for _ in range(3)]
    assert counts == [0, 1, 2]
    assert launcher.said == [
        "members change globals of the script (mine.COUNT, mine.SEEN), and later members of the same process find them "
        "so: set them at the beginning of train, or leave out --start resident"
    ]


async def test_changes_inside_globals_are_named_and_what_stays_is_not(tmp_path: Path) -> None:
    text = """
import numpy, types
class Kept:
    count = 0
CONFIG, NESTED, ARRAY, OBJECT, NAN = {"n": 1}, {"a": [1, 2]}, numpy.zeros(3), Kept(), float("nan")
SAME, ALSO, MODULE = {"a": (1, {"b": 2})}, Kept(), types
def train(member):
    CONFIG["n"] += 1
    NESTED["a"][0] += 1
    ARRAY[:] += 1
    OBJECT.part = member.id
    Kept.count += 1
    member.report(score=0)
"""
    async with Residents(tmp_path) as launcher:
        await launcher.open_script(write(tmp_path, text + DECLARE.format(train="train")))
        (member,) = [await launcher.start(begin(tmp_path, 0))]
        async with member:
            async for _ in member:
                pass
    assert set(member.changed) == {"mine.CONFIG", "mine.NESTED", "mine.ARRAY", "mine.OBJECT", "mine.Kept"}


def test_a_large_constant_is_compared_without_a_copy_and_a_library_is_not_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.ops is a module whose file is called _ops.py, with hundreds of names that come and go."""
    mine, made_up = ModuleType("mine"), ModuleType("made_up")
    mine.__file__, made_up.__file__ = str(tmp_path / "mine.py"), "_made_up.py"
    vars(mine).update(data=bytes(1_000_000), text="x" * 1_000_000, number=1.0)
    for module in (mine, made_up):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    found = residence.Residence()
    marks = {name: mark for name, mark in found._globals.items() if name.startswith(("mine", "made_up"))}
    assert list(marks) == ["mine.data", "mine.text", "mine.number"]
    assert max(map(len, map(repr, marks.values()))) < 100
    vars(made_up).update(new=1)
    vars(mine).update(data=bytes(1_000_000), text="x" * 1_000_000, number=1.0)
    assert found.changed() == []
    vars(mine).update(data=bytes(999_999) + b"x", text="x" * 999_999 + "y", number=-1.0)
    assert found.changed() == ["mine.data", "mine.text", "mine.number"]


@pytest.mark.parametrize(
    ("do", "why"),
    [
        ("leak", "its memory has grown by "),
        ("thread", "the member left a thread running: of mine"),
        ("process", "the member left process "),
        ("file", "the member left a file open: checkpoint/x"),
        ("sockets", "the member left 2 files (or sockets) open"),
        ("exit", "the member registered functions to run at exit"),
    ],
)
async def test_what_cannot_be_put_back_ends_the_process(tmp_path: Path, do: str, why: str) -> None:
    async with Residents(tmp_path) as launcher:
        await launcher.open_script(script(tmp_path))
        first = await launcher.member()
        second = await launcher.member(do)
        third = await launcher.member()
    assert (first["stays"], second["stays"], third["stays"]) == (True, False, True)
    assert second["how"] == "returned"
    assert second["why"].startswith(why)
    assert first["pid"] == second["pid"] != third["pid"]
    assert third["threads"] == first["threads"]
    (said,) = launcher.said
    assert said == f"a resident process ends after member 2: {second['why']}"
    if do == "exit":
        assert "goodbye" in (tmp_path / "member-2-1" / "log.txt").read_text()


@pytest.mark.parametrize(("do", "how"), [("raise", "raised"), ("hang", "stopped"), ("die", "died")])
async def test_a_member_that_does_not_return_takes_its_process_with_it(tmp_path: Path, do: str, how: str) -> None:
    async with Residents(tmp_path) as launcher:
        await launcher.open_script(script(tmp_path))
        first, second, third = await launcher.member(), await launcher.member(do), await launcher.member()
    assert second["how"] == how
    assert first["pid"] == second["pid"] != third["pid"]
    assert third["how"] == "returned"


async def test_a_fresh_interpreter_can_be_resident_and_imports_the_script_once(tmp_path: Path) -> None:
    text = f"import os\nopen({str(tmp_path / 'imported')!r}, 'a').write('x')\n{SCRIPT}\nFOLDER = {str(tmp_path)!r}\n"
    async with Residents(tmp_path) as launcher:
        await launcher.open_script(write(tmp_path, text + DECLARE.format(train="train")))
        launcher.exec = True
        found = [await launcher.member("change") for _ in range(3)]
    assert len({each["pid"] for each in found}) == 1
    assert (tmp_path / "imported").read_text() == "xx", "by the zygote, and by one process"


async def test_a_member_that_has_ended_reports_no_more(tmp_path: Path) -> None:
    text = """
KEPT = []
def train(member):
    refused = 0
    for earlier in KEPT:
        try:
            earlier.report(score=99)
        except RuntimeError as error:
            refused = "which has ended" in str(error)
    KEPT.append(member)
    member.report(score=1, refused=refused)
"""
    async with Residents(tmp_path) as launcher:
        await launcher.open_script(write(tmp_path, text + DECLARE.format(train="train")))
        found = [await launcher.member() for _ in range(2)]
    assert [(each["score"], each["refused"]) for each in found] == [(1, 0), (1, 1)]


async def test_a_process_that_died_while_it_was_idle_costs_no_member(tmp_path: Path) -> None:
    async with Residents(tmp_path) as launcher:
        await launcher.open_script(script(tmp_path))
        pid = int((await launcher.member())["pid"])
        pidfd = os.pidfd_open(pid)
        os.kill(pid, 9)
        assert dead(pidfd, 10.0)
        os.close(pidfd)
        second = await launcher.member()
        while second["how"] == "lost":  # it had been taken before its death was seen
            second = await launcher.member()
    assert second["how"] == "returned"
    assert second["pid"] != pid


async def test_members_of_another_place_get_another_process(tmp_path: Path) -> None:
    async with Residents(tmp_path) as launcher:
        await launcher.open_script(script(tmp_path))
        first = await launcher.member()
        told = wire.Begin(**{**_fields(begin(tmp_path, 9)), "env": {"CUDA_VISIBLE_DEVICES": "GPU-b"}})
        async with await launcher.start(told) as worker:
            async for _ in worker:
                pass
            assert worker.pid != first["pid"]
        assert (await launcher.member())["pid"] == first["pid"]


async def test_at_the_end_of_the_run_idle_processes_run_what_libraries_registered_and_end(tmp_path: Path) -> None:
    (tmp_path / "site-packages").mkdir()
    write(tmp_path / "site-packages", "import atexit; atexit.register(print, 'goodbye', flush=True)", "library.py")
    text = f"import sys; sys.path.append({str(tmp_path / 'site-packages')!r})\n"
    text += "def train(member):\n    import library\n    member.report(score=0)\n    print('hello')\n"
    async with Residents(tmp_path) as launcher:
        await launcher.open_script(write(tmp_path, text + DECLARE.format(train="train")))
        found = [await launcher.member() for _ in range(2)]
        assert [each["stays"] for each in found] == [True, True]
    logs = [(tmp_path / f"member-{id}-1" / "log.txt").read_text() for id in (1, 2)]
    assert logs == ["hello\n", "hello\ngoodbye\n"]


async def test_what_the_first_member_registers_is_done_before_its_checkpoint_is_published(tmp_path: Path) -> None:
    async with Residents(tmp_path) as launcher:
        await launcher.open_script(script(tmp_path))
        found = await launcher.member("exit")
    assert (found["stays"], found["why"]) == (False, "the member registered functions to run at exit")
    assert "goodbye" in (tmp_path / "member-1-1" / "log.txt").read_text()


async def test_after_so_many_members_a_process_ends(tmp_path: Path) -> None:
    path = write(tmp_path, f"from gpbt_async.member import residence\nresidence.MOST = 2\n{SCRIPT}\n"
                 f"FOLDER = {str(tmp_path)!r}\n{DECLARE.format(train='train')}")  # fmt: skip
    async with Residents(tmp_path) as launcher:
        await launcher.open_script(path)
        found = [await launcher.member() for _ in range(4)]
    pids = [each["pid"] for each in found]
    assert pids[0] == pids[1] != pids[2] == pids[3]
    assert residence.MOST > 2


@pytest.mark.slow
async def test_torch_and_numpy_are_put_back(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    text = """
import numpy as np
def train(member):
    import torch
    member.report(
        score=0, dtype=torch.get_default_dtype() == torch.float32, grad=torch.is_grad_enabled(),
        deterministic=torch.are_deterministic_algorithms_enabled(), benchmark=torch.backends.cudnn.benchmark,
        device=str(torch.get_default_device()) == "cpu", precision=torch.get_float32_matmul_precision() == "highest",
        draw=torch.rand(()), numpy=np.random.rand(), errors=np.geterr()["divide"] == "raise",
    )
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = True
    torch.set_default_device("meta")
    torch.set_float32_matmul_precision("medium")
    np.seterr(divide="raise")
"""
    async with Residents(tmp_path) as launcher:
        await launcher.open_script(write(tmp_path, text + DECLARE.format(train="train")))
        first, second = await launcher.member(), await launcher.member()
    assert second == first
    assert first["stays"]


@pytest.mark.slow
async def test_putting_torch_back_imports_nothing_of_it(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    text = """
import sys
def train(member):
    import torch
    member.report(score=0, heavy=any(name in sys.modules for name in ("torch._dynamo", "torch._inductor")))
"""
    async with Residents(tmp_path) as launcher:
        await launcher.open_script(write(tmp_path, text + DECLARE.format(train="train")))
        first, second = await launcher.member(), await launcher.member()
    assert first["stays"]
    assert (first["heavy"], second["heavy"]) == (False, False)
