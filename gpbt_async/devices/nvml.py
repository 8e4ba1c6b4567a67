"""NVML: what NVIDIA's management library says, asked in one thread.

What lives here: the questions the device rooms have for NVML, as a protocol a fake can answer; the thread in which
they are asked; and the real answer, through nvidia-ml-py. Not here: what the answers mean for a run.

Every failure comes out as an `NvmlFault` that carries NVML's words. The binding's own exceptions stay inside:
they cannot be hashed, and the binding is imported only when somebody wants a GPU. Its library is loaded once per
process and never again.

The surprise is how little may be relied on. An old driver lacks functions, a consumer card does not support others, a
container forbids some: so only the count, a handle, a UUID and nothing else must work. All else is None, 0 or empty
where it cannot be had, but for a GPU that fails, which always raises. Handles are kept, since taking one may wake a
GPU up for seconds, by UUID, since indices move; that of a lost GPU is let go.
"""

from __future__ import annotations

import asyncio
import threading
import warnings
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


T = TypeVar("T")

Mode = Literal["default", "exclusive", "prohibited"]


class NvmlFault(Exception):
    """NVML is there and failed; the text is what it said. code: NVML's number, 0 if it has none."""

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code

    @property
    def lost(self) -> bool:
        """The GPU has fallen off the bus, or works no more until it is reset."""
        return self.code in (15, 16)


@dataclass(frozen=True, slots=True)
class NvmlDevice:
    """A GPU, or a MIG instance of one, as NVML lists it.

    index: of the card, in PCI order. slice: the instance's place on its card, None for a whole card. card: the UUID
    of the card an instance is on. split: a card in MIG mode, of which only instances may be used. total: bytes, 0 if
    unknown. mode: who may use it at a time. cpus: the cores near it, empty if unknown. fault: why nothing more is
    known of it; then uuid may be empty.
    """

    index: int
    uuid: str
    name: str = ""
    slice: int | None = None
    card: str | None = None
    split: bool = False
    total: int = 0
    mode: Mode = "default"
    cpus: frozenset[int] = frozenset()
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """How a GPU is doing. Bytes, percent of the last moments with a kernel running, °C; None: cannot be told.

    processes: those that compute on it, and the bytes each holds, with the pids of whatever pid namespace the driver
    lives in. drawing: pids of those that draw, a desktop's most of them; one may do both, as a simulation does.
    """

    used: int | None
    total: int | None
    processes: tuple[tuple[int, int | None], ...] | None = None
    utilisation: int | None = None
    temperature: int | None = None
    drawing: frozenset[int] = frozenset()


def figures(sample: Sample | None, total: int) -> dict[str, int | None]:
    """A sample's numbers, by name, for people; total: the bytes known before, 0 if unknown."""
    seen = sample or Sample(None, None)
    return {
        "used": seen.used,
        "total": seen.total or total or None,
        "utilisation": seen.utilisation,
        "temperature": seen.temperature,
    }


@dataclass(frozen=True, slots=True)
class Trouble:
    """An event of a card. kind: "xid" with its number as data, "double-bit ECC" or "single-bit ECC"."""

    uuid: str
    kind: str
    data: int = 0


class Backend(Protocol):
    """What is asked of NVML, always in the one thread. All but `events` and `close` may raise NvmlFault."""

    def open(self) -> bool: ...  # False: there is no NVML library
    def survey(self) -> list[NvmlDevice]: ...
    def sample(self, uuid: str) -> Sample: ...
    def watch(self, uuids: Iterable[str]) -> None: ...  # have `events` tell of these cards
    def events(self) -> list[Trouble]: ...  # those since the last call
    def recovery(self, uuid: str) -> str: ...  # what the driver wants done to the card first; empty: nothing
    def distance(self, one: str, other: str) -> int: ...  # 0 = on one board … 50 = over the machine's busses
    def close(self) -> None: ...


class NvmlThread:
    """The one thread in which a backend lives.

    No executor's: Python waits for those at its exit, and one that hangs in the driver would keep us from ever ending.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._asked: SimpleQueue[tuple[Future[Any], Callable[[Backend], Any]] | None] = SimpleQueue()
        self._closed: Future[None] | None = None
        self._thread = threading.Thread(target=self._live, name="gpbt-nvml_0", daemon=True)
        self._thread.start()

    def _live(self) -> None:
        while (asked := self._asked.get()) is not None:
            answer, question = asked
            if answer.set_running_or_notify_cancel():
                try:
                    answer.set_result(question(self._backend))
                except BaseException as error:
                    answer.set_exception(error)

    def _submit(self, question: Callable[[Backend], T]) -> Future[T]:
        answer: Future[T] = Future()
        self._asked.put((answer, question))
        return answer

    async def ask(self, question: Callable[[Backend], T]) -> T:
        if self._closed is not None:
            raise RuntimeError("NVML was closed")
        return await asyncio.wrap_future(self._submit(question))

    def wait(self, question: Callable[[Backend], T], within: float) -> T:
        """Ask without a loop. Raises NvmlFault after so many seconds, too."""
        try:
            return self._submit(question).result(within)
        except TimeoutError:
            raise NvmlFault(f"it has not answered for {within:g} s") from None

    def dismiss(self) -> Future[None]:
        """End without waiting: NVML may hang in the very call that is no longer wanted."""
        if self._closed is None:
            self._closed = self._submit(lambda nvml: nvml.close())
            self._asked.put(None)
        return self._closed

    async def close(self, within: float = 5.0) -> None:
        """End it; one that hangs in a call to the driver is left behind after so many seconds."""
        closed = asyncio.wrap_future(self.dismiss())
        done, _ = await asyncio.wait([closed], timeout=within)
        if done:
            self._thread.join()  # with nothing left to do


class PyNvml:
    """NVML through nvidia-ml-py, whose module is called pynvml."""

    #: what people meet, and can act on, by NVML's number
    HINTS = ((9, "is the NVIDIA kernel module loaded?"), (18, "an updated driver needs a reboot"))
    RECOVERY = ("", "a reset", "a reboot", "its P2P links drained", "draining and a reset", "IMEX recovery", "a reset")

    #: invalid argument, not supported, no permission, not found, no such function, another version of a structure
    WITHOUT = frozenset((2, 3, 4, 6, 13, 25))

    def __init__(self, library: str | None) -> None:
        self._library = library
        self._binding: Any = None
        self._handles: dict[str, Any] = {}
        self._set: Any = None
        #: UUIDs by the address of the handle that an event carries
        self._watched: dict[int, str] = {}

    # ---- from nothing, to nothing

    def open(self) -> bool:
        if self._library is not None:
            import ctypes

            try:  # what is loaded by path now is what the binding's own look-up by SONAME finds
                ctypes.CDLL(self._library)
            except OSError as error:
                raise NvmlFault(f"its library cannot be loaded: {error}") from error
        # A deprecated package on PyPI puts a warning on this import that nobody here can act on. The filter
        # stays, as catch_warnings in this thread would race with everybody else's.
        warnings.filterwarnings("ignore", "The pynvml package is deprecated", FutureWarning)
        import pynvml

        self._binding = pynvml
        try:  # without the flag it is an error for some drivers that there is no GPU
            self._call("nvmlInitWithFlags", pynvml.NVML_INIT_FLAG_NO_GPUS)
        except NvmlFault as fault:
            self._binding = None
            if not isinstance(fault.__cause__, pynvml.NVMLError_LibraryNotFound):
                raise
            # The binding says "not found" of a library it found but could not load, too; the reason hangs on it.
            reason = str(fault.__cause__.__context__ or "")
            if reason and not reason.startswith("libnvidia-ml.so.1: cannot open"):
                raise NvmlFault(f"its library cannot be loaded: {reason}") from fault
            if self._library is not None:
                raise NvmlFault(f"{self._library} does not have the SONAME libnvidia-ml.so.1") from fault
            return False
        return True

    def close(self) -> None:
        if self._binding is not None:
            with suppress(NvmlFault):
                if self._set is not None:
                    self._call("nvmlEventSetFree", self._set)
            with suppress(NvmlFault):
                self._call("nvmlShutdown")
            self._handles.clear()
            self._watched.clear()
            self._set = None

    # ---- who is there

    def survey(self) -> list[NvmlDevice]:
        found: list[NvmlDevice] = []
        for index in range(int(self._call("nvmlDeviceGetCount"))):
            uuid = ""
            try:
                handle = self._call("nvmlDeviceGetHandleByIndex", index)
                uuid = str(self._call("nvmlDeviceGetUUID", handle))
                self._handles[uuid] = handle
                found += self._found(index, uuid, handle)
            except NvmlFault as fault:
                self._handles.pop(uuid, None)
                found.append(NvmlDevice(index, uuid, fault=str(fault)))
        return found

    def _found(self, index: int, uuid: str, handle: Any) -> list[NvmlDevice]:
        name = str(self._shown("nvmlDeviceGetName", handle) or "")
        modes: dict[int, Mode] = {1: "exclusive", 2: "prohibited", 3: "exclusive"}
        mode = modes.get(self._shown("nvmlDeviceGetComputeMode", handle) or 0, "default")
        cpus = self._near(handle)
        split = (self._try("nvmlDeviceGetMigMode", handle) or (0,))[0] == 1
        card = NvmlDevice(index, uuid, name, split=split, total=self._memory(handle)[1] or 0, mode=mode, cpus=cpus)
        found = [card]
        for place in range(int(self._try("nvmlDeviceGetMaxMigDeviceCount", handle) or 0) if split else 0):
            instance = self._try("nvmlDeviceGetMigDeviceHandleByIndex", handle, place)
            if instance is None:
                continue  # nothing is set up in this place
            slice_uuid = str(self._call("nvmlDeviceGetUUID", instance))
            self._handles[slice_uuid] = instance
            total = self._memory(instance)[1] or 0
            own_name = str(self._shown("nvmlDeviceGetName", instance) or name)
            found.append(NvmlDevice(index, slice_uuid, own_name, place, uuid, total=total, mode=mode, cpus=cpus))
        return found

    def _near(self, handle: Any) -> frozenset[int]:
        import os

        words = self._shown("nvmlDeviceGetCpuAffinity", handle, -(-(os.cpu_count() or 1) // 64)) or ()
        return frozenset(64 * i + bit for i, word in enumerate(words) for bit in range(64) if word >> bit & 1)

    def distance(self, one: str, other: str) -> int:
        level = self._try("nvmlDeviceGetTopologyCommonAncestor", self._handle(one), self._handle(other))
        return 50 if level is None else int(level)

    # ---- how they are

    def sample(self, uuid: str) -> Sample:
        try:
            handle = self._handle(uuid)
            # an instance that was taken down answers "invalid argument" to all that can be done without
            if self._call("nvmlDeviceGetUUID", handle) != uuid:
                raise NvmlFault("it is there no more")
            used, total = self._memory(handle)
            rates = self._shown("nvmlDeviceGetUtilizationRates", handle)
            computing = self._listed("Compute", handle)
            return Sample(
                used=used,
                total=total,
                processes=None if computing is None else tuple((p.pid, p.usedGpuMemory) for p in computing),
                utilisation=None if rates is None else int(rates.gpu),
                temperature=self._shown("nvmlDeviceGetTemperature", handle, self._binding.NVML_TEMPERATURE_GPU),
                drawing=frozenset(process.pid for process in self._listed("Graphics", handle) or ()),
            )
        except NvmlFault:
            self._handles.pop(uuid, None)
            raise

    def _memory(self, handle: Any) -> tuple[int | None, int | None]:
        """Bytes used and total. What the driver keeps for itself counts neither way, where it can be told apart."""
        memory = self._try("nvmlDeviceGetMemoryInfo", handle, self._binding.nvmlMemory_v2)
        if memory is not None:
            return int(memory.used), int(memory.total) - int(memory.reserved)
        memory = self._try("nvmlDeviceGetMemoryInfo", handle)
        return (None, None) if memory is None else (int(memory.used), int(memory.total))

    def _listed(self, kind: str, handle: Any) -> Sequence[Any] | None:
        # by version: of the name without one, the binding makes an exception of its own that is no NVMLError
        for version in (3, 2):
            listed: Sequence[Any] | None = self._shown(f"nvmlDeviceGet{kind}RunningProcesses_v{version}", handle)
            if listed is not None:
                return listed
        return None

    def watch(self, uuids: Iterable[str]) -> None:
        import ctypes

        self._set = self._set or self._shown("nvmlEventSetCreate")
        if self._set is None:
            return
        n = self._binding
        wanted = n.nvmlEventTypeXidCriticalError | n.nvmlEventTypeDoubleBitEccError | n.nvmlEventTypeSingleBitEccError
        for uuid in uuids:
            with suppress(NvmlFault):
                handle = self._handle(uuid)
                self._watched[ctypes.cast(handle, ctypes.c_void_p).value or 0] = uuid
                for types in (wanted, n.nvmlEventTypeXidCriticalError):  # a card without ECC refuses the former
                    with suppress(NvmlFault):
                        self._call("nvmlDeviceRegisterEvents", handle, types, self._set)
                        break

    def _watch_anew(self) -> None:
        with suppress(NvmlFault):
            self._call("nvmlEventSetFree", self._set)
        uuids, self._set = list(self._watched.values()), None
        self._watched.clear()
        self.watch(uuids)

    def events(self) -> list[Trouble]:
        import ctypes

        kinds = {1: "single-bit ECC", 2: "double-bit ECC", 8: "xid"}
        told: list[Trouble] = []
        while self._set is not None and len(told) < 1000:
            try:
                event = self._call("nvmlEventSetWait", self._set, 0)
            except NvmlFault as fault:  # a time-out is an error to NVML
                if fault.lost:  # as long as that one is in the set nothing is heard of any other
                    self._watch_anew()
                break
            uuid = self._watched.get(ctypes.cast(event.device, ctypes.c_void_p).value or 0)
            if uuid is not None and event.eventType in kinds:
                told.append(Trouble(uuid, kinds[event.eventType], int(event.eventData)))
        return told

    def recovery(self, uuid: str) -> str:
        field = getattr(self._binding, "NVML_FI_DEV_GET_GPU_RECOVERY_ACTION", 230)  # newer than the oldest binding
        values = self._try("nvmlDeviceGetFieldValues", self._handle(uuid), [field])
        if values is None or values[0].nvmlReturn != 0:
            return ""
        action = int(values[0].value.uiVal)
        return self.RECOVERY[action] if action < len(self.RECOVERY) else "a reboot"

    # ---- asking

    def _handle(self, uuid: str) -> Any:
        if uuid not in self._handles:
            self._handles[uuid] = self._call("nvmlDeviceGetHandleByUUID", uuid)
        return self._handles[uuid]

    def _try(self, function: str, *arguments: Any) -> Any:
        """What can be done without: None where it cannot be had. A GPU that fails raises all the same."""
        try:
            return self._call(function, *arguments)
        except NvmlFault as fault:
            if fault.code not in self.WITHOUT:
                raise
            return None

    def _shown(self, function: str, *arguments: Any) -> Any:
        """What never tells that a GPU fails: None, too, where a call fails in any way on one that is not lost."""
        try:
            return self._call(function, *arguments)
        except NvmlFault as fault:
            if fault.lost:
                raise
            return None

    def _call(self, function: str, *arguments: Any) -> Any:
        call = getattr(self._binding, function, None)
        if call is None:
            raise NvmlFault(f"{function} is not in this version of nvidia-ml-py", 13)
        try:
            return call(*arguments)
        except self._binding.NVMLError as error:
            hint = "".join(f" ({hint})" for value, hint in self.HINTS if value == error.value)
            raise NvmlFault(f"{str(error).rstrip('.')}{hint}", error.value) from error
