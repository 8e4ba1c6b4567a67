"""A person pauses a run: no member begins, those that train go on, and every view says so."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from harness import SCRIPTS, check_folder, cli, cli_here, facts, start, until
from run_checker import check_run

import gpbt_async as gpbt
from gpbt_async import events
from gpbt_async.scheduler.admission import Admission
from gpbt_async.storage.folder import RunFolder
from gpbt_async.ui.attached import Attached

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.mark.slow
def test_a_paused_run_begins_no_member_until_the_pause_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "r"
    (tmp_path / "hold").touch()
    run = start("launch", SCRIPTS / "sturdy.py", "--name", "r", "--slots", 2, cwd=tmp_path)
    until(lambda: len(facts(folder, "Entered")) == 2)
    watching = start("watch", "r", cwd=tmp_path)
    assert watching.stderr is not None
    first = watching.stderr.readline()
    paused_now = cli("pause", "r", cwd=tmp_path)
    assert paused_now.status == 0
    assert (
        "r is paused: no new members start, 2 in training continue; to go on: gpbt-async pause r --end"
        in paused_now.err
    )
    assert cli("pause", "r", cwd=tmp_path).status == 0, "twice does no harm"
    begins = "the run is paused: no member begins until `gpbt-async pause r --end`"
    assert Attached(RunFolder.open(folder)).warnings == [begins]
    leaving = start("watch", "r", cwd=tmp_path)
    assert leaving.stderr is not None
    leaving.stderr.readline()
    leaving.send_signal(signal.SIGINT)
    last_lines = leaving.communicate(timeout=60)[1]
    assert "r stays paused until gpbt-async pause r --end; to stop it: gpbt-async stop r" in last_lines
    (tmp_path / "hold").unlink()
    until(lambda: len(facts(folder, "Published")) == 2)
    state = cli_here("status", "r", "--json", cwd=tmp_path).json
    assert (state["paused"], state["paused_by_hand"]) == ("the run is paused", True)
    assert [w["for"] for w in state["waiting"][:2]] == ["the end of the pause"] * 2
    assert state["training"] == []
    assert begins in cli_here("status", "r", cwd=tmp_path).out
    assert cli_here("status", cwd=tmp_path).out.split()[:2] == ["r", "paused"]
    (tmp_path / "hold").touch()
    assert "r continues" in cli("pause", "r", "--end", cwd=tmp_path).err
    until(lambda: len(facts(folder, "Entered")) == 4)
    cli("pause", "r", cwd=tmp_path)
    (tmp_path / "hold").unlink()
    until(lambda: len(facts(folder, "Published")) == 4)
    assert cli("stop", "r", cwd=tmp_path).status == 0, "a paused run can be stopped"
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130, err
    for seen in (err, first + watching.communicate(timeout=60)[1]):
        assert (seen.count(begins), seen.count("the pause is over: members begin again")) == (2, 1), "each time"
        assert "members wait" not in seen
        assert "warning: the pause is over" not in seen
    none = cli("pause", "r", cwd=tmp_path)
    assert none.status == 2
    assert "r is not running" in none.err
    assert cli("resume", "r", cwd=tmp_path).status == 0, "which forgets the pause"
    check_folder(folder, 6, 3)
    check_run(folder)
    paused = False
    for fact in facts(folder):
        if fact["fact"] == "Paused":
            assert fact["by_hand"]
            assert bool(fact["reason"]) != paused, "said once"
        paused = bool(fact["reason"]) if fact["fact"] == "Paused" else paused and fact["fact"] != "Opened"
        assert not (paused and fact["fact"] == "Started")
    assert json.loads((folder / "summary.json").read_text())["idle_s"]["paused"] > 0


async def test_a_pause_and_a_stop_before_the_run_is_open_are_kept(tmp_path: Path) -> None:
    run = gpbt.Run(SCRIPTS / "lineage.py", tmp_path / "r", slots=2)
    entering = asyncio.create_task(run.__aenter__())
    await asyncio.sleep(0)
    assert not entering.done()
    run.pause()
    run.stop()
    await entering
    assert await run.wait() is None
    await run.__aexit__(None, None, None)
    assert run.how == "interrupted"
    assert [fact["fact"] for fact in facts(tmp_path / "r")].count("Started") == 0
    async with gpbt.Run(None, tmp_path / "r", resume="must") as run:
        run.pause()
        async for event in run:
            if isinstance(event, events.Paused):
                run.pause(False)
        assert run.how == "finished"
    kinds = [fact["fact"] for fact in facts(tmp_path / "r")]
    assert kinds.count("Paused") == 3
    assert kinds.index("Started") > len(kinds) - kinds[::-1].index("Paused") - 1, (
        "no member began before the pause's end"
    )


class OneSlot:
    """A pool whose one slot comes when the test says so."""

    def __init__(self) -> None:
        self.asked, self.there, self.back = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.given = 0

    @contextlib.asynccontextmanager
    async def lease(self, alone: bool = False) -> AsyncIterator[str]:
        self.asked.set()
        await self.there.wait()
        self.given += 1
        yield "slot"
        self.back.set()


async def test_a_slot_that_comes_during_a_pause_is_given_back() -> None:
    async def room(member: int) -> None:
        pass

    pool = OneSlot()
    rooms: Any = (pool, SimpleNamespace(room=room), SimpleNamespace(begin=lambda *_: "begin"))
    gate = Admission(*rooms)
    member: Any = SimpleNamespace(id=7)
    changes: list[bool] = []
    gate.on_change = changes.append
    passed = asyncio.Event()

    async def life() -> None:
        async with gate.passed(member, 1) as place:
            assert place == ("slot", "begin")
            passed.set()

    living = asyncio.create_task(life())
    await pool.asked.wait()
    gate.pause(True)
    gate.pause(True)
    pool.there.set()
    await pool.back.wait()
    assert not passed.is_set()
    assert gate.queued == 0, "it waits for the end of the pause, not for a slot"
    gate.pause(False)
    await asyncio.wait_for(living, 10)
    assert (changes, pool.given) == ([True, False], 2)
