"""Has a member trained the model that it saves? For `gpbt.torch`, whose checkpoints never equal their parents' bytes.

A checkpoint also holds random numbers, so to compare folders is useless. `load` keeps a few numbers of some trainable
tensors, and `save` checks whether one of them has changed. Nearly always the first has, so the check is cheap. If none
has, `save` compares all weights with the parent's file. A single member may correctly restore its best weights.
Therefore the pre-flight reports this only if all of the first children do so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from .telemetry import Telemetry


#: tensors that are sampled, and numbers from each
TENSORS, NUMBERS = 32, 8


def loaded(notes: Telemetry, model: Any) -> None:
    """The model has just loaded its parent's weights."""
    trainable = [name for name, value in model.named_parameters() if value.requires_grad]
    weights = model.state_dict()
    some = trainable[:: max(1, len(trainable) // TENSORS)][:TENSORS]
    notes.sample = {name: weights[name].reshape(-1)[:NUMBERS].clone() for name in some if name in weights}


def saved(notes: Telemetry, weights: Mapping[str, Tensor], parents: Callable[[], Mapping[str, Tensor]]) -> None:
    """The weights are being saved. parents: reads those of the parent's checkpoint. A member's last save counts."""
    if not notes.sample:
        return
    import torch

    def same(name: str, sample: Any) -> bool:
        value = weights.get(name)
        return isinstance(value, torch.Tensor) and torch.equal(value.reshape(-1)[:NUMBERS], sample.to(value.device))

    unchanged = all(same(name, sample) for name, sample in notes.sample.items())
    if unchanged:
        parent = parents()
        tensors = {name: value for name, value in weights.items() if isinstance(value, torch.Tensor)}
        unchanged = all(name in parent and torch.equal(value.cpu(), parent[name]) for name, value in tensors.items())
    notes.unchanged = unchanged
