"""A real run with choose_by: its best, its checkpoints and its results, also after the scheduler was killed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import crashing
import pytest
from harness import SCRIPTS, cli, facts
from run_checker import check_run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return crashing.whole(tmp_path_factory.mktemp("whole"), "sync", "chosen.py")


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())  # type: ignore[no-any-return]


def folds(folder: Path) -> dict[int, set[float]]:
    """Those that members reported, by generation."""
    started = {f["member"]: f for f in facts(folder, "Started")}
    of: dict[int, set[float]] = {}
    for fact in facts(folder, "Trained"):
        of.setdefault(started[fact["member"]]["path"].count("/"), set()).add(fact["metrics"]["fold"])
    return of


def test_the_choice_is_in_every_result(wanted: Path) -> None:
    assert check_run(wanted) == []
    total = summary(wanted)
    choice, best = total["choice"], total["best_member"]
    assert choice["member"] == best
    assert choice["value"] == total["best_metrics"]["holdout"]
    assert choice["eligible"] == len(choice["among"]) >= 2
    trained = {f["member"]: f for f in facts(wanted, "Trained")}
    assert choice["value"] == min(trained[m]["metrics"]["holdout"] for m in choice["among"])
    assert (wanted / "best").resolve() == (wanted / "members" / f"{best:04}")
    assert [g["generation"] for g in total["gaps"][0]["generations"]] == [0, 1, 2]
    said = cli("best", "run", cwd=wanted.parent.parent)
    assert f"member {best} " in said.out
    assert "chosen by holdout=" in said.out
    assert "means of the best of each generation: score, holdout" in said.out
    told = json.loads(cli("best", "run", "--json", cwd=wanted.parent.parent).out)
    assert (told["choice"], told["gaps"]) == (choice, total["gaps"])
    assert f"member {best} " in cli("lineage", "run", "best", cwd=wanted.parent.parent).out
    assert json.loads(cli("status", "run", "--json", cwd=wanted.parent.parent).out)["best_member"] == best


def test_members_of_a_generation_have_one_fold_and_successive_generations_different_ones(wanted: Path) -> None:
    of = folds(wanted)
    assert [len(each) for each in of.values()] == [1, 1, 1]
    assert len(set.union(*of.values())) == 3
    assert all(fact["metrics"]["rows"] in (2, 3) for fact in facts(wanted, "Trained"))


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "at"), [("before", 60), ("after", 62), ("before", 66), ("after", 68)])
def test_killed_near_its_end_it_chooses_the_same(tmp_path: Path, wanted: Path, mode: str, at: int) -> None:
    assert crashing.crash(tmp_path, "sync", mode, at, script="chosen.py").crashed
    folder = tmp_path / "runs" / "run"
    assert check_run(folder) == []
    assert crashing.tree(folder) == crashing.tree(wanted)
    assert summary(folder)["choice"] == summary(wanted)["choice"]


@pytest.mark.slow
def test_killed_in_the_middle_of_an_asynchronous_run(tmp_path: Path) -> None:
    assert crashing.crash(tmp_path, "async", "half", 35, script="chosen.py").crashed
    assert check_run(tmp_path / "runs" / "run") == []


def test_a_metric_that_is_not_reported_is_found_at_once_and_the_score_chooses(tmp_path: Path) -> None:
    done = cli(
        "launch", str(SCRIPTS / "chosen.py"), "--choose-by", "hold_out:max", "--population", "3", "--generations", "2",
        "--slots", "1", "--name", "run", cwd=tmp_path,
    )  # fmt: skip
    assert done.status == 0
    assert "did you mean 'holdout'?" in done.err
    folder = tmp_path / "runs" / "run"
    total = summary(folder)
    found = [(f["subject"], f["member"]) for f in total["findings"] if f["code"] == "GPBT021"]
    assert found == [("hold_out", 0), ("final choice", total["best_member"])]
    assert total["choice"]["value"] is None
    trained = {f["member"]: f["score"] for f in facts(folder, "Trained")}
    assert total["score"] == min(trained.values())


def test_a_replay_is_chosen_by_its_score_and_has_the_folds_of_the_original(tmp_path: Path, wanted: Path) -> None:
    done = cli("replay", str(wanted), "--same-seeds", "--runs", "runs", cwd=tmp_path)
    assert done.status == 0, done.err
    settings = json.loads((tmp_path / "runs" / "run-replay-1" / "experiment.json").read_text())["settings"]
    assert settings["choose_by"] is None
    replayed = summary(tmp_path / "runs" / "run-replay-1")
    assert replayed["replay"]["same_seeds"]["exact"]
    assert replayed["choice"] is None
    assert folds(tmp_path / "runs" / "run-replay-1").items() <= folds(wanted).items()
