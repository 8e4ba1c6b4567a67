"""Whole runs that meet a full disk, members that hang, and checkpoints that were damaged."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shlex
import shutil
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness import SCRIPTS, alive, check_folder, cli, cli_here, command, facts, kill_hard, run_id, start, until
from run_checker import check_run

if TYPE_CHECKING:
    from collections.abc import Iterator

STURDY = SCRIPTS / "sturdy.py"
MIB = 1 << 20


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("no tmpfs can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path, leave: int = 0) -> Path:
    """Use up the disk but for so many bytes."""
    hog = place / "hog"
    with open(hog, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * MIB)
    with open(hog, "ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 4096)
    os.truncate(hog, max(0, hog.stat().st_size - leave))
    return hog


@pytest.mark.parametrize("leave", [0, 300 << 10], ids=["nothing left", "some left"])
def test_a_run_waits_for_a_full_disk(small: Path, leave: int) -> None:
    folder = small / "runs" / "r"
    (small / "hold").touch()
    run = start("launch", STURDY, "--name", "r", "--slots", 2, cwd=small, env={"KIB": "500", "POPULATION": "8"})
    until(lambda: len(facts(folder, "Entered")) == 2)
    hog = fill(small, leave)
    (small / "hold").unlink()
    until(lambda: facts(folder, "Paused"))
    status = cli_here("status", "r", cwd=small).out
    assert "members wait: " in status
    assert "iB free, and " in status
    hog.unlink()
    _, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    assert "members no longer wait for room on the disk" in err
    check_folder(folder, 8, 3)
    assert not facts(folder, "Failed"), "a full disk is no member's failure"
    assert json.loads((folder / "summary.json").read_text())["idle_s"]["disk"] > 0


def test_a_checkpoint_that_does_not_fit_is_written_again_once_it_does(small: Path) -> None:
    """The members meet the full disk themselves, in the middle of writing."""
    folder = small / "runs" / "r"
    hog = small / "hog"
    hog.write_bytes(b"\0" * (17 * MIB))
    run = start("launch", STURDY, "--name", "r", "--slots", 2, cwd=small, env={"KIB": "6500", "POPULATION": "1"})
    until(lambda: facts(folder, "Lost") and facts(folder, "Paused"))
    hog.unlink()
    _, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    check_folder(folder, 1, 3)
    assert not facts(folder, "Failed")
    assert {fact["reason"].partition(" (")[0] for fact in facts(folder, "Lost")} == {"the disk is full"}


def test_a_run_whose_disk_is_full_can_be_stopped_and_resumed(small: Path) -> None:
    folder = small / "runs" / "r"
    (small / "hold").touch()
    run = start("launch", STURDY, "--name", "r", "--slots", 2, cwd=small, env={"KIB": "500"})
    until(lambda: len(facts(folder, "Entered")) == 2)
    hog = fill(small)
    (small / "hold").unlink()
    until(lambda: facts(folder, "Paused"))
    run.terminate()
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130, err
    assert alive(run_id(folder)) == []
    hog = fill(small)  # what was kept for the journal was given back
    refused = cli("launch", STURDY, "--name", "other", "--slots", 2, cwd=small)
    assert refused.status == 2
    assert "no space left on device" in refused.err
    hog.unlink()
    resumed = cli("resume", "r", cwd=small, env={"KIB": "500"})
    assert resumed.status == 0, resumed.err
    check_folder(folder, 6, 3)


def test_a_run_waits_for_room_for_its_summary(tmp_path: Path) -> None:
    """Everything is trained; only the last words find no room."""
    folder = tmp_path / "runs" / "r"
    (tmp_path / "hold").touch()
    run = start("launch", STURDY, "--name", "r", "--slots", 2, cwd=tmp_path)
    until(lambda: facts(folder, "Entered"))
    (folder / ".summary.json.part").symlink_to("/dev/full")
    (tmp_path / "hold").unlink()
    _, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    assert "summary.json: no space left on device (make room there): waiting" in err
    check_folder(folder, 6, 3)


def test_on_a_read_only_disk_a_run_can_be_looked_at_and_is_not_resumed(small: Path) -> None:
    folder = small / "runs" / "r"
    run = start("launch", STURDY, "--name", "r", "--slots", 2, cwd=small)
    until(lambda: facts(folder, "Published"))
    kill_hard(run)
    until(lambda: not alive(run_id(folder)))
    # a process whose environment is gone may still be closing its files
    until(lambda: subprocess.run(["mount", "-o", "remount,ro", small], capture_output=True).returncode == 0)
    for refused in (cli("resume", "r", cwd=small), cli("launch", STURDY, cwd=small), cli_here("clean", "r", cwd=small)):
        assert refused.status == 2
        assert "read-only file system" in refused.err
        assert refused.err.count("\n") == 1
    assert cli_here("status", "r", cwd=small).status == cli_here("best", "r", cwd=small).status == 0
    subprocess.run(["mount", "-o", "remount,rw", str(small)], check=True)
    assert cli("resume", "r", cwd=small).status == 0
    check_folder(folder, 6, 3)


def test_a_journal_that_cannot_be_written_ends_the_run_in_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "r"
    (tmp_path / "hold").touch()
    run = start("launch", STURDY, "--name", "r", "--slots", 2, cwd=tmp_path)
    until(lambda: len(facts(folder, "Entered")) == 2)
    size = (folder / "journal.jsonl").stat().st_size
    resource.prlimit(run.pid, resource.RLIMIT_FSIZE, (size, size))
    (tmp_path / "hold").unlink()
    _, err = run.communicate(timeout=60)
    assert run.returncode == 1
    assert f"cannot write to the journal {folder / 'journal.jsonl'}: file too large".lower() in err.lower()
    assert "Traceback" not in err
    assert alive(run_id(folder)) == []
    assert cli("resume", "r", cwd=tmp_path).status == 0
    check_folder(folder, 6, 3)


def test_a_budget_is_kept_to(tmp_path: Path) -> None:
    env = {"KIB": "1000", "POPULATION": "20"}
    done = cli("launch", STURDY, "--name", "r", "--slots", 8, "--disk", "12MiB", cwd=tmp_path, env=env)
    assert done.status == 0, done.err
    folder = tmp_path / "runs" / "r"
    check_folder(folder, 20, 3)
    stored, most = 0, 0
    sizes = {fact["member"]: fact["size"] for fact in facts(folder, "Published")}
    for fact in facts(folder):
        stored += fact["size"] if fact["fact"] == "Published" else 0
        stored -= sizes.get(fact["member"], 0) if fact["fact"] == "Discarded" else 0
        most = max(most, stored)
    assert most <= 12 * MIB
    assert facts(folder, "Paused"), "which took some waiting"
    refused = cli_here("launch", STURDY, "--disk", "7", cwd=tmp_path)
    assert refused.status == 2
    assert "--disk: got '7'; must be an amount with its unit" in refused.err


def test_with_a_budget_that_cannot_be_kept_members_train_one_at_a_time(tmp_path: Path) -> None:
    done = cli("launch", STURDY, "--name", "r", "--slots", 2, "--disk", "1MiB", cwd=tmp_path, env={"KIB": "1000"})
    assert done.status == 0, done.err
    assert done.err.count("members wait: ") == 1
    check_folder(tmp_path / "runs" / "r", 6, 3)
    inside, begun = set(), 0
    for fact in facts(tmp_path / "runs" / "r"):
        if fact["fact"] == "Published":
            begun += 1
        if fact["fact"] == "Started":
            inside.add(fact["member"])
            assert len(inside) == 1 or not begun, "since it is known how large they are"
        inside -= {fact["member"]} if fact["fact"] == "Trained" else set()


@pytest.mark.parametrize(
    ("how", "option", "reason"),
    [
        ("silent", "--stall-timeout", "reported nothing for 1 s"),
        ("busy", "--member-timeout", "still training after 1 s"),
    ],
)
def test_a_member_that_hangs_is_ended_and_tried_again(tmp_path: Path, how: str, option: str, reason: str) -> None:
    """It ignores SIGTERM, and what it has started has a session of its own."""
    done = cli("launch", STURDY, "--name", "r", "--slots", 2, option, 1, cwd=tmp_path, env={"HANGS": how})
    assert done.status == 0, done.err
    folder = tmp_path / "runs" / "r"
    check_folder(folder, 6, 3)
    (failed,) = facts(folder, "Failed")
    assert failed["member"] == 2
    assert reason in failed["reason"]
    assert alive(run_id(folder)) == []


def interrupted(tmp_path: Path) -> Path:
    """A run that was killed hard when its first parents were there."""
    run = start("launch", STURDY, "--name", "r", "--slots", 2, cwd=tmp_path)
    folder = tmp_path / "runs" / "r"
    until(lambda: [fact for fact in facts(folder, "Started") if fact["parent"] is not None])
    kill_hard(run)
    until(lambda: not alive(run_id(folder)))
    return folder


@pytest.mark.parametrize("damage", ["a flipped bit", "cut short", "gone"])
def test_no_member_begins_from_a_checkpoint_that_was_damaged(tmp_path: Path, damage: str) -> None:
    folder = interrupted(tmp_path)
    victim = (folder / "best").resolve() / "checkpoint" / "weights"
    if damage == "gone":
        victim.unlink()
    else:
        data = bytearray(victim.read_bytes())
        data[-1] ^= 1
        victim.chmod(0o644)
        victim.write_bytes(data if damage == "a flipped bit" else data[:-1])
    done = cli("resume", "r", cwd=tmp_path)
    assert done.status == 0, done.err
    member = int(victim.parent.parent.name)
    assert f"member {member} can no longer be a parent: " in done.err
    (fact,) = facts(folder, "Damaged")
    assert fact["member"] == member
    later = facts(folder)[facts(folder).index(fact) :]
    assert all(f.get("parent") != member for f in later if f["fact"] == "Started")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["best_member"] != member
    assert (folder / "best").resolve().name == f"{summary['best_member']:04}"
    assert [path.parent.name for path in folder.glob("members/*/checkpoint")] == [f"{summary['best_member']:04}"]


def test_a_finished_runs_best_that_is_damaged_is_reported(tmp_path: Path) -> None:
    assert cli("launch", STURDY, "--name", "r", "--slots", 2, cwd=tmp_path).status == 0
    assert cli("resume", "r", cwd=tmp_path).status == 0
    weights = tmp_path / "runs" / "r" / "best" / "checkpoint" / "weights"
    weights.chmod(0o644)
    good = weights.read_bytes()
    weights.write_bytes(good[:-1])
    resumed = cli("resume", "r", cwd=tmp_path)
    assert resumed.status == 2
    assert "weights has " in resumed.err
    assert "it is the run's best; bring it back" in resumed.err
    exported = cli_here("best", "r", "--export", tmp_path / "out", cwd=tmp_path)
    assert exported.status == 2
    here = weights.parent.resolve() / "weights"
    assert f"is not as it was published: {here} has " in exported.err
    assert "bring the file back" in exported.err
    assert not (tmp_path / "out").exists()
    weights.write_bytes(good)
    assert cli("resume", "r", cwd=tmp_path).status == 0
    assert cli_here("best", "r", "--export", tmp_path / "out", cwd=tmp_path).status == 0


def test_a_script_that_was_edited_is_refused_unless_an_option_accepts_it(tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text(STURDY.read_text())
    run = start("launch", script, "--name", "r", "--slots", 2, cwd=tmp_path)
    until(lambda: facts(tmp_path / "runs" / "r", "Published"))
    kill_hard(run)
    script.write_text(STURDY.read_text() + "# edited\n")
    refused = cli("resume", "r", cwd=tmp_path)
    assert refused.status == 2
    assert (
        "mine.py has changed since the run began; to let its new code train the rest: --changed-script" in refused.err
    )
    run = start("resume", "r", "--changed-script", cwd=tmp_path)
    published = len(facts(tmp_path / "runs" / "r", "Published"))
    until(lambda: len(facts(tmp_path / "runs" / "r", "Published")) > published)
    kill_hard(run)
    assert cli("resume", "r", cwd=tmp_path).status == 0, "what was accepted once is the run's script now"
    check_folder(tmp_path / "runs" / "r", 6, 3)


def test_a_run_in_which_every_member_fails_ends_early_and_can_be_resumed_once_mended(tmp_path: Path) -> None:
    folder, gone = tmp_path / "runs" / "r", tmp_path / "gone"
    (tmp_path / "hold children").touch()
    run = start("launch", STURDY, "--name", "r", "--slots", 2, cwd=tmp_path)
    until(lambda: len(facts(folder, "Published")) == 6)
    kill_hard(run)
    (tmp_path / "hold children").unlink()
    gone.touch()
    failed = cli("resume", "r", cwd=tmp_path)
    assert failed.status == 1
    assert "members that ended since the run was resumed failed; the first: member" in failed.err
    assert failed.err.count("Traceback (most recent call last)") == 1, "the first one, once"
    assert "fix the cause, then continue: gpbt-async resume r --retry-failed (and --changed" in failed.err
    status = cli_here("status", "r", cwd=tmp_path).out
    assert "failed members can be tried again: gpbt-async resume r --retry-failed" in status
    published = facts(folder, "Published")
    gone.unlink()
    again = cli("resume", "r", cwd=tmp_path)
    assert again.status == 1
    assert "has failed already" in again.err
    assert "resume r --retry-failed" in again.err
    done = cli("resume", "r", "--retry-failed", cwd=tmp_path)
    assert done.status == 0, done.err
    assert facts(folder, "Published")[: len(published)] == published
    assert len({f["member"] for f in facts(folder, "Started")}) == 18
    assert check_run(folder) == []


def test_a_guardian_that_was_stopped_when_its_scheduler_was_killed_does_not_hold_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "r"
    (tmp_path / "hold").touch()
    run = start("launch", STURDY, "--name", "r", "--slots", 2, cwd=tmp_path)
    until(lambda: facts(folder, "Entered"))
    below = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    (guardian,) = [
        int(pid) for pid in below if "gpbt_async.processes.guardian_main" in Path(f"/proc/{pid}/cmdline").read_text()
    ]
    os.kill(guardian, signal.SIGSTOP)
    kill_hard(run)
    (tmp_path / "hold").unlink()
    done = cli("resume", "r", cwd=tmp_path)
    assert done.status == 0, done.err
    check_folder(folder, 6, 3)


def test_a_script_that_never_worked_can_be_mended_too(tmp_path: Path) -> None:
    (tmp_path / "gone").touch()
    assert cli("launch", STURDY, "--name", "r", cwd=tmp_path).status == 1
    refused = cli_here("clean", "r", cwd=tmp_path)
    assert refused.status == 2
    assert "resume r --retry-failed), or delete all of it: --everything" in refused.err
    (tmp_path / "gone").unlink()
    assert cli("resume", "r", "--retry-failed", cwd=tmp_path).status == 0
    check_folder(tmp_path / "runs" / "r", 6, 3)


def test_a_resume_asks_for_checkpoints_that_were_moved_away_before_it_starts(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "r"
    (tmp_path / "hold children").touch()
    run = start("launch", STURDY, "--name", "r", "--slots", 2, cwd=tmp_path)
    until(lambda: len(facts(folder, "Published")) == 6)
    kill_hard(run)
    (tmp_path / "hold children").unlink()
    before = (folder / "journal.jsonl").read_bytes()
    places = list(folder.glob("members/*/checkpoint"))
    for place in places:
        place.rename(tmp_path / place.parent.name)
    refused = cli("resume", "r", cwd=tmp_path)
    assert refused.status == 2
    assert "bring them back from where they were moved or copied to" in refused.err
    assert (folder / "journal.jsonl").read_bytes().startswith(before[: before.rfind(b"\n")])
    assert facts(folder, "Damaged") == []
    for place in places:
        (tmp_path / place.parent.name).rename(place)
    assert cli("resume", "r", cwd=tmp_path).status == 0
    check_folder(folder, 6, 3)


def test_a_run_goes_on_elsewhere(tmp_path: Path) -> None:
    """Its folder, its script and the folder it was launched in are all where they were not."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    (first / "mine.py").write_text(STURDY.read_text())
    run = start("launch", "mine.py", "--name", "r", "--slots", 2, cwd=first)
    until(lambda: facts(first / "runs" / "r", "Published"))
    kill_hard(run)
    until(lambda: not alive(run_id(first / "runs" / "r")))
    first.rename(second)
    lost = cli_here("resume", "runs/r", cwd=second)
    assert lost.status == 2
    assert (
        "first/mine.py, the script of this run, does not exist: put it back there, or say where it is now" in lost.err
    )
    done = cli("resume", "runs/r", "--script", "mine.py", "--slots", 3, cwd=second)
    assert done.status == 0, done.err
    check_folder(second / "runs" / "r", 6, 3)
    assert cli("resume", "r", cwd=second).status == 0, "it knows where it is now"


def test_clean_leaves_the_best_and_what_describes_it(tmp_path: Path) -> None:
    folder = interrupted(tmp_path)
    early = cli_here("clean", "r", cwd=tmp_path)
    assert early.status == 2
    assert "r has not finished: continue it (gpbt-async resume r), or delete all of it: --everything" in early.err
    (tmp_path / "hold").touch()
    run = start("resume", "r", cwd=tmp_path)
    until(lambda: len(facts(folder, "Opened")) == 2)
    assert "is being run by" in cli_here("clean", "r", "--everything", cwd=tmp_path).err
    (tmp_path / "hold").unlink()
    run.communicate(timeout=60)
    assert run.returncode == 0
    best = cli_here("best", "r", cwd=tmp_path).out
    assert cli_here("clean", "r", cwd=tmp_path).status == 0
    assert cli_here("best", "r", cwd=tmp_path).out == best
    assert (folder / "best" / "checkpoint" / "weights").exists()
    kept = {int(path.name) for path in (folder / "members").iterdir()}
    started = {fact["member"]: fact["parent"] for fact in facts(folder, "Started")}
    member, ancestry = json.loads((folder / "summary.json").read_text())["best_member"], set()
    while member is not None:
        ancestry.add(member)
        member = started[member]
    assert kept == ancestry
    assert cli_here("clean", "r", "--everything", cwd=tmp_path).status == 0
    assert not folder.exists()


def test_another_disk_that_is_full_fails_the_member_and_is_named(small: Path, tmp_path: Path) -> None:
    """The run's own disk has all the room in the world, so no member waits for room there."""
    script = tmp_path / "cache.py"
    script.write_text(
        "import gpbt_async as gpbt\n"
        "def train(member):\n"
        "    if member.id < 2:\n"
        f"        with open('{small}/cache-%d' % member.id, 'wb') as file:\n"
        "            file.write(b'0' * (40 << 20))\n"
        "    (member.checkpoint / 'w').touch()\n"
        "    member.report(score=1.0)\n"
        "experiment = gpbt.Experiment(train, space={'x': gpbt.Float(0.0, 1.0)}, score='score', mode='max',\n"
        "                             population=3, generations=1, searcher='random')\n"
    )
    done = cli("launch", script, "--slots", 1, "--name", "r", cwd=tmp_path)
    assert done.status == 0, done.err
    failed = facts(tmp_path / "runs" / "r", "Failed")
    assert Counter(fact["member"] for fact in failed) == {0: 3, 1: 3}, "it may have room the next time"
    assert all(f"{small} has no room (24 MiB in all, " in fact["reason"] for fact in failed)
    assert all("which is not the run's disk" in fact["reason"] for fact in failed)
    assert not facts(tmp_path / "runs" / "r", "Paused")
    assert not facts(tmp_path / "runs" / "r", "Lost")
    assert done.err.count("which is not the run's disk") == 3, (
        "with the first failure, with the finding, and at the end"
    )


def test_a_programs_full_disk_is_found_by_what_it_printed(small: Path, tmp_path: Path) -> None:
    """On a disk of its own it has failed; on the run's it waits."""
    hog = fill(small)
    solver = tmp_path / "solver.sh"
    solver.write_text(
        f"if [ $1 = 0 ]; then cp /bin/sh {small}/x; exit $?; fi\n"
        "echo 1 > $GPBT_CHECKPOINT/w; echo '{\"score\": 1}' > $GPBT_METRICS\n"
    )
    script = tmp_path / "program.py"
    script.write_text(
        "import gpbt_async as gpbt\n"
        "experiment = gpbt.Experiment(command=['sh', 'solver.sh', '{member}'], space={'x': gpbt.Float(0.0, 1.0)},\n"
        "    score='score', mode='max', population=2, generations=1, searcher='random', attempts=2)\n"
    )
    done = cli("launch", script, "--slots", 1, "--name", "r", cwd=tmp_path)
    assert done.status == 0, done.err
    reasons = [fact["reason"] for fact in facts(tmp_path / "runs" / "r", "Failed")]
    assert len(reasons) == 2
    assert all(f"; remedy: {small} has no room (24 MiB" in reason for reason in reasons)
    assert not facts(tmp_path / "runs" / "r", "Lost")
    hog.unlink()


def test_a_shells_own_background_jobs_are_left_alone(tmp_path: Path) -> None:
    """`tensorboard & exec gpbt-async ...`: they are our children, and none of the run's."""
    launch = shlex.join(command("launch", STURDY, "--slots", "1", "--name", "r"))
    shell = subprocess.run(
        ["sh", "-c", f"sleep 1000 >&- 2>&- & echo $! > job; exec {launch}"],
        cwd=tmp_path,
        timeout=60,
        capture_output=True,
    )
    assert shell.returncode == 0, shell.stderr
    job = int((tmp_path / "job").read_text())
    os.kill(job, signal.SIGKILL)  # raises if it is gone


@pytest.mark.parametrize("how", ["deleted", "moved"])
def test_a_folder_that_is_taken_away_ends_its_run_in_one_sentence(tmp_path: Path, how: str) -> None:
    """The members hang in training: only the scheduler looks at the folder."""
    (tmp_path / "hold").touch()
    run = start("launch", STURDY, "--name", "r", "--slots", 2, cwd=tmp_path)
    folder = tmp_path / "runs" / "r"
    until(lambda: len(facts(folder, "Entered")) == 2)
    mark = run_id(folder)
    if how == "moved":
        folder.rename(tmp_path / "elsewhere")
    else:
        shutil.rmtree(folder)
    _, err = run.communicate(timeout=20)
    assert run.returncode == 1
    assert "Traceback" not in err
    assert not alive(mark)
    assert not folder.exists(), "nothing is put where it was"
    if how == "deleted":
        assert f"{folder} was deleted while its run went on" in err
        return
    assert f"{folder} was moved to {tmp_path / 'elsewhere'}" in err
    (tmp_path / "hold").unlink()
    done = cli("resume", tmp_path / "elsewhere", cwd=tmp_path)
    assert done.status == 0, done.err
    assert not facts(tmp_path / "elsewhere", "Failed"), "it was not theirs"
    check_folder(tmp_path / "elsewhere", 6, 3)


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    done = cli("launch", STURDY, "--name", "r", "--slots", 2, cwd=tmp_path, env={"KIB": "40000", "POPULATION": "1"})
    assert done.status == 0, done.err
    return tmp_path / "runs" / "r"


def test_an_export_onto_a_full_disk_fails_in_a_sentence_and_leaves_nothing(finished: Path, small: Path) -> None:
    done = cli_here("best", "r", "--export", small / "out", cwd=finished.parent.parent)
    assert done.status == 2
    assert done.err == (
        f"gpbt-async: cannot export to {small / 'out'}: no space left on device: make room there, or export to another "
        "disk\n"
    )
    assert os.listdir(small) == []


def test_a_best_whose_checkpoint_was_deleted_by_hand_is_reported(finished: Path) -> None:
    checkpoint = (finished / "best").resolve() / "checkpoint"
    shutil.rmtree(checkpoint)
    for more in ([], ["--json"], ["--export", "out"]):
        done = cli_here("best", "r", *more, cwd=finished.parent.parent)
        assert (done.status, done.out) == (1, "")
        assert f"its checkpoint is gone: {checkpoint} was deleted or moved by hand" in done.err


def test_a_damaged_or_locked_run_is_reported_with_a_remedy(finished: Path) -> None:
    here = finished.parent.parent
    journal, declared = (finished / "journal.jsonl").read_bytes(), (finished / "experiment.json").read_bytes()
    copy = "bring it back from a copy"

    def refused(sentence: str) -> None:
        for word in ("resume", "status", "best"):
            done = cli_here(word, "r", cwd=here)
            assert done.status == 2
            assert sentence in done.err
            assert "Traceback" not in done.err

    (finished / "journal.jsonl").write_bytes(journal.replace(b"Trained", b"Trainee", 1))
    refused("bring the journal back from a copy, or launch a new run; the best so far is in")
    (finished / "journal.jsonl").unlink()
    refused(f"journal.jsonl is missing: {copy}, or launch a new run")
    (finished / "journal.jsonl").touch()
    refused("journal.jsonl is empty, but there are ")
    (finished / "journal.jsonl").write_bytes(journal)
    for damaged in (b"{", b"{}", b"\xff"):
        (finished / "experiment.json").write_bytes(damaged)
        refused(copy)
    (finished / "experiment.json").unlink()
    refused(f"experiment.json is missing: {copy}, or launch a new run")
    (finished / "experiment.json").write_bytes(declared)
    (finished / "journal.jsonl").write_bytes(b"".join(journal.splitlines(keepends=True)[:5]))
    (here / "hold").touch()
    run = start("resume", "r", cwd=here, env={"POPULATION": "1"})
    until(lambda: len(facts(finished, "Entered")) == 2)
    done = cli("resume", "r", cwd=here)
    assert done.status == 2
    assert f"is being run by process {run.pid} on " in done.err
    assert f"or stop it (`gpbt-async stop {finished}`)" in done.err
    (here / "hold").unlink()
    run.communicate(timeout=60)
