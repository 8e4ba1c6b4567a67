"""Which GPUs a run may use: those that NVML lists, narrowed by CUDA_VISIBLE_DEVICES and by `--gpus`.

Pure: no NVML, and the environment is an argument. A GPU is its UUID here; an index is only how people name one, since
NVML counts in PCI order, CUDA by default from the fastest GPU, and a driver may renumber.

The surprise is MIG. An instance is a GPU like any other; a card that is split into instances is not. The index or the
UUID of such a card means all its instances, and `0:1` means one of them.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from ..declaration.run_options import option_text
from ..errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from .nvml import GPU


VISIBLE = "CUDA_VISIBLE_DEVICES"
#: what people and batch systems set to hide every GPU; any other value that matches no GPU is a mistake
NOTHING = ("", "-1", "nodevfiles", "none")


def usable(gpus: Iterable[GPU]) -> tuple[list[GPU], dict[GPU, str]]:
    """The GPUs that a run could use, and why it cannot use the others."""
    gpus = list(gpus)
    good: list[GPU] = []
    bad: dict[GPU, str] = {}
    for gpu in gpus:
        if gpu.fault:
            bad[gpu] = f"NVML failed: {gpu.fault}"
        elif gpu.mode == "prohibited":
            if gpu.slice is None:  # the reason is given once, for the card
                bad[gpu] = "its compute mode is PROHIBITED (nvidia-smi -c DEFAULT would change that)"
        elif not gpu.split:
            good.append(gpu)
        elif not any(other.card == gpu.uuid for other in gpus):
            bad[gpu] = "it is in MIG mode and has no instance (nvidia-smi mig -cgi … -C makes one)"
    return good, bad


def choose(
    present: Sequence[GPU],
    asked: str | None,
    environ: Mapping[str, str],
    warn: Callable[[str], None],
    bad: Mapping[GPU, str] = MappingProxyType({}),
) -> list[GPU]:
    """The GPUs that CUDA_VISIBLE_DEVICES shows, in its order; with asked (`--gpus`), those of them, in that order.

    present, bad: as from `usable`. Raises DeviceError.
    """
    check(asked)
    visible = _visible(present, environ, warn, bad)
    if asked is None or asked == "all":
        return visible
    chosen: list[GPU] = []
    for entry in (part.strip() for part in asked.split(",")):
        matches = match(entry, visible)
        if clear(entry, matches) and not set(matches) & set(chosen):
            chosen += matches
            continue
        unusable = match(entry, bad)
        if clear(entry, matches):
            problem = "is named twice"
        elif matches:
            problem = "may mean more than one GPU"
        elif match(entry, present):
            problem = f"is hidden by {VISIBLE}={environ[VISIBLE]}"
        elif unusable:
            problem = f"cannot be used, as {bad[unusable[0]]}"
        else:
            problem = "is no GPU here"
        there = names(visible) or "none"
        raise DeviceError(f"{option_text('gpus', asked)}: {entry!r} {problem}; to choose from: {there}")
    return chosen


def check(asked: str | None) -> None:
    """Raise DeviceError for a `--gpus` that names nothing, or has nothing between two commas."""
    if asked is not None and not all(part.strip() for part in asked.split(",")):
        what = "must be indices or UUIDs with commas between them (0,2), all, or none"
        raise DeviceError(f"{option_text('gpus')}: got {asked!r}; {what}")


def _correct() -> str:
    return f"Correct it, or train on the CPU: {option_text('gpus', 'none')}"


def hides_all(environ: Mapping[str, str]) -> bool:
    """Does the environment hide every GPU on purpose?"""
    value = environ.get(VISIBLE)
    return value is not None and value.split(",")[0].strip().casefold() in NOTHING


def _visible(
    present: Sequence[GPU], environ: Mapping[str, str], warn: Callable[[str], None], bad: Mapping[GPU, str]
) -> list[GPU]:
    """The GPUs that CUDA shows under the inherited CUDA_VISIBLE_DEVICES."""
    value = environ.get(VISIBLE)
    if value is None:
        return list(present)
    entries = [part.strip() for part in value.rstrip(", ").split(",")]
    visible: list[GPU] = []
    for place, entry in enumerate(entries):
        matches = match(entry, present)
        if not matches and match(entry, bad):
            continue  # CUDA counts it all the same
        if not clear(entry, matches):
            if entry.casefold() in NOTHING and place and place + 1 == len(entries):
                break
            may = f"may mean any of {names(matches)}" if matches else f"is not one of {names((*present, *bad))}"
            if not visible:
                problem = f"{entry!r} {may}, and CUDA then shows no GPU"
                raise DeviceError(f"{VISIBLE}={value}: {problem}. {_correct()}")
            warn(f"{VISIBLE}={value}: {entry!r} {may}, and CUDA hides it and all after it; left: {names(visible)}")
            break
        if set(matches) & set(visible):
            raise DeviceError(f"{VISIBLE}={value}: {entry!r} is named twice, and CUDA then shows no GPU. {_correct()}")
        visible += matches
    if not visible:
        reasons = "; ".join(f"{gpu}: {reason}" for gpu, reason in bad.items())
        raise DeviceError(f"{VISIBLE}={value}: none of these can be used ({reasons}). {_correct()}")
    models = {gpu.name for gpu in present if gpu.name}
    ordered = environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    if len(models) > 1 and not ordered and any(entry.isdecimal() for entry in entries):
        how = "is read in PCI order, as nvidia-smi shows; CUDA itself would put the fastest GPU first"
        warn(f"{VISIBLE}={value} {how}, and these differ: name UUIDs, or set CUDA_DEVICE_ORDER=PCI_BUS_ID")
    return visible


def match(entry: str, gpus: Iterable[GPU]) -> list[GPU]:
    """The GPUs that an index, `index:instance`, a UUID or the beginning of one may mean."""
    if entry.isdecimal():
        return [gpu for gpu in gpus if gpu.index == int(entry)]
    wanted = entry.casefold()
    if not wanted.startswith(("gpu-", "mig-")):
        return [gpu for gpu in gpus if gpu.slice is not None and gpu.label == entry]
    on_cards = [gpu for gpu in gpus if gpu.card is not None and gpu.card.casefold().startswith(wanted)]
    return [gpu for gpu in gpus if gpu.uuid.casefold().startswith(wanted)] + on_cards


def clear(entry: str, matches: Sequence[GPU]) -> bool:
    """Is it one GPU, or the instances of one card that was named as a whole?"""
    return len({gpu.card_uuid for gpu in matches}) == 1 and (
        len(matches) == 1 or entry.isdecimal() or entry.casefold().startswith("gpu-")
    )


def names(gpus: Iterable[GPU]) -> str:
    return ", ".join(f"{gpu} ({gpu.uuid})" for gpu in gpus)
