"""The scheduler's handle on a zygote (the process that imports the script).

It holds what the script declares, requests forks, and keeps spares, which are forked ahead.

A Zygote object is one process from its start to its death; the launcher makes another one after that. The surprise is
that a *spare* is an ordinary fork that was requested before a member needs it. A spare and a requested fork are both a
Future[Worker]; `take` awaits the next spare if there is one, else a new fork.

A zygote may not answer in time, because it is stopped, or because a thread of the script holds its lock. Then it is
killed, as every start of a member would wait for it.

Libraries import modules on their first use; the first optimizer of torch takes two seconds for this. A zygote can do
that once, before it forks: it *warms up*. But the first members do not wait for it, so that they train as soon as the
script is imported. The zygote uses the optimizer once they have trained for a moment, if torch is loaded (members that
return sooner do not use one), and it imports what a member that has trained had to import (`learn`). While it warms up,
it cannot fork. Waiting costs a member no time: without the warm-up it would have to make the same imports itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections import deque
from typing import TYPE_CHECKING, Any

from ..errors import Advice, ExperimentError, LaunchError, ScriptError
from ..formatting import LONGEST, shorten
from . import linux
from .channel import Channel
from .guardian import HOME, Guardian
from .outcome import describe, tail_of
from .worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .zygote_messages import Declaration, Order


#: seconds that an answer may take beyond `patience` after the import, and while the zygote warms up
BUSY = 60.0
#: the same while it warms up: its imports together may take 20 s (warm_up.SECONDS)
WARMING = 30.0
# our folder goes behind everything else on the path: an installed package must win over its neighbours there
PATH = "import sys; sys.path[len(sys.path):] = [sys.argv[1]][sys.argv[1] in sys.path:]; "
_PROGRAM = PATH + "from gpbt_async.member.zygote_main import main; sys.argv[:] = sys.argv[2:]; main(3)"
_ENVIRONMENT = {**dict.fromkeys(linux.THREADS, "1"), "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
if "GLIBC_TUNABLES" not in os.environ:
    _ENVIRONMENT["GLIBC_TUNABLES"] = linux.HUGE_HEAP


class ZygoteDied(ScriptError):
    """The zygote died while it imported the script. killed: by SIGKILL, which is hardly the script's fault."""

    killed = False


def file_of(order: Order) -> str:
    """The file of what a zygote imports."""
    return order["script"] if "script" in order else order["target"]["file"]


def _declaration(message: dict[str, Any]) -> Declaration:
    return {
        "experiment": message["experiment"],
        "variable": message["variable"],
        "imports": message["imports"],
        "cuda": message["cuda"],
        "threads": message["threads"],
        "warms": message["warms"],
    }


def unforkable(declaration: Declaration, insists: bool) -> tuple[bool, Advice] | None:
    """What the import has done that a fork does not survive, and whether to fork nevertheless; None if nothing.

    declaration: the zygote's. insists: fork even where native threads run; CUDA never survives a fork.
    """
    if declaration["experiment"].get("command"):
        return None
    slower, into = "so members start as fresh processes, which is slower", "into the training function"
    if declaration["cuda"] is not None:
        text = f"CUDA is initialised while the script is imported, at {declaration['cuda']}\n{slower}"
        return False, Advice(text, f"move this line {into}")
    threads = declaration["threads"]
    if threads is None:
        return None
    count, of, place = threads["count"], ", ".join(threads["libraries"]), threads["place"]
    text = f"the script starts {count} native thread{'s' * (count > 1)}{of and f' ({of})'} while it is imported"
    text += ", which forks do not have, and --start zygote insists on forks" if insists else f", {slower}"
    return insists, Advice(text, f"move {'this line' if place else 'what does it'} {into}{place and f': {place}'}")


class Zygote:
    """One zygote. order: what it imports. spares: how many forks to keep ahead.

    patience: seconds it may be silent while a fork is waited for. warms: whether it may warm up. learned: modules to
    import when it warms up first.
    """

    pid: int | None = None
    #: how it ended, for a person
    fate = "died"
    hung_warming = False
    #: the module that it imports while it warms up; if it dies, that is why
    importing = ""
    declaration: Declaration | None = None
    #: done when it, every member and all they started are gone
    _end: asyncio.Future[int | linux.AncestorDied] | None = None
    _pidfd = -1
    #: its log, and the byte at which this zygote's output begins
    _logged: tuple[str, int] | None = None
    _begun = _returned = _retired = False
    #: with more than the next fork: the import is followed by some tidying up
    _busy = True
    _warmth = "cold"  # → "warming" → "warm"
    #: whether torch is loaded, and its optimizer was not used yet
    _first_use = False

    def __init__(
        self,
        guardian: Guardian,
        order: Order,
        *,
        spares: int,
        patience: float,
        grace: float,
        warms: bool,
        learned: Iterable[str] = (),
        log: Callable[[Advice], object],
    ) -> None:
        self._guardian = guardian
        self._order = order
        self._spares = spares
        self._patience = patience
        self._warms = warms
        #: modules still to import; and all that it need not be asked for again
        self._to_learn = [*learned]
        self._known = {*learned}
        #: called with a module after which this zygote can fork no more, and why
        self.on_hazard: Callable[[str, str], object] = lambda name, why: None
        self._grace = grace
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._declared: asyncio.Future[Declaration] = self._loop.create_future()
        #: its standard output and error, until it has a log
        self._output = os.memfd_create("zygote", os.MFD_CLOEXEC)
        self._requests = 0
        self._forking: dict[int, asyncio.Future[Worker]] = {}
        self._members: dict[int, asyncio.Future[int | linux.AncestorDied]] = {}
        self._ahead: deque[asyncio.Future[Worker]] = deque()
        self._heard = 0.0  # when its last message came
        ours, self._theirs = socket.socketpair()
        self._channel = Channel(ours, self._handle, self._lost)

    @property
    def alive(self) -> bool:
        return self._channel.open

    @property
    def lost(self) -> bool:
        """It died because the guardian did."""
        return self._end is not None and self._end.done() and isinstance(self._end.result(), linux.AncestorDied)

    # -- its life

    async def open(self) -> Declaration:
        """Start it, and have it import the script. Raises ScriptError or ExperimentError with one clear message."""
        self._channel.send({"op": "open", **self._order})
        argv = [sys.executable, "-P", "-c", _PROGRAM, HOME, file_of(self._order)]
        output = self._output
        try:
            with self._theirs as theirs:
                child = await self._guardian.spawn(argv, _ENVIRONMENT, {3: theirs.fileno(), 1: output, 2: output})
            self.pid, self._pidfd, self._end = child.pid, child.pidfd, child.gone
            self._end.add_done_callback(self._all_gone)
            self.declaration = await self._or_death(child.gone)
            self._first_use = self._warms and self.declaration["warms"]
            self._warmth = "cold" if self._first_use or (self._warms and self._to_learn) else "warm"
        except BaseException as error:
            if isinstance(error, LaunchError):
                self.fate = f"could not be started ({error})"
            self.close()
            raise
        self._refill()
        return self.declaration

    async def _or_death(self, gone: asyncio.Future[int | linux.AncestorDied]) -> Declaration:
        declared = self._declared
        waiting: list[asyncio.Future[Any]] = [declared, gone]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if not declared.done():
            # its last message may come after the news of its death: two sockets have no order
            await asyncio.wait([declared], timeout=0.2)
        if not declared.done():
            status = gone.result()
            if isinstance(status, linux.AncestorDied):
                raise LaunchError(describe(status))
            died = ZygoteDied(f"the process that imports the script died: {describe(status)}{self.last_output()}")
            died.killed = status == -signal.SIGKILL
            raise died
        return declared.result()

    def last_output(self) -> str:
        """The end of what this zygote, and no other, has written; to follow a sentence."""
        text = tail_of(*self._logged) if self._logged is not None else ""
        text = text or (tail_of(f"/proc/self/fd/{self._output}") if self._output >= 0 else "")
        text = shorten(text.strip(), 2 * LONGEST)
        return "\nits last output:\n    " + text.replace("\n", "\n    ") if text else ""

    def log_to(self, path: str) -> None:
        self._logged = path, os.stat(path).st_size if os.path.exists(path) else 0
        self._channel.send({"op": "log", "path": path})

    async def ended(self, within: float) -> None:
        """Wait until it and all that was below it is gone."""
        if self._end is not None:
            await asyncio.wait([self._end], timeout=within)

    def close(self) -> None:
        """Let it end. Its members die with it."""
        self.drop_spares()
        self._theirs.close()
        self._channel.close()
        self._fail_forks()
        for fd in (self._output, self._pidfd):
            if fd >= 0:
                os.close(fd)
        self._output = self._pidfd = -1
        if self._declared.done() and not self._declared.cancelled():
            self._declared.exception()  # so that asyncio does not report it as lost

    def retire(self) -> None:
        """No more forks: it ends with the last of its members, which train on."""
        self._retired, self._spares = True, 0
        self.drop_spares()
        self._end_retired()

    def _end_retired(self) -> None:
        if self._retired and not self._members and not self._forking:
            self._loop.call_soon(self.close)

    def _stuck(self) -> None:
        """It has not answered: kill it, as waiting any longer would hang the run."""
        self.fate = f"did not answer for {self._patience:g} s and was killed"
        self.hung_warming = self._warmth == "warming"
        if self.pid is not None and self._pidfd >= 0:
            linux.kill_tree(self.pid, self._pidfd)
        self._channel.close()
        self._fail_forks()

    def _lost(self) -> None:
        """Its members die with it; they are gone once the guardian reports the zygote gone."""
        self._fail_forks()

    def _fail_forks(self) -> None:
        for n in list(self._forking):
            self._fork_failed(n, "the zygote forks no more")

    def _all_gone(self, end: asyncio.Future[int | linux.AncestorDied]) -> None:
        status = end.result()
        lost = status if isinstance(status, linux.AncestorDied) else linux.AncestorDied("zygote")
        for gone in self._members.values():
            if not gone.done():
                gone.set_result(lost)
        self._members.clear()

    # -- its messages

    def _handle(self, message: dict[str, Any], fds: list[int]) -> None:
        op = message["op"]
        self._heard = self._loop.time()
        if op in ("forked", "failed", "warmed"):
            self._busy = False
        if op == "forked":
            self._forked(message["n"], message["pid"], fds)
        elif op == "failed":
            self._fork_failed(message["n"], f"a member could not be forked: {message['error']}")
        elif op == "exit":
            gone = self._members.pop(message["pid"], None)
            if gone is not None and not gone.done():
                gone.set_result(message["status"])
            self._end_retired()
        elif op == "warmed":
            self._warmth, self.importing = "warm", ""
            self.drop_spares()  # those forked before are cold
            if message["hazard"]:
                self._fail_forks()
                self.on_hazard(message["hazard"], message["why"])
            elif self._to_learn and not self._retired:
                self._warm(False)
            else:
                self._refill()
        elif op == "importing":
            self.importing = message["module"]
        elif op == "threads":
            self._log(Advice(message["what"], message["remedy"]))
        elif op == "declared":
            self._declared.set_result(_declaration(message))
        else:
            kind = ExperimentError if message["kind"] == "experiment" else ScriptError
            self._declared.set_exception(kind(shorten(message["message"], 4 * LONGEST)))

    def _forked(self, n: int, pid: int, fds: list[int]) -> None:
        gone: asyncio.Future[int | linux.AncestorDied] = self._loop.create_future()
        self._members[pid] = gone
        sock = socket.socket(fileno=fds[0])
        worker = Worker(pid, fds[1], sock, gone, grace=self._grace, warn=self._log)
        worker.forked = True
        future = self._forking.pop(n, None)
        if future is None or future.done():
            worker.close()
        else:
            future.set_result(worker)

    def _fork_failed(self, n: int, text: str) -> None:
        future = self._forking.pop(n)
        if not future.done():
            future.set_exception(LaunchError(text))
            future.exception()  # `take` raises a spare's failure; asyncio need not report it as lost

    # -- forks

    def _fork(self) -> asyncio.Future[Worker]:
        self._requests += 1
        future: asyncio.Future[Worker] = self._loop.create_future()
        self._forking[self._requests] = future
        self._channel.send({"op": "fork", "n": self._requests})
        if not self.alive:
            self._fail_forks()
        return future

    async def take(self) -> Worker:
        """The next living spare, or a new fork. Raises LaunchError."""
        self._begun = True
        # that a spare could not be forked some time ago is no reason not to try now
        while self._ahead and self._ahead[0].done() and self._ahead[0].exception() is not None:
            self._ahead.popleft()
        while True:
            future = self._ahead.popleft() if self._ahead else self._fork()
            try:
                await self._answer(future)
                worker = await asyncio.shield(future)
            except asyncio.CancelledError:
                self._ahead.appendleft(future)  # a spare from now on
                if not self.alive:
                    self.drop_spares()
                raise
            if not worker.dead:
                return worker
            worker.close()

    async def _answer(self, future: asyncio.Future[Worker]) -> None:
        """Wait for a fork until the zygote has been silent for `patience`; then it is stuck."""
        asked = self._loop.time()
        while not future.done():
            extra = WARMING if self._warmth == "warming" else BUSY * self._busy
            until = max(asked, self._heard) + self._patience + extra
            if until <= self._loop.time():
                self._stuck()
            else:
                await asyncio.wait([future], timeout=until - self._loop.time())

    def keep(self, spares: int | None = None) -> None:
        """Fork until there are so many spares."""
        self._spares = self._spares if spares is None else spares
        self._refill()

    def warm(self) -> None:
        """Have it warm up: members are training, so there is time now."""
        if self._warmth != "warming" and (self._first_use or self._to_learn):
            self._warm(self._first_use)

    def members_return(self) -> None:
        """A member has returned. If it is still cold, no member trains for long enough that it warms up beside."""
        if not self._returned:
            self._returned = True
            if self._to_learn and self._warmth == "cold":
                self._warm(False)
            self._refill()

    def learn(self, modules: Iterable[str]) -> None:
        """Have it import what a member has imported while it trained, unless it has already tried."""
        new = [name for name in dict.fromkeys(modules) if name not in self._known]
        if new and self._warms and not self._retired and self.alive:
            self._known.update(new)
            self._to_learn += new
            if self._warmth != "warming":
                self._warm(False)

    def _warm(self, first_use: bool) -> None:
        self._warmth, self._busy = "warming", True
        self.drop_spares()
        self._channel.send({"op": "warm", "modules": self._to_learn, "first_use": first_use})
        self._to_learn, self._first_use = [], self._first_use and not first_use

    def _refill(self) -> None:
        # while it is cold: the first members do not wait for spares, which warming up would end
        early = self._warmth == "warming" or (self._warmth == "cold" and self._begun and not self._returned)
        if self.declaration is None or not self.alive or early:
            return
        while len(self._ahead) < self._spares:
            self._ahead.append(self._fork())

    def drop_spares(self) -> None:
        while self._ahead:
            spare = self._ahead.popleft()
            if not spare.done():
                spare.cancel()
            elif not spare.cancelled():
                with contextlib.suppress(LaunchError):
                    spare.result().close()  # it sees the end of its socket and exits
