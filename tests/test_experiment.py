"""The declaration: what is refused, in which words, and that JSON carries all of the rest."""

from __future__ import annotations

import functools
import json
import math
import os
import random
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import seeds, spaces

from gpbt_async.ask import Ask, Observation, path_of, path_text
from gpbt_async.declaration.resources import Resources
from gpbt_async.declaration.target import target_of
from gpbt_async.errors import ExperimentError
from gpbt_async.experiment import HISTORIES, ORDERS, PLACEHOLDERS, SEARCHERS, SELECTIONS, Experiment, Settings
from gpbt_async.space import Float, Int, Space

SPACE = {"lr": Float(1e-4, 1.0, log=True), "n": Int(1, 8)}


def train(member):
    """What the tests train."""


def wrapped(function):
    @functools.wraps(function)
    def wrapper(member):
        return function(member)

    return wrapper


@wrapped
def decorated(member):
    """A training function behind a decorator."""


async def asynchronous(member):
    """Would never run."""


def generating(member):
    yield


def of_nothing():
    """Takes no member."""


def of_two(member, data):
    """Takes too much."""


def by_keyword(*, member):
    """Takes it by name only."""


def with_defaults(member, data=None, *rest, device="cpu", **more):
    """Takes more than it must."""


def of_anything(*args):
    """Takes it."""


def giving(function):
    """A decorator that gives an argument itself."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, data=1, **kwargs)

    return wrapper


@giving
def given_data(member, data):
    """Gets one from its decorator."""


class Trainer:
    def __call__(self, member):
        pass

    def train(self, member):
        pass

    @staticmethod
    def static(member):
        pass


def declare(**changes):
    return Experiment(**{"train": train, "space": SPACE, "score": "accuracy", "mode": "max", **changes})


# ---- what is declared arrives


def test_the_defaults():
    settings = declare().settings
    assert (settings.population, settings.generations, settings.searcher, settings.mode) == (25, 10, "local", "max")
    assert settings.parents == 5
    assert settings.target is not None
    assert (settings.target.file, settings.target.qualname) == (os.path.abspath(__file__), "train")
    assert settings.target.module == __name__
    assert repr(declare()) == "Experiment(train, population=25, generations=10)"


@given(
    spaces,
    st.fixed_dictionaries(
        {},
        optional={
            "mode": st.sampled_from(["max", "min"]),
            "population": st.integers(1, 1000),
            "generations": st.integers(1, 100),
            "ratio": st.floats(1e-6, 1e6),
            "searcher": st.sampled_from((*SEARCHERS, "mine:Own", "a.b_2:Outer.Inner")),
            "history": st.sampled_from(HISTORIES),
            "selection": st.sampled_from(SELECTIONS),
            "schedule": st.sampled_from(ORDERS),
            "evidence": st.floats(0.0, 1.0),
            "choose_by": st.sampled_from([None, "none", "holdout_loss", "fit:min", ("fit", "max"), ["fit", "min"]]),
            "seed": st.integers(0, 2**80),
            "attempts": st.integers(1, 9),
            "resources": st.builds(Resources, gpus=st.sampled_from([0, 1]), cpus=st.none() | st.integers(1, 64)),
        },
    ),
    st.booleans(),
)
def test_json_gives_equal_settings_back(space, changes, by_command):
    what = {"train": None, "command": ["./solve", "{checkpoint}"]} if by_command else {}
    assume(not set(PLACEHOLDERS) & set(space.names))
    experiment = declare(space=space, **what, **changes)
    again = Settings.from_json(json.loads(json.dumps(experiment.to_json())))
    assert again == experiment.settings
    assert again.to_json() == experiment.to_json()
    assert again.parents == experiment.settings.parents


@pytest.mark.parametrize(
    ("n", "c", "k"),
    [(25, 1.0, 5), (72, 0.5, 12), (4, 4.0, 1), (36, 1.0, 6), (72, 72 / 256, 16), (1, 1.0, 1), (1, 100.0, 1),
     (10, 1e-300, 10), (10, 5e-324, 10), (25, 0.25, 10), (2, 1e300, 1), (1000, 1.0, 31)],
)  # fmt: skip
def test_the_number_of_parents(n, c, k):
    assert declare(population=n, ratio=c).settings.parents == k


@given(st.integers(1, 10**6), st.floats(1e-9, 1e9))
def test_the_number_of_parents_is_the_papers(n, c):
    k = declare(population=n, ratio=c).settings.parents
    assert 1 <= k <= n
    assert k == min(n, max(1, math.floor(math.sqrt(n / c))))


def test_replaced_is_checked_again():
    settings = declare().settings
    assert settings.replaced(population=9).population == 9
    assert settings.replaced(population=9).space is settings.space
    with pytest.raises(ExperimentError, match="population: got 0; must be a whole number of at least 1"):
        settings.replaced(population=0)


# ---- what is refused


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: declare(score=""), "score: got ''; must be the name of a reported metric"),
        (lambda: declare(score=3), "score: got 3; must be the name of a reported metric"),
        (lambda: declare(score=" "), "score: got ' '; must be the name of a reported metric"),
        (lambda: declare(score=["loss", "acc"]), "e.g. score='accuracy': one, by which members are ranked"),
        (lambda: declare(score="loss "), "score: got 'loss '; begins or ends with a space: did you mean 'loss'?"),
        (
            lambda: declare(mode=None, score="score"),
            "mode: not given, and the name of the score 'score' does not say "
            "which way is better: add mode='max' or mode='min'",
        ),
        (lambda: declare(mode=None, score=3), "score: got 3; must be the name of a reported metric"),
        (
            lambda: declare(validate=lambda member: None),
            "<lambda>'; must be defined with def at the top level of a file",
        ),
        (lambda: declare(validate=len), "validate: got <built-in function len>; must be a plain function"),
        (lambda: declare(evaluate=train), "unknown argument 'evaluate': did you mean validate?"),
        (
            lambda: Experiment(command=["./solver"], space=SPACE, score="loss", mode="min", validate=train),
            "validate: needs a training function, and this experiment declares a command",
        ),
        (lambda: declare(populaton=4), "Experiment: unknown argument 'populaton': did you mean 'population'?"),
        (lambda: declare(metric="loss"), "Experiment: unknown argument 'metric': did you mean score?"),
        (lambda: declare(gpus=1), "unknown argument 'gpus': give it by resources=gpbt.Resources(...)"),
        (lambda: declare(slots=2), "unknown argument 'slots': it is an option of gpbt-async launch"),
        (
            lambda: Experiment(train, SPACE, "loss"),
            "Experiment: takes 1 argument by place (train), and got 3: give the rest by name, as space=...",
        ),
        (lambda: Experiment(train, space=SPACE), "Experiment: needs score=..."),
        (lambda: Experiment(train), "Experiment: needs space=... and score=..."),
        (lambda: Resources(gpu=1), "Resources: unknown argument 'gpu': did you mean gpus?"),
        (lambda: Resources(shares=2), "Resources: unknown argument 'shares': did you mean 'share'?"),
        (lambda: declare(searcher="optuna:cma"), "did you mean 'optuna:cmaes'?"),
        (
            lambda: declare(train=of_nothing),
            "train: got of_nothing(); must take one argument, the member: def",
        ),
        (
            lambda: declare(train=of_two),
            "train: got of_two(member, data); must take one argument, the member: def "
            "of_two(member): ...; give data a default, or make it in there",
        ),
        (lambda: declare(train=by_keyword), "train: got by_keyword(*, member); must take one argument, the member"),
        (lambda: declare(train=Trainer.train), "train: got train(self, member); is a method, and must be a plain"),
        (lambda: declare(mode="maximise"), "mode: got 'maximise'; must be one of 'max', 'min'"),
        (lambda: declare(population=0), "population: got 0; must be a whole number of at least 1"),
        (lambda: declare(population=2.0), "population: got 2.0; must be a whole number of at least 1"),
        (lambda: declare(population=True), "population: got True; must be a whole number of at least 1"),
        (lambda: declare(generations=-1), "generations: got -1; must be a whole number of at least 1"),
        (lambda: declare(attempts=0), "attempts: got 0; must be a whole number of at least 1"),
        (lambda: declare(seed=-1), "seed: got -1; must be a whole number of at least 0"),
        (lambda: declare(seed=None), "seed: got None; must be a whole number of at least 0"),
        (lambda: declare(ratio=0), "ratio: got 0; must be a number greater than 0"),
        (lambda: declare(ratio=math.inf), "ratio: got inf; must be a number greater than 0"),
        (lambda: declare(ratio="1"), "ratio: got '1'; must be a number greater than 0"),
        (lambda: declare(ratio=10**400), "; must be a number greater than 0"),
        (lambda: declare(evidence=1.1), "evidence: got 1.1; must be a number from 0 to 1"),
        (lambda: declare(evidence=math.nan), "evidence: got nan; must be a number from 0 to 1"),
        (lambda: declare(searcher="magic"), "searcher: got 'magic'; must be one of 'local', 'tpe', 'kin', "),
        (lambda: declare(searcher="optuna:magic"), ", or 'module:Name' of a class of yours with suggest(ask)"),
        (lambda: declare(searcher="my file:Name"), "searcher: got 'my file:Name'; must be one of 'local', "),
        (lambda: declare(searcher="mine:"), "searcher: got 'mine:'; must be one of 'local', "),
        (lambda: declare(searcher=["tpe"]), "searcher: got ['tpe']; must be one of"),
        (lambda: declare(history="all"), "history: got 'all'; must be one of 'inherit', 'reset', 'global'"),
        (lambda: declare(selection="+"), "selection: got '+'; must be one of 'comma', 'plus'"),
        (lambda: declare(schedule=None), "schedule: got None; must be one of 'async', 'sync'"),
        (lambda: declare(early_stop="mean"), "early_stop: got 'mean'; must be one of 'median', 'generation'"),
        (lambda: declare(preset="papre"), "preset: got 'papre'; must be one of 'paper'"),
        (lambda: declare(stall_timeout=0), "stall_timeout: got 0; must be a number of seconds above 0, or None"),
        (lambda: declare(member_timeout="1"), "member_timeout: got '1'; must be a number of seconds above 0"),
        (lambda: declare(resources={"gpus": 1}), "resources: got {'gpus': 1}; must be gpbt.Resources(...)"),
        (lambda: Resources(gpus=-1), "resources.gpus: got -1; must be a whole number of at least 0"),
        (lambda: Resources(gpus=True), "resources.gpus: got True; must be a whole number of at least 0"),
        (lambda: Resources(share=0), "resources.share: got 0; must be a whole number of at least 1"),
        (lambda: Resources(vram="much"), "resources.vram: got 'much'; must be an amount of at least 1MiB"),
        (lambda: Resources(vram=6), "resources.vram: got 6; must be an amount of at least 1MiB with its unit"),
        (lambda: Resources(vram="6"), "resources.vram: got '6'; must be an amount of at least 1MiB with its unit"),
        (lambda: Resources(vram="1KiB"), "resources.vram: got '1KiB'; must be an amount of at least 1MiB"),
        (lambda: Resources(share=1001), "resources.share: got 1001; must be at most 1000"),
        (lambda: Resources(cpus=0), "resources.cpus: got 0; must be a whole number of at least 1"),
        (lambda: declare(space={}), "space: got {}; must be a non-empty dict"),
        (lambda: declare(space={"lr": [1, 2]}), "space['lr']: got [1, 2]; did you mean gpbt.Choice([1, 2])?"),
        (
            lambda: declare(train=None, command=["x"], space={"lr": Float(0, 1), "seed": 3}),
            "space: got 'seed'; is reserved in a command",
        ),
        (lambda: declare(space=None), "space: got None; must be a non-empty dict"),
        (lambda: declare(train=None), "train, command: got 'neither'; give exactly one"),
        (lambda: declare(command=["a"]), "train, command: got 'both'; give exactly one"),
        (lambda: declare(train=None, command="./solve --lr {lr}"), "must be a list of words, e.g. ['./solver'"),
        (lambda: declare(train=None, command=["./solve", 3]), "must be a list of words"),
        (lambda: declare(train=None, command=3), "command: got 3; must be a list of words"),
        (lambda: declare(train=None, command=[]), "command: got (); needs at least a program"),
        (lambda: declare(train=None, command=["x", "{wd}"]), "command: got '{wd}'; is no placeholder; known: lr, n, "),
        (lambda: declare(train=None, command=["x", "{}"]), "command: got '{}'; is no placeholder"),
        (lambda: declare(train=None, command=["x"], space={"seed": Int(0, 1)}), "space: got 'seed'; is reserved in a"),
        (lambda: declare(train=lambda member: None), "; must be defined with def at the top level of a file"),
        (lambda: declare(train=Trainer()), "; must be a plain function; wrap it: def train(member): ..."),
        (lambda: declare(train=Trainer().train), "; must be a plain function; wrap it"),
        (lambda: declare(train=Trainer), "; must be a plain function; wrap it"),
        (lambda: declare(train=print), "; must be a plain function; wrap it"),
        (lambda: declare(train="train"), "train: got 'train'; must be a plain function; wrap it"),
        (lambda: declare(train=functools.partial(train)), "; must be a plain function; wrap it"),
        (lambda: declare(train=asynchronous), "; must be a plain function; wrap it"),
        (lambda: declare(train=generating), "; must be a plain function; wrap it"),
    ],
)
def test_a_wrong_declaration_names_line_field_value_and_remedy(make, says):
    with pytest.raises(ExperimentError) as caught:
        make()
    assert str(caught.value).startswith(f"{os.path.basename(__file__)}:")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_commands_placeholders():
    words = ["./solve", "--lr={lr}", "{{literally}}", "{parent}", "{checkpoint}/{n}"]
    assert declare(train=None, command=words).settings.command == tuple(words)
    assert repr(declare(train=None, command=["./solve", "{lr}"])).startswith("Experiment(./solve {lr}, ")


@pytest.mark.parametrize("function", [with_defaults, of_anything, given_data, decorated])
def test_a_function_that_can_be_called_with_a_member_is_taken(function):
    assert declare(train=function).settings.target.qualname == function.__name__


def test_decorators_of_torch_keep_working(tmp_path):
    pytest.importorskip("torch")
    (tmp_path / "mine.py").write_text(
        "import torch, gpbt_async as gpbt\n@torch.no_grad()\ndef train(member): pass\n"
        "e = gpbt.Experiment(train, space={'lr': gpbt.Float(0, 1)}, score='loss')\nprint(e)\n"
    )
    done = subprocess.run([sys.executable, tmp_path / "mine.py"], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("Experiment(train, "), done.stderr


@pytest.mark.parametrize(("score", "mode"), [("val_loss", "min"), ("eval/accuracy", "max"), ("neg_log_loss", "max")])
def test_a_mode_that_the_name_tells_is_taken_and_said(score, mode):
    settings = declare(score=score, mode=None).settings
    assert (settings.mode, settings.mode_given) == (mode, False)
    way = "minimised" if mode == "min" else "maximised"
    assert settings.notice == f"mode was not given: the score {score!r} is {way}"
    again = Settings.from_json(json.loads(json.dumps(settings.to_json())))
    assert again.notice == settings.notice
    for chosen in ("max", "min"):  # either may be meant, and then nothing needs to be said
        assert declare(score=score, mode=chosen).settings.notice == ""
        assert declare(score=score, mode=chosen).settings.mode == chosen
        assert settings.replaced(mode=chosen).notice == ""


def test_settings_of_an_earlier_version_have_said_their_mode():
    old = declare().to_json()
    del old["mode_given"]
    assert Settings.from_json(old).notice == ""


def test_a_constant_is_part_of_the_declaration():
    experiment = declare(space={**SPACE, "epochs": 3, "act": "relu"})
    again = Settings.from_json(json.loads(json.dumps(experiment.to_json())))
    assert again.space.constants == {"epochs": 3, "act": "relu"}
    words = ["./solve", "{epochs}", "{lr}"]
    assert declare(train=None, command=words, space={**SPACE, "epochs": 3}).settings.command == tuple(words)


def test_numpy_scalars_are_settings():
    settings = declare(population=np.int64(9), ratio=np.float32(0.5), seed=np.uint8(3)).settings
    assert json.loads(json.dumps(settings.to_json()))["population"] == 9
    assert (type(settings.population), type(settings.ratio), settings.seed) == (int, float, 3)


def test_a_misspelt_name_of_the_package_is_said():
    import gpbt_async

    for name, meant in (("Flaot", "Float"), ("loguniform", r"Float\(low, high, log=True\)"), ("experiment_", "Exper")):
        with pytest.raises(AttributeError, match=f"has no attribute {name!r}: did you mean {meant}"):
            getattr(gpbt_async, name)
    with pytest.raises(AttributeError, match=r"has no attribute '__wrapped__'$"):
        gpbt_async.__wrapped__  # noqa: B018


def test_a_function_inside_a_function_is_refused():
    def inner(member):
        pass

    with pytest.raises(ExperimentError, match="must be defined with def at the top level of a file"):
        declare(train=inner)


def test_a_function_of_a_prompt_is_refused():
    names = {"__name__": "__main__"}
    exec(compile("def train(member): pass", "<stdin>", "exec"), names)
    with pytest.raises(ExperimentError, match="is not in a file"):
        declare(train=names["train"])


def test_a_static_method_can_be_found_and_so_can_a_decorated_function(tmp_path):
    assert target_of(Trainer.static).qualname == "Trainer.static"
    assert target_of(decorated).qualname == "decorated"
    # the decorator's file is not the function's
    (tmp_path / "decorators.py").write_text(
        "import functools\ndef wrapped(f):\n    @functools.wraps(f)\n    def g(m): return f(m)\n    return g\n"
    )
    (tmp_path / "mine.py").write_text(
        textwrap.dedent("""
            import json
            import gpbt_async.experiment as gpbt
            from gpbt_async.space import Float
            from decorators import wrapped

            @wrapped
            def train(member): pass

            e = gpbt.Experiment(train, space={"lr": Float(0, 1)}, score="x", mode="max")
            if __name__ == "__main__":
                print(json.dumps(e.to_json()["target"]))
            """)
    )
    done = subprocess.run([sys.executable, tmp_path / "mine.py"], capture_output=True, text=True, check=True)
    target = json.loads(done.stdout)
    assert (target["file"], target["module"], target["qualname"]) == (str(tmp_path / "mine.py"), None, "train")
    assert target["sys_path"][0] == str(tmp_path)


# ---- what a searcher is told


outcomes = st.sampled_from(["finished", "failed", "stopped"])
paths = st.lists(st.integers(0, 10**6), max_size=5).map(tuple)


@given(paths)
def test_a_path_is_text_and_back(path):
    assert path_of(path_text(path)) == path


@given(spaces, seeds, st.lists(st.tuples(paths, outcomes, st.none() | st.floats(allow_nan=False)), max_size=4), paths)
def test_an_ask_is_json_and_back(space, seed, told, path):
    rng = random.Random(seed)
    kin = tuple(Observation(p, len(p), space.sample(rng), outcome, loss) for p, outcome, loss in told)
    ask = Ask(space, path, 1, seed, kin[0] if kin else None, kin, (space.sample(rng),))
    again = Ask.from_json(space, json.loads(json.dumps(ask.to_json())))
    assert again == ask
    assert repr(again) == repr(ask)


def test_the_space_of_an_experiment_may_be_a_space():
    space = Space(SPACE)
    assert declare(space=space).settings.space is space


# ---- the final choice


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (None, None),
        ("none", None),
        ("holdout_loss", ("holdout_loss", "min")),
        ("test/acc", ("test/acc", "max")),
        ("fit:max", ("fit", "max")),
        ("odd:name:min", ("odd:name", "min")),
        (("fit", "min"), ("fit", "min")),
        (["holdout_loss", None], ("holdout_loss", "min")),
    ],
)
def test_the_mode_of_choose_by_is_given_or_in_its_name(given, kept):
    assert declare(choose_by=given).settings.choose_by == kept
    assert declare(choose_by="loss").settings.replaced(choose_by=given).choose_by == kept


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "fit",
            "choose_by: got 'fit'; its name does not say which way is better: give ('fit', 'max') or ('fit', 'min')",
        ),
        ("accuracy", "choose_by: got 'accuracy'; is the score, by which parents are selected"),
        ((3, "max"), "choose_by: got (3, 'max'); must be the name of a reported metric"),
        (" loss", "choose_by: got ' loss'; must be the name of a reported metric"),
        (("fit", "up"), "choose_by: got 'up'; must be one of 'max', 'min'"),
    ],
)
def test_what_choose_by_refuses(given, message):
    with pytest.raises(ExperimentError, match=re.escape(message)):
        declare(choose_by=given)
    with pytest.raises(ExperimentError, match=re.escape("--choose-by: got")):
        declare().settings.with_options({"choose_by": given})
