"""The hint for a script that declares an experiment and was run with `python mine.py` instead of launched.

Such a script would define a function, make an object, and end with status 0 and no output. So an Experiment that the
program itself declares is remembered; if nothing has used it when the process ends (no Run, no launch, no run_alone, no
Member.local), one sentence goes to stderr. The exit status stays the same.

False alarms are the danger. There is no hint for an application, which names Run or launch somewhere in its file; for a
file that does something under `if __name__ == "__main__":`, so that it serves two purposes; nor in prompts, notebooks
and programs that end in a traceback.
"""

from __future__ import annotations

import atexit
import builtins
import os
import sys

#: names that an application uses, or a script that serves both purposes
_USES = {"Run", "launch", "run_alone", "local", "Simulation", "simulate", "notebook", "settings"}
#: calls that only declare
_DECLARES = {"Experiment", "Resources", "Space", "Float", "Int", "Choice"}

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep

_used = False
_watched: int | None = None


def use() -> None:
    """An experiment is used in this process: no hint at its end."""
    global _used
    _used = True


def declared() -> None:
    """An Experiment was declared: if the program itself did so, prepare the hint."""
    global _watched
    frame = sys._getframe(1)
    while frame.f_code.co_filename.startswith(_OURS) and frame.f_back is not None:
        frame = frame.f_back
    main = sys.modules.get("__main__")
    if _watched is not None or main is None or frame.f_globals is not vars(main):
        return
    file = getattr(main, "__file__", None)
    prompt = sys.flags.interactive or hasattr(sys, "ps1") or hasattr(builtins, "__IPYTHON__")
    if file is None or prompt or frame.f_code.co_filename != file:
        return
    _watched = os.getpid()
    atexit.register(_hint, os.path.abspath(file), getattr(main, "__spec__", None))


def _hint(file: str, spec: object) -> None:
    if _used or _watched != os.getpid() or hasattr(sys, "last_value") or sys.stderr is None:
        return
    try:
        with open(file, encoding="utf-8") as source:
            serves = _serves_otherwise(source.read())
    except (OSError, ValueError, SyntaxError, RecursionError):
        return
    if not serves:
        name = getattr(spec, "name", None)
        typed = f"-m {name}" if name is not None else os.path.relpath(file)
        print(
            f"{os.path.basename(file)} declares an experiment and was run as a program, which trains nothing: "
            f"gpbt-async launch {typed}",
            file=sys.stderr,
        )


def _serves_otherwise(source: str) -> bool:
    """Does the file use its experiment itself, or do something of its own when it is run?"""
    import ast  # not before: every training script imports this module

    tree = ast.parse(source)
    for node in ast.walk(tree):
        name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
        if name in _USES:
            return True
    for statement in tree.body:
        if isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test):
            calls = (node for each in statement.body for node in ast.walk(each) if isinstance(node, ast.Call))
            if any(ast.unparse(call.func).rpartition(".")[2] not in _DECLARES for call in calls):
                return True
    return False
