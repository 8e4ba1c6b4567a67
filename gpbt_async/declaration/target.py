"""The target: where another process finds the training function.

The function never leaves the process that imported it; its file and name are sent instead. So it must have both: a
function at a file's top level, which takes one Member. Anything else is refused where it is declared, with what to
write instead.
"""

from __future__ import annotations

import inspect
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict, final

from ..errors import ExperimentError

if TYPE_CHECKING:
    from collections.abc import Callable


#: how a training function begins, and one that validates
SIGNATURE = "def {}(member): ..."
#: code flags of functions whose call only makes an object: async ones and generators
_NEVER_RUNS = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


class TargetRecord(TypedDict):
    """A Target in JSON."""

    file: str
    module: str | None
    qualname: str
    sys_path: list[str]


@final
class TargetOrder(TypedDict):
    """The order to a zygote to import a target."""

    target: TargetRecord


@dataclass(frozen=True, slots=True)
class Target:
    """Where to import the training function: a module by name, or a file when the module is a script.

    file: absolute path. module: importable name, or None to import the file under a name that is not __main__.
    qualname: the function's name. sys_path: entries that the import path of a member's process must have.
    """

    file: str
    module: str | None
    qualname: str
    sys_path: tuple[str, ...] = ()

    def to_json(self) -> TargetRecord:
        return TargetRecord(file=self.file, module=self.module, qualname=self.qualname, sys_path=list(self.sys_path))


def target_of(train: Callable[[Any], object], argument: str = "train") -> Target:
    """Where another process finds the function. argument: of Experiment, which gives it.

    Raises ExperimentError when it cannot be found there.
    """
    name = getattr(train, "__qualname__", None)
    code = getattr(inspect.unwrap(train), "__code__", None)  # a decorator's code is in another file
    if name is None or code is None or hasattr(train, "__self__") or code.co_flags & _NEVER_RUNS:
        raise ExperimentError.of(argument, train, f"must be a plain function; wrap it: {SIGNATURE.format(argument)}")
    if "<lambda>" in name or "<locals>" in name:
        raise ExperimentError.of(
            argument, name, "must be defined with def at the top level of a file, not inside a function"
        )
    file = os.path.abspath(code.co_filename)
    if code.co_filename.startswith("<") or not os.path.isfile(file):
        raise ExperimentError.of(
            argument, name, "is not in a file (a notebook cell or a prompt?): put it in a file and import it from there"
        )
    _takes_a_member(train, name, argument)
    module: str | None = train.__module__
    if module == "__main__":
        spec = getattr(sys.modules.get("__main__"), "__spec__", None)
        # `python -m app` has a spec, and its function can be imported by that name; `python app.py` has none
        module = spec.name if spec is not None else None
        if module is not None and module.endswith(".__main__"):
            module = None
    return Target(file, module, name, tuple(os.path.abspath(entry or ".") for entry in sys.path))


def _takes_a_member(train: Callable[[Any], object], name: str, argument: str) -> None:
    """A decorator's own signature counts, not the wrapped function's: it may pass arguments itself."""
    try:
        signature = inspect.signature(train, follow_wrapped=False)
    except (TypeError, ValueError):
        return  # a function of C has no signature to check
    try:
        signature.bind(object())
    except TypeError:
        required = [
            p.name
            for p in signature.parameters.values()
            if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]
        short = name.rpartition(".")[2]
        must = f"must take one argument, the member: def {short}(member): ..."
        if required[:1] == ["self"]:
            must = f"is a method, and must be a plain function; wrap it: {SIGNATURE.format(argument)}"
        elif len(required) > 1:
            must += f"; give {', '.join(required[1:])} a default, or make it in there"
        raise ExperimentError.saying(f"{argument}: got {short}{signature}; {must}") from None
