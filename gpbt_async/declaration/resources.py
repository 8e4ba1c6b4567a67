"""What one member needs of the machine: GPUs or parts of them, memory, threads."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ExperimentError
from ..formatting import parse_bytes
from .arguments import checked, whole

#: the most members on a GPU (CUDA's context alone takes hundreds of MiB in each), and the least memory of one
MOST_A_GPU = 1000
LEAST_VRAM = 1 << 20


@checked(gpu="did you mean gpus?", cpu="did you mean cpus?", memory="did you mean vram?", num_gpus="did you mean gpus?")
@dataclass(frozen=True, slots=True)
class Resources:
    """What one member needs.

    gpus: 1 = one GPU each (the default; CPU slots on a machine without NVIDIA's driver), 0 = CPU slots, more = so many
    for each member at once. share >= 1: how many members may be on one GPU at a time; None = one, or with vram as many
    as fit. vram: the GPU memory that a member takes on each of its GPUs, as "6GiB" or "500MiB", or "auto": members
    train alone until one has finished, and the greatest peak observed decides. cpus >= 1: threads that a member may
    use, None = the cores divided among the slots. Raises ExperimentError.
    """

    gpus: int = 1
    share: int | None = None
    vram: str | None = None
    cpus: int | None = None

    def __post_init__(self) -> None:
        whole("resources.gpus", self.gpus, 0)
        if self.share is not None:
            whole("resources.share", self.share, 1, MOST_A_GPU)
        if self.vram is not None:
            try:
                if not isinstance(self.vram, str) or (self.vram != "auto" and parse_bytes(self.vram) < LEAST_VRAM):
                    raise ValueError
            except ValueError:
                must = "must be an amount of at least 1MiB with its unit, such as '6GiB' or '500MiB', or 'auto'"
                raise ExperimentError.of("resources.vram", self.vram, must) from None
        if self.cpus is not None:
            whole("resources.cpus", self.cpus, 1)
