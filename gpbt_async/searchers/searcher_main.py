"""The searcher process: asks in, configs out, one line each, until the socket closes. The other end is asking.py.

Nothing here outlives an ask but what was imported. A searcher that cannot be made or warmed does not end the process,
which would look like a crash worth repeating; every ask is told why instead.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from typing import Any

from ..ask import Ask
from ..errors import GPBTError
from ..space import Space
from . import registry
from .client import FD


def main(fd: int | None = None) -> None:
    """Serve asks from the socket `fd` (by default the one named in the environment) until its other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the scheduler, which then closes the socket
    with socket.socket(fileno=int(os.environ[FD]) if fd is None else fd) as connection, contextlib.suppress(OSError):
        connection.setblocking(True)
        serve(connection)


def serve(connection: socket.socket) -> None:
    with connection.makefile("rb") as lines:
        first = lines.readline()
        if not first.endswith(b"\n"):
            return  # whoever was talking has died
        hello = json.loads(first)
        space, name = Space.from_json(hello["space"]), hello["searcher"]
        sys.path[:0] = [entry for entry in hello.get("path", ()) if entry not in sys.path]
        searcher, unusable = _made(name, space)
        for line in lines:
            if not line.endswith(b"\n"):
                return
            request = json.loads(line)
            if searcher is None:
                answer: dict[str, Any] = {"unusable": unusable}
            else:
                answer = _asked(searcher, space, request["ask"]) if "ask" in request else {"config": None}
            connection.sendall(json.dumps({"id": request["id"], **answer}).encode() + b"\n")


def _made(name: str, space: Space) -> tuple[registry.Searcher | None, str]:
    """The searcher, or why there is none."""
    try:
        searcher = registry.make(name)
        registry.warm(name, space)
    except GPBTError as error:
        return None, str(error)
    except Exception as error:
        return None, f"searcher {name!r} cannot work here: {registry.said(error)}"
    return searcher, ""


def _asked(searcher: registry.Searcher, space: Space, ask: dict[str, Any]) -> dict[str, Any]:
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
        return {"error": registry.said(error)}
