"""What a stub of NVML cannot show, on a machine with a GPU, its driver and a torch that uses it. Skipped elsewhere.

These were written without such a machine: a failure may be the fault of the test, and is worth a report either way.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness import SCRIPTS, alive, cli, facts, kill_hard, run_id, start, until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.gpu, pytest.mark.slow]
SILICON = SCRIPTS / "silicon.py"


def nvidia_smi(*query: str) -> list[list[str]]:
    done = subprocess.run(["nvidia-smi", *query, "--format=csv,noheader,nounits"], capture_output=True, text=True)
    return [line.split(", ") for line in done.stdout.splitlines()] if done.returncode == 0 else []


@pytest.fixture(scope="module")
def gpus() -> Iterator[dict[str, int]]:
    """MiB by UUID, by the driver's own tool; for one test process at a time, as a run takes another for a stranger."""
    if shutil.which("nvidia-smi") is None:
        pytest.skip("no NVIDIA GPU here")
    found = {uuid: int(total) for uuid, total in nvidia_smi("--query-gpu=uuid,memory.total")}
    torch = pytest.importorskip("torch")
    if not found or not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU that this torch can use")
    with (Path(tempfile.gettempdir()) / f"gpbt-async-tests-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield found


def test_gpus_agrees_with_nvidia_smi(gpus: dict[str, int], tmp_path: Path) -> None:
    machine = cli("gpus", "--json", cwd=tmp_path).json
    assert {row["uuid"]: row["total"] >> 20 for row in machine["gpus"]} == gpus


def test_each_member_sees_its_gpu_only_and_its_memory_is_seen(gpus: dict[str, int], tmp_path: Path) -> None:
    done = cli("launch", SILICON, "--name", "r", "--share", 2, cwd=tmp_path, timeout=300)
    assert done.status == 0, done.err
    folder = tmp_path / "runs" / "r"
    said = [line.split() for log in folder.glob("members/*/log.txt") for line in log.read_text().splitlines()]
    seen = [words for words in said if words[:1] == ["saw"]]
    assert len(seen) == 6
    assert all(count == "1" and uuid == pinned and uuid in gpus for _, count, uuid, _, pinned in seen)


def test_auto_measures_what_members_take(gpus: dict[str, int], tmp_path: Path) -> None:
    done = cli("launch", SILICON, "--name", "r", "--vram", "auto", cwd=tmp_path, timeout=300, env={"SECONDS": "3"})
    assert done.status == 0, done.err
    assert "vram=auto: members take up to " in done.err
    assert not facts(tmp_path / "runs" / "r", "Failed")


def test_killed_hard_it_leaves_no_memory_behind(gpus: dict[str, int], tmp_path: Path) -> None:
    run = start("launch", SILICON, "--name", "r", cwd=tmp_path, env={"SECONDS": "600"})
    folder = tmp_path / "runs" / "r"
    pids = {fact["pid"] for fact in until(lambda: facts(folder, "Started"))}
    until(lambda: pids & {int(pid) for (pid,) in nvidia_smi("--query-compute-apps=pid")}, timeout=120)
    kill_hard(run)
    until(lambda: not alive(run_id(folder)))
    until(lambda: not pids & {int(pid) for (pid,) in nvidia_smi("--query-compute-apps=pid")})
