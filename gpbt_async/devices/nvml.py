"""NVML, NVIDIA's management library: the questions that this folder asks it, and the one thread that asks them.

`Backend` is the protocol, which a test can play; `PyNvml` is the real one, through nvidia-ml-py. What an answer means
for a run is decided elsewhere.

Every failure is an `NvmlFault` with NVML's own words. The binding's exceptions stay in here: they cannot be hashed,
and the binding is imported only when a run wants a GPU. Its library is loaded once per process and never again.

The surprise is how little of NVML is reliable. An old driver lacks functions, a consumer card does not support others,
and a container forbids some. Only the count, a handle and a UUID must work. Every other value is None, 0 or empty if
the driver does not support it; but a GPU that fails always raises. Handles are kept by UUID, since taking a handle may
wake a GPU up for seconds, and indices change. The handle of a lost GPU is dropped.
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
    """NVML is there and failed; the text is its own. code: NVML's number, 0 if it has none."""

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code

    @property
    def lost(self) -> bool:
        """The GPU has fallen off the bus, or does not work until it is reset."""
        return self.code in (15, 16)


@dataclass(frozen=True, slots=True)
class GPU:
    """The identity of a GPU, or of a MIG instance of one, as NVML lists it. A GPU is its UUID; indices may move.

    index: of the card, in PCI order, as nvidia-smi shows it. name: "" where the driver has none. slice: the place of an
    instance on its card, None for a whole card. card: the UUID of the card that an instance is on. split: a card in MIG
    mode, of which only instances may be used. total: bytes, 0 if unknown. mode: the compute mode; "exclusive" is one
    process at a time. cpus: the cores near it, empty if unknown. fault: why nothing more is known; uuid may be "" then.
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

    @property
    def label(self) -> str:
        """ "0" for a card, "0:1" for an instance."""
        return str(self.index) if self.slice is None else f"{self.index}:{self.slice}"

    @property
    def card_uuid(self) -> str:
        """The UUID of the card: its own, or that of the card which a MIG instance is on."""
        return self.card or self.uuid

    def __str__(self) -> str:
        return f"GPU {self.label} {self.name}".rstrip()


@dataclass(frozen=True, slots=True)
class Sample:
    """How a GPU is at one moment: bytes, percent of the last moments with a kernel running, °C. None = unknown.

    processes: (pid, bytes) of each process that computes on it, the pids of the driver's pid namespace. drawing: pids
    of the processes that draw, most of them a desktop's. A process may do both, as a simulation does.
    """

    used: int | None
    total: int | None
    processes: tuple[tuple[int, int | None], ...] | None = None
    utilisation: int | None = None
    temperature: int | None = None
    drawing: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class NvmlEvent:
    """An event of the card `uuid`. kind: "xid" with its number as data, "double-bit ECC" or "single-bit ECC"."""

    uuid: str
    kind: str
    data: int = 0


class Backend(Protocol):
    """The questions for NVML, always asked in the one thread. All but `events` and `close` may raise NvmlFault."""

    def open(self) -> bool: ...  # False: there is no NVML library
    def survey(self) -> list[GPU]: ...
    def sample(self, uuid: str) -> Sample: ...
    def watch(self, uuids: Iterable[str]) -> None: ...  # have `events` report those of these cards
    def events(self) -> list[NvmlEvent]: ...  # those since the last call
    def recovery(self, uuid: str) -> str: ...  # what the driver wants done to the card first; "" = nothing
    def distance(self, one: str, other: str) -> int: ...  # 0 = on one board … 50 = over the machine's busses
    def close(self) -> None: ...


class NvmlThread:
    """The one thread that a backend lives in.

    It is no executor's thread: Python waits for those at its exit, so one that hangs in the driver would never let the
    process end.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._questions: SimpleQueue[tuple[Future[Any], Callable[[Backend], Any]] | None] = SimpleQueue()
        self._closed: Future[None] | None = None
        self._thread = threading.Thread(target=self._answer, name="gpbt-nvml_0", daemon=True)
        self._thread.start()

    def _answer(self) -> None:
        while (item := self._questions.get()) is not None:
            answer, question = item
            if answer.set_running_or_notify_cancel():
                try:
                    answer.set_result(question(self._backend))
                except StopIteration as error:  # a future cannot carry it: the caller would wait for ever
                    answer.set_exception(RuntimeError(f"a question for NVML raised {error!r}"))
                except BaseException as error:
                    answer.set_exception(error)

    def _submit(self, question: Callable[[Backend], T]) -> Future[T]:
        answer: Future[T] = Future()
        self._questions.put((answer, question))
        return answer

    async def ask(self, question: Callable[[Backend], T]) -> T:
        if self._closed is not None:
            raise RuntimeError("NVML was closed")
        return await asyncio.wrap_future(self._submit(question))

    def wait(self, question: Callable[[Backend], T], within: float) -> T:
        """Ask without an event loop. Raises NvmlFault after `within` seconds, too."""
        try:
            return self._submit(question).result(within)
        except TimeoutError:
            raise NvmlFault(f"it has not answered for {within:g} s") from None

    def dismiss(self) -> Future[None]:
        """End the thread without waiting for it: NVML may hang in the very call that is no longer wanted."""
        if self._closed is None:
            self._closed = self._submit(lambda nvml: nvml.close())
            self._questions.put(None)
        return self._closed

    async def close(self, within: float = 5.0) -> None:
        """End the thread; after `within` seconds, one that hangs in the driver is left behind."""
        closed = asyncio.wrap_future(self.dismiss())
        done, _ = await asyncio.wait([closed], timeout=within)
        if done:
            self._thread.join()  # it has nothing left to do


def import_binding() -> Any:
    """The module pynvml. Its import takes 20 ms, and touches neither NVML nor a GPU."""
    # The deprecated package of the same name on PyPI warns at this import, and no user of ours can act on that.
    # The filter stays, as catch_warnings in this thread would race with other threads.
    warnings.filterwarnings("ignore", "The pynvml package is deprecated", FutureWarning)
    import pynvml

    return pynvml


class PyNvml:
    """NVML through nvidia-ml-py, whose module is called pynvml."""

    #: frequent errors that the user can act on, by NVML's number
    HINTS = ((9, "is the NVIDIA kernel module loaded?"), (18, "an updated driver needs a reboot"))
    RECOVERY = ("", "a reset", "a reboot", "its P2P links drained", "draining and a reset", "IMEX recovery", "a reset")

    #: a question that has no answer here: invalid argument, not supported, no permission, not found, no such function,
    #: another version of a structure
    UNANSWERED = frozenset((2, 3, 4, 6, 13, 25))

    def __init__(self, library: str | None) -> None:
        self._library = library
        self._binding: Any = None
        self._handles: dict[str, object] = {}
        self._set: Any = None
        #: UUIDs by the address of the handle that an event carries
        self._watched: dict[int, str] = {}

    # ---- opening and closing

    def open(self) -> bool:
        if self._library is not None:
            import ctypes

            try:  # the binding's own look-up by SONAME then finds the library that was loaded by path
                ctypes.CDLL(self._library)
            except OSError as error:
                raise NvmlFault(f"its library cannot be loaded: {error}") from error
        pynvml = import_binding()
        self._binding = pynvml
        try:  # without the flag it is an error for some drivers that there is no GPU
            self._call("nvmlInitWithFlags", pynvml.NVML_INIT_FLAG_NO_GPUS)
        except NvmlFault as fault:
            self._binding = None
            if not isinstance(fault.__cause__, pynvml.NVMLError_LibraryNotFound):
                raise
            # The binding also says "not found" of a library that it found and could not load; the context says why.
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

    # ---- which GPUs there are

    def survey(self) -> list[GPU]:
        gpus: list[GPU] = []
        for index in range(int(self._call("nvmlDeviceGetCount"))):
            uuid = ""
            try:
                handle = self._call("nvmlDeviceGetHandleByIndex", index)
                uuid = str(self._call("nvmlDeviceGetUUID", handle))
                self._handles[uuid] = handle
                gpus += self._card(index, uuid, handle)
            except NvmlFault as fault:
                self._handles.pop(uuid, None)
                gpus.append(GPU(index, uuid, fault=str(fault)))
        return gpus

    def _card(self, index: int, uuid: str, handle: Any) -> list[GPU]:
        """A card, and its MIG instances."""
        name = str(self._optional("nvmlDeviceGetName", handle) or "")
        modes: dict[int, Mode] = {1: "exclusive", 2: "prohibited", 3: "exclusive"}
        mode = modes.get(self._optional("nvmlDeviceGetComputeMode", handle) or 0, "default")
        cpus = self._near(handle)
        split = (self._if_supported("nvmlDeviceGetMigMode", handle) or (0,))[0] == 1
        gpus = [GPU(index, uuid, name, split=split, total=self._memory(handle)[1] or 0, mode=mode, cpus=cpus)]
        for place in range(int(self._if_supported("nvmlDeviceGetMaxMigDeviceCount", handle) or 0) if split else 0):
            instance = self._if_supported("nvmlDeviceGetMigDeviceHandleByIndex", handle, place)
            if instance is None:
                continue  # nothing is set up in this place
            instance_uuid = str(self._call("nvmlDeviceGetUUID", instance))
            self._handles[instance_uuid] = instance
            total = self._memory(instance)[1] or 0
            own_name = str(self._optional("nvmlDeviceGetName", instance) or name)
            gpus.append(GPU(index, instance_uuid, own_name, place, uuid, total=total, mode=mode, cpus=cpus))
        return gpus

    def _near(self, handle: Any) -> frozenset[int]:
        import os

        words = self._optional("nvmlDeviceGetCpuAffinity", handle, -(-(os.cpu_count() or 1) // 64)) or ()
        return frozenset(64 * i + bit for i, word in enumerate(words) for bit in range(64) if word >> bit & 1)

    def distance(self, one: str, other: str) -> int:
        level = self._if_supported("nvmlDeviceGetTopologyCommonAncestor", self._handle(one), self._handle(other))
        return 50 if level is None else int(level)

    # ---- how a GPU is

    def sample(self, uuid: str) -> Sample:
        try:
            handle = self._handle(uuid)
            # an instance that was destroyed answers "invalid argument" to every optional question
            if self._call("nvmlDeviceGetUUID", handle) != uuid:
                raise NvmlFault("it is no longer there")
            used, total = self._memory(handle)
            rates = self._optional("nvmlDeviceGetUtilizationRates", handle)
            computing = self._listed("Compute", handle)
            return Sample(
                used=used,
                total=total,
                processes=None if computing is None else tuple((p.pid, p.usedGpuMemory) for p in computing),
                utilisation=None if rates is None else int(rates.gpu),
                temperature=self._optional("nvmlDeviceGetTemperature", handle, self._binding.NVML_TEMPERATURE_GPU),
                drawing=frozenset(process.pid for process in self._listed("Graphics", handle) or ()),
            )
        except NvmlFault:
            self._handles.pop(uuid, None)
            raise

    def _memory(self, handle: Any) -> tuple[int | None, int | None]:
        """Bytes used and total, both without what the driver keeps for itself, where NVML separates that."""
        memory = self._if_supported("nvmlDeviceGetMemoryInfo", handle, self._binding.nvmlMemory_v2)
        if memory is not None:
            return int(memory.used), int(memory.total) - int(memory.reserved)
        memory = self._if_supported("nvmlDeviceGetMemoryInfo", handle)
        return (None, None) if memory is None else (int(memory.used), int(memory.total))

    def _listed(self, kind: str, handle: Any) -> Sequence[Any] | None:
        # with a version: for the name without one, the binding raises an exception of its own that is no NVMLError
        for version in (3, 2):
            listed: Sequence[Any] | None = self._optional(f"nvmlDeviceGet{kind}RunningProcesses_v{version}", handle)
            if listed is not None:
                return listed
        return None

    def watch(self, uuids: Iterable[str]) -> None:
        import ctypes

        self._set = self._set or self._optional("nvmlEventSetCreate")
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

    def _renew_events(self) -> None:
        with suppress(NvmlFault):
            self._call("nvmlEventSetFree", self._set)
        uuids, self._set = list(self._watched.values()), None
        self._watched.clear()
        self.watch(uuids)

    def events(self) -> list[NvmlEvent]:
        import ctypes

        kinds = {1: "single-bit ECC", 2: "double-bit ECC", 8: "xid"}
        events: list[NvmlEvent] = []
        while self._set is not None and len(events) < 1000:
            try:
                event = self._call("nvmlEventSetWait", self._set, 0)
            except NvmlFault as fault:  # a time-out is an error to NVML
                if fault.lost:  # a lost GPU in the set hides the events of all others
                    self._renew_events()
                break
            uuid = self._watched.get(ctypes.cast(event.device, ctypes.c_void_p).value or 0)
            if uuid is not None and event.eventType in kinds:
                events.append(NvmlEvent(uuid, kinds[event.eventType], int(event.eventData)))
        return events

    def recovery(self, uuid: str) -> str:
        field = getattr(self._binding, "NVML_FI_DEV_GET_GPU_RECOVERY_ACTION", 230)  # newer than the oldest binding
        values = self._if_supported("nvmlDeviceGetFieldValues", self._handle(uuid), [field])
        if values is None or values[0].nvmlReturn != 0:
            return ""
        action = int(values[0].value.uiVal)
        return self.RECOVERY[action] if action < len(self.RECOVERY) else "a reboot"

    # ---- calling NVML

    def _handle(self, uuid: str) -> Any:
        if uuid not in self._handles:
            self._handles[uuid] = self._call("nvmlDeviceGetHandleByUUID", uuid)
        return self._handles[uuid]

    def _if_supported(self, function: str, *arguments: Any) -> Any:
        """An answer that is not needed: None where there is none. A GPU that fails raises all the same."""
        try:
            return self._call(function, *arguments)
        except NvmlFault as fault:
            if fault.code not in self.UNANSWERED:
                raise
            return None

    def _optional(self, function: str, *arguments: Any) -> Any:
        """An answer that does not show whether a GPU works: None after any failure, unless the GPU is lost."""
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
