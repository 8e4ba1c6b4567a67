"""A slot: the right to train one member now, on some GPUs or on a share of the cores. And what gives slots out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from .processes import THREADS
from .visible import VISIBLE

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager


@dataclass(frozen=True, slots=True)
class Slot:
    """index: its number, from 0, the lowest that is free. name: for people: "cpu0", "GPU 0 NVIDIA A100".

    gpus: UUIDs, empty on the CPU. env: what the member's environment must say. cpus: the cores it is bound to, empty =
    wherever it likes. evicted: set, with the reason, once the member must leave and is to be lost, not failed.
    """

    index: int
    name: str
    device: Literal["cuda", "cpu"]
    gpus: tuple[str, ...]
    threads: int
    env: Mapping[str, str] = field(hash=False)
    cpus: frozenset[int] = frozenset()
    evicted: asyncio.Future[str] | None = field(default=None, compare=False)


class Pool(Protocol):
    """What gives slots out: Slots of the CPU, or Cards."""

    #: told how many members may train at once, whenever that changes
    on_capacity: Callable[[int], object]
    #: told how the GPUs are, now and then, for the journal; told that something about one has changed
    on_sample: Callable[[list[dict[str, Any]]], object]
    on_change: Callable[[], object]

    def __len__(self) -> int: ...
    @property
    def slots(self) -> tuple[Slot, ...]: ...
    def lease(self, alone: bool = False) -> AbstractAsyncContextManager[Slot]: ...
    def bind(self, slot: Slot, pid: int, member: int) -> None: ...
    def returned(self, slot: Slot) -> None: ...
    def out_of_memory(self, slot: Slot) -> bool: ...
    async def verdict(self, slot: Slot) -> str: ...
    def named(self, name: str) -> list[str]: ...
    def drain(self, uuid: str, at_once: bool = False) -> None: ...
    def give_back(self, uuid: str) -> None: ...
    def rows(self) -> list[dict[str, Any]]: ...
    def waiting(self) -> dict[str, Any] | None: ...
    async def close(self) -> None: ...


def environment(threads: int, gpus: Sequence[str]) -> dict[str, str]:
    """What pins a member: to these GPUs, or, without any, away from all."""
    order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if gpus else {}
    return order | dict.fromkeys(THREADS, str(threads)) | {VISIBLE: ",".join(gpus)}
