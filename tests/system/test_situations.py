"""Scripts that end with status 0 and mean nothing: each has its finding, and its sound version has none.

Every case is a whole run of an ordinary script, made unsound in one place.
"""

from __future__ import annotations

import importlib.util
import weakref
from typing import TYPE_CHECKING, Any

import pytest
from harness import cli, facts

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

NUMPY = """
import json

import numpy as np

import gpbt_async as gpbt

A = np.random.default_rng(0).normal(size=(60, 6))
B = A @ np.arange(6.0)


def mse(w):
    return float(np.square(A[40:] @ w - B[40:]).mean())


def descend(w, lr, steps=10):
    for _ in range(steps):
        w = w - lr * A[:40].T @ (A[:40] @ w - B[:40]) / 40
    return w


SPACE = {"lr": gpbt.Float(1e-2, 0.2, log=True)}
"""
TORCH = """
import torch
import torch.nn.functional as F

import gpbt_async as gpbt

G = torch.Generator().manual_seed(0)
X = torch.randn(256, 6, generator=G)
Y = X[:, :1] * X[:, 1:2] + X[:, 2:3]
SPACE = {"lr": gpbt.Float(1e-3, 0.1, log=True)}


def build():
    return torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))


def epoch(model, optimizer, scheduler=None):
    for batch in torch.randperm(192).split(64):
        optimizer.zero_grad()
        F.mse_loss(model(X[batch]), Y[batch]).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


@torch.no_grad()
def mse(model):
    return F.mse_loss(model(X[192:]), Y[192:]).item()
"""
END = '\nexperiment = gpbt.Experiment(train, space=SPACE, score="mse", mode="min")\n'

OPTIMIZER = """
def train(member):
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=member.config["lr"], momentum=0.9)
    if member.parent is not None:
        saved = torch.load(member.parent / "all.pt")
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        {again}
    {scheduler}
    epoch(model, optimizer, scheduler)
    member.report(mse=mse(model))
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, member.checkpoint / "all.pt")
"""
NO_SCHEDULER = "scheduler = None"
LAMBDA = "scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.99**step)"
AGAIN = "optimizer.param_groups[0]['lr'] = member.config['lr']"
BASE = "optimizer.param_groups[0]['lr'] = optimizer.param_groups[0]['initial_lr'] = member.config['lr']"


def optimizer(again: str, scheduler: str) -> str:
    return OPTIMIZER.replace("{again}", again).replace("{scheduler}", scheduler)


SCHEDULER = """
def train(member):
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=member.config["lr"])
    scheduler = torch.optim.lr_scheduler.KIND
    if member.parent is not None:
        saved = torch.load(member.parent / "all.pt")
        model.load_state_dict(saved["model"])
        scheduler.load_state_dict(saved["scheduler"])
    epoch(model, optimizer, scheduler)
    member.report(mse=mse(model))
    torch.save({"model": model.state_dict(), "scheduler": scheduler.state_dict()}, member.checkpoint / "all.pt")
"""

COINCIDENCE = """
SPACE = {SPACE}


def train(member):
    model = build()
    model.insert(1, torch.nn.Dropout(member.config.get("dropout", 0.0)))
    optimizer = torch.optim.SGD(model.parameters(), lr={lr}, momentum=0.9)
    if member.parent is not None:
        saved = torch.load(member.parent / "all.pt")
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
    epoch(model, optimizer)
    optimizer.param_groups[0]["lr"] *= 0.5
    member.report(mse=mse(model))
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, member.checkpoint / "all.pt")
"""

RETRY = """
def train(member):
    model = build()
    wrapped = torch.nn.DataParallel(model)
    if member.parent is not None:
        state = torch.load(member.parent / "model.pt")
        wrapped.load_state_dict(state, strict=False)
        {again}
    epoch(model, torch.optim.Adam(model.parameters(), lr=member.config["lr"]))
    member.report(mse=mse(model))
    torch.save(model.state_dict(), member.checkpoint / "model.pt")
"""

PREFIX = """
def train(member):
    model = build()
    if member.parent is not None:
        model.load_state_dict(torch.load(member.parent / "model.pt"), strict=False)
    epoch(model, torch.optim.Adam(model.parameters(), lr=member.config["lr"]))
    member.report(mse=mse(model))
    torch.save({"PREFIX" + name: value for name, value in model.state_dict().items()}, member.checkpoint / "model.pt")
"""

SPLIT = """
from sklearn.model_selection import train_test_split

DATA = torch.utils.data.TensorDataset(X, Y)
HELD = FIXED


def train(member):
    learn, judge = SPLITS
    model = build()
    if member.parent is not None:
        model.load_state_dict(torch.load(member.parent / "model.pt"))
    epoch(model, torch.optim.Adam(model.parameters(), lr=member.config["lr"]))
    member.report(mse=mse(model))
    torch.save(model.state_dict(), member.checkpoint / "model.pt")
"""


def split(splits: str, fixed: str = "None") -> str:
    return SPLIT.replace("SPLITS", splits).replace("FIXED", fixed)


STALE = """
def train(member):
    model = build()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    gpbt.torch.begin(member, model, optimizer)
    {new}
    epoch(model, optimizer)
    member.report(mse=mse(model) * 1.0)
    gpbt.torch.save(member, model, optimizer)
"""
SAVED_FIRST = """
def train(member):
    model = build()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    gpbt.torch.begin(member, model, optimizer)
    gpbt.torch.save(member, model, optimizer)
    epoch(model, optimizer)
    member.report(mse=mse(model))
    {again}
"""

FRESH = """
def train(member):
    w = np.random.normal(size=6)
    if member.parent is not None:
        {w} = np.load(member.parent / "w.npy")
    for _ in range(3):
        w = descend(w, member.config["lr"])
        member.report(mse=mse(w))
    np.save(member.checkpoint / "w.npy", w)
"""
EARLY = """
def train(member):
    w = np.random.normal(size=6) if member.parent is None else np.load(member.parent / "w.npy")
    {before}
    w = descend(w, member.config["lr"])
    {after}
    np.save(member.checkpoint / "w.npy", w)
"""
STUCK = """
def train(member):
    w = np.random.normal(size=6) if member.parent is None else np.load(member.parent / "w.npy")
    tried = descend(w, member.config["lr"]) if member.parent is None else w + 10 * np.random.normal(size=6)
    if mse(tried) < mse(w):
        w = tried
    member.report(mse=mse(w), {more})
    np.save(member.checkpoint / "w.npy", w)
    np.save(member.checkpoint / "tried.npy", tried)
"""
OVERWRITTEN = """
def train(member):
    config = member.config
    {update}
    w = np.random.normal(size=6) if member.parent is None else np.load(member.parent / "w.npy")
    w = descend(w, config["lr"], config.get("steps", 10))
    member.report(mse=mse(w))
    np.save(member.checkpoint / "w.npy", w)
"""
ELSEWHERE = """
from pathlib import Path

SHARED = Path("w.npy")
np.save(SHARED, np.zeros(6))


def train(member):
    w = np.random.normal(size=6)
    if member.parent is not None:
        w = np.load({where})
    w = descend(w, member.config["lr"])
    member.report(mse=mse(w))
    np.save(member.checkpoint / "w.npy", w)
"""
POOL = """
from concurrent.futures import ThreadPoolExecutor
from threading import Event


def train(member):
    w = np.random.normal(size=6) if member.parent is None else np.load(member.parent / "w.npy")
    w = descend(w, member.config["lr"])
    member.report(mse=mse(w))
    np.save(member.checkpoint / "w.npy", w)
    pool = ThreadPoolExecutor(2)
    pool.submit(len, "").result()
    {more}
"""
ASKED = """
SPACE = {"lr": gpbt.Float(1e-2, 0.2, log=True), "beta1": gpbt.Float(0, 0.5)}


def train(member):
    w = np.random.normal(size=6) if member.parent is None else np.load(member.parent / "w.npy")
    b1, b2 = member.config.get("{first}", 0.5), member.config.get("beta2", 0.9)
    w = descend(w, member.config["lr"] * (1 - b1) * b2)
    member.report(mse=mse(w))
    np.save(member.checkpoint / "w.npy", w)
"""
SPARSE = """
def train(member):
    w = np.random.normal(size=6) if member.parent is None else np.load(member.parent / "w.npy")
    w = descend(w, member.config["lr"])
    success = 0.0 if {fails} else mse(w)
    member.report(mse=success)
    np.save(member.checkpoint / "w.npy", w)
"""

#: name → (script, the findings it must have)
CASES: dict[str, tuple[str, set[str]]] = {
    "the optimizer's state brings back the parent's rate": (TORCH + optimizer("", NO_SCHEDULER), {"GPBT015"}),
    "… or only the base rate, which a scheduler takes": (TORCH + optimizer(AGAIN, LAMBDA), {"GPBT015"}),
    "the rate is set again": (TORCH + optimizer(AGAIN, NO_SCHEDULER), set()),
    "… and the base rate, too": (TORCH + optimizer(BASE, LAMBDA), set()),
    "the scheduler's state brings back the base rate": (
        TORCH + SCHEDULER.replace("KIND", "LambdaLR(optimizer, lambda step: 0.99**step)"), {"GPBT015"},
    ),
    "a scheduler that changes the rate that is there": (
        TORCH + SCHEDULER.replace("KIND", "ExponentialLR(optimizer, 0.99)"), set(),
    ),
    "a fixed rate that decays, and a dropout that equals it": (
        TORCH + COINCIDENCE.replace("{SPACE}", '{"dropout": gpbt.Choice([0.05, 0.1])}').replace("{lr}", "0.1"), set(),
    ),
    "a rate by another name": (
        TORCH
        + COINCIDENCE.replace("{SPACE}", '{"head_lr": gpbt.Float(1e-3, 0.1, log=True)}').replace(
            "{lr}", 'member.config["head_lr"]'
        ),
        {"GPBT015"},
    ),
    "a wrapper's names do not fit, and the bare model's do": (
        TORCH + RETRY.replace("{again}", "wrapped.module.load_state_dict(state)"), set(),
    ),
    "a wrapper's names do not fit": (TORCH + RETRY.replace("{again}", "pass"), {"GPBT016"}),
    "not one name fits": (TORCH + PREFIX.replace("PREFIX", "module."), {"GPBT016"}),
    "all names fit": (TORCH + PREFIX.replace("PREFIX", ""), set()),
    "torch's split by the member's seed": (
        TORCH + split("torch.utils.data.random_split(DATA, [192, 64])"), {"GPBT017"},
    ),
    "scikit-learn's split by the member's seed": (TORCH + split("train_test_split(X.numpy())"), {"GPBT017"}),
    "a split with a generator": (
        TORCH + split("torch.utils.data.random_split(DATA, [192, 64], torch.Generator().manual_seed(0))"), set(),
    ),
    "a split of what another split left": (
        TORCH + split("train_test_split(X.numpy())", "train_test_split(Y.numpy(), random_state=0)"), set(),
    ),
    "an optimizer of parameters that are no more": (
        TORCH + STALE.replace("{new}", "import copy; model = copy.deepcopy(model)"), {"GPBT008", "GPBT019"},
    ),
    "an optimizer of parameters that are": (TORCH + STALE.replace("{new}", "pass"), set()),
    "saved before training": (TORCH + SAVED_FIRST.replace("{again}", ""), {"GPBT008"}),
    "saved before training and after": (
        TORCH + SAVED_FIRST.replace("{again}", "gpbt.torch.save(member, model, optimizer)"), set(),
    ),
    "the parent's weights are loaded and not used": (NUMPY + FRESH.replace("{w}", "_"), set()),  # scores do not show it
    "the parent's weights are used": (NUMPY + FRESH.replace("{w}", "w"), set()),
    "reported before training": (
        NUMPY + EARLY.replace("{before}", "member.report(mse=mse(w))").replace("{after}", ""), {"GPBT019"},
    ),
    "reported before training and after": (
        NUMPY + EARLY.replace("{before}", "member.report(mse=mse(w))").replace("{after}", "member.report(mse=mse(w))"),
        set(),
    ),
    "the best so far, and nothing better": (NUMPY + STUCK.replace("{more}", "lr=0"), {"GPBT019"}),
    "the best so far, and what was tried": (NUMPY + STUCK.replace("{more}", "tried=mse(tried)"), set()),
    "defaults over the searched values": (
        NUMPY + OVERWRITTEN.replace("{update}", 'config.update({"lr": 0.05, "steps": 5})'), {"GPBT019", "GPBT020"},
    ),
    "searched values over defaults": (
        NUMPY + OVERWRITTEN.replace("{update}", 'config = {"lr": 0.05} | config; config["lr"] *= 0.9'), set(),
    ),
    "a value that is scaled in its place": (NUMPY + OVERWRITTEN.replace("{update}", 'config["lr"] *= 0.9'), set()),
    "a file elsewhere": (NUMPY + ELSEWHERE.replace("{where}", "SHARED"), {"GPBT012"}),
    "the parent's file": (NUMPY + ELSEWHERE.replace("{where}", "member.parent.joinpath('w.npy')"), set()),
    "a pool that is left without work": (NUMPY + POOL.replace("{more}", ""), set()),
    "a pool that is left with work": (
        NUMPY + POOL.replace("{more}", "on = Event(); pool.submit(lambda: (on.set(), Event().wait(0.5))); on.wait()"),
        set(),  # Python waits for it before the member ends, and so does its checkpoint
    ),
    "a setting like one that is searched": (NUMPY + ASKED.replace("{first}", "beta1"), set()),
    "one that is searched is read under another's name": (
        NUMPY + ASKED.replace("{first}", "beta_1"), {"GPBT001"},
    ),
    "no success in the beginning": (NUMPY + SPARSE.replace("{fails}", "member.id < 6"), set()),
    "no success at all": (NUMPY + SPARSE.replace("{fails}", "True"), {"GPBT009"}),
}  # fmt: skip


#: of those that import torch or scikit-learn, one for each finding; the others are run on demand (-m extended)
ALWAYS = {
    "saved before training",
    "not one name fits",
    "torch's split by the member's seed",
    "a split with a generator",
}
ALWAYS |= {"the optimizer's state brings back the parent's rate"}


def _one(name: str) -> Any:
    heavy = "import torch" in CASES[name][0] or "import sklearn" in CASES[name][0] or "from sklearn" in CASES[name][0]
    return pytest.param(name, marks=[pytest.mark.extended] if heavy and name not in ALWAYS else [])


def test_the_situations_that_always_run_exist() -> None:
    assert set(CASES) >= ALWAYS


@pytest.mark.parametrize("name", [_one(name) for name in CASES])
def test_a_meaningless_script_has_findings_and_a_sound_one_has_none(name: str, tmp_path: Path) -> None:
    text, expected = CASES[name]
    for package in ("torch", "sklearn"):
        used = f"import {package}" in text or f"from {package}" in text
        if used and importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    (tmp_path / "mine.py").write_text(text + END)
    done = cli(
        "launch", "mine.py", "--slots", 2, "-q", "--population", 8, "--generations", 2, cwd=tmp_path, timeout=180
    )
    assert done.status == 0, done.err
    found = facts(tmp_path / "runs" / "mine-1", "Found")
    assert {fact["code"] for fact in found} == expected, [fact["text"] for fact in found]
    for fact in found:
        assert f"{fact['code']}: {fact['text']}; {fact['remedy']}" in " ".join(done.err.split()), done.err


# ---- what torch loads, in one process


def test_names_of_hyperparameters_that_fit_an_optimizers_option() -> None:
    from gpbt_async.member.load_watch import _fits

    for name, *where in (
        ("lr", "lr"), ("learning_rate", "lr"), ("head_lr", "lr"), ("optimizer.lr", "lr"), ("bodyLearningRate", "lr"),
        ("wd", "weight_decay"), ("l_weight_decay", "weight_decay"), ("beta1", "betas", 0), ("adam_beta_2", "betas", 1),
        ("momentum", "momentum"),
    ):  # fmt: skip
        assert _fits(name, *where), name  # type: ignore[arg-type]
    for name, *where in (
        ("dropout", "lr"), ("lr_decay", "lr"), ("min_lr", "lr"), ("lr_decay", "weight_decay"), ("beta2", "betas", 0),
        ("momentum", "lr"), ("rate", "lr"), ("clr", "lr"),
    ):  # fmt: skip
        assert not _fits(name, *where), name  # type: ignore[arg-type]


def test_a_model_with_an_unmatched_state_is_not_kept_alive() -> None:
    torch = pytest.importorskip("torch")
    from gpbt_async.member import load_watch, telemetry
    from gpbt_async.member.config import MemberConfig

    def load(model: Any, state: Any) -> None:
        load_watch._load_module(now, model, state, lambda: model.load_state_dict(state, strict=False))

    now = telemetry.Telemetry(MemberConfig({"lr": 0.1}))
    good = torch.nn.Linear(1, 1).state_dict()
    bad = {f"module.{name}": value for name, value in good.items()}
    model = torch.nn.Linear(1, 1)
    load(model, bad)
    seen = weakref.ref(model)
    del model
    assert seen() is None
    assert [row[0] for row in now.to_json()["findings"]] == ["GPBT016"], "it is said all the same"
    now = telemetry.Telemetry(MemberConfig({"lr": 0.1}))
    load(torch.nn.Linear(1, 1), bad)
    load(torch.nn.Linear(1, 1), good)  # the script has made it again
    assert now.to_json()["findings"] == []


def test_a_rollback_is_no_finding_and_remedies_name_the_lost_option() -> None:
    torch = pytest.importorskip("torch")
    from gpbt_async.member import load_watch, telemetry
    from gpbt_async.member.config import MemberConfig

    def load(optimizer: Any, state: Any) -> None:
        load_watch._load_optimizer(now, optimizer, state, lambda: optimizer.load_state_dict(state))

    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    for own in (False, True):
        now = telemetry.Telemetry(MemberConfig({"beta1": 0.8, "wd": 0.1}))
        optimizer = torch.optim.AdamW([weight], lr=0.01, betas=(0.5, 0.9), weight_decay=0.3)
        if own:
            optimizer.step()
        state = optimizer.state_dict()
        optimizer.param_groups[0].update(betas=(0.8, 0.9), weight_decay=0.1)
        load(optimizer, state)
        optimizer.step()
        found = {row[1]: row[3] for row in now.to_json()["findings"]}
        if own:
            assert found == {}
        else:
            after = "after loading: for group in optimizer.param_groups: "
            assert found.keys() == {"beta1", "wd"}
            assert found["beta1"].endswith(after + "group['betas'] = (member.config['beta1'], group['betas'][1])")
            assert found["wd"].endswith(after + "group['weight_decay'] = member.config['wd']")


def test_the_load_watch_never_raises_into_a_script() -> None:
    from gpbt_async.member import load_watch

    class Hostile:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

    def fails() -> None:
        raise KeyError("the script's")

    for load in (load_watch._load_module, load_watch._load_optimizer, load_watch._load_scheduler):
        assert load(Hostile(), Hostile(), Hostile(), lambda: 7) == 7  # type: ignore[arg-type]
        with pytest.raises(KeyError, match="the script's"):
            load(Hostile(), Hostile(), Hostile(), fails)  # type: ignore[arg-type]
