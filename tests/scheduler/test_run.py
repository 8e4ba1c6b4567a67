"""Whole runs, embedded: real processes, real files."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import shutil
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from harness import SCRIPTS, alive, check_folder, cli, facts, run_id

import gpbt_async as gpbt
from gpbt_async import events
from gpbt_async.errors import ExperimentError

if TYPE_CHECKING:
    from pathlib import Path

sys.path.insert(0, str(SCRIPTS))
import lineage as lineage_script


def experiment(**changes: object) -> gpbt.Experiment:
    names = {
        "space": lineage_script.experiment.settings.space,
        "score": "loss",
        "mode": "min",
        "population": 6,
        "generations": 4,
        "searcher": "random",
        "resources": gpbt.Resources(gpus=0),
    }
    return gpbt.Experiment(lineage_script.train, **{**names, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("schedule", ["async", "sync"])
@pytest.mark.parametrize("selection", ["comma", "plus"])
async def test_a_run_gives_the_best_member_with_the_schedule_that_made_it(
    tmp_path: Path, schedule: str, selection: str
) -> None:
    best = await gpbt.launch(experiment(schedule=schedule, selection=selection), tmp_path / "r", slots=2)
    assert best is not None
    # the checkpoint was written by the chain of members itself: weights really come from the parent
    assert json.loads((best.checkpoint / "past.json").read_text()) == list(best.schedule)
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert summary["score"] == best.score
    assert summary["generations"] == [6, 6, 6, 6]
    idle = sum(summary["idle_s"].values())
    assert idle + summary["busy_s"] == pytest.approx(2 * summary["wall_s"], abs=1e-6)
    schedule_json = json.loads((tmp_path / "r" / "schedule.json").read_text())
    assert [entry["config"] for entry in schedule_json["schedule"]] == list(best.schedule)
    if selection == "comma":
        check_folder(tmp_path / "r", 6, 4)
    assert alive(run_id(tmp_path / "r")) == []


async def test_the_default_searcher_asks_hyperopt_in_a_process_of_its_own(tmp_path: Path) -> None:
    best = await gpbt.launch(experiment(searcher="local", generations=2), tmp_path / "r", slots=2)
    assert best is not None
    suggested = facts(tmp_path / "r", "Suggested")
    assert [f["path"] for f in suggested if "/" not in f["path"]] == ["0", "1", "2", "3", "4", "5"]
    check_folder(tmp_path / "r", 6, 2)


async def test_members_can_start_as_fresh_interpreters(tmp_path: Path) -> None:
    best = await gpbt.launch(experiment(generations=2, population=3), tmp_path / "r", slots=2, start="exec")
    assert best is not None
    check_folder(tmp_path / "r", 3, 2)


async def test_a_member_can_be_any_program(tmp_path: Path) -> None:
    script = (
        'echo "{{\\"loss\\": {x}}}" >> "$GPBT_METRICS"; '
        'test -z "$GPBT_PARENT" || cat {parent}/past > {checkpoint}/past; cat "$GPBT_CONFIG" >> {checkpoint}/past'
    )
    e = gpbt.Experiment(
        command=["sh", "-c", script],
        space={"x": gpbt.Float(0, 1)},
        score="loss",
        mode="min",
        population=3,
        generations=2,
        searcher="random",
        resources=gpbt.Resources(gpus=0),
    )
    best = await gpbt.launch(e, tmp_path / "r", slots=2)
    assert best is not None
    assert best.score == best.config["x"]
    text = (best.checkpoint / "past").read_text()
    assert [json.loads("{" + part) for part in text.split("{")[1:]] == list(best.schedule)
    check_folder(tmp_path / "r", 3, 2)


async def test_events_come_typed_and_in_order(tmp_path: Path) -> None:
    kinds = []
    async with gpbt.Run(experiment(generations=2), tmp_path / "r", slots=2) as run:
        async for event in run:
            assert isinstance(event, events.Fact)
            kinds.append(type(event).__name__)
    assert run.how == "finished"
    journal = [f["fact"] for f in facts(tmp_path / "r")]
    journaled = [k for k in kinds if k != "Reported"]
    assert journaled == journal[len(journal) - len(journaled) :]
    assert kinds.count("Published") == 12


async def test_a_slow_listener_misses_events_and_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpbt_async.scheduler.event_stream.BUFFER", 5)
    async with gpbt.Run(experiment(generations=2), tmp_path / "r", slots=2) as run:
        listener = run.__aiter__()
        await run.wait()
    got = [event async for event in listener]
    assert isinstance(got[0], events.Missed)
    assert got[0].count > 20
    assert isinstance(got[-1], events.Closed)
    assert len(got) == 6


async def test_leaving_the_block_early_stops_every_member_and_can_be_resumed(tmp_path: Path) -> None:
    async with gpbt.Run(experiment(), tmp_path / "r", slots=2) as run:
        async for event in run:
            if isinstance(event, events.Published):
                break
    assert run.how == "interrupted"
    assert alive(run_id(tmp_path / "r")) == []
    async with gpbt.Run(None, tmp_path / "r", resume="must") as run:
        assert len(run.slots or ()) == 2, "a resumed run has the slots it was begun with"
        run.stop()
    best = await gpbt.launch(experiment(), tmp_path / "r", resume="must", slots=3)
    assert best is not None
    check_folder(tmp_path / "r", 6, 4)


async def test_cancelling_is_clean(tmp_path: Path) -> None:
    before = threading.active_count()
    os.environ["TRAIN_SECONDS"] = "30"
    try:
        task = asyncio.create_task(gpbt.launch(experiment(), tmp_path / "r", slots=2))
        while not facts(tmp_path / "r", "Entered"):  # noqa: ASYNC110
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    finally:
        del os.environ["TRAIN_SECONDS"]
    assert alive(run_id(tmp_path / "r")) == []
    assert threading.active_count() == before
    assert facts(tmp_path / "r")[-1]["fact"] == "Closed"


async def test_two_runs_in_one_loop(tmp_path: Path) -> None:
    one, two = await asyncio.gather(
        gpbt.launch(experiment(seed=1, generations=2), tmp_path / "a", slots=1),
        gpbt.launch(experiment(seed=2, generations=2), tmp_path / "b", slots=1),
    )
    assert one is not None
    assert two is not None
    check_folder(tmp_path / "a", 6, 2)
    check_folder(tmp_path / "b", 6, 2)


async def test_resume_never_must_and_auto(tmp_path: Path) -> None:
    small = experiment(generations=1, population=2)
    with pytest.raises(gpbt.FolderError, match="does not exist"):
        await gpbt.launch(small, tmp_path / "r", resume="must")
    first = await gpbt.launch(small, tmp_path / "r", resume="auto", slots=1)
    with pytest.raises(gpbt.FolderError, match=r"gpbt-async resume \S*r`"):
        await gpbt.launch(small, tmp_path / "r")
    count = len(facts(tmp_path / "r"))
    again = await gpbt.launch(small, tmp_path / "r", resume="auto")
    assert again == first
    assert len(facts(tmp_path / "r")) == count


async def test_two_schedulers_never_share_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpbt_async.scheduler.startup.PATIENCE", 0.0)
    async with gpbt.Run(experiment(), tmp_path / "r", slots=1) as run:
        with pytest.raises(gpbt.FolderError, match=str(os.getpid())):
            await gpbt.launch(experiment(), tmp_path / "r", resume="must")
        run.stop()
        await run.wait()
    assert run.how == "interrupted"


@pytest.mark.parametrize("resume", ["auto", "never"])
async def test_without_an_experiment_there_must_be_a_run(tmp_path: Path, resume: Any) -> None:
    with pytest.raises(ExperimentError) as error:
        async with gpbt.Run(None, tmp_path / "nonesuch", resume=resume):
            pass
    assert str(error.value).startswith(f"experiment: got None; resume={resume!r}, folder='{tmp_path}/nonesuch'")
    assert "give an Experiment or a script" in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "remedy"), [("foo", "give fields of Experiment"), ("populatoin", "did you mean 'population'?")]
)
def test_changes_must_be_fields_of_an_experiment(name: str, remedy: str) -> None:
    with pytest.raises(ExperimentError) as error:
        gpbt.Run(experiment(), changes={name: 0})
    assert f"changes: got {{{name!r}: 0}}; {name!r} is no field of an experiment; {remedy}" in str(error.value)


async def test_nothing_is_left_of_a_run_that_could_not_begin(tmp_path: Path) -> None:
    with pytest.raises(gpbt.DeviceError):
        await gpbt.launch(experiment(), tmp_path / "r", slots=0)
    assert list(tmp_path.iterdir()) == []


async def test_a_run_killed_after_its_last_member_is_completed_by_resume(tmp_path: Path) -> None:
    """The journal as it stood when the last member was published: no Closed, discards outstanding, best not linked."""
    await gpbt.launch(experiment(generations=2), tmp_path / "r", slots=2)
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "r", copy, symlinks=True, ignore=shutil.ignore_patterns("control"))
    lines = (copy / "journal.jsonl").read_text().splitlines(keepends=True)
    last = max(i for i, line in enumerate(lines) if '"Published"' in line)
    (copy / "journal.jsonl").write_text("".join(lines[: last + 1]))
    for name in ("summary.json", "schedule.json", "best"):
        (copy / name).unlink()
    gone = {f["member"] for f in facts(copy, "Discarded")}
    for fact in facts(copy, "Published"):
        if fact["member"] not in gone:
            (copy / "members" / f"{fact['member']:04}" / "checkpoint").mkdir(exist_ok=True)
    best = await gpbt.launch(experiment(generations=2), copy, resume="must")
    assert best is not None
    assert facts(copy)[-1]["fact"] == "Closed"
    check_folder(copy, 6, 2)
    count = len(facts(copy))
    await gpbt.launch(experiment(generations=2), copy, resume="must")
    assert len(facts(copy)) == count


async def test_a_copied_run_leaves_the_original_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAIN_SECONDS", "0.02")
    async with gpbt.Run(experiment(), tmp_path / "r", slots=1) as original:
        async for event in original:
            if isinstance(event, events.Published):
                break
        shutil.copytree(
            tmp_path / "r", tmp_path / "copy", symlinks=True, ignore=shutil.ignore_patterns("control", ".*")
        )
        async with gpbt.Run(None, tmp_path / "copy", resume="must") as copy:
            copy.stop()
        await original.wait()
    assert original.how == "finished"
    assert not facts(tmp_path / "r", "Failed")
    assert not facts(tmp_path / "r", "Lost")


async def test_a_listener_that_stops_is_forgotten(tmp_path: Path) -> None:
    async with gpbt.Run(experiment(), tmp_path / "r", slots=2) as run:
        for _ in range(5):
            async for _event in run:
                break
        gc.collect()
        assert len(run._listeners) == 0
        await run.wait()


async def test_a_run_that_cannot_write_ends_with_an_error_and_can_be_resumed(tmp_path: Path) -> None:
    async with gpbt.Run(experiment(), tmp_path / "r", slots=1) as run:
        (tmp_path / "r" / "members" / "0003").touch()  # in the way of a member's folder
        with pytest.raises(gpbt.FolderError, match="0003"):
            await run.wait()
        with contextlib.suppress(gpbt.FolderError):
            await run.wait()
        assert run.how == "interrupted"
        assert facts(tmp_path / "r")[-1]["how"] == "interrupted"
        run._task = None  # its error was seen above
    (tmp_path / "r" / "members" / "0003").unlink()
    assert await gpbt.launch(experiment(), tmp_path / "r", resume="must") is not None
    check_folder(tmp_path / "r", 6, 4)


async def test_an_application_that_moved_its_function_says_where_it_is(tmp_path: Path) -> None:
    async with gpbt.Run(experiment(), tmp_path / "r", slots=1) as run:
        run.stop()
    record = json.loads((tmp_path / "r" / "experiment.json").read_text())
    record["settings"]["target"] |= {"file": "/nowhere/old.py", "module": "old_name"}
    (tmp_path / "r" / "experiment.json").write_text(json.dumps(record))
    assert await gpbt.launch(experiment(), tmp_path / "r", resume="must") is not None


async def test_early_stopping_stops_real_members_and_saves_intervals(tmp_path: Path) -> None:
    slow = experiment(population=8, generations=3, early_stop="median", seed=3)
    async with gpbt.Run(
        gpbt.Experiment(lineage_script.train_in_steps, **declared(slow)), tmp_path / "r", slots=2
    ) as run:
        await run.wait()
    stopped = facts(tmp_path / "r", "StoppedEarly")
    judged = facts(tmp_path / "r", "Judged")
    assert len(judged) == 16, "every member of generations 1 and 2 reports first, and waits for the verdict"
    assert stopped
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert summary["members"]["stopped"] == len(stopped)
    assert 0 < summary["saved_intervals"] <= len(stopped)
    parents = {f["parent"] for f in facts(tmp_path / "r", "Started")}
    assert not parents & {f["member"] for f in stopped}
    assert not list((tmp_path / "r").glob("members/*/attempt-*"))
    for fact in stopped:
        lines = (tmp_path / "r" / "members" / f"{fact['member']:04}" / "metrics.jsonl").read_text().splitlines()
        assert len(lines) == 1, "it was stopped at its first report"


async def test_members_that_stop_themselves_fail_the_run_and_the_folder_stays_readable(tmp_path: Path) -> None:
    names = declared(experiment(population=2, generations=2))
    itself = gpbt.Experiment(lineage_script.train_and_stop_itself, attempts=1, **names)  # type: ignore[arg-type]
    with pytest.raises(gpbt.RunFailed, match=r"gpbt\.Stopped was raised, but the scheduler did not stop this member"):
        await gpbt.launch(itself, tmp_path / "r", slots=2)
    assert not facts(tmp_path / "r", "StoppedEarly")
    status = cli("status", tmp_path / "r", "--json", cwd=tmp_path)
    assert status.status == 0
    assert "the scheduler did not stop this member" in status.json["reason"]


async def test_early_stopping_with_one_report_a_member_is_warned_of_once(tmp_path: Path) -> None:
    late = experiment(population=4, generations=3, early_stop="median")
    async with gpbt.Run(late, tmp_path / "r", slots=2) as run:
        warnings = [e.text async for e in run if isinstance(e, gpbt.events.Warned)]
    assert len([text for text in warnings if "report it earlier" in text]) == 1


async def test_a_program_is_stopped_early_by_sigterm(tmp_path: Path) -> None:
    script = 'echo "{{\\"loss\\": {x}}}" >> "$GPBT_METRICS"; sleep 0.5; echo done > {checkpoint}/done'
    e = gpbt.Experiment(
        command=["sh", "-c", script],
        space={"x": gpbt.Float(0, 1)},
        score="loss",
        mode="min",
        population=8,
        generations=2,
        searcher="random",
        early_stop=["median"],
        resources=gpbt.Resources(gpus=0),
    )
    assert await gpbt.launch(e, tmp_path / "r", slots=4) is not None
    assert facts(tmp_path / "r", "StoppedEarly")


def declared(e: gpbt.Experiment) -> dict[str, object]:
    s = e.settings
    names = ("space", "score", "mode", "population", "generations", "searcher", "early_stop", "seed", "resources")
    return {name: getattr(s, name) for name in names}


async def test_a_stopped_run_leaves_no_timer_and_no_list_of_its_commands(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    wrong: list[object] = []
    loop.set_exception_handler(lambda _, context: wrong.append(context))
    async with gpbt.Run(experiment(stall_timeout=1000.0, member_timeout=1000.0), tmp_path / "r", slots=2) as run:
        async for event in run:
            if isinstance(event, events.Entered) and event.member >= 6:
                break
    assert run._scheduler is not None
    assert len(run._scheduler._watchdog._performed) == 0, "or it grows by every command of a run of days"
    left = [timer for timer in loop._scheduled if not timer.cancelled() and timer.when() > loop.time() + 500]  # type: ignore[attr-defined]
    assert not left, "they would go off, an hour later, in an application's loop"
    assert not wrong
