"""The options of a run: what its launch asks of the machine at hand, beside what the experiment declares.

One record carries them from the command line, or from `Run(...)`, to the code that uses them, each under one name. It
is written into experiment.json, so that a resume has what the launch had; an option that the resume gives itself wins,
and is kept in turn. None means that an option was not given, which is why the two switches are no plain booleans.

A resume resets an option to its default with the word `none`, as in `--disk none`; a switch has `--no-wait-for-gpus`
and `--affinity` for that. `--gpus none` is the exception: it means the CPU. `--slots` and `--gpus` are one choice, so a
resume that gives either replaces both.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ExperimentError
from ..formatting import parse_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator


#: the word that resets an option to its default
NONE = "none"
#: values of `start`
STARTS = ("zygote", "exec", "resident", NONE)
#: a replay has all options of the original but these: the first two are in its settings, the third is for a session
_NOT_REPLAYED = ("share", "vram", "wait_for_gpus")
_TEXTS = ("gpus", "vram", "disk", "others_may_use", "nvml_library")
_SWITCHES = ("wait_for_gpus", "affinity")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """slots >= 1: members at a time, on the CPU. gpus: "all", "none", or indices and UUIDs with commas. share >= 1:
    members on a GPU. vram: GPU memory of a member, "6GiB". start: "zygote", "exec" or "resident". disk: the most that
    the checkpoints may take, "50GiB". wait_for_gpus: wait while every GPU is taken. xids: Xid → whose fault it is.
    others_may_use: GPU memory that other programs may use on a GPU, "2GiB". affinity: bind members to the cores near
    their GPU. nvml_library: the path of libnvidia-ml.so.1. track: trackers, as `--track` names them.

    "none" resets share, vram, start, disk, others_may_use and nvml_library; {} resets xids, and () resets track.

    Raises ExperimentError. The code that looks for devices checks slots, gpus, share and vram.
    """

    slots: int | None = None
    gpus: str | None = None
    share: int | Literal["none"] | None = None
    vram: str | None = None
    start: Literal["zygote", "exec", "resident", "none"] | None = None
    disk: str | None = None
    wait_for_gpus: bool | None = None
    xids: Mapping[int, Literal["member", "card", "nobody"]] | None = None
    others_may_use: str | None = None
    affinity: bool | None = None
    nvml_library: str | None = None
    track: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.start not in (None, *STARTS):
            raise ExperimentError.of("start", self.start, f"must be one of {', '.join(map(repr, STARTS))}")
        for names, kind, must in ((_TEXTS, str, "must be a text"), (_SWITCHES, bool, "must be True or False")):
            for name in names:
                if (value := getattr(self, name)) is not None and not isinstance(value, kind):
                    raise ExperimentError(f"{option_text(name)}: got {value!r:.80}; {must}")
        if self.xids is not None:
            xids = self.xids if isinstance(self.xids, Mapping) else {None: None}
            if not all(type(xid) is int and 0 < xid < 1 << 32 for xid in xids):
                must = "must be a mapping from the number of an Xid, such as 79, to 'member', 'card' or 'nobody'"
                raise ExperimentError(f"xids: got {self.xids!r:.80}; {must}")
        if self.track is not None and not all(isinstance(each, str) for each in self.track):
            raise ExperimentError(f"track: got {self.track!r:.80}; must be names of trackers, such as 'jsonl'")
        _ = self.disk_bytes, self.others_bytes

    @property
    def disk_bytes(self) -> int | None:
        """The most that the checkpoints may take; None = no limit."""
        return _bytes("disk", self.disk, "50GiB")

    @property
    def others_bytes(self) -> int | None:
        """GPU memory that other programs may use; None = the default."""
        return _bytes("others_may_use", self.others_may_use, "2GiB")

    def over(self, kept: RunOptions) -> RunOptions:
        """These options, and those of an earlier session where none is given here.

        A session that asks for the CPU ends what was kept about GPUs: waiting for them, and sharing them.
        """
        given = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}
        if self.slots is not None or self.gpus is not None:
            kept = replace(kept, slots=None, gpus=None)
        if self.slots is not None or self.gpus == NONE:
            kept = replace(kept, share=None, vram=None, wait_for_gpus=None)
        return replace(kept, **given)

    def for_replay(self) -> RunOptions:
        """Those that a replay of the run has, unless it gives others."""
        return replace(self, **dict.fromkeys(_NOT_REPLAYED))

    def command_line(self) -> str:
        """The options that are given, as a command line gives them: "--slots 2 --disk 50GiB"."""
        return " ".join(option for f in fields(self) for option in _words(f.name, getattr(self, f.name)))

    def to_json(self) -> dict[str, object]:
        flat: dict[str, object] = {f.name: getattr(self, f.name) for f in fields(self)}
        if self.xids is not None:
            flat["xids"] = {str(xid): whose for xid, whose in self.xids.items()}
        return flat | {"track": None if self.track is None else [*self.track]}

    @classmethod
    def from_json(cls, flat: Mapping[str, Any]) -> RunOptions:
        """Raises KeyError, TypeError, ValueError and ExperimentError when it is damaged."""
        options = {f.name: flat[f.name] for f in fields(cls)}
        if options["xids"] is not None:
            options["xids"] = {int(xid): str(whose) for xid, whose in options["xids"].items()}
        return cls(**options | {"track": None if options["track"] is None else tuple(map(str, options["track"]))})


def _bytes(option: str, amount: str | None, example: str) -> int | None:
    if amount is None or amount == NONE:
        return None
    try:
        return parse_bytes(amount)
    except (TypeError, ValueError):
        must = f"must be an amount with its unit, such as {example!r}, or '{NONE}'"
        raise ExperimentError(f"{option_text(option)}: got {amount!r}; {must}") from None


def _words(name: str, value: Any) -> Iterator[str]:
    option = "--" + name.replace("_", "-").replace("xids", "xid")
    if isinstance(value, bool):
        yield option if value else option.replace("--", "--no-", 1)
    elif isinstance(value, Mapping):
        yield from (f"{option} {xid}={whose}" for xid, whose in value.items()) if value else (f"{option} {NONE}",)
    elif isinstance(value, tuple):
        yield from (f"{option} {shlex.quote(tracker)}" for tracker in value or (NONE,))
    elif value is not None:
        yield f"{option} {shlex.quote(str(value))}"


#: set by the command line, whose users write --others-may-use where an application writes others_may_use
on_command_line = False


def option_text(name: str, value: object = None) -> str:
    """An option as its user writes it, for messages: "--slots 2" on the command line, "slots=2" in an application."""
    if not on_command_line:
        return name if value is None else f"{name}={value!r:.80}"
    return f"--{name.replace('_', '-')}" + ("" if value is None or value is True else f" {value!s:.80}")
