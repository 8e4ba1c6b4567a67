"""Words from outside to the scheduler that runs a run, through its control FIFO: stop, pause, go on, leave a GPU.

A word is a wish: whether it came true is read from the run's lock and its journal. Nothing is written but the word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import FolderError

if TYPE_CHECKING:
    from .folder import RunFolder


#: what a person may tell a run: begin no member from now on; begin members again
PAUSE, GO_ON = "pause", "go on"
WORDS = ("drain", "drain-now", "return")


def send(folder: RunFolder, word: str) -> None:
    """Tell the run's scheduler a word. Raises FolderError when nobody runs it, or listens."""
    if folder.locked() is None:
        raise FolderError(f"{folder.name} is not running; see gpbt-async status {folder.typed}")
    if not folder.tell(word):
        raise FolderError(f"{folder.name} is locked, but its scheduler does not listen yet; try again in a moment")
