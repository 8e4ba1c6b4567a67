"""Killed at any of its facts, a run is resumed to the same end. (bench/crashes.py does it at every one.)"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import crashing
import pytest
from harness import cli

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return crashing.tree(crashing.whole(tmp_path_factory.mktemp("whole"), "sync"))


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "at"), [("before", 1), ("after", 30), ("half", 47), ("after", 69)])
def test_killed_at_a_fact_of_a_synchronous_run(tmp_path: Path, wanted: object, mode: str, at: int) -> None:
    """The last one of its 69 facts is Closed: all is in the journal, and the summary is not written yet."""
    assert crashing.crash(tmp_path, "sync", mode, at).crashed
    assert crashing.tree(tmp_path / "runs" / "run") == wanted


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "at"), [("half", 20)])
def test_killed_at_a_fact_of_an_asynchronous_run(tmp_path: Path, mode: str, at: int) -> None:
    assert crashing.crash(tmp_path, "async", mode, at).crashed


@pytest.mark.slow
@pytest.mark.parametrize("at", [4, 5, 6, 7])
def test_killed_while_the_only_member_waits_to_be_published(tmp_path: Path, at: int) -> None:
    """With one member a generation: before it is begun, has trained, is published, and before its child begins."""
    assert crashing.crash(tmp_path, "async", "before", at, population=1).crashed


@pytest.mark.slow
def test_a_finished_run_that_lacks_its_summary_gets_it_at_a_resume(tmp_path: Path) -> None:
    folder = crashing.whole(tmp_path, "async")
    summary, schedule = folder / "summary.json", folder / "schedule.json"
    before, summed = schedule.read_text(), json.loads(summary.read_text())
    schedule.unlink()
    summary.write_text("{}")  # as an interruption before may have left an older one
    assert cli("resume", "run", "--quiet", cwd=tmp_path).status == 0
    assert schedule.read_text() == before
    assert json.loads(summary.read_text()) == summed
