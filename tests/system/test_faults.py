"""The fault drill (bench/faults.py) with a few seeds of each kind of fault: crash, resume, judge."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness import until
from scripts.harness import ZOO, begin

from gpbt_async.processes.launcher import Launcher

sys.path.append(str(Path(__file__).parent.parent.parent / "bench"))

import faults

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def interrupts() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    faults.hear_interrupts()
    yield
    signal.signal(signal.SIGINT, before)


def play(seed: int, kinds: set[str], tmp_path: Path) -> faults.Result:
    result = faults.drill(seed, kinds, tmp_path)
    assert result.wrong == [], result.folder
    assert result.complete
    assert result.valid
    assert list(tmp_path.iterdir()) == [], "a valid run's folder was kept"
    return result


@pytest.mark.parametrize("kind", [kind for kind in faults.BLOWS if kind not in faults.ON_REQUEST])
def test_a_blow(kind: str, tmp_path: Path) -> None:
    """Some lie in wait for a moment, and may miss it on a busy machine: then another run, until one is struck."""
    assert any(play(seed, {kind}, tmp_path).faults.get(kind, 0) for seed in range(1, 11))


#: where not the first: one in which members may fail for good
SEED = {"gone": 4}


@pytest.mark.parametrize("kind", [kind for kind in faults.DAMAGE if kind not in faults.ON_REQUEST])
def test_damage_between_crash_and_resume(kind: str, tmp_path: Path) -> None:
    assert play(SEED.get(kind, 1), {kind}, tmp_path).faults[kind] >= 1


DEEDS = [kind for kind in faults.DEEDS if kind != "hangs"]
FOURS = [tuple(DEEDS[i : i + 4]) for i in range(0, len(DEEDS), 4)]


@pytest.mark.parametrize("deeds", [*FOURS, ("hangs",)], ids="-".join)
def test_members_misbehave(deeds: tuple[str, ...], tmp_path: Path) -> None:
    assert play(2, set(deeds), tmp_path).faults == dict.fromkeys(deeds, 1)


@pytest.mark.parametrize("seed", [4])
def test_everything_at_once(seed: int, tmp_path: Path) -> None:
    kinds = set(faults.possible()) - {"rival"}  # which takes the patience of a lock, and has been seen above
    assert sum(play(seed, kinds, tmp_path).faults.values()) >= 3


def test_a_wrong_run_is_told_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the judge says is what the drill says, and the folder stays for who wants to look."""
    monkeypatch.setattr(faults, "check_run", lambda *_: ["this is wrong"])
    result = faults.drill(1, {"raises_before"}, tmp_path)
    assert result.wrong == ["this is wrong"]
    assert not result.valid
    assert Path(result.folder, "runs", "r", "journal.jsonl").exists()
    assert "seed 1 FAILED: repeat 1" in faults.table([result], "repeat {}")


def test_a_seed_is_a_plan() -> None:
    kinds = faults.possible()
    assert faults.draw(7, kinds) == faults.draw(7, kinds[::-1])
    assert faults.draw(7, kinds) != faults.draw(8, kinds)


def test_who_was_trained_again() -> None:
    """After a death: those that were training when it came, and no one who failed by himself or had been trained."""

    def fact(kind: str, member: int = 0) -> dict[str, object]:
        return {"fact": kind, "member": member}

    told = [fact("Opened"), fact("Started", 0), fact("Started", 1), fact("Failed", 0), fact("Started", 0)]
    told += [fact("Trained", 1), fact("Started", 2)]
    assert list(faults.trained_again(told)) == []
    told += [fact("Opened"), fact("Started", 2), fact("Published", 1), fact("Opened"), fact("Started", 0)]
    assert list(faults.trained_again(told)) == [2, 0]
    told += [fact("Started", 2)]
    assert list(faults.trained_again(told)) == [2, 1]


# ---- what the drill has found, without chance


async def test_two_members_being_started_outlive_the_guardian(tmp_path: Path) -> None:
    async with Launcher("both-start", cwd=tmp_path, start="exec") as launcher:
        await launcher.open_script(ZOO)
        guardian = launcher.pids()["guardian"]
        assert guardian is not None
        os.kill(guardian, signal.SIGSTOP)
        until(lambda: faults.state(guardian) == "T")
        starts = [asyncio.create_task(launcher.start(begin(tmp_path, n, do="returns"))) for n in range(2)]
        await asyncio.sleep(0)  # both have asked, nobody is answered
        os.kill(guardian, signal.SIGKILL)
        workers = await asyncio.gather(*starts, return_exceptions=True)
        for worker in workers:
            if not isinstance(worker, BaseException):
                async with worker:
                    worker.kill()
        assert not [worker for worker in workers if isinstance(worker, BaseException)]


async def test_a_searcher_can_be_started_after_the_guardian_has_died(tmp_path: Path) -> None:
    async with Launcher("searcher-start", cwd=tmp_path) as launcher:
        await launcher.open_script(ZOO)
        guardian = launcher.pids()["guardian"]
        assert guardian is not None
        os.kill(guardian, signal.SIGKILL)
        until(lambda: faults.state(guardian) in "Z-")
        connection, pidfd = await launcher.spawn_helper(["sleep", "1000"], {})
        connection.close()
        os.close(pidfd)
