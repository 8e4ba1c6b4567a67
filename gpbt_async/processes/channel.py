"""The scheduler's end of its sockets to guardian and zygote: JSON lines and descriptors, inside the event loop.

Sending never waits and never fails: data that the socket does not accept yet is sent later. If the other side dies,
`ended` is called once. The handler of a message owns the descriptors that came with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING, Any

from . import linux

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Channel:
    """handle: called with each message and its descriptors. ended: called once, when the other side is gone."""

    def __init__(
        self,
        sock: socket.socket,
        handle: Callable[[dict[str, Any], list[int]], object],
        ended: Callable[[], object],
    ) -> None:
        sock.setblocking(False)
        self._line = linux.Line(sock)
        self._loop = asyncio.get_running_loop()
        self._handle = handle
        self._ended = ended
        self._unsent: list[tuple[bytes, list[int]]] = []
        self.open = True
        self._loop.add_reader(sock, self._readable)

    def send(self, message: Mapping[str, object], fds: list[int] | None = None) -> None:
        """Send, now or soon. The caller may close the descriptors at once."""
        if self.open:
            self._unsent.append((linux.pack(message, fds), [os.dup(fd) for fd in fds or ()]))
            if len(self._unsent) == 1:
                self._flush()

    def _flush(self) -> None:
        sock = self._line.sock
        while self._unsent:
            data, fds = self._unsent[0]
            try:
                sent = socket.send_fds(sock, [data], fds)
            except BlockingIOError:
                sent = -1
            except OSError:
                self._discard()  # the other side is gone; _readable sees that in a moment
                break
            if sent >= 0:
                _close(fds)  # they travel with the first byte
                self._unsent[0] = (data[sent:], [])
            if sent < len(data):
                self._loop.add_writer(sock, self._flush)
                return
            del self._unsent[0]
        self._loop.remove_writer(sock)

    def _readable(self) -> None:
        messages = self._line.receive()
        if messages is None:
            self.close()
            self._ended()
            return
        for message, fds in messages:
            self._handle(message, fds)

    def _discard(self) -> None:
        for _data, fds in self._unsent:
            _close(fds)
        self._unsent.clear()

    def close(self) -> None:
        """Close our end, which is the order to end for both zygote and guardian."""
        if self.open:
            self.open = False
            self._discard()
            self._loop.remove_reader(self._line.sock)
            self._loop.remove_writer(self._line.sock)
            self._line.close()


def _close(fds: list[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


async def wait_readable(fd: int, within: float | None = None) -> bool:
    """Wait until a descriptor is readable: a pidfd is once the process is dead. False after `within` seconds."""
    loop = asyncio.get_running_loop()
    event: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not event.done():
            event.set_result(None)

    loop.add_reader(fd, wake)
    try:
        await asyncio.wait([event], timeout=within)
        return event.done()
    finally:
        loop.remove_reader(fd)
