"""How many members fit on a GPU, and how much of its memory each is given.

Pure. `share` is the most members at a time, `vram` what each may take of the memory: a number of bytes, or "auto",
and then it is measured: as long as nobody has finished, members train alone on their GPUs; from then on each is given
the greatest peak seen so far and a margin. The margin is not only caution: peaks are seen by sampling, and memory
that is allocated for moments only is missed. When a member runs out of memory all the same, fewer share from then on.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .sizes import parse_bytes

if TYPE_CHECKING:
    from .visible import GPU

#: what is added to a measured peak
MARGIN = 0.1
#: how PyTorch, the CUDA runtime and driver, TensorFlow and JAX say it
_OOM = re.compile(r"CUDA out of memory|CUDA error: out of memory|OutOfMemoryError|CUDA_ERROR_OUT_OF_MEMORY|"
                  r"cudaErrorMemoryAllocation|CUDNN_STATUS_ALLOC_FAILED|"
                  r"RESOURCE_EXHAUSTED|ResourceExhaustedError|CUBLAS_STATUS_ALLOC_FAILED")  # fmt: skip


def out_of_memory(text: str) -> bool:
    """Does an error, or the end of a log, tell that a GPU's memory was used up?"""
    return _OOM.search(text) is not None


class Packing:
    """share: most members a GPU, None = 1, or with vram as many as fit. vram: bytes a member, "auto", or None."""

    def __init__(self, share: int | None = None, vram: str | None = None) -> None:
        self.auto = vram == "auto"
        self.vram = parse_bytes(vram) if vram is not None and vram != "auto" else None
        self._most = share or (None if vram is not None else 1)
        #: the greatest memory a finished member held on a GPU, 0 = not known yet
        self.peak = 0

    def observe(self, peak: int, most: int = 0) -> bool:
        """A member has finished that held so many bytes at most; True if this changes how many fit.

        most: what can be had at all, 0 = not known. A member that holds much on one of its GPUs and little on the
        others would else be thought to fit on no others than the largest.
        """
        peak = min(peak, most or peak)
        if not self.auto or peak <= self.peak:
            return False
        self.peak = peak
        return True

    def lower(self, members: int) -> bool:
        """One of so many members on a GPU ran out of its memory; True if fewer fit from now on."""
        fewer = max(1, members - 1)
        if self._most is not None and self._most <= fewer:
            return False
        self._most = fewer
        return True

    @property
    def measured(self) -> bool:
        """Is it known what a member takes, as far as it is to be?"""
        return not self.auto or self.peak > 0

    @property
    def need(self) -> int:
        """Bytes a member is given on each of its GPUs; 0 = not limited."""
        if self.auto:
            return int(self.peak * (1 + MARGIN))
        return self.vram or 0

    def most(self, gpu: GPU) -> int:
        """How many members may share this GPU if it is free but for them; 0 if it is too small for one."""
        most = 1 if gpu.exclusive or not self.measured else self._most
        if self.need and gpu.total:
            # what was measured on a GPU of this machine fits on it alone, whatever the margin says
            fit = gpu.total // self.need or int(self.auto and self.peak <= gpu.total)
            return fit if most is None else min(most, fit)
        return most or 1
