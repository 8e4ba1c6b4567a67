"""Which GPUs a run may use: what NVML found, what CUDA_VISIBLE_DEVICES shows of it, what the user asks for.

Pure: no NVML, no environment of its own. **A GPU is its UUID** here; indices are only how people name one: NVML counts
in PCI order, CUDA by default fastest first, and a driver may renumber. A MIG instance is a GPU like any other, a card
that is split into instances is none: its index, or its UUID, means all of its instances, `0:1` one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from ..errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from .nvml import NvmlDevice


VISIBLE = "CUDA_VISIBLE_DEVICES"
#: how people and batch systems say "no GPU" on purpose; anything else that matches no GPU is a mistake
NOTHING = ("", "-1", "nodevfiles", "none")
CORRECT = "Correct it, or train on the CPU: --gpus none"


@dataclass(frozen=True, slots=True)
class GPU:
    """A GPU or MIG instance that may be given out. total: bytes, 0 if unknown. cpus: the cores near it."""

    index: int  # the card's, as NVML counts: PCI order, what nvidia-smi shows
    uuid: str
    name: str = ""  # empty where the driver cannot tell
    slice: int | None = None
    card: str | None = None  # the UUID of the card a MIG instance is on
    total: int = 0
    exclusive: bool = False  # its compute mode lets one process at a time use it
    cpus: frozenset[int] = frozenset()

    @property
    def label(self) -> str:
        return label(self.index, self.slice)

    @property
    def whole(self) -> str:
        """The UUID of the card: its own, or of the one that a MIG instance is on."""
        return self.card or self.uuid

    def __str__(self) -> str:
        return f"GPU {self.label} {self.name}".rstrip()


def label(index: int, slice: int | None) -> str:
    """What people call a GPU, "0", or an instance, "0:1"."""
    return str(index) if slice is None else f"{index}:{slice}"


def usable(found: Iterable[NvmlDevice]) -> tuple[list[GPU], dict[GPU, str]]:
    """The GPUs that could be given out, and why the others cannot."""
    found = list(found)
    gpus: list[GPU] = []
    out: dict[GPU, str] = {}
    for each in found:
        exclusive = each.mode == "exclusive"
        place = (each.index, each.uuid, each.name, each.slice, each.card)
        gpu = GPU(*place, total=each.total, exclusive=exclusive, cpus=each.cpus)
        if each.fault:
            out[gpu] = f"NVML failed: {each.fault}"
        elif each.mode == "prohibited" and each.slice is not None:
            continue  # its card is told of
        elif each.mode == "prohibited":
            out[gpu] = "its compute mode is PROHIBITED (nvidia-smi -c DEFAULT would change that)"
        elif each.split:
            if not any(other.card == each.uuid for other in found):
                out[gpu] = "it is in MIG mode and has no instance (nvidia-smi mig -cgi … -C makes one)"
        else:
            gpus.append(gpu)
    return gpus, out


def choose(
    present: Sequence[GPU],
    asked: str | None,
    environ: Mapping[str, str],
    warn: Callable[[str], None],
    out: Mapping[GPU, str] = MappingProxyType({}),
) -> list[GPU]:
    """The GPUs that CUDA_VISIBLE_DEVICES shows, in its order, narrowed by `--gpus`, then in the latter's.

    out: those that are there and cannot be used, and why.
    """
    check(asked)
    visible = _visible(present, environ, warn, out)
    if asked is None or asked == "all":
        return visible
    chosen: list[GPU] = []
    for entry in (part.strip() for part in asked.split(",")):
        matches = match(entry, visible)
        if clear(entry, matches) and not set(matches) & set(chosen):
            chosen += matches
            continue
        lame = match(entry, out)
        if clear(entry, matches):
            problem = "is named twice"
        elif matches:
            problem = "may mean more than one GPU"
        elif match(entry, present):
            problem = f"is hidden by {VISIBLE}={environ[VISIBLE]}"
        elif lame:
            problem = f"cannot be used, as {out[lame[0]]}"
        else:
            problem = "is no GPU here"
        raise DeviceError(f"--gpus {asked}: {entry!r} {problem}; to choose from: {names(visible)}")
    return chosen


def check(asked: str | None) -> None:
    """Raise DeviceError for a `--gpus` that names nothing, or has nothing between two commas."""
    if asked is not None and not all(part.strip() for part in asked.split(",")):
        what = "must be indices or UUIDs with commas between them (0,2), all, or none"
        raise DeviceError(f"--gpus: got {asked!r}; {what}")


def hides_all(environ: Mapping[str, str]) -> bool:
    """Does somebody say on purpose that there is no GPU?"""
    value = environ.get(VISIBLE)
    return value is not None and value.split(",")[0].strip().casefold() in NOTHING


def _visible(
    present: Sequence[GPU], environ: Mapping[str, str], warn: Callable[[str], None], out: Mapping[GPU, str]
) -> list[GPU]:
    """What CUDA would show under the inherited CUDA_VISIBLE_DEVICES."""
    value = environ.get(VISIBLE)
    if value is None:
        return list(present)
    entries = [part.strip() for part in value.rstrip(", ").split(",")]
    visible: list[GPU] = []
    for place, entry in enumerate(entries):
        matches = match(entry, present)
        if not matches and match(entry, out):
            continue  # CUDA counts it all the same
        if not clear(entry, matches):
            if entry.casefold() in NOTHING and place and place + 1 == len(entries):
                break
            may = f"may mean any of {names(matches)}" if matches else f"is not one of {names((*present, *out))}"
            if not visible:
                problem = f"{entry!r} {may}, and CUDA then shows no GPU"
                raise DeviceError(f"{VISIBLE}={value}: {problem}. {CORRECT}")
            warn(f"{VISIBLE}={value}: {entry!r} {may}, and CUDA hides it and all after it; left: {names(visible)}")
            break
        if set(matches) & set(visible):
            raise DeviceError(f"{VISIBLE}={value}: {entry!r} is named twice, and CUDA then shows no GPU. {CORRECT}")
        visible += matches
    if not visible:
        lame = "; ".join(f"{gpu}: {reason}" for gpu, reason in out.items())
        raise DeviceError(f"{VISIBLE}={value}: none of these can be used ({lame}). {CORRECT}")
    models = {gpu.name for gpu in present if gpu.name}
    ordered = environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    if len(models) > 1 and not ordered and any(entry.isdecimal() for entry in entries):
        how = "is read in PCI order, as nvidia-smi shows; CUDA itself would put the fastest GPU first"
        warn(f"{VISIBLE}={value} {how}, and these differ: name UUIDs, or set CUDA_DEVICE_ORDER=PCI_BUS_ID")
    return visible


def match(entry: str, gpus: Iterable[GPU]) -> list[GPU]:
    """The GPUs that an index, an index and an instance, a UUID or the beginning of one may mean."""
    if entry.isdecimal():
        return [gpu for gpu in gpus if gpu.index == int(entry)]
    wanted = entry.casefold()
    if not wanted.startswith(("gpu-", "mig-")):
        return [gpu for gpu in gpus if gpu.slice is not None and gpu.label == entry]
    of_cards = [gpu for gpu in gpus if gpu.card is not None and gpu.card.casefold().startswith(wanted)]
    return [gpu for gpu in gpus if gpu.uuid.casefold().startswith(wanted)] + of_cards


def clear(entry: str, matches: Sequence[GPU]) -> bool:
    """One GPU, or the instances of one card that was named as a whole."""
    return len({gpu.whole for gpu in matches}) == 1 and (
        len(matches) == 1 or entry.isdecimal() or entry.casefold().startswith("gpu-")
    )


def names(gpus: Iterable[GPU]) -> str:
    return ", ".join(f"{gpu} ({gpu.uuid})" for gpu in gpus)
