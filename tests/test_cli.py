"""The command line from outside: subprocesses, exit statuses, and what a person reads."""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
from harness import (
    SCRIPTS,
    alive,
    check_folder,
    cli,
    command,
    facts,
    kill_hard,
    run_id,
    start,
    until,
)

import gpbt_async as gpbt

LINEAGE = SCRIPTS / "lineage.py"

HEAD = "import gpbt_async as gpbt\ndef train(member):\n    member.report(score=member.config['x'])\n"
TAIL = (
    "experiment = gpbt.Experiment(train, space={'x': gpbt.Float(0, 1)}, score='score', population=4, generations=2,"
    " searcher='random', resources=gpbt.Resources(gpus=0))\n"
)


def script(tmp_path: Path, text: str, name: str = "script.py") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_launch_status_best_and_what_is_on_disk(tmp_path: Path) -> None:
    done = cli("launch", LINEAGE, "--slots", 2, "--json", cwd=tmp_path)
    assert done.status == 0, done.err
    folder = tmp_path / "runs" / "lineage-1"
    check_folder(folder, 6, 4)
    summary = json.loads((folder / "summary.json").read_text())
    assert done.json["score"] == summary["score"]
    assert "lineage-1" in done.err
    assert alive(run_id(folder)) == []
    status = cli("status", "lineage-1", "--json", cwd=tmp_path).json
    assert status["state"] == "finished"
    assert [g["finished"] for g in status["generations"]] == [6, 6, 6, 6]
    assert "finished" in cli("status", cwd=tmp_path).out
    assert "generation   3" in cli("status", "lineage-1", cwd=tmp_path).out
    best = cli("best", "lineage-1", "--json", "--export", tmp_path / "out", cwd=tmp_path).json
    assert best["score"] == summary["score"]
    past = json.loads((tmp_path / "out" / "checkpoint" / "past.json").read_text())
    assert past == best["schedule"] == list(gpbt.Schedule.load(tmp_path / "out"))
    again = cli("best", "lineage-1", "--export", tmp_path / "out", cwd=tmp_path)
    assert again.status == 2
    assert "exists" in again.err
    # a second launch takes the next name; the first is untouched by resume
    assert cli("launch", LINEAGE, "--population", 2, "--generations", 1, "--quiet", cwd=tmp_path).status == 0
    assert (tmp_path / "runs" / "lineage-2").is_dir()
    before = (folder / "journal.jsonl").read_bytes()
    resumed = cli("resume", "lineage-1", cwd=tmp_path)
    assert resumed.status == 0
    assert "finished already" in resumed.err
    assert (folder / "journal.jsonl").read_bytes() == before


def test_the_same_seed_gives_the_same_sync_tree_on_any_number_of_slots(tmp_path: Path) -> None:
    trees = []
    for slots in (1, 3):
        name = f"s{slots}"
        done = cli("launch", LINEAGE, "--slots", slots, "--schedule", "sync", "--seed", 7, "--name", name, cwd=tmp_path)
        assert done.status == 0, done.err
        started = facts(tmp_path / "runs" / name, "Started")
        trees.append({f["path"]: f["config"] for f in started})
    assert trees[0] == trees[1]


@pytest.mark.parametrize(
    ("text", "options", "status", "words"),
    [
        (HEAD + TAIL.replace("Float(0, 1)", "Float(1, 0)"), [], 2, ["script.py:4", "(1, 0)", "low must be less"]),
        (HEAD + TAIL.replace("score='score'", "score=''"), [], 2, ["script.py:4", "score", "''"]),
        (HEAD + TAIL.replace("population=4", "population=0"), [], 2, ["population", "0", "at least 1"]),
        (HEAD, [], 2, ["script.py", "declares no experiment", "gpbt.Experiment(train"]),
        (HEAD + TAIL + "other = " + TAIL.partition("= ")[2], [], 2, ["2 experiments", "experiment, other"]),
        ("import numby\n" + HEAD + TAIL, [], 2, ["script.py:1", "ModuleNotFoundError", "numby"]),
        ("def (:\n", [], 2, ["SyntaxError", "script.py"]),
        (HEAD + TAIL + "open(__file__, 'a').write('#')\n", [], 2, ["script.py was edited while it was imported"]),
        (HEAD.replace("member.report", "raise ValueError('no good') #") + TAIL, [], 1,
         ["ValueError: no good", "script.py:3", "member 0"]),
        (HEAD.replace("score=", "accuracy=") + TAIL, [], 1, ["never reported 'score'", "accuracy"]),
        (HEAD.replace("member.report(score=member.config['x'])", "pass") + TAIL, [], 1, ["never reported 'score'"]),
        (HEAD.replace("member.config['x']", "float('nan')") + TAIL, [], 1, ["score is nan"]),
        (HEAD.replace("member.config['x']", "'high'") + TAIL, [], 1, ["TypeError", "score", "str"]),
        (HEAD + "    import os; os._exit(3)\n" + TAIL, [], 1, ["exit status 3"]),
        (HEAD + TAIL, ["--population", "0"], 2, ["gpbt-async: --population: got 0; must be"]),
        (HEAD + TAIL, ["--generations", "99999999999"], 2, ["--generations", "at most 1000000"]),
        (HEAD + TAIL, ["--early-stop", "mean"], 2, ["--early-stop: got 'mean'", "'median'"]),
        (HEAD + TAIL, ["--preset", "x"], 2, ["--preset: got 'x'", "'paper'"]),
        (HEAD + TAIL, ["--searcher", "magic"], 2, ["--searcher: got 'magic'", "'tpe'"]),
        (HEAD + "    raise ValueError('a' * 10000 + chr(27) + '[31m')\n" + TAIL, [], 1, ["ValueError: aaa", " …"]),
        (HEAD + TAIL, ["--nonsense"], 2, ["--nonsense"]),
        (HEAD + TAIL, ["--slots", "0"], 2, ["--slots 0", "at least 1"]),
        (HEAD + TAIL, ["--gpus", "GPU-1", "--slots", "1"], 2, ["--gpus", "--slots"]),
        (HEAD + TAIL, ["--name", "../up"], 2, ["'../up'", "name"]),
        (HEAD + TAIL, ["--runs", "/proc/nowhere"], 2, ["/proc/nowhere"]),
        (HEAD + TAIL, ["--start", "magic"], 2, ["--start", "magic", "zygote"]),
    ],
)  # fmt: skip
def test_bad_input_gives_one_clear_message(
    tmp_path: Path, text: str, options: list[str], status: int, words: list[str]
) -> None:
    done = cli("launch", script(tmp_path, text), *options, cwd=tmp_path)
    assert done.status == status, done.err
    for word in words:
        assert word in done.err
    assert done.err.count("Traceback") <= (status == 1), "of the script, where it was begun"
    assert "/gpbt_async/" not in done.err
    assert done.err.replace("\n", "").isprintable()
    assert max(map(len, done.err.splitlines())) < 1500
    if status == 2:
        assert not list(tmp_path.glob("runs/*"))


def test_a_script_that_is_not_there_and_runs_that_are_not_there(tmp_path: Path) -> None:
    for arguments in (
        ["launch", "nowhere.py"],
        ["resume", "nope"],
        ["status", "nope"],
        ["best", "nope"],
        ["stop", "nope"],
    ):
        done = cli(*arguments, cwd=tmp_path)
        assert done.status == 2, arguments
        assert arguments[1] in done.err
        assert "Traceback" not in done.err
    assert "no runs" in cli("status", cwd=tmp_path).err


def test_an_existing_run_is_refused_and_resume_named(tmp_path: Path) -> None:
    path = script(tmp_path, HEAD + TAIL)
    assert cli("launch", path, "--name", "mine", cwd=tmp_path).status == 0
    again = cli("launch", path, "--name", "mine", cwd=tmp_path)
    assert again.status == 2
    assert "gpbt-async resume mine" in again.err


def test_a_failed_member_is_told_and_the_run_goes_on(tmp_path: Path) -> None:
    bad = HEAD + "    if member.id == 1 and member.attempt < 2: raise RuntimeError('once')\n"
    bad += "    if member.id == 2: raise RuntimeError('always')\n"
    done = cli("launch", script(tmp_path, bad + TAIL), "--slots", 2, "--json", cwd=tmp_path)
    assert done.status == 0, done.err
    assert done.json["members"]["finished"] == 7
    assert done.json["members"]["failed"] == 1
    assert "always" in done.err
    failed = facts(tmp_path / "runs" / "script-1", "Failed")
    assert sorted(f["member"] for f in failed) == [1, 2, 2, 2]
    log = (tmp_path / "runs" / "script-1" / "members" / "0002" / "log.txt").read_text()
    assert "RuntimeError: always" in log
    assert "/gpbt_async/" not in log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stops_within_seconds_and_can_be_resumed(tmp_path: Path, number: signal.Signals) -> None:
    os.environ["TRAIN_SECONDS"] = "60"
    try:
        running = start("launch", LINEAGE, "--slots", 2, cwd=tmp_path)
    finally:
        del os.environ["TRAIN_SECONDS"]
    folder = tmp_path / "runs" / "lineage-1"
    until(lambda: len(facts(folder, "Entered")) == 2)
    began = time.monotonic()
    running.send_signal(number)
    _, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert time.monotonic() - began < 5
    assert "resume lineage-1" in err
    assert "Traceback" not in err
    assert alive(run_id(folder)) == []
    assert cli("status", "lineage-1", "--json", cwd=tmp_path).json["state"] == "interrupted"
    resumed = cli("resume", "lineage-1", cwd=tmp_path)
    assert resumed.status == 0, resumed.err
    check_folder(folder, 6, 4)


STUBBORN = """
import signal, time
def train(member):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass
"""


@pytest.mark.parametrize("times", [1, 2])
def test_members_that_ignore_every_signal_do_not_keep_a_run_from_ending(tmp_path: Path, times: int) -> None:
    path = script(tmp_path, "import gpbt_async as gpbt\n" + STUBBORN + TAIL)
    running = start("launch", path, "--slots", 2, cwd=tmp_path)
    folder = tmp_path / "runs" / "script-1"
    until(lambda: len(facts(folder, "Entered")) == 2)
    began = time.monotonic()
    for _ in range(times):
        running.send_signal(signal.SIGINT)
        until(lambda: _pending(running.pid) == 0)
    _, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert time.monotonic() - began < 5
    assert "Traceback" not in err
    assert alive(run_id(folder)) == []


def _pending(pid: int) -> int:
    """Signals sent to a process and not taken yet: two of a kind would be merged into one."""
    text = Path(f"/proc/{pid}/status").read_text()
    lines = dict(line.split(":\t") for line in text.splitlines() if ":\t" in line)
    return int(lines["ShdPnd"], 16) | int(lines["SigPnd"], 16)


def test_stop_and_status_of_a_running_run(tmp_path: Path) -> None:
    os.environ["TRAIN_SECONDS"] = "60"
    try:
        running = start("launch", LINEAGE, "--slots", 2, cwd=tmp_path)
    finally:
        del os.environ["TRAIN_SECONDS"]
    folder = tmp_path / "runs" / "lineage-1"
    until(lambda: len(facts(folder, "Entered")) == 2)
    state = cli("status", "lineage-1", "--json", cwd=tmp_path).json
    assert state["state"] == "running"
    assert state["holder"]["pid"] == running.pid
    assert len(state["training"]) + (state["free_slots"] or 0) == 2
    locked = cli("launch", LINEAGE, "--name", "lineage-1", cwd=tmp_path)
    assert locked.status == 2
    stopped = cli("stop", "lineage-1", cwd=tmp_path)
    assert stopped.status == 0
    assert "resume lineage-1" in stopped.err
    running.communicate(timeout=30)
    assert running.returncode == 130
    assert "not running" in cli("stop", "lineage-1", cwd=tmp_path).err


def test_an_interrupt_during_the_import_leaves_nothing(tmp_path: Path) -> None:
    flag = tmp_path / "importing"
    path = script(tmp_path, f"open({str(flag)!r}, 'w').close()\nimport time\ntime.sleep(60)\n" + HEAD + TAIL)
    running = start("launch", path, cwd=tmp_path)
    until(flag.exists)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert "Traceback" not in err
    assert not list(tmp_path.glob("runs/*"))


def test_kill_9_at_random_moments_then_resume(tmp_path: Path) -> None:
    """Ten kills, one after the other, on one run: nothing trained is lost, nothing is left alive, it finishes."""
    rng = random.Random(0)
    os.environ["TRAIN_SECONDS"] = "0.01"
    try:
        running = start("launch", LINEAGE, "--slots", 2, "--generations", 30, cwd=tmp_path)
        folder = tmp_path / "runs" / "lineage-1"
        until(lambda: facts(folder, "Opened"))
        for kill in range(10):
            seen = len(facts(folder))
            more = rng.randrange(1, 30)
            until(lambda seen=seen, more=more, p=running: len(facts(folder)) >= seen + more or p.poll() is not None)
            assert running.poll() is None, "the run was too short for the test"
            kill_hard(running)
            known = run_id(folder)
            until(lambda known=known: not alive(known), timeout=2.0)
            before = {f["member"] for f in facts(folder, "Trained")}
            running = start("resume", "lineage-1", "--slots", 2, cwd=tmp_path)
            until(lambda kill=kill, p=running: len(facts(folder, "Opened")) == kill + 2 or p.poll() is not None)
            assert before <= {f["member"] for f in facts(folder, "Trained")}
        _, err = running.communicate(timeout=60)
        assert running.returncode == 0, err
    finally:
        del os.environ["TRAIN_SECONDS"]
    check_folder(folder, 6, 30)
    trained = [f["member"] for f in facts(folder, "Trained")]
    assert len(trained) == len(set(trained)) == 180, "a trained member was trained again"
    started = [f["member"] for f in facts(folder, "Started")]
    assert len(started) <= 180 + 10 * 2


def test_try_trains_one_member_in_the_foreground(tmp_path: Path) -> None:
    done = cli("try", LINEAGE, "--set", "x=0.5", "--checkpoint", tmp_path / "out", cwd=tmp_path)
    assert done.status == 0, done.err
    assert "loss=" in done.out
    assert json.loads((tmp_path / "out" / "past.json").read_text())[0]["x"] == 0.5
    child = cli("try", LINEAGE, "--parent", tmp_path / "out", "--checkpoint", tmp_path / "child", cwd=tmp_path)
    assert len(json.loads((tmp_path / "child" / "past.json").read_text())) == 2
    assert child.status == 0
    for option in ("x=7", "nope=1", "kind=z"):
        bad = cli("try", LINEAGE, "--set", option, cwd=tmp_path)
        assert bad.status == 2
        assert option in bad.err
    failing = script(tmp_path, HEAD.replace("member.report", "1 / 0 #") + TAIL)
    raised = cli("try", failing, cwd=tmp_path)
    assert raised.status == 1
    assert "ZeroDivisionError" in raised.err
    assert "/gpbt_async/" not in raised.err


def test_what_is_ignored_from_birth_stays_ignored(tmp_path: Path) -> None:
    """nohup: the terminal goes, the run stays."""
    os.environ["TRAIN_SECONDS"] = "0.05"
    try:
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        running = start("launch", LINEAGE, "--slots", 2, cwd=tmp_path)
    finally:
        signal.signal(signal.SIGHUP, before)
        del os.environ["TRAIN_SECONDS"]
    folder = tmp_path / "runs" / "lineage-1"
    until(lambda: facts(folder, "Entered"))
    running.send_signal(signal.SIGHUP)
    running.communicate(timeout=60)
    assert running.returncode == 0
    check_folder(folder, 6, 4)


def test_closed_streams_do_not_stop_a_run(tmp_path: Path) -> None:
    shell = f"{' '.join(command('launch', LINEAGE, '--slots', 2, '--name', 'deaf'))} >&- 2>&-"
    assert subprocess.run(["sh", "-c", shell], cwd=tmp_path, timeout=60, check=False).returncode == 0
    check_folder(tmp_path / "runs" / "deaf", 6, 4)


def test_a_run_that_lost_its_journal_or_its_script_is_not_begun_again(tmp_path: Path) -> None:
    path = script(tmp_path, HEAD + TAIL)
    assert cli("launch", path, "--name", "one", cwd=tmp_path).status == 0
    journal = tmp_path / "runs" / "one" / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:6]))
    path.rename(tmp_path / "moved.py")
    lost = cli("resume", "one", cwd=tmp_path)
    assert lost.status == 2
    assert "script.py" in lost.err
    assert "does not exist" in lost.err
    (tmp_path / "moved.py").rename(path)
    journal.write_text("")
    empty = cli("resume", "one", cwd=tmp_path)
    assert empty.status == 2
    assert "journal.jsonl is empty" in empty.err


def test_the_command_that_is_advised_works(tmp_path: Path) -> None:
    runs = tmp_path / "my runs"
    assert cli("launch", LINEAGE, "--runs", runs, "--name", "a", "--generations", 1, cwd=tmp_path).status == 0
    advised = cli("launch", LINEAGE, "--runs", runs, "--name", "a", cwd=tmp_path).err.split("`")[1]
    assert advised == "gpbt-async resume 'my runs/a'"
    assert cli(*shlex.split(advised)[1:], cwd=tmp_path).status == 0


def test_help_and_version_are_quick_and_whole(tmp_path: Path) -> None:
    import gpbt_async

    text = cli("--help", cwd=tmp_path).out
    for name in ("launch", "resume", "status", "stop", "best", "replay", "try"):
        assert name in text
    assert cli("--version", cwd=tmp_path).out.strip() == gpbt_async.__version__
    launch = cli("launch", "--help", cwd=tmp_path).out
    for option in ("--population", "--slots", "--gpus", "--runs", "--quiet", "--json", "--start"):
        assert option in launch
