"""The Ask: the complete input of a searcher, as plain data.

A searcher is a function of an Ask alone: it keeps no state. The Ask asks for the config of one new child. It holds the
kin, which are relatives of the parent with their configs and losses, as they are at that moment. Therefore an Ask can
be sent to another process as JSON, repeated after a crash, and rebuilt from the journal.

A lower loss is always better. If the experiment's mode is "max", the engine negates the score.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NotRequired, TypedDict

if TYPE_CHECKING:
    from .space import Config, Space


#: child indexes from the root: () is the virtual parent of generation 0, (3, 0) the first child of root 3
Path = tuple[int, ...]
Outcome = Literal["finished", "failed", "stopped"]


def path_text(path: Path) -> str:
    return f"{_family_text(path[:-1])}/{path[-1]}" if len(path) > 1 else "/".join(map(str, path))


def path_of(text: str) -> Path:
    family, slash, index = text.rpartition("/")
    if slash:
        return (*_family_of(family), int(index))
    return (int(text),) if text else ()


# a path is as long as its member's generation is deep, and siblings share all of it but the index: in a hundredth
# generation to write and read paths anew would take more time than the engine's decisions
@lru_cache(1 << 12)
def _family_text(family: Path) -> str:
    return "/".join(map(str, family))


@lru_cache(1 << 12)
def _family_of(text: str) -> Path:
    return tuple(int(part) for part in text.split("/"))


class ObservationRecord(TypedDict):
    """An Observation in JSON."""

    path: str
    generation: int
    config: Config
    outcome: Outcome
    loss: float | None


class AskRecord(TypedDict):
    """An Ask in JSON, without the space, which both processes have."""

    path: str
    generation: int
    seed: int
    parent: ObservationRecord | None
    kin: list[ObservationRecord]
    pending: list[Config]
    run: NotRequired[int]


@dataclass(frozen=True, slots=True)
class Observation:
    """One evaluated member. `loss` is minimised; None when the outcome is "failed", censored when it is "stopped"."""

    path: Path
    generation: int
    config: Config
    outcome: Outcome
    loss: float | None

    @property
    def final(self) -> float | None:
        """The loss, if the member has finished and it is finite: only then can it be compared with others."""
        return self.loss if self.outcome == "finished" and self.loss is not None and math.isfinite(self.loss) else None

    def to_json(self) -> ObservationRecord:
        return {
            "path": path_text(self.path),
            "generation": self.generation,
            "config": self.config,
            "outcome": self.outcome,
            "loss": self.loss,
        }

    @classmethod
    def from_json(cls, o: ObservationRecord) -> Observation:
        return cls(path_of(o["path"]), o["generation"], o["config"], o["outcome"], o["loss"])


@dataclass(frozen=True, slots=True)
class Ask:
    """Everything a suggestion may depend on.

    space: contains the config wanted. Its constants are in no config here, and may be left out of the answer
    (`space.clip` adds them). path, generation: of the child wanted; child indexes from the root, and from 0 on. parent:
    None for generation 0. kin: the parent's family history in the order of (generation, path), never of arrival (TPE
    weighs by order). pending: configs of the parent's children (for generation 0: of the roots) that have not finished,
    by path. seed: in [0, 2⁶³), a function of the run's seed and the path. run: in [0, 2⁶³), a function of the run's
    seed alone, the same in all asks of a run.
    """

    space: Space
    path: Path
    generation: int
    seed: int
    parent: Observation | None
    kin: tuple[Observation, ...]
    pending: tuple[Config, ...]
    run: int = 0

    @property
    def losses(self) -> list[float]:
        """The losses of the kin that can be compared."""
        return [observed.final for observed in self.kin if observed.final is not None]

    def to_json(self) -> AskRecord:
        """As a JSON object, without the space, which both processes have."""
        return {
            "path": path_text(self.path),
            "generation": self.generation,
            "seed": self.seed,
            "parent": self.parent.to_json() if self.parent else None,
            "kin": [o.to_json() for o in self.kin],
            "pending": list(self.pending),
            "run": self.run,
        }

    @classmethod
    def from_json(cls, space: Space, ask: AskRecord) -> Ask:
        """The Ask that `to_json` made (ask), over the space."""
        return cls(
            space=space,
            path=path_of(ask["path"]),
            generation=ask["generation"],
            seed=ask["seed"],
            parent=Observation.from_json(ask["parent"]) if ask["parent"] else None,
            kin=tuple(Observation.from_json(o) for o in ask["kin"]),
            pending=tuple(ask["pending"]),
            run=ask.get("run", 0),
        )
