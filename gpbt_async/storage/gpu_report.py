"""gpus.json: how the GPUs of a run are, for `status`, `watch`, `gpus` and the live page.

The scheduler rewrites the file whenever a GPU changes, and every second (scheduler/gpu_status.py). Inside the run, the
pool of GPUs returns the same records, so a GPU's status has one shape in the whole package. It becomes JSON, under the
names of the fields, only in a file and in a command's output.

The one surprise: a scheduler that was killed leaves its file behind, so a reader looks at the run's lock first.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from ..errors import FolderError
from .files import read_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .folder import RunFolder


class DeviceState(StrEnum):
    """May a GPU be given to a member? devices/health.py says when a state begins and ends.

    IN_USE is OK with members on it. LEFT_OUT is a GPU of the machine that a run would not use.
    """

    OK = "ok"
    IN_USE = "in use"
    BUSY = "busy"
    DIRTY = "dirty"
    FAULTY = "faulty"
    DRAINED = "drained"
    LEFT_OUT = "left out"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceStatus:
    """How one GPU is. Amounts of memory are in bytes, utilisation in percent, temperature in °C; None = unknown.

    gpu: its label, "0" or "0:1". reason: why it is not given out, or "". since: when its state began. retry: when a
    faulty GPU is tried again. members: those that train on it. ours: the memory of this run's members. leaving: how
    many members have ended and still hold memory. others: the memory of everything else.
    """

    gpu: str
    uuid: str
    name: str
    state: DeviceState
    reason: str = ""
    since: float | None = None
    retry: float | None = None
    members: tuple[int, ...] = ()
    ours: int | None = None
    leaving: int = 0
    others: int | None = None
    used: int | None = None
    total: int | None = None
    utilisation: int | None = None
    temperature: int | None = None

    @classmethod
    def from_json(cls, flat: Mapping[str, Any]) -> DeviceStatus:
        """Raises KeyError, TypeError and ValueError when it is damaged."""
        values = {f.name: flat[f.name] for f in fields(cls)}
        return cls(**values | {"state": DeviceState(values["state"]), "members": tuple(values["members"])})

    def journaled(self) -> dict[str, object]:
        """The part that a Sampled fact keeps."""
        names = ("gpu", "state", "members", "ours", "used", "utilisation", "temperature")
        return {name: getattr(self, name) for name in names} | {"members": list(self.members)}


@dataclass(frozen=True, slots=True)
class GpuQueue:
    """Members that wait for a GPU. members: how many. since: when the first began to wait.

    why: by label, why that GPU is not given to the first of them.
    """

    members: int
    since: float | None
    why: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class GpuReport:
    """What gpus.json holds. t: when it was written. waiting: None when no member waits."""

    t: float
    gpus: tuple[DeviceStatus, ...]
    waiting: GpuQueue | None


def read_gpus(folder: RunFolder) -> GpuReport | None:
    """How the GPUs of a run are; None when it uses none, or does not run."""
    if folder.locked() is None:
        return None
    try:
        flat = read_json(folder.gpus)
        waiting = flat["waiting"]
        return GpuReport(
            flat["t"],
            tuple(DeviceStatus.from_json(row) for row in flat["gpus"]),
            None if waiting is None else GpuQueue(waiting["members"], waiting["since"], dict(waiting["why"])),
        )
    except (FolderError, KeyError, TypeError, ValueError):
        return None
