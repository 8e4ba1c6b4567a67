"""A member has no terminal: a debugger or a question fails at once, and the error says where it works.

A member's standard input is /dev/null and its output a log, so a debugger would read the end of a file and give up with
a bare BdbQuit, and input() with a bare EOFError. Only `sys.breakpointhook` is replaced. PYTHONBREAKPOINT is respected
as in Python: 0 switches breakpoints off, and another debugger (a remote one) is called.
"""

from __future__ import annotations

import os
import sys
from typing import Any

_REMEDY = "a member of a run has no terminal: train one in the foreground instead, gpbt-async try SCRIPT"


def refuse_breakpoints() -> None:
    """From now on `breakpoint()` raises RuntimeError with a remedy, unless PYTHONBREAKPOINT says what to do instead."""
    sys.breakpointhook = _refuse


def _refuse(*args: Any, **kwargs: Any) -> Any:
    if os.environ.get("PYTHONBREAKPOINT"):
        return sys.__breakpointhook__(*args, **kwargs)
    raise RuntimeError(f"breakpoint() was called, and {_REMEDY}")


def advice(error: BaseException) -> str:
    """What to add to the text of an error that comes from the missing terminal; "" for any other."""
    if isinstance(error, EOFError) and str(error) == "EOF when reading a line":
        return f" (input() was called, and {_REMEDY})"
    return f" (a debugger was started, and {_REMEDY})" if type(error).__name__ == "BdbQuit" else ""
