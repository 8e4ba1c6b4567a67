"""A member's config: a dict that records which hyperparameters the script has read.

Reading by item, `get`, `pop`, attribute (`config.lr`), `**config`, iteration, `items`, `values`, copying and pickling
all count; a read of everything is a read of each. Printing a config, `len`, `==` and `name in config` do not: a script
that only logs its config does not use it. A value that the script overwrites before reading it is noted, too.

Reads are marked in a plain dict, which torch.compile can trace. A process forked from the member (a DataLoader's
worker) also marks them in shared anonymous memory, one byte a name, so that the member's own process learns of them.

The surprise is `__iter__`: CPython copies a dict subclass without calling its methods (`dict(c)`, `f(**c)`, `{**c}`)
unless the subclass overrides `__iter__`; then it goes through `keys` and `__getitem__`. Copies are plain dicts.
"""

from __future__ import annotations

import mmap
import os
from collections import OrderedDict
from collections.abc import KeysView
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ..space import Config, Scalar


#: bits of a name's mark: the script has read it; gpbt.torch has applied it
READ, APPLIED = 1, 2
_MISSING: Any = object()
#: forks between the first process and this one: a config made before the last fork belongs to a parent process
_forks = 0


def _forked() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_forked)


class MemberConfig(dict[str, Any]):
    """config: name → value. What was read of it is asked by functions below, so that no method hides a user's name."""

    def __init__(self, config: Mapping[str, Scalar]) -> None:
        super().__init__(config)
        #: name → bits; the same in memory that is shared with processes that the member forks
        self.__dict__["_marks"] = dict.fromkeys(config, 0)
        self.__dict__["_shared"] = mmap.mmap(-1, max(1, len(config)))
        self.__dict__["_made"] = _forks
        self.__dict__["_missed"] = {}
        self.__dict__["_overwritten"] = {}

    def _mark(self, names: Iterable[str], bit: int = READ) -> None:
        marks = self.__dict__["_marks"]
        for name in names:
            if name in marks:
                marks[name] |= bit
            else:
                self.__dict__["_missed"][name] = None
        if self.__dict__["_made"] != _forks:
            for i, bits in enumerate(marks.values()):
                self.__dict__["_shared"][i] |= bits

    def _mark_all(self) -> None:
        self._mark(self.__dict__["_marks"])

    # ---- reads

    def __getitem__(self, name: str) -> Any:
        self._mark((name,))
        return super().__getitem__(name)

    def __getattr__(self, name: str) -> Any:
        """`config.lr`, as argparse's and OmegaConf's configs are read. Raises AttributeError."""
        marks = self.__dict__.get("_marks", {})
        if name.startswith("__") or name not in marks:
            raise AttributeError(f"the config has no {name!r}; it has {', '.join(marks)}")
        return self[name]

    def get(self, name: str, default: Any = None) -> Any:
        self._mark((name,))
        return super().get(name, default)

    def pop(self, name: str, default: Any = _MISSING) -> Any:
        self._mark((name,))
        return super().pop(name) if default is _MISSING else super().pop(name, default)

    def popitem(self) -> tuple[str, Any]:
        name, value = super().popitem()
        self._mark((name,))
        return name, value

    def setdefault(self, name: str, default: Any = None) -> Any:
        self._mark((name,))
        return super().setdefault(name, default)

    def __contains__(self, name: object) -> bool:
        there = super().__contains__(name)
        if not there and isinstance(name, str):
            self._mark((name,))
        return there

    def __iter__(self) -> Iterator[str]:
        self._mark_all()
        return super().__iter__()

    def keys(self) -> Any:  # `**config` asks for the keys, and then for each value by item
        return _Names(self)

    def items(self) -> Any:
        self._mark_all()
        return super().items()

    def values(self) -> Any:
        self._mark_all()
        return super().values()

    # ---- writes, by which a searched value may be lost before it is read

    def __setitem__(self, name: str, value: Any) -> None:
        unread = self.__dict__["_marks"].get(name) == 0
        if unread and repr(dict.get(self, name)) != repr(value):
            self.__dict__["_overwritten"].setdefault(name, (dict.get(self, name), value))
        super().__setitem__(name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def update(self, *others: Any, **values: Any) -> None:
        for name, value in dict(*others, **values).items():
            self[name] = value

    def __ior__(self, other: Any) -> MemberConfig:  # type: ignore[override]
        self.update(other)
        return self

    # ---- copies, which are plain

    def copy(self) -> Config:
        self._mark_all()
        return peek(self)

    __copy__ = copy

    def __deepcopy__(self, memo: Any) -> Config:
        return self.copy()

    def __reduce__(self) -> Any:
        # a class that torch.load(weights_only=True) knows: a config is often saved beside the weights
        return OrderedDict, (), None, None, iter(self.copy().items())

    def __or__(self, other: Any) -> Any:
        return self.copy() | other

    def __ror__(self, other: Any) -> Any:
        return other | self.copy()


class _Names(KeysView[str]):
    """The names of a config. Iterating over them does not read the values, unless it is for `**`."""

    _mapping: MemberConfig

    def __iter__(self) -> Iterator[str]:
        return dict.__iter__(self._mapping)

    def __repr__(self) -> str:
        return f"dict_keys({list(self)})"


def peek(config: Mapping[str, Scalar]) -> Config:
    """The config as a plain dict, without recording a read: for our own code."""
    return dict(dict.items(config)) if isinstance(config, MemberConfig) else dict(config)


def mark_applied(config: Mapping[str, Scalar], names: Iterable[str]) -> None:
    """gpbt.torch has set these hyperparameters in an optimizer."""
    if isinstance(config, MemberConfig):
        config._mark(names, APPLIED)


def read_names(config: MemberConfig) -> list[str]:
    """The hyperparameters that the script itself has read so far, in the config's order."""
    return _with(config, READ)


def applied_names(config: MemberConfig) -> list[str]:
    """The hyperparameters that gpbt.torch has applied so far, in the config's order."""
    return _with(config, APPLIED)


def missed_names(config: MemberConfig) -> list[str]:
    """Names that the script has asked for although they are not in the space, in the order of asking."""
    return list(config.__dict__["_missed"])


def overwritten_names(config: MemberConfig) -> list[list[str]]:
    """[name, the searched value, the script's], as texts, of what the script has overwritten before reading it."""
    overwritten: dict[str, tuple[Any, Any]] = config.__dict__["_overwritten"]
    return [[name, repr(searched)[:100], repr(given)[:100]] for name, (searched, given) in overwritten.items()]


def script_reads(config: Mapping[str, Scalar], name: str) -> bool:
    """Has the script itself read this hyperparameter so far? False for a mapping that does not record reads."""
    return isinstance(config, MemberConfig) and name in read_names(config)


def _with(config: MemberConfig, bit: int) -> list[str]:
    marks, shared = config.__dict__["_marks"], config.__dict__["_shared"]
    return [name for i, (name, bits) in enumerate(marks.items()) if (bits | shared[i]) & bit]
