"""Options survive a resume: those of the launch stay in force, a resume's own win, and those stay in force in turn.

Each test is one run of several sessions, every one of them killed (SIGKILL) but the last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from gpu_machine import A, B
from harness import SCRIPTS, alive, cli, cli_here, facts, kill_hard, run_id, start, until
from hypothesis import given
from hypothesis import strategies as st

import gpbt_async as gpbt
from gpbt_async.declaration.run_options import RunOptions
from gpbt_async.errors import ExperimentError

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from gpu_machine import Machine

STURDY = SCRIPTS / "sturdy.py"


def killed(run: subprocess.Popen[str], folder: Path) -> None:
    kill_hard(run)
    until(lambda: not alive(run_id(folder)))


def in_force(m: Machine) -> dict[str, Any]:
    options: dict[str, Any] = m.cli("status", "r", "--json").json["options"]
    return options


def session(m: Machine, *options: object) -> list[tuple[str, ...]]:
    """Resume, wait until a member trains, and kill; what each member of this session found (playing.py)."""
    opened, before = len(m.facts("Opened")), len(inside(m))
    run = start("resume", "r", *options, cwd=m.folder, env=m.env)
    until(lambda: len(m.facts("Opened")) > opened and len(inside(m)) > before)
    killed(run, m.folder / "runs/r")
    return inside(m)[before:]


def inside(m: Machine) -> list[tuple[str, ...]]:
    """What each member has found that has begun to train, in any session."""
    return [entry.rest for entry in m.log() if entry.what == "in"]


def begun(m: Machine, *options: object) -> None:
    """Launch, wait until a member trains, and kill."""
    m.say("hold")
    run = m.begin(*options)
    until(lambda: m.facts("Entered") and inside(m))
    killed(run, m.folder / "runs/r")


def test_a_disk_budget_stays_in_force(tmp_path: Path) -> None:
    """Checkpoints of 1 MB each: with a budget of 1 MiB one child trains and the other waits; without, two train."""
    folder = tmp_path / "runs" / "r"
    (tmp_path / "hold children").touch()

    def children(*command: object) -> int:
        before = len(facts(folder))
        run = start(*command, cwd=tmp_path, env={"KIB": "1000"})

        def seen() -> int:
            new = facts(folder)[before:]
            training = sum(f["fact"] == "Entered" and f["member"] >= 6 for f in new)
            waits = [f["reason"] for f in new if f["fact"] == "Paused"][-1:]
            return training if training == 2 or (training == 1 and "(--disk" in "".join(waits)) else 0

        training: int = until(seen)
        killed(run, folder)
        return training

    launch = ("launch", STURDY, "--name", "r", "--slots", 2, "--evidence", 1)
    assert children(*launch, "--disk", "1MiB") == 1
    assert children("resume", "r") == 1
    assert children("resume", "r", "--disk", "none") == 2
    assert children("resume", "r") == 2
    assert children("resume", "r", "--disk", "1100KiB") == 1
    (tmp_path / "hold children").unlink()
    assert cli("resume", "r", cwd=tmp_path).status == 0
    assert "  options --slots 2 --disk 1100KiB\n" in cli_here("status", "r", cwd=tmp_path).out


def test_waiting_for_gpus_stays_in_force(machine: Callable[..., Machine]) -> None:
    m = machine(A, population=2, generations=1)
    begun(m, "--wait-for-gpus")
    m.state.add(f"proc {A} 1 20000")
    run = start("resume", "r", cwd=m.folder, env=m.env)
    until(lambda: m.notice()["waiting"] is not None)
    killed(run, m.folder / "runs/r")
    refused = m.cli("resume", "r", "--no-wait-for-gpus")
    assert refused.status == 2
    assert "no GPU is free" in refused.err
    assert in_force(m)["wait_for_gpus"] is True, "a resume that is refused changes nothing"
    m.state.drop("proc")
    session(m, "--no-wait-for-gpus")
    m.state.add(f"proc {A} 1 20000")
    assert "no GPU is free" in m.cli("resume", "r").err


def test_what_others_may_use_stays_in_force(machine: Callable[..., Machine]) -> None:
    m = machine(A, population=2, generations=1)
    m.state.set(f"mem {A} 8192 1500 0")
    begun(m, "--others-may-use", "2GiB")
    session(m)
    assert "are used by other programs" in m.cli("resume", "r", "--others-may-use", "none").err
    m.state.set(f"mem {A} 8192 2500 0")
    assert m.cli("resume", "r").status == 2
    session(m, "--others-may-use", "3GiB")
    session(m)
    assert in_force(m)["others_may_use"] == "3GiB"


def test_affinity_stays_as_it_was_asked_for(machine: Callable[..., Machine]) -> None:
    m = machine(A, population=2, generations=1)
    m.state.set(f"cpus {A} 1")
    begun(m, "--no-affinity")
    everywhere = next(entry.rest[2] for entry in m.log())
    assert everywhere != "0"
    assert session(m)[0][2] == everywhere
    assert session(m, "--affinity")[0][2] == "0"
    assert session(m)[0][2] == "0"


def test_whose_fault_an_xid_is_stays_in_force(machine: Callable[..., Machine]) -> None:
    """Xid 79 is the GPU's fault unless `--xid` says otherwise."""
    m = machine(A, population=2, generations=1)
    begun(m, "--xid", "79=member", "--xid", "31=card")

    def blamed(*options: object) -> str:
        opened, entered = len(m.facts("Opened")), len(m.facts("Entered"))
        run = start("resume", "r", *options, cwd=m.folder, env=m.env)
        until(lambda: len(m.facts("Opened")) > opened and len(m.facts("Entered")) > entered)
        m.state.add(f"event {A} 8 79")
        assert run.stderr is not None
        line = next(line for line in run.stderr if "Xid 79" in line)
        killed(run, m.folder / "runs/r")
        m.state.drop("event")
        return line

    assert "Xid 79, the fault of a member" in blamed()
    assert in_force(m)["xids"] == {"79": "member", "31": "card"}
    assert "set aside: Xid 79" in blamed("--xid", "none")
    assert "set aside: Xid 79" in blamed()
    assert "Xid 79, the fault of a member" in blamed("--xid", "79=member")
    assert in_force(m)["xids"] == {"79": "member"}, "a table replaces a table, as of --track"


def test_share_gpus_start_and_trackers_stay_in_force(machine: Callable[..., Machine]) -> None:
    m = machine(A, B, population=8, generations=1)
    begun(m, "--gpus", "1", "--track", "jsonl")
    session(m, "--share", "2", "--gpus", "0", "--start", "exec", "--track", "none")
    session(m)
    options = in_force(m)
    assert (options["share"], options["gpus"], options["start"], options["track"]) == (2, "0", "exec", [])
    assert f"--nvml-library {m.driver} --track none" in m.cli("status", "r").out
    assert m.facts("Opened")[-1]["slots"] == 2, "two members on the one GPU"
    session(m, "--share", "none", "--start", "none")
    session(m)
    assert [fact["slots"] for fact in m.facts("Opened")][-2:] == [1, 1], "as the experiment declares it"
    assert (in_force(m)["share"], in_force(m)["start"]) == ("none", "none")
    assert m.cli("resume", "r", "--nvml-library", "none").err.count("there is no NVML library") == 1
    session(m, "--share", "2")
    m.unsay("hold")
    assert m.cli("resume", "r", "--gpus", "none", "--slots", "2").status == 0
    assert (in_force(m)["share"], in_force(m)["gpus"], in_force(m)["slots"]) == (None, "none", 2)
    assert m.cli("resume", "r", "--share", "2").status == 0, "a run that has finished needs no GPU"


async def test_an_application_resumes_with_what_it_launched_with(tmp_path: Path) -> None:
    given = {"slots": 2, "disk": "1GiB", "affinity": False, "xids": {79: "member"}}
    async with gpbt.Run(SCRIPTS / "lineage.py", tmp_path / "r", **given) as run:  # type: ignore[arg-type]
        run.stop()
    async with gpbt.Run(None, tmp_path / "r", resume="must", disk="2GiB", wait_for_gpus=False) as run:
        run.stop()
    options = cli("status", tmp_path / "r", "--json", cwd=tmp_path).json["options"]
    given = {**given, "disk": "2GiB", "wait_for_gpus": False, "xids": {"79": "member"}}
    assert {name: value for name, value in options.items() if value is not None} == given


# ---- the record itself

AMOUNTS = st.none() | st.sampled_from(["none", "2GiB", "500MiB"])
OPTIONS = st.builds(
    RunOptions,
    slots=st.none() | st.integers(1, 9),
    gpus=st.none() | st.sampled_from(["all", "none", "0,1"]),
    share=st.none() | st.integers(1, 3) | st.just("none"),
    vram=st.sampled_from([None, "6GiB", "none"]),
    start=st.sampled_from([None, "zygote", "exec", "resident", "none"]),
    disk=AMOUNTS,
    wait_for_gpus=st.none() | st.booleans(),
    xids=st.none() | st.dictionaries(st.integers(1, 200), st.sampled_from(["member", "card", "nobody"]), max_size=2),
    others_may_use=AMOUNTS,
    affinity=st.none() | st.booleans(),
    nvml_library=st.sampled_from([None, "/lib/libnvidia-ml.so.1", "none"]),
    track=st.none() | st.lists(st.sampled_from(["jsonl", "csv:a b"]), max_size=2).map(tuple),
)
NAMES = RunOptions.__dataclass_fields__


@given(OPTIONS, OPTIONS)
def test_an_option_of_this_session_wins_and_the_others_are_kept(now: RunOptions, kept: RunOptions) -> None:
    merged = now.over(kept)
    devices = now.slots is not None or now.gpus is not None
    cpu = now.slots is not None or now.gpus == "none"
    for name in NAMES:
        mine, theirs = getattr(now, name), getattr(kept, name)
        if name in ("slots", "gpus") and devices:
            theirs = None
        if name in ("share", "vram", "wait_for_gpus") and cpu:
            theirs = None
        assert getattr(merged, name) == (theirs if mine is None else mine)
    assert RunOptions().over(kept) == kept
    assert RunOptions.from_json(merged.to_json()) == merged


def test_options_are_shown_as_they_are_typed() -> None:
    assert RunOptions().command_line() == ""
    options = RunOptions(
        slots=2, wait_for_gpus=False, affinity=True, xids={79: "member", 31: "card"}, track=("csv:a b",)
    )
    told = "--slots 2 --no-wait-for-gpus --xid 79=member --xid 31=card --affinity --track 'csv:a b'"
    assert options.command_line() == told
    assert RunOptions(xids={}, track=(), disk="none").command_line() == "--disk none --xid none --track none"


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("start", "fork", "start: got 'fork'; must be one of 'zygote', 'exec', 'resident', 'none'"),
        ("disk", "7", "disk: got '7'; must be an amount with its unit, such as '50GiB', or 'none'"),
        ("disk", 3 << 30, "disk: got 3221225472; must be a text"),
        ("gpus", [0], "gpus: got [0]; must be a text"),
        ("affinity", "no", "affinity: got 'no'; must be True or False"),
        ("xids", {7.5: "card"}, "xids: got {7.5: 'card'}; must be a mapping from the number of an Xid"),
        ("xids", "none", "xids: got 'none'; must be a mapping"),
        ("track", (5,), "track: got (5,); must be names of trackers"),
        ("others_may_use", "", "others_may_use: got ''; must be an amount"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_before_anything_starts(option: str, value: str, message: str) -> None:
    with pytest.raises(ExperimentError) as refused:
        gpbt.Run(STURDY, **{option: value})  # type: ignore[arg-type]
    assert message in str(refused.value)
