"""The contract every searcher keeps, and what each does beyond it."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import pathlib
import random
import statistics
import subprocess
import sys
import types
from dataclasses import replace

import pytest

from gpbt_async.ask import Ask, Observation
from gpbt_async.cli.completion import searchers
from gpbt_async.errors import ExperimentError, SearcherError
from gpbt_async.experiment import SEARCHERS
from gpbt_async.searchers import grid, registry
from gpbt_async.searchers import kin as kin_module
from gpbt_async.searchers import local as local_module
from gpbt_async.searchers import optuna as optuna_module
from gpbt_async.searchers import tpe as tpe_module
from gpbt_async.space import Choice, Float, Int, Space, reflect
from gpbt_async.testing import check_searcher, check_suggestion, searcher_cases

SPACE = Space(
    {
        "lr": Float(1e-4, 1.0, log=True),
        "momentum": Float(-0.5, 0.99),
        "drop": Float(0.05, 0.9, step=0.1),
        "decay": Float(0.25, 4.0, log=True, step=0.5),
        "width": Int(16, 500, log=True),
        "batch": Int(16, 512, log=True, step=16),
        "odd": Int(3, 50, log=True, step=4),
        "layers": Int(1, 8),
        "stride": Int(-5, 9, step=3),
        "kind": Choice([1, 1.0, True, None, "relu", -2.5]),
    }
)
#: for gp, whose ask takes a second or two over all of SPACE (test_gp_in_many_dimensions asks there)
FEW = Space({"lr": SPACE["lr"], "layers": SPACE["layers"], "kind": SPACE["kind"]})


def fitting(name):
    return FEW if name == "optuna:gp" else SPACE


def kin(n, seed=0, space=SPACE, loss=None):
    rng = random.Random(seed)
    return tuple(
        Observation((i,), 0, space.sample(rng), "finished", rng.random() if loss is None else loss) for i in range(n)
    )


def pending(n, seed=99, space=SPACE):
    rng = random.Random(seed)
    return tuple(space.sample(rng) for _ in range(n))


def ask(observations=(), waiting=(), *, seed=1, generation=1, space=SPACE):
    parent = None
    if generation:
        config = observations[0].config if observations else space.sample(random.Random(7))
        parent = Observation((0,), generation - 1, config, "finished", 0.5)
    path = (0,) * generation + (2,)
    return Ask(space, path, generation, seed, parent, tuple(observations), tuple(waiting))


def failed(o):
    return replace(o, outcome="failed", loss=None)


def stopped(o, loss=0.0):
    return replace(o, outcome="stopped", loss=loss)


HISTORIES = {
    "empty": (),
    "one": kin(1),
    "two": kin(2),
    "many": kin(40),
    "ties": kin(12, loss=0.5),
    "all failed": tuple(failed(o) for o in kin(5)),
    "all stopped": tuple(stopped(o) for o in kin(5)),
    "mixed": tuple((lambda o: o, failed, stopped)[i % 3](o) for i, o in enumerate(kin(30))),
    "one good, many failed": (*kin(1), *(failed(o) for o in kin(20))),
    "not finite": tuple(replace(o, loss=x) for o, x in zip(kin(4), (math.nan, math.inf, -math.inf, 0.5), strict=True)),
    "none finite": tuple(replace(o, loss=math.nan) for o in kin(3)),
    "one config many times": kin(1) * 20,
    "huge losses": tuple(replace(o, loss=x) for o, x in zip(kin(3), (1.7e308, 1.7e308, -1.7e308), strict=True)),
    "at the borders": tuple(
        Observation((i,), 0, SPACE.decode([u] * len(SPACE)), "finished", float(i))
        for i, u in enumerate((0.0, 1.0, 0.0, 1.0, 1.0))
    ),
}


def installed(name):
    return all(importlib.util.find_spec(package) for package in registry._SEARCHERS[name].needs)


#: an extra of the package, and one of its tests' too
needs_optuna = pytest.mark.skipif(not all(map(installed, SEARCHERS)), reason="optuna, cmaes or torch is missing")
NAMES = [n if installed(n) else pytest.param(n, marks=pytest.mark.skip("not installed")) for n in SEARCHERS]


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture(params=(0, 1, 3))
def generation(request):
    return request.param


# ---- the contract


#: a Gaussian process takes half a minute for all cases; `test_gp_in_many_dimensions` asks it every ninth of them
CONTRACT = [pytest.param(name, marks=pytest.mark.extended) if name == "optuna:gp" else name for name in NAMES]


@pytest.mark.parametrize("name", CONTRACT)
def test_every_searcher_keeps_the_contract(name):
    check_searcher(name, fitting(name))


def test_every_searcher_keeps_the_contract_beside_constants(name):
    searched = {"lr": SPACE["lr"], "kind": SPACE["kind"]}
    space = Space({"epochs": 3, **searched, "act": "relu", "clip": None, "opt": Choice(["sgd"])})
    # what is searched is what would be without them, to the last digit
    alone = Space(searched)
    both = list(zip(searcher_cases(space), searcher_cases(alone), strict=True))
    if name == "optuna:gp":  # its asks are slow: equal trials are enough, since the contract is tested elsewhere
        for (case, with_constants), (_, without) in both:
            assert trials_of(name, with_constants) == trials_of(name, without), case
    else:
        check_searcher(name, space)
    for (case, with_constants), (_, without) in both:
        if case.startswith(("30 observations", "5 pending", "no kin")):
            given = space.clip(registry.make(name).suggest(with_constants))
            assert space.searched(given) == registry.make(name).suggest(without), case
            assert {key: given[key] for key in space.constants} == space.constants


def trials_of(name, asked):
    """All that decides the sampler's answer: its seed, the space, and the trials."""
    space = {key: optuna_module._distribution(asked.space[key]) for key in sorted(asked.space)}
    trials = optuna_module._trials(asked, registry._SEARCHERS[name].most, space)
    trials_text = [(t.state, t.values, t.params, t.distributions, t.intermediate_values) for t in trials]
    return asked.seed, space, trials_text


def test_every_searcher_keeps_the_contract_where_there_is_nothing_to_search(name):
    space = Space({"lr": 0.1, "act": Choice(["relu"])})
    check_searcher(name, space)
    for _, asked in searcher_cases(space)[::9]:
        assert registry.make(name).suggest(asked) == {"lr": 0.1, "act": "relu"}
        assert not registry.heavy(name, asked) or name == "optuna:qmc"


@needs_optuna
@pytest.mark.parametrize(("case", "asked"), searcher_cases(SPACE)[::9])
def test_gp_in_many_dimensions(case, asked):
    check_suggestion(registry.make("optuna:gp"), asked, case)


def test_many_seeds_stay_inside_and_differ(name, generation):
    searcher, space = registry.make(name), fitting(name)
    asks = [
        replace(ask(kin(9, space=space), seed=seed, generation=generation, space=space), run=seed)  # qmc's scramble
        for seed in (0, 1, 2**31, 2**63 - 1)
    ]
    drawn = [searcher.suggest(asked) for asked in asks]
    assert all(space.clip(c) == c for c in drawn)
    assert len({json.dumps(c) for c in drawn}) == len(drawn)


@pytest.mark.parametrize(
    "space",
    [
        Space({"x": Float(0.0, 1.0)}),
        Space({"x": Int(0, 1)}),
        Space({"x": Choice([None, False])}),
        Space({"x": Float(1e-12, 1.0, log=True, step=0.1)}),
        Space({"x": Int(1, 2, log=True)}),
        Space({"x": Float(0.0, 1.0, step=1e-9)}),
        Space({"x": Int(1, 10**15, log=True), "y": Int(-(10**12), 10**12)}),
        Space({"x": Float(1e-150, 1e149, log=True), "y": Float(-8e307, 8e307)}),
        Space({"weird name, with = and ünï": Float(-1e6, 1e6, step=1e6)}),
    ],
    ids=repr,
)
def test_small_and_odd_spaces(name, generation, space):
    asked = ask(kin(30, space=space), pending(2, space=space), generation=generation, space=space)
    for seed in range(2):
        config = registry.make(name).suggest(replace(asked, seed=seed))
        assert space.clip(config) == config


def test_a_parents_config_outside_the_space_is_survived(name):
    """A resumed run may have narrowed its space."""
    wide = {**kin(1)[0].config, "lr": 50.0, "layers": 99}
    asked = replace(ask(kin(3)), parent=Observation((0,), 0, wide, "finished", 0.1))
    config = registry.make(name).suggest(asked)
    assert SPACE.clip(config) == config


def test_an_unknown_searcher_is_named():
    for name in ("magic", "optuna:magic", ""):
        with pytest.raises(
            SearcherError, match=rf"no searcher is called '{name}'; there are local, tpe, .*module:Name"
        ):
            registry.make(name)


def test_the_declaration_and_the_command_line_know_all_searchers():
    assert tuple(registry._SEARCHERS) == SEARCHERS
    assert searchers("") == list(SEARCHERS)
    assert searchers("optuna:g") == ["optuna:gp"]


# ---- traits


def test_what_uses_kin_says_is_true(name, generation):
    space = fitting(name)
    full = ask(kin(9, space=space), pending(2, space=space), generation=generation, space=space)
    bare = replace(full, kin=(), pending=())
    same = registry.make(name).suggest(full) == registry.make(name).suggest(bare)
    assert same is not registry.uses_kin(name, generation)


@pytest.mark.parametrize(
    ("name", "generation", "history", "is_heavy"),
    [
        ("tpe", 0, "one", True),
        ("tpe", 2, "many", True),
        ("tpe", 1, "empty", False),
        ("tpe", 0, "all failed", False),
        ("tpe", 0, "all stopped", False),
        ("tpe", 0, "none finite", False),
        ("local", 0, "one", True),
        ("local", 0, "empty", False),
        ("local", 1, "many", False),
        ("perturb", 0, "many", False),
        ("random", 0, "many", False),
        ("kin", 0, "one", True),
        ("kin", 2, "one", True),
        ("kin", 2, "empty", False),
        ("optuna:gp", 1, "one", True),
        ("optuna:gp", 1, "all failed", False),
        ("optuna:qmc", 0, "empty", True),
        ("mine:Own", 0, "empty", True),
    ],
)
def test_heavy(name, generation, history, is_heavy):
    assert registry.heavy(name, ask(HISTORIES[history], generation=generation)) is is_heavy
    assert registry.may_be_heavy(name) is (name not in ("perturb", "random"))


def test_light_asks_import_nothing_heavy():
    program = """
import sys
from gpbt_async.ask import Ask, Observation
from gpbt_async.searchers import registry
from gpbt_async.space import Float, Space
space = Space({"x": Float(0, 1)})
one = Observation((0,), 0, {"x": .5}, "finished", 1.0)
for name in ("random", "perturb", "local", "tpe", "kin", "optuna:tpe", "optuna:gp"):
    for generation, parent, kin in (0, None, ()), (0, None, (one,)), (1, one, (one,)):
        ask = Ask(space, (0,), generation, 1, parent, kin, ())
        if not registry.heavy(name, ask):
            registry.make(name).suggest(ask)
    print(name, *sorted({"numpy", "hyperopt", "scipy", "optuna", "torch"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["random", "perturb", "local", "tpe", "kin", "optuna:tpe", "optuna:gp"]


# ---- local and perturb


def test_local_draws_its_width_log_uniformly_and_redraws_a_fifth_of_the_categories():
    space = Space({"x": Float(0.0, 1.0), "y": Float(0.0, 1.0), "c": Choice(list(range(1000)))})
    parent = {"x": 0.5, "y": 0.5, "c": 7}
    asked = replace(ask(space=space), parent=Observation((0,), 0, parent, "finished", 0.1))
    children = [registry.make("local").suggest(replace(asked, seed=seed)) for seed in range(4000)]
    moved = sum(c["c"] != 7 for c in children) / len(children)
    assert moved == pytest.approx(0.2, abs=0.02)
    rng = random.Random(1)
    widths = [0.02 * 20 ** rng.random() for _ in range(4000)]
    expected = [abs(reflect(0.5 + width * rng.gauss(0.0, 1.0)) - 0.5) for width in widths]
    assert statistics.quantiles([abs(c["x"] - 0.5) for c in children]) == pytest.approx(
        statistics.quantiles(expected), rel=0.1
    )
    # one width for all dimensions: a far step in x goes with a wide one in y
    far = [abs(c["y"] - 0.5) for c in children if abs(c["x"] - 0.5) > 0.3]
    near = [abs(c["y"] - 0.5) for c in children if abs(c["x"] - 0.5) < 0.02]
    assert sum(far) / len(far) > 2 * sum(near) / len(near)


def test_perturb_multiplies_or_draws_again():
    space = Space({"x": Float(0.0, 100.0)})
    asked = replace(ask(space=space), parent=Observation((0,), 0, {"x": 50.0}, "finished", 0.1))
    got = [registry.make("perturb").suggest(replace(asked, seed=seed))["x"] for seed in range(2000)]
    assert sum(math.isclose(x, 60.0) for x in got) / 2000 == pytest.approx(0.375, abs=0.04)
    assert sum(math.isclose(x, 40.0) for x in got) / 2000 == pytest.approx(0.375, abs=0.04)


@pytest.mark.parametrize("name", ["local", "kin"])
def test_generation_zero_of_local_and_kin_is_tpe(name):
    asked = ask(kin(12), pending(3), generation=0)
    assert registry.make(name).suggest(asked) == registry.make("tpe").suggest(asked)


# ---- tpe


def tpe(asked):
    return registry.make("tpe").suggest(asked)


def by_hand(losses, values, seed, hp_space):
    """hyperopt as its users drive it: a Trials filled through its own methods, then tpe.suggest."""
    import hyperopt

    domain = hyperopt.Domain(lambda c: 0.0, hp_space)
    trials = hyperopt.Trials()
    for loss, value in zip(losses, values, strict=True):
        (tid,) = trials.new_trial_ids(1)
        misc = {"tid": tid, "cmd": domain.cmd, "workdir": None}
        hyperopt.base.miscs_update_idxs_vals([misc], {k: [tid] for k in value}, {k: [v] for k, v in value.items()})
        result = {"status": "fail"} if loss is None else {"status": "ok", "loss": loss}
        docs = trials.new_trial_docs([tid], [None], [result], [misc])
        docs[0]["state"] = hyperopt.JOB_STATE_DONE
        trials.insert_trial_docs(docs)
        trials.refresh()
    new = hyperopt.tpe.suggest(trials.new_trial_ids(1), domain, trials, seed, n_startup_jobs=1)
    return hyperopt.space_eval(hp_space, {k: v[0] for k, v in new[0]["misc"]["vals"].items()})


def test_tpe_is_hyperopt_driven_by_hand():
    from hyperopt import hp

    space = Space(
        {
            "lr": Float(1e-4, 1.0, log=True),
            "momentum": Float(0.0, 0.99),
            "units": Int(16, 500, log=True),
            "batch": Int(16, 512, log=True, step=16),
            "kind": Choice(["relu", "tanh", 3]),
        }
    )
    hp_space = {
        "lr": hp.loguniform("lr", math.log(1e-4), math.log(1.0)),
        "momentum": hp.uniform("momentum", 0.0, 0.99),
        "units": hp.qloguniform("units", math.log(15.5), math.log(500.5), 1),
        "batch": hp.qloguniform("batch", math.log(8.0), math.log(520.0), 16),
        "kind": hp.choice("kind", ["relu", "tanh", 3]),
    }
    observed = [failed(o) if i % 7 == 3 else o for i, o in enumerate(kin(40, space=space))]
    values = [{**o.config, "kind": ["relu", "tanh", 3].index(o.config["kind"])} for o in observed]
    for n in (1, 2, 3, 17, 40):
        for seed in range(3):
            theirs = by_hand([o.loss for o in observed[:n]], values[:n], seed, hp_space)
            ours = tpe(ask(observed[:n], seed=seed, space=space))
            assert ours == space.clip({**theirs, "batch": int(theirs["batch"]), "units": int(theirs["units"])})


def test_a_uniform_grid_is_hyperopt_on_its_indexes():
    from hyperopt import hp

    space = Space({"drop": Float(0.05, 0.9, step=0.1), "stride": Int(-5, 9, step=3)})
    hp_space = {"drop": hp.quniform("drop", -0.5, 8.5, 1), "stride": hp.quniform("stride", -0.5, 4.5, 1)}
    observed = kin(20, space=space)
    values = [
        {"drop": round((o.config["drop"] - 0.05) / 0.1), "stride": (o.config["stride"] + 5) // 3} for o in observed
    ]
    theirs = by_hand([o.loss for o in observed], values, 5, hp_space)
    ours = tpe(ask(observed, seed=5, space=space))
    assert ours == {"drop": 0.05 + theirs["drop"] * 0.1, "stride": -5 + int(theirs["stride"]) * 3}


def test_every_point_of_a_grid_is_in_hyperopts_reach_and_no_other():
    import numpy as np
    from hyperopt.pyll.stochastic import sample

    grids = {
        Float(0.5, 3.0, step=0.5): [0.5, 1.0, 1.5, 2.0, 2.5, 3.0],
        Float(0.5, 3.0, step=1.0, log=True): [0.5, 1.5, 2.5],
        Int(2, 8, step=2, log=True): [2, 4, 6, 8],
        Int(3, 7, step=2, log=True): [3, 5, 7],
        Int(0, 3): [0, 1, 2, 3],
        Int(-5, 9, step=3): [-5, -2, 1, 4, 7],
        Choice([1, 2.5, None]): [1, 2.5, None],
    }
    rng = np.random.default_rng(1)
    for dimension, points in grids.items():
        node = tpe_module._hp("x", dimension)
        drawn = [sample(node, rng=rng) for _ in range(600)]
        heard = [dimension.clip(grid.from_coordinate(dimension, x)) for x in drawn]
        assert sorted(set(heard), key=points.index) == points
        if isinstance(dimension, Choice) or not dimension.log:  # whole bins at the ends too
            assert all(heard.count(p) == pytest.approx(600 / len(points), rel=0.35) for p in points)


@pytest.mark.parametrize("u", [0.0, 0.1, 0.4, 0.77, 1.0])
def test_a_coordinate_comes_back_as_its_value(u):
    for dimension in SPACE.values():
        value = dimension.from_unit(u)
        heard = dimension.clip(grid.from_coordinate(dimension, tpe_module._coordinate(dimension, value)))
        assert (heard, type(heard)) == (value, type(value))


def test_pending_siblings_have_the_mean_loss_of_the_finished():
    """Pending siblings come after all kin, as if they had finished with the mean loss."""
    observed = (*kin(6), failed(kin(7)[6]), stopped(kin(8)[7], loss=-5.0))
    mean = math.fsum(o.loss / 6 for o in observed[:6])
    waiting = pending(3)
    as_if = tuple(Observation((0, i), 1, config, "finished", mean) for i, config in enumerate(waiting))
    assert tpe(ask(observed, waiting)) == tpe(ask((*observed, *as_if)))


def test_without_pending_siblings_there_is_no_lie():
    docs = tpe_module._docs(ask(kin(5)))
    assert [d["result"] for d in docs] == [{"status": "ok", "loss": o.loss} for o in kin(5)]


def test_pending_siblings_move_the_suggestion():
    assert tpe(ask(kin(6), pending(3))) != tpe(ask(kin(6)))


def test_a_stopped_one_ranks_behind_the_finished_and_before_the_failed():
    a, b, c, d = kin(4)
    docs = tpe_module._docs(ask((failed(a), stopped(b, loss=-9.0), c, d, stopped(b, loss=None))))
    losses = [doc["result"].get("loss", math.inf) for doc in docs]
    assert losses[0] == math.inf > losses[1] == losses[4] > max(c.loss, d.loss)
    assert [doc["result"]["status"] for doc in docs] == ["fail", "fail", "ok", "ok", "fail"]


def test_the_order_of_kin_is_kept():
    """Trial ids are positions: hyperopt forgets by age, so another order is another answer."""
    observed = kin(40)
    assert [d["tid"] for d in tpe_module._docs(ask(observed, pending(2)))] == list(range(42))
    answers = {json.dumps(tpe(ask(observed, seed=s))) == json.dumps(tpe(ask(observed[::-1], seed=s))) for s in range(5)}
    assert False in answers


def test_the_order_of_the_declaration_does_not_matter(name, generation):
    space = fitting(name)
    other = Space(dict(reversed(list(space.items()))))
    asked = ask(kin(9, space=space), pending(1, space=space), generation=generation, space=space)
    assert registry.make(name).suggest(replace(asked, space=other)) == registry.make(name).suggest(asked)


def test_equal_looking_options_keep_their_type():
    """Choice([1, 2]) equals Choice([1.0, 2.0]) in Python; what is cached per space must not mix them up."""
    for options in ([1, 2], [1.0, 2.0], [True, 2]):
        space = Space({"c": Choice(options)})
        best = Observation((0,), 0, {"c": options[0]}, "finished", 0.0)
        worse = Observation((1,), 0, {"c": options[1]}, "finished", 1.0)
        assert repr(tpe(ask((best, worse), space=space))["c"]) == repr(options[0])


def test_tpe_learns():
    """On a bowl its later suggestions are much nearer to the optimum than random ones."""
    space = Space({"x": Float(-1.0, 1.0), "y": Float(1e-3, 1e3, log=True)})

    def loss(c):
        return (c["x"] - 0.3) ** 2 + math.log10(c["y"]) ** 2 / 9

    seen = []
    for i in range(40):
        config = tpe(ask(seen, seed=i, generation=0, space=space))
        seen.append(Observation((i,), 0, config, "finished", loss(config)))
    uniform = [loss(space.sample(random.Random(i))) for i in range(1000)]
    assert sum(o.loss for o in seen[20:]) / 20 < 0.6 * sum(uniform) / 1000


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_printed(name, capfd):
    registry.make(name).suggest(ask(kin(12), pending(2)))
    assert capfd.readouterr() == ("", "")


# ---- kin


def test_weights_by_kinship():
    weight = kin_module.weight
    assert weight((), ()) == 1, "roots among roots"
    assert weight((3, 1), (3, 1)) == 1, "siblings"
    assert weight((3, 1), (3,)) == pytest.approx(0.7), "aunts"
    assert weight((3, 1), (3, 2)) == pytest.approx(0.35), "sisters' children"
    assert weight((3, 1), ()) == pytest.approx(0.49), "the roots"
    assert weight((3, 1), (4,)) == pytest.approx(0.49 * 0.5), "children of another root"
    assert weight((3,), (3, 2)) == pytest.approx(0.5), "a nephew"


def test_values_are_ranks_among_the_children_of_one_parent():
    from statistics import NormalDist

    a, b, c, d, e, f = kin(6)
    a, b, c = (replace(o, loss=x) for o, x in ((a, 5.0), (b, 1e9), (c, 5.0)))
    got = kin_module._quantiles([a, b, stopped(d), c, failed(e), replace(f, loss=math.nan)])
    ranks = [1.5, 3, 4, 1.5, 5.5, 5.5]
    assert got == pytest.approx([NormalDist().inv_cdf((r - 0.5) / 6) for r in ranks])


def test_the_heaviest_are_kept_the_oldest_first_and_the_far_forgotten():
    roots = kin(60)
    sisters = tuple(Observation((0, i), 1, o.config, "finished", o.loss) for i, o in enumerate(kin(30, seed=1)))
    far = tuple(Observation((1,) * 6 + (i,), 6, o.config, "finished", o.loss) for i, o in enumerate(kin(9)))
    kept = kin_module._weighed(ask((*roots, *sisters, *far), generation=1))
    assert [o.path for o, _, _ in kept] == [o.path for o in (*sisters, *roots[:50])]
    assert [w for _, w, _ in kept] == pytest.approx([1.0] * 30 + [0.7] * 50)


def by_brute_force(asked):
    """kin once more, from its definition: the joint normal of everything, conditioned in one go."""
    import numpy as np

    rng = random.Random(asked.seed)
    candidates = [local_module.step(asked, rng) for _ in range(16)]
    z = np.array([rng.gauss(0.0, 1.0) for _ in range(16)])
    kept = kin_module._weighed(asked)
    w = np.array([weight for _, weight, _ in kept])
    y = np.array([value for _, _, value in kept])
    y = y - (w * y).sum() / w.sum()
    y = np.clip(y / np.sqrt((w * y**2).sum() / w.sum()), -2.5, 2.5)

    def distance2(c, d):
        total = 0.0
        for name, dimension in asked.space.items():
            if isinstance(dimension, Choice):
                total += 2 * 0.4**2 * (dimension.index(c[name]) != dimension.index(d[name]))
            else:
                total += (dimension.to_unit(c[name]) - dimension.to_unit(d[name])) ** 2
        return total

    def kernel(a, b):
        return np.array([[math.exp(-distance2(c, d) / (2 * 0.3**2)) for d in b] for c in a])

    known = [o.config for o, _, _ in kept]
    seen = known + list(asked.pending)
    noise = np.diag([*(0.5 / w), *[0.5] * len(asked.pending)])
    mean = kernel(candidates, known) @ np.linalg.inv(kernel(known, known) + np.diag(0.5 / w)) @ y
    cross = kernel(candidates, seen)
    covariance = kernel(candidates, candidates) - cross @ np.linalg.inv(kernel(seen, seen) + noise) @ cross.T
    drawn = mean + np.linalg.cholesky(covariance + 1e-8 * np.eye(16)) @ z
    return candidates[int(drawn.argmin())]


@pytest.mark.parametrize("waiting", [0, 4])
def test_kin_is_its_definition(waiting):
    family = (*kin(20), *(replace(o, path=(0, i), generation=1) for i, o in enumerate(kin(5, seed=3))))
    for seed in range(20):
        asked = ask(family, pending(waiting), seed=seed, generation=2)
        assert registry.make("kin").suggest(asked) == by_brute_force(asked)


def test_kin_steps_as_local_does_when_it_knows_too_little():
    for history in ((), kin(1), tuple(failed(o) for o in kin(5))):
        assert registry.make("kin").suggest(ask(history)) == registry.make("local").suggest(ask(history))


def test_kin_avoids_where_siblings_did_badly_and_pending_ones_only_narrow():
    space = Space({"x": Float(0.0, 1.0)})
    losses = {i / 20: abs(i / 20 - 0.7) for i in range(21)}
    seen = tuple(Observation((0, i), 1, {"x": x}, "finished", y) for i, (x, y) in enumerate(losses.items()))
    asked = replace(ask(space=space), parent=Observation((0,), 0, {"x": 0.5}, "finished", 0.2), kin=seen)
    chosen = [registry.make("kin").suggest(replace(asked, seed=s))["x"] for s in range(100)]
    steps = [registry.make("local").suggest(replace(asked, seed=s))["x"] for s in range(100)]
    assert statistics.fmean(abs(x - 0.7) for x in chosen) < 0.5 * statistics.fmean(abs(x - 0.7) for x in steps)


# ---- optuna


@needs_optuna
def test_optunas_tpe_is_optuna_driven_by_hand():
    import optuna
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    space = Space(
        {"kind": Choice(["a", "b"]), "lr": Float(1e-4, 1.0, log=True), "n": Int(1, 8), "w": Int(1, 9, log=True)}
    )
    theirs = {
        "kind": CategoricalDistribution(("a", "b")),
        "lr": FloatDistribution(1e-4, 1.0, log=True),
        "n": IntDistribution(1, 8),
        "w": IntDistribution(1, 9, log=True),
    }
    observed = [failed(o) if i % 7 == 3 else o for i, o in enumerate(kin(30, space=space))]
    waiting = pending(2, space=space)
    for seed in range(3):
        with optuna_module._quiet():
            study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=1))
            for o in observed:
                state = optuna.trial.TrialState[{"finished": "COMPLETE", "failed": "FAIL"}[o.outcome]]
                study.add_trial(optuna.create_trial(state=state, value=o.loss, params=o.config, distributions=theirs))
            for config in waiting:
                study.enqueue_trial(config)
                study.ask(theirs)
            by_hand = study.ask(theirs).params
        ours = registry.make("optuna:tpe").suggest(ask(observed, waiting, seed=seed, space=space))
        assert {**ours, "lr": 0} == {**by_hand, "lr": 0}
        assert ours["lr"] == pytest.approx(by_hand["lr"])


@needs_optuna
def test_kin_as_trials_of_optuna():
    from optuna.trial import TrialState

    a, b, c, d = kin(4)
    asked = ask((a, failed(b), stopped(c, loss=-9.0), stopped(d, loss=None), replace(d, loss=math.nan)), pending(1))
    space = {key: optuna_module._distribution(SPACE[key]) for key in SPACE}
    trials = optuna_module._trials(asked, 100, space)
    s = TrialState
    assert [t.state for t in trials] == [s.COMPLETE, s.FAIL, s.PRUNED, s.PRUNED, s.FAIL, s.RUNNING]
    assert trials[0].value == a.loss
    assert trials[2].intermediate_values == {0: -9.0}
    for o, trial in zip(asked.kin, trials, strict=False):
        heard = {
            key: d.clip(grid.from_coordinate(d, trial.params[key], optuna_module.FINE)) for key, d in SPACE.items()
        }
        assert (heard, repr(heard)) == (o.config, repr(o.config))


def test_of_too_many_kin_the_best_and_the_latest_are_kept():
    observed = [*kin(200), *(failed(o) for o in kin(3))]
    kept = optuna_module._bounded(tuple(observed), 80)
    assert len(kept) == 80
    places = [i for i, o in enumerate(observed) if any(o is k for k in kept)]
    best = sorted(range(200), key=lambda i: observed[i].loss)[:40]
    assert set(best) <= set(places)
    rest = [i for i in range(203) if i not in best][-40:]
    assert places == sorted({*best, *rest})


@needs_optuna
@pytest.mark.parametrize("name", ["optuna:tpe", "optuna:gp", "optuna:cmaes"])
def test_optunas_samplers_learn_from_kin(name):
    space = Space({"x": Float(-1.0, 1.0), "y": Float(1e-3, 1e3, log=True), "c": Choice(["good", "bad"])})

    def loss(c):
        return (c["x"] - 0.3) ** 2 + math.log10(c["y"]) ** 2 / 9 + (c["c"] == "bad")

    observed = [replace(o, loss=loss(o.config)) for o in kin(40, space=space)]
    got = [loss(registry.make(name).suggest(ask(observed, seed=s, space=space))) for s in range(8)]
    assert statistics.median(got) < 0.4 * statistics.median(o.loss for o in observed)


@needs_optuna
def test_qmc_is_one_sobol_sequence_a_parent_in_any_order():
    space = Space({"x": Float(0.0, 1.0), "y": Float(0.0, 1.0), "c": Choice(["a", "b"])})

    def points(parent, run, n=16):
        """The first points below `parent`, whatever else is in the asks."""
        drawn = []
        for i in range(n):
            asked = ask(kin(i, space=space), pending(i % 3, space=space), seed=i * 77, space=space)
            drawn.append(registry.make("optuna:qmc").suggest(replace(asked, path=(*parent, i), run=run)))
        return drawn

    roots = points((), run=1)
    for parent, run in (((), 1), ((4, 2), 1), ((), 2)):
        drawn = points(parent, run)
        for name in ("x", "y"):  # one in each sixteenth
            assert sorted(int(c[name] * 16) for c in drawn) == list(range(16))
        assert sum(c["c"] == "a" for c in drawn) == 8
        assert (drawn == roots) is ((parent, run) == ((), 1))


@needs_optuna
@pytest.mark.parametrize(
    ("name", "gone", "remedy"),
    [
        ("optuna:tpe", "optuna", r"needs optuna, not installed here: pip install 'gpbt-async\[optuna\]'"),
        ("optuna:cmaes", "cmaes", r"needs cmaes, not installed here: pip install 'gpbt-async\[optuna\]'"),
        ("optuna:gp", "torch", r"needs torch, not installed here: pip install 'gpbt-async\[optuna,torch\]'"),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(name, gone, remedy, monkeypatch):
    monkeypatch.setitem(sys.modules, gone, None)
    with pytest.raises(ExperimentError, match=rf"^searcher: got '{name}'; {remedy}$"):
        registry.make(name)


# ---- a user's class

MINE = """
import gpbt_async
class Own:
    def suggest(self, ask):
        return {name: d.clip(d.from_unit(.5)) for name, d in ask.space.items()}
class Needs:
    def __init__(self, size): ...
    suggest = Own.suggest
class Breaks(Own):
    def __init__(self): raise OSError("no such table")
class Mute: ...
class Outer:
    class Inner(Own): ...
def function(): ...
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "broken.py").write_text("raise RuntimeError('halfway')")
    (tmp_path / "leaves.py").write_text("raise SystemExit(3)")
    (tmp_path / "lacks.py").write_text("import no_such_thing")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("mine", "broken", "leaves", "lacks"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("mine")
def test_a_users_class_is_imported_and_made():
    for name in ("mine:Own", "mine:Outer.Inner"):
        check_searcher(name)
        assert registry.uses_kin(name, 0)


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mein:Own", "there is no module 'mein' beside the script or on the import path"),
        ("mine.deep:Own", "there is no module 'mine.deep' beside the script or on the import path"),
        ("lacks:Own", "module 'lacks' cannot be imported: ModuleNotFoundError: No module named 'no_such_thing'"),
        ("broken:Own", "module 'broken' cannot be imported: RuntimeError: halfway"),
        ("leaves:Own", "module 'leaves' cannot be imported: SystemExit: 3"),
        ("mine:Owm", r"module 'mine' \(.*mine.py\) has no 'Owm'"),
        ("mine:function", "'function' in .*mine.py is no class"),
        ("mine:Mute", r"class 'Mute' in .*mine.py has no method suggest\(ask\)"),
        (
            "mine:Needs",
            "class 'Needs' in .*py must be made without arguments: missing a required argument: 'size'",
        ),
        ("mine:Breaks", "making a 'Breaks' raised OSError: no such table"),
    ],
)
def test_what_is_wrong_with_a_users_class_is_one_sentence(name, said):
    with pytest.raises(SearcherError, match=f"^searcher '{name}': {said}$"):
        registry.make(name)


# ---- the contract test itself


class Broken:
    """A searcher with one fault."""

    def __init__(self, fault):
        self.fault = fault
        self.asked = 0

    def suggest(self, ask):
        self.asked += 1
        config = ask.space.sample(random.Random(ask.seed))
        return self.fault(self, ask, config) or config


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (lambda me, ask, c: [1], r"no kin, a root: suggested \[1\], which is no dict"),
        (lambda me, ask, c: {"lr": 0.5}, "the space differ in batch, "),
        (lambda me, ask, c: {**c, "lr": 2.0}, "lr is 2.0, outside Float"),
        (lambda me, ask, c: {**c, "drop": 0.06}, "drop is 0.06, outside Float"),
        (lambda me, ask, c: {**c, "lr": math.nan}, "lr: nan is not a number"),
        (lambda me, ask, c: {**c, "layers": 2.0}, "layers is 2.0, but Int.* is of type int"),
        (lambda me, ask, c: {**c, "kind": "tanh"}, "kind: 'tanh' is none of"),
        (lambda me, ask, c: {**c, "layers": __import__("numpy").int64(3)}, "of numpy.int64, not a plain Python value"),
        (lambda me, ask, c: ask.kin and ask.kin[0].config.update(lr=0.5), "one observation, a root: .*changed its ask"),
        (lambda me, ask, c: ask.space.sample(random.Random()), "chance must come from ask.seed alone"),
        (lambda me, ask, c: {**c, "layers": 1 + (me.asked > 50)}, "a searcher may remember nothing"),
        (lambda me, ask, c: {**c, "lr": ask.kin[0].loss}, "no kin, a root: suggest raised IndexError"),
    ],
)
def test_the_contract_names_what_is_broken(fault, said):
    with pytest.raises(AssertionError, match=said):
        check_searcher(Broken(fault))


def test_the_cases_are_over_the_users_space_too():
    space = Space({"x": Choice(["a", "b"]), "y": Int(0, 1)})
    cases = searcher_cases(space)
    assert len({name for name, _ in cases}) == len(cases)
    assert all(asked.space is space for _, asked in cases)
    check_searcher(Broken(lambda *_: None), space)


class Simple:
    """A user's searcher that ignores constants."""

    def suggest(self, ask: Ask) -> dict[str, object]:
        rng = random.Random(ask.seed)
        moved = {name: ask.space[name].from_unit(rng.random()) for name in ask.parent.config} if ask.parent else {}
        return moved or {name: dimension.from_unit(rng.random()) for name, dimension in ask.space.items()}


def test_a_users_searcher_need_not_know_of_constants() -> None:
    check_searcher(Simple(), {"x": Float(0, 1), "epochs": 3, "n": Int(1, 5)})


def test_a_searcher_that_changes_a_constant_is_found() -> None:
    with pytest.raises(AssertionError, match="epochs is 4, and the constant 3: leave it out"):
        check_searcher(Broken(lambda me, ask, c: {**c, "epochs": 4}), {"lr": SPACE["lr"], "epochs": 3})


def test_a_searcher_that_differs_between_processes_is_found(monkeypatch):
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parent.parent / "support" / "scripts"))
    with pytest.raises(AssertionError, match=r"one answer in every process.*hash\(\)"):
        check_searcher("hashing:Hashing", Space({"x": Float(0.0, 1.0)}))


def test_a_class_in_place_of_a_searcher_is_an_error() -> None:
    with pytest.raises(TypeError, match="Random is a class: pass an instance"):
        check_searcher(registry.Random)  # type: ignore[arg-type]
    check_searcher(registry.Random(), {"x": Float(0.0, 1.0)})


@dataclasses.dataclass(frozen=True, slots=True)
class Narrow:
    """A searcher with a setting, which another process does not have."""

    width: float = 0.1

    def suggest(self, ask: Ask) -> dict[str, object]:
        return ask.space.clip(ask.space.sample(random.Random(int(ask.seed * self.width))))


def test_a_searcher_with_settings_is_not_made_in_another_process() -> None:
    check_searcher(Narrow(0.3), {"x": Float(0.0, 1.0)})


class Needy:
    """Made with an argument it does not keep: it has no settings to be seen, and cannot be made by name."""

    def __init__(self, ignored: object) -> None: ...

    def suggest(self, ask: Ask) -> dict[str, object]:
        return ask.space.sample(random.Random(ask.seed))


def test_a_searcher_that_cannot_be_made_in_another_process_is_not_asked_there(monkeypatch: pytest.MonkeyPatch) -> None:
    space = {"x": Float(0.0, 1.0)}
    check_searcher(Needy(1), space)
    # a module that no other process can import: of a notebook, say
    module = types.ModuleType("only_here")
    exec(
        "import random\nclass Here:\n    def suggest(self, ask): return ask.space.sample(random.Random(ask.seed))",
        vars(module),
    )
    monkeypatch.setitem(sys.modules, "only_here", module)
    assert module.Here.__module__ == "only_here"
    check_searcher(module.Here(), space)
    check_searcher("only_here:Here", space)
