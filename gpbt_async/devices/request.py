"""What a run asks of the machine's devices: its options, and what its experiment says that a member needs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, get_args

from ..declaration.resources import Resources
from ..declaration.run_options import NONE, option_text
from ..errors import DeviceError, ExperimentError
from ..events import MOST_SLOTS
from .gpu_selection import check
from .xids import Blame

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..declaration.run_options import RunOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRequest:
    """resources: of a member, with the options `share` and `vram` applied. population: of the experiment. before: the
    run has trained on GPUs before. others_may_use: in bytes, None = as health.tolerance says. The others: as of
    RunOptions. Raises DeviceError.
    """

    resources: Resources = field(default_factory=Resources)
    population: int
    before: bool = False
    slots: int | None = None
    gpus: str | None = None
    wait_for_gpus: bool = False
    xids: Mapping[int, Blame] = field(default_factory=dict)
    others_may_use: int | None = None
    affinity: bool = True
    nvml_library: str | None = None

    def __post_init__(self) -> None:
        check(self.gpus)
        if self.slots is None:
            return
        slots = option_text("slots", self.slots)
        if type(self.slots) is not int or self.slots < 1:
            raise DeviceError(f"{slots}: must be a whole number of at least 1")
        if self.slots > MOST_SLOTS:
            raise DeviceError(f"{slots}: at most {MOST_SLOTS} are possible")
        if self.gpus not in (None, "none"):
            gpus = option_text("gpus", self.gpus)
            raise DeviceError(f"{slots} asks for CPU slots and {gpus} for GPUs: give only one")

    @classmethod
    def of(
        cls,
        options: RunOptions,
        resources: Resources,
        population: int,
        *,
        before: bool = False,
        declared: Resources | None = None,
    ) -> DeviceRequest:
        """declared: as of `member_needs`. Raises DeviceError and ExperimentError."""
        return cls(
            resources=member_needs(options, resources, declared),
            population=population,
            before=before,
            slots=options.slots,
            gpus=options.gpus,
            wait_for_gpus=bool(options.wait_for_gpus),
            xids=_xids(options),
            others_may_use=options.others_bytes,
            affinity=options.affinity is not False,
            nvml_library=None if options.nvml_library == NONE else options.nvml_library,
        )

    @property
    def wants_cpu(self) -> bool:
        """Are CPU slots asked for, so that NVML is left alone?"""
        return self.slots is not None or self.gpus == "none" or (self.gpus is None and not self.resources.gpus)


def check_options(options: RunOptions) -> None:
    """Raise DeviceError for options that contradict one another."""
    if options.slots is not None:
        cpu = option_text("slots", options.slots)
    elif options.gpus == "none":
        cpu = option_text("gpus", "none")
    else:
        return
    for name in ("share", "vram", "wait_for_gpus"):
        if getattr(options, name) not in (None, False, NONE):
            raise DeviceError(f"{option_text(name)} is about GPUs, and {cpu} asks for the CPU: give only one")


def member_needs(options: RunOptions, resources: Resources, declared: Resources | None = None) -> Resources:
    """The resources of a member, with the options `share` and `vram` applied. Raises ExperimentError.

    declared: what the experiment declares, which an option "none" brings back; None = resources.
    """
    given = {name: value for name in ("share", "vram") if (value := getattr(options, name)) is not None}
    given |= {name: getattr(declared or resources, name) for name, value in given.items() if value == NONE}
    try:
        return replace(resources, **given)
    except ExperimentError as error:  # an option is to blame, and no line of a script
        text = error.said
        for name in given:
            text = text.replace(f"resources.{name}", option_text(name), 1)
        raise ExperimentError(f"{text}, or '{NONE}'") from None


def _xids(options: RunOptions) -> dict[int, Blame]:
    given = options.xids or {}
    allowed: dict[str, Blame] = {whose: whose for whose in get_args(Blame)}
    for xid, whose in given.items():
        if whose not in allowed:
            raise ExperimentError(f"xids: got {{{xid!r}: {whose!r}}}; must be one of {', '.join(map(repr, allowed))}")
    return {xid: allowed[whose] for xid, whose in given.items()}
