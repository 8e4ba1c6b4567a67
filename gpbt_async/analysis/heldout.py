"""What metrics that selected nothing say of a run: how its best was chosen by one, and how they follow the score.

Pure: reads the engine, returns plain data that JSON can hold (engine/final_choice.py, engine/generalisation.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from ..engine.generalisation import alike, mode_of

if TYPE_CHECKING:
    from ..engine.engine import Engine


class ChoiceRow(TypedDict):
    """The final choice of a finished run with `choose_by`.

    value: the chosen member's metric; None if none of them reported it, so that the score chose. among: the ids of the
    members it was among, the best by the score first. eligible: how many of them reported the metric.
    """

    metric: str
    mode: str
    value: float | None
    member: int
    among: list[int]
    eligible: int


class GapRecord(TypedDict):
    """The best members of one generation that report a metric: how many, mean score, mean metric."""

    generation: int
    members: int
    score: float
    metric: float


class GapTable(TypedDict):
    """A metric beside the score. alike: both measure the same on different data, so their difference has a meaning."""

    metric: str
    mode: str
    alike: bool
    generations: list[GapRecord]


def choice_row(engine: Engine) -> ChoiceRow | None:
    """None without `choose_by`, and before the run has finished."""
    choice = engine.final_choice
    if choice is None:
        return None
    return ChoiceRow(
        metric=choice.metric,
        mode=choice.mode,
        value=choice.value,
        member=choice.chosen.id,
        among=[member.id for member in choice.among],
        eligible=len(choice.eligible),
    )


def gap_tables(engine: Engine) -> list[GapTable]:
    """One for each metric on data of its own, so far."""
    known, settings = engine.generalisation, engine.settings
    return [
        GapTable(
            metric=metric,
            mode=mode,
            alike=alike(settings.score, metric),
            generations=[
                GapRecord(generation=row.generation, members=row.members, score=row.score, metric=row.metric)
                for row in known.rows(metric)
            ],
        )
        for metric in known.metrics
        if (mode := mode_of(settings, metric)) is not None
    ]
