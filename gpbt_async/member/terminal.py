"""What a member does not have: a terminal. Debuggers and questions fail at once there, and say where they work.

A member's standard input is /dev/null and its output a log, so a debugger would read the end of a file and give up with
a bare BdbQuit, and input() with a bare EOFError. Touches `sys.breakpointhook` only; PYTHONBREAKPOINT is respected as
Python does: 0 switches breakpoints off, and a debugger of its own (a remote one) is called.
"""

from __future__ import annotations

import os
import sys
from typing import Any

_TRY = "a member of a run has no terminal: train one in the foreground instead, gpbt-async try SCRIPT"


def refuse_breakpoints() -> None:
    """From now on `breakpoint()` raises RuntimeError with a remedy, unless PYTHONBREAKPOINT says what to do instead."""
    sys.breakpointhook = _refuse


def _refuse(*args: Any, **kwargs: Any) -> Any:
    if os.environ.get("PYTHONBREAKPOINT"):
        return sys.__breakpointhook__(*args, **kwargs)
    raise RuntimeError(f"breakpoint() was called, and {_TRY}")


def advice(error: BaseException) -> str:
    """What to add to an error that only the missing terminal explains; empty for any other."""
    if isinstance(error, EOFError) and str(error) == "EOF when reading a line":
        return f" (input() was called, and {_TRY})"
    return f" (a debugger was started, and {_TRY})" if type(error).__name__ == "BdbQuit" else ""
