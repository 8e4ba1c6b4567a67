"""The contract of a searcher, for the built-in ones and for yours; needs no run, no GPU and no test framework.

    from gpbt_async.testing import check_searcher

    def test_mine():
        check_searcher(MySearcher())          # or "module:Name", or a built-in searcher's name

or one test for each case, over your own space:

    @pytest.mark.parametrize(("name", "ask"), searcher_cases(SPACE))
    def test_mine(name, ask):
        check_suggestion(MySearcher(), ask, name)

An AssertionError names the case in which a rule is broken: a suggestion is a plain dict with a value for each dimension
of the space, inside it, on its grid, of its own plain type; an equal ask gets an equal answer, also later, after other
asks, and when it has been sent as JSON; and no ask is changed. `searcher_cases` covers the kin that may occur: none,
one, ties, failures, censored and non-finite losses, siblings in training, hundreds of members, a parent far from all.
`check_searcher` also asks in two other processes with other hash seeds, if the searcher has no settings and can be
imported there: a resumed run is another process, where hash("text") and the order of a set differ.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .ask import Ask, Observation
from .formatting import error_line
from .searchers import registry
from .space import Choice, Float, Int, Space

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from .ask import Path
    from .searchers.searcher import Searcher
    from .space import Config, Dimension, Scalar


#: one of every kind of dimension
SPACE = Space(
    {
        "lr": Float(1e-4, 1.0, log=True),
        "momentum": Float(-0.5, 0.99),
        "drop": Float(0.05, 0.9, step=0.1),
        "decay": Float(0.25, 4.0, log=True, step=0.5),
        "width": Int(16, 500, log=True),
        "batch": Int(16, 512, log=True, step=16),
        "layers": Int(1, 8),
        "stride": Int(-5, 9, step=3),
        "kind": Choice([1, 1.0, True, None, "relu", -2.5]),
    }
)


def check_searcher(searcher: Searcher | str, space: Space | Mapping[str, Dimension | Scalar] = SPACE) -> None:
    """Raise AssertionError, naming the case, unless `searcher` keeps the contract in every case over `space`."""
    if isinstance(searcher, type):
        raise TypeError(f"{searcher.__name__} is a class: pass an instance, or its name as 'module:Name'")
    space = space if isinstance(space, Space) else Space(space)
    importable = searcher if isinstance(searcher, str) else _importable(searcher)
    if isinstance(searcher, str):
        searcher = registry.make(searcher)
    cases = searcher_cases(space)
    answers = [check_suggestion(searcher, ask, name) for name, ask in cases]
    for (name, ask), before in reversed(list(zip(cases, answers, strict=True))):
        after = _suggested(searcher, ask, name)
        assert _same(after, before), (
            f"{name}: an ask has one answer whatever was asked before, but first it was {before!r}, then {after!r}; "
            "a searcher may remember nothing"
        )
    if importable is not None:
        # for a root, for a child, and with siblings in training
        few = [i for i, (case, _) in enumerate(cases) if case.startswith(("30 observations", "5 pending"))]
        _check_elsewhere(importable, [(*cases[i], answers[i]) for i in few])


def _importable(searcher: Searcher) -> str | None:
    """`module:Name`, if another process could make the same searcher from it; else None."""
    kind = type(searcher)
    slots = [name for each in kind.__mro__ for name in getattr(each, "__slots__", ())]
    if kind.__module__ == "__main__" or "<locals>" in kind.__qualname__ or slots or getattr(searcher, "__dict__", None):
        return None  # it has settings, so it could not be made without arguments
    return f"{kind.__module__}:{kind.__qualname__}"


def _check_elsewhere(name: str, answered: list[tuple[str, Ask, Config]]) -> None:
    program = (
        "import json, sys; sys.path[:] = json.loads(sys.argv[1])\n"
        "from gpbt_async.ask import Ask\n"
        "from gpbt_async.searchers import registry\n"
        "from gpbt_async.space import Space\n"
        "request = json.load(sys.stdin); space = Space.from_json(request['space'])\n"
        "try: searcher = registry.make(request['name'])\n"
        "except Exception as error: print('cannot be made:', error, file=sys.stderr); sys.exit(77)\n"
        "print(json.dumps([searcher.suggest(Ask.from_json(space, ask)) for ask in request['asks']]))"
    )
    space = answered[0][1].space.to_json()
    request = json.dumps({"name": name, "space": space, "asks": [ask.to_json() for _, ask, _ in answered]})
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program, json.dumps(sys.path)],
            input=request,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 77:
            return  # it can be made in this process alone, so no other can be asked
        assert done.returncode == 0, f"{name} failed in another process: {done.stderr.strip().splitlines()[-1:]}"
        elsewhere = json.loads(done.stdout.splitlines()[-1])
        for (case, _, here), there in zip(answered, elsewhere, strict=True):
            assert _same(there, here), (
                f"{case}: an ask has one answer in every process, but here it was {here!r}, and in another {there!r}; "
                "does it depend on hash(), the order of a set, or the clock?"
            )


def check_suggestion(searcher: Searcher, ask: Ask, name: str = "ask") -> Config:
    """The searcher's suggestion for this ask; AssertionError, beginning with `name`, unless it keeps the contract."""
    before = _text(ask)
    config = _suggested(searcher, ask, name)
    assert _text(ask) == before, f"{name}: the searcher changed its ask"
    _check_inside(ask.space, config, name)
    again = Ask.from_json(ask.space, json.loads(before))
    repeated = _suggested(searcher, again, name)
    assert _same(repeated, config), (
        f"{name}: the same ask got {config!r}, then {repeated!r}; chance must come from ask.seed alone"
    )
    return config


def _suggested(searcher: Searcher, ask: Ask, name: str) -> Config:
    try:
        return searcher.suggest(ask)
    except Exception as error:
        raise AssertionError(f"{name}: suggest raised {error_line(error)}") from error


def _check_inside(space: Space, config: Any, name: str) -> None:
    assert type(config) is dict, f"{name}: suggested {config!r}, which is no dict"
    odd = sorted(map(str, (config.keys() ^ space.keys()) - space.constants.keys()))
    assert not odd, f"{name}: suggested {config!r}; it and the space differ in {', '.join(odd)}"
    for key, value in space.constants.items():
        given = config.get(key, value)
        assert type(given) is type(value), f"{name}: {key} is {given!r}, and the constant {value!r}: leave it out"
        assert given == value, f"{name}: {key} is {given!r}, and the constant {value!r}: leave it out"
    for key, dimension in space.items():
        value = config[key]
        assert type(value) in (str, int, float, bool, type(None)), (
            f"{name}: {key} is {value!r}, of {type(value).__module__}.{type(value).__name__}, not a plain Python value"
        )
        try:
            inside = dimension.clip(value)
        except ValueError as error:
            raise AssertionError(f"{name}: {key}: {error}") from None
        assert value == inside, f"{name}: {key} is {value!r}, outside {dimension!r}; use ask.space.clip"
        assert type(value) is type(inside), (
            f"{name}: {key} is {value!r}, but {dimension!r} is of type {type(inside).__name__}; use ask.space.clip"
        )


def _same(one: Config, other: Config) -> bool:
    return json.dumps(one, sort_keys=True, default=repr) == json.dumps(other, sort_keys=True, default=repr)


def _text(ask: Ask) -> str:
    return json.dumps(ask.to_json())


# ---- the cases


def searcher_cases(space: Space = SPACE) -> list[tuple[str, Ask]]:
    """(name, Ask) for everything a run may show a searcher over `space`, roots and children."""
    cases = []
    for name, kin in _histories(space):
        cases += [(f"{name}, a root", _ask(space, kin, 0)), (f"{name}, a child", _ask(space, kin, 1))]
    family = _family(space, 40, 4)
    for waiting in (1, 5):
        config = tuple(_drawn(space, random.Random(i)) for i in range(waiting))
        cases += [
            (f"{waiting} pending and nothing known, a root", _ask(space, (), 0, config)),
            (f"{waiting} pending, a root", _ask(space, family[:40], 0, config)),
            (f"{waiting} pending, a child", _ask(space, family, 3, config)),
        ]
    twins = (family[0].config,) * 3
    cases += [
        ("pending where the best is, a child", _ask(space, family, 1, twins)),
        ("a deep family of 200, a great-grandchild", _ask(space, _family(space, 80, 4), 4)),
    ]
    for u in (0.0, 1.0):
        far = _ask(space, family, 2)
        assert far.parent is not None
        corner = replace(far.parent, config=space.searched(space.decode([u] * len(space))))
        cases.append((f"a parent far from its kin, at {u:g}", replace(far, parent=corner)))
    cases += [(f"seed {seed}", replace(_ask(space, family, 2), seed=seed)) for seed in (0, 2**32, 2**63 - 1)]
    return cases


def _histories(space: Space) -> Iterator[tuple[str, tuple[Observation, ...]]]:
    kin = _roots(space, 30)

    def changed(change: Callable[[int, Observation], Observation], n: int = 9) -> tuple[Observation, ...]:
        return tuple(change(i, observed) for i, observed in enumerate(kin[:n]))

    yield "no kin", ()
    yield "one observation", kin[:1]
    yield "two observations", kin[:2]
    yield "30 observations", kin
    yield "all tied", changed(lambda i, o: replace(o, loss=0.5))
    yield "tied in pairs", changed(lambda i, o: replace(o, loss=float(i // 2)))
    yield "one config over and over", changed(lambda i, o: replace(o, config=dict(kin[0].config)))
    yield "all failed", changed(lambda i, o: _failed(o))
    yield "all stopped", changed(lambda i, o: _stopped(o, o.loss))
    yield "finished, failed and stopped", changed(lambda i, o: (o, _failed(o), _stopped(o, -9.0))[i % 3], 30)
    yield "one finished, the rest failed", changed(lambda i, o: _failed(o) if i else o)
    yield "stopped without a loss", changed(lambda i, o: _stopped(o, None) if i % 2 else o)
    yield "losses that are not finite", changed(lambda i, o: replace(o, loss=(float("nan"), float("inf"), 0.5)[i % 3]))
    yield "huge losses", changed(lambda i, o: replace(o, loss=(1.7e308, -1.7e308, 1.0)[i % 3]))
    yield "tiny differences", changed(lambda i, o: replace(o, loss=1.0 + i * 2.0**-52))
    corners = [space.searched(space.decode([u] * len(space))) for u in (0.0, 1.0)]
    yield "at the borders", changed(lambda i, o: replace(o, config=corners[i % 2]))


def _drawn(space: Space, rng: random.Random) -> Config:
    """A config as a run shows it: without constants."""
    return space.searched(space.sample(rng))


def _failed(o: Observation) -> Observation:
    return replace(o, outcome="failed", loss=None)


def _stopped(o: Observation, loss: float | None) -> Observation:
    return replace(o, outcome="stopped", loss=loss)


def _roots(space: Space, n: int) -> tuple[Observation, ...]:
    rng = random.Random(n)
    return tuple(Observation((i,), 0, _drawn(space, rng), "finished", rng.random()) for i in range(n))


def _family(space: Space, width: int, generations: int) -> tuple[Observation, ...]:
    """The kin of (0, …, 0): the roots, and all children of it and its ancestors."""
    rng = random.Random(width)
    kin = list(_roots(space, width))
    for generation in range(1, generations):
        path: Path = (0,) * generation
        kin += [
            Observation((*path, i), generation, _drawn(space, rng), "finished", rng.random()) for i in range(width // 2)
        ]
    return tuple(kin)


def _ask(space: Space, kin: tuple[Observation, ...], generation: int, pending: Iterable[Config] = ()) -> Ask:
    parent = None
    if generation:
        config = kin[0].config if kin else _drawn(space, random.Random(7))
        parent = Observation((0,) * generation, generation - 1, config, "finished", 0.5)
    path = (0,) * generation + (len(kin) + 2,)
    return Ask(space, path, generation, 1234567, parent, kin, tuple(pending), run=42)
