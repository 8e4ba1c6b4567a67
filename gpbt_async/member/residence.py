"""A resident process: one that trains member after member, and is put back into its first state between them.

The next member needs no fork, no import of the script, and no new CUDA context, cuDNN plans or compiled code. The price
is that a process remembers. `restore` puts back what a member commonly changes. `remaining` looks for what the member
has left behind and cannot be put back (threads, child processes, open files, exit functions, memory). If there is any,
the process ends after this member, like a forked one, and the next member gets a new process. Globals of the user's
modules are not put back, and do not end the process: they stay as the member left them, and `changed` names those that
differ.

What an import changes stays, because the module stays: variables, paths, warnings filters and loggers that a library
sets while it is imported become part of the state that is put back.

The surprise is which leftovers are normal. Libraries keep threads, descriptors and memory after their first use. So we
assume that what the first member leaves belongs to libraries (except what the user's code has made). Later members are
compared with that amount. Something that only the first member leaks is therefore not noticed.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import itertools
import locale
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
import weakref
from itertools import islice
from typing import TYPE_CHECKING, Any

from ..formatting import counted
from ..processes import linux
from . import hooks, import_watch, user_code

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import ModuleType

#: members that one process trains at most
MOST = 500
#: bytes of memory of its own, and of GPU memory, by which a process may grow beyond what its first member left
MARGIN = 32 << 20
#: the command line of torch's compile workers, which serve later members too
_COMPILE_WORKERS = b"torch/_inductor/compile_worker"
#: more native threads than the first member has left: those that a pool of threads may gain by itself
_NATIVE = 8
#: torch's settings: how each is read, and how it is set again
_TORCH = (
    ("get_default_dtype", "set_default_dtype"),
    ("is_grad_enabled", "set_grad_enabled"),
    ("get_float32_matmul_precision", "set_float32_matmul_precision"),
)
_OF_SYS = ("stdin", "stdout", "stderr", "argv", "excepthook", "unraisablehook", "displayhook")
_CUDNN = ("enabled", "benchmark", "deterministic", "allow_tf32")
#: items of a global that are compared
_ITEMS = 200
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Residence:
    """Made before the first member: the state that every member begins in.

    trained: how many members have trained in this process.
    """

    def __init__(self) -> None:
        self.trained = 0
        #: names of modules that are not the user's: there are two thousand with torch, and each is looked at once
        self._libraries: set[str] = set()
        self._globals = dict(self._users_globals())
        #: names that members have changed, and that have been sent
        self._sent: set[str] = set()
        self._restores: list[Callable[[], object]] = []
        self._kept = _Kept()
        import_watch.around = self._kept.around_import
        self._priority = os.getpriority(os.PRIO_PROCESS, 0)
        # first of all, so that they are among the import hooks that are kept
        hooks.after_import("torch", lambda torch: self._restores.extend(_of_torch(torch)))
        hooks.after_import("numpy", lambda numpy: self._restores.extend(_of_numpy(numpy)))
        self._restores += [*_of_the_process(), *_of_python(), *self._kept.restores()]
        self._threads = set(threading.enumerate())
        #: whether the user's code has registered a function to run at exit; the finalizers that it has made
        self._registered, self._finalizers = False, list[Any]()
        hooks.wrap(atexit, "register", self._noting_registration)
        hooks.wrap(weakref.finalize, "__init__", self._noting_finalizer)
        self._library_threads = self._native_threads = self._exit_functions = self._files = 0
        self._memory = self._gpu_memory = 0

    def restore(self) -> None:
        """Put back what a member may have changed, and free what it no longer holds."""
        for put_back in self._restores:
            with contextlib.suppress(Exception):  # what cannot be put back by one must not keep the others
                put_back()
        gc.collect()
        if not self.trained:  # what libraries have made: looking at it again takes 0.2 s a member with torch
            gc.freeze()
        cuda: Any = sys.modules.get("torch.cuda")
        if cuda is not None and cuda.is_initialized():
            cuda.synchronize()
            cuda.empty_cache()

    def remaining(self, writable: str) -> str:
        """Why this process must not train another member, "" if it may. Call it after `restore`.

        writable: the member's folder, in which no file may stay open.
        """
        first, self.trained = self.trained == 0, self.trained + 1
        if self.trained >= MOST:
            return f"it has trained {MOST} members"
        if os.getpriority(os.PRIO_PROCESS, 0) != self._priority:
            return "the member changed the priority of its process"
        for look in (self._look_at_threads, self._look_at_children, self._look_at_files, self._look_at_memory):
            if why := look(first, writable):
                return why
        return ""

    def _look_at_threads(self, first: bool, _: str) -> str:
        new = [thread for thread in threading.enumerate() if thread not in self._threads]
        users = [thread.name for thread in new if user_code.runs_in(thread)]
        if users:
            return f"the member left a thread running: {users[0]}"
        functions, native = atexit._ncallbacks(), len(os.listdir("/proc/self/task")) - len(new)
        if first:
            self._library_threads, self._native_threads, self._exit_functions = len(new), native, functions
        if len(new) > self._library_threads:
            return f"the member left {counted(len(new) - self._library_threads, 'thread')} of a library running"
        if native > self._native_threads + _NATIVE:
            return f"the member left {counted(native - self._native_threads, 'native thread')} running"
        if functions > self._exit_functions or self._registered or any(f.alive and f.atexit for f in self._finalizers):
            return "the member registered functions to run at exit"
        return ""

    def _noting_registration(self, register: Callable[..., Any]) -> Callable[..., Any]:
        def noting(function: Any, *args: Any, **kwargs: Any) -> Any:
            self._registered |= user_code.is_users(sys._getframe(1).f_code.co_filename)
            return register(function, *args, **kwargs)

        return noting

    def _noting_finalizer(self, make: Callable[..., Any]) -> Callable[..., Any]:
        def noting(finalizer: Any, *args: Any, **kwargs: Any) -> None:
            make(finalizer, *args, **kwargs)
            frame = sys._getframe(1)
            while frame.f_code.co_filename == tempfile.__file__ and frame.f_back is not None:
                frame = frame.f_back  # a TemporaryDirectory
            if user_code.is_users(frame.f_code.co_filename):
                self._finalizers.append(finalizer)

        return noting

    def _look_at_children(self, *_: object) -> str:
        left = [pid for pid in linux.children(os.getpid()) if _COMPILE_WORKERS not in _command(pid)]
        return f"the member left process {left[0]} running" if left else ""

    def _look_at_files(self, first: bool, writable: str) -> str:
        count = 0
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # it was closed meanwhile, as that of the listing is
                path = os.readlink(f"/proc/self/fd/{name}")
                count += 1
                if int(name) > 2 and path.startswith(writable + os.sep):
                    return f"the member left a file open: {os.path.relpath(path, writable)}"
        if first:
            self._files = count
        if count > self._files:
            return f"the member left {counted(count - self._files, 'file')} (or sockets) open"
        return ""

    def _look_at_memory(self, first: bool, _: str) -> str:
        held, gpu = _own_memory(), _gpu_memory()
        if first:
            self._memory, self._gpu_memory = held, gpu
        if held > self._memory + MARGIN:
            linux.trim_heap()
            held = _own_memory()
        for amount, before, what in ((held, self._memory, "memory"), (gpu, self._gpu_memory, "GPU memory")):
            if amount > before + MARGIN:
                return f"its {what} has grown by {(amount - before) >> 20} MiB since its first member"
        return ""

    def changed(self) -> list[str]:
        """The globals of the user's modules that differ from what they were before the first member: module.name.

        Each is named once. In lists, dicts, tensors, arrays, modules of torch, and classes and objects of the user's,
        the first values are compared (`_mark`), so a change deep inside, or behind them, is not seen.
        """
        now = dict(self._users_globals())
        names = [name for name, mark in now.items() if self._globals.setdefault(name, mark) != mark]
        new = [name for name in names if name not in self._sent]
        self._sent.update(new)
        return new

    def _users_globals(self) -> Iterator[tuple[str, Any]]:
        for loaded in [name for name in list(sys.modules) if name not in self._libraries]:
            module = sys.modules.get(loaded)
            file = getattr(module, "__file__", None)
            if module is None or not isinstance(file, str) or not os.path.isabs(file) or not user_code.is_users(file):
                self._libraries.add(loaded)  # (a relative path is made up: torch.ops says _ops.py)
                continue
            for name, value in list(vars(module).items()):
                if not name.startswith("__"):
                    yield f"{module.__name__}.{name}", _mark(value)


def _mark(value: Any, depth: int = 2) -> Any:
    """Equal for a value that has not changed, as far as a quick look can tell.

    It is made of every global after every member, so it copies nothing large.
    """
    if type(value) in (str, bytes):
        return type(value), len(value), hash(value)  # Python keeps the hash: a constant of a megabyte costs nothing
    if type(value) in (bool, int, float, complex, type(None)):
        return type(value), repr(value)
    mark: Any = id(value)
    if not depth:
        return mark
    if type(value) in (list, tuple, dict):
        values = value.values() if type(value) is dict else value
        keys = [_mark(key, 0) for key in islice(value, _ITEMS)] if type(value) is dict else None
        return mark, len(value), keys, [_mark(item, depth - 1) for item in islice(values, _ITEMS)]
    if type(value) is set:
        return mark, len(value)
    if hasattr(value, "_version") and hasattr(value, "data_ptr"):  # a tensor: counts its changes
        return mark, value._version
    if hasattr(value, "__array_interface__"):
        return mark, value.flat[:_ITEMS].tobytes() if not value.dtype.hasobject else None
    if hasattr(value, "parameters") and hasattr(value, "state_dict"):
        return mark, [_mark(weight) for weight in islice(value.parameters(), _ITEMS)]
    if user_code.defines(type(value)) or (isinstance(value, type) and user_code.defines(value)):
        return mark, [(name, _mark(part, depth - 1)) for name, part in getattr(value, "__dict__", {}).items()]
    return mark


class _Kept:
    """What is put back, and what imports may change for good: environment, sys.path, warnings filters, loggers."""

    def __init__(self) -> None:
        self._environment = dict(os.environ)
        self._path = list(sys.path)
        self._filters, self._show = list(warnings.filters), warnings.showwarning
        self._loggers = {logger: _state(logger) for logger in _loggers()}
        self._disabled = logging.root.manager.disable

    def around_import(self) -> Callable[[], None]:
        """Called before an import; what it returns, after it: adds what the import has changed."""
        environment, path, filters = dict(os.environ), list(sys.path), list(warnings.filters)
        loggers = {logger: _state(logger) for logger in _loggers()}

        def keep() -> None:
            for name in environment.keys() | os.environ.keys():
                value = os.environ.get(name)
                if value != environment.get(name):
                    self._environment.pop(name, None)
                    if value is not None:
                        self._environment[name] = value
            self._path = _with_new(self._path, path, sys.path)
            self._filters = _with_new(self._filters, filters, warnings.filters)
            now = {logger: _state(logger) for logger in _loggers()}
            self._loggers.update({logger: state for logger, state in now.items() if loggers.get(logger) != state})

        return keep

    def restores(self) -> Iterator[Callable[[], object]]:
        yield self._restore_environment
        yield self._restore_path
        yield self._restore_warnings
        yield self._restore_logging

    def _restore_environment(self) -> None:
        for name in [name for name in os.environ if name not in self._environment]:
            del os.environ[name]
        for name, value in self._environment.items():
            if os.environ.get(name) != value:
                os.environ[name] = value
        time.tzset()

    def _restore_path(self) -> None:
        sys.path[:] = self._path

    def _restore_warnings(self) -> None:
        if warnings.showwarning is not self._show:
            logging.captureWarnings(False)
            warnings.showwarning = self._show
        warnings.filters[:] = self._filters  # type: ignore[index]
        warnings.simplefilter("default", category=_Nothing)  # tells the module that its filters have changed
        warnings.filters[:] = self._filters  # type: ignore[index]

    def _restore_logging(self) -> None:
        logging.disable(self._disabled)
        for logger in _loggers():
            before = self._loggers.get(logger)
            if before is None:
                if import_watch.is_package(logger.name.partition(".")[0]):
                    continue  # a library's own, made when it was first used
                before = logging.NOTSET, True, False, []
            if _state(logger) != before:
                level, logger.propagate, logger.disabled, logger.handlers[:] = before
                logger.setLevel(level)


def _with_new(kept: list[Any], before: list[Any], after: Sequence[Any]) -> list[Any]:
    """kept, with what is new in `after`: in front of it what stands before all that was there, the rest behind it."""
    new = [item for item in after if item not in before and item not in kept]
    front = [item for item in itertools.takewhile(lambda item: item not in before, after) if item in new]
    return [*front, *kept, *(item for item in new if item not in front)]


def _state(logger: logging.Logger) -> tuple[int, bool, bool, list[logging.Handler]]:
    return logger.level, logger.propagate, logger.disabled, list(logger.handlers)


def _loggers() -> list[logging.Logger]:
    known = list(logging.Logger.manager.loggerDict.values())
    return [logging.root, *(logger for logger in known if isinstance(logger, logging.Logger))]


def _of_the_process() -> Iterator[Callable[[], object]]:
    """The working directory, the cores, signal handlers and timers."""
    folder, cores = os.getcwd(), os.sched_getaffinity(0)
    mask = os.umask(0)
    os.umask(mask)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}

    def restore_signals() -> None:
        for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
            signal.setitimer(timer, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, handler in handlers.items():
            if handler is not None and signal.getsignal(number) != handler:
                signal.signal(number, handler)

    yield lambda: os.chdir(folder)
    yield lambda: os.sched_setaffinity(0, cores)
    yield lambda: os.umask(mask)
    yield restore_signals


def _of_python() -> Iterator[Callable[[], object]]:
    """What the interpreter and the standard library keep: streams, hooks, limits."""
    streams = {name: getattr(sys, name) for name in _OF_SYS}
    finders = list(sys.meta_path)
    argv, threshold, collects, digits = list(sys.argv), gc.get_threshold(), gc.isenabled(), sys.get_int_max_str_digits()
    interval, sockets = sys.getswitchinterval(), socket.getdefaulttimeout()
    limit, text, thread_hook = sys.getrecursionlimit(), locale.setlocale(locale.LC_ALL), threading.excepthook

    def restore_streams() -> None:
        for name, stream in streams.items():
            setattr(sys, name, stream)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # into this member's log: the next one has another
        sys.argv[:] = argv
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder in finders or not hooks.is_waiting(finder)]

    def restore_limits() -> None:
        sys.setrecursionlimit(limit)
        sys.set_int_max_str_digits(digits)
        sys.setswitchinterval(interval)
        socket.setdefaulttimeout(sockets)
        gc.set_threshold(*threshold)
        gc.enable() if collects else gc.disable()
        sys.settrace(None)
        sys.setprofile(None)
        threading.excepthook = thread_hook

    yield restore_streams
    yield restore_limits
    yield lambda: locale.setlocale(locale.LC_ALL, text)


class _Nothing(Warning):
    """Of no warning: a filter for it changes nothing."""


def _of_torch(torch: ModuleType) -> Iterator[Callable[[], object]]:
    state: Any = torch
    for read, write in _TORCH:
        yield functools.partial(_put_back, getattr(state, read), getattr(state, write), getattr(state, read)())
    yield functools.partial(state.autograd.set_detect_anomaly, state.is_anomaly_enabled())
    deterministic = state.are_deterministic_algorithms_enabled(), state.is_deterministic_algorithms_warn_only_enabled()

    def restore_deterministic() -> None:
        now = state.are_deterministic_algorithms_enabled(), state.is_deterministic_algorithms_warn_only_enabled()
        if now != deterministic:  # the call imports torch._inductor, which takes two seconds
            state.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])

    yield restore_deterministic
    device = state.get_default_device()
    yield lambda: state.set_default_device(device) if state.get_default_device() != device else None
    cudnn = state.backends.cudnn
    flags = {name: getattr(cudnn, name) for name in _CUDNN if hasattr(cudnn, name)}
    yield from (functools.partial(setattr, cudnn, name, value) for name, value in flags.items())


def _put_back(read: Callable[[], object], write: Callable[[Any], object], value: object) -> None:
    if read() != value:
        write(value)


def _of_numpy(numpy: ModuleType) -> Iterator[Callable[[], object]]:
    library: Any = numpy
    errors, printing = library.geterr(), library.get_printoptions()
    yield lambda: library.seterr(**errors)
    yield lambda: library.set_printoptions(**printing)


def _command(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return _COMPILE_WORKERS  # it has just ended: nothing is left of it


def _own_memory() -> int:
    """Bytes of this process that it shares with no file (the second and third field of statm are pages)."""
    with open("/proc/self/statm") as file:
        resident, shared = map(int, file.read().split()[1:3])
    return (resident - shared) * _PAGE


def _gpu_memory() -> int:
    cuda: Any = sys.modules.get("torch.cuda")
    if cuda is None or not cuda.is_initialized():
        return 0
    return sum(cuda.memory_allocated(device) for device in range(cuda.device_count()))
