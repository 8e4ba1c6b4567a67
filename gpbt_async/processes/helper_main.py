"""The other end of a HelperProcess: how a helper program finds its scheduler and talks to it.

The program inherits a socket, whose number is in the environment, and speaks JSON, one message a line. The first line
says what it is to do. The end of the input is the order to end: the scheduler has closed its side, or has died, perhaps
in the middle of a line. Standard library only, and no event loop: a helper pays for what it imports.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


#: the environment variable that holds the number of the inherited socket
FD = "GPBT_FD"


class SchedulerLink:
    """The socket to the scheduler. Owns it; a context manager."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(True)
        self.connection = connection
        self._lines = connection.makefile("rb")

    @classmethod
    def inherited(cls) -> SchedulerLink:
        return cls(socket.socket(fileno=int(os.environ[FD])))

    def receive(self) -> Any:
        """The next message; None when the scheduler has closed its side, or died in mid-line."""
        line = self._lines.readline()
        return json.loads(line) if line.endswith(b"\n") else None

    def send(self, message: Mapping[str, object]) -> None:
        """Raises OSError when the scheduler is gone."""
        self.connection.sendall(json.dumps(message).encode() + b"\n")

    def __enter__(self) -> SchedulerLink:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self.connection.close()


def search_also(folders: list[str]) -> None:
    """Import from these folders, too, and from them first."""
    sys.path[:0] = [folder for folder in folders if folder not in sys.path]
