"""The contract every searcher keeps, and what each does beyond it."""

from __future__ import annotations

import copy
import json
import math
import random
import statistics
import subprocess
import sys
from dataclasses import replace

import pytest

from gpbt_async import searchers
from gpbt_async.asks import Ask, Observation
from gpbt_async.errors import SearcherError
from gpbt_async.experiment import SEARCHERS
from gpbt_async.space import Choice, Float, Int, Space, reflect

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


@pytest.fixture(params=SEARCHERS)
def name(request):
    return request.param


@pytest.fixture(params=(0, 1, 3))
def generation(request):
    return request.param


# ---- the contract


@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("waiting", [0, 3])
def test_every_suggestion_is_inside_pure_and_plain(name, generation, history, waiting):
    asked = ask(HISTORIES[history], pending(waiting), generation=generation)
    before = copy.deepcopy(asked)
    config = searchers.make(name).suggest(asked)
    assert SPACE.clip(config) == config
    assert list(config) == list(SPACE)
    assert [type(v) for v in config.values()] == [type(v) for v in json.loads(json.dumps(config)).values()]
    assert asked == before, "an Ask is never changed"
    assert searchers.make(name).suggest(asked) == config, "same Ask, same config"


def test_many_seeds_stay_inside_and_differ(name, generation):
    searcher = searchers.make(name)
    drawn = [searcher.suggest(ask(kin(9), seed=seed, generation=generation)) for seed in (0, 1, 2**31, 2**63 - 1)]
    assert all(SPACE.clip(c) == c for c in drawn)
    assert len({json.dumps(c) for c in drawn}) == len(drawn)


def test_an_ask_that_went_through_json_gets_the_same_answer(name, generation):
    asked = ask(HISTORIES["mixed"], pending(2), generation=generation)
    again = Ask.from_json(SPACE, json.loads(json.dumps(asked.to_json())))
    assert searchers.make(name).suggest(again) == searchers.make(name).suggest(asked)


@pytest.mark.parametrize(
    "space",
    [
        Space({"x": Float(0.0, 1.0)}),
        Space({"x": Int(0, 1)}),
        Space({"x": Choice([None, False])}),
        Space({"x": Float(1e-12, 1.0, log=True, step=0.1)}),
        Space({"x": Int(1, 2, log=True)}),
        Space({"weird name, with = and ünï": Float(-1e6, 1e6, step=1e6)}),
    ],
    ids=repr,
)
def test_small_and_odd_spaces(name, generation, space):
    asked = ask(kin(30, space=space), pending(2, space=space), generation=generation, space=space)
    for seed in range(5):
        config = searchers.make(name).suggest(replace(asked, seed=seed))
        assert space.clip(config) == config


def test_a_parents_config_outside_the_space_is_survived(name):
    """A resumed run may have narrowed its space."""
    wide = {**kin(1)[0].config, "lr": 50.0, "layers": 99}
    asked = replace(ask(kin(3)), parent=Observation((0,), 0, wide, "finished", 0.1))
    config = searchers.make(name).suggest(asked)
    assert SPACE.clip(config) == config


def test_an_unknown_searcher_is_named():
    with pytest.raises(SearcherError, match=r"no searcher is called 'kin'; there are local, tpe, perturb, random"):
        searchers.make("kin")


# ---- who looks at what


def test_what_uses_kin_says_is_true(name, generation):
    told = ask(kin(9), pending(2), generation=generation)
    untold = replace(told, kin=(), pending=())
    same = searchers.make(name).suggest(told) == searchers.make(name).suggest(untold)
    assert same is not searchers.uses_kin(name, generation)


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
    ],
)
def test_heavy(name, generation, history, is_heavy):
    assert searchers.heavy(name, ask(HISTORIES[history], generation=generation)) is is_heavy
    assert searchers.may_be_heavy(name) is (name in ("tpe", "local"))


def test_light_asks_import_nothing_heavy():
    program = """
import sys
from gpbt_async import searchers
from gpbt_async.asks import Ask, Observation
from gpbt_async.space import Float, Space
space = Space({"x": Float(0, 1)})
one = Observation((0,), 0, {"x": .5}, "finished", 1.0)
for name in ("random", "perturb", "local", "tpe"):
    for generation, parent, kin in (0, None, ()), (0, None, (one,)), (1, one, (one,)):
        ask = Ask(space, (0,), generation, 1, parent, kin, ())
        if not searchers.heavy(name, ask):
            searchers.make(name).suggest(ask)
    print(name, *sorted({"numpy", "hyperopt", "scipy"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["random", "perturb", "local", "tpe"]


# ---- local and perturb


def test_local_draws_its_width_log_uniformly_and_redraws_a_fifth_of_the_categories():
    space = Space({"x": Float(0.0, 1.0), "y": Float(0.0, 1.0), "c": Choice(list(range(1000)))})
    parent = {"x": 0.5, "y": 0.5, "c": 7}
    asked = replace(ask(space=space), parent=Observation((0,), 0, parent, "finished", 0.1))
    children = [searchers.make("local").suggest(replace(asked, seed=seed)) for seed in range(4000)]
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


def test_perturb_multiplies_or_draws_anew():
    space = Space({"x": Float(0.0, 100.0)})
    asked = replace(ask(space=space), parent=Observation((0,), 0, {"x": 50.0}, "finished", 0.1))
    got = [searchers.make("perturb").suggest(replace(asked, seed=seed))["x"] for seed in range(2000)]
    assert sum(math.isclose(x, 60.0) for x in got) / 2000 == pytest.approx(0.375, abs=0.04)
    assert sum(math.isclose(x, 40.0) for x in got) / 2000 == pytest.approx(0.375, abs=0.04)


def test_generation_zero_of_local_is_tpe():
    asked = ask(kin(12), pending(3), generation=0)
    assert searchers.make("local").suggest(asked) == searchers.make("tpe").suggest(asked)


# ---- tpe


def tpe(asked):
    return searchers.make("tpe").suggest(asked)


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
        node = searchers._hp("x", dimension)
        drawn = [sample(node, rng=rng) for _ in range(600)]
        heard = [dimension.clip(searchers._heard(dimension, x)) for x in drawn]
        assert sorted(set(heard), key=points.index) == points
        if isinstance(dimension, Choice) or not dimension.log:  # whole bins at the ends too
            assert all(heard.count(p) == pytest.approx(600 / len(points), rel=0.35) for p in points)


@pytest.mark.parametrize("u", [0.0, 0.1, 0.4, 0.77, 1.0])
def test_what_is_told_is_what_is_heard(u):
    for dimension in SPACE.values():
        value = dimension.from_unit(u)
        heard = dimension.clip(searchers._heard(dimension, searchers._told(dimension, value)))
        assert (heard, type(heard)) == (value, type(value))


def test_the_liar_is_the_mean_of_the_finished():
    """Pending siblings are told as if they had finished, after all kin, with the mean loss."""
    observed = (*kin(6), failed(kin(7)[6]), stopped(kin(8)[7], loss=-5.0))
    mean = math.fsum(o.loss / 6 for o in observed[:6])
    waiting = pending(3)
    as_if = tuple(Observation((0, i), 1, config, "finished", mean) for i, config in enumerate(waiting))
    assert tpe(ask(observed, waiting)) == tpe(ask((*observed, *as_if)))


def test_without_pending_siblings_there_is_no_lie():
    told = searchers._docs(ask(kin(5)))
    assert [d["result"] for d in told] == [{"status": "ok", "loss": o.loss} for o in kin(5)]


def test_pending_siblings_move_the_suggestion():
    assert tpe(ask(kin(6), pending(3))) != tpe(ask(kin(6)))


def test_a_stopped_one_ranks_behind_the_finished_and_before_the_failed():
    a, b, c, d = kin(4)
    told = searchers._docs(ask((failed(a), stopped(b, loss=-9.0), c, d, stopped(b, loss=None))))
    losses = [doc["result"].get("loss", math.inf) for doc in told]
    assert losses[0] == math.inf > losses[1] == losses[4] > max(c.loss, d.loss)
    assert [doc["result"]["status"] for doc in told] == ["fail", "fail", "ok", "ok", "fail"]


def test_the_order_of_kin_is_kept():
    """Trial ids are positions: hyperopt forgets by age, so another order is another answer."""
    observed = kin(40)
    assert [d["tid"] for d in searchers._docs(ask(observed, pending(2)))] == list(range(42))
    answers = {json.dumps(tpe(ask(observed, seed=s))) == json.dumps(tpe(ask(observed[::-1], seed=s))) for s in range(5)}
    assert False in answers


def test_the_order_of_the_declaration_does_not_matter(name, generation):
    other = Space(dict(reversed(list(SPACE.items()))))
    asked = ask(kin(9), pending(1), generation=generation)
    assert searchers.make(name).suggest(replace(asked, space=other)) == searchers.make(name).suggest(asked)


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


def test_nothing_is_printed(capfd):
    tpe(ask(kin(12), pending(2)))
    assert capfd.readouterr() == ("", "")
