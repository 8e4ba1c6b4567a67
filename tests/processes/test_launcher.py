"""From nothing to a member that trains, and what happens when a process on the way dies, hangs or refuses."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import site
import subprocess
import sys
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from launching import DECLARE, Open, reported, trained, write
from scripts.harness import SCRIPTS, ZOO, Watch, begin, dead

from gpbt_async.declaration.target import Target
from gpbt_async.errors import ExperimentError, LaunchError, ScriptError
from gpbt_async.member import user_code
from gpbt_async.processes import guardian as guardian_module
from gpbt_async.processes import wire
from gpbt_async.processes.channel import wait_readable
from gpbt_async.processes.launcher import SHORT, Launcher

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def sleeper(run: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "1000"], env={"GPBT_RUN": run})


# -- declarations and refusals


async def test_a_script_declares(tmp_path: Path) -> None:
    async with Open(tmp_path) as launcher:
        declared = await launcher.open_script(ZOO)
        assert declared["variable"] == "experiment"
        assert declared["cuda"] is None
        experiment = declared["experiment"]
        assert experiment["score"] == "score"
        assert experiment["target"]["module"] == "zoo"
        assert experiment["target"]["qualname"] == "train"
    assert launcher.said == []


async def refused(folder: Path, text: str, kind: type[Exception] = ScriptError, name: str = "mine.py") -> str:
    path = write(folder, text, name)
    async with Open(folder) as launcher:
        with pytest.raises(kind) as caught:
            await launcher.open_script(path)
    message = str(caught.value)
    assert "gpbt_async/" not in message, "no frames of ours"
    assert "importlib" not in message
    assert "Traceback" not in message
    return message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import json\n\nimport nothing_of_the_kind\n",
         ["mine.py:3: ModuleNotFoundError: No module named 'nothing_of_the_kind'", "\n    import nothing_of_the_kind"]),
        ("import json\njson.loads('{')\n", ["mine.py:2: JSONDecodeError", "\n    json.loads('{')"]),
        ("def f(:\n", ["mine.py:1: SyntaxError", "\n    def f(:"]),
        ("import sys\nprint('usage: no')\nsys.exit(4)\n", ["mine.py:3: the script called sys.exit(4)"]),
        ("raise KeyboardInterrupt\n", ["mine.py:1: KeyboardInterrupt"]),
        ("x = 1\n", ["mine.py declares no experiment"]),
        ("def train(m): pass\n" + DECLARE.format(train="train") * 2 + "again = experiment\n", None),
        ("def train(m): pass\n" + DECLARE.format(train="train") + DECLARE.format(train="train").replace(
            "experiment =", "other ="), ["declares 2 experiments (experiment, other)"]),
        ("import os, signal\nprint('so far')\nos.kill(os.getpid(), signal.SIGSEGV)\n", ["SIGSEGV"]),
        ("import os\nprint('so far', flush=True)\nos._exit(3)\n", ["exit status 3", "so far"]),
    ],
)  # fmt: skip
async def test_a_script_that_cannot_be_used(tmp_path: Path, text: str, expected: list[str] | None) -> None:
    if expected is None:  # the same object under two names counts once
        async with Open(tmp_path) as launcher:
            assert (await launcher.open_script(write(tmp_path, text)))["variable"] == "experiment"
        return
    message = await refused(tmp_path, text)
    for part in expected:
        assert part in message


async def test_an_error_in_a_library_is_reported_at_the_users_line(tmp_path: Path) -> None:
    write(tmp_path, "def check():\n    import argparse\n    argparse.Namespace(1)\n", "helper_of_mine.py")
    message = await refused(tmp_path, "import helper_of_mine\nhelper_of_mine.check()\n")
    assert message.startswith("helper_of_mine.py:3: TypeError")


async def test_a_wrong_declaration_is_an_experiment_error_at_its_line(tmp_path: Path) -> None:
    text = "def train(m): pass\n" + DECLARE.format(train="train").replace('"max")', '"max", population=0)')
    message = await refused(tmp_path, text, ExperimentError)
    assert message.startswith("mine.py:5: population: got 0; ")
    assert "\n    experiment = Experiment(train" in message


async def test_a_script_named_like_a_module(tmp_path: Path) -> None:
    path = write(tmp_path, "import json\nassert json.dumps\ndef train(m): m.report(score=1)\n" + DECLARE.format(
        train="train"), "this.py")  # fmt: skip
    async with Open(tmp_path) as launcher:
        declared = await launcher.open_script(path)
        assert declared["experiment"]["target"]["module"] == "gpbt_script_this"
        assert (await trained(launcher, tmp_path, 0)).outcome.how == "returned"


@pytest.mark.parametrize("module", [None, "package.inner"])
@pytest.mark.parametrize("start", ["zygote", "exec", "resident"])
async def test_an_embedding_application_gives_a_target(tmp_path: Path, module: str | None, start: str) -> None:
    (tmp_path / "package").mkdir()
    file = write(tmp_path / "package", "def train(member):\n    member.report(score=len(__name__))\n", "inner.py")
    target = Target(str(file), module, "train", (str(tmp_path), *sys.path))
    async with Open(tmp_path, start=start) as launcher:
        await launcher.open_target(target)
        async with await launcher.start(begin(tmp_path)) as worker:
            assert await reported(worker) == {"score": len(module or "inner")}


async def test_a_target_that_is_not_there(tmp_path: Path) -> None:
    target = Target(str(ZOO), None, "trane", tuple(sys.path))
    async with Open(tmp_path) as launcher:
        with pytest.raises(ScriptError, match="trane"):
            await launcher.open_target(target)


async def test_an_import_can_be_cancelled(tmp_path: Path) -> None:
    flag = tmp_path / "importing"
    os.mkfifo(flag)
    path = write(tmp_path, f"open({str(flag)!r}, 'w').close()\nimport signal\nwhile True: signal.pause()\n")
    async with Open(tmp_path) as launcher:
        task = asyncio.create_task(launcher.open_script(path))
        fd = os.open(flag, os.O_RDONLY | os.O_NONBLOCK)
        await wait_readable(fd, 20)
        os.close(fd)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_output_of_the_import_is_kept(tmp_path: Path) -> None:
    async with Open(tmp_path) as launcher:
        await launcher.open_script(ZOO)
        launcher.log_to(tmp_path / "script.txt")
        await trained(launcher, tmp_path, 0, do="returns")  # behind it in the zygote's ear
        await trained(launcher, tmp_path, 1, do="returns")
        assert (tmp_path / "script.txt").read_text() == "imported\n"


# -- forks, spares, fallbacks


async def test_a_spare_is_used(tmp_path: Path) -> None:
    async with Open(tmp_path) as launcher:
        await launcher.open_script(ZOO)
        launcher.spares(2)
        zygote = launcher._zygote
        assert zygote is not None
        spares = await asyncio.gather(*map(asyncio.shield, list(zygote._ahead)))
        assert len(spares) == 2
        first = await trained(launcher, tmp_path, 0, do="returns")
        assert first is spares[0]
        # and one that was killed while it waited is not
        os.kill(spares[1].pid, signal.SIGKILL)
        await asyncio.wait([spares[1].left])
        second = await trained(launcher, tmp_path, 1, do="returns")
        assert second.outcome.how == "returned"
        assert second is not spares[1]
        assert len(zygote._ahead) == 2
        ahead = await asyncio.gather(*map(asyncio.shield, list(zygote._ahead)))
        watch = Watch(*(spare.pid for spare in ahead))
    with watch:
        assert watch.alive() == []


FAKE_CUDA = """
_initialized = False
def is_initialized(): return _initialized
def _lazy_init():
    global _initialized
    _initialized = True
def current_device():
    _lazy_init()
    return 0
"""


@pytest.fixture
def fake_torch(tmp_path: Path) -> Path:
    (tmp_path / "torch" / "cuda").mkdir(parents=True)
    write(tmp_path / "torch", "from . import cuda\nthreads = []\nset_num_threads = threads.append\n", "__init__.py")
    write(tmp_path / "torch" / "cuda", FAKE_CUDA, "__init__.py")
    return tmp_path


async def test_cuda_at_import_means_fresh_processes(fake_torch: Path) -> None:
    train = "def train(member): member.report(score=len(torch.threads))\n"
    text = f"import torch\n{train}device = torch.cuda.current_device()\n{DECLARE.format(train='train')}"
    async with Open(fake_torch) as launcher:
        declared = await launcher.open_script(write(fake_torch, text))
        assert declared["cuda"] == "mine.py:3: device = torch.cuda.current_device()"
        assert launcher.exec
        assert launcher.pids()["zygote"] is None
        assert (await trained(launcher, fake_torch, 0)).outcome.how == "returned"
    (said,) = launcher.said
    assert "move this line into the training function" in said
    assert "device = torch.cuda.current_device()" in said


async def test_torch_has_one_thread_before_the_fork(fake_torch: Path) -> None:
    train = "def train(member): member.report(score=torch.threads[0], now=torch.threads[-1])\n"
    async with Open(fake_torch) as launcher:
        declared = await launcher.open_script(
            write(fake_torch, f"import torch\nassert torch.threads == [1]\n{train}{DECLARE.format(train='train')}")
        )
        assert declared["cuda"] is None
        async with await launcher.start(begin(fake_torch)) as worker:
            assert await reported(worker) == {"score": 1, "now": 1}


async def test_two_forks_without_a_hello_mean_fresh_processes(tmp_path: Path) -> None:
    text = "import os, signal\nos.register_at_fork(after_in_child=signal.pause)\ndef train(m): m.report(score=1)\n"
    async with Open(tmp_path, hello_timeout=0.1) as launcher:
        await launcher.open_script(write(tmp_path, text + DECLARE.format(train="train")))
        launcher._hello_timeout = 0.1
        task = asyncio.create_task(launcher.start(begin(tmp_path)))
        assert "said nothing for 0.05 s and was killed before it could begin, twice" in await launcher.says()
        launcher._hello_timeout = 20.0  # a fresh interpreter is allowed its time
        with contextlib.suppress(LaunchError):
            await task
        assert launcher.exec
        assert (await trained(launcher, tmp_path, 1)).outcome.how == "returned"
    assert len(launcher.said) == 1


async def test_forking_may_end_while_a_member_waits_for_its_fork(tmp_path: Path) -> None:
    """A fork of another member hangs while this one waits for the mending: it starts afresh, and says nothing."""
    async with Open(tmp_path) as launcher:
        await launcher.open_script(write(tmp_path, "def train(m): m.report(score=1)\n" + DECLARE.format(train="train")))
        async with launcher._mending:
            task = asyncio.create_task(trained(launcher, tmp_path, 0))
            while not launcher._mending._waiters:  # noqa: ASYNC110  (a lock has no event for it)
                await asyncio.sleep(0)
            launcher._stop_forking("a forked member hung", "")
        worker = await task
        assert worker.outcome.how == "returned"
        assert not worker.forked
    (said,) = launcher.said
    assert said.startswith("a forked member hung: members start as fresh processes from now on")


@pytest.mark.parametrize("libraries", ["other/lib/python3.11/site-packages", "debian/python3/dist-packages"])
async def test_a_line_of_an_installed_package_is_not_the_users(tmp_path: Path, libraries: str) -> None:
    """--system-site-packages, PYTHONPATH, ~/.local: installed is what lies in a folder of that name."""
    folder = tmp_path / libraries / "library"
    folder.mkdir(parents=True)
    write(folder, "def check():\n    raise TypeError('what a library says')\n", "__init__.py")
    text = f"import sys\nsys.path.append({str(folder.parent)!r})\nimport library\nlibrary.check()\n"
    message = await refused(tmp_path, text)
    assert message.startswith("mine.py:4: TypeError: what a library says")


def test_which_files_are_the_users() -> None:
    assert user_code.is_users("/home/me/project/train.py")
    assert user_code.is_users("/home/me/my-site-packages/train.py")
    assert not user_code.is_users(os.path.join(site.getusersitepackages(), "library", "module.py"))
    assert not user_code.is_users("/srv/conda/lib/python3.12/site-packages/torch/nn/modules/module.py")
    assert not user_code.is_users(json.__file__)


async def test_threads_of_the_script_cause_one_warning(tmp_path: Path) -> None:
    text = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    text += "def train(m): m.report(score=1)\n"
    async with Open(tmp_path) as launcher:
        await launcher.open_script(write(tmp_path, text + DECLARE.format(train="train")))
        for n in range(2):
            assert (await trained(launcher, tmp_path, n)).outcome.how == "returned"
    (said,) = launcher.said
    assert "leaves 1 thread running after its import (Thread-1 (wait))" in said
    assert "use --start exec" in said


async def test_what_a_script_starts_at_import_may_live(tmp_path: Path) -> None:
    text = "import subprocess\nserver = subprocess.Popen(['sleep', '1000'])\n"
    text += "def train(m): m.report(score=server.pid)\n"
    async with Open(tmp_path) as launcher:
        await launcher.open_script(write(tmp_path, text + DECLARE.format(train="train")))
        async with await launcher.start(begin(tmp_path)) as worker:
            watch = Watch((await reported(worker))["score"])
            async for _ in worker:
                pass
        await trained(launcher, tmp_path, 1)
        assert watch.alive() != []
    with watch:
        assert watch.alive() == []


@pytest.mark.slow
async def test_real_torch_warms_up(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    text = """
import sys, time, torch
def train(member):
    member.report(warm="torch._dynamo" in sys.modules, first=torch.rand(()), seed=torch.initial_seed())
    time.sleep(member.config.get("seconds", 0))
"""
    async with Open(tmp_path) as launcher:
        declared = await launcher.open_script(write(tmp_path, text + DECLARE.format(train="train")))
        assert declared["warms"]
        found = []
        for n, seconds in enumerate([0.0, 5 * SHORT, 0.0]):
            async with await launcher.start(begin(tmp_path, n, seed=5 + n, seconds=seconds)) as worker:
                found += [dict(m.metrics) async for m in worker if isinstance(m, wire.Report)]
    assert [each["warm"] for each in found] == [False, False, True], "beside a member that trains for a while"
    assert [each["seed"] for each in found] == [5, 6, 7]
    assert found[1]["first"] != found[2]["first"]
    assert launcher.said == []


# -- death of others


async def test_a_zygote_that_is_killed_takes_its_members_and_is_replaced(tmp_path: Path) -> None:
    async with Open(tmp_path) as launcher:
        await launcher.open_script(ZOO)
        async with await launcher.start(begin(tmp_path, 0, do="litters_and_pauses")) as worker:
            litter = await reported(worker)
            with Watch(worker.pid, *litter.values()) as watch:
                zygote = launcher.pids()["zygote"]
                assert zygote is not None
                os.kill(zygote, signal.SIGKILL)
                async for _ in worker:
                    pass
                assert watch.alive() == []
        assert (worker.outcome.how, worker.outcome.error) == ("lost", "the zygote died")
        assert (await trained(launcher, tmp_path, 1, do="returns")).outcome.how == "returned"
        assert launcher.pids()["zygote"] not in (None, zygote)
    assert launcher.said == ["the zygote died; starting it again"]


async def test_processes_of_an_earlier_session_are_killed(tmp_path: Path) -> None:
    run = f"test-{uuid.uuid4().hex}"
    with sleeper(run) as left:
        async with Launcher(run, cwd=tmp_path):
            pass
        assert left.wait(5) == -signal.SIGKILL


@pytest.mark.parametrize("start", ["zygote", "exec", "resident"])
async def test_a_guardian_that_is_killed_takes_all_members_and_is_replaced(tmp_path: Path, start: str) -> None:
    async with Open(tmp_path, start=start) as launcher:
        await launcher.open_script(ZOO)
        async with await launcher.start(begin(tmp_path, 0, do="litters_and_pauses")) as worker:
            litter = await reported(worker)
            # without the guardian a daemon with an empty environment is beyond reach: kill it here
            with Watch(worker.pid, litter["plain"], litter["session"]) as watch:
                guardian = launcher.pids()["guardian"]
                assert guardian is not None
                os.kill(guardian, signal.SIGKILL)
                async for _ in worker:
                    pass
                assert watch.alive(5.0) == []
            with contextlib.suppress(ProcessLookupError):
                os.kill(litter["daemon"], signal.SIGKILL)
        assert (worker.outcome.how, worker.outcome.error) == ("lost", "the guardian died")
        assert (await trained(launcher, tmp_path, 1, do="returns")).outcome.how == "returned"
    assert launcher.said == ["the guardian died; starting it again"]


async def test_a_zygote_that_dies_at_every_fork_is_given_up(tmp_path: Path) -> None:
    text = "import os, signal\nos.register_at_fork(before=lambda: os.kill(os.getpid(), signal.SIGKILL))\n"
    text += "def train(m): m.report(score=1)\n"
    async with Open(tmp_path) as launcher:
        await launcher.open_script(write(tmp_path, text + DECLARE.format(train="train")))
        with pytest.raises(LaunchError, match="died 4 times in a row"):
            await launcher.start(begin(tmp_path))


async def test_a_zygote_that_dies_of_every_member_is_given_up(tmp_path: Path) -> None:
    """That members enter is no sign of life; that one returns is."""
    text = "import os, signal\ndef train(m):\n if m.config['kills']: os.kill(os.getppid(), 9); signal.pause()\n"
    async with Open(tmp_path) as launcher:
        await launcher.open_script(write(tmp_path, text + DECLARE.format(train="train")))
        for n in range(4):
            worker = await trained(launcher, tmp_path, n, kills=n != 1)
            assert worker.outcome.how == ("lost" if n != 1 else "returned")
        await trained(launcher, tmp_path, 4, kills=True)
        await trained(launcher, tmp_path, 5, kills=True)
        with pytest.raises(LaunchError, match="the zygote died 4 times in a row"):
            await launcher.start(begin(tmp_path, 6, kills=True))
    assert launcher.said == ["the zygote died; starting it again"] * 4


async def test_a_stuck_zygote_is_replaced(tmp_path: Path) -> None:
    async with Open(tmp_path) as launcher:
        await launcher.open_script(ZOO)
        zygote = launcher._zygote
        assert zygote is not None
        assert zygote.pid is not None
        await asyncio.wait(zygote._ahead)
        zygote._patience = 0.1
        os.kill(zygote.pid, signal.SIGSTOP)
        async with await launcher.start(begin(tmp_path, 0, do="pauses")) as spare:
            assert (await trained(launcher, tmp_path, 1, do="returns")).outcome.how == "returned"
            async for _ in spare:
                pass
        assert spare.outcome.how == "lost"
    assert launcher.said == ["the zygote did not answer for 0.1 s and was killed; starting it again"]


async def test_a_warming_that_hangs_is_not_tried_again(
    fake_torch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpbt_async.processes.zygote.BUSY", 0.1)
    monkeypatch.setattr("gpbt_async.processes.zygote.WARMING", 0.1)
    (tmp_path / "torch" / "optim.py").write_text("")
    text = "import signal, torch.optim\nclass Slow:\n def __getattr__(self, name):\n  while True: signal.pause()\n"
    text += f"torch.nn = Slow()\nimport time\ndef train(m): m.report(score=1), time.sleep({2 * SHORT})\n"
    async with Open(fake_torch) as launcher:
        await launcher.open_script(write(fake_torch, text + DECLARE.format(train="train")))
        zygote = launcher._zygote
        assert zygote is not None
        await asyncio.wait(zygote._ahead)
        zygote._patience = 0.1
        for n in range(4):
            assert (await trained(launcher, fake_torch, n)).outcome.how == "returned"
        assert launcher._zygote is not zygote
    assert launcher.said == ["the zygote did not answer for 0.1 s and was killed; starting it again"]


async def test_last_output_is_this_zygotes_only(tmp_path: Path) -> None:
    path = write(tmp_path, "print('I am')\nimport os, signal\ndef train(m): pass\n" + DECLARE.format(train="train"))
    async with Open(tmp_path) as launcher:
        await launcher.open_script(path)
        first = launcher._zygote
        assert first is not None
        assert first.pid is not None
        assert first.last_output().endswith("\n    I am")
        launcher.log_to(tmp_path / "script.log")
        await trained(launcher, tmp_path, 0)
        await trained(launcher, tmp_path, 1)  # behind the order to log
        os.kill(first.pid, signal.SIGKILL)
        await asyncio.wait([first._end] if first._end is not None else [])
        await trained(launcher, tmp_path, 2)
        await trained(launcher, tmp_path, 3)
        assert (tmp_path / "script.log").read_text() == "I am\n" * 2
        second = launcher._zygote
        assert second not in (None, first)
        assert second is not None
        assert second.last_output() == "\nits last output:\n    I am"


@pytest.mark.parametrize("start", ["zygote", "exec", "resident"])
def test_a_scheduler_that_is_killed_leaves_nothing(tmp_path: Path, start: str) -> None:
    """Grandchildren in a session of their own, and daemons with no environment, included."""
    run = f"test-{uuid.uuid4().hex}"
    argv = [sys.executable, str(SCRIPTS / "little_scheduler.py"), run, str(tmp_path), start]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as scheduler:
        assert scheduler.stdout is not None
        pids = json.loads(scheduler.stdout.readline())
        assert len(pids) == (9 if start == "exec" else 10)
        with Watch(*pids) as watch:
            scheduler.kill()
            assert watch.alive(5.0) == []


async def test_leaving_kills_members_that_are_not_awaited(tmp_path: Path) -> None:
    async with Open(tmp_path) as launcher:
        await launcher.open_script(ZOO)
        worker = await launcher.start(begin(tmp_path, do="litters_and_pauses"))
        pids = [worker.pid, *launcher.pids().values(), *(await reported(worker)).values()]
        watch = Watch(*(pid for pid in pids if pid is not None))
    with watch:
        assert watch.alive() == []
    worker.close()


@pytest.mark.parametrize("start", ["zygote", "exec", "resident"])
async def test_a_stopped_guardian_gets_sigcont(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str) -> None:
    monkeypatch.setattr(guardian_module, "ANSWER", 0.3)
    async with Open(tmp_path, start=start) as launcher:
        await launcher.open_command()
        guardian = launcher.pids()["guardian"]
        assert guardian is not None
        os.kill(guardian, signal.SIGSTOP)
        await launcher.open_script(ZOO)
        worker = await trained(launcher, tmp_path, 0, do="returns")
        assert worker.outcome.how == "returned"
        assert launcher.pids()["guardian"] == guardian
        assert launcher.said == [f"the guardian (process {guardian}) does not answer: sending it SIGCONT"]
        gone = os.pidfd_open(guardian)
        os.kill(guardian, signal.SIGSTOP)  # leaving the context wakes it, too
    assert dead(gone)
    os.close(gone)


async def test_a_guardian_that_hangs_is_killed_and_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guardian_module, "ANSWER", 0.3)
    monkeypatch.setattr(guardian_module.Guardian, "_wake", lambda self: None)  # as if that did not help
    async with Open(tmp_path, start="exec") as launcher:
        await launcher.open_script(ZOO)
        guardian = launcher.pids()["guardian"]
        assert guardian is not None
        os.kill(guardian, signal.SIGSTOP)
        worker = await trained(launcher, tmp_path, 0, do="returns")
        assert worker.outcome.how == "returned"
        assert launcher.pids()["guardian"] != guardian
        assert launcher.said[1:] == ["the guardian did not answer for 0.6 s and was killed; starting it again"]


async def test_a_lock_is_held_until_the_guardian_ends(tmp_path: Path) -> None:
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    other = os.open(tmp_path / "lock", os.O_RDWR)
    async with Open(tmp_path) as launcher:
        launcher.hold(lock)
        os.close(lock)
        await launcher.open_script(ZOO)  # the guardian has heard us now
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)


async def test_a_helper_gets_a_socket_and_ends_with_the_launcher(tmp_path: Path) -> None:
    code = "import os, socket; s = socket.socket(fileno=3); s.sendall(os.environ['WORD'].encode()); s.recv(1)"
    async with Open(tmp_path) as launcher:
        sock, pidfd = await launcher.spawn_helper([sys.executable, "-c", code], {"WORD": "hello"})
        with sock:
            sock.setblocking(False)
            assert await asyncio.get_running_loop().sock_recv(sock, 100) == b"hello"
            assert not dead(pidfd)
    assert dead(pidfd)
    os.close(pidfd)


async def test_the_guardian_cannot_start_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Open(tmp_path, start="exec") as launcher:
        await launcher.open_script(ZOO)
        answer: Callable[..., object] = launcher._guardian._handle

        def refuse(message: dict[str, Any], fds: list[int]) -> None:
            for fd in fds:
                os.close(fd)
            answer({"op": "failed", "tag": message["tag"], "error": "BlockingIOError: no more processes"}, [])

        assert launcher._guardian._channel is not None
        monkeypatch.setattr(launcher._guardian._channel, "_handle", refuse)
        with pytest.raises(LaunchError, match="no more processes"):
            await launcher.start(begin(tmp_path))
        monkeypatch.undo()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_no_guardian_can_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()
    launcher = Open(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(LaunchError, match="the guardian could not be started: No such file"):
        await launcher.__aenter__()
    assert descriptors() == before


async def test_no_second_guardian_can_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Open(tmp_path) as launcher:
        await launcher.open_command()
        guardian = launcher.pids()["guardian"]
        assert guardian is not None
        worker = await launcher.start(begin(tmp_path), argv=["sleep", "1000"])
        os.kill(guardian, signal.SIGKILL)
        async with worker:
            async for _ in worker:
                pass
        assert worker.outcome.how == "lost"
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
        with pytest.raises(LaunchError, match="the guardian could not be started: No such file"):
            await launcher.start(begin(tmp_path, 1), argv=["true"])
        monkeypatch.undo()
        async with await launcher.start(begin(tmp_path, 2), argv=["true"]) as worker:
            async for _ in worker:
                pass
        assert worker.outcome.how == "returned"


async def test_the_folder_to_work_in_is_gone(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    async with Open(tmp_path / "place") as launcher:
        (tmp_path / "place").rmdir()
        for argv, cwd in ((["true"], None), (["true"], str(tmp_path / "nowhere"))):
            start = replace(begin(tmp_path, len(cwd or "")), cwd=cwd)
            with pytest.raises(
                LaunchError, match=f"the folder {cwd or tmp_path / 'place'} cannot be worked in: No such"
            ):
                await launcher.start(start, argv=argv)
        (tmp_path / "place").mkdir()  # it is empty
        async with await launcher.start(begin(tmp_path, 1), argv=["true"]) as worker:
            async for _ in worker:
                pass
        assert worker.outcome.how == "returned"
        launcher._guardian.cwd = str(tmp_path / "nowhere")
        with pytest.raises(LaunchError, match="nowhere cannot be worked in"):
            await launcher.open_script(ZOO)


async def test_a_spawn_cancelled_as_it_succeeds_leaves_nothing(tmp_path: Path) -> None:
    async with Open(tmp_path) as launcher:
        guardian = launcher._guardian
        channel = guardian._channel
        assert channel is not None
        before = descriptors()
        task = asyncio.create_task(guardian.spawn(["sleep", "1000"], {}))
        answer, watches = channel._handle, []

        def handle(message: dict[str, Any], fds: list[int]) -> None:
            if message["op"] == "spawned":
                watches.append(Watch(message["pid"]))
            answer(message, fds)
            task.cancel()

        channel._handle = handle
        with pytest.raises(asyncio.CancelledError):
            await task
        with watches[0] as watch:
            assert watch.alive(5.0) == []
        assert descriptors() == before


async def test_cancelled_starts_leave_nothing(tmp_path: Path) -> None:
    async with Open(tmp_path) as launcher:
        await launcher.open_script(ZOO)
        for n in range(20):
            task = asyncio.create_task(launcher.start(begin(tmp_path, n, do="returns")))
            await asyncio.wait([task], timeout=0.0005 * n)
            if not task.cancel():
                async with task.result() as worker:
                    async for _ in worker:
                        pass
                continue
            with contextlib.suppress(asyncio.CancelledError):
                async with await task:
                    pass
        assert (await trained(launcher, tmp_path, 99, do="returns")).outcome.how == "returned"
