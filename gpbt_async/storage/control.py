"""Requests to a running scheduler, through its control FIFO: stop, pause, continue, leave a GPU.

A request is one line. The client learns from the run's lock and journal whether it was carried out; there is no answer.
A request about a GPU names it behind the word: "drain GPU-1234".
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from ..errors import FolderError

if TYPE_CHECKING:
    from .folder import RunFolder


class ControlRequest(StrEnum):
    """STOP ends the session. PAUSE begins no member from now on, and GO_ON begins members again. DRAIN takes a GPU from
    the run once its members have finished, DRAIN_NOW at once; RETURN gives it back.
    """

    STOP = "stop"
    PAUSE = "pause"
    GO_ON = "go on"
    DRAIN = "drain"
    DRAIN_NOW = "drain-now"
    RETURN = "return"

    @classmethod
    def parse(cls, line: str) -> tuple[ControlRequest, str] | None:
        """The request, and the GPU that it names or ""; None for a line that is no request."""
        for request in cls:
            if request not in GPU_REQUESTS and line == request:
                return request, ""
            if request in GPU_REQUESTS and line.startswith(f"{request} ") and line != f"{request} ":
                return request, line[len(request) + 1 :]
        return None


GPU_REQUESTS = (ControlRequest.DRAIN, ControlRequest.DRAIN_NOW, ControlRequest.RETURN)


def send(folder: RunFolder, request: ControlRequest, gpu: str = "") -> None:
    """gpu: the UUID, for a request about a GPU. Raises FolderError when no scheduler of the run listens."""
    if folder.locked() is None:
        raise FolderError(f"{folder.name} is not running; see gpbt-async status {folder.shell_name}")
    if not folder.tell(f"{request} {gpu}" if gpu else request):
        raise FolderError(f"{folder.name} is locked, but its scheduler does not listen yet; try again in a moment")
