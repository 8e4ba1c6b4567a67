"""The fault drill (bench/faults.py) with a few seeds of each kind of fault: crash, resume, check."""

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


@pytest.mark.parametrize("kind", [kind for kind in faults.KILLS if kind not in faults.ON_REQUEST])
def test_a_kill(kind: str, tmp_path: Path) -> None:
    """Some kills wait for a moment, and may miss it on a busy machine: then another run, until one happens."""
    assert any(play(seed, {kind}, tmp_path).faults.get(kind, 0) for seed in range(1, 11))


#: where not the first: one in which members may fail for good
SEED = {"gone": 4}


@pytest.mark.parametrize("kind", [kind for kind in faults.DISK_FAULTS if kind not in faults.ON_REQUEST])
def test_a_disk_fault_between_crash_and_resume(kind: str, tmp_path: Path) -> None:
    assert play(SEED.get(kind, 1), {kind}, tmp_path).faults[kind] >= 1


MISBEHAVIOURS = [kind for kind in faults.MISBEHAVIOURS if kind != "hangs"]
FOURS = [tuple(MISBEHAVIOURS[i : i + 4]) for i in range(0, len(MISBEHAVIOURS), 4)]


@pytest.mark.parametrize("kinds", [*FOURS, ("hangs",)], ids="-".join)
def test_members_misbehave(kinds: tuple[str, ...], tmp_path: Path) -> None:
    assert play(2, set(kinds), tmp_path).faults == dict.fromkeys(kinds, 1)


@pytest.mark.parametrize("seed", [4])
def test_everything_at_once(seed: int, tmp_path: Path) -> None:
    kinds = set(faults.possible()) - {"rival"}  # which waits for the lock's timeout, and is tested above
    assert sum(play(seed, kinds, tmp_path).faults.values()) >= 3


def test_a_run_that_is_wrong_is_reported_and_its_folder_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The drill reports what the check says, and the folder stays for a person to look at."""
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


def test_members_trained_again_after_a_death() -> None:
    """After a death: members that were training then, and none that failed by itself or had been trained."""

    def fact(kind: str, member: int = 0) -> dict[str, object]:
        return {"fact": kind, "member": member}

    journal = [fact("Opened"), fact("Started", 0), fact("Started", 1), fact("Failed", 0), fact("Started", 0)]
    journal += [fact("Trained", 1), fact("Started", 2)]
    assert list(faults.trained_again(journal)) == []
    journal += [fact("Opened"), fact("Started", 2), fact("Published", 1), fact("Opened"), fact("Started", 0)]
    assert list(faults.trained_again(journal)) == [2, 0]
    journal += [fact("Started", 2)]
    assert list(faults.trained_again(journal)) == [2, 1]


# ---- what the drill has found, without chance


async def test_two_members_being_started_outlive_the_guardian(tmp_path: Path) -> None:
    async with Launcher("both-start", cwd=tmp_path, start="exec") as launcher:
        await launcher.open_script(ZOO)
        guardian = launcher.pids()["guardian"]
        assert guardian is not None
        os.kill(guardian, signal.SIGSTOP)
        until(lambda: faults.state(guardian) == "T")
        starts = [asyncio.create_task(launcher.start(begin(tmp_path, n, do="returns"))) for n in range(2)]
        await asyncio.sleep(0)  # both have asked, neither is answered
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
