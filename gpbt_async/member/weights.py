"""Has a member trained the model that it saves? For `gpbt.torch`, whose checkpoints never equal their parents' bytes.

Such a checkpoint holds random numbers too, so comparing folders finds nothing. `load` leaves a sample of what it has
loaded here, a few numbers of some trainable tensors, and `save` looks whether one of them has changed. Nearly always
the first has, so that is all it costs; only if none has, the whole is compared with the parent's file. One member
that restores its best weights is sound; checks.py waits for the first children to agree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .telemetry import Telemetry


#: tensors that are sampled, and numbers of each
TENSORS, NUMBERS = 32, 8


def loaded(now: Telemetry, model: Any) -> None:
    """model has just got its parent's weights."""
    trainable = [name for name, value in model.named_parameters() if value.requires_grad]
    weights = model.state_dict()
    some = trainable[:: max(1, len(trainable) // TENSORS)][:TENSORS]
    now.sample = {name: weights[name].reshape(-1)[:NUMBERS].clone() for name in some if name in weights}


def saved(now: Telemetry, weights: Mapping[str, Any], parents: Callable[[], Mapping[str, Any]]) -> None:
    """weights are being written. parents: reads those of the parent's checkpoint. The last save of a member counts."""
    if not now.sample:
        return
    import torch

    def same(name: str, sample: Any) -> bool:
        value = weights.get(name)
        return isinstance(value, torch.Tensor) and torch.equal(value.reshape(-1)[:NUMBERS], sample.to(value.device))

    unchanged = all(same(name, sample) for name, sample in now.sample.items())
    if unchanged:
        theirs = parents()
        tensors = {name: value for name, value in weights.items() if isinstance(value, torch.Tensor)}
        unchanged = all(name in theirs and torch.equal(value.cpu(), theirs[name]) for name, value in tensors.items())
    now.unchanged = unchanged
