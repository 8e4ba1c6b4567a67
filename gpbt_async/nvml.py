"""NVML: what NVIDIA's management library says, asked in one thread.

What lives here: the few questions `devices` has for NVML, as a protocol a fake can answer; the thread in which
they are asked; and the real answer, through nvidia-ml-py. Not here: what the answers mean for a run.

Every failure comes out as an `NvmlFault` that carries NVML's words. The binding's own exceptions stay inside:
they cannot be hashed, and the binding is imported only when somebody wants a GPU. Its library is loaded once per
process and never again.
"""

from __future__ import annotations

import asyncio
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class NvmlFault(Exception):
    """NVML is there and failed; the text is what it said. `devices` turns it into a DeviceError."""


class Backend(Protocol):
    """What `devices` asks of NVML, always in the one thread. All but `name` and `close` may raise NvmlFault."""

    def open(self) -> bool: ...  # False: there is no NVML library
    def count(self) -> int: ...
    def uuid(self, index: int) -> str: ...
    def name(self, index: int) -> str: ...  # empty where the driver cannot tell
    def close(self) -> None: ...


class NvmlThread:
    """The one thread in which a backend lives."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="gpbt-nvml")

    async def ask(self, question: Callable[[Backend], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, question, self._backend)

    def dismiss(self) -> Future[None]:
        """End without waiting: NVML may hang in the very call that is no longer wanted."""
        closed = self._pool.submit(self._backend.close)
        self._pool.shutdown(wait=False)
        return closed

    async def close(self) -> None:
        await asyncio.wrap_future(self.dismiss())
        self._pool.shutdown()  # joins a thread with nothing left to do


class PyNvml:
    """NVML through nvidia-ml-py, whose module is called pynvml."""

    #: what people meet, and can act on, by NVML's number
    HINTS = ((9, "is the NVIDIA kernel module loaded?"), (18, "an updated driver needs a reboot"))

    def __init__(self, library: str | None) -> None:
        self._library = library
        self._binding: Any = None
        self._handles: dict[int, Any] = {}  # taking one may wake the GPU up, so it is kept

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

    def count(self) -> int:
        return int(self._call("nvmlDeviceGetCount"))

    def uuid(self, index: int) -> str:
        return str(self._call("nvmlDeviceGetUUID", self._handle(index)))

    def name(self, index: int) -> str:
        with suppress(NvmlFault):  # an old driver lacks functions, and a GPU without a name trains as well
            return str(self._call("nvmlDeviceGetName", self._handle(index)))
        return ""

    def close(self) -> None:
        if self._binding is not None:
            with suppress(NvmlFault):
                self._call("nvmlShutdown")

    def _handle(self, index: int) -> Any:
        if index not in self._handles:
            self._handles[index] = self._call("nvmlDeviceGetHandleByIndex", index)
        return self._handles[index]

    def _call(self, function: str, *arguments: Any) -> Any:
        try:
            return getattr(self._binding, function)(*arguments)
        except self._binding.NVMLError as error:
            hint = "".join(f" ({hint})" for value, hint in self.HINTS if value == error.value)
            raise NvmlFault(f"{str(error).rstrip('.')}{hint}") from error
