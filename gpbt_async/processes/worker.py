"""One member's process as the scheduler sees it: a stream of messages, an outcome, and never an orphan.

The only door to a member. Its socket and its pidfd are read by the loop itself: no StreamReader with its 64 KiB lines,
and never asyncio's child watcher. Touches one process, and of files the member's log and a program's metrics file.

    async with await launcher.start(begin) as worker:
        async for message in worker: ...
    worker.outcome

Leaving the block, however, means that the member *and everything it started* is gone. The surprise is how cheap that is
on the good path: a member that said Clean before it died has cleaned up itself, so nobody is asked. Otherwise the
reaper (zygote or guardian) tells when the last stray is gone, and a process stuck in the kernel is given up on after a
deadline, with a warning, rather than hanging the run.

How a member's attempt went, and how people are told: its outcome, and the words for one that did not return.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..formatting import LONGEST, REMEDY, shorten
from . import linux, remedies, wire
from .linux import HelperLost

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine


#: how long a process may live on after its training function has returned: it may still be saving, in a thread
LINGER = 600.0
#: when that is said; and how long one may live on whose training is void anyway
UNEASY = 10.0
#: how long the kernel may take to kill what got SIGKILL
DEADLINE = 5.0


class Worker:
    """A member's process; an async iterator over Enter, Report, End and Notice.

    hello: done when the process has spoken. gone: exit status, once nothing of it is left (set by the launcher).
    """

    def __init__(
        self,
        pid: int,
        pidfd: int,
        sock: socket.socket | None,
        gone: asyncio.Future[int | linux.HelperLost],
        *,
        grace: float = 2.0,
        warn: Callable[[str], object] = print,
    ) -> None:
        self.pid = pid
        self.begun: wire.Begin | None = None
        self.gone = gone
        self.dead = False
        #: a fork of the zygote; and when it has said something last, on the loop's clock
        self.forked = False
        self.heard = 0.0
        self.end: wire.End | None = None
        #: called once, at Enter or at death, whichever comes first
        self.on_first: Callable[[bool], object] | None = None
        #: called once, when it has returned and ended as it should
        self.on_returned: Callable[[], object] | None = None
        #: called once, at its first report or when it has returned
        self.on_life: Callable[[], object] | None = None
        self._loop = asyncio.get_running_loop()
        self.hello: asyncio.Future[bool] = self._loop.create_future()
        self._death: asyncio.Future[None] = self._loop.create_future()
        self._pidfd = pidfd
        self._sock = sock
        self._grace = grace
        self._warn = warn
        self._lines = wire.Lines()
        self._messages: deque[wire.Message] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._doom: asyncio.TimerHandle | None = None
        self._over = False
        self._clean = False
        self._overran = False
        self._given_up = False
        self._stopping: str | None = None
        self._lost_by: str | None = None
        self._died_at = 0.0
        if sock is not None:
            sock.setblocking(False)
            self._loop.add_reader(sock, self._read)
        self._loop.add_reader(pidfd, self._on_death)

    # -- who, and how it went

    @property
    def member(self) -> int:
        return self.begun.member if self.begun is not None else -1

    @property
    def attempt(self) -> int:
        return self.begun.attempt if self.begun is not None else -1

    @property
    def closed(self) -> bool:
        return self._pidfd < 0

    @property
    def unread(self) -> int:
        """Lines it wrote for reports that are none."""
        return 0

    @property
    def exit_status(self) -> int | None:
        """Exit status or minus the signal; None while, or if, nobody knows."""
        told = self.gone.result() if self.gone.done() and not self.gone.cancelled() else None
        if isinstance(told, int):
            return told
        if self.dead and self._clean and self.end is not None:
            return int(self.end.how == "raised")
        return None

    @property
    def outcome(self) -> Outcome:
        """How it went; meaningful once the iteration or the block is over."""
        status, end = self.exit_status, self.end
        # one that returned and was then killed may have been saving still
        killed = not self._clean and (status is None or status < 0)
        if end is not None and end.how == "stopped" and self._stopping is None:
            return Outcome("raised", end.at, "gpbt.Stopped was raised though nobody stopped this member", None, status)
        if end is not None and not (end.how == "returned" and killed) and not (end.how == "raised" and self._stopping):
            return Outcome(end.how, end.at, end.error, end.where, status, remedy=end.remedy, fault=end.fault)
        at = end.at if end is not None else self._died_at or time.monotonic()
        if self._stopping is not None:
            return Outcome("stopped", at, self._stopping, None, status)
        if self._lost_by is not None:
            return Outcome("lost", at, self._lost_by)
        told = self.gone.result() if self.gone.done() and not self.gone.cancelled() else None
        if isinstance(told, linux.HelperLost):
            return Outcome("lost", at, describe(told))
        log = self.begun.log if self.begun is not None else None
        return Outcome("died", at, self._how_it_died(status), None, status, tail_of(log))

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
        """The verdict on its first report: it may go on."""
        self._send(wire.Go())

    def _send(self, message: wire.Message) -> None:
        """A member reads what little it is told at once; one that does not is dead or stuck, and found out as such."""
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
        else:  # the end of the talk is not the end of the process
            self._loop.remove_reader(self._sock)
            self._sock.close()
            self._sock = None

    def _take(self, data: bytes) -> None:
        while True:
            try:
                for message in self._lines.feed(data):
                    self._handle(message)
                return
            except wire.WireError as error:
                self._push(wire.Notice(f"member {self.member} sent {error}"))
                data = b""

    def _handle(self, message: wire.Message) -> None:
        self.heard = self._loop.time()
        if isinstance(message, wire.Hello):
            if not self.hello.done():
                self.hello.set_result(True)
        elif isinstance(message, wire.Clean):
            self._clean = True
            if self.end is not None and self.end.how == "returned":
                self._returned()
        else:
            if isinstance(message, wire.End):
                self.end = message
                self._linger = self._loop.call_later(min(UNEASY, LINGER), self._lingers)
            elif isinstance(message, wire.Enter):
                self._first(True)
            elif isinstance(message, wire.Report):
                self._lives()
            self._push(message)

    def _push(self, message: wire.Message) -> None:
        self._messages.append(message)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _first(self, entered: bool) -> None:
        if self.on_first is not None:
            call, self.on_first = self.on_first, None
            call(entered)

    def _lives(self) -> None:
        if self.on_life is not None:
            call, self.on_life = self.on_life, None
            call()

    def _returned(self) -> None:
        self._lives()
        if self.on_returned is not None:
            call, self.on_returned = self.on_returned, None
            call()

    def _lingers(self) -> None:
        if self.end is not None and self.end.how == "returned":
            self._push(wire.Notice("train has returned, but the process still runs: a thread?"))
            self._linger = self._loop.call_later(LINGER - UNEASY, self._overruns)
        else:
            self._finish()

    def _overruns(self) -> None:
        self._overran = True
        self._finish()

    # -- the iteration

    def __aiter__(self) -> Worker:
        return self

    async def __anext__(self) -> wire.Message:
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
        while self._sock is not None:  # all it said is in the buffer; a stray may hold the other end open
            try:
                data = self._sock.recv(1 << 16)
            except OSError:
                break
            if not data:
                break
            self._take(data)
        if not self.hello.done():
            self.hello.set_result(False)
        self._first(False)
        self._death.set_result(None)
        for timer in (self._linger, self._doom):
            if timer is not None:
                timer.cancel()
        self._finish()

    def _finish(self) -> None:
        self._over = True
        self._wake()

    async def _until_gone(self) -> None:
        """Wait for the reaper's word, unless the member's own will do."""
        if self._clean or self._given_up or self.gone.done():
            return
        await asyncio.wait([self.gone], timeout=DEADLINE)
        if not self.gone.done():
            self._given_up = True  # warn once, and do not wait again
            self._warn(f"member {self.member}: process {self.pid} left something that cannot be killed; going on")

    # -- the end

    async def stop(self, reason: str, patience: float = 10.0, grace: float | None = None) -> None:
        """Ask it to end at its next report; then SIGTERM; then SIGKILL, for it and all below it. Returns when dead."""
        grace = self._grace if grace is None else grace
        if self._stopping is None and self.end is None:
            self._stopping = reason
        if self.dead:
            return
        if self._sock is not None and self.end is None:
            self._send(wire.Stop(reason))
            if await self._dies(patience):
                return
        self._signal_group(signal.SIGTERM)
        if await self._dies(grace):
            return
        self.kill()
        if not await self._dies(DEADLINE):
            self._warn(f"member {self.member}: process {self.pid} survives SIGKILL (stuck in the kernel?); going on")

    def lose(self, why: str) -> None:
        """Kill it for what is not its fault: unless it has ended, it is lost, not failed."""
        if self.end is None and self._stopping is None:
            self._lost_by = why
        self.kill()

    def kill(self) -> None:
        """SIGKILL for it and all below it; whoever listens to it does not wait longer than DEADLINE for its end."""
        if not self.dead and self._pidfd >= 0:
            linux.kill_tree(self.pid, self._pidfd)
            # one that is stuck in the kernel, as on a GPU that is lost, has nothing more to say
            self._doom = self._doom or self._loop.call_later(DEADLINE, self._finish)

    def _signal_group(self, number: int) -> None:
        if not self.dead and self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(self._pidfd, 0)  # not reaped, so its number is its own
                os.killpg(self.pid, number)

    async def _dies(self, within: float) -> bool:
        if not self.dead and within > 0:
            await asyncio.wait([self._death], timeout=within)
        return self.dead

    async def __aenter__(self) -> Worker:
        return self

    async def __aexit__(self, *_: object) -> None:
        if not (self.dead and (self._clean or self._given_up)):
            await uncancelled(self._put_down())
        self.close()

    async def _put_down(self) -> None:
        if not self.dead:
            await self.stop("its block was left", patience=0.0)
        if self.dead:
            await self._until_gone()

    def close(self) -> None:
        """Let go of the process: a spare that is closed ends by itself."""
        for timer in (self._linger, self._doom):
            if timer is not None:
                timer.cancel()
        if self._sock is not None:
            self._loop.remove_reader(self._sock)
            self._sock.close()
            self._sock = None
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1


async def uncancelled(work: Coroutine[Any, Any, None]) -> None:
    """Finish the work even if cancelled meanwhile, and be cancelled then."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a member's attempt went. how: "returned", "stopped", "raised", "died" or "lost".

    Lost: it died because the zygote or the guardian did, which is not its fault. error, where: of what was raised, or
    how it died. at: when training was over, on the monotonic clock. status: exit status or minus the signal, None if
    nobody could tell. tail: the last lines of its log, if it died. remedy, fault: as in wire.End, of what was raised.
    """

    how: str
    at: float
    error: str | None = None
    where: str | None = None
    status: int | None = None
    tail: str = ""
    remedy: str = ""
    fault: str = ""


def reason(outcome: Outcome) -> str:
    """Why an attempt failed, on one line; with what to do about it behind `REMEDY`, if that is known."""
    text = outcome.error or outcome.how
    if outcome.how == "died" and outcome.status == 0:
        text = "ended without returning from train (exit status 0)"
    remedy = outcome.remedy or remedies.remedy_for(f"{text}\n{outcome.tail}")
    text = _line(text, LONGEST if not remedy else LONGEST // 2)
    if outcome.where:
        text += f" ({_line(outcome.where, LONGEST // 4)})"
    last_words = [line for line in outcome.tail.splitlines() if line.strip()]
    if last_words:
        text += f"; its log ends: {_line(last_words[-1], LONGEST // 2)}"
    return text + (REMEDY + _line(remedy, LONGEST) if remedy else "")


def _line(text: str, most: int) -> str:
    return shorten(" ".join("".join(c if c.isprintable() else " " for c in text).split()), most)


def describe(status: int | HelperLost | None) -> str:
    if isinstance(status, HelperLost):
        return f"the {status.who} died"
    if status is None:
        return "died"
    return f"exit status {status}" if status >= 0 else f"killed by {name_of(-status)}"


def name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def tail_of(log: str | None, begin: int = 0, lines: int = 10) -> str:
    """The last lines of a file, from some place on; of nothing, nothing."""
    if log is None:
        return ""
    try:
        with open(log, "rb") as file:
            file.seek(max(begin, os.fstat(file.fileno()).st_size - 8192))
            told = file.read().decode(errors="replace").splitlines()[-lines:]
            return "\n".join(shorten(line, LONGEST) for line in told)
    except OSError:
        return ""
