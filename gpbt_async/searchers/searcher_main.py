"""The searcher process: asks in, configs out, one line each, until the scheduler closes. client.py describes the lines.

From one ask to the next the process keeps only its imports. If the searcher cannot be made, the process does not end,
because the client would take that for a crash and try again. Instead it answers every ask with the reason.
"""

from __future__ import annotations

import contextlib
import json
import signal
from typing import TYPE_CHECKING

from ..ask import Ask
from ..errors import GPBTError
from ..formatting import error_line
from ..processes.helper_main import SchedulerLink, search_also
from ..space import Space
from . import registry

if TYPE_CHECKING:
    from ..ask import AskRecord
    from .searcher import Searcher


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the scheduler, which then closes the socket
    with SchedulerLink.inherited() as scheduler, contextlib.suppress(OSError):
        serve(scheduler)


def serve(scheduler: SchedulerLink) -> None:
    """Answer asks until the scheduler has closed its side."""
    hello = scheduler.receive()
    if hello is None:
        return
    space, name = Space.from_json(hello["space"]), hello["searcher"]
    search_also(hello.get("path", []))
    searcher, unusable = _made(name, space)
    while (request := scheduler.receive()) is not None:
        if searcher is None:
            answer: dict[str, object] = {"unusable": unusable}
        else:
            answer = _answer(searcher, space, request["ask"]) if "ask" in request else {"config": {}}
        scheduler.send({"id": request["id"], **answer})


def _made(name: str, space: Space) -> tuple[Searcher | None, str]:
    """The searcher, or why there is none."""
    try:
        searcher = registry.make(name)
        registry.warm(name, space)
    except GPBTError as error:
        return None, str(error)
    except Exception as error:
        return None, f"searcher {name!r} cannot work here: {error_line(error)}"
    return searcher, ""


def _answer(searcher: Searcher, space: Space, ask: AskRecord) -> dict[str, object]:
    try:
        config: object = searcher.suggest(Ask.from_json(space, ask))
        if not isinstance(config, dict):
            raise TypeError(f"suggested {config!r}, which is no dict")
        try:
            json.dumps(config)
        except (TypeError, ValueError) as error:
            text = f"suggested {config!r}, which is not plain JSON: {error} (a numpy value's .item() is)"
            raise TypeError(text) from None
        return {"config": config}
    except Exception as error:
        return {"error": error_line(error)}
