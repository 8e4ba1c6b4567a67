"""gpbt.torch: what a member goes on with, and what of a config reaches an optimizer."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from harness import cli, facts

import gpbt_async as gpbt

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.optim import SGD, Adam, AdamW, lr_scheduler  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path


def net(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))


def steps(model: Any, optimizer: Any, count: int = 3, scheduler: Any = None) -> None:
    model.train()
    for i in range(count):
        x = torch.linspace(-1, 1, 15).reshape(5, 3) + i
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def same(a: Any, b: Any) -> bool:
    mine, theirs = a.state_dict(), b.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


def member(path: Path, config: dict[str, Any], parent: Path | None = None) -> gpbt.Member:
    return gpbt.Member.local(config, path, parent=parent)


def test_training_in_two_parts_equals_training_in_one(tmp_path: Path) -> None:
    whole, first, second = net(), net(), net(1)
    steps(whole, optimizer := AdamW(whole.parameters(), lr=0.1), 6)
    steps(first, begun := AdamW(first.parameters(), lr=0.1), 3)
    gpbt.torch.save(tmp_path, first, begun)
    gpbt.torch.load(tmp_path, second, resumed := AdamW(second.parameters(), lr=0.1))
    for i in range(3, 6):
        x = torch.linspace(-1, 1, 15).reshape(5, 3) + i
        resumed.zero_grad()
        second(x).square().mean().backward()
        resumed.step()
    assert same(second, whole)
    assert all(torch.equal(a, b) for a, b in zip(_moments(resumed), _moments(optimizer), strict=True))


def _moments(optimizer: Any) -> list[Any]:
    return [state["exp_avg"] for state in optimizer.state.values()]


def test_a_child_has_its_parents_weights_and_momenta_and_its_own_config(tmp_path: Path) -> None:
    root = member(tmp_path / "0", {"lr": 0.1, "momentum": 0.9, "dropout": 0.5})
    model, optimizer = net(), SGD(net().parameters(), lr=7.0)
    optimizer = SGD(model.parameters(), lr=7.0)
    assert gpbt.torch.begin(root, model, optimizer) == {}
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]) == (0.1, 0.9)
    steps(model, optimizer)
    gpbt.torch.save(root, model, optimizer, epoch=3, seen=[1, 2], note={"a": None})
    assert {p.name for p in root.checkpoint.iterdir()} == {"model.pt", "state.pt"}

    child = member(tmp_path / "1", {"lr": 0.01, "momentum": 0.5, "dropout": 0.1}, root.checkpoint)
    heir = net(5)
    heirs = SGD(heir.parameters(), lr=7.0, weight_decay=0.3)
    assert gpbt.torch.begin(child, heir, heirs) == {"epoch": 3, "seen": [1, 2], "note": {"a": None}}
    assert same(heir, model)
    group = heirs.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.01, 0.5, 0.3)
    buffers = [s["momentum_buffer"] for s in heirs.state.values()]
    assert all(torch.equal(a, b["momentum_buffer"]) for a, b in zip(buffers, optimizer.state.values(), strict=True))

    gpbt.torch.begin(child, heir, fresh := SGD(heir.parameters(), lr=7.0), state="reset")
    assert not fresh.state
    gpbt.torch.begin(child, heir, other := Adam(heir.parameters(), lr=7.0))
    assert not other.state, "another kind of optimizer begins afresh"
    assert other.param_groups[0]["lr"] == 0.01
    steps(heir, other)
    with pytest.raises(ValueError, match="state is 'drop': must be 'keep' or 'reset'"):
        gpbt.torch.begin(child, heir, other, state="drop")  # type: ignore[arg-type]


def test_siblings_draw_differently_and_a_folder_restores_random_numbers(tmp_path: Path) -> None:
    model = net()
    gpbt.torch.save(tmp_path, model)
    drawn = [random.random(), np.random.random(), torch.rand(1).item()]
    gpbt.torch.load(tmp_path, model)
    assert [random.random(), np.random.random(), torch.rand(1).item()] == drawn
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    own = [random.random(), np.random.random(), torch.rand(1).item()]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    gpbt.torch.load(member(tmp_path / "x", {"lr": 1}, tmp_path), model)
    assert [random.random(), np.random.random(), torch.rand(1).item()] == own
    gpbt.torch.save(tmp_path, model, rng=False)
    gpbt.torch.load(tmp_path, model, rng=True)


def test_safetensors(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    model, heir = net(), net(3)
    model[2].weight = nn.Parameter(model[2].weight.clone())
    gpbt.torch.save(tmp_path, model)
    gpbt.torch.save(tmp_path, model, safetensors=True, epoch=1)
    assert {p.name for p in tmp_path.iterdir()} == {"model.safetensors", "state.pt"}
    assert gpbt.torch.load(tmp_path, heir) == {"epoch": 1}
    assert same(heir, model)


def test_values_that_could_run_code_are_neither_written_nor_read(tmp_path: Path) -> None:
    model = net()
    for value, where in (({"a": [object()]}, r"seen\['a'\]\[0\] is a builtins.object"), (np.float64(1), "value.item")):
        with pytest.raises(TypeError, match=where):
            gpbt.torch.save(tmp_path, model, seen=value)
    assert list(tmp_path.iterdir()) == []

    class Evil:
        def __reduce__(self) -> Any:
            return (print, ("run",))

    torch.save(Evil(), tmp_path / "model.pt")
    with pytest.raises(Exception, match=r"[Ww]eights"):
        gpbt.torch.load(tmp_path, model)


def test_a_folder_without_our_checkpoint_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has neither model.pt nor model.safetensors"):
        gpbt.torch.load(tmp_path, net())
    torch.save(net().state_dict(), tmp_path / "model.pt")
    assert gpbt.torch.load(tmp_path, net(1)) == {}
    with pytest.raises(RuntimeError, match=r"size mismatch|Missing key"):
        gpbt.torch.load(tmp_path, nn.Linear(2, 2))


def test_a_hard_link_to_the_old_file_is_left_alone(tmp_path: Path) -> None:
    gpbt.torch.save(tmp_path, net())
    linked = tmp_path / "linked.pt"
    linked.hardlink_to(tmp_path / "model.pt")
    before = linked.read_bytes()
    gpbt.torch.save(tmp_path, net(9))
    assert linked.read_bytes() == before


def test_a_config_sets_the_optimizers_options() -> None:
    model = net()
    groups = [
        {"params": model[0].parameters(), "lr": 0.1},
        {"params": model[1].parameters(), "weight_decay": 0.0, "lr": 0.2},
    ]
    optimizer = AdamW(groups, lr=0.1, weight_decay=0.01)
    config = {"learning_rate": 0.01, "weight_decay": 0.5, "beta2": 0.95, "eps": 1e-7, "dropout": 0.3}
    assert gpbt.torch.apply(config, optimizer) == ["lr", "weight_decay", "beta2", "eps"]
    assert [g["lr"] for g in optimizer.param_groups] == [0.01, 0.02]
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.5, 0.0]
    assert [g["betas"] for g in optimizer.param_groups] == [(0.9, 0.95)] * 2
    assert [g["eps"] for g in optimizer.param_groups] == [1e-7] * 2
    with pytest.raises(ValueError, match=r"config has width, and the optimizer lr, .*: none in common"):
        gpbt.torch.apply({"width": 3}, optimizer)
    for wrong in ("0.1", None, True):
        with pytest.raises(TypeError, match=r"config\['learning_rate'\] is .*, but the optimizer's lr is a number"):
            gpbt.torch.apply({"learning_rate": wrong}, optimizer)


def test_reset_forgets_momenta() -> None:
    model = net()
    steps(model, optimizer := SGD(model.parameters(), lr=0.1, momentum=0.9))
    gpbt.torch.apply({"lr": 0.2}, optimizer)
    assert optimizer.state
    gpbt.torch.apply({"lr": 0.2}, optimizer, reset=True)
    assert not optimizer.state


SCHEDULERS: dict[str, Any] = {
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda step: min(1.0, step / 4)),
    "step": lambda o: lr_scheduler.StepLR(o, 3, gamma=0.5),
    "multistep": lambda o: lr_scheduler.MultiStepLR(o, [2, 5]),
    "onecycle": lambda o: lr_scheduler.OneCycleLR(o, o.param_groups[0]["lr"], total_steps=10, cycle_momentum=False),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=3), lr_scheduler.CosineAnnealingLR(o, 7)], milestones=[3]
    ),
}


def course(optimizer: Any, scheduler: Any, count: int) -> list[float]:
    rates = []
    for _ in range(count):
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_follows_and_continues(name: str, tmp_path: Path) -> None:
    """Applied at any moment, a new rate runs the same course as if it had been there from the beginning."""
    make, model = SCHEDULERS[name], nn.Linear(1, 1)
    reference = SGD(model.parameters(), lr=0.3)
    wanted = course(reference, make(reference), 9)
    for when in (0, 2, 4):
        optimizer = SGD(model.parameters(), lr=0.1)
        scheduler = make(optimizer)
        course(optimizer, scheduler, when)
        gpbt.torch.apply({"lr": 0.3}, optimizer, scheduler)
        assert course(optimizer, scheduler, 9 - when) == pytest.approx(wanted[when:], abs=1e-9)
    before = SGD(model.parameters(), lr=0.1)
    course(before, done := make(before), 4)
    gpbt.torch.save(tmp_path, model, before, done)
    after = SGD(model.parameters(), lr=0.3)
    gpbt.torch.load(tmp_path, model, after, again := make(after))
    if name not in ("onecycle", "sequential"):  # whose state holds more rates of its own
        assert course(after, again, 5) == pytest.approx(wanted[4:], abs=1e-9)


def test_a_schedule_in_a_loop_of_ones_own() -> None:
    schedule = gpbt.Schedule([{"lr": 0.1, "width": 3}, {"lr": 0.01, "width": 3}])
    model = net()
    optimizer, seen = SGD(model.parameters(), lr=1.0), []
    for step in range(4):
        gpbt.torch.apply(schedule.config(step, 4), optimizer)
        steps(model, optimizer, 1)
        seen.append(optimizer.param_groups[0]["lr"])
    assert seen == [0.1, 0.1, 0.01, 0.01]


# ---- parameter groups


def matrix() -> Any:
    return nn.Parameter(torch.zeros(2, 2))


def bias() -> Any:
    return nn.Parameter(torch.zeros(2))


def groups_after(groups: list[dict[str, Any]], config: dict[str, Any], name: str, **more: Any) -> list[Any]:
    optimizer = AdamW(groups, **more)
    gpbt.torch.apply(config, optimizer)
    return [group[name] for group in optimizer.param_groups]


def test_groups_that_differ_stay_different() -> None:
    """By what they have, by what they are made of, or by what they say."""
    decay, wd = {"weight_decay": 0.3}, "weight_decay"
    of = groups_after
    plain = {"params": [bias(), bias()]}
    assert of([{"params": [matrix()]}, plain], decay, wd, weight_decay=0.0) == [0.3, 0.0]
    assert of([plain | {}, {"params": [matrix(), bias()]}], decay, wd, weight_decay=0.0) == [0.0, 0.3]
    assert of([{"params": [bias()]}], decay, wd, weight_decay=0.0) == [0.3]
    split = [{"params": [matrix()], wd: 0.0}, {"params": [matrix()], wd: 0.01}, {"params": [matrix()], wd: 0.1}]
    assert of(split, decay, wd) == pytest.approx([0.0, 0.3, 3.0])
    said = [{"params": [matrix()], "weight_decay_mult": 0}, {"params": [matrix()]}, {"params": [bias()], wd: 0.0}]
    assert of(said, decay, wd, weight_decay=0.1) == [0.0, 0.3, 0.0]
    rates = [{"params": [matrix()], "lr_mult": 0.1}, {"params": [matrix()], "lr_mult": 1}]
    assert of(rates, {"lr": 0.3}, "lr", lr=0.7) == pytest.approx([0.03, 0.3])
    frozen = [{"params": [matrix()], "lr": 0.0}, {"params": [matrix()], "lr": 0.2}, {"params": [matrix()], "lr": 0.02}]
    assert of(frozen, {"lr": 0.3}, "lr") == pytest.approx([0.0, 0.3, 0.03])
    pairs = [{"params": [matrix()]}, {"params": [matrix()], "betas": (0.5, 0.99)}, {"params": [matrix()]}]
    assert of(pairs, {"beta1": 0.8}, "betas") == [(0.8, 0.999), (0.5, 0.99), (0.8, 0.999)]
    momenta = SGD([{"params": [matrix()]}, {"params": [matrix()], "momentum": 0.0}], lr=0.1, momentum=0.9)
    gpbt.torch.apply({"momentum": 0.5}, momenta)
    assert [group["momentum"] for group in momenta.param_groups] == [0.5, 0.0]


def test_proportions_survive_a_zero() -> None:
    """An interval without weight decay, or at learning rate 0, is not the end of the groups' differences."""
    groups = [{"params": [matrix()], "lr": 0.1, "weight_decay": 0.1}, {"params": [matrix()], "weight_decay": 0.0}]
    optimizer = SGD(groups, lr=0.2)
    for config in ({"lr": 0.0, "weight_decay": 0.0}, {"lr": 0.3, "weight_decay": 0.5}):
        gpbt.torch.apply(config, optimizer)
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(0.3, 0.5), (0.6, 0.0)]


def test_groups_without_a_difference_are_a_finding(tmp_path: Path) -> None:
    """And only those: groups that were split for another reason, or that declare a multiplier, are no finding."""
    alike = [{"params": [matrix()]}, {"params": [matrix(), bias()]}]
    for groups, expected in (
        (alike, True),
        ([*alike, {"params": [bias()]}], False),
        ([alike[0], {**alike[1], "lr": 0.5}], False),
        ([{**alike[0], "weight_decay_mult": 1}, {**alike[1], "weight_decay_mult": 0}], False),
        ([{**alike[0], "weight_decay": 0.1}, alike[1]], False),
        (alike[:1], False),
    ):
        one = member(tmp_path, {"weight_decay": 0.3})
        optimizer = SGD([dict(group) for group in groups], lr=0.1)
        gpbt.torch.begin(one, net(), optimizer)
        assert [found[:2] for found in one.telemetry.findings] == [("GPBT004", "weight_decay")] * expected
        if expected:
            assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.3]


# ---- a value that the script overwrites


def findings(where: Path, train: Any, **space: gpbt.Float) -> list[Any]:
    """What the pre-flight finds in two members of a script, whose values differ by a factor of two."""
    from gpbt_async.engine.tree import Node
    from gpbt_async.experiment import Settings
    from gpbt_async.preflight.checks import Preflight

    flight, found = Preflight(Settings(space=gpbt.Space(space), score="loss", mode="min")), []
    for i in range(2):
        config = {name: bounds.low * (i + 1) for name, bounds in space.items()}
        one = gpbt.Member.local(config, where / str(i), seed=i, id=i)
        train(one)
        found += list(flight.heard(Node(i, (), i, 0, None, config, i), one.telemetry.to_json()))
    return found


def begun(one: gpbt.Member, optimizer: Any = None) -> tuple[Any, Any]:
    model = net()
    optimizer = optimizer or SGD(model.parameters(), lr=0.7, momentum=0.9, weight_decay=0.1)
    gpbt.torch.begin(one, model, optimizer)
    return model, optimizer


RATE = gpbt.Float(0.01, 1)


def test_a_learning_rate_that_the_loop_sets_itself_is_found(tmp_path: Path) -> None:
    def train(one: gpbt.Member) -> None:
        model, optimizer = begun(one)
        for epoch in range(3):
            for group in optimizer.param_groups:  # adjust_learning_rate of many a training loop
                group["lr"] = 0.1 * 0.1 ** (epoch // 30)
            steps(model, optimizer, 4)

    (found,) = findings(tmp_path, train, lr=RATE)
    assert (found.code, found.subject) == ("GPBT003", "lr")
    assert "trained with 0.1" in found.text


def test_momentum_and_weight_decay_that_the_loop_sets_itself_are_found(tmp_path: Path) -> None:
    def train(one: gpbt.Member) -> None:
        model, optimizer = begun(one)
        for step in range(9):
            optimizer.param_groups[0].update(momentum=min(0.9, 0.5 + step), weight_decay=5e-4)
            steps(model, optimizer, 1)

    found = findings(tmp_path, train, lr=RATE, momentum=gpbt.Float(0.1, 0.9), weight_decay=RATE)
    assert {(each.code, each.subject) for each in found} == {("GPBT003", "momentum"), ("GPBT003", "weight_decay")}


def test_a_learning_rate_that_is_logged_and_not_used_is_found(tmp_path: Path) -> None:
    """A script that reads it may build what it likes from it; here it builds nothing."""

    def train(one: gpbt.Member) -> None:
        model, optimizer = begun(one)
        assert dict(one.config)
        scheduler = lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=9)
        steps(model, optimizer, 8, scheduler)

    (found,) = findings(tmp_path, train, lr=RATE)
    assert (found.code, found.subject) == ("GPBT003", "lr")
    assert "OneCycleLR drives it to a value of its own" in found.text


class Restarting(lr_scheduler.LRScheduler):
    """A scheduler of the script's own, between learning rates of its own."""

    def get_lr(self) -> list[float]:
        return [0.2 / (1 + self.last_epoch % 3) for _ in self.base_lrs]


def test_a_scheduler_of_the_scripts_own_is_found_if_it_is_absolute(tmp_path: Path) -> None:
    def train(one: gpbt.Member) -> None:
        model = net()
        optimizer = SGD(model.parameters(), lr=0.7)
        scheduler = Restarting(optimizer)
        begun(one, optimizer)
        steps(model, optimizer, 8, scheduler)

    (found,) = findings(tmp_path, train, lr=RATE)
    assert (found.code, found.subject) == ("GPBT003", "lr")
    assert "Restarting drives it" in found.text


class Halving(lr_scheduler.LRScheduler):
    def get_lr(self) -> list[float]:
        return [max(1e-3, base * 0.5**self.last_epoch) for base in self.base_lrs]


SOUND: dict[str, Any] = {
    **SCHEDULERS,
    "to zero": lambda o: lr_scheduler.LinearLR(o, 1.0, 0.0, total_iters=6),
    "to a floor": lambda o: lr_scheduler.CosineAnnealingLR(o, 8, eta_min=1e-3),
    "cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=9),
    "own, to a floor": Halving,
    "none": lambda o: None,
}


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("order", ["before", "after"])
def test_a_sound_schedule_is_no_finding(order: str, name: str, tmp_path: Path) -> None:
    def train(one: gpbt.Member) -> None:
        model = net()
        optimizer = SGD(model.parameters(), lr=0.7, momentum=0.9)
        scheduler = SOUND[name](optimizer) if order == "before" else None
        begun(one, optimizer)
        steps(model, optimizer, 8, scheduler or SOUND[name](optimizer))
        gpbt.torch.save(one, model, optimizer, scheduler)

    assert findings(tmp_path, train, lr=RATE, weight_decay=RATE) == []


def test_a_loop_that_scales_what_it_has_is_no_finding(tmp_path: Path) -> None:
    def train(one: gpbt.Member) -> None:
        model, optimizer = begun(one)
        for _ in range(20):
            for group in optimizer.param_groups:
                group["lr"] = max(group["lr"] * 0.8, 1e-3)
            steps(model, optimizer, 2)

    assert findings(tmp_path, train, lr=RATE) == []


def test_a_model_that_does_not_fit_its_parents_weights_is_tried_once(tmp_path: Path) -> None:
    """What PyTorch itself says of it: the width is searched."""
    script = tmp_path / "widths.py"
    script.write_text(
        "import torch, gpbt_async as gpbt\n"
        "def train(member):\n"
        "    model = torch.nn.Linear(4, int(member.config['width']))\n"
        "    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "    gpbt.torch.begin(member, model, optimizer)\n"
        "    loss = (model(torch.randn(8, 4)) ** 2).mean()\n"
        "    loss.backward()\n"
        "    optimizer.step()\n"
        "    member.report(loss=loss)\n"
        "    gpbt.torch.save(member, model, optimizer)\n"
        "experiment = gpbt.Experiment(train, space={'width': gpbt.Int(2, 900), 'lr': gpbt.Float(1e-3, 1, log=True)},\n"
        "                             score='loss', mode='min', population=4, generations=2, searcher='random')\n"
    )
    cli("launch", script, "--slots", 2, "--name", "r", cwd=tmp_path)
    failed = facts(tmp_path / "runs" / "r", "Failed")
    assert failed
    assert all(fact["certain"] and fact["attempt"] == 1 for fact in failed)
    assert all("cannot be inherited: take it out of the space" in fact["reason"] for fact in failed)
    (found,) = [fact for fact in facts(tmp_path / "runs" / "r", "Found") if fact["code"] == "GPBT010"]
    assert "cannot be inherited" in found["remedy"]


def test_an_ensemble_is_the_mean_of_its_members_predictions(tmp_path: Path) -> None:
    x, models = torch.randn(5, 3), [torch.nn.Linear(3, 2) for _ in range(3)]
    folders = [tmp_path / str(i) for i in range(3)]
    for folder, model in zip(folders, models, strict=True):
        gpbt.torch.save(folder, model)
    mean = torch.stack([model(x) for model in models]).mean(0)
    model = torch.nn.Linear(3, 2)
    torch.testing.assert_close(gpbt.torch.ensemble(folders, model, lambda: model(x)), mean)
    member = gpbt.Member.local({}, tmp_path, ensemble=folders)
    torch.testing.assert_close(gpbt.torch.ensemble(member, model, lambda: model(x)), mean)
    alone = gpbt.Member.local({}, tmp_path, parent=folders[1])
    torch.testing.assert_close(gpbt.torch.ensemble(alone, model, lambda: model(x)), models[1](x))
    with pytest.raises(ValueError, match="there is no checkpoint"):
        gpbt.torch.ensemble(gpbt.Member.local({}, tmp_path), model, lambda: model(x))
    with pytest.raises(RuntimeError, match="an ensemble of 3 checkpoints"):
        gpbt.torch.load(member, model)
