"""Learning-rate schedulers: whatever the order, the course of every group is that of the config's learning rate.

The reference are optimizers that were made with the config's learning rate, without gpbt.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import math
import warnings
from typing import TYPE_CHECKING, Any

import pytest

import gpbt_async as gpbt

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.optim import SGD, Adam, lr_scheduler, swa_utils  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LR, SCRIPTS, STEPS = 0.3, 0.05, 12

#: the script's, by class; a peak is given as the script's learning rates
MAKE: dict[str, Callable[[Any, list[float]], Any]] = {
    "LambdaLR": lambda o, _: lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
    "MultiplicativeLR": lambda o, _: lr_scheduler.MultiplicativeLR(o, lambda step: 1 / (1 + step)),
    "StepLR": lambda o, _: lr_scheduler.StepLR(o, 3, gamma=0.5),
    "MultiStepLR": lambda o, _: lr_scheduler.MultiStepLR(o, [2, 5]),
    "ConstantLR": lambda o, _: lr_scheduler.ConstantLR(o, 0.2, total_iters=4),
    "LinearLR": lambda o, _: lr_scheduler.LinearLR(o, 0.1, total_iters=5),
    "ExponentialLR": lambda o, _: lr_scheduler.ExponentialLR(o, 0.8),
    "SequentialLR": lambda o, _: lr_scheduler.SequentialLR(
        o,
        [lr_scheduler.LinearLR(o, 0.1, total_iters=3), lr_scheduler.CosineAnnealingLR(o, 7, eta_min=1e-3)],
        milestones=[3],
    ),
    "CosineAnnealingLR": lambda o, _: lr_scheduler.CosineAnnealingLR(o, 7, eta_min=1e-3),
    "ChainedScheduler": lambda o, _: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.2, total_iters=4), lr_scheduler.ExponentialLR(o, 0.8)]
    ),
    "ReduceLROnPlateau": lambda o, _: lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=1, min_lr=2e-3),
    "CosineAnnealingWarmRestarts": lambda o, _: lr_scheduler.CosineAnnealingWarmRestarts(o, 4, eta_min=1e-3),
    "PolynomialLR": lambda o, _: lr_scheduler.PolynomialLR(o, 8, power=2.0),
    "OneCycleLR": lambda o, peaks: lr_scheduler.OneCycleLR(o, peaks, total_steps=STEPS + 1, cycle_momentum=False),
    "CyclicLR": lambda o, peaks: lr_scheduler.CyclicLR(
        o, [peak / 10 for peak in peaks], peaks, step_size_up=3, mode="triangular2", cycle_momentum=False
    ),
}
#: bases of others, no schedulers themselves
BASES = {"LRScheduler"}

HUGGING: dict[str, dict[str, Any]] = {
    "linear": {},
    "cosine": {},
    "cosine_with_restarts": {"num_cycles": 2},
    "polynomial": {"lr_end": 0.0},
    "constant": {},
    "constant_with_warmup": {},
    "inverse_sqrt": {},
    "cosine_with_min_lr": {"min_lr_rate": 0.1},
    "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1},
    "warmup_stable_decay": {"num_decay_steps": 4},
    "reduce_lr_on_plateau": {"factor": 0.5, "patience": 1},
    "greedy": {"patience": 1, "min_lr": 1e-4, "max_lr": 10.0, "factor": 0.5},
}


def hugging(name: str) -> Callable[[Any, list[float]], Any]:
    def make(optimizer: Any, _: list[float]) -> Any:
        import transformers

        return transformers.get_scheduler(name, optimizer, 3, STEPS, HUGGING[name])

    return make


def ways() -> list[Any]:
    made = [pytest.param(make, id=name) for name, make in MAKE.items()]
    return made + [pytest.param(hugging(name), id=f"hf-{name}") for name in HUGGING]


@pytest.fixture(autouse=True, scope="module")
def frozen() -> Iterator[None]:
    """As in a forked member: what was there before is out of the collector's sight."""
    with contextlib.suppress(ModuleNotFoundError):
        import transformers

        assert transformers.get_scheduler
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def rates(groups: int, first: float) -> list[float]:
    return [first, first / 5][:groups]


def optimizer(kind: Any, lrs: list[float]) -> Any:
    return kind([{"params": [nn.Parameter(torch.zeros(2, 2))], "lr": lr} for lr in lrs], lr=lrs[0])


def course(of: Any, scheduler: Any, count: int = STEPS) -> list[list[float]]:
    """The learning rates of all groups at each step."""
    found = []
    for step in range(count):
        found.append([float(group["lr"]) for group in of.param_groups])
        for group in of.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        of.step()
        if "metrics" in type(scheduler).step.__code__.co_varnames:
            scheduler.step(math.sin(step))
        else:
            scheduler.step()
    return found


def member(where: Path, config: dict[str, Any], parent: Path | None = None) -> gpbt.Member:
    return gpbt.Member.local(config, where, parent=parent)


def test_all_of_torchs_schedulers_are_here() -> None:
    """A class that torch adds fails this until it is known how it is to follow."""
    there = {
        name
        for name, kind in vars(lr_scheduler).items()
        if isinstance(kind, type) and issubclass(kind, lr_scheduler.LRScheduler) and not name.startswith("_")
    }
    assert there == set(MAKE) | BASES
    assert {name for name in vars(swa_utils) if name.endswith("LR")} == {"SWALR"}


def test_all_of_hugging_faces_schedulers_are_here() -> None:
    transformers = pytest.importorskip("transformers")
    assert set(HUGGING) == {each.value for each in transformers.SchedulerType}


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", [SGD, Adam])
@pytest.mark.parametrize("order", ["before", "after", "passed"])
@pytest.mark.parametrize("make", ways())
def test_in_any_order_the_learning_rates_are_the_configs(
    make: Any, order: str, kind: Any, groups: int, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = optimizer(kind, rates(groups, LR))
        right = course(wanted, make(wanted, rates(groups, LR)))
        mine = optimizer(kind, rates(groups, SCRIPTS))
        scheduler = make(mine, rates(groups, SCRIPTS)) if order != "after" else None
        passed = scheduler if order == "passed" else None
        gpbt.torch.begin(member(tmp_path, {"lr": LR}), nn.Linear(1, 1), mine, passed)
        scheduler = scheduler or make(mine, rates(groups, SCRIPTS))
        assert course(mine, scheduler) == [pytest.approx(each, rel=1e-6) for each in right]
        assert scheduler.get_last_lr() == [pytest.approx(float(group["lr"])) for group in mine.param_groups]


@pytest.mark.parametrize("make", ways())
def test_a_scheduler_that_has_stepped_continues_as_if_made_with_the_config(make: Any) -> None:
    """As `Along` applies an interval's config in the middle of a training."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for when in (1, 4, 7):
            wanted = optimizer(SGD, rates(2, LR))
            right = course(wanted, make(wanted, rates(2, LR)))
            mine = optimizer(SGD, rates(2, SCRIPTS))
            scheduler = make(mine, rates(2, SCRIPTS))
            course(mine, scheduler, when)
            gpbt.torch.apply({"lr": LR}, mine)
            found = course(mine, scheduler, STEPS - when) if not hasattr(scheduler, "best") else right[when:]
            assert found == [pytest.approx(each, rel=1e-6) for each in right[when:]]


# ---- what cannot follow is refused, unless the script has built it from the config


class Timms:
    """As timm's schedulers are: none of torch's, and they copy what they begin from."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.base_values = [group["initial_lr"] for group in optimizer.param_groups]

    def step(self, epoch: int) -> None:
        for group, base in zip(self.optimizer.param_groups, self.base_values, strict=True):
            group["lr"] = base * 0.5**epoch


class CosineScheduler(Timms):
    pass


def begin(of: Any, where: Path, read: tuple[str, ...] = (), **config: Any) -> gpbt.Member:
    made = member(where, config)
    for name in read:
        assert made.config[name]
    gpbt.torch.begin(made, nn.Linear(1, 1), of)
    return made


def test_a_foreign_scheduler_that_was_made_before_is_refused(tmp_path: Path) -> None:
    mine = optimizer(SGD, [SCRIPTS])
    theirs = CosineScheduler(mine)
    with pytest.raises(ValueError, match=r"CosineScheduler was made before gpbt.torch.begin .* make it after begin"):
        begin(mine, tmp_path, lr=LR)
    assert theirs.base_values == [SCRIPTS]
    begin(mine, tmp_path, weight_decay=0.1)  # drives nothing that is searched
    begin(mine, tmp_path, read=("lr",), lr=LR)
    later = optimizer(SGD, [SCRIPTS])
    begin(later, tmp_path, lr=LR)
    CosineScheduler(later).step(1)
    assert later.param_groups[0]["lr"] == pytest.approx(LR / 2)


def test_an_object_that_only_holds_an_optimizer_is_not_a_scheduler(tmp_path: Path) -> None:
    class Trainer:
        def __init__(self, optimizer: Any) -> None:
            self.optimizer = optimizer

        def step(self) -> None:
            pass

    mine = optimizer(SGD, [SCRIPTS])
    holding = Trainer(mine), torch.amp.GradScaler("cpu"), {"optimizer": mine, "LR": [mine]}
    begin(mine, tmp_path, lr=LR)
    assert holding[0].optimizer.param_groups[0]["lr"] == LR


def test_a_foreign_scheduler_that_has_copied_nothing_is_accepted(tmp_path: Path) -> None:
    class WarmupDecay:
        """Multiplies what it finds; its counter equals no learning rate."""

        def __init__(self, optimizer: Any) -> None:
            self.optimizer, self.gamma, self.count = optimizer, 0.9, 1

        def step(self) -> None:
            for group in self.optimizer.param_groups:
                group["lr"] *= self.gamma

    class TrainScheduler:
        def __init__(self, optimizer: Any) -> None:
            self.optimizer = optimizer

        def step(self) -> None:
            self.optimizer.step()

    class WarmupFrom(WarmupDecay):
        def __init__(self, optimizer: Any) -> None:
            super().__init__(optimizer)
            self.peak = optimizer.param_groups[0]["lr"]

    for first in (SCRIPTS, 1.0):
        mine = optimizer(SGD, [first])
        mine.param_groups[0]["initial_lr"] = 0.7  # of a state that was loaded before
        holding = WarmupDecay(mine), TrainScheduler(mine)
        begin(mine, tmp_path, lr=LR)
        holding[0].step()
        assert mine.param_groups[0]["lr"] == pytest.approx(LR * 0.9)
        other = optimizer(SGD, [first])
        copying = WarmupFrom(other)
        with pytest.raises(ValueError, match="WarmupFrom was made before"):
            begin(other, tmp_path, lr=LR)
        assert copying.peak == first
    named = optimizer(SGD, [SCRIPTS])
    gpbt.torch.apply({"lr": LR}, named, WarmupDecay(named))
    assert named.param_groups[0]["lr"] == LR
    again = optimizer(SGD, [SCRIPTS])
    gpbt.torch.apply({"lr": LR}, again)
    later = WarmupFrom(again)
    gpbt.torch.apply({"lr": LR}, again)  # what it has copied is the config's
    assert later.peak == LR


def test_swalr_is_refused_and_may_be_built_from_the_config(tmp_path: Path) -> None:
    before, after, own = (optimizer(SGD, [SCRIPTS]) for _ in range(3))
    swa = swa_utils.SWALR(before, swa_lr=0.01)
    with pytest.raises(ValueError, match=r"SWALR \(test_lr_schedulers.py:\d+\) brings .* member.config\['lr'\]"):
        begin(before, tmp_path, lr=LR)
    begin(after, tmp_path, learning_rate=LR)
    with pytest.raises(ValueError, match=r"SWALR .* member.config\['learning_rate'\]"):
        swa_utils.SWALR(after, swa_lr=0.01)
    made = member(tmp_path, {"lr": LR})
    cosine = lr_scheduler.CosineAnnealingLR(own, 10)
    swa = swa_utils.SWALR(own, swa_lr=0.1 * made.config["lr"], anneal_epochs=2)
    gpbt.torch.begin(made, nn.Linear(1, 1), own)
    rates_ = [each for (each,) in course(own, cosine, 2) + course(own, swa, 4)]
    assert rates_[0] == LR
    assert rates_[-1] == pytest.approx(0.1 * LR)


@pytest.mark.parametrize(("kind", "driven"), [(SGD, "momentum"), (Adam, "beta1")])
@pytest.mark.parametrize("make", ["OneCycleLR", "CyclicLR"])
def test_momentum_is_never_overwritten_silently(make: str, kind: Any, driven: str, tmp_path: Path) -> None:
    def cycling(of: Any) -> Any:
        if make == "OneCycleLR":
            return lr_scheduler.OneCycleLR(of, 0.1, total_steps=10)
        return lr_scheduler.CyclicLR(of, 0.01, 0.1)

    before, after, read, other = (optimizer(kind, [SCRIPTS]) for _ in range(4))
    kept = cycling(before)
    with pytest.raises(ValueError, match=rf"{make} .*sets {driven} at every step .*cycle_momentum=False"):
        begin(before, tmp_path, lr=LR, **{driven: 0.7})
    begin(after, tmp_path, **{driven: 0.7})
    with pytest.raises(ValueError, match=rf"{make} .*sets {driven} at every step .*cycle_momentum=False"):
        kept = cycling(after)
    begin(read, tmp_path, read=(driven,), lr=LR, **{driven: 0.7})
    kept = cycling(read)
    begin(other, tmp_path, lr=LR)
    kept = cycling(other)
    assert kept.cycle_momentum
    assert max(lr for (lr,) in course(other, kept, 9)) <= LR


def test_a_script_that_reads_the_learning_rate_may_cycle_it(tmp_path: Path) -> None:
    for order in ("before", "after"):
        made, mine = member(tmp_path, {"lr": LR}), optimizer(SGD, [SCRIPTS])
        if order == "after":
            gpbt.torch.begin(made, nn.Linear(1, 1), mine)
        cycle = lr_scheduler.OneCycleLR(mine, max_lr=10 * made.config["lr"], total_steps=11, cycle_momentum=False)
        if order == "before":
            gpbt.torch.begin(made, nn.Linear(1, 1), mine)
        assert max(lr for (lr,) in course(mine, cycle, 10)) == pytest.approx(10 * LR, rel=0.05)


def test_an_optimizer_that_computes_its_own_learning_rate_is_refused(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    relative = transformers.Adafactor([nn.Parameter(torch.zeros(2))], relative_step=True, warmup_init=True)
    with pytest.raises(ValueError, match=r"Adafactor computes its own learning rate .* relative_step=False"):
        begin(relative, tmp_path, lr=LR)
    begin(
        absolute := transformers.Adafactor([nn.Parameter(torch.zeros(2))], lr=0.1, relative_step=False), tmp_path, lr=LR
    )
    assert absolute.param_groups[0]["lr"] == LR


# ---- optimizers around optimizers, and what happens to them later


class Sam(torch.optim.Optimizer):
    """As SAM is built: an optimizer that has another one for the same groups."""

    def __init__(self, params: Any, base: Any, **kwargs: Any) -> None:
        super().__init__(params, kwargs)
        self.base_optimizer = base(self.param_groups, **kwargs)
        self.param_groups = self.base_optimizer.param_groups

    def step(self, closure: Any = None) -> None:
        self.base_optimizer.step()


@pytest.mark.parametrize("scheduled", ["outer", "inner"])
@pytest.mark.parametrize("begun", ["outer", "inner"])
def test_an_optimizer_around_another(begun: str, scheduled: str, tmp_path: Path) -> None:
    outer = Sam([nn.Parameter(torch.zeros(2))], SGD, lr=SCRIPTS)
    pick = {"outer": outer, "inner": outer.base_optimizer}
    scheduler = lr_scheduler.ExponentialLR(pick[scheduled], 0.5)
    begin(pick[begun], tmp_path, lr=LR)
    assert [lr for (lr,) in course(outer, scheduler, 3)] == pytest.approx([LR, LR / 2, LR / 4])
    cycle = lr_scheduler.OneCycleLR(pick[scheduled], 0.05, total_steps=10, cycle_momentum=False)
    assert max(lr for (lr,) in course(outer, cycle, 9)) == pytest.approx(LR, rel=0.05)


def test_accelerates_wrappers_are_unwrapped(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    mine = optimizer(SGD, [SCRIPTS])
    scheduler = lr_scheduler.ExponentialLR(mine, 0.5)
    wrapped, stepping = accelerate.Accelerator(cpu=True).prepare(mine, scheduler)
    begin(wrapped, tmp_path, lr=LR)
    assert mine.param_groups[0]["lr"] == LR
    mine.step()
    stepping.step()
    assert mine.param_groups[0]["lr"] == pytest.approx(LR / 2)


def test_a_tensor_as_learning_rate_stays_one(tmp_path: Path) -> None:
    lr = torch.tensor(SCRIPTS)
    mine = Adam([nn.Parameter(torch.zeros(2))], lr=lr, capturable=False, foreach=False)
    scheduler = lr_scheduler.LinearLR(mine, 0.5, total_iters=2)
    begin(mine, tmp_path, lr=LR)
    assert mine.param_groups[0]["lr"] is lr
    assert [each for (each,) in course(mine, scheduler, 4)] == pytest.approx([LR / 2, LR * 0.75, LR, LR])
    cycle = lr_scheduler.OneCycleLR(mine, 0.05, total_steps=10, cycle_momentum=False)
    assert max(each for (each,) in course(mine, cycle, 9)) == pytest.approx(LR, rel=0.05)


def test_a_loaded_state_does_not_restore_the_learning_rate(tmp_path: Path) -> None:
    """The parent's momenta, and the config's hyperparameters: `optimizer.load_state_dict` has both of the parent."""
    parent = Adam([nn.Parameter(torch.zeros(2, 2))], lr=0.7, betas=(0.5, 0.9), weight_decay=0.3)
    course(parent, lr_scheduler.LinearLR(parent, 1.0, 0.0, total_iters=3), 4)
    state = parent.state_dict()
    assert state["param_groups"][0]["lr"] == 0.0
    mine = Adam([nn.Parameter(torch.zeros(2, 2))], lr=SCRIPTS, weight_decay=0.1)
    begin(mine, tmp_path, lr=LR, beta1=0.8)
    mine.load_state_dict(state)
    group = mine.param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (LR, (0.8, 0.999), 0.3)
    assert mine.state[mine.param_groups[0]["params"][0]]["step"] == 4
    scheduler = lr_scheduler.StepLR(mine, 2, gamma=0.5)
    assert [lr for (lr,) in course(mine, scheduler, 3)] == pytest.approx([LR, LR, LR / 2])
    own = mine.state_dict()  # of its own course: to go back to it is the script's own affair
    course(mine, scheduler, 3)
    mine.load_state_dict(own)
    assert mine.param_groups[0]["lr"] == pytest.approx(LR / 2)


def test_a_state_loaded_before_begin_has_no_effect(tmp_path: Path) -> None:
    parent = optimizer(SGD, [0.7])
    course(parent, lr_scheduler.LinearLR(parent, 1.0, 0.0, total_iters=3), 4)
    mine = optimizer(SGD, [SCRIPTS])
    mine.load_state_dict(parent.state_dict())
    begin(mine, tmp_path, lr=LR)
    assert [lr for (lr,) in course(mine, lr_scheduler.StepLR(mine, 2, gamma=0.5), 3)] == [LR, LR, LR / 2]


def test_a_group_added_later_gets_the_configs_value_unless_it_has_its_own(tmp_path: Path) -> None:
    mine = Adam([nn.Parameter(torch.zeros(2, 2))], lr=SCRIPTS)
    begin(mine, tmp_path, lr=LR, beta1=0.5, weight_decay=0.2)
    mine.add_param_group({"params": [nn.Parameter(torch.zeros(2, 2))]})
    mine.add_param_group({"params": [nn.Parameter(torch.zeros(2, 2))], "lr": mine.param_groups[0]["lr"] / 10})
    assert [group["lr"] for group in mine.param_groups] == [LR, LR, LR / 10]
    assert [group["betas"] for group in mine.param_groups] == [(0.5, 0.999)] * 3
    assert [group["weight_decay"] for group in mine.param_groups] == [0.2] * 3


@pytest.mark.parametrize("stepped", [0, 2])
def test_another_config_reaches_all_groups_after_one_was_added(stepped: int) -> None:
    mine = optimizer(SGD, [SCRIPTS])
    gpbt.torch.apply({"lr": 0.5}, mine)
    scheduler = lr_scheduler.StepLR(mine, 2, gamma=0.5)
    mine.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})
    mine.add_param_group({"params": [nn.Parameter(torch.zeros(2))], "lr": 0.05})
    course(mine, scheduler, stepped)
    gpbt.torch.apply({"lr": 0.2}, mine)
    factor = 0.5 ** (stepped // 2)
    assert [group["lr"] for group in mine.param_groups] == pytest.approx([0.2 * factor, 0.2 * factor, 0.02 * factor])
    assert scheduler.base_lrs == [0.2]
    course(mine, scheduler, 2)
    assert [group["lr"] for group in mine.param_groups] == pytest.approx([0.1 * factor, 0.1 * factor, 0.01 * factor])


@pytest.mark.parametrize(
    "make", [lambda of: lr_scheduler.OneCycleLR(of, 0.1, 10), lambda of: lr_scheduler.LambdaLR(of, abs)]
)
def test_a_group_unknown_to_a_scheduler_raises_no_error_of_ours(make: Any) -> None:
    mine = optimizer(SGD, [SCRIPTS])
    scheduler = make(mine)
    scheduler.last_epoch = 1
    mine.add_param_group({"params": [nn.Parameter(torch.zeros(2))], "lr": SCRIPTS})
    gpbt.torch.apply({"lr": LR}, mine)
    assert mine.param_groups[0]["initial_lr"] != SCRIPTS


@pytest.mark.parametrize("keep", [lambda state: state, copy.deepcopy, "file"])
def test_a_scripts_own_rollback_works_as_in_torch(keep: Any, tmp_path: Path) -> None:
    mine = Adam([nn.Parameter(torch.zeros(2))], lr=SCRIPTS)
    parents = {**(foreign := mine.state_dict()), "param_groups": [{**foreign["param_groups"][0], "weight_decay": 0.7}]}
    begin(mine, tmp_path, lr=LR, weight_decay=0.1)
    state = mine.state_dict()
    if keep == "file":
        torch.save(state, tmp_path / "best.pt")
        state = torch.load(tmp_path / "best.pt")
    else:
        state = keep(state)
    group = mine.param_groups[0]
    group["lr"] *= 0.5
    group["weight_decay"] *= 0.5
    mine.load_state_dict(parents)
    assert (mine.param_groups[0]["lr"], mine.param_groups[0]["weight_decay"]) == (LR / 2, 0.05), "a file's: put back"
    mine.load_state_dict(state)
    assert (mine.param_groups[0]["lr"], mine.param_groups[0]["weight_decay"]) == (LR, 0.1)
    gpbt.torch.apply({"lr": 2 * LR, "weight_decay": 0.2}, mine)
    mine.load_state_dict(state)  # of another config
    assert (mine.param_groups[0]["lr"], mine.param_groups[0]["weight_decay"]) == (2 * LR, 0.2)


def test_states_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpbt_async.member import optimizers

    monkeypatch.setattr(optimizers, "_STATES", 3)
    mine = optimizer(SGD, [SCRIPTS])
    gpbt.torch.apply({"lr": LR}, mine)
    for i in range(10):
        mine.param_groups[0]["lr"] = LR / (i + 1)
        mine.state_dict()
        mine.state_dict()
    assert len(optimizers._governed[mine].states) == 3


def test_two_optimizers_with_a_scheduler_each(tmp_path: Path) -> None:
    mine, other = optimizer(Adam, [SCRIPTS]), optimizer(Adam, [SCRIPTS])
    both = [lr_scheduler.ExponentialLR(each, gamma) for each, gamma in ((mine, 0.5), (other, 0.1))]
    gpbt.torch.begin(member(tmp_path, {"lr": LR}), nn.Linear(1, 1), [mine, other])
    assert [lr for (lr,) in course(mine, both[0], 2)] == pytest.approx([LR, LR / 2])
    assert [lr for (lr,) in course(other, both[1], 2)] == pytest.approx([LR, LR / 10])


def test_deleted_optimizers_and_schedulers_are_forgotten(tmp_path: Path) -> None:
    from gpbt_async.member import lr_schedulers, optimizers

    mine = optimizer(SGD, [SCRIPTS])
    scheduler = lr_scheduler.ExponentialLR(mine, 0.5)
    begin(mine, tmp_path, lr=LR)
    before = len(lr_schedulers._made), len(optimizers._governed)
    del mine, scheduler
    gc.collect()
    assert (len(lr_schedulers._made), len(optimizers._governed)) < before
