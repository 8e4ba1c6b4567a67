"""The final choice: which member a run that has finished hands out.

Without `choose_by` it is the best by the score, of any generation. But that score has selected every parent, so the
best of many scores is too good to be true: the run has overfitted the data that it is measured on. With `choose_by` the
run chooses by a metric that has selected nothing, on data of its own. The *finalists* are the best k of the last
generation by the score, whose checkpoints are kept for this (`Selection.needed`), and the best by the score of the
whole run. They are few, so the choice hardly overfits the new data in turn.

Until a run finishes, and in one that fails, the best so far is the best by the score. A finalist that did not report
the metric, or not as a finite number, cannot be chosen. If none did, the score decides, and `fallback` is true.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .selection import loss

if TYPE_CHECKING:
    from ..experiment import Settings
    from .selection import Selection
    from .tree import Node


@dataclass(frozen=True, slots=True)
class FinalChoice:
    """among: the finalists, the best by the score first. eligible: those of them that reported a finite metric.

    value: the metric of the chosen one; None after a fallback.
    """

    metric: str
    mode: str
    among: list[Node]
    eligible: list[Node]
    chosen: Node
    value: float | None

    @property
    def fallback(self) -> bool:
        return self.value is None


def final_choice(settings: Settings, selection: Selection) -> FinalChoice | None:
    """The choice as it would be made now; None without `choose_by`, and while no member has finished."""
    among = selection.finalists()
    if settings.choose_by is None or not among:
        return None
    metric, mode = settings.choose_by
    losses = {member.id: loss(member.metrics.get(metric), mode) for member in among}
    eligible = [member for member in among if math.isfinite(losses[member.id])]
    if not eligible:
        return FinalChoice(metric, mode, among, [], among[0], None)
    chosen = min(eligible, key=lambda member: (losses[member.id], member))
    return FinalChoice(metric, mode, among, eligible, chosen, chosen.metrics[metric])
