"""The space: whatever is drawn, moved or clipped lies inside, on the grid, in the dimension's own type."""

from __future__ import annotations

import inspect
import json
import math
import os
import random
import subprocess
import sys
import types

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from strategies import dimensions, floats, ints, seeds, spaces, units

from gpbt_async.errors import ExperimentError
from gpbt_async.space import Choice, Float, Int, Space, reflect


def inside(d, value):
    if isinstance(d, Choice):
        return any(type(value) is type(o) and value == o for o in d.options)
    if type(value) is not (float if isinstance(d, Float) else int) or not d.low <= value <= d.high:
        return False
    if d.step is None:
        return True
    steps = (value - d.low) / d.step
    return abs(steps - round(steps)) < 1e-6 * max(1.0, abs(d.low / d.step)) or value == d.high


def within(space, config):
    constant = all(same(config[name], value) for name, value in space.constants.items())
    return list(config) == list(space.names) and constant and all(inside(d, config[name]) for name, d in space.items())


def same(one, other):
    return type(one) is type(other) and one == other


# ---- properties


@given(floats() | ints(), st.floats(allow_nan=False) | st.integers())
@example(Float(0.0, 1.0), 10**400)
@example(Int(0, 9), 10**400)
@example(Int(0, 9), -math.inf)
def test_clip_ends_inside_and_changes_nothing_twice(d, value):
    clipped = d.clip(value)
    assert inside(d, clipped)
    assert d.clip(clipped) == clipped


@given(ints(), st.data())
def test_clip_goes_to_the_nearest_integer_of_the_grid(d, data):
    value = data.draw(st.integers(d.low, d.high))
    last = d.low + (d.high - d.low) // d.step * d.step
    assert abs(d.clip(value) - value) * 2 <= d.step or d.clip(value) == last < value


@given(dimensions, units)
@example(Float(5e-324, 1e-30, log=True), 1.0)
@example(Float(1e-149, 1e150, log=True), 1.0)
@example(Float(-8e307, 8e307), 1.0)
def test_from_unit_is_inside_and_to_unit_too(d, u):
    value = d.from_unit(u)
    assert inside(d, value)
    assert 0.0 <= d.to_unit(value) <= 1.0


@given(dimensions)
def test_the_borders_of_the_unit_interval_are_the_borders_of_the_dimension(d):
    first, last = d.from_unit(0.0), d.from_unit(1.0)
    if isinstance(d, Choice):
        assert (first, last) == (d.options[0], d.options[-1])
        return
    assert first == d.low
    if d.step is not None:
        assert last == d.clip(d.high)
        assert d.high - last < d.step
    else:
        assert d.high - last <= 1e-9 * max(abs(d.low), abs(d.high))


@given(dimensions, units, units)
def test_from_unit_never_decreases(d, u, v):
    low, high = d.from_unit(min(u, v)), d.from_unit(max(u, v))
    if isinstance(d, Choice):
        assert d.index(low) <= d.index(high)
    else:
        assert low <= high


@given(dimensions, units)
def test_decoding_gives_back_what_was_encoded(d, u):
    value = d.from_unit(u)
    again = d.from_unit(d.to_unit(value))
    if isinstance(d, Choice | Int) or d.step is not None:
        if isinstance(d, Int) and d.log:  # a double's logarithm tells 13 digits apart, not more
            assert abs(again - value) <= max(d.step if again != value and value > 1e9 else 0, 1e-12 * value)
        else:
            assert again == value
    else:
        # as exact as doubles are: relative to the value on a logarithmic scale, to the bounds on a linear one
        size = value if d.log else max(abs(d.low), abs(d.high))
        assert math.isclose(again, value, rel_tol=1e-11, abs_tol=1e-12 * size + 1e-300)


@given(floats() | ints(), units, st.sampled_from([0.8, 1.2]))
def test_scale_stays_inside(d, u, factor):
    assert inside(d, d.scale(d.from_unit(u), factor))


@given(spaces, seeds, st.floats(1e-3, 10.0), units)
def test_sampling_and_moving_stay_inside_and_change_nothing(space, seed, width, chance):
    config = space.sample(random.Random(seed))
    assert within(space, config)
    before = dict(config)
    for moved in (
        space.perturb(config, random.Random(seed), chance),
        space.step(config, random.Random(seed), width, chance),
        space.clip(config),
        space.decode(space.encode(config)),
    ):
        assert within(space, moved)
    assert config == before
    assert space.clip(config) == config


@given(spaces, seeds)
def test_draws_go_by_name_whatever_the_order_of_the_declaration(space, seed):
    other = Space({name: space[name] if name in space else space.constants[name] for name in reversed(space.names)})
    config = space.sample(random.Random(seed))
    assert other.sample(random.Random(seed)) == config
    assert other.perturb(config, random.Random(seed)) == space.perturb(config, random.Random(seed))
    assert other.step(config, random.Random(seed), 0.1, 0.5) == space.step(config, random.Random(seed), 0.1, 0.5)
    assert list(other.sample(random.Random(seed))) == list(other.names)


@given(spaces, seeds)
def test_json_gives_an_equal_space_back(space, seed):
    again = Space.from_json(json.loads(json.dumps(space.to_json())))
    assert again == space
    assert (list(again), again.names) == (list(space), space.names)
    assert repr(again) == repr(space), "types too: 1, 1.0 and True are three options"
    config = space.sample(random.Random(seed))
    assert again.sample(random.Random(seed)) == config == json.loads(json.dumps(config))


@given(st.floats(-1e6, 1e6))
def test_reflect_folds_into_the_unit_interval(u):
    assert 0.0 <= reflect(u) <= 1.0
    if 0.0 <= u <= 1.0:
        assert reflect(u) == u
    assert reflect(-u) == reflect(u)


# ---- examples


def test_a_category_keeps_its_type():
    d = Choice([1, 1.0, True, "1", None])
    assert [repr(d.clip(o)) for o in (1, 1.0, True, "1", None)] == ["1", "1.0", "True", "'1'", "None"]
    assert [d.index(o) for o in d.options] == [0, 1, 2, 3, 4]


def test_every_grid_point_is_equally_likely_and_log_is_logarithmic():
    rng = random.Random(1)
    drawn = [Int(0, 3).from_unit(rng.random()) for _ in range(4000)]
    assert all(drawn.count(i) == pytest.approx(1000, rel=0.1) for i in range(4))
    drawn = [Float(1e-4, 1.0, log=True).from_unit(rng.random()) for _ in range(4000)]
    assert sum(x < 1e-2 for x in drawn) == pytest.approx(2000, rel=0.1)
    assert Float(0.1, 0.5, step=0.1).from_unit(1.0) == pytest.approx(0.5)
    assert {round(Float(0.1, 0.5, step=0.1).from_unit(i / 50), 9) for i in range(51)} == {0.1, 0.2, 0.3, 0.4, 0.5}


def test_scale_moves_by_a_step_at_least():
    assert Int(1, 8).scale(2, 1.2) == 3
    assert Int(1, 8).scale(2, 0.8) == 1
    assert Int(1, 8).scale(1, 0.8) == 1
    assert Float(0.0, 1.0, step=0.25).scale(0.5, 1.2) == 0.75
    assert Choice(["a", "b", "c"]).scale("b", 1.2) == "c"
    assert Choice(["a", "b", "c"]).scale("c", 1.2) == "c"
    assert Choice(["a", "b", "c"]).scale("b", 0.8) == "a"


def test_subclasses_of_plain_types_become_plain():
    """numpy's float64 is a float and a str Enum is a str, but JSON knows neither."""
    np = pytest.importorskip("numpy")
    d = Choice([np.float64(0.5), np.str_("a"), 2])
    assert [type(o) for o in d.options] == [float, str, int]
    assert d.index(0.5) == 0
    assert type(Float(np.float64(0), np.float64(1), step=np.float64(0.5)).step) is float


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"x": 0.5}, "the config and the space differ in c"),
        ({"x": 0.5, "c": 1, "z": 1, "y": 2}, "the config and the space differ in y, z"),
        ({"x": "a", "c": 1}, "x: 'a' is not a number"),
        ({"x": True, "c": 1}, "x: True is not a number"),
        ({"x": math.nan, "c": 1}, "x: nan is not a number"),
        ({"x": None, "c": 1}, "x: None is not a number"),
        ({"x": 0.5, "c": 1.0}, r"c: 1.0 is none of \[1, 2\]"),
        ({"x": 0.5, "c": [1]}, r"c: \[1\] is none of \[1, 2\]"),
    ],
)
def test_clip_says_what_is_wrong(config, says):
    with pytest.raises(ValueError, match=f"^{says}$"):
        Space({"x": Float(0, 1), "c": Choice([1, 2])}).clip(config)


# ---- declaration errors


@pytest.mark.parametrize(
    ("declare", "says"),
    [
        (lambda: Float(1, 0), "Float: got (1, 0); low must be less than high"),
        (lambda: Float(1, 1), "Float: got (1, 1); low must be less than high"),
        (lambda: Float(0, math.inf), "Float: got (0, inf); both bounds must be finite numbers"),
        (lambda: Float(math.nan, 1), "Float: got (nan, 1); both bounds must be finite numbers"),
        (lambda: Float("0", 1), "Float: got ('0', 1); both bounds must be finite numbers"),
        (lambda: Float(True, 2), "Float: got (True, 2); both bounds must be finite numbers"),
        (lambda: Float(0, 10**400), "both bounds must be finite numbers"),
        (lambda: Float(-1e308, 1e308), "Float: got (-1e+308, 1e+308); high - low must be finite"),
        (lambda: Float(1e-200, 1e200, log=True), "with log=True high / low must be less than 1e300"),
        (lambda: Float(0, 1, log=True), "Float: got 0; with log=True low must be greater than 0"),
        (lambda: Float(0, 1, step=0), "Float.step: got 0; must be greater than 0 and at most high - low"),
        (lambda: Float(0, 1, step=2), "Float.step: got 2; must be greater than 0 and at most high - low"),
        (lambda: Float(0, 1, step="a"), "Float.step: got 'a'; must be greater than 0 and at most high - low"),
        (lambda: Float(0, 1, step=1e-300), "Float.step: got 1e-300; makes more than 1e9 steps: leave it out"),
        (lambda: Int(0, 1.5), "Int: got (0, 1.5); both bounds must be whole numbers"),
        (lambda: Int(False, 3), "Int: got (False, 3); both bounds must be whole numbers"),
        (lambda: Int(3, 3), "Int: got (3, 3); low must be less than high"),
        (lambda: Int(0, 3, log=True), "Int: got 0; with log=True low must be at least 1"),
        (lambda: Int(0, 3, step=0), "Int.step: got 0; must be a whole number from 1 to high - low"),
        (lambda: Int(0, 3, step=4), "Int.step: got 4; must be a whole number from 1 to high - low"),
        (lambda: Int(0, 3, step=1.5), "Int.step: got 1.5; must be a whole number from 1 to high - low"),
        (lambda: Int("1", 3), "Int: got ('1', 3); both bounds must be whole numbers, not text: write 1 without quotes"),
        (lambda: Float("1e-3", "1e-1"), "both bounds must be finite numbers, not text: write 1e-3 without quotes"),
        (lambda: Float(0.1, 1e-5), "got (0.1, 1e-05); low must be less than high: did you mean Float(1e-05, 0.1)?"),
        (lambda: Float(0.1, 0.1), "for a constant give the value itself, 0.1, instead of a Float"),
        (lambda: Float(np.float32(math.nan), 1), "both bounds must be finite numbers"),
        (lambda: Choice("abc"), "Choice: got 'abc'; must be a list of options"),
        (lambda: Choice(3), "Choice: got 3; must be a list of options"),
        (lambda: Choice({"a", "b"}), "must be a list of options"),
        (lambda: Choice([]), "Choice: got []; needs at least one option"),
        (lambda: Choice([1, 2, 1]), "Choice: got [1, 2, 1]; no two options may be alike"),
        (lambda: Choice([1, np.int64(1)]), "Choice: got [1, 1]; no two options may be alike"),
        (lambda: Choice([1, math.nan]), "Choice: got nan; an option must be a str, int, finite float, bool or None"),
        (lambda: Choice([[1], [2]]), "Choice: got [1]; an option must be a str, int, finite float, bool or None"),
        (lambda: Choice([print, 1]), "name the thing and look it up in train"),
        (lambda: Space({}), "space: got {}; must be a non-empty dict, name: Float, Int or Choice (or a constant)"),
        (lambda: Space([("a", Int(0, 1))]), "must be a non-empty dict, name: Float, Int or Choice (or a constant)"),
        (lambda: Space({"a": math.inf}), "space['a']: got inf; a constant must be finite, or JSON cannot say it"),
        (
            lambda: Space({"a": object()}),
            "must be gpbt.Float(low, high), gpbt.Int(low, high), gpbt.Choice([...]), or a",
        ),
        (lambda: Space({1: Int(0, 1)}), "space: got 1; a hyperparameter's name must be a non-empty string"),
        (lambda: Space({"": Int(0, 1)}), "space: got ''; a hyperparameter's name must be a non-empty string"),
    ],
)
def test_a_wrong_declaration_names_line_field_value_and_remedy(declare, says):
    with pytest.raises(ExperimentError) as caught:
        declare()
    line = declare.__code__.co_firstlineno
    assert str(caught.value).startswith(f"{os.path.basename(__file__)}:{line}: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- constants


def test_a_constant_is_in_every_config_and_is_not_searched():
    space = Space({"epochs": 3, "lr": Float(0, 1), "act": "relu", "opt": Choice(["sgd"]), "clip": None})
    assert list(space) == ["lr"]
    assert space.constants == {"epochs": 3, "act": "relu", "opt": "sgd", "clip": None}
    for config in (space.sample(random.Random(0)), space.decode([0.5]), space.clip({"lr": 0.5})):
        assert list(config) == ["epochs", "lr", "act", "opt", "clip"]
        assert config == {"epochs": 3, "lr": config["lr"], "act": "relu", "opt": "sgd", "clip": None}
    assert space.encode(space.sample(random.Random(0))) == [space.sample(random.Random(0))["lr"]]
    assert space.searched({"epochs": 3, "lr": 0.5}) == {"lr": 0.5}
    assert "epochs" not in space


@given(spaces, seeds)
def test_a_constant_changes_nothing_that_is_drawn(space, seed):
    assume(len(space) > 0)
    alone = Space(dict(space))
    assert space.searched(space.sample(random.Random(seed))) == alone.sample(random.Random(seed))
    config = space.sample(random.Random(seed))
    moved = space.step(config, random.Random(seed), 0.1, 0.5)
    assert space.searched(moved) == alone.step(space.searched(config), random.Random(seed), 0.1, 0.5)


def test_spaces_that_differ_in_a_constant_are_not_equal():
    assert Space({"a": 1, "b": Int(0, 1)}) == Space({"b": Int(0, 1), "a": Choice([1])})
    for other in ({"a": 2, "b": Int(0, 1)}, {"a": 1.0, "b": Int(0, 1)}, {"a": True, "b": Int(0, 1)}, {"b": Int(0, 1)}):
        assert Space({"a": 1, "b": Int(0, 1)}) != Space(other)


def test_a_space_of_constants_alone_has_one_config():
    space = Space({"lr": 0.1})
    assert len(space) == 0
    assert space.sample(random.Random(0)) == space.perturb({}, random.Random(0)) == space.clip({}) == {"lr": 0.1}
    assert space.encode({"lr": 0.1}) == []


# ---- numpy and torch


def test_scalars_of_numpy_become_plain():
    space = Space(
        {
            "f": Float(np.float32(0.25), np.float64(0.5), step=np.float32(0.125)),
            "i": Int(np.int64(1), np.array(9), step=np.int8(2)),
            "c": Choice(np.array([1, 2, 4])),
            "t": Choice([np.bool_(True), np.str_("a"), np.float16(0.5), None]),
            "k": np.int32(3),
            "s": np.str_("text"),
        }
    )
    config = space.sample(random.Random(1))
    assert all(type(value) in (int, float, str, bool, type(None)) for value in config.values())
    assert {type(option) for option in space["t"].options} == {bool, str, float, type(None)}
    assert (type(space["f"].low), type(space["i"].high), type(space["i"].step)) == (float, int, int)
    assert json.loads(json.dumps(space.to_json())) == space.to_json()
    assert Space.from_json(json.loads(json.dumps(space.to_json()))) == space


def test_a_tensor_of_one_value_is_a_bound_too():
    torch = pytest.importorskip("torch")
    assert Float(torch.tensor(0.25), torch.tensor(0.5)) == Float(0.25, 0.5)


def test_whole_floats_are_bounds_of_an_int():
    dimension = Int(1e1, 1e3, step=5.0)
    assert dimension == Int(10, 1000, step=5)
    assert [type(value) for value in (dimension.low, dimension.high, dimension.step)] == [int] * 3


# ---- what is none of ours


def foreign(module, name="Distribution", **attributes):
    """An object as another tuner's module makes them."""
    return type(name, (), {"__module__": module, **attributes})()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["sgd", "adam"], "did you mean gpbt.Choice(['sgd', 'adam'])?"),
        ((1e-4, 1e-1), "did you mean gpbt.Float(0.0001, 0.1, log=True), or gpbt.Choice([0.0001, 0.1])?"),
        ((0.0, 1.0), "did you mean gpbt.Float(0.0, 1.0), or"),
        ((1, 8), "did you mean gpbt.Int(1, 8), or gpbt.Choice([1, 8])?"),
        (("a", "b"), "did you mean gpbt.Choice(['a', 'b'])?"),
        ([np.int64(1), np.int64(2)], "did you mean gpbt.Choice([1, 2])?"),
        (range(3), "did you mean gpbt.Choice of it?"),
        (np.linspace(0, 1, 3), "did you mean gpbt.Choice of it?"),
        ({"min": 0.1, "max": 0.2}, "did you mean gpbt.Float(0.1, 0.2)?"),
        ({"values": [1, 2]}, "did you mean gpbt.Choice([1, 2])?"),
        ({"value": 3}, "for a constant give the value itself: 3"),
        ({"lr": Float(0, 1)}, "a space is flat"),
        (Float, "is not called: give its arguments, gpbt.Float(...)"),
        (types.SimpleNamespace, "is a class: name it (the text 'SimpleNamespace'), and look the name up in train"),
        (random.random, "is a function: give gpbt.Float(low, high)"),
        (foreign("optuna.distributions", low=1e-4, high=0.1, log=True), "Optuna's, and this space takes its "
         "own: did you mean gpbt.Float(0.0001, 0.1, log=True)?"),
        (foreign("optuna.distributions", choices=("a", "b")), "did you mean gpbt.Choice(['a', 'b'])?"),
        (foreign("ray.tune.search.sample", lower=1, upper=9, sampler=foreign("ray", "_LogUniform")), "is Ray "
         "Tune's, and this space takes its own: did you mean gpbt.Int(1, 9, log=True)?"),
        (foreign("hyperopt.pyll.base", "Apply"), "is hyperopt's, and this space takes its own: gpbt.Float("),
        (foreign("scipy.stats._distn_infrastructure"), "is SciPy's, and this space takes its own: gpbt.Float("),
    ],
)  # fmt: skip
def test_what_was_meant_is_said(given, says):
    with pytest.raises(ExperimentError) as caught:
        Space({"x": given})
    assert "space['x']: got " in str(caught.value)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_real_objects_of_other_tuners_are_known():
    optuna, hyperopt = pytest.importorskip("optuna"), pytest.importorskip("hyperopt")
    for theirs, says in (
        (
            optuna.distributions.IntDistribution(1, 8),
            "Optuna's, and this space takes its own: did you mean gpbt.Int(1, 8)?",
        ),
        (hyperopt.hp.loguniform("x", -3, 0), "is hyperopt's"),
    ):
        with pytest.raises(ExperimentError) as caught:
            Space({"x": theirs})
        assert says in str(caught.value)


@pytest.mark.parametrize(
    ("declare", "says"),
    [
        (lambda: Float(0, 1, logg=True), "Float: unknown argument 'logg': did you mean 'log'?"),
        (lambda: Float(min=0, max=1), "Float: unknown argument 'min': did you mean low?"),
        (lambda: Float(0, 1, q=0.1), "Float: unknown argument 'q': did you mean step?"),
        (lambda: Float(0), "Float: needs high=..."),
        (lambda: Int(), "Int: needs low=... and high=..."),
        (lambda: Int(0, 1, False, 1, 5), "Int: takes 4 arguments by place (low, high, log, step), and got 5"),
        (lambda: Int(0, 1, colour=1), "Int: unknown argument 'colour': there are low, high, log, step"),
        (lambda: Choice(values=[1, 2]), "Choice: unknown argument 'values': did you mean options?"),
        (lambda: Choice("a", "b"), "Choice: takes 1 argument by place (options), and got 2"),
    ],
)
def test_a_wrong_argument_is_named(declare, says):
    with pytest.raises(ExperimentError) as caught:
        declare()
    assert str(caught.value).startswith(f"{os.path.basename(__file__)}:")
    assert says in str(caught.value)


def test_editors_see_the_signature_that_is_written():
    assert str(inspect.signature(Float)).startswith("(low: 'float', high: 'float', log: 'bool' = False, step:")


def test_the_line_is_the_scripts_own(tmp_path):
    script = tmp_path / "mine.py"
    script.write_text("import gpbt_async.space as s\n\nspace = s.Space({\n    'lr': s.Float(\n        1.0, 0.1),\n})\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].endswith(
        "ExperimentError: mine.py:4: Float: got (1.0, 0.1); low must be less than high: did you mean Float(0.1, 1.0)?"
    )
