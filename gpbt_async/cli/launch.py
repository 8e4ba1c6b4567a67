"""A run on the command line: to its end, with a view on stderr, until somebody presses Ctrl-C.

Ours (`driven`), or one that another process runs (`attended`), and then Ctrl-C ends only our looking at it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from ..analysis.logs import notes
from ..analysis.results import compared
from ..errors import GPBTError, PreflightError, RunFailed
from ..processes import linux
from ..ui.attached import Attached
from ..ui.summaries import replay_text
from ..ui.terminal import clock, show
from .options import jsonable, say

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from ..scheduler.run import Run
    from ..storage.folder import RunFolder


T = TypeVar("T")

#: seconds between two looks whether a run that imports its script has begun
LOOK = 0.1


def drive(run: Run, quiet: bool, as_json: bool) -> NoReturn:
    """Run it to its end, with a view on stderr, tell what came of it on stdout, and exit with its status."""
    linux.be_alone()
    logging.getLogger("gpbt_async").addHandler(logging.NullHandler())
    status = asyncio.run(driven(run, quiet))
    if as_json and run.how is not None:
        print(json.dumps(jsonable(run.summary()), indent=1))
    elif run.how is not None and run.settings.replay is not None:
        print(replay_text(compared(run.engine)))
    raise SystemExit(status)


async def driven(run: Run, quiet: bool) -> int:
    """The exit status."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    entered = asked = shown = False

    def interrupt() -> None:
        nonlocal asked
        if not entered:
            task.cancel()  # still importing: there is nothing to keep
        elif asked:
            run.kill()
        else:
            asked = True
            run.stop()

    signals = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    # what whoever started us has had ignored (nohup, a shell's &) stays ignored
    signals = [number for number in signals if signal.getsignal(number) is not signal.SIG_IGN]
    for number in signals:
        loop.add_signal_handler(number, interrupt)
    try:
        async with run:
            entered = True
            if run.how is None:
                if run.settings.notice and not run.engine.count and not quiet:
                    say(run.settings.notice)
                await show(run, quiet=quiet)
                shown = True
            elif not quiet:
                for text in run.warnings:
                    say(text)
                print(f"{run.name} has finished already: gpbt-async best {run.folder.typed}", file=sys.stderr)
            await run.wait()
    except asyncio.CancelledError:
        say("interrupted before anything was started")
        return 130
    except GPBTError as error:
        if not shown or not isinstance(error, RunFailed):
            say(str(error))  # a run that failed has been told so by the view
        for note in notes(error):
            print(note, file=sys.stderr)
        if isinstance(error, PreflightError):
            return error.exit_status
        return 1 if entered or isinstance(error, RunFailed) else 2
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
    return _status(run.how)


def _status(how: str | None) -> int:
    return {"finished": 0, "failed": 1}.get(how or "", 130)


async def attended(folder: RunFolder, quiet: bool) -> int:
    """Show a run that another process runs, until it is over; the exit status it ends with there."""
    told = False
    while folder.locked() is not None and not folder.experiment.is_file():
        if not told and not quiet:
            say(f"{folder.name} is importing its script")
        told = True
        await asyncio.sleep(LOOK)
    run = Attached(folder.open(folder.path))
    await show(run, quiet=quiet, view=run.memory(clock()))
    return _status(run.how)


def paused(folder: RunFolder) -> bool:
    """Has somebody paused the run that is going on there? False if nobody can say."""
    try:
        run = Attached(folder)
    except GPBTError:
        return False
    return run.how is None and bool(run.usage.by_hand)


def foreground(work: Coroutine[Any, Any, T]) -> T:
    """asyncio.run, for what is to clean up behind itself: Ctrl-C, SIGTERM and a closed terminal cancel it.

    Raises KeyboardInterrupt then.
    """

    async def watched() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        for number in (signal.SIGTERM, signal.SIGHUP):  # Ctrl-C is asyncio's
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, task.cancel)
        return await work

    try:
        return asyncio.run(watched())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
