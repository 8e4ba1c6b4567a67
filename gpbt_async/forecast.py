"""What a run would take of the machine, if all its members were as the two that `doctor` has trained.

The time comes from planning.py's simulation, the checkpoints that are kept at a time from the engine in it. What one
member alone has shown is all there is to go by: members beside one another share memory bandwidth and caches, configs
differ in what they cost, so a real run will rather take longer.
"""

from __future__ import annotations

import shutil
import statistics
from typing import TYPE_CHECKING, Any

from . import planning

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from .experiment import Settings

#: runs that are simulated, and members of one at most: a larger experiment is planned by its first generations
SIMULATIONS, MEMBERS = 3, 4000
#: the standard deviation of intervals, as a share of their mean: `plan`'s
SPREAD = 0.3


def forecast(settings: Settings, told: Mapping[str, Any], runs: Path, gpu_bytes: Sequence[int]) -> dict[str, Any]:
    """Seconds of wall time (the import of the script included), bytes of disk and memory at their peak, and how much of
    both is free now. runs: a folder on the disk that is meant. gpu_bytes: of each GPU.
    """
    slots = max(1, told["slots"])
    found = [told[who] for who in ("member", "child")]
    start = min((f["start_s"] for f in found if f["start_s"] is not None), default=0.0)
    size = max(f["checkpoint_bytes"] for f in found)
    members = settings.population * settings.generations
    # the child's: behind it is what is imported only when it is first used, which the first members do, each for itself
    seconds, private = max(1e-6, told["child"]["seconds"]), max(f["private"] for f in found)
    publish = statistics.mean(f["publish_s"] for f in found)
    wall, kept = _course(settings, slots, seconds, start, publish)
    return {
        "population": settings.population,
        "generations": settings.generations,
        "schedule": settings.schedule,
        "slots": slots,
        "wall_s": told["import_s"] + wall,
        "at_most": bool(settings.early_stop),
        "checkpoints": kept,
        "disk_bytes": (kept + slots) * size + members * max(f["other_bytes"] for f in found),
        "disk_free": shutil.disk_usage(runs).free,
        "memory_bytes": slots * private,
        "memory_free": _available(),
        "gpu_bytes": list(gpu_bytes),
    }


def _course(settings: Settings, slots: int, seconds: float, start: float, publish: float) -> tuple[float, int]:
    """How long it takes, and the most checkpoints that are kept at a time."""
    few = settings.replaced(generations=min(settings.generations, max(3, MEMBERS // settings.population)))
    if few.population * few.generations > planning.MEMBERS or slots > planning.MOST_SLOTS:
        width = min(slots, settings.population)  # too many to be simulated while somebody waits
        return settings.population * settings.generations * (seconds + start) / width, 2 * settings.parents + width
    draw = planning.log_normal(seconds, SPREAD)
    plan = planning.foretell(few, slots, draw, SIMULATIONS, start_seconds=start, publish_seconds=publish)
    return plan["wall_s"] * settings.generations / few.generations, plan["checkpoints"]


def _available() -> int:
    """Bytes of memory that could be used now."""
    with open("/proc/meminfo", encoding="ascii") as file:
        told = dict(line.split(":", 1) for line in file)
    return int(told["MemAvailable"].split()[0]) << 10
