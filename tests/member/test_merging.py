"""Merging: the average of checkpoints, kind by kind of file, and what is refused by name."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import gpbt_async as gpbt
from gpbt_async.member.merging import MergeError, average

if TYPE_CHECKING:
    from collections.abc import Callable


def folders(tmp_path: Path, count: int, fill: Callable[[Path, int], object]) -> tuple[list[Path], Path]:
    """Checkpoints filled one after the other, and an empty folder for their average."""
    made = [tmp_path / str(number) for number in range(count)]
    for number, folder in enumerate(made):
        folder.mkdir()
        fill(folder, number)
        (folder / "manifest.json").write_text(str(number))
    target = tmp_path / "average"
    target.mkdir()
    return made, target


def test_the_average_of_what_gpbt_torch_saves_predicts_and_has_the_best_ones_state(tmp_path: Path) -> None:
    def fill(folder: Path, number: int) -> None:
        torch.manual_seed(number)
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1 * (number + 1))
        for _ in range(number + 1):
            model(torch.randn(8, 3)).sum().backward()
            optimizer.step()
        gpbt.torch.save(folder, model, optimizer, epoch=number)

    made, target = folders(tmp_path, 3, fill)
    average(made, target)
    states = [torch.load(folder / "model.pt", weights_only=True) for folder in made]
    merged = torch.load(target / "model.pt", weights_only=True)
    for name, value in merged.items():
        assert value.dtype == states[0][name].dtype
        if value.is_floating_point():
            torch.testing.assert_close(value, torch.stack([state[name] for state in states]).mean(0))
        else:
            assert torch.equal(value, states[0][name])
    assert int(merged["1.num_batches_tracked"]) == 1
    assert (target / "state.pt").read_bytes() == (made[0] / "state.pt").read_bytes()
    assert sorted(path.name for path in target.iterdir()) == ["model.pt", "state.pt"]
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    assert gpbt.torch.load(target, model) == {"epoch": 0}


def test_half_precision_complex_and_nested_values(tmp_path: Path) -> None:
    def fill(folder: Path, number: int) -> None:
        tree = {
            "half": torch.full((2,), 1.0 + number, dtype=torch.bfloat16),
            "complex": torch.tensor([1j * number, 2.0]),
            "steps": [torch.tensor(number), (torch.tensor(2.0 * number), f"text {number}")],
            "flags": torch.tensor([bool(number), True]),
            "lr": 0.5 + number,
        }
        torch.save(tree, folder / "all.pth")

    made, target = folders(tmp_path, 2, fill)
    average(made, target)
    merged = torch.load(target / "all.pth", weights_only=True)
    assert merged["half"].tolist() == [1.5, 1.5]
    assert merged["half"].dtype == torch.bfloat16
    assert merged["complex"].tolist() == [0.5j, 2.0]
    assert [int(merged["steps"][0]), float(merged["steps"][1][0]), merged["steps"][1][1]] == [0, 1.0, "text 0"]
    assert merged["flags"].tolist() == [False, True]
    assert merged["lr"] == 0.5


def test_what_is_not_averaged_may_differ_in_form(tmp_path: Path) -> None:
    def fill(folder: Path, number: int) -> None:
        history = {"losses": [0.1] * (number + 1), "seen": torch.arange(number + 2)}
        torch.save({"w": torch.full((2,), float(number)), **history}, folder / "m.pt")

    made, target = folders(tmp_path, 2, fill)
    average(made, target)
    merged = torch.load(target / "m.pt", weights_only=True)
    assert merged["w"].tolist() == [0.5, 0.5]
    assert merged["losses"] == [0.1]
    assert merged["seen"].tolist() == [0, 1]


def test_numpy_text_and_equal_files_in_folders(tmp_path: Path) -> None:
    def fill(folder: Path, number: int) -> None:
        (folder / "deep").mkdir()
        np.savez(folder / "deep" / "a.npz", w=np.arange(3, dtype="float32") * number, n=np.array([number]))
        np.save(folder / "b.npy", np.full((2, 2), float(number)))
        (folder / "vocabulary.pkl").write_bytes(pickle.dumps({"a": 1}))
        (folder / "info.json").write_text(json.dumps({"member": number}))

    made, target = folders(tmp_path, 3, fill)
    average(made, target)
    with np.load(target / "deep" / "a.npz") as arrays:
        assert arrays["w"].tolist() == [0.0, 1.0, 2.0]
        assert arrays["w"].dtype == np.float32
        assert arrays["n"].tolist() == [0]
    assert np.load(target / "b.npy").tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert pickle.loads((target / "vocabulary.pkl").read_bytes()) == {"a": 1}, "equal in all: it holds no weights"
    assert json.loads((target / "info.json").read_text()) == {"member": 0}


def test_safetensors_keep_what_ties_their_tensors(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")

    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = torch.nn.Linear(2, 2, bias=False)
            self.two = torch.nn.Linear(2, 2, bias=False)
            self.two.weight = self.one.weight

    def fill(folder: Path, number: int) -> None:
        model = Tied()
        torch.nn.init.constant_(model.one.weight, float(number))
        gpbt.torch.save(folder, model, safetensors=True)

    made, target = folders(tmp_path, 2, fill)
    average(made, target)
    model = Tied()
    gpbt.torch.load(target, model)
    assert model.two.weight.tolist() == [[0.5, 0.5], [0.5, 0.5]]


def saved(values: list[Any], write: Callable[[Any, Path], object], name: str) -> Callable[[Path, int], object]:
    return lambda folder, number: write(values[number], folder / name)


@pytest.mark.parametrize(
    ("fill", "says"),
    [
        (
            saved([{"w": torch.zeros(2)}, {"w": torch.zeros(3)}], torch.save, "model.pt"),
            r"model.pt\['w'\] has the shape \(2,\) in one checkpoint and \(3,\) in another",
        ),
        (
            saved([{"w": torch.zeros(2)}, {"v": torch.zeros(2)}], torch.save, "model.pt"),
            r"model.pt\['[vw]'\] is in one checkpoint and not in another",
        ),
        (
            saved([{"w": torch.zeros(2)}, {"w": 3}], torch.save, "model.pt"),
            r"model.pt\['w'\] is a Tensor in one checkpoint and a int in another",
        ),
        (
            saved([Path("a"), Path("b")], torch.save, "model.pt"),
            r"model.pt cannot be read as arrays .*torch.save\(model.state_dict\(\)",
        ),
        (
            saved([b"one", b"two"], lambda value, path: path.write_bytes(value), "forest.joblib"),
            "forest.joblib: files of this kind cannot be averaged: save weights with .*--ensemble",
        ),
        (
            saved(["1", "2"], lambda value, path: path.write_text(value), "model.json"),
            "there is nothing to average: model.json; save weights",
        ),
        (lambda folder, number: None, "the checkpoints are empty"),
        (
            lambda folder, number: np.save(folder / f"{number}.npy", np.zeros(2)),
            "[01].npy is in one checkpoint and not in another",
        ),
    ],
)
def test_what_cannot_be_averaged_is_named(tmp_path: Path, fill: Callable[[Path, int], object], says: str) -> None:
    made, target = folders(tmp_path, 2, fill)
    with pytest.raises(MergeError, match=says):
        average(made, target)
