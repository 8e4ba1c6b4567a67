"""A script that declares an experiment and is simply run, `python mine.py`: said what it is, and how to launch it.

Such a script would define a function, make an object, and end with status 0 without a word. So an Experiment that is
declared in the program itself is remembered, and when the process ends and nothing has used it (no Run, no launch, no
run_alone, no Member.local), one sentence goes to stderr. The status stays what it is.

False alarms are the danger. An application names Run or launch somewhere in its file, and may not come to use it; a
file with a part under `if __name__ == "__main__":` that does something serves two purposes by its author's will; and
prompts, notebooks and programs that end in a traceback have said enough. All of them hear nothing.
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
    """An experiment is used in this process: there is nothing to be said at its end."""
    global _used
    _used = True


def declared() -> None:
    """An Experiment is made: if the program itself does so, watch what becomes of it."""
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
    atexit.register(_tell, os.path.abspath(file), getattr(main, "__spec__", None))


def _tell(file: str, spec: object) -> None:
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
