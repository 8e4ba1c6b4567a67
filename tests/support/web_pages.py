"""A server of live pages, and a page's view of it: what the tests of the server and of the pages share."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import threading
import time
from typing import TYPE_CHECKING, Any

from harness import LONG

from gpbt_async.storage.journal import Journal
from gpbt_async.ui import web_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from starlette.applications import Starlette

    from gpbt_async.storage.folder import RunFolder

TOKEN = "let-me-in-0123456789"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def patched(old: Any, patch: Any) -> Any:
    """Apply a patch, as stream.js does."""
    if "=" in patch:
        return patch["="]
    if "k" in patch:
        return {**old, **{name: patched(old[name], inner) for name, inner in patch["k"].items()}}
    if "l" in patch:
        return [patched(item, patch["l"][str(i)]) if str(i) in patch["l"] else item for i, item in enumerate(old)]
    new = (list(old) + [None] * patch["n"])[: patch["n"]]
    for at, value in zip(patch["i"], patch["v"], strict=True):
        new[at] = value
    return new


class Server:
    """The application in a thread of its own, at a port of its own."""

    def __init__(self, web: Starlette) -> None:
        self.listening = web_server._listen(0)
        self.port = self.listening.getsockname()[1]
        self._server = web_server._server(web)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self.listening]})
        self._thread.start()

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive(), "an open page does not delay the end"
        self.listening.close()

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, headers={name.replace("_", "-"): v for name, v in headers.items()})
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read().decode()
        finally:
            connection.close()

    def events(self, path: str) -> Stream:
        return Stream(self.port, path)


class Stream:
    """The data of a run's report, as a page keeps it."""

    def __init__(self, port: int, path: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._connection.request("GET", path, headers=BEARER)
        self._answer = self._connection.getresponse()
        assert self._answer.status == 200
        assert self._answer.getheader("content-type", "").startswith("text/event-stream")
        self.data: Any = None
        self.sizes: list[int] = []

    def until(self, what: Callable[[Any], Any]) -> Any:
        """The first data for which `what` is true."""
        deadline = time.monotonic() + LONG
        while self.data is None or not what(self.data):
            line = self._answer.readline().decode()
            assert line, "the server has closed the stream"
            assert time.monotonic() < deadline, self.data
            line = line.rstrip("\n")
            if line.startswith("event: "):
                kind, text = line[7:], self._answer.readline().decode().removeprefix("data: ")
                self.sizes.append(len(text))
                self.data = json.loads(text) if kind == "report_data" else patched(self.data, json.loads(text))
        return self.data

    def close(self) -> None:
        self._answer.close()
        self._connection.close()


@contextlib.contextmanager
def served(folder: Path) -> Iterator[Server]:
    server = Server(web_server.app(folder, token=TOKEN))
    try:
        yield server
    finally:
        server.close()


@contextlib.contextmanager
def going_on(folder: RunFolder) -> Iterator[Journal]:
    """Hold the run's lock, as a scheduler does."""
    with open(folder.lock_file, "w") as lock, Journal.open(folder.journal) as journal:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield journal
