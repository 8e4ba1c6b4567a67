"""`watch`: a run seen from another process, while it goes on, when it is killed, and when it is over."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import subprocess
import time
from typing import TYPE_CHECKING

from gpu_machine import A, B, ended
from harness import SCRIPTS, cli, command, facts, kill_hard, start, until

from gpbt_async import events
from gpbt_async.storage.folder import RunFolder
from gpbt_async.ui.attached import Attached
from gpbt_async.ui.frame import frame
from gpbt_async.ui.text import unstyled

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gpu_machine import Machine

LINEAGE = SCRIPTS / "lineage.py"
HELD = """
import os, time
import gpbt_async as gpbt

def train(member):
    member.report(score=0.5, other=1)
    member.report(score=float("nan") if member.id else 0.25)
    member.report(other=2)
    while not os.path.exists("go"):
        time.sleep(0.005)
    if member.id == 1:
        raise RuntimeError("one bad member")
    member.report(score=member.config["x"])

experiment = gpbt.Experiment(train, space={"x": gpbt.Float(0, 1)}, score="score", mode="max", population=4,
    generations=2, searcher="random", attempts=1, resources=gpbt.Resources(gpus=0))
"""


def shown(run: Attached) -> str:
    return "\n".join(unstyled(line) for line in frame(run.memory(time.time), 100, 40))


def test_a_run_is_watched_to_its_end_and_not_disturbed(tmp_path: Path) -> None:
    (tmp_path / "held.py").write_text(HELD)
    running = start("launch", "held.py", "--slots", 2, "--quiet", cwd=tmp_path)
    folder = tmp_path / "runs" / "held-1"
    until(lambda: len(facts(folder, "Entered")) == 2)
    first = start("watch", "held-1", cwd=tmp_path)
    assert first.stderr is not None
    assert "2 slots (cpu0, cpu1)" in first.stderr.readline()
    first.send_signal(signal.SIGINT)
    _, err = first.communicate(timeout=30)
    assert (first.returncode, running.poll()) == (130, None)
    assert "held-1 continues; to stop it: gpbt-async stop held-1" in err

    attached = Attached(RunFolder.open(folder))
    entered = {fact["member"]: fact["t"] for fact in facts(folder, "Entered")}
    assert attached.memory(time.time).entered == entered
    assert {slot.name for slot in attached.slots.slots} == {"cpu0", "cpu1"}  # type: ignore[union-attr]

    async def reported() -> dict[int, float]:
        seen: dict[int, float] = {}
        async for event in attached:
            assert isinstance(event, events.Reported)
            seen[event.member] = event.metrics["score"]
            if len(seen) == 2:
                break
        return seen

    assert str(sorted(asyncio.run(reported()).items())) == "[(0, 0.25), (1, nan)]"

    second = start("watch", "held-1", cwd=tmp_path)
    assert second.stderr is not None
    assert "4 members, 2 slots" in second.stderr.readline()
    (tmp_path / "go").touch()
    _, err = second.communicate(timeout=30)
    assert second.returncode == running.wait(timeout=30) == 0
    running.communicate()
    for words in ("failed for good (attempt 1): RuntimeError: one bad member", "generation 1 is done", "has finished"):
        assert words in err
    over = cli("watch", "held-1", cwd=tmp_path)
    assert over.status == 0
    assert "4 members, 8 of them done, folder" in over.err
    assert over.err.splitlines()[1:] == err[err.index("held-1 has finished") :].splitlines()
    quiet = cli("watch", "held-1", "--quiet", cwd=tmp_path)
    assert (quiet.status, quiet.err) == (0, "")


def test_a_killed_run_is_over_and_a_resumed_one_is_watched_again(tmp_path: Path) -> None:
    os.environ["TRAIN_SECONDS"] = "60"
    try:
        running = start("launch", LINEAGE, "--slots", 2, cwd=tmp_path)
    finally:
        del os.environ["TRAIN_SECONDS"]
    folder = tmp_path / "runs" / "lineage-1"
    until(lambda: len(facts(folder, "Entered")) == 2)
    watching = start("watch", folder, cwd=tmp_path)
    assert watching.stderr is not None
    assert "lineage-1: loss (min)" in watching.stderr.readline()
    kill_hard(running)
    _, err = watching.communicate(timeout=30)
    assert watching.returncode == 130
    assert "lineage-1 was interrupted; to go on: gpbt-async resume lineage-1" in err
    assert cli("watch", "lineage-1", cwd=tmp_path).status == 130
    assert cli("resume", "lineage-1", "--quiet", cwd=tmp_path).status == 0
    assert "lineage-1 has finished" in cli("watch", "lineage-1", cwd=tmp_path).err
    nowhere = cli("watch", "nope", cwd=tmp_path)
    assert nowhere.status == 2
    assert "no run at" in nowhere.err


def test_on_a_terminal_it_is_the_frame_of_launch(tmp_path: Path) -> None:
    assert cli("launch", LINEAGE, "--slots", 2, "--quiet", cwd=tmp_path).status == 0
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            command("watch", "lineage-1"), cwd=tmp_path, stderr=theirs, timeout=60, env={**os.environ, "TERM": "xterm"}
        )
        text = os.read(ours, 1 << 16).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 0
    assert "gen  3" in text
    assert "6 of 6" in text
    assert "lineage-1 has finished" in text


def test_gpus_are_shown_as_the_gpu_report_says(machine: Callable[..., Machine]) -> None:
    m = machine(A, B, population=4, generations=1)
    m.say("hold")
    run = m.begin()
    until(lambda: [row["members"] for row in m.notice()["gpus"]] in ([[0], [1]], [[1], [0]]))
    attached = Attached(RunFolder.open(m.folder / "runs" / "r"))
    text = shown(attached)
    assert "GPU 0 A100  in use" in text
    assert "GPU 1 A100  " in text
    assert {slot.name for slot in attached.slots.slots} == {"GPU 0 NVIDIA A100", "GPU 1 NVIDIA A100"}  # type: ignore[union-attr]
    m.unsay("hold")
    ended(run)
