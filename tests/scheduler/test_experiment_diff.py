"""A declaration that was edited along a run: what of it is adopted, and what becomes of the configs of before."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from engine_driver import SPACE, Driver, settings, snapshot
from harness import cli, cli_here, facts, kill_hard, start, until
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from run_checker import check_run
from strategies import drivers

import gpbt_async as gpbt
from gpbt_async import codec, events
from gpbt_async.analysis.importance import importances
from gpbt_async.engine.adoption import ADOPTABLE, Adoption, unfit
from gpbt_async.engine.engine import Engine
from gpbt_async.engine.tree import State
from gpbt_async.errors import ExperimentError, JournalError
from gpbt_async.scheduler.experiment_diff import compare, described, differences
from gpbt_async.space import Choice, Dimension, Float, Int, Space
from gpbt_async.storage.run_config import RunConfig

if TYPE_CHECKING:
    from pathlib import Path

    from gpbt_async.events import Command


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    """SPACE with other bounds, scales, steps and options."""
    low, high = sorted(draw(st.lists(st.sampled_from([1e-5, 1e-4, 1e-3, 0.03, 0.4, 1.0, 7.0]), min_size=2, max_size=2,
                                     unique=True)))  # fmt: skip
    log = draw(st.booleans())
    few, many = sorted(draw(st.lists(st.integers(1, 12), min_size=2, max_size=2, unique=True)))
    options = draw(st.permutations(["relu", "tanh", None, 2, *draw(st.sampled_from([[], ["gelu"], [2.0, True]]))]))
    grid = draw(st.sampled_from([None, (high - low) / 7]))
    step = draw(st.integers(1, many - few))
    return Space({"lr": Float(low, high, log, grid), "layers": Int(few, many, step=step), "act": Choice(options)})


def adopted(**changes: Any) -> events.Adopted:
    """The fact, as it comes back from a journal."""
    fact = events.Adopted(t=0.0, settings=changes)
    again = codec.from_json(json.loads(json.dumps(codec.to_json(fact))))
    assert isinstance(again, events.Adopted)
    return again


CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "space": spaces().map(Space.to_json),
        "attempts": st.integers(1, 4),
        "early_stop": st.sampled_from([[], ["median"], ["generation"], ["median", "generation"]]),
        "choose_by": st.sampled_from([None, ["holdout", "min"]]),
    },
)


@hypothesis_settings(deadline=None)
@given(drivers(), st.lists(st.tuples(st.integers(0, 40), CHANGES, st.booleans()), max_size=4))
def test_bounds_may_change_along_a_run(driver: Driver, resumes: list[tuple[int, dict[str, Any], bool]]) -> None:
    """Killed anywhere and resumed with another space, any number of times: all that is used lies inside that one."""

    def check(d: Driver, commands: list[Command]) -> None:
        space = d.engine.settings.space
        fact = d.facts[-1]
        if isinstance(fact, events.Started):
            assert space.holds(fact.config)
        for command in commands:
            if isinstance(command, events.Suggest):
                _, ask = next(a for a in reversed(d.asks) if a[1].path == command.path)
                assert ask.space == space
                shown = [o.config for o in (*ask.kin, *([ask.parent] if ask.parent else []))]
                assert all(space.holds(config) for config in (*shown, *ask.pending))

    driver.on_turn = check
    driver.open()
    for turns, changes, retry in resumes:
        for _ in range(turns):
            driver.turn()
        if changes and not (
            "space" in changes and unfit(driver.engine.settings.space, Space.from_json(changes["space"]))
        ):
            driver.feed(adopted(**changes))
        driver.open(retry)
    driver.run()
    engine = driver.engine
    assert engine.ended is not None
    assert sum(g.size for g in engine.tree.generations) == len(engine.tree.members) or engine.ended.reason
    # a journal of several spaces replays to the same tree and the same asks
    again, asks = Engine(driver.settings, driver.ahead), []
    for fact in driver.facts:
        for command in again.handle(fact):
            if isinstance(command, events.Suggest):
                asks.append((again.count, again.ask(command.path)))
    assert snapshot(again) == snapshot(engine)
    assert asks == driver.asks
    assert again.settings == engine.settings
    # readers look at members of every space
    for importance in importances([g.members for g in engine.tree.generations], engine.adoption.hull):
        assert len(importance.shares) == len(SPACE)
    assert all(engine.adoption.hull.holds(member.config) for member in engine.tree.members)


@given(drivers(), st.integers(0, 60), spaces())
def test_adopting_the_same_space_twice_is_adopting_it_once(driver: Driver, turns: int, space: Space) -> None:
    driver.open()
    for _ in range(turns):
        driver.turn()
    driver.feed(adopted(space=space.to_json()))
    once = snapshot(driver.engine)
    driver.feed(adopted(space=space.to_json()))
    twice = snapshot(driver.engine)
    once[1].pop("count")
    twice[1].pop("count")
    assert once == twice


def test_a_child_repeats_its_parents_config_clipped_and_what_was_trained_keeps_its_own() -> None:
    driver = Driver(settings(population=2, generations=3, ratio=2.0), 1, random.Random(1))
    driver.searcher = lambda ask: ask.space.clip({"lr": 0.9, "layers": 7, "act": "relu"})
    driver.open()
    while not driver.engine.tree.generations[0].complete:
        driver.turn()
    driver.feed(adopted(space={**SPACE.to_json(), "lr": {**SPACE.to_json()["lr"], "high": 0.5}}))
    driver.open()
    driver.run()
    first, *children = driver.engine.tree.members[0], *driver.engine.tree.generations[1].members
    assert first.config["lr"] == 0.9
    assert [child.config["lr"] for child in children] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("now", "why"),
    [
        ({"wd": Float(0, 1)}, "cannot be added to a run under way (wd)"),
        ({"lr": None}, "cannot be taken out of a run under way (lr)"),
        ({"lr": Int(1, 2)}, "lr cannot become an Int where it was a Float"),
        ({"act": Choice(["relu", "tanh", 2])}, "an option cannot be taken out of a run under way (act: None)"),
        ({"act": Choice(["relu", "tanh", None, 2.0])}, "(act: 2)"),
        ({"lr": Float(1e-9, 1e9)}, ""),
        ({"act": Choice([2, "gelu", None, "tanh", "relu"])}, ""),
    ],
)
def test_names_kinds_and_options_stay(now: dict[str, Dimension | None], why: str) -> None:
    space = Space({name: d for name, d in {**SPACE, **now}.items() if d is not None})
    assert unfit(SPACE, space).endswith(why)
    assert bool(unfit(SPACE, space)) == bool(why)
    engine = Engine(settings())
    if why:
        with pytest.raises(JournalError, match="does not fit the run"):
            engine.handle(adopted(space=space.to_json()))
    else:
        engine.handle(adopted(space=space.to_json()))
        assert engine.settings.space == space


@pytest.mark.parametrize(
    "changes",
    [
        {"population": 7},
        {"seed": 1},
        {"nonsense": 1},
        {"space": 7},
        {"space": {"lr": {"kind": "float"}}},
        {"space": {"lr": {"kind": [], "low": 0}}},
        {"attempts": 0},
        {"attempts": "x"},
        {"stall_timeout": -1.0},
        {"command": ["x"]},
        {"early_stop": 3},
    ],
)
def test_a_journal_that_adopts_what_no_scheduler_would_is_damaged(changes: dict[str, Any]) -> None:
    engine = Engine(settings())
    with pytest.raises(JournalError, match="adopted"):
        engine.handle(adopted(**changes))
    assert engine.settings == settings()


@given(spaces(), spaces(), st.integers())
def test_a_hull_holds_what_either_space_holds(one: Space, other: Space, seed: int) -> None:
    if unfit(one, other):
        return
    hull, rng = one.hull(other), random.Random(seed)
    assert hull.holds(one.sample(rng))
    assert hull.holds(other.sample(rng))
    assert one.hull(one) == one


def test_fields_that_are_adopted_are_fields() -> None:
    flat = settings().to_json()
    assert set(ADOPTABLE) <= set(flat)
    adoption = Adoption(settings())
    adoption.take({"attempts": 9, "stall_timeout": 5.0, "silence": ["GPBT009"], "early_stop": ["median"]})
    s = adoption.settings
    assert (s.attempts, s.stall_timeout, s.silence, s.early_stop) == (9, 5.0, ("GPBT009",), ("median",))
    assert adoption.fit({"lr": 99.0}) == {"lr": 99.0}, "where no other space was adopted nothing is looked at"


# ---- sentences


def test_every_field_that_differs_is_named_with_both_values() -> None:
    was = settings()
    space = Space({**SPACE, "lr": Float(1e-5, 0.1, log=True), "layers": Int(1, 9, step=2)})
    now = was.replaced(space=space, population=9, score="acc", mode="max", attempts=7, seed=5, searcher="tpe")
    said, changes = differences(was.to_json(), now, was, (), script=True)
    assert changes == {}
    assert said[0] == (
        "space.lr was Float(0.0001, 1.0, log=True) and is Float(1e-05, 0.1, log=True) in the script now; "
        "space.layers was Int(1, 8) and is Int(1, 9, step=2) in the script now: "
        "the run goes on with the former; --adopt space takes the new one"
    )
    assert (
        "population was 6 and is 9 in the script now: the run goes on with the former (the tree has grown by it)"
        in said
    )
    assert [s.partition(" ")[0] for s in said[1:]] == ["score", "mode", "population", "searcher", "seed", "attempts"]
    said, changes = differences(was.to_json(), now, was, ("space",), script=False)
    assert changes == {"space": space.to_json()}
    assert said[0].endswith("in the experiment now: adopted from now on")


def test_options_of_the_command_line_are_no_edits() -> None:
    declared, launched = settings(), settings(population=3, attempts=5)
    assert differences(declared.to_json(), declared, launched, (), script=True) == ([], {})
    now = settings(attempts=5)
    assert differences(declared.to_json(), now, launched, (), script=True) == ([], {}), "as an option says"
    (sentence,), _ = differences(declared.to_json(), settings(attempts=2), launched, (), script=True)
    assert (
        "attempts was 3 and is 2 in the script now: the run goes on with 5, by an option; --adopt attempts" in sentence
    )


@pytest.mark.parametrize(
    ("field", "why"),
    [
        ("population", "--adopt population: population cannot be adopted by a run under way: the tree has grown by it"),
        ("score", "members are ranked by it"),
        ("searcher", "configs were chosen by it"),
        ("spase", "--adopt spase: spase is no field of an experiment; adopted can be space, early_stop"),
        ("space", "--adopt space: a hyperparameter cannot be added to a run under way (wd); begin a new run for it"),
        ("command", "a command and a training function cannot replace one another"),
    ],
)
def test_what_cannot_be_adopted_is_refused_in_a_sentence(field: str, why: str) -> None:
    was = settings()
    now = settings(space=Space({**SPACE, "wd": Float(0, 1)}), command=("awk",), population=9)
    with pytest.raises(ExperimentError) as refused:
        differences(was.to_json(), now, was, (field,), script=True)
    assert why in str(refused.value)


def test_a_dimension_is_described_as_it_is_declared() -> None:
    for dimension in (Float(0.5, 2.0), Float(1e-3, 1.0, True, 0.25), Int(1, 9), Int(1, 9, True, 2), Choice(["a", 1])):
        text = described(Space({"x": dimension}).to_json()["x"])
        assert eval(text, {"Float": Float, "Int": Int, "Choice": Choice}) == dimension


# ---- whole runs

SCRIPT = """
import json, os, time
from pathlib import Path
import gpbt_async as gpbt

def train(member):
    while (Path("hold") / str(member.generation)).exists():
        time.sleep(0.01)
    x = 4.0 if member.parent is None else json.loads((member.parent / "x.json").read_text())
    for _ in range(3):
        x -= member.config["lr"] * 2 * x
        member.report(loss=x * x)
    (member.checkpoint / "x.json").write_text(json.dumps(x))

experiment = gpbt.Experiment(
    train, space={"lr": gpbt.Float(LOW, HIGH, log=True), "act": gpbt.Choice(ACTS)}, score="loss", mode="min",
    population=POPULATION, generations=4, searcher="SEARCHER", resources=gpbt.Resources(gpus=0), ATTEMPTS
)
"""


def script(path: Path, low: float, high: float, **more: Any) -> None:
    words = {"LOW": low, "HIGH": high, "ACTS": ["a", "b"], "POPULATION": 6, "SEARCHER": "local", "ATTEMPTS": "", **more}
    text = SCRIPT
    for word, value in words.items():
        text = text.replace(word, str(value))
    path.write_text(text)


def killed(where: Path, *more: object, **words: Any) -> None:
    """A run `r` of three generations of which the third trains, killed."""
    script(where / "mine.py", 0.1, 0.5, **words)
    (where / "hold").mkdir()
    (where / "hold" / "2").touch()
    run = start("launch", "mine.py", "--name", "r", "--slots", 2, *more, cwd=where)
    folder = where / "runs" / "r"
    until(lambda: sum(f["path"].count("/") == 2 for f in facts(folder, "Started")) == 2)
    kill_hard(run)


def test_a_resume_names_what_was_edited_and_goes_on_as_before(tmp_path: Path) -> None:
    killed(tmp_path, "--attempts", 5)
    (tmp_path / "hold" / "2").unlink()
    script(tmp_path / "mine.py", 1e-3, 0.2, POPULATION=9, ATTEMPTS="attempts=2")
    done = cli("resume", "r", "--changed-script", cwd=tmp_path)
    assert done.status == 0, done.err
    both = "space.lr was Float(0.1, 0.5, log=True) and is Float(0.001, 0.2, log=True) in the script now"
    assert f"{both}: the run goes on with the former; --adopt space takes the new one" in done.err
    assert "population was 6 and is 9 in the script now: the run goes on with the former (the tree" in done.err
    assert "attempts was 3 and is 2 in the script now: the run goes on with 5, by an option" in done.err
    folder = tmp_path / "runs" / "r"
    assert facts(folder, "Adopted") == []
    assert all(f["config"]["lr"] >= 0.1 for f in facts(folder, "Started"))
    assert check_run(folder) == []


def test_an_adopted_space_holds_whenever_the_run_is_killed(tmp_path: Path) -> None:
    killed(tmp_path)
    folder = tmp_path / "runs" / "r"
    script(tmp_path / "mine.py", 1e-3, 0.05, ACTS=["b", "c", "a"])
    run = start("resume", "r", "--changed-script", "--adopt", "space", cwd=tmp_path)
    until(lambda: facts(folder, "Adopted"))
    kill_hard(run)
    again = ("resume", "r", "--changed-script", "--adopt", "space")  # twice does no harm
    run = start(*again, cwd=tmp_path)
    until(lambda: sum(f["config"]["lr"] == 0.05 for f in facts(folder, "Started")) == 2)
    kill_hard(run)
    (tmp_path / "hold" / "2").unlink()
    done = cli("resume", "r", cwd=tmp_path)
    assert done.status == 0, done.err
    assert "space.lr" not in done.err, "it is what the script declares"
    journal = facts(folder)
    (n,) = [i for i, fact in enumerate(journal) if fact["fact"] == "Adopted"]
    before = [f["config"] for f in journal[:n] if f["fact"] == "Started"]
    after = [f["config"] for f in journal[n:] if f["fact"] == "Started"]
    assert all(0.1 <= config["lr"] <= 0.5 for config in before)
    assert all(1e-3 <= config["lr"] <= 0.05 for config in after)
    assert len(after) >= 12
    assert check_run(folder) == []
    record = json.loads((folder / "experiment.json").read_text())
    assert record["settings"]["space"]["lr"]["high"] == 0.5, "the record keeps what the run began with"
    for words in (["status", "r"], ["report", "r"], ["export", "r", "--out", "m.csv"], ["best", "r"]):
        told_of = cli(*words, cwd=tmp_path)
        assert told_of.status == 0, (words, told_of.err)
    best = json.loads((folder / "summary.json").read_text())["best_member"]
    assert "clipped to the space adopted since" in cli_here("lineage", "r", best, cwd=tmp_path).out
    assert cli_here("best", "r", "--export", "out", cwd=tmp_path).status == 0
    assert json.loads((tmp_path / "out" / "lineage.json").read_text())["settings"]["space"]["lr"]["high"] == 0.05
    replayed = cli("replay", "r", "-q", cwd=tmp_path)
    assert replayed.status == 0, replayed.err


def test_members_whose_configs_are_clipped_are_named(tmp_path: Path) -> None:
    killed(tmp_path)
    (tmp_path / "hold" / "2").unlink()
    script(tmp_path / "mine.py", 1e-3, 0.05)
    done = cli("resume", "r", "--changed-script", "--adopt", "space", cwd=tmp_path)
    assert done.status == 0, done.err
    assert "in the script now: adopted from now on" in done.err
    assert "14 members lie outside the adopted space: members 12, 13, not trained yet, train with a clipped one; " in (
        done.err
    )
    again = cli("resume", "r", "--adopt", "space", cwd=tmp_path)
    assert again.status == 0
    assert "r has ended: nothing is adopted" in again.err


@pytest.mark.parametrize(
    ("words", "adopt", "said"),
    [
        ({"ACTS": ["a", "c"]}, "space", "an option cannot be taken out of a run under way (act: 'b'); begin a new run"),
        ({"POPULATION": 9}, "population", "population cannot be adopted by a run under way: the tree has grown by it"),
    ],
)
def test_a_refused_adoption_changes_nothing(tmp_path: Path, words: dict[str, Any], adopt: str, said: str) -> None:
    killed(tmp_path)
    folder = tmp_path / "runs" / "r"
    before = facts(folder)
    script(tmp_path / "mine.py", 0.1, 0.5, **words)
    refused = cli("resume", "r", "--changed-script", "--adopt", adopt, cwd=tmp_path)
    assert refused.status == 2
    assert f"--adopt {adopt}: {said}" in refused.err
    assert facts(folder) == before
    (tmp_path / "hold" / "2").unlink()
    script(tmp_path / "mine.py", 0.1, 0.5)
    assert cli("resume", "r", cwd=tmp_path).status == 0, "and the former script is still the run's"


async def test_an_application_adopts_by_the_same_machinery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path / "trainer_of_mine.py", 0.1, 0.5)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    import trainer_of_mine as mine  # type: ignore[import-not-found]

    def experiment(high: float, **more: Any) -> gpbt.Experiment:
        space = {"lr": gpbt.Float(1e-3, high, log=True), "act": gpbt.Choice(["a", "b"])}
        given = {"population": 4, "generations": 3, "searcher": "random", "resources": gpbt.Resources(gpus=0), **more}
        return gpbt.Experiment(mine.train, space=space, score="loss", mode="min", **given)

    async with gpbt.Run(experiment(0.5), "r", slots=2) as run:
        async for event in run:
            if isinstance(event, events.Published):
                break
    async with gpbt.Run(experiment(0.01, population=5), "r", resume="must", adopt=("space",)) as run:
        await run.wait()
    lr = "space.lr was Float(0.001, 0.5, log=True) and is Float(0.001, 0.01, log=True) in the experiment now"
    assert f"{lr}: adopted from now on" in run.warnings
    assert any(
        text.startswith("population was 4 and is 5 in the experiment now: the run goes on") for text in run.warnings
    )
    settled = {m.id: m for m in run.engine.tree.members if m.state is State.FINISHED}
    assert len(settled) == 12
    late = [f for f in facts(tmp_path / "r", "Started") if f["path"].count("/") == 2]
    assert all(f["config"]["lr"] <= 0.01 for f in late)
    assert check_run(tmp_path / "r") == []
    with pytest.raises(ExperimentError, match="this is a new run, which has nothing to adopt"):
        async with gpbt.Run(experiment(0.5), "other", slots=2, adopt=("space",)):
            pass


def test_files_beside_the_script_that_were_edited_are_named(tmp_path: Path) -> None:
    (tmp_path / "helper_of_mine.py").write_text("K = 1\n")
    script(tmp_path / "mine.py", 0.1, 0.5)
    (tmp_path / "mine.py").write_text("import helper_of_mine\n" + (tmp_path / "mine.py").read_text())
    (tmp_path / "hold").mkdir()
    (tmp_path / "hold" / "0").touch()
    run = start("launch", "mine.py", "--name", "r", "--slots", 2, cwd=tmp_path)
    until(lambda: facts(tmp_path / "runs" / "r", "Entered"))
    kill_hard(run)
    (tmp_path / "hold" / "0").unlink()
    (tmp_path / "helper_of_mine.py").write_text("K = 2\n")
    run = start("resume", "r", cwd=tmp_path)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    assert "helper_of_mine.py, which the script imports, was edited since the run began: the new code trains" in err


def test_choose_by_is_adopted_until_a_member_of_the_last_generation_has_finished() -> None:
    driver = Driver(settings(population=3, generations=2), 1, random.Random(0))
    declared = replace(driver.settings, choose_by=("holdout", "min"))
    record = RunConfig("r", "here", settings=driver.settings, declared=driver.settings)
    driver.open()
    while not driver.engine.tree.generations[-1].members:
        driver.turn()
    said: list[str] = []
    changes = compare(record, driver.engine, declared, ("choose_by",), True, said.append)
    assert changes == {"choose_by": ["holdout", "min"]}
    assert "choose_by was None and is ['holdout', 'min'] in the script now: adopted from now on" in said
    while not driver.engine.tree.generations[-1].ranking:
        driver.turn()
    with pytest.raises(ExperimentError, match="--adopt choose_by: members of the last generation have finished"):
        compare(record, driver.engine, declared, ("choose_by",), True, said.append)
