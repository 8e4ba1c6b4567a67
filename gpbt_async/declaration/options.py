"""The options of a run: what its launch asks of the machine at hand, beside what the experiment declares.

One record carries them from the command line, or from `Run(...)`, to whatever uses them, each under one name. It is
written into experiment.json, so that a resume has what the launch had; an option that the resume gives itself wins.
None means that an option was not given, which is why the two switches are no plain booleans.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """slots >= 1: members at a time, on the CPU. gpus: "all", "none", or indices and UUIDs with commas. share >= 1:
    members on a GPU. vram: GPU memory of a member, "6GiB". start: "zygote" or "exec". disk: the most that the
    checkpoints may take, "50GiB". wait_for_gpus: wait while every GPU is taken. xids: Xid → whose fault it is.
    others_may_use: GPU memory that other programs may use on a GPU, "2GiB". affinity: bind members to the cores near
    their GPU. nvml_library: the path of libnvidia-ml.so.1. track: trackers, as `--track` names them.
    """

    slots: int | None = None
    gpus: str | None = None
    share: int | None = None
    vram: str | None = None
    start: str | None = None
    disk: str | None = None
    wait_for_gpus: bool | None = None
    xids: Mapping[int, str] = field(default_factory=dict)
    others_may_use: str | None = None
    affinity: bool | None = None
    nvml_library: str | None = None
    track: tuple[str, ...] | None = None

    def over(self, kept: RunOptions) -> RunOptions:
        """These options, and those of an earlier session where none is given here."""
        given = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) not in (None, {})}
        return replace(kept, **given)

    def to_json(self) -> dict[str, Any]:
        flat = {f.name: getattr(self, f.name) for f in fields(self)}
        return flat | {
            "xids": {str(xid): whose for xid, whose in self.xids.items()},
            "track": self.track and [*self.track],
        }

    @classmethod
    def from_json(cls, flat: Mapping[str, Any]) -> RunOptions:
        """Raises KeyError, TypeError and ValueError when it is damaged."""
        known = {f.name: flat[f.name] for f in fields(cls)}
        track = flat["track"]
        xids = {int(xid): str(whose) for xid, whose in flat["xids"].items()}
        return cls(**known | {"xids": xids, "track": None if track is None else tuple(map(str, track))})


#: set by the command line, whose users write --others-may-use where an application writes others_may_use
typed = False


def option_text(name: str, value: object = None) -> str:
    """An option as its user writes it, for messages: "--slots 2" on the command line, "slots=2" in an application."""
    if not typed:
        return name if value is None else f"{name}={value!r:.80}"
    return f"--{name.replace('_', '-')}" + ("" if value is None or value is True else f" {value!s:.80}")
