"""A schedule: the configs along one lineage, interval after interval, which a run finds beside the model.

A run writes it as schedule.json. This class reads that file for use without a run: in a training loop of one's own
(`schedule.config(step, steps)`), in a framework's callback (lightning.py, hf.py), or to train along it once more
(`gpbt-async replay`, which puts it into the settings of a new run). Plain data, read-only; only `load` touches a file,
and only the standard library is imported, because training loops import this module.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, overload

from .errors import ExperimentError, FolderError

if TYPE_CHECKING:
    from .space import Config


#: the file's name, in a run's folder and in an exported one
FILE = "schedule.json"


@dataclass(frozen=True, slots=True)
class Interval:
    """One interval of a schedule: its config, and what is known of the member that trained with it.

    seed: the member's. score: the last one reported, None if unknown. member: the id in the run. path: child indexes
    from the root.
    """

    config: Config
    seed: int | None = None
    score: float | None = None
    member: int | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a schedule comes from; all unknown if it was written by hand.

    run: the name. member: the last one of the lineage. score: that member's; metric: the score's name; mode: "max" or
    "min". metrics: the last value of everything that the member reported. of: how many members it was the best of.
    """

    run: str | None = None
    member: int | None = None
    score: float | None = None
    metric: str | None = None
    mode: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    of: int | None = None


class IntervalRecord(TypedDict):
    """An entry of schedule.json."""

    generation: int
    member: int | None
    path: str | None
    score: float | None
    seed: int | None
    config: Config


class ScheduleRecord(TypedDict):
    """schedule.json. While a run has no best member, only `run` says something, and `schedule` is empty."""

    run: str | None
    member: int | None
    score: float | None
    metric: NotRequired[str | None]
    mode: NotRequired[str | None]
    metrics: NotRequired[dict[str, float]]
    of: NotRequired[int | None]
    schedule: list[IntervalRecord]


class Schedule(Sequence["Config"]):
    """Configs, interval after interval: a read-only sequence of dicts name → value, at least one.

    `schedule[i]` is interval i's, `schedule.at(progress)` that of a moment in training, `schedule.config(step, steps)`
    that of a step. `intervals` and `origin` hold what is known beside the configs.

    configs: dicts name → value, all of the same names; or the entries of a schedule.json. origin: where they come from,
    if known. Raises ExperimentError.
    """

    __slots__ = ("intervals", "origin")

    def __init__(self, configs: Iterable[Mapping[str, object]], origin: Origin | None = None) -> None:
        given = list(configs) if isinstance(configs, Iterable) and not isinstance(configs, str | Mapping) else None
        if not given:
            must = "must be a list of at least one config, e.g. [{'lr': 0.1}, {'lr': 0.01}]"
            raise ExperimentError.of("schedule", configs if given is None else given, must)
        self.intervals: tuple[Interval, ...] = tuple(_interval(i, entry) for i, entry in enumerate(given))
        self.origin = origin if origin is not None else Origin()
        names = set(self.intervals[0].config)
        for i, interval in enumerate(self.intervals):
            if set(interval.config) != names:
                must = f"must have the names of the first config: {', '.join(sorted(names))}"
                raise ExperimentError.of(f"schedule[{i}]", interval.config, must)

    @classmethod
    def of(cls, intervals: Iterable[Interval], origin: Origin | None = None) -> Schedule:
        """Make a schedule of checked intervals. origin: where they come from, if known."""
        schedule = cls.__new__(cls)
        schedule.intervals, schedule.origin = tuple(intervals), origin if origin is not None else Origin()
        return schedule

    @classmethod
    def load(cls, source: str | os.PathLike[str] | Iterable[Mapping[str, object]]) -> Schedule:
        """Read a source: a run's folder, an exported one, a schedule.json, or a list of configs.

        Raises FolderError when the file is missing or damaged, ExperimentError for a list that is no schedule.
        """
        if isinstance(source, Schedule):
            return source
        if not isinstance(source, str | os.PathLike):
            return cls(source)
        path = Path(source)
        file = path / FILE if path.is_dir() else path
        try:
            flat = json.loads(file.read_text(encoding="utf-8", errors="surrogatepass"))
        except FileNotFoundError:
            raise FolderError(
                f"{file} does not exist: give a run's folder, an exported one (gpbt-async best RUN --export DIR), or a "
                f"{FILE}; a run writes it when it has ended, or was stopped"
            ) from None
        except OSError as error:
            raise FolderError(f"cannot read {file}: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise FolderError(f"cannot read {file}: {error}") from None
        if isinstance(flat, dict) and flat.get("schedule") == []:
            raise FolderError(f"{file} is empty: the run has no finished member yet")
        try:
            return cls.from_json(flat)
        except (ExperimentError, KeyError, TypeError, ValueError) as error:
            why = error.said if isinstance(error, ExperimentError) else repr(error)
            raise FolderError(f"{file} is no schedule, or damaged: {why}") from None

    # ---- a sequence

    def __len__(self) -> int:
        return len(self.intervals)

    @overload
    def __getitem__(self, index: int) -> Config: ...
    @overload
    def __getitem__(self, index: slice) -> list[Config]: ...
    def __getitem__(self, index: int | slice) -> Config | list[Config]:
        if isinstance(index, slice):
            return [dict(interval.config) for interval in self.intervals[index]]
        return dict(self.intervals[index].config)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and (self.intervals, self.origin) == (other.intervals, other.origin)

    def __hash__(self) -> int:
        return hash((len(self), self.origin.run, self.origin.member))

    def __repr__(self) -> str:
        return f"Schedule({list(self)!r})"

    # ---- in a training loop

    def at(self, progress: float) -> Config:
        """The config at a moment in training: progress 0 is its beginning, 1 its end. Intervals are equally long.

        Raises ValueError outside [0, 1].
        """
        if not 0 <= progress <= 1:
            raise ValueError(f"progress is {progress!r}: must be from 0 (training begins) to 1 (it ends)")
        return self[min(int(progress * len(self)), len(self) - 1)]

    def config(self, step: int, steps: int) -> Config:
        """The config of step `step` of `steps`, counted from 0: steps are divided equally among the intervals.

        Raises ValueError unless 0 <= step < steps.
        """
        return self[self.interval(step, steps)]

    def interval(self, step: int, steps: int) -> int:
        """The number of the interval that step `step` of `steps` belongs to. Raises as `config`."""
        if not 0 <= step < steps:
            raise ValueError(f"step is {step!r} of {steps!r}: must be from 0 to the number of steps less one")
        return step * len(self) // steps

    # ---- as data

    def seedless(self) -> Schedule:
        """The same schedule without the seeds of its members."""
        return Schedule.of((replace(interval, seed=None) for interval in self.intervals), self.origin)

    def to_json(self) -> ScheduleRecord:
        """The content of schedule.json, which `load` reads."""
        o = self.origin
        return {
            "run": o.run,
            "member": o.member,
            "score": o.score,
            "metric": o.metric,
            "mode": o.mode,
            "metrics": dict(o.metrics),
            "of": o.of,
            "schedule": [
                {
                    "generation": i,
                    "member": interval.member,
                    "path": interval.path,
                    "score": interval.score,
                    "seed": interval.seed,
                    "config": dict(interval.config),
                }
                for i, interval in enumerate(self.intervals)
            ],
        }

    @classmethod
    def from_json(cls, flat: Any) -> Schedule:
        """The schedule of what `to_json` made, or of a list of configs (flat).

        Raises ExperimentError, KeyError, TypeError, ValueError.
        """
        if not isinstance(flat, Mapping):
            return cls(flat)
        origin = Origin(
            run=flat.get("run"),
            member=flat.get("member"),
            score=_float(flat.get("score")),
            metric=flat.get("metric"),
            mode=flat.get("mode"),
            metrics={str(name): float(value) for name, value in (flat.get("metrics") or {}).items()},
            of=flat.get("of"),
        )
        return cls(flat["schedule"], origin)


def _interval(index: int, entry: object) -> Interval:
    """The interval of a config, or of an entry of schedule.json, which has a config under "config"."""
    whole = isinstance(entry, Mapping) and isinstance(entry.get("config"), Mapping)
    about = entry if isinstance(entry, Mapping) and whole else {}
    config = about["config"] if whole else entry
    if not isinstance(config, Mapping) or not config or not all(_is_plain(*item) for item in config.items()):
        must = "must be a dict of names and plain values (numbers, strings, True, False, None), e.g. {'lr': 0.1}"
        raise ExperimentError.of(f"schedule[{index}]", config, must)
    seed = about.get("seed")
    return Interval(
        config=dict(config),
        seed=None if seed is None else int(seed),
        score=_float(about.get("score")),
        member=about.get("member"),
        path=about.get("path"),
    )


def _is_plain(name: object, value: object) -> bool:
    scalar = value is None or isinstance(value, str | bool | int | float)
    return isinstance(name, str) and scalar and not (isinstance(value, float) and not math.isfinite(value))


def _float(value: Any) -> float | None:
    return None if value is None else float(value)
