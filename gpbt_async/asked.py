"""What a run is asked of devices, in the words of the person who asks: checked here, granted in devices.py.

Kept apart from the experiment, which says what a member needs wherever it runs: this is about the machine at hand, of
this session; only share and vram of a new run are written down with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .devices import Wanted
from .errors import DeviceError, ExperimentError
from .experiment import Resources
from .sizes import parse_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .health import Blame
    from .record import Record


@dataclass(frozen=True, slots=True)
class Asked:
    """What Run is asked of devices, as it says, for this session; share and vram of a new run are for good."""

    share: int | None = None
    vram: str | None = None
    wait_for_gpus: bool = False
    xids: Mapping[int, Blame] = field(default_factory=dict)
    others_may_use: str | None = None
    affinity: bool = True
    nvml_library: str | None = None

    @property
    def others(self) -> int | None:
        """Bytes. Raises ExperimentError."""
        try:
            return parse_bytes(self.others_may_use) if self.others_may_use is not None else None
        except ValueError:
            must = "must be an amount with its unit, such as '2GiB'"
            raise ExperimentError(f"--others-may-use: got {self.others_may_use!r}; {must}") from None

    def over(self, needs: Resources) -> Resources:
        """An experiment's resources, with what is asked for instead. Raises ExperimentError."""
        try:
            share = needs.share if self.share is None else self.share
            vram = needs.vram if self.vram is None else self.vram
            return Resources(needs.gpus, share, vram, needs.cpus)
        except ExperimentError as error:
            raise ExperimentError(
                error.said.replace("resources.", "--", 1)
            ) from None  # no line of a script is to blame

    def wanted(self, resources: Resources, population: int, record: Record) -> Wanted:
        """All that devices are asked for: here, by the experiment, and by the run's record. Raises GPBTError's."""
        if self.share or self.vram or self.wait_for_gpus:
            for name, value in (("slots", record.slots), ("gpus", record.gpus)):
                if value is not None and (name == "slots" or value == "none"):
                    given = "--share" if self.share else "--vram" if self.vram else "--wait-for-gpus"
                    raise DeviceError(f"{given} is about GPUs, and --{name} {value} asks for the CPU: give only one")
        needs = self.over(resources)
        return Wanted(
            gpus=record.gpus,
            slots=record.slots,
            need=needs.gpus,
            share=needs.share,
            vram=needs.vram,
            cpus=needs.cpus,
            population=population,
            wait=self.wait_for_gpus,
            xids=self.xids,
            others=self.others,
            affinity=self.affinity,
            nvml_library=record.nvml_library,
            before=record.on_gpus,
        )
