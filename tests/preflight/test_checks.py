"""What is searched is what is trained: configs that record reads, checks over members, findings in a real run."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import math
import os
import pickle
import re
import shutil
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fuzzing import TELEMETRY
from harness import Done, cli, cli_here
from hypothesis import given
from hypothesis import strategies as st

import gpbt_async as gpbt
from gpbt_async import events, findings
from gpbt_async.engine.tree import Node
from gpbt_async.events import Found
from gpbt_async.experiment import Settings
from gpbt_async.member.config import (
    MemberConfig,
    applied_names,
    mark_applied,
    missed_names,
    overwritten_names,
    peek,
    read_names,
    script_reads,
)
from gpbt_async.preflight import checks, scores
from gpbt_async.space import Space
from gpbt_async.storage.journal import JournalReader

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = ("lr", "momentum", "width")


def config() -> MemberConfig:
    return MemberConfig({"lr": 0.1, "momentum": 0.9, "width": 8})


@dataclasses.dataclass
class Parameters:
    lr: float
    momentum: float
    width: int


# ---- a config that records reads


@pytest.mark.parametrize(
    ("use", "read"),
    [
        (lambda c: c["lr"], ["lr"]),
        (lambda c: c.get("width"), ["width"]),
        (lambda c: c.momentum, ["momentum"]),
        (lambda c: c.pop("lr"), ["lr"]),
        (lambda c: c.setdefault("lr", 1), ["lr"]),
        (lambda c: Parameters(**c), [*NAMES]),
        (lambda c: argparse.Namespace(**c), [*NAMES]),
        (lambda c: types.SimpleNamespace(**c), [*NAMES]),
        (lambda c: {**c, "epochs": 3}, [*NAMES]),
        (lambda c: dict(c), [*NAMES]),
        (lambda c: c | {"epochs": 3}, [*NAMES]),
        (lambda c: {"epochs": 3} | c, [*NAMES]),
        (lambda c: {"epochs": 3}.update(c), [*NAMES]),
        (lambda c: [c[name] for name in c], [*NAMES]),
        (lambda c: [value for _, value in c.items()], [*NAMES]),
        (lambda c: sum(c.values()), [*NAMES]),
        (lambda c: json.dumps(c), [*NAMES]),
        (lambda c: json.dumps(c, indent=1), [*NAMES]),
        (lambda c: copy.deepcopy(c), [*NAMES]),
        (lambda c: copy.copy(c), [*NAMES]),
        (lambda c: c.copy(), [*NAMES]),
        (lambda c: pickle.loads(pickle.dumps(c)), [*NAMES]),
        (lambda c: str(c), []),
        (lambda c: f"{c}", []),
        (lambda c: len(c), []),
        (lambda c: "lr" in c, []),
        (lambda c: list(c.keys()), []),
        (lambda c: c == {"lr": 0.1}, []),
        (lambda c: peek(c), []),
        (lambda c: c.get("weight_decay", 0.0), []),
        (lambda c: mark_applied(c, ["lr"]), []),
    ],
)
def test_every_way_to_read_a_config_is_seen(use: Callable[[Any], object], read: list[str]) -> None:
    seen = config()
    use(seen)
    assert read_names(seen) == read


def test_a_config_is_a_dict_and_copies_of_it_are_plain_dicts() -> None:
    seen = config()
    assert isinstance(seen, dict)
    assert dict(seen) == {**seen} == copy.deepcopy(seen) == pickle.loads(pickle.dumps(seen)) == peek(seen)
    for made in (dict(seen), {**seen}, copy.deepcopy(seen), copy.copy(seen), seen | {}):
        assert type(made) is dict
    match seen:
        case {"lr": lr}:
            assert lr == 0.1
    with pytest.raises(AttributeError, match="the config has no 'dropout'; it has lr, momentum, width"):
        _ = seen.dropout
    with pytest.raises(KeyError):
        seen["dropout"]
    assert missed_names(seen) == ["dropout"]


def test_names_of_a_config_are_a_view_like_any() -> None:
    names = config().keys()
    assert names == {*NAMES}
    assert {"lr"} <= names
    assert names - {"lr"} == {"momentum", "width"}
    assert {"lr", "x"} ^ names == {"x", "momentum", "width"}
    assert names.isdisjoint({"x"})


def test_a_config_is_saved_beside_weights_and_loaded_again(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"config": config()}, tmp_path / "a.pt")
    assert torch.load(tmp_path / "a.pt")["config"] == peek(config())
    one = gpbt.Member.local(peek(config()), tmp_path, on_report=print)
    gpbt.torch.save(one, torch.nn.Linear(1, 1), config=one.config, more=[one.config])
    assert gpbt.torch.load(tmp_path, torch.nn.Linear(1, 1)) == {"config": peek(config()), "more": [peek(config())]}


def test_a_read_inside_a_compiled_model_is_traced_and_seen() -> None:
    torch = pytest.importorskip("torch")
    seen = config()
    twice = torch.compile(lambda x: x * seen["lr"], backend="eager", fullgraph=True)
    assert float(twice(torch.ones(()))) == pytest.approx(0.1)
    assert read_names(seen) == ["lr"]


def test_libraries_accept_a_config_as_a_dict() -> None:
    from gpbt_async.member import config_adapters

    yaml, torch = pytest.importorskip("yaml"), pytest.importorskip("torch")
    config_adapters.watch()
    assert yaml.safe_load(yaml.safe_dump(config())) == yaml.safe_load(yaml.dump(config())) == peek(config())
    assert torch.utils._pytree.tree_map(lambda x: 2 * x, config()) == {"lr": 0.2, "momentum": 1.8, "width": 16}


def test_what_a_script_writes_into_its_config() -> None:
    seen = config()
    seen.lr = 0.5
    assert (seen["lr"], seen.pop("width"), seen.popitem()) == (0.5, 8, ("momentum", 0.9))
    assert overwritten_names(seen) == [["lr", "0.1", "0.5"]]


# ---- a parent's checkpoint


@pytest.mark.parametrize(
    ("use", "used"),
    [
        (lambda p: p is not None, False),
        (bool, False),
        (lambda p: p == None, False),  # noqa: E711
        (lambda p: isinstance(p, Path), False),
        (lambda p: p / "model.pt", True),
        (lambda p: Path(p) / "model.pt", True),
        (lambda p: Path("/") / p, True),
        (lambda p: p.with_name("x"), True),
        (lambda p: p.parts, True),
        (os.fspath, True),
        (lambda p: f"{p}/model.pt", True),
        (lambda p: list(p.glob("*")), True),
        (lambda p: os.listdir(p), True),
        (lambda p: shutil.copytree(p, p.with_name("copy")), True),
        (lambda p: pickle.loads(pickle.dumps(p)), True),
    ],
)
def test_looking_at_the_parents_path_is_not_using_it(tmp_path: Path, use: Any, used: bool) -> None:
    (tmp_path / "parent").mkdir()
    one = gpbt.Member.local({"lr": 1.0}, tmp_path, parent=tmp_path / "parent")
    assert one.parent == tmp_path / "parent"
    one.telemetry.parent_used = False
    use(one.parent)
    assert one.telemetry.parent_used is used


def test_what_gpbt_torch_applies_is_not_a_read_of_the_script() -> None:
    seen = config()
    mark_applied(seen, ["lr"])
    assert applied_names(seen) == ["lr"]
    assert not script_reads(seen, "lr")
    assert seen["lr"]
    assert script_reads(seen, "lr")
    assert not script_reads({"lr": 1}, "lr")


def test_what_a_forked_worker_reads_is_seen_by_the_member() -> None:
    seen = config()
    pid = os.fork()
    if pid == 0:
        try:
            _ = seen["width"]
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert read_names(seen) == ["width"]


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.integers(), max_size=6), st.data())
def test_reads_of_any_config_are_reported_in_its_order(plain: dict[str, int], data: st.DataObject) -> None:
    seen = MemberConfig(plain)
    names = data.draw(st.lists(st.sampled_from(sorted(plain)), max_size=6)) if plain else []
    others = data.draw(st.lists(st.text(max_size=8).filter(lambda name: name not in plain), max_size=3))
    for name in (*names, *others):
        seen.get(name)
    assert read_names(seen) == [name for name in plain if name in names]
    assert missed_names(seen) == list(dict.fromkeys(others))
    assert peek(seen) == plain


# ---- checks, over made-up members


def settings(**more: Any) -> Settings:
    space = more.pop("space", {"lr": gpbt.Float(0, 1), "width": gpbt.Int(1, 8)})
    given: dict[str, Any] = {"score": "loss", "mode": "min", "population": 12, "generations": 3, **more}
    return Settings(space=Space(space), **given)


def member(id: int, config: dict[str, Any] | None = None, parent: Node | None = None) -> Node:
    generation = parent.generation + 1 if parent is not None else 0
    return Node(id, (), id, generation, parent, config or {"lr": id / 100, "width": 1}, 1000 + id)


def codes(found: Any) -> list[str]:
    return [each.code for each in found]


def seen(**more: Any) -> dict[str, Any]:
    return {"read": ["lr", "width"], "applied": [], "missed": [], "parent_used": True, **more}


def test_one_member_shows_that_a_hyperparameter_is_never_read() -> None:
    watch = checks.Preflight(settings())
    (found,) = watch.heard(member(0), seen(read=["lr"], missed=["widht"]))
    assert (found.code, found.subject, found.member) == ("GPBT001", "width", 0)
    assert "did you mean 'width'" in found.text
    assert codes(watch.heard(member(1), seen(read=["lr"]))) == [], "once"


def test_a_misspelt_name_is_reported_even_if_the_right_one_is_read() -> None:
    watch = checks.Preflight(settings())
    (found,) = watch.heard(member(0), seen(missed=["widht", "epochs"]))
    assert (found.code, found.subject) == ("GPBT002", "widht")


def test_what_gpbt_torch_applied_is_used() -> None:
    watch = checks.Preflight(settings())
    assert codes(watch.heard(member(0), seen(read=["width"], applied=["lr"]))) == []


def test_a_name_in_a_function_is_unread_only_in_the_last_generation() -> None:
    watch = checks.Preflight(settings(population=2, generations=2))
    late = seen(read=["lr"], mentioned=["width"])
    assert codes(watch.heard(member(0), late)) == codes(watch.heard(member(1), late)) == []
    assert codes(watch.heard(member(2, parent=member(0)), late)) == ["GPBT001"]
    watch = checks.Preflight(settings(population=2, generations=2))
    for id in range(2):
        assert codes(watch.heard(member(id), late)) == []
    assert codes(watch.heard(member(2, parent=member(0)), seen())) == []


def test_the_first_children_saved_their_parents_weights() -> None:
    watch, root = checks.Preflight(settings()), member(0)
    for id in range(1, 4):
        assert codes(watch.heard(member(id, parent=root), seen(unchanged=True))) == []
    assert codes(watch.heard(member(4, parent=root), seen(unchanged=True))) == ["GPBT008"]
    watch = checks.Preflight(settings())
    for id in range(1, 9):  # one of them has trained: others may have restored their best
        assert codes(watch.heard(member(id, parent=root), seen(unchanged=id != 2))) == []


def test_a_name_may_be_unread_until_all_options_were_seen() -> None:
    space = {"optimizer": gpbt.Choice(["sgd", "adam"]), "momentum": gpbt.Float(0, 1)}
    watch = checks.Preflight(settings(space=space))
    adam = {"optimizer": "adam", "momentum": 0.5}
    for id in range(3):
        assert codes(watch.heard(member(id, adam), seen(read=["optimizer"]))) == []
    assert codes(watch.heard(member(3, {**adam, "optimizer": "sgd"}), seen(read=["optimizer", "momentum"]))) == []
    watch = checks.Preflight(settings(space=space))
    assert codes(watch.heard(member(0, adam), seen(read=["optimizer"]))) == []
    assert codes(watch.heard(member(1, {**adam, "optimizer": "sgd"}), seen(read=["optimizer"]))) == ["GPBT001"]


def test_the_same_seed_of_its_own_under_two_seeds() -> None:
    watch = checks.Preflight(settings())
    assert codes(watch.heard(member(0), seen(seeds={"torch": ["0", "mine.py:3: torch.manual_seed(0)"]}))) == []
    (found,) = watch.heard(member(1), seen(seeds={"torch": ["0", "mine.py:3: torch.manual_seed(0)"]}))
    assert found.code == "GPBT006"
    assert "mine.py:3: torch.manual_seed(0)" in found.text
    watch = checks.Preflight(settings())
    for id in range(4):
        assert codes(watch.heard(member(id), seen(seeds={"torch": [str(1000 + id), "mine.py:3"]}))) == []


def test_a_value_that_ends_the_same_whatever_was_applied() -> None:
    watch = checks.Preflight(settings())
    quiet = {"read": ["width"], "applied": ["lr"]}
    assert codes(watch.heard(member(0), seen(values={"lr": [0.5, 0.1, None]}, **quiet))) == []
    assert codes(watch.heard(member(1), seen(values={"lr": [0.3, 0.1, None]}, **quiet))) == ["GPBT003"]
    watch = checks.Preflight(settings())
    for id, lr in enumerate((0.5, 0.3, 0.2)):  # decays what it was given
        assert codes(watch.heard(member(id), seen(values={"lr": [lr, lr / 10, None]}, **quiet))) == []


def test_a_constant_score_over_different_configs() -> None:
    watch = checks.Preflight(settings())
    for id in range(scores.CONSTANT - 1):
        assert codes(watch.scored(member(id), 2.718281828, {})) == []
    assert codes(watch.scored(member(9), 2.718281828, {})) == ["GPBT009"]
    watch = checks.Preflight(settings())
    same = {"lr": 0.5, "width": 2}
    for id in range(9):  # the same config: no wonder
        assert codes(watch.scored(member(id, same), 2.718281828, {})) == []
    watch = checks.Preflight(settings())
    for id in range(9):
        assert codes(watch.scored(member(id), 2.718281828 + (id == 0), {})) == []


def test_a_score_that_is_never_finite_and_one_that_is_missing() -> None:
    watch = checks.Preflight(settings())
    assert [code for id in range(6) for code in codes(watch.scored(member(id), float("nan"), {}))] == ["GPBT014"]
    (found,) = checks.Preflight(settings()).scored(member(0), None, {"val_loss": 1.0})
    assert found.code == "GPBT011"
    assert "reported 'val_loss'" in found.text
    assert "did you mean score='val_loss'?" in found.remedy


def test_nothing_saved_and_nothing_changed() -> None:
    watch = checks.Preflight(settings())
    root = member(0)
    assert codes(watch.saved(root, 0, "")) == ["GPBT007"]
    assert codes(watch.saved(member(1), 0, "")) == []
    assert codes(watch.saved(root, 10, "abc")) == []
    for id in range(2, 5):
        assert codes(watch.saved(member(id, parent=root), 10, "abc")) == [], "it may have found nothing better"
    assert codes(watch.saved(member(5, parent=root), 10, "abc")) == ["GPBT008"]
    watch = checks.Preflight(settings())
    for id, digest in enumerate(("abc", "abc", "new", *["abc"] * 9)):
        assert codes(watch.saved(member(id, parent=root if id else None), 10, digest)) == []
    alone = checks.Preflight(settings(generations=1))
    assert codes(alone.saved(root, 0, "")) == [], "there are no children"


def test_a_child_that_never_looks_at_its_parent() -> None:
    watch = checks.Preflight(settings())
    assert codes(watch.heard(member(0), seen(parent_used=False))) == []
    assert codes(watch.heard(member(1, parent=member(0)), seen(parent_used=False))) == [], (
        "it may begin afresh by its config"
    )
    assert codes(watch.heard(member(2, parent=member(0)), seen(parent_used=False))) == ["GPBT012"]


@pytest.mark.parametrize(
    ("score", "mode", "found"),
    [("loss", "max", ["GPBT005"]), ("loss", "min", []), ("accuracy", "min", ["GPBT005"]), ("score", "min", [])],
)
def test_a_direction_that_a_name_contradicts(score: str, mode: str, found: list[str]) -> None:
    assert codes(checks.Preflight(settings(score=score, mode=mode)).declared()) == found


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(TELEMETRY)), plain), st.data())
def test_telemetry_of_any_shape_does_no_harm(flat: dict[str, Any], data: st.DataObject) -> None:
    watch = checks.Preflight(settings())
    for id in range(2):
        whole = {**TELEMETRY, **flat} if data.draw(st.booleans()) else flat
        for found in watch.heard(member(id), whole):
            assert findings.known(found.code)


def test_silenced_and_known_findings_are_not_reported() -> None:
    watch = checks.Preflight(settings(silence=("GPBT001",)))
    assert codes(watch.heard(member(0), seen(read=[]))) == []
    watch = checks.Preflight(settings())
    watch.remember(Found(t=0.0, code="GPBT001", subject="width", text="", remedy=""))
    assert codes(watch.heard(member(0), seen(read=[]))) == ["GPBT001"], "lr's alone"


@pytest.mark.parametrize("silence", ["GPBT999", ["GPBT001", 3], 7])
def test_only_findings_are_silenced(silence: Any) -> None:
    with pytest.raises(gpbt.ExperimentError, match="silence: got"):
        gpbt.Experiment(command=["x"], space={"x": gpbt.Float(0, 1)}, score="loss", mode="min", silence=silence)


# ---- in a real run

SCRIPT = """
import json, random, threading
import gpbt_async as gpbt
def train(member):
    x = json.loads((member.parent / "x.json").read_text()) if member.parent is not None else 4.0
    lr, drop = member.config["lr"], member.config["drop"]
    for step in range(3):
        x -= lr * 2 * x + drop * 1e-6 * random.random()
        member.report(loss=x * x)
    (member.checkpoint / "x.json").write_text(json.dumps(x))
experiment = gpbt.Experiment(
    train, space={"lr": gpbt.Float(1e-3, .5, log=True), "drop": gpbt.Float(0, 1)}, score="loss", mode="min",
    population=4, generations=2, resources=gpbt.Resources(gpus=0),
)
"""


def launched(folder: Path, *changes: tuple[str, str], options: tuple[str, ...] = ()) -> Done:
    text = SCRIPT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "mine.py").write_text(text)
    return cli("launch", "mine.py", "--slots", 2, "--name", "r", *options, cwd=folder)


def found_in(folder: Path) -> list[Found]:
    return [fact for fact in JournalReader(folder / "runs" / "r" / "journal.jsonl").more() if isinstance(fact, Found)]


def test_a_sound_script_has_no_findings(tmp_path: Path) -> None:
    done = launched(tmp_path, options=("--strict",))
    assert done.status == 0, done.err
    assert found_in(tmp_path) == []
    assert "GPBT" not in done.err
    assert "r has finished\n" in done.err


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (('member.config["drop"]', "0.1"), "GPBT001", "never read the hyperparameter 'drop'"),
        (('member.config["drop"]', 'member.config.get("dorp", 0.1)'), "GPBT001", "did you mean 'drop'?"),
        (('mode="min"', 'mode="max"'), "GPBT005", "is maximised"),
        (("    for step", "    random.seed(7)\n    for step"), "GPBT006", "with 7 at mine.py:7: random.seed(7)"),
        (('(member.checkpoint / "x.json").write_text', "str"), "GPBT007", "left nothing in its checkpoint"),
        (("x -= lr * 2 * x", "x -= 0 * x"), "GPBT009", "exactly loss="),
        (("member.parent is not None", "False"), "GPBT012", "never looked at member.parent"),
        (
            ("    for step", "    threading.Timer(0.5, lambda: None).start()\n    for step"),
            "GPBT013",
            "while a thread of it still ran",
        ),
    ],
)  # fmt: skip
def test_the_first_members_show_what_is_wrong(tmp_path: Path, change: tuple[str, str], code: str, words: str) -> None:
    changes = [change]
    if code in ("GPBT007", "GPBT009"):  # and so that children do not fail for it
        changes.append(("member.parent is not None", "(member.parent and (member.parent / 'x.json').exists())"))
    if code == "GPBT009":
        changes += [("drop * 1e-6", "0 * drop"), ("else 4.0", "else 4.1")]  # whole numbers tie easily
    done = launched(tmp_path, *changes)
    assert done.status == 0, done.err
    by_code = {fact.code: fact for fact in found_in(tmp_path)}
    assert code in by_code
    assert words in by_code[code].text
    assert f"warning: {code}: " in done.err
    assert f"r has finished, but the pre-flight has {len(by_code)} finding" in done.err
    assert f"  {code}   " in done.err, "and at the end"


def test_a_seed_from_the_member_or_one_that_is_taken_back_is_not_a_finding(tmp_path: Path) -> None:
    more = "state = random.getstate(); random.seed(0); order = random.random(); random.setstate(state)"
    late = "random.random(); import time; time.sleep(0.2); random.seed(0)"  # an evaluation's
    for body in ("random.seed(member.seed)", more, "dice = random.Random(0)", late):
        done = launched(tmp_path, ("    for step", f"    {body}\n    for step"), options=("--strict",))
        assert done.status == 0, done.err
        (tmp_path / "runs" / "r").rename(tmp_path / f"old-{len(body)}")


def test_a_state_that_was_captured_after_the_seed_does_not_take_it_back(tmp_path: Path) -> None:
    body = "random.seed(0); state = random.getstate(); random.random(); random.setstate(state)"
    done = launched(tmp_path, ("    for step", f"    {body}\n    for step"))
    assert [f.code for f in found_in(tmp_path)] == ["GPBT006"], done.err


def test_a_process_pool_may_seed_its_workers(tmp_path: Path) -> None:
    body = "import concurrent.futures as f, multiprocessing as m\n    spawn = m.get_context('spawn')\n"
    body += (
        "    with f.ProcessPoolExecutor(1, spawn, random.seed, (member.seed,)) as pool: pool.submit(abs, 1).result()"
    )
    done = launched(tmp_path, ("    for step", f"    {body}\n    for step"), options=("--generations", "1", "--strict"))
    assert done.status == 0, done.err


def test_numpy_and_torch_seeds_are_seen_in_forks_and_fresh_interpreters(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    body = "    import numpy, torch; numpy.random.seed(1); torch.manual_seed(1)\n    for step"
    for start in ("zygote", "exec"):
        done = launched(
            tmp_path, ("    for step", body), options=("--start", start, "--population", "2", "--generations", "1")
        )
        assert done.status == 0, done.err
        (found,) = found_in(tmp_path)
        assert found.code == "GPBT006"
        assert "numpy's random numbers with 1" in found.text or "numpy's and torch's random numbers" in found.text
        (tmp_path / "runs" / "r").rename(tmp_path / start)


def test_strict_ends_the_run_before_its_budget_is_spent(tmp_path: Path) -> None:
    done = launched(tmp_path, ('member.config["drop"]', "0.1"), options=("--strict", "--population", "20"))
    assert done.status == 2
    assert "GPBT001" in done.err
    facts = JournalReader(tmp_path / "runs" / "r" / "journal.jsonl").more()
    assert sum(isinstance(fact, events.Trained) for fact in facts) <= 2, "as many as there are slots"
    strict = cli("resume", "r", "--strict", cwd=tmp_path)
    assert strict.status == 2, "known findings are kept"
    assert "--silence GPBT001 disagrees" in strict.err
    again = cli("resume", "r", "--strict", "--silence", "gpbt001", cwd=tmp_path)
    assert again.status == 0, again.err
    assert [f.subject for f in found_in(tmp_path)] == ["drop"], "already known, and not found again"


def test_status_report_and_summary_repeat_the_findings(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    launched(tmp_path, ('member.config["drop"]', "0.1"))
    status = cli_here("status", "r", cwd=tmp_path)
    assert "r: finished, with 1 finding" in status.out
    assert "GPBT001: member" in status.out
    assert "1 finding" in cli_here("status", cwd=tmp_path).out
    assert [f["code"] for f in cli_here("status", "r", "--json", cwd=tmp_path).json["findings"]] == ["GPBT001"]
    summary = json.loads((tmp_path / "runs" / "r" / "summary.json").read_text())
    assert summary["findings"][0]["subject"] == "drop"
    assert cli_here("report", "r", cwd=tmp_path).status == 0
    assert "never read the hyperparameter" in (tmp_path / "runs" / "r" / "report.html").read_text()


def test_a_finding_is_silenced_by_the_experiment_and_by_the_command_line(tmp_path: Path) -> None:
    wrong = ('member.config["drop"]', "0.1")
    done = launched(tmp_path, wrong, options=("--silence", "GPBT001", "--strict"))
    assert done.status == 0, done.err
    (tmp_path / "runs" / "r").rename(tmp_path / "one")
    done = launched(tmp_path, wrong, ("population=4", "silence=['GPBT001'], population=4"), options=("--strict",))
    assert done.status == 0, done.err
    refused = launched(tmp_path, options=("--silence", "GPBT77", "--name", "s"))
    assert refused.status == 2
    assert "--silence: got 'GPBT77'; is no finding; there are GPBT001," in refused.err


async def test_an_application_reads_the_findings_and_their_facts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(SCRIPT.replace('member.config["drop"]', "0.1"))
    async with gpbt.Run(tmp_path / "mine.py", tmp_path / "r", slots=2) as run:
        run_facts = [event async for event in run if isinstance(event, Found)]
        await run.wait()
        assert [finding.code for finding in run.findings] == [fact.code for fact in run_facts] == ["GPBT001"]
    with pytest.raises(gpbt.PreflightError, match="GPBT001"):
        async with gpbt.Run(tmp_path / "mine.py", tmp_path / "s", slots=2, strict=True) as run:
            await run.wait()


# ---- the guide


def test_the_guide_has_a_section_for_every_finding() -> None:
    text = (Path(gpbt.__file__).parent / "guides" / "findings.md").read_text()
    sections = dict(re.findall(r"^### (GPBT\d+): (.*)$", text, re.M))
    assert sections == findings.CATALOGUE


@pytest.mark.parametrize(
    ("more", "compared"),
    [
        ({}, "the best of the run (without choose_by) compares"),
        ({"choose_by": ("holdout_loss", "min")}, ""),
        ({"choose_by": ("holdout_loss", "min"), "selection": "plus"}, "selection='plus' compares"),
        (
            {"selection": "plus", "early_stop": ("generation",)},
            "(without choose_by) and selection='plus' and early_stop",
        ),
        ({"generations": 1}, ""),
    ],
)
def test_scores_on_folds_are_compared_within_a_generation_only(more: dict[str, Any], compared: str) -> None:
    watch = checks.Preflight(settings(**more))
    assert codes(watch.heard(member(0), seen(folds=False))) == []
    found = list(watch.heard(member(1), seen(folds=True)))
    assert codes(found) == ["GPBT022"] * bool(compared)
    assert all(compared in each.text for each in found)
    assert codes(watch.heard(member(2), seen(folds=True))) == [], "once"


def test_the_metric_of_choose_by_is_missed_at_the_first_member_without_it() -> None:
    watch = checks.Preflight(settings(choose_by=("holdout_loss", "min")))
    assert codes(watch.scored(member(0), 0.5, {"loss": 0.5, "holdout_loss": math.nan})) == []
    (found,) = watch.scored(member(1), 0.4, {"loss": 0.4, "houldout_loss": 0.1})
    assert (found.code, found.subject, found.member) == ("GPBT021", "holdout_loss", 1)
    assert found.remedy == "did you mean 'houldout_loss'?"
    assert codes(watch.scored(member(2), 0.3, {"loss": 0.3})) == [], "once"
