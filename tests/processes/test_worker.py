"""One member's process: its messages, its outcome, and that nothing of it outlives its block."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from scripts.harness import ZOO, Watch, begin

from gpbt_async.errors import Advice
from gpbt_async.processes import linux, wire
from gpbt_async.processes import worker as worker_module
from gpbt_async.processes.launcher import Launcher
from gpbt_async.processes.program import Tail, fill

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gpbt_async.processes.outcome import Outcome
    from gpbt_async.processes.worker import Worker


@pytest.fixture(params=["zygote", "exec", "resident"])
async def launcher(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Launcher]:
    async with Launcher(f"test-{uuid.uuid4().hex}", cwd=tmp_path, start=request.param, log=pytest.fail) as made:
        await made.open_script(ZOO)
        yield made


@pytest.fixture
async def forks(tmp_path: Path) -> AsyncIterator[Launcher]:
    async with Launcher(f"test-{uuid.uuid4().hex}", cwd=tmp_path, log=pytest.fail) as made:
        await made.open_script(ZOO)
        yield made


async def all_of(worker: Worker) -> list[wire.Message]:
    async with worker:
        return [message async for message in worker]


async def report_of(worker: Worker) -> dict[str, Any]:
    async for message in worker:
        if isinstance(message, wire.Report):
            return dict(message.metrics)
    raise AssertionError(worker.outcome)


async def outcome(launcher: Launcher, folder: Path, do: str) -> Outcome:
    worker = await launcher.start(begin(folder, do=do))
    await all_of(worker)
    return worker.outcome


async def test_a_member_that_returns(launcher: Launcher, tmp_path: Path) -> None:
    start = begin(tmp_path, 3, do="returns", value=0.5)
    worker = await launcher.start(start)
    entered, report, end = await all_of(worker)
    assert isinstance(entered, wire.Enter)
    assert isinstance(report, wire.Report)
    assert report.metrics["score"] == 0.5
    assert isinstance(end, wire.End)
    assert entered.at <= report.at <= end.at
    assert (worker.outcome.how, worker.member, worker.attempt) == ("returned", 3, 1)
    assert worker.exit_status == (None if worker.stays else 0)
    assert start.log is not None
    printed = Path(start.log).read_text()
    assert "training\n" in printed
    env = json.loads((Path(start.checkpoint) / "env.json").read_text())
    assert env["cwd"] == str(tmp_path)
    assert (env["GPBT_MEMBER"], env["GPBT_ATTEMPT"], env["GPBT_DEVICE"]) == ("3", "1", "cpu")
    assert env["OMP_NUM_THREADS"] == "1"
    assert "GLIBC_TUNABLES" not in env


async def test_a_member_that_raises(launcher: Launcher, tmp_path: Path) -> None:
    worker = await launcher.start(begin(tmp_path, do="raises"))
    await all_of(worker)
    out = worker.outcome
    assert (out.how, out.error) == ("raised", "TypeError: no such layer")
    assert out.where is not None
    assert out.where.startswith("zoo.py:")
    assert out.where.endswith(" in raises")
    log = (tmp_path / "member-0-1" / "log.txt").read_text()
    assert "Traceback (most recent call last):" in log
    assert "in train" in log
    assert 'raise TypeError("no such layer")' in log
    assert "gpbt_async/" not in log, "no frames of ours"


async def test_a_bad_report_is_at_the_users_line(forks: Launcher, tmp_path: Path) -> None:
    out = await outcome(forks, tmp_path, "raises_in_report")
    assert out.where is not None
    assert out.where.endswith(" in raises_in_report")


@pytest.mark.parametrize(
    ("do", "how", "error", "status"),
    [
        ("exits_0", "returned", None, 0),
        ("exits_3", "raised", "SystemExit: 3", 1),
        ("segfaults", "died", "killed by SIGSEGV", -signal.SIGSEGV),
        ("vanishes", "died", "exit status 0", 0),
    ],
)
async def test_other_ends(forks: Launcher, tmp_path: Path, do: str, how: str, error: str, status: int) -> None:
    out = await outcome(forks, tmp_path, do)
    assert (out.how, out.error, out.status) == (how, error, status)
    if do == "segfaults":
        assert out.tail == "about to crash"


async def test_a_stop_takes_effect_at_the_next_report(launcher: Launcher, tmp_path: Path) -> None:
    async with await launcher.start(begin(tmp_path, do="reports_until_stopped")) as worker:
        await report_of(worker)
        await worker.stop("not promising")
        rest = [message async for message in worker]
    assert isinstance(rest[-1], wire.End)
    assert worker.outcome.how == "stopped"


@pytest.mark.parametrize("do", ["pauses", "ignores_term"])
async def test_a_member_that_ignores_a_stop_is_killed(forks: Launcher, tmp_path: Path, do: str) -> None:
    async with await forks.start(begin(tmp_path, do=do)) as worker:
        await report_of(worker)
        await worker.stop("too slow", patience=0.05, grace=0.05)
        assert worker.dead
        assert [message async for message in worker] == []
    assert (worker.outcome.how, worker.outcome.error) == ("stopped", "too slow")
    assert worker.exit_status == -(signal.SIGTERM if do == "pauses" else signal.SIGKILL)


@pytest.mark.parametrize("do", ["litters_and_returns", "litters_and_pauses", "litters_and_crashes", "leaves_loaders"])
async def test_nothing_outlives_the_block(launcher: Launcher, tmp_path: Path, do: str) -> None:
    """A plain grandchild, one in its own session, a daemon with no environment; whatever the member does."""
    async with await launcher.start(begin(tmp_path, do=do)) as worker:
        pids = await report_of(worker)
        with contextlib.suppress(ProcessLookupError):
            watch = Watch(*pids.values())
        if do == "litters_and_crashes":
            worker._send(wire.Stop("now"))
        if do != "litters_and_pauses":
            async for _ in worker:
                pass
    if do not in ("litters_and_returns", "leaves_loaders"):
        assert len(watch.fds) == 3
    # those that return kill their own, perhaps before we could look
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids.values())


async def test_a_member_stuck_in_the_kernel_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that waits for a lost GPU cannot be killed: the scheduler goes on without it."""
    said: list[str] = []
    async with Launcher(
        f"test-{uuid.uuid4().hex}", cwd=tmp_path, log=lambda warning: said.append(str(warning))
    ) as launcher:
        await launcher.open_script(ZOO)
        monkeypatch.setattr(worker_module, "DEADLINE", 0.2)
        worker = await launcher.start(begin(tmp_path, do="pauses"))
        with monkeypatch.context() as stuck:
            stuck.setattr(linux, "kill_tree", lambda *_: None)
            stuck.setattr(os, "killpg", lambda *_: None)
            async with asyncio.timeout(10), worker:
                async for _ in worker:
                    worker.kill()
        assert worker.outcome.how == "stopped"
        assert any("survives SIGKILL" in text for text in said)
        os.kill(worker.pid, signal.SIGKILL)


async def test_nothing_outlives_a_cancelled_block(forks: Launcher, tmp_path: Path) -> None:
    worker = await forks.start(begin(tmp_path, do="litters_and_pauses"))
    ready = asyncio.Event()
    pids: dict[str, int] = {}

    async def live() -> None:
        async with worker:
            pids.update(await report_of(worker))
            ready.set()
            async for _ in worker:
                pass

    task = asyncio.create_task(live())
    await ready.wait()
    with Watch(worker.pid, *pids.values()) as watch:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert watch.alive() == []


async def test_nothing_outlives_an_exception(forks: Launcher, tmp_path: Path) -> None:
    worker = await forks.start(begin(tmp_path, do="litters_and_pauses"))
    with contextlib.suppress(ZeroDivisionError):
        async with worker:
            watch = Watch(worker.pid, *(await report_of(worker)).values())
            raise ZeroDivisionError
    with watch:
        assert watch.alive() == []


async def test_a_thread_that_still_writes_is_waited_for(forks: Launcher, tmp_path: Path) -> None:
    await outcome(forks, tmp_path, "writes_in_a_thread")
    assert (tmp_path / "member-0-1/checkpoint/late").read_text() == "written"


async def test_a_member_that_does_not_end_after_its_training_is_killed(
    forks: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpbt_async.processes.worker.LINGER", 0.05)
    monkeypatch.setattr("gpbt_async.processes.worker.UNEASY", 0.01)
    async with await forks.start(begin(tmp_path, do="never_ends")) as worker:
        *_, end, notice = [message async for message in worker]
        assert isinstance(end, wire.End)
        assert notice == Advice(
            "train has returned, but the process still runs: perhaps a thread of the script does not end"
        )
        assert not worker.dead
    assert worker.dead
    out = worker.outcome
    assert (out.how, out.status, out.at) == ("died", -signal.SIGTERM, end.at)
    assert out.error == "returned, but did not end: its threads still ran 0.05 s later and were killed"


async def test_a_member_whose_training_is_void_is_not_waited_for(
    forks: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpbt_async.processes.worker.UNEASY", 0.01)
    async with await forks.start(begin(tmp_path, do="fails_with_a_thread")) as worker:
        assert isinstance([message async for message in worker][-1], wire.End)
    assert (worker.outcome.how, worker.outcome.error) == ("raised", "TypeError: no such layer")


async def test_a_member_that_is_killed_after_its_training_has_died(forks: Launcher, tmp_path: Path) -> None:
    async with await forks.start(begin(tmp_path, do="never_ends")) as worker:
        async for message in worker:
            if isinstance(message, wire.End):
                os.kill(worker.pid, signal.SIGKILL)
    out = worker.outcome
    assert (out.how, out.error) == ("died", "died by SIGKILL after train had returned")


REGISTERS = """
import atexit, json, multiprocessing.util, os, pathlib, sys, tempfile, weakref
from gpbt_async.experiment import Experiment
from gpbt_async.space import Float

# registered before the fork: not for a fork to do
HERE = tempfile.TemporaryDirectory(prefix="here-", dir=os.environ.get("GPBT_CHECKPOINT", "."))
OURS = os.getpid()
atexit.register(lambda: os.getpid() == OURS or pathlib.Path("twice").touch())

def train(member):
    global left
    os.environ["TMPDIR"] = tempfile.tempdir = str(member.checkpoint)
    left = tempfile.TemporaryDirectory()
    atexit.register((member.checkpoint / "atexit").touch)
    weakref.finalize(sys, (member.checkpoint / "finalized").touch)
    places = [left.name, multiprocessing.util.get_temp_dir(), HERE.name]
    (member.checkpoint / "told").write_text(json.dumps([os.path.isdir(place) for place in places]))

experiment = Experiment(train, space={"x": Float(0, 1)}, score="score", mode="max")
"""


@pytest.mark.parametrize("start", ["zygote", "exec", "resident"])
async def test_what_is_registered_in_train_is_done_at_its_end(tmp_path: Path, start: str) -> None:
    (tmp_path / "registers.py").write_text(REGISTERS)
    async with Launcher(f"test-{uuid.uuid4().hex}", cwd=tmp_path, start=start, log=pytest.fail) as launcher:
        await launcher.open_script(tmp_path / "registers.py")
        for n in range(2):
            worker = await launcher.start(begin(tmp_path, n))
            await all_of(worker)
            assert (worker.outcome.how, worker.exit_status) == ("returned", 0)
            folder = tmp_path / f"member-{n}-1/checkpoint"
            assert json.loads((folder / "told").read_text()) == [True, True, True]
            assert sorted(os.listdir(folder)) == ["atexit", "finalized", "told"]
    assert not (tmp_path / "twice").exists()


async def test_a_config_may_be_long_but_not_too_long(forks: Launcher, tmp_path: Path) -> None:
    async with await forks.start(begin(tmp_path, 1, do="tells_its_config", text="x" * 900_000)) as worker:
        assert await report_of(worker) == {"length": 900_000}
    with pytest.raises(wire.WireError, match="longer than"):
        await forks.start(begin(tmp_path, 2, do="tells_its_config", text="x" * wire.LIMIT))
    assert (await outcome(forks, tmp_path, "returns")).how == "returned"


async def test_a_fork_of_a_member_may_not_report(forks: Launcher, tmp_path: Path) -> None:
    assert (await outcome(forks, tmp_path, "reports_from_a_fork")).how == "returned"
    assert "another process" in (tmp_path / "member-0-1/checkpoint/said").read_text()


async def test_siblings_draw_differently_and_attempts_alike(launcher: Launcher, tmp_path: Path) -> None:
    async def draws(member: int, attempt: int, seed: int) -> dict[str, float]:
        async with await launcher.start(begin(tmp_path, member, attempt, seed, do="draws")) as worker:
            return await report_of(worker)

    first, again, sibling = await draws(1, 1, 11), await draws(1, 2, 11), await draws(2, 1, 12)
    assert first == again
    assert first != sibling


# -- programs


async def run_program(folder: Path, script: str) -> tuple[list[wire.Message], Worker]:
    start = begin(folder)
    async with Launcher(f"test-{uuid.uuid4().hex}", cwd=folder, log=pytest.fail) as launcher:
        await launcher.open_command()
        worker = await launcher.start(start, argv=["sh", "-c", script])
        return await all_of(worker), worker


async def test_a_program(tmp_path: Path) -> None:
    script = """echo hello; echo '{"loss": NaN, "score": 1}' >> $GPBT_METRICS; echo 'oops' >> $GPBT_METRICS
        printf '{"score": 0.5}' >> $GPBT_METRICS; echo $GPBT_MEMBER > $GPBT_CHECKPOINT/id"""
    messages, worker = await run_program(tmp_path, script)
    entered, first, notice, last, end = messages
    assert isinstance(entered, wire.Enter)
    assert isinstance(first, wire.Report)
    assert first.metrics["score"] == 1
    assert first.metrics["loss"] != first.metrics["loss"]
    assert isinstance(notice, Advice)
    assert "oops" in notice.text
    assert isinstance(last, wire.Report)
    assert last.metrics == {"score": 0.5}
    assert isinstance(end, wire.End)
    assert (worker.outcome.how, worker.exit_status) == ("returned", 0)
    assert (tmp_path / "member-0-1/checkpoint/id").read_text() == "0\n"
    assert (tmp_path / "member-0-1/log.txt").read_text() == "hello\n"


async def test_a_program_that_fails(tmp_path: Path) -> None:
    messages, worker = await run_program(tmp_path, "echo no luck >&2; exit 4")
    assert [type(message) for message in messages] == [wire.Enter]
    out = worker.outcome
    assert (out.how, out.error, out.status, out.tail) == ("died", "exit status 4", 4, "no luck")


async def test_a_member_that_raises_stopped_itself_has_failed(launcher: Launcher, tmp_path: Path) -> None:
    worker = await launcher.start(begin(tmp_path, do="stops_itself"))
    await all_of(worker)
    assert worker.outcome.how == "raised"
    assert "the scheduler did not stop this member" in str(worker.outcome.error)


async def test_a_program_is_stopped_by_sigterm(tmp_path: Path) -> None:
    script = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # whenever it comes, it is waited for
open(os.environ["GPBT_METRICS"], "a").write('{"score": 1}\\n')
signal.sigwait({signal.SIGTERM})
print("bye")
"""
    async with Launcher(f"test-{uuid.uuid4().hex}", cwd=tmp_path, log=pytest.fail) as launcher:
        async with await launcher.start(begin(tmp_path), argv=[sys.executable, "-c", script]) as worker:
            assert await report_of(worker) == {"score": 1}
            await worker.stop("enough")
            async for _ in worker:
                pass
        assert worker.exit_status == 0
        assert (tmp_path / "member-0-1/log.txt").read_text() == "bye\n"


def test_a_torn_line_is_no_error_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = Tail(str(path))
    assert list(tail.read()) == []
    path.write_text('{"a": 1}\n{"a"')
    (report,) = tail.read()
    assert isinstance(report, wire.Report)
    assert report.metrics == {"a": 1}
    with path.open("a") as file:
        file.write(': 2}\n{"a": "x"}\n[3]\n\n{"a')
    second, *notices = tail.read()
    assert isinstance(second, wire.Report)
    assert [type(notice) for notice in notices] == [Advice, Advice]
    assert [type(notice) for notice in tail.finish()] == [Advice]
    assert tail.unread == 3
    with path.open("a") as file:
        file.write('\n{"a": -.85}\n')
    *_, bare = tail.read()
    assert isinstance(bare, Advice)
    assert bare.remedy == "numbers in JSON begin with a digit: -0.85"
    tail.close()


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        ("mkfifo $GPBT_METRICS", "is no regular file"),
        ("mkdir $GPBT_METRICS", "is no regular file"),
        ("ln -s /dev/zero $GPBT_METRICS", "is no regular file"),
        ("ln -s metrics.jsonl $GPBT_METRICS", "symbolic links"),
    ],
)
async def test_metrics_that_are_no_file_block_nothing(tmp_path: Path, place: str, problem: str) -> None:
    messages, worker = await run_program(tmp_path, place)
    assert worker.outcome.how == "returned"
    entered, notice, end = messages
    assert isinstance(entered, wire.Enter)
    assert isinstance(notice, Advice)
    assert problem in notice.text
    assert isinstance(end, wire.End)


async def test_all_that_a_program_wrote_is_read_before_its_end(tmp_path: Path) -> None:
    script = """yes '{"score": 7}' | head -n 50000 > $GPBT_METRICS; printf '{"score": 8}' >> $GPBT_METRICS"""
    messages, worker = await run_program(tmp_path, script)
    assert worker.outcome.how == "returned"
    reports = [message.metrics["score"] for message in messages if isinstance(message, wire.Report)]
    assert reports == [7] * 50000 + [8]
    assert isinstance(messages[-1], wire.End)
    assert len(messages) == 50003


def test_filling_in_a_command() -> None:
    words = ["./solver", "--lr={lr}", "{n}", "{flag}", "{{{name}}}", "{parent}", "{{lr}}", "$HOME; rm"]
    config = {"lr": 1e-05, "n": 3, "flag": True, "name": "a b"}
    filled = ["./solver", "--lr=1e-05", "3", "True", "{a b}", "", "{lr}", "$HOME; rm"]
    assert fill(words, config, {"parent": None}) == filled
    with pytest.raises(KeyError):
        fill(["{unknown}"], {}, {})
