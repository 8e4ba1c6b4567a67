"""A member's process from the inside, whether forked from the zygote or started as a fresh interpreter.

It sends Hello, waits for Begin (a spare waits here), sets up its surroundings, trains, sends End, cleans up and exits.
It affects only its own process. The surprise is at the end. The process sends End immediately after the training
function returns, so that the scheduler knows when the training ended. Then it waits for its threads, runs its atexit
functions, kills its remaining child processes (it is their subreaper), and sends Clean. So the scheduler does not need
to search for such processes.

A resident process puts itself back into its first state instead of exiting (residence.py), and waits for another Begin.
"""

from __future__ import annotations

import atexit
import contextlib
import contextvars
import functools
import json
import os
import random
import signal
import socket
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import Stopped
from ..processes import linux, wire
from . import (
    breakpoints,
    config_adapters,
    hooks,
    import_watch,
    load_watch,
    lr_schedulers,
    parent,
    script,
    seed_watch,
    split_watch,
    telemetry,
    user_code,
)
from .api import Member

if TYPE_CHECKING:
    from collections.abc import Callable

    from .residence import Residence


#: "zygote" for a fork, "exec" for a fresh interpreter
_started_as = "zygote"
#: threads of torch; None: as many as it likes
_torch_threads: int | None = None
#: how many modules were loaded when threadpoolctl last looked for thread pools, and its controller
_thread_pools: tuple[int, Any] = 0, None
#: begins the line of a log that says what to do about the traceback above it
REMEDY = "gpbt-async: remedy: "
#: seconds that threads may take to end after the training function has returned, before they are a finding
ENDING = 0.1


def live(sock: socket.socket, find_train: Callable[[], Callable[[Any], object] | None]) -> NoReturn:
    """The whole life of a member. Does not return: the callers on the stack belong to the zygote."""
    status = 0
    try:
        sock.sendall(wire.encode(wire.Hello(wire.VERSION, os.getpid())))
        trainer = Trainer(find_train)
        while (begin := _wait(sock)) is not None:
            settle(begin)
            status = trainer.train(sock, begin)
            if not trainer.stays:
                break
        else:
            if trainer.stays:
                _leave()
    except ConnectionError:
        status = 1  # the scheduler is gone, and this process ends too
    except BaseException:
        status = 1
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def main(fd: int, what: str) -> NoReturn:
    """A member in a fresh interpreter; what: what to import, as JSON."""
    sock = socket.socket(fileno=fd)
    sock.set_inheritable(False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    global _started_as
    _started_as = "exec"
    watch()
    live(sock, lambda: script.load(json.loads(what)).train)


@functools.cache  # once: a library takes some of them only once
def watch() -> None:
    """Install all watches in this process and those forked from it. Call it before the script is imported."""
    for module in (import_watch, config_adapters, load_watch, lr_schedulers, parent, seed_watch, split_watch):
        module.watch()
    hooks.after_import("torch", _limit)


def probe() -> None:
    """Run two OpenMP threads before Hello: a fork that cannot do this hangs here, where the watchdog sees it.

    Called when the zygote had threads of its own, perhaps OpenMP's: a fork would wait for threads that are not there.
    """
    with contextlib.suppress(KeyError, AttributeError):
        torch = sys.modules["torch"]
        torch.set_num_threads(2)
        torch.ones(1 << 17).add(1)
        torch.set_num_threads(1)


def disown() -> None:
    """Forget what was registered to run at exit before the fork: the zygote runs it, once.

    Libraries register themselves with atexit once and keep lists of their own, so weakref.finalize (a
    TemporaryDirectory, say) is cleared as well. multiprocessing notices the fork itself.
    """
    atexit._clear()
    finalize: Any = weakref.finalize
    for info in list(finalize._registry.values()):
        info.atexit = False
    finalize._registered_with_atexit = False


def _wait(sock: socket.socket) -> wire.Begin | None:
    """Block until Begin arrives. None if the scheduler closes instead: the member is not needed."""
    lines = wire.Lines()
    while data := sock.recv(1 << 16):
        for message in lines.feed(data):
            # only a Stop can follow in the same read, and the scheduler escalates that anyway
            if isinstance(message, wire.Begin):
                return message
    return None


def settle(begin: wire.Begin) -> None:
    """Set the log, working directory, environment and threads: all that can be set before the script is imported."""
    if begin.log is not None:
        file = os.open(begin.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.close(file)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    if begin.cwd is not None:
        os.chdir(begin.cwd)
    if begin.threads is not None:
        _use_threads(begin.threads)
    if begin.cpus:
        with contextlib.suppress(OSError):  # the cores may no longer be available
            os.sched_setaffinity(0, begin.cpus)
    os.environ.update(begin.env)


def limit_torch(count: int) -> None:
    """Have torch use so many threads, also if it is imported only later: it would begin with the zygote's setting."""
    global _torch_threads
    _torch_threads = count
    if "torch" in sys.modules:
        _limit(sys.modules["torch"])


def _limit(torch: Any) -> None:
    if _torch_threads is not None and hasattr(torch, "set_num_threads"):
        torch.set_num_threads(_torch_threads)


def _use_threads(count: int) -> None:
    os.environ.update(dict.fromkeys(linux.THREADS, str(count)))
    limit_torch(count)
    if (pools := thread_pools()) is not None:
        pools.limit(limits=count)


def thread_pools() -> Any:
    """threadpoolctl's controller of the thread pools that are loaded; None without threadpoolctl.

    To look for pools takes 2 ms, so this function looks again only after an import. The zygote looks for its members.
    """
    global _thread_pools
    loaded = len(sys.modules)
    if _thread_pools[0] != loaded:
        with contextlib.suppress(Exception):  # a member can train with the pools as they are
            library: Any = sys.modules.get("threadpoolctl")
            _thread_pools = loaded, None  # also where it is older than 3, which has no controller
            _thread_pools = loaded, library.ThreadpoolController() if library is not None else None
    return _thread_pools[1]


def seed(value: int, device: str) -> None:
    """Seed python, numpy and torch, each now or when the training function imports it."""
    random.seed(value)
    hooks.after_import("numpy.random", lambda numpy: _seed_numpy(numpy, value % (1 << 32)))
    hooks.after_import("torch", lambda torch: _seed_torch(torch, value % (1 << 63), device))


def _seed_numpy(numpy: Any, value: int) -> None:
    numpy.seed(value)
    if telemetry.current is not None:  # imported by the training function: this seed is ours, not the script's
        telemetry.current.own("numpy")


def _seed_torch(torch: Any, value: int, device: str) -> None:
    with contextlib.suppress(AttributeError):
        if device == "cpu":
            # manual_seed also asks every kind of accelerator, which costs a fresh fork 400 page faults
            torch.default_generator.manual_seed(value)
        else:
            torch.manual_seed(value)
            if telemetry.current is not None:
                telemetry.current.own("torch")


class Trainer:
    """Trains the members of this process: one, or of a resident process one after the other.

    find_train: imports the script, if need be. stays: whether the process waits for another member.
    """

    def __init__(self, find_train: Callable[[], Callable[[Any], object] | None]) -> None:
        self._find_train = functools.cache(find_train)
        self._residence: Residence | None = None
        self.stays = False

    def train(self, sock: socket.socket, begin: wire.Begin) -> int:
        """Train one member, and tell the scheduler how it went. Returns the exit status."""
        member = Member(begin, sock)
        member.start = "resident" if begin.stays else _started_as
        breakpoints.refuse_breakpoints()
        try:
            train = self._find_train()
            assert train is not None
            if begin.merges:
                from .merging import merged_first

                train = merged_first(begin, train)
        except BaseException as error:
            fault, remedy = _diagnosed(error, member)
            end = wire.End(wire.Exit.RAISED, time.monotonic(), script.refusal(error), remedy=remedy, fault=fault)
            print(end.error, file=sys.stderr)
        else:
            if begin.stays and self._residence is None:
                from .residence import Residence  # it imports what other members need not pay for

                self._residence = Residence()
            seed(begin.seed, begin.device)
            telemetry.current = member.telemetry
            sock.sendall(wire.encode(wire.Enter(time.monotonic())))
            end = run(train, member)
        with contextlib.suppress(OSError):
            sock.sendall(wire.encode(end))
        clean = self._stay(member, begin) if begin.stays and end.how is wire.Exit.RETURNED else wire.Clean()
        self.stays = clean.stays
        if not self.stays:
            _leave()
        with contextlib.suppress(OSError):
            sock.sendall(wire.encode(clean))
        return int(end.how is wire.Exit.RAISED)

    def _stay(self, member: Member, begin: wire.Begin) -> wire.Clean:
        """Put the process back into its first state, if that can be done."""
        member._close()
        telemetry.current = import_watch.current = None
        assert self._residence is not None
        try:
            self._residence.restore()
            why = self._residence.remaining(os.path.dirname(begin.checkpoint))
            changed = self._residence.changed()[: wire.MOST] if not why else ()
            return wire.Clean(stays=not why, why=why, changed=changed)
        except Exception as error:  # the member has trained: a bug here must not fail it
            return wire.Clean(why=f"{type(error).__name__}: {error}")


def run(train: Callable[[Any], object], member: Member) -> wire.End:
    """Call the training function; its result or exception becomes an End."""
    before = set(threading.enumerate())
    imports = import_watch.begin()
    member.telemetry.begin()
    begun = time.monotonic()
    try:
        contextvars.copy_context().run(train, member)  # a resident process gives the next member what was before
    except Stopped:
        return wire.End(wire.Exit.STOPPED, time.monotonic())
    except SystemExit as error:
        if error.code not in (None, 0):
            return _raised(error, member)
    except BaseException as error:
        return _raised(error, member)
    at = time.monotonic()
    member.telemetry.threads = left_running(before)
    start = {"imports": imports.seconds, "parent": member.telemetry.parent_seconds}
    if member.reported is not None:
        start["first_report"] = member.reported - begun
    return wire.End(
        wire.Exit.RETURNED, at, telemetry=_telemetry(member),
        imports=imports.names, variable=imports.variable if imports.unnamed else "", start=start,
    )  # fmt: skip


def left_running(before: set[threading.Thread]) -> list[str]:
    """Names of the user's threads that were started since and still run: the member ends only when they do.

    Daemon threads end with the process, as their author wants. Threads of libraries (the idle workers of an executor, a
    monitor) are ended by functions that the libraries have registered to run at exit.
    """
    new = [t for t in threading.enumerate() if t not in before and not t.daemon and user_code.runs_in(t)]
    for thread in new:
        thread.join(ENDING / len(new))  # a thread that is just ending is not a finding
    return [thread.name for thread in new if thread.is_alive()]


def _telemetry(member: Member) -> dict[str, object]:
    """The member's telemetry for the pre-flight; {} if the script has broken it, as it has trained all the same."""
    with contextlib.suppress(Exception):
        return member.telemetry.to_json()
    return {}


def _raised(error: BaseException, member: Member) -> wire.End:
    from . import failure  # only if something is wrong

    at = time.monotonic()
    line = user_code.where(error.__traceback__)
    place = f"{os.path.basename(line[0])}:{line[1]} in {line[2].co_qualname}" if line is not None else None
    fault, remedy = _diagnosed(error, member)
    with contextlib.suppress(Exception):
        print_traceback(error)
        if remedy:
            print(f"{REMEDY}{remedy}", file=sys.stderr, flush=True)
    return wire.End(wire.Exit.RAISED, at, failure.described(error) + breakpoints.advice(error), place, remedy, fault)


def _diagnosed(error: BaseException, member: Member) -> tuple[str, str]:
    """(fault, remedy) of the error, as far as this process knows them."""
    from . import failure

    with contextlib.suppress(Exception):
        parent = os.fspath(member._parent) if member._parent is not None else None
        return failure.diagnosed(error, os.fspath(member.checkpoint), parent)
    return "", ""


def print_traceback(error: BaseException) -> None:
    """Print the traceback without our own frames."""
    import traceback

    summary = traceback.TracebackException.from_exception(error)
    queue: list[Any] = [summary]
    while queue:
        part = queue.pop()
        if part is not None:
            part.stack = traceback.StackSummary.from_list([f for f in part.stack if not user_code.is_ours(f.filename)])
            queue += [part.__cause__, part.__context__, *(part.exceptions or ())]
    print("".join(summary.format()), end="", file=sys.stderr, flush=True)


def _leave() -> None:
    """Do what an interpreter does at its end, and leave no process behind."""
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
    multiprocessing: Any = sys.modules.get("multiprocessing.util")
    if multiprocessing is not None:
        # it would wait for children, perhaps for ever; they are killed below
        atexit.unregister(multiprocessing._exit_function)
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    if multiprocessing is not None:
        with contextlib.suppress(BaseException):
            # pools first; then queues, when no process holds their other ends any more; folders last
            multiprocessing._run_finalizers(0)
            linux.kill_below()
            multiprocessing._run_finalizers()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    linux.kill_below()
