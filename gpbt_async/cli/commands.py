"""Commands that start quickly: only the one that is typed is imported, built and given its values.

Two things cost more than all the rest of a command such as `status`. Typer builds every command of an application to
run one of them, and it converts every value, also those that nobody gave, with pydantic, whose import alone takes
60 ms. So the group here builds a command when it is looked up, and a command here converts plain values itself: text,
paths, lists of text, and what a parser of ours reads.

The surprise is how little is replaced: `process_value` of a parameter, and that only for a kind of value which needs no
judgement. Whatever is missing, refused or of another kind goes the long way, and has Typer's own messages. A Typer that
does not describe its parameters by `type_descriptor` (before 0.26, when it used no pydantic) is left as it is.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, MutableMapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    Function = Callable[..., None]

#: how a value of a kind is made of what was typed, or of the default
_PLAIN: dict[Any, Callable[[Any], Any]] = {str: str, Path: Path, list[str]: list}


def _value(parameter: Any, thorough: Callable[[Any, Any], Any], ctx: Any, value: Any) -> Any:
    """The value of a parameter; `thorough` is Typer's way to it."""
    kind = parameter.type_descriptor.annotation
    convert = parameter.type_descriptor.parameter_info.parser or _PLAIN.get(kind)
    if value is None and not parameter.required:
        value = () if parameter.multiple or parameter.nargs == -1 else None
    elif convert is not None and (isinstance(value, str) or (kind == list[str] and value)):
        try:
            value = convert(value)
        except (ValueError, TypeError):
            return thorough(ctx, value)
    elif not isinstance(kind, type) or not isinstance(value, kind):
        return thorough(ctx, value)
    return value if parameter.callback is None else parameter.callback(ctx, parameter, value)


class _Quick:
    """A command or group that converts plain values itself."""

    def get_params(self, ctx: Any) -> list[Any]:
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            if hasattr(parameter, "type_descriptor") and "process_value" not in vars(parameter):
                parameter.process_value = functools.partial(_value, parameter, parameter.process_value)
        return parameters


class QuickCommand(_Quick, TyperCommand):
    """A command that converts plain values itself."""


class QuickGroup(_Quick, TyperGroup):
    """The group of the commands of HOMES."""

    #: the module of this package in which each command is, in the order in which --help lists them
    HOMES: ClassVar[dict[str, str]] = {}

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.commands = _OnDemand(self.HOMES)


class _OnDemand(MutableMapping[str, Any]):
    """Commands by name, each built when it is looked up first."""

    def __init__(self, homes: dict[str, str]) -> None:
        self._homes = homes
        self._built: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._built:
            module = import_module(f".{self._homes[name]}", __package__)
            function = getattr(module, name, None) or getattr(module, f"{name}_")
            self._built[name] = built(name, function)
        return self._built[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._built[name] = command

    def __delitem__(self, name: str) -> None:
        del self._built[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._homes)

    def __len__(self) -> int:
        return len(self._homes)


def built(name: str, function: Function) -> Any:
    """The command that a function is: its docstring is its help, and the examples at its end end the page, too."""
    text, _, examples = (inspect.getdoc(function) or "").partition("\n\nExamples:\n")
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name, cls=QuickCommand, help=text, epilog=f"\b\nExamples:\n{examples}")(function)
    return typer.main.get_command(app)
