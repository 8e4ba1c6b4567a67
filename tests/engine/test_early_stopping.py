"""Early stopping: each rule's decisions on scripted reports, against tables written by hand."""

from __future__ import annotations

import math
import random

import pytest
from engine_driver import SPACE, settings

import gpbt_async as gpbt
from gpbt_async import events
from gpbt_async.ask import path_text
from gpbt_async.engine.early_stopping import closes, stops
from gpbt_async.engine.engine import Engine
from gpbt_async.engine.tree import Node, State


class Script:
    """Drives a lineage member by member, with scores as written."""

    def __init__(self, **changes: object) -> None:
        self.engine = Engine(settings(attempts=1, **changes), ahead=0)
        self.rng = random.Random(0)
        self.verdicts: dict[int, bool] = {}
        self.do(self.engine.handle(events.Opened(t=0.0, slots=8, version="v", pid=1)))

    def do(self, commands: list[events.Command]) -> None:
        for command in commands:
            if isinstance(command, events.Suggest):
                config, path = SPACE.sample(self.rng), path_text(command.path)
                if command.path not in self.engine.asks:
                    continue
                generation, asked = command.generation, self.engine.count
                fact = events.Suggested(t=0.0, path=path, generation=generation, config=config, asked=asked)
                self.do(self.engine.handle(fact))
            elif isinstance(command, events.Verdict):
                self.verdicts[command.member] = command.stop
            elif isinstance(command, events.Publish):
                fact = events.Published(t=0.0, member=command.member, attempt=command.attempt, size=0, digest="")
                self.do(self.engine.handle(fact))

    def judge(self, member: Node, score: float) -> bool:
        self.do(self.engine.handle(events.Judged(t=0.0, member=member.id, attempt=member.attempt, score=score)))
        return self.verdicts[member.id]

    def finish(self, member: Node, score: float, seconds: float = 1.0) -> None:
        names = {"t": 0.0, "member": member.id, "attempt": member.attempt, "metrics": {}, "seconds": seconds}
        kind = events.StoppedEarly if self.verdicts.get(member.id) else events.Trained
        self.do(self.engine.handle(kind(score=score, **names)))  # type: ignore[arg-type]

    def training(self) -> list[Node]:
        return sorted(self.engine.training, key=lambda m: m.id)


@pytest.mark.parametrize(
    ("first", "others", "stopped"),
    [
        (9.0, [], False),
        (9.0, [1.0, 1.0, 1.0], False),  # three are too few to compare with
        (2.6, [1.0, 2.0, 3.0, 4.0], True),  # the median of four is 2.5
        (2.5, [1.0, 2.0, 3.0, 4.0], False),  # a tie goes on
        (3.1, [1.0, 2.0, 3.0, 4.0, 5.0], True),
        (2.9, [1.0, 2.0, 3.0, 4.0, 5.0], False),
        (math.inf, [1.0, 2.0, 3.0, 4.0], True),
        (5.0, [1.0, 2.0, math.inf, math.inf], False),  # the median is infinite
    ],
)
def test_the_median_rule(first: float, others: list[float], stopped: bool) -> None:
    assert stops(first, others) is stopped


@pytest.mark.parametrize(
    ("loss", "above", "above_that", "closed"),
    [
        (0.5, 1.0, 1.4, True),
        (0.61, 1.0, 1.4, False),
        (0.7, 1.0, 1.4, False),
        (-0.1, 0.0, 0.05, True),
        (1.1, 1.0, 0.8, False),  # the generation above lost ground, and this one loses more
        (1.0, 1.0, 0.8, False),  # as good is no gain
        (0.99, 1.0, 0.8, True),  # any gain is more than a loss
    ],
)
def test_the_generation_rule(loss: float, above: float, above_that: float, closed: bool) -> None:
    assert closes(loss, above, above_that) is closed


def test_first_reports_of_a_generation_judged_as_by_hand() -> None:
    """n = 8, k = 2. Reports come in the order they are written; repeats are exempt, but are compared with."""
    script = Script(population=8, generations=2, early_stop=("median",), mode="min")
    roots = script.training()
    assert len(roots) == 8
    for i, root in enumerate(roots):
        script.finish(root, float(i))
    assert not script.verdicts, "generation 0 is never judged"
    children = script.training()
    repeats = [m for m in children if m.path[-1] == 0]
    others = [m for m in children if m.path[-1] > 0]
    assert [len(repeats), len(others)] == [2, 6]
    table = [
        (others[0], 5.0, False),  # nobody to compare with
        (others[1], 3.0, False),  # one
        (repeats[0], 9.0, False),  # two; and exempt
        (others[2], 4.0, False),  # three: too few
        (others[3], 4.6, True),  # 3, 4, 5, 9: median 4.5
        (repeats[1], 99.0, False),  # worse than all, but exempt
        (others[4], 4.7, False),  # 3, 4, 4.6, 5, 9, 99: median 4.8; the stopped one's report counts too
        (others[5], math.nan, True),  # not finite is worse than anything
    ]
    for member, score, stopped in table:
        assert script.judge(member, score) is stopped, member.path
    for member, score, _ in table:
        script.finish(member, score, seconds=0.25 if script.verdicts[member.id] else 1.0)
    engine = script.engine
    engine.check()
    assert others[3].state is others[5].state is State.STOPPED
    assert engine.ended == events.Finish("")
    ranked = [m.id for m in engine.tree.generations[1].ranking]
    assert others[3].id not in ranked
    assert others[5].id not in ranked
    told = others[3].observation(SPACE)
    assert (told.outcome, told.loss) == ("stopped", 4.6)
    assert others[5].observation(SPACE).outcome == "failed"


def test_one_told_to_stop_that_trains_to_its_end_is_stopped_all_the_same() -> None:
    """n = 6, k = 2: of four children that do not repeat, the last is the worst of six first reports."""
    script = Script(population=6, generations=2, early_stop=("median",))
    for i, root in enumerate(script.training()):
        script.finish(root, float(i))
    *others, last = sorted(script.training(), key=lambda m: (m.path[-1] > 0, m.id))
    assert not any(script.judge(member, 1.0) for member in others)
    assert script.judge(last, 2.0)
    names = {"t": 0.0, "member": last.id, "attempt": last.attempt, "metrics": {}, "seconds": 1.0}
    commands = script.engine.handle(events.Trained(score=0.0, **names))  # it ended before it heard of it
    assert last.state is State.STOPPED
    assert not any(isinstance(command, events.Publish) for command in commands)
    assert last.id not in [m.id for m in script.engine.tree.generations[1].ranking]


def test_a_maximised_score_is_judged_the_other_way_round() -> None:
    script = Script(population=6, generations=2, early_stop=("median",), mode="max")
    for i, root in enumerate(script.training()):
        script.finish(root, float(i))
    scores = [0.9, 0.8, 0.7, 0.6, 0.5, 0.95]
    exempt = [m.path[-1] == 0 for m in script.training()]
    got = [script.judge(m, s) for m, s in zip(script.training(), scores, strict=True)]
    assert got == [bool(s < m) and not e for s, m, e in zip(scores, [0, 0, 0, 0, 0.75, 0.7], exempt, strict=True)]


def test_a_generation_that_has_gained_enough_is_closed() -> None:
    """n = 4, slots 8. Best 1.0, then 0.8; a child of generation 2 below 2·0.8 - 1.0 = 0.6 closes it."""
    script = Script(population=4, generations=4, early_stop=("generation",), evidence=1.0)
    script.engine.handle(events.Opened(t=0.0, slots=1, version="v", pid=1))
    script.do(script.engine.outstanding())

    def next_scores(*scores: float) -> None:
        for score in scores:
            (member,) = script.training()
            script.finish(member, score)

    next_scores(1.0, 2.0, 3.0, 4.0)
    next_scores(0.9, 0.8, 0.95, 0.99)  # no generation before the one above: never closed
    tree = script.engine.tree
    assert tree.generations[1].size == 4
    next_scores(0.7, 0.61)  # gains of .1 and .19 are not more than .2
    assert tree.generations[2].size == 4
    next_scores(0.59)  # .21 is
    assert tree.generations[2].size == 3
    assert tree.generations[2].complete
    # best .59 after .8 after 1.0: the next one closes below 2·0.59 - 0.8 = .38
    (member,) = script.training()
    assert member.generation == 3
    next_scores(0.37)
    # while it was being published the free slot took the next child, which repeats and waits for no searcher
    assert tree.generations[3].size == tree.generations[3].issued == 2
    next_scores(5.0)
    assert script.engine.ended == events.Finish("")
    script.engine.check()


def train(member: gpbt.Member) -> None: ...


@pytest.mark.parametrize(
    ("given", "rules"),
    [(None, ()), ("median", ("median",)), ("generation,median", ("median", "generation")), (["median"], ("median",))],
)
def test_how_rules_are_named(given: object, rules: tuple[str, ...]) -> None:
    experiment = gpbt.Experiment(train, space=dict(SPACE), score="s", mode="max", early_stop=given)  # type: ignore[arg-type]
    assert experiment.settings.early_stop == rules


@pytest.mark.parametrize("given", ["mean", 3, ["median", "x"]])
def test_unknown_rules_are_refused(given: object) -> None:
    with pytest.raises(gpbt.ExperimentError, match="early_stop"):
        gpbt.Experiment(train, space=dict(SPACE), score="s", mode="max", early_stop=given)  # type: ignore[arg-type]
