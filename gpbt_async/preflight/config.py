"""A member's config: a dict that records which hyperparameters the script has read.

The recorder is one byte a name in shared anonymous memory, so that what a forked DataLoader worker reads is known in
the member's own process too. Reading by item, `get`, `pop`, attribute (`config.lr`), `**config`, iteration, `items`,
`values`, copying and pickling all count; a read of everything is a read of each. Printing a config, `len`, `==` and
`name in config` are no reads: a script that only logs its config does not use it.

The surprise is `__iter__`: CPython copies a dict subclass behind its back (`dict(c)`, `f(**c)`, `{**c}`) unless the
subclass overrides `__iter__`; then it goes through `keys` and `__getitem__`, which are seen.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

#: bits of a name's byte: the script has read it; gpbt.torch has applied it
READ, APPLIED = 1, 2
_MISSING: Any = object()


class MemberConfig(dict[str, Any]):
    """config: name → value. The functions below say what was seen of it, so that no name of a user's is taken."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self.__dict__["_bits"] = mmap.mmap(-1, max(1, len(config)))  # shared with what the member forks
        self.__dict__["_index"] = {name: i for i, name in enumerate(config)}
        self.__dict__["_missed"] = {}
        self.__dict__["_overwritten"] = {}

    def _mark(self, names: Iterable[str], bit: int = READ) -> None:
        bits, index = self.__dict__["_bits"], self.__dict__["_index"]
        for name in names:
            i = index.get(name)
            if i is None:
                self.__dict__["_missed"][name] = None
            else:
                bits[i] |= bit

    def _mark_all(self) -> None:
        self._mark(self.__dict__["_index"])

    # ---- reads

    def __getitem__(self, name: str) -> Any:
        self._mark((name,))
        return super().__getitem__(name)

    def __getattr__(self, name: str) -> Any:
        """`config.lr`, as argparse's and OmegaConf's configs are read. Raises AttributeError."""
        if name.startswith("__") or name not in self.__dict__.get("_index", ()):
            raise AttributeError(f"the config has no {name!r}; it has {', '.join(self.__dict__.get('_index', ()))}")
        return self[name]

    def get(self, name: str, default: Any = None) -> Any:
        self._mark((name,))
        return super().get(name, default)

    def pop(self, name: str, default: Any = _MISSING) -> Any:
        self._mark((name,))
        return super().pop(name) if default is _MISSING else super().pop(name, default)

    def setdefault(self, name: str, default: Any = None) -> Any:
        self._mark((name,))
        return super().setdefault(name, default)

    def __contains__(self, name: object) -> bool:
        known = super().__contains__(name)
        if not known and isinstance(name, str):
            self._mark((name,))
        return known

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

    # ---- writes, by which a searched value may be lost before it was read

    def __setitem__(self, name: str, value: Any) -> None:
        i = self.__dict__["_index"].get(name)
        if i is not None and not self.__dict__["_bits"][i] and repr(dict.get(self, name)) != repr(value):
            self.__dict__["_overwritten"].setdefault(name, (dict.get(self, name), value))
        super().__setitem__(name, value)

    def update(self, *others: Any, **values: Any) -> None:
        for name, value in dict(*others, **values).items():
            self[name] = value

    def __ior__(self, other: Any) -> MemberConfig:  # type: ignore[override]
        self.update(other)
        return self

    # ---- copies, which are plain

    def copy(self) -> dict[str, Any]:
        self._mark_all()
        return peek(self)

    __copy__ = copy

    def __deepcopy__(self, memo: Any) -> dict[str, Any]:
        return self.copy()

    def __reduce__(self) -> Any:
        return dict, (self.copy(),)

    def __or__(self, other: Any) -> Any:
        return self.copy() | other

    def __ror__(self, other: Any) -> Any:
        return other | self.copy()


class _Names:
    """The names of a config: going through them is no read of the values yet, unless it is not for `**`."""

    def __init__(self, config: MemberConfig) -> None:
        self._config = config

    def __iter__(self) -> Iterator[str]:
        return dict.__iter__(self._config)

    def __len__(self) -> int:
        return len(self._config)

    def __contains__(self, name: object) -> bool:
        return name in self._config

    def __repr__(self) -> str:
        return f"dict_keys({list(self)})"

    def __and__(self, other: Iterable[str]) -> set[str]:
        return set(self) & set(other)

    def __or__(self, other: Iterable[str]) -> set[str]:
        return set(self) | set(other)

    def __sub__(self, other: Iterable[str]) -> set[str]:
        return set(self) - set(other)


def peek(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as a plain dict, without a read being recorded: for our own code."""
    return dict(dict.items(config)) if isinstance(config, MemberConfig) else dict(config)


def mark_applied(config: Mapping[str, Any], names: Iterable[str]) -> None:
    """gpbt.torch has set these hyperparameters where they belong."""
    if isinstance(config, MemberConfig):
        config._mark(names, APPLIED)


def read_names(config: MemberConfig) -> list[str]:
    """The hyperparameters that the script has read itself so far, in the config's order."""
    return _with(config, READ)


def applied_names(config: MemberConfig) -> list[str]:
    """The hyperparameters that gpbt.torch has applied so far, in the config's order."""
    return _with(config, APPLIED)


def missed_names(config: MemberConfig) -> list[str]:
    """Names that the script has asked for and that are not in the space, in the order of asking."""
    return list(config.__dict__["_missed"])


def overwritten_names(config: MemberConfig) -> list[list[str]]:
    """[name, the searched value, the script's], as texts, of what the script has set before it was read."""
    lost: dict[str, tuple[Any, Any]] = config.__dict__["_overwritten"]
    return [[name, repr(searched)[:100], repr(given)[:100]] for name, (searched, given) in lost.items()]


def script_reads(config: Mapping[str, Any], name: str) -> bool:
    """Has the script itself read this hyperparameter so far? (Unknown of any other mapping: False.)"""
    return isinstance(config, MemberConfig) and name in read_names(config)


def _with(config: MemberConfig, bit: int) -> list[str]:
    bits: mmap.mmap = config.__dict__["_bits"]
    return [name for name, i in config.__dict__["_index"].items() if bits[i] & bit]
