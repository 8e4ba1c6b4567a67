"""A run in the foreground: until it ends, with a live view on stderr, and with Ctrl-C.

`drive` is for a run of this process: Ctrl-C stops it, and a second one kills it. `attended` is for a run of another
process: Ctrl-C only stops watching it. `foreground` is for other work, which cleans up when it is cancelled.

What shows a run is imported while the run's processes start, because the first member waits for what comes before.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from ..errors import GPBTError, PreflightError, RunFailed
from ..processes import linux
from .output import print_json, say

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from ..events import RunStatus
    from ..scheduler.run import Run
    from ..storage.folder import RunFolder


T = TypeVar("T")

#: seconds between two looks at a run that is still importing its script
LOOK = 0.1


def drive(run: Run, quiet: bool, as_json: bool) -> NoReturn:
    """Run it to its end, print its result on stdout, and exit with its status."""
    linux.be_alone()
    logging.getLogger("gpbt_async").addHandler(logging.NullHandler())
    status = asyncio.run(driven(run, quiet))
    if as_json and run.how is not None:
        print_json(run.summary())
    elif run.how is not None and run.settings.replay is not None:
        from ..analysis.run_summary import compared
        from ..ui.summaries import replay_text

        print(replay_text(compared(run.engine)))
    raise SystemExit(status)


async def driven(run: Run, quiet: bool) -> int:
    """The exit status."""
    task = asyncio.current_task()
    assert task is not None
    entered = stopping = shown = False

    def interrupt() -> None:
        nonlocal stopping
        if not entered:
            task.cancel()  # still importing: there is nothing to keep
        elif stopping:
            run.kill()
        else:
            stopping = True
            run.stop()

    asyncio.get_running_loop().call_soon(_import_view)  # once we wait
    with _signals(interrupt, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        try:
            async with run:
                entered = True
                shown = await _show(run, quiet)
                await run.wait()
        except asyncio.CancelledError:
            say("interrupted before anything was started")
            return 130
        except GPBTError as error:
            return _explain(error, entered, shown)
    return _status(run.how)


def _import_view() -> None:
    from ..analysis import logs, run_summary  # noqa: F401
    from ..ui import terminal  # noqa: F401


async def _show(run: Run, quiet: bool) -> bool:
    """Show a run to its end; False if it had ended before."""
    from ..ui.terminal import show

    if run.how is None:
        if run.settings.notice and not run.engine.count and not quiet:
            say(run.settings.notice)
        await show(run, quiet=quiet)
        return True
    if not quiet:
        for text in run.warnings:
            say(text)
        print(f"{run.name} has finished already: gpbt-async best {run.folder.shell_name}", file=sys.stderr)
    return False


def _explain(error: GPBTError, entered: bool, shown: bool) -> int:
    """Explain what ended a run; the exit status."""
    from ..analysis.logs import notes

    if not shown or not isinstance(error, RunFailed):
        say(str(error))  # the view has already shown why a run failed
    for note in notes(error):
        print(note, file=sys.stderr)
    if isinstance(error, PreflightError):
        return error.exit_status
    return 1 if entered or isinstance(error, RunFailed) else 2


def _status(how: RunStatus | None) -> int:
    from ..events import RunStatus

    return 0 if how == RunStatus.FINISHED else 1 if how == RunStatus.FAILED else 130


@contextlib.contextmanager
def _signals(handler: Callable[[], object], *numbers: int) -> Iterator[None]:
    """Calls the handler, in the event loop. A signal that our parent had ignored (nohup, a shell's &) stays ignored."""
    loop = asyncio.get_running_loop()
    numbers = tuple(number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN)
    for number in numbers:
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def attended(folder: RunFolder, quiet: bool) -> int:
    """Show a run of another process until it is over; the exit status that it has there."""
    from ..ui.attached import Attached
    from ..ui.terminal import clock, show

    announced = quiet
    while folder.locked() is not None and not folder.experiment.is_file():
        if not announced:
            say(f"{folder.name} is importing its script")
        announced = True
        await asyncio.sleep(LOOK)
    run = Attached(folder.open(folder.path))
    await show(run, quiet=quiet, view=run.memory(clock()))
    return _status(run.how)


def paused(folder: RunFolder) -> bool:
    """Is it running, and paused by a person? False if it cannot be read."""
    from ..analysis.reader import RunReader

    try:
        return RunReader(folder).paused_by_hand
    except GPBTError:
        return False


def foreground(work: Coroutine[Any, Any, T]) -> T:
    """Like asyncio.run; Ctrl-C, SIGTERM and a closed terminal cancel the work. Raises KeyboardInterrupt then."""

    async def cancellable() -> T:
        task = asyncio.current_task()
        assert task is not None
        with _signals(task.cancel, signal.SIGTERM, signal.SIGHUP):  # Ctrl-C is asyncio's
            return await work

    try:
        return asyncio.run(cancellable())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
