"""Lightning and Hugging Face: a member of an existing script, and a schedule where no run is."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import gpbt_async as gpbt

torch = pytest.importorskip("torch")

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]
SCHEDULE = [{"lr": 0.1, "width": 1}, {"lr": 0.01, "width": 2}]


def data() -> Any:
    x = torch.linspace(-1, 1, 32).reshape(16, 2)
    return torch.utils.data.TensorDataset(x, x.sum(1, keepdim=True))


def module(lightning: Any, seed: int = 0) -> Any:
    torch.manual_seed(seed)

    class Line(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)
            self.rates: list[float] = []

        def training_step(self, batch: Any, _: int) -> Any:
            self.rates.append(self.optimizers().param_groups[0]["lr"])
            return (self.layer(batch[0]) - batch[1]).square().mean()

        def validation_step(self, batch: Any, _: int) -> None:
            self.log("val_loss", (self.layer(batch[0]) - batch[1]).square().mean())

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=7e-3, momentum=0.9)

    return Line()


def fit(lightning: Any, model: Any, callback: Any, where: Path, **more: Any) -> None:
    loader = torch.utils.data.DataLoader(data(), batch_size=8)
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=where, callbacks=[callback], **{"max_epochs": 2, **more},
    )  # fmt: skip
    trainer.fit(model, loader, loader)


def test_a_lightning_script_is_a_member(tmp_path: Path) -> None:
    import lightning.pytorch as lightning

    reports: list[dict[str, float]] = []
    root = gpbt.Member.local({"lr": 0.05, "width": 1}, tmp_path / "0", on_report=reports.append)
    model = module(lightning)
    fit(lightning, model, gpbt.lightning.MemberCallback(root), tmp_path)
    assert [set(metrics) for metrics in reports] == [{"val_loss"}] * 2
    assert model.rates == [0.05] * 4
    child = gpbt.Member.local(
        {"lr": 0.02, "width": 1}, tmp_path / "1", parent=root.checkpoint, on_report=reports.append
    )
    heir = module(lightning, 1)
    fit(lightning, heir, gpbt.lightning.MemberCallback(child), tmp_path)
    assert heir.rates == [0.02] * 4
    assert reports[-1]["val_loss"] < reports[1]["val_loss"]
    began = torch.load(root.checkpoint / "model.pt", weights_only=True)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in began.items())
    assert (child.checkpoint / "state.pt").exists()

    def stop(_: dict[str, float]) -> None:
        raise gpbt.Stopped("median")

    told_to_stop = gpbt.Member.local({"lr": 0.02, "width": 1}, tmp_path / "2", on_report=stop)
    with pytest.raises(gpbt.Stopped):
        fit(lightning, module(lightning), gpbt.lightning.MemberCallback(told_to_stop), tmp_path)


def test_lightning_trains_along_a_schedule(tmp_path: Path) -> None:
    import lightning.pytorch as lightning

    model, seen = module(lightning), []
    callback = gpbt.lightning.ScheduleCallback(SCHEDULE, also=lambda i, config: seen.append((i, config["width"])))
    fit(lightning, model, callback, tmp_path, max_epochs=3)
    assert model.rates == [0.1] * 3 + [0.01] * 3
    assert seen == [(0, 1), (1, 2)]
    with pytest.raises(ValueError, match="give it max_epochs or max_steps"):
        fit(lightning, module(lightning), callback, tmp_path, max_epochs=-1, max_time={"seconds": 5})


def hugging(transformers: Any, model: Any, callback: Any, where: Path, **more: Any) -> list[float]:
    """Train, and the learning rate of every step."""
    rates: list[float] = []

    class Watch(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
            rates.append(optimizer.param_groups[0]["lr"])

    rows = [{"x": x, "labels": y} for x, y in data()]
    arguments = transformers.TrainingArguments(
        output_dir=str(where), max_steps=4, per_device_train_batch_size=8, eval_strategy="epoch", save_strategy="no",
        report_to=[], use_cpu=True, disable_tqdm=True, learning_rate=7e-3, logging_steps=100, **more,
    )  # fmt: skip
    transformers.Trainer(model, arguments, train_dataset=rows, eval_dataset=rows, callbacks=[callback, Watch()]).train()
    return rates


def regression(seed: int = 0) -> Any:
    torch.manual_seed(seed)

    class Line(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

        def forward(self, x: Any, labels: Any) -> dict[str, Any]:
            y = self.layer(x)
            return {"loss": (y - labels).square().mean(), "logits": y}

    return Line()


def test_a_hugging_face_script_is_a_member(tmp_path: Path) -> None:
    import transformers

    reports: list[dict[str, float]] = []
    root = gpbt.Member.local({"lr": 0.05, "weight_decay": 0.1}, tmp_path / "0", on_report=reports.append)
    model = regression()
    rates = hugging(transformers, model, gpbt.hf.MemberCallback(root), tmp_path, lr_scheduler_type="constant")
    assert rates == [0.05] * 4
    losses = [metrics["eval_loss"] for metrics in reports if "eval_loss" in metrics]
    assert len(losses) == 2
    child = gpbt.Member.local({"lr": 0.02, "weight_decay": 0.1}, tmp_path / "1", parent=root.checkpoint)
    child._send = reports.append
    rates = hugging(transformers, regression(1), gpbt.hf.MemberCallback(child), tmp_path)
    assert rates == pytest.approx([0.02, 0.015, 0.01, 0.005])  # the Trainer's own linear decay, from the config's rate
    assert [m["eval_loss"] for m in reports if "eval_loss" in m][-1] < losses[-1]
    state = torch.load(child.checkpoint / "state.pt", weights_only=True)
    assert state["optimizers"][0]["kind"] == "AdamW"
    steps = {float(s["step"]) for s in state["optimizers"][0]["state"]["state"].values()}
    assert steps == {8.0}, "the momenta went on"


def test_a_trainer_draws_with_the_members_seed(tmp_path: Path) -> None:
    """It seeds with 42 when it is made, which would give all members the same order of examples, and dropout."""
    import transformers

    def drawn(seed: int) -> tuple[list[float], float, int]:
        member = gpbt.Member.local({"lr": 0.05}, tmp_path / str(seed), seed=seed, on_report=lambda _: None)
        order: list[float] = []
        model = regression()
        model.register_forward_pre_hook(
            lambda module, args, kwargs: order.extend(kwargs["x"][:, 0].tolist()) if module.training else None,
            with_kwargs=True,
        )
        callback = gpbt.hf.MemberCallback(member)
        hugging(transformers, model, callback, tmp_path)
        return order, torch.rand(1).item(), torch.initial_seed()

    first, again, other = drawn((1 << 32) - 1), drawn((1 << 32) - 1), drawn(7)
    assert first == again
    assert sorted(first[0]) == sorted(other[0])
    assert first[0] != other[0]
    assert first[1] != other[1]
    assert (first[2], other[2]) == ((1 << 32) - 1, 7)


def test_hugging_face_groups_without_decay_stay_without(tmp_path: Path) -> None:
    """Biases and norms, which the Trainer puts into a group of their own even where nothing decays."""
    import transformers

    member = gpbt.Member.local({"weight_decay": 0.1}, tmp_path / "0", on_report=lambda _: None)
    decays: list[list[float]] = []

    class Watch(transformers.TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
            decays.append([group["weight_decay"] for group in optimizer.param_groups])

    rows = [{"x": x, "labels": y} for x, y in data()]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=1, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True
    )
    callbacks = [gpbt.hf.MemberCallback(member), Watch()]
    transformers.Trainer(regression(), arguments, train_dataset=rows, callbacks=callbacks).train()
    assert decays == [[0.1, 0.0]]


@pytest.mark.parametrize("kind", ["OneCycleLR", "StepLR"])
def test_a_lightning_modules_scheduler_follows(kind: str, tmp_path: Path) -> None:
    import lightning.pytorch as lightning

    class Scheduled(type(module(lightning))):  # type: ignore[misc]
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            if kind == "OneCycleLR":
                scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3.0, total_steps=8)
            else:
                scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    member = gpbt.Member.local({"lr": 0.08}, tmp_path / "0", on_report=lambda _: None)
    fit(lightning, model := Scheduled(), gpbt.lightning.MemberCallback(member), tmp_path, max_epochs=3)
    if kind == "OneCycleLR":
        wanted = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(wanted, max_lr=0.08, total_steps=8)
        right = []
        for _ in range(6):
            right.append(wanted.param_groups[0]["lr"])
            wanted.step()
            scheduler.step()
    else:
        right = [0.08, 0.08, 0.04, 0.04, 0.02, 0.02]
    assert model.rates == pytest.approx(right)


def test_hugging_face_trains_along_a_schedule(tmp_path: Path) -> None:
    import transformers

    seen: list[int] = []
    callback = gpbt.hf.ScheduleCallback(SCHEDULE, also=lambda i, config: seen.append(config["width"]))
    rates = hugging(transformers, regression(), callback, tmp_path, lr_scheduler_type="constant")
    assert rates == [0.1, 0.1, 0.01, 0.01]
    assert seen == [1, 2]


@pytest.mark.parametrize(("name", "package"), [("lightning", "lightning"), ("hf", "transformers")])
def test_a_missing_framework_raises_with_its_remedy(name: str, package: str) -> None:
    code = (
        f"import sys; sys.modules.update(dict.fromkeys(['{package}', 'lightning.pytorch', 'pytorch_lightning']))\n"
        f"import gpbt_async as gpbt; gpbt.{name}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip().splitlines()[-1].endswith(f"pip install 'gpbt-async[{name}]'")
