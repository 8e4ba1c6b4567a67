"""One member's process as the scheduler sees it: a stream of messages, an outcome, and never an orphan.

    async with await launcher.start(begin) as worker:
        async for message in worker: ...
    worker.outcome

The event loop itself reads the socket and the pidfd: no StreamReader with its 64 KiB lines, and never asyncio's child
watcher.

A resident process trains several members. Each has a Worker of its own, and `successor` makes the next one. If the
process has ended its member well and waits for another, leaving the block hands it over (`on_free`).

When the block is left, the member and every process that it started are gone. The surprise is how cheap this usually
is: a member that ends well removes its processes itself and sends the message `Clean`, so nothing needs to be checked.
Without a `Clean`, the worker waits until the member's parent (zygote or guardian) reports that the last process is
gone. If a process hangs in the kernel, the worker gives up after a deadline, with a warning.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import deque
from typing import TYPE_CHECKING, TypeAlias

from ..errors import Advice
from . import linux, wire
from .cancellation import uncancelled
from .linux import AncestorDied
from .outcome import Outcome, describe, name_of, tail_of
from .wire import Exit

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence


#: seconds a process may go on after its training function has returned: a thread of it may still be saving
LINGER = 600.0
#: seconds until a warning says so; and the limit for a process whose training is void anyway
UNEASY = 10.0
#: seconds the kernel may take to kill a process after SIGKILL
DEADLINE = 5.0


#: what iterating over a worker gives
Heard: TypeAlias = "wire.Message | Advice"


class Worker:
    """A member's process; an async iterator over Enter, Report, End and Advice.

    hello: done when the process has sent Hello, or died (False). gone: the exit status, once nothing that the process
    started is left; its maker sets it.
    """

    #: whether it is a fork of the zygote
    forked = False
    dead = False
    end: wire.End | None = None
    begun: wire.Begin | None = None
    #: whether its process has ended this member well, and waits for another
    stays = False
    #: why its process ends though it was to stay; globals of the user's modules that its member has changed
    retires = ""
    changed: Sequence[str] = ()
    #: whether its process has trained another member before
    reused = False
    _over = _clean = _overran = _given_up = _entered = False
    _died_at = 0.0
    #: why it is to stop; why it was killed through no fault of its own
    _stopping: str | None = None
    _lost_by: str | None = None
    _waiter: asyncio.Future[None] | None = None
    _linger: asyncio.TimerHandle | None = None
    _doom: asyncio.TimerHandle | None = None

    def __init__(
        self,
        pid: int,
        pidfd: int,
        sock: socket.socket | None,
        gone: asyncio.Future[int | AncestorDied],
        *,
        grace: float = 2.0,
        warn: Callable[[Advice], object] = print,
    ) -> None:
        self.pid = pid
        self.gone = gone
        #: when its last message came, on the event loop's clock
        self.heard = 0.0
        #: called once, at Enter (True) or at death, whichever comes first
        self.on_first: Callable[[bool], object] = _ignore
        #: called when its training function has returned and it ended as it should
        self.on_returned: Callable[[], object] = _ignore
        #: called when the block is left and the process stays
        self.on_free: Callable[[Worker], object] = _ignore
        #: called at each report, and when it has returned
        self.on_life: Callable[[], object] = _ignore
        self._loop = asyncio.get_running_loop()
        self.hello: asyncio.Future[bool] = self._loop.create_future()
        #: done when the process has died, or the member has left it
        self.left: asyncio.Future[None] = self._loop.create_future()
        self._pidfd = pidfd
        self._sock = sock
        self._grace = grace
        self._warn = warn
        self._lines = wire.Lines()
        self._messages: deque[Heard] = deque()
        if sock is not None:
            sock.setblocking(False)
            self._loop.add_reader(sock.fileno(), self._read)  # of the socket itself, asyncio makes a repr
        self._loop.add_reader(pidfd, self._on_death)

    # -- how it went

    @property
    def member(self) -> int:
        return self.begun.member if self.begun is not None else -1

    @property
    def attempt(self) -> int:
        return self.begun.attempt if self.begun is not None else -1

    @property
    def waits(self) -> bool:
        """Whether its process lives and can be talked to."""
        return not self.dead and self._sock is not None

    @property
    def closed(self) -> bool:
        return self._pidfd < 0

    @property
    def unread(self) -> int:
        """Lines of its metrics file that are no reports."""
        return 0

    @property
    def exit_status(self) -> int | None:
        """Exit status or minus the signal; None while it is not known, or if it never will be."""
        status = self._gone_as()
        if isinstance(status, int):
            return status
        if self.dead and self._clean and self.end is not None:
            return int(self.end.how is Exit.RAISED)
        return None

    def _gone_as(self) -> int | AncestorDied | None:
        return self.gone.result() if self.gone.done() and not self.gone.cancelled() else None

    @property
    def outcome(self) -> Outcome:
        """How it went; meaningful once the iteration or the block is over."""
        status, end = self.exit_status, self.end
        # one that returned and was then killed may have been saving still
        killed = not self._clean and (status is None or status < 0)
        if end is not None and end.how is Exit.STOPPED and self._stopping is None:
            error = "gpbt.Stopped was raised, but the scheduler did not stop this member"
            return Outcome(Exit.RAISED, end.at, error, None, status)
        void = (Exit.RETURNED if killed else None, Exit.RAISED if self._stopping is not None else None)
        if end is not None and end.how not in void:
            return Outcome(end.how, end.at, end.error, end.where, status, remedy=end.remedy, fault=end.fault)
        at = end.at if end is not None else self._died_at or time.monotonic()
        if self._stopping is not None:
            return Outcome(Exit.STOPPED, at, self._stopping, None, status)
        if self._lost_by is not None:
            return Outcome(Exit.LOST, at, self._lost_by)
        gone = self._gone_as()
        if isinstance(gone, AncestorDied):
            return Outcome(Exit.LOST, at, describe(gone))
        log = self.begun.log if self.begun is not None else None
        return Outcome(Exit.DIED, at, self._how_it_died(status), None, status, tail_of(log))

    def _how_it_died(self, status: int | None) -> str:
        if self._overran:
            return f"returned, but did not end: its threads still ran {LINGER:g} s later and were killed"
        if self.end is not None:
            return f"died{'' if status is None else ' by ' + name_of(-status)} after train had returned"
        return describe(status)

    # -- talking

    def begin(self, begin: wire.Begin) -> None:
        self.begun = begin
        self._send(begin)

    def go(self) -> None:
        """Send the verdict on its first report: go on."""
        self._send(wire.Go())

    def _send(self, message: wire.Message) -> None:
        """A member reads the few messages it gets at once; one that does not is dead or stuck, and found to be."""
        if self._sock is not None:
            with contextlib.suppress(OSError):
                sock, data = self._sock, wire.encode(message)
                sent = sock.send(data)
                if sent < len(data):  # a config of hundreds of kilobytes
                    sock.setblocking(True)
                    sock.settimeout(self._grace)
                    sock.sendall(data[sent:])
                    sock.setblocking(False)

    def _read(self) -> None:
        assert self._sock is not None
        try:
            data = self._sock.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._take(data)
        else:
            self._close_socket()  # the process may live on without it

    def _close_socket(self) -> None:
        if self._sock is not None:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()
            self._sock = None

    def _take(self, data: bytes) -> None:
        while True:
            try:
                for message in self._lines.feed(data):
                    self._handle(message)
                return
            except wire.WireError as error:
                self._push(Advice(f"member {self.member} sent {error}"))
                data = b""

    def _handle(self, message: wire.Message) -> None:
        self.heard = self._loop.time()
        if isinstance(message, wire.Hello):
            if not self.hello.done():
                self.hello.set_result(True)
        elif isinstance(message, wire.Clean):
            self._clean, self.retires, self.changed = True, message.why, message.changed
            if self.end is not None and self.end.how is Exit.RETURNED:
                self._returned()
            if message.stays:
                self._stay()
        else:
            if isinstance(message, wire.End):
                self.end = message
                self._linger = self._loop.call_later(min(UNEASY, LINGER), self._lingers)
            elif isinstance(message, wire.Enter):
                self._entered = True
                self._first(True)
            elif isinstance(message, wire.Report):
                self.on_life()
            self._push(message)

    def _stay(self) -> None:
        """The member is over, and the process lives on."""
        self.stays = True
        self._cancel_timers()
        self.left.set_result(None)
        self._finish()

    def _push(self, message: Heard) -> None:
        self._messages.append(message)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _first(self, entered: bool) -> None:
        call, self.on_first = self.on_first, _ignore
        call(entered)

    def _returned(self) -> None:
        self.on_life()
        self.on_returned()

    def _lingers(self) -> None:
        if self.end is not None and self.end.how is Exit.RETURNED:
            self._push(
                Advice("train has returned, but the process still runs: perhaps a thread of the script does not end")
            )
            self._linger = self._loop.call_later(LINGER - UNEASY, self._overruns)
        else:
            self._finish()

    def _overruns(self) -> None:
        self._overran = True
        self._finish()

    # -- the iteration

    def __aiter__(self) -> Worker:
        return self

    async def __anext__(self) -> Heard:
        while not self._messages:
            if self._over:
                if self.dead:
                    await self._until_gone()
                if not self._messages:
                    raise StopAsyncIteration
                break
            self._waiter = self._loop.create_future()
            await self._waiter
        return self._messages.popleft()

    def _on_death(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self.dead = True
        self._died_at = time.monotonic()
        while self._sock is not None:  # all it sent is in the buffer; a stray may hold the other end open
            try:
                data = self._sock.recv(1 << 16)
            except OSError:
                break
            if not data:
                break
            self._take(data)
        if not self.hello.done():
            self.hello.set_result(False)
        if self.reused and not self._entered and self.end is None:
            self._lost_by = self._lost_by or "its resident process died before it could begin"
        self._first(False)
        if not self.left.done():
            self.left.set_result(None)
        self._cancel_timers()
        self._finish()

    def _finish(self) -> None:
        self._over = True
        self._wake()

    async def _until_gone(self) -> None:
        """Wait until the reaper says so, unless the member itself has."""
        if self._clean or self._given_up or self.gone.done():
            return
        await asyncio.wait([self.gone], timeout=DEADLINE)
        if not self.gone.done():
            self._given_up = True  # warn once, and do not wait again
            self._warn(
                Advice(
                    f"member {self.member}: process {self.pid} started a process that cannot be killed; "
                    "the run continues without waiting for it"
                )
            )

    # -- the end

    async def stop(self, reason: str, patience: float = 10.0, grace: float | None = None) -> None:
        """Ask it to end at its next report; then SIGTERM; then SIGKILL, for it and all below it. Returns when dead."""
        grace = self._grace if grace is None else grace
        if self._stopping is None and self.end is None:
            self._stopping = reason
        if self.left.done():
            return
        if self._sock is not None and self.end is None:
            self._send(wire.Stop(reason))
            if await self._leaves(patience):
                return
        self._signal_group(signal.SIGTERM)
        if await self._leaves(grace):
            return
        self.kill()
        if not await self._leaves(DEADLINE):
            stuck = f"member {self.member}: process {self.pid} survives SIGKILL (stuck in the kernel?); going on"
            self._warn(Advice(stuck))

    def lose(self, why: str) -> None:
        """Kill it for a reason that is not its fault: unless it has ended, it is lost, not failed."""
        if self.end is None and self._stopping is None:
            self._lost_by = why
        self.kill()

    def kill(self) -> None:
        """SIGKILL for it and all below it. The iteration ends after DEADLINE at the latest."""
        if not self.dead and self._pidfd >= 0:
            linux.kill_tree(self.pid, self._pidfd)
            # one that is stuck in the kernel, as on a GPU that is lost, has nothing more to say
            self._doom = self._doom or self._loop.call_later(DEADLINE, self._finish)

    def _signal_group(self, number: int) -> None:
        if not self.dead and self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(self._pidfd, 0)  # not reaped yet, so the pid is still its own
                os.killpg(self.pid, number)

    async def _leaves(self, within: float) -> bool:
        if not self.left.done() and within > 0:
            await asyncio.wait([self.left], timeout=within)
        return self.left.done()

    async def __aenter__(self) -> Worker:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.stays and self.waits:
            self.on_free(self)
            return
        if not (self.dead and (self._clean or self._given_up)):
            await uncancelled(self._put_down())
        self.close()

    async def _put_down(self) -> None:
        if not self.dead:
            await self.stop("its block was left", patience=0.0)
        if self.dead:
            await self._until_gone()

    def successor(self) -> Worker:
        """A worker for the next member of this process, which stays; this one has nothing to do with it any more."""
        assert self._sock is not None
        sock, pidfd, self._sock, self._pidfd = self._sock, self._pidfd, None, -1
        self._loop.remove_reader(sock.fileno())
        self._loop.remove_reader(pidfd)
        worker = Worker(self.pid, pidfd, sock, self.gone, grace=self._grace, warn=self._warn)
        worker.forked, worker.reused = self.forked, True
        worker.hello.set_result(True)
        return worker

    async def release(self, within: float) -> None:
        """End a process that stays: it sees the end of its socket. Kill it if it does not end in so many seconds."""
        self._close_socket()
        if not await self._leaves(within):
            self.kill()
        self.close()

    def _cancel_timers(self) -> None:
        for timer in (self._linger, self._doom):
            if timer is not None:
                timer.cancel()

    def close(self) -> None:
        """Close the socket and the pidfd. A spare ends by itself then, and so does a process that stays."""
        self._cancel_timers()
        self._close_socket()
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1


def _ignore(*_: object) -> None:
    pass
