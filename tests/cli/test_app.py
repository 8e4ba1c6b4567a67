"""The command line in subprocesses: exit statuses, and the messages that a person reads."""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
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
    cli_here,
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
    "experiment = gpbt.Experiment(train, space={'x': gpbt.Float(0, 1)}, score='score', mode='max', population=4,"
    " generations=2, searcher='random', resources=gpbt.Resources(gpus=0))\n"
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


def test_a_mode_guessed_from_the_scores_name_is_reported_once_and_constants_reach_the_member(tmp_path: Path) -> None:
    text = (
        "import gpbt_async as gpbt\n"
        "def train(member):\n"
        "    str(member.parent)\n"
        "    assert (member.config['epochs'], member.config['act'], member.config['opt']) == (3, 'relu', 'sgd')\n"
        "    (member.checkpoint / 'x').write_text(str(member.seed))\n"
        "    member.report({'val/loss': member.config['x']})\n"
        "experiment = gpbt.Experiment(train, space={'x': gpbt.Float(0, 1), 'epochs': 3, 'act': 'relu',\n"
        "    'opt': gpbt.Choice(['sgd'])}, score='val/loss', population=4, generations=2,\n"
        "    resources=gpbt.Resources(gpus=0))\n"
    )
    path, notice = script(tmp_path, text), "mode was not given: the score 'val/loss' is minimised"
    done = cli("launch", path, "--slots", 2, "--json", cwd=tmp_path)
    assert done.status == 0, done.err
    assert done.err.count(notice) == 1
    assert "warning" not in done.err
    best = cli_here("best", "script-1", "--json", cwd=tmp_path).json
    assert {**best["config"], "x": 0} == {"x": 0, "epochs": 3, "act": "relu", "opt": "sgd"}
    rows = cli_here("export", "script-1", "--format", "json", cwd=tmp_path).json
    assert {row["config.epochs"] for row in rows} == {3}
    assert best["score"] == min(row["score"] for row in rows)
    again = cli("replay", "script-1", "--quiet", cwd=tmp_path)
    assert again.status == 0, again.err
    assert notice in cli("try", path, cwd=tmp_path).out
    tried = cli("try", path, "--set", "epochs=4", cwd=tmp_path)
    assert '"epochs": 4' in tried.out
    refused = cli("try", path, "--set", "epochs=x", cwd=tmp_path)
    assert "--set epochs=x: must have the type of the constant 3" in refused.err
    assert cli_here("report", "script-1", cwd=tmp_path).status == 0
    assert '"constants":{"epochs":3' in (tmp_path / "runs/script-1/report.html").read_text().replace(" ", "")


def test_a_space_of_constants_only_is_trained(tmp_path: Path) -> None:
    text = (HEAD + TAIL).replace("gpbt.Float(0, 1)", "0.5").replace("searcher='random'", "searcher='local'")
    done = cli("launch", script(tmp_path, text), "--slots", 2, "--json", cwd=tmp_path)
    assert done.status == 0, done.err
    assert done.json["members"]["finished"] == 8


@pytest.mark.parametrize(
    ("text", "options", "status", "quotes"),
    [
        (HEAD + TAIL.replace("Float(0, 1)", "Float(1, 0)"), [], 2, ["script.py:4", "(1, 0)", "low must be less"]),
        (HEAD + TAIL.replace("score='score'", "score=''"), [], 2, ["script.py:4", "score", "''"]),
        (HEAD + TAIL.replace("population=4", "population=0"), [], 2, ["population", "0", "at least 1"]),
        (HEAD, [], 2, ["script.py", "declares no experiment", "gpbt.Experiment(train"]),
        (HEAD + TAIL + "other = " + TAIL.partition("= ")[2], [], 2, ["2 experiments", "experiment, other"]),
        ("import numby\n" + HEAD + TAIL, [], 2, ["script.py:1", "ModuleNotFoundError", "numby"]),
        ("import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('--data', required=True)\n"
         "parser.parse_args()\n", [], 2,
         ["script.py:4: the following arguments are required: --data (argparse): the script is given no arguments"]),
        ("def (:\n", [], 2, ["SyntaxError", "script.py"]),
        (HEAD + TAIL + "open(__file__, 'a').write('#')\n", [], 2, ["script.py was edited during its import"]),
        (HEAD.replace("member.report", "raise ValueError('no good') #") + TAIL, [], 1,
         ["ValueError: no good", "script.py:3", "member 0"]),
        (HEAD.replace("score=", "accuracy=") + TAIL, [], 1, ["never reported 'score'", "accuracy"]),
        (HEAD.replace("member.report(score=member.config['x'])", "pass") + TAIL, [], 1, ["never reported 'score'"]),
        (HEAD.replace("member.config['x']", "float('nan')") + TAIL, [], 1,
         ["every member of generation 0 ended with a score that is not finite", "score is nan", "look at one member"]),
        (HEAD.replace("score=member", "member") + TAIL, [], 1,
         ["without a name: give it one, member.report(score=...)"]),
        (HEAD + TAIL.replace("population", "populaton"), [], 2,
         ["script.py:4: Experiment: unknown argument 'populaton': did you mean 'population'?"]),
        (HEAD + TAIL.replace(", mode='max'", ""), [], 2,
         ["script.py:4: mode: not given", "add mode='max' or mode='min'"]),
        (HEAD.replace("(member)", "()") + TAIL, [], 2, ["script.py:4: train: got train(); must take one argument"]),
        (HEAD + TAIL.replace("Float", "Flaot"), [], 2, ["script.py:4", "did you mean Float?"]),
        (HEAD.replace("member.config['x']", "'high'") + TAIL, [], 1, ["TypeError", "score", "str"]),
        (HEAD + "    import os; os._exit(3)\n" + TAIL, [], 1, ["exit status 3"]),
        (HEAD + TAIL, ["--population", "0"], 2, ["gpbt-async: --population: got 0; must be"]),
        (HEAD + TAIL, ["--generations", "99999999999"], 2, ["--generations", "at most 1000000"]),
        (HEAD + TAIL, ["--early-stop", "mean"], 2, ["--early-stop: got 'mean'", "'median'"]),
        (HEAD + TAIL, ["--preset", "x"], 2, ["--preset: got 'x'", "'paper'"]),
        (HEAD + TAIL, ["--searcher", "magic"], 2, ["--searcher: got 'magic'", "'tpe'"]),
        (HEAD + "    raise ValueError('a' * 10000 + chr(27) + '[31m')\n" + TAIL, [], 1, ["ValueError: aaa", " …"]),
        (HEAD + TAIL, ["--searcher", "nomodule:Name"], 2, ["searcher 'nomodule:Name'", "no module 'nomodule'"]),
        (HEAD + TAIL, ["--nonsense"], 2, ["--nonsense"]),
        (HEAD + TAIL, ["--slots", "0"], 2, ["--slots 0", "at least 1"]),
        (HEAD + TAIL, ["--gpus", "GPU-1", "--slots", "1"], 2, ["--gpus", "--slots"]),
        (HEAD + TAIL, ["--gpus", ""], 2, ["--gpus: got ''; must be", "all, or none"]),
        (HEAD + TAIL, ["--name", ""], 2, ["--name: got ''; give a name, or leave it out"]),
        (HEAD + TAIL, ["--name", "../up"], 2, ["'../up'", "name"]),
        (HEAD + TAIL, ["--runs", "/proc/nowhere"], 2, ["/proc/nowhere"]),
        (HEAD + TAIL, ["--start", "magic"], 2, ["--start", "magic", "zygote"]),
    ],
)  # fmt: skip
def test_bad_input_gives_one_clear_message(
    tmp_path: Path, text: str, options: list[str], status: int, quotes: list[str]
) -> None:
    ask = cli_here if options else cli  # what is wrong with an option is found before anything starts
    done = ask("launch", script(tmp_path, text), *options, cwd=tmp_path)
    assert done.status == status, done.err
    for quote in quotes:
        assert quote in done.err
    assert done.err.count("Traceback") <= (status == 1), "of in the script, once it had started"
    assert "/gpbt_async/" not in done.err
    assert done.err.replace("\n", "").isprintable()
    assert max(map(len, done.err.splitlines())) < 1500
    if status == 2:
        assert not list(tmp_path.glob("runs/*"))


def test_a_missing_script_or_run_is_refused(tmp_path: Path) -> None:
    for arguments in (
        ["launch", "nowhere.py"],
        ["resume", "nope"],
        ["status", "nope"],
        ["best", "nope"],
        ["stop", "nope"],
    ):
        done = cli_here(*arguments, cwd=tmp_path)
        assert done.status == 2, arguments
        assert arguments[1] in done.err
        assert "Traceback" not in done.err
    assert "no runs" in cli_here("status", cwd=tmp_path).err


@pytest.mark.parametrize("name", ["try", "doctor"])
def test_a_negative_seed_of_one_member_is_refused_as_that_of_a_run_is(tmp_path: Path, name: str) -> None:
    done = cli(name, script(tmp_path, HEAD + TAIL), "--seed=-1", cwd=tmp_path)
    assert (done.status, done.out) == (2, "")
    assert done.err == "gpbt-async: --seed: got '-1'; must be a whole number of at least 0\n"


@pytest.mark.parametrize(("gpus", "problem"), [("foo", "'foo' is no GPU here"), ("0,", "got '0,'; must be indices")])
def test_a_list_of_gpus_that_names_an_unknown_one_is_refused(tmp_path: Path, gpus: str, problem: str) -> None:
    done = cli("gpus", "--gpus", gpus, cwd=tmp_path)
    assert (done.status, done.out) == (2, "")
    assert problem in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("option", "values", "must"),
    [
        ("--population", ["abc", "", "nan", "1.5", "0", "-1"], "a whole number of at least 1"),
        ("--slots", ["abc", ""], "a whole number of at least 1"),
        ("--seed", ["abc", "-1"], "a whole number of at least 0"),
        ("--ratio", ["abc", "0", "nan"], "a number greater than 0"),
        ("--evidence", ["abc", "", "2"], "a number from 0 to 1"),
        ("--stall-timeout", ["abc", "", "0", "-1", "nan", "inf"], "a number of seconds above 0"),
        ("--member-timeout", ["abc", "0"], "a number of seconds above 0"),
        ("--disk", ["abc", "", "0", "-1", "7"], "an amount with its unit, such as '50GiB', or 'none'"),
    ],
)
def test_an_invalid_value_gives_one_line_with_the_option_the_value_and_what_is_allowed(
    tmp_path: Path, option: str, values: list[str], must: str
) -> None:
    path = script(tmp_path, HEAD + TAIL)
    for value in values:
        done = cli_here("launch", path, f"{option}={value}", cwd=tmp_path)
        assert done.status == 2
        got = f"gpbt-async: {option}: got "
        assert done.err.startswith(got)
        assert value in done.err
        assert done.err.endswith(f"; must be {must}\n")
        assert done.err.count("\n") == 1
    assert not list(tmp_path.glob("runs/*"))


def test_an_existing_run_is_refused_with_the_command_that_resumes_it(tmp_path: Path) -> None:
    path = script(tmp_path, HEAD + TAIL)
    assert cli("launch", path, "--name", "mine", cwd=tmp_path).status == 0
    again = cli_here("launch", path, "--name", "mine", cwd=tmp_path)
    assert again.status == 2
    assert "gpbt-async resume mine" in again.err


def test_a_failed_member_is_reported_and_the_run_continues(tmp_path: Path) -> None:
    bad = HEAD + "    if member.id == 1 and member.attempt < 2: raise RuntimeError('once')\n"
    bad += "    if member.id == 2: raise RuntimeError('always')\n"
    done = cli("launch", script(tmp_path, bad + TAIL), "--slots", 2, "--json", cwd=tmp_path)
    assert done.status == 0, done.err
    assert done.json["members"]["finished"] == 7
    assert done.json["members"]["failed"] == 1
    assert "always" in done.err
    assert "--retry-failed" not in cli_here("status", "script-1", cwd=tmp_path).out, (
        "the others have had their children"
    )
    failed = facts(tmp_path / "runs" / "script-1", "Failed")
    assert sorted(f["member"] for f in failed) == [1, 2, 2]
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
    assert time.monotonic() - began < 15
    assert "resume lineage-1" in err
    assert "Traceback" not in err
    assert alive(run_id(folder)) == []
    assert cli_here("status", "lineage-1", "--json", cwd=tmp_path).json["state"] == "interrupted"
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
    assert time.monotonic() - began < 15
    assert "Traceback" not in err
    assert alive(run_id(folder)) == []


def _pending(pid: int) -> int:
    """A mask of the signals that a process has not received yet: a second one of a kind would be lost."""
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
    state = cli_here("status", "lineage-1", "--json", cwd=tmp_path).json
    assert state["state"] == "running"
    assert state["holder"]["pid"] == running.pid
    assert [t["slot"] for t in sorted(state["training"], key=lambda t: t["slot"])] == [0, 1]
    assert state["waiting"] == []
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
    """Ten kills of one run: no trained member is lost, no process survives, and the run finishes."""
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
    full = cli("try", LINEAGE, "--checkpoint", tmp_path / "out", cwd=tmp_path)
    assert full.status == 2
    assert full.err.count("\n") == 1
    assert f"--checkpoint {tmp_path / 'out'}: the folder is not empty" in full.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["past.json"]
    for option in ("x=7", "nope=1", "kind=z"):
        bad = cli_here("try", LINEAGE, "--set", option, cwd=tmp_path)
        assert bad.status == 2
        assert option in bad.err
    assert '"x": 0.5' in cli("try", LINEAGE, "--set", "x=.5", cwd=tmp_path).out, "as float() takes it"
    parses = "import argparse\nargparse.ArgumentParser().parse_args()\n"  # its own arguments, which are none
    failing = script(tmp_path, parses + HEAD.replace("member.report", "1 / 0 #") + TAIL)
    raised = cli("try", failing, cwd=tmp_path, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert raised.status == 1
    assert "ZeroDivisionError" in raised.err
    assert "/gpbt_async/" not in raised.err
    assert not list(tmp_path.glob("gpbt-try-*")), "nothing was in it"


def test_a_signal_that_was_ignored_at_the_start_stays_ignored(tmp_path: Path) -> None:
    """As with nohup: the terminal closes, and the run continues."""
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


def test_a_run_without_its_journal_or_its_script_is_not_started_again(tmp_path: Path) -> None:
    path = script(tmp_path, HEAD + TAIL)
    assert cli("launch", path, "--name", "one", cwd=tmp_path).status == 0
    journal = tmp_path / "runs" / "one" / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:6]))
    path.rename(tmp_path / "moved.py")
    lost = cli_here("resume", "one", cwd=tmp_path)
    assert lost.status == 2
    assert "script.py" in lost.err
    assert "does not exist" in lost.err
    (tmp_path / "moved.py").rename(path)
    journal.write_text("")
    empty = cli_here("resume", "one", cwd=tmp_path)
    assert empty.status == 2
    assert "journal.jsonl is empty" in empty.err


def test_the_command_in_the_error_message_works(tmp_path: Path) -> None:
    runs = tmp_path / "my runs"
    assert cli("launch", LINEAGE, "--runs", runs, "--name", "a", "--generations", 1, cwd=tmp_path).status == 0
    advised = cli("launch", LINEAGE, "--runs", runs, "--name", "a", cwd=tmp_path).err.split("`")[1]
    assert advised == "gpbt-async resume 'my runs/a'"
    assert cli(*shlex.split(advised)[1:], cwd=tmp_path).status == 0


def test_help_and_version(tmp_path: Path) -> None:
    import gpbt_async

    text = cli("--help", cwd=tmp_path).out
    for name in ("launch", "resume", "status", "stop", "best", "replay", "try", "guide"):
        assert name in text
    assert "`gpbt-async guide` lists the guides" in text
    assert cli("--version", cwd=tmp_path).out.strip() == gpbt_async.__version__
    launch = cli("launch", "--help", cwd=tmp_path).out
    for option in ("--population", "--slots", "--gpus", "--runs", "--quiet", "--json", "--start"):
        assert option in launch


COMMAND = """import gpbt_async as gpbt
experiment = gpbt.Experiment(
    command=[{program!r}], space={{"lr": gpbt.Float(0, 1)}}, score="s", mode="max", population=2, generations=1
)
"""


@pytest.mark.parametrize(
    ("program", "quote"),
    [
        ("no-such-program", "there is no such program in PATH: install it"),
        ("./nope", "/nope does not exist"),
        ("./folder", "/folder is not a file"),
        ("./plain", "/plain is not executable: chmod +x it"),
        ("/nowhere/solver", "/nowhere/solver does not exist"),
    ],
)
def test_a_program_that_cannot_be_started_is_refused_before_the_run_starts(
    tmp_path: Path, program: str, quote: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "plain").write_text("#!/bin/sh\n")
    done = cli("launch", script(tmp_path, COMMAND.format(program=program)), cwd=tmp_path)
    assert done.status == 2
    assert f"command: got {program!r}; " in done.err
    assert quote in done.err
    assert not list(tmp_path.glob("runs/*"))


def test_a_program_given_by_a_relative_path_is_found_from_any_folder_at_a_resume(tmp_path: Path) -> None:
    solver = tmp_path / "solver"
    solver.write_text("#!/bin/sh\necho '{\"s\": 1}' >> $GPBT_METRICS\n")
    solver.chmod(0o755)
    path = script(tmp_path, COMMAND.format(program="./solver"))
    assert cli("launch", path, "--name", "r", "--slots", 1, cwd=tmp_path).status == 0
    journal = tmp_path / "runs" / "r" / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:2]))
    shutil.rmtree(tmp_path / "runs" / "r" / "members")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    solver.rename(tmp_path / "gone")
    refused = cli("resume", tmp_path / "runs" / "r", cwd=elsewhere)
    assert refused.status == 2
    assert f"{solver} does not exist" in refused.err
    (tmp_path / "gone").rename(solver)
    done = cli("resume", tmp_path / "runs" / "r", cwd=elsewhere)
    assert done.status == 0, done.err


def test_status_shows_what_a_member_without_a_slot_waits_for(tmp_path: Path) -> None:
    text = HEAD.replace(
        "    member.report", "    if member.attempt < 3: raise TimeoutError('once more')\n    member.report"
    )
    running = start("launch", script(tmp_path, text + TAIL), "--name", "r", "--slots", 1, cwd=tmp_path)
    folder = tmp_path / "runs" / "r"
    until(lambda: facts(folder, "Failed"))
    running.send_signal(signal.SIGSTOP)  # in the pause before its second attempt, or a little later
    state = cli_here("status", "r", "--json", cwd=tmp_path).json
    text = cli_here("status", "r", cwd=tmp_path).out
    running.send_signal(signal.SIGCONT)
    running.communicate(timeout=60)
    assert running.returncode == 0
    (waits,) = state["waiting"] or state["training"]
    if state["waiting"]:
        assert waits["for"] in ("the end of its pause before attempt 2", "its process to start")
        assert waits["after"].startswith("TimeoutError: once more")
        assert state["training"] == []
        assert f"member {waits['member']} waits for " in text
    assert "no slot yet" not in text
    assert cli_here("status", "r", "--json", cwd=tmp_path).json["waiting"] == []


def test_status_of_a_failed_run_shows_no_waiting_member(tmp_path: Path) -> None:
    text = HEAD.replace("    member.report", "    raise RuntimeError('no')\n    member.report")
    path = script(tmp_path, text + TAIL.replace("population=4", "population=12"))
    assert cli("launch", path, "--name", "r", "--slots", 3, cwd=tmp_path).status == 1
    folder = tmp_path / "runs" / "r"
    state = cli_here("status", "r", "--json", cwd=tmp_path).json
    failed = {fact["member"] for fact in facts(folder, "Failed")}
    begun = {fact["member"] for fact in facts(folder, "Started")}
    assert (state["state"], state["waiting"], state["training"]) == ("failed", [], [])
    assert set(state["given_up"]) <= begun
    assert not set(state["never_begun"]) & (begun | failed)
    text = cli_here("status", "r", cwd=tmp_path).out
    assert "waits" not in text
    assert ("started, and not finished: member" in text) == bool(state["given_up"])


@pytest.mark.parametrize("where", ["train", "import"])
@pytest.mark.parametrize("how", ["os._exit(3)", "raise ValueError('y' * 10**6)"])
def test_of_a_log_line_of_ten_megabytes_only_the_ends_are_quoted(tmp_path: Path, where: str, how: str) -> None:
    loud = f"import os, sys; sys.stdout.write('x' * 10**7 + 'THE END'); sys.stdout.flush(); {how}"
    text = f"{HEAD}    {loud}\n" if where == "train" else f"{loud}\n{HEAD}"
    done = cli("launch", script(tmp_path, text + TAIL), "--slots", 1, "--name", "r", cwd=tmp_path)
    assert done.status == (1 if where == "train" else 2)
    assert max(map(len, done.err.splitlines())) < (1100 if where == "train" else 2100)
    if "exit" in how:
        assert "THE END" in done.err
    else:
        assert "ValueError: yyy" in done.err
    failed = facts(tmp_path / "runs" / "r", "Failed") if where == "train" else []
    assert all(len(fact["reason"]) < 1000 for fact in failed)
