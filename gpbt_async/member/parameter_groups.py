"""Parameter groups: which values of a config belong to an optimizer, and which value each of its groups gets.

A script splits its parameters into groups to train them differently: biases without weight decay, a pretrained body at
a tenth of the head's learning rate. The config holds one value a name, so each group has a multiplier. The first group
that has no declared multiplier, and a value other than 0, has 1. The rules, in this order:

    declared      a group with `NAME_mult` (lr_mult, weight_decay_mult, …) gets the config's value times it
    different     lr and weight_decay: groups keep their proportions, and a zero beside others stays zero;
                  of all else (momentum, eps, …) a group that differs keeps the value that it has
    all zero      weight_decay: a group of biases and norms alone (no matrix) beside groups that have one stays zero
    the same      all get the value

The surprise is the last rule: several groups without weight decay that all have matrices and do not differ may have
been split for the very weight decay that is searched. `multipliers` reports this as a guess.

Reads and writes an optimizer's `param_groups` only, and imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .config import peek

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..space import Scalar

    Group = dict[str, Any]
    #: of each group the factor for the config's value; None: the group keeps its own value
    Multipliers = list[float | None]

#: name in a config → torch's name
ALIASES = {"learning_rate": "lr"}
BETAS = ("beta1", "beta2")
#: options whose proportions between groups are kept
_SCALES = ("lr", "weight_decay")
#: keys of a group in which groups always differ
_NO_OPTIONS = ("params", "param_names", "initial_lr")


def settings(config: Mapping[str, Scalar], optimizer: Any) -> dict[str, Any]:
    """torch's name → value of what the config has for this optimizer. Raises TypeError if a number is not one."""
    first = optimizer.param_groups[0]
    options = {}
    for alias, value in peek(config).items():
        name = ALIASES.get(alias, alias)
        if name == "params" or (name not in first and not (name in BETAS and "betas" in first)):
            continue
        now = 0.0 if name in BETAS else first[name]
        if (is_number(now) or name == "lr") and not (isinstance(value, int | float) and not isinstance(value, bool)):
            raise TypeError(f"config[{alias!r}] is {value!r}, but the optimizer's {name} is a number: give a number")
        options[name] = value
    return options


def aliases(config: Mapping[str, Scalar], name: str) -> list[str]:
    """The config's names for one of torch's names."""
    return [alias for alias in peek(config) if ALIASES.get(alias, alias) == name]


def is_number(value: object) -> bool:
    """Is it a number, or a tensor that holds one?"""
    return (isinstance(value, int | float) and not isinstance(value, bool)) or hasattr(value, "item")


def number(value: Any) -> float:
    """The value as a float; 0 for None (transformers' Adafactor without a learning rate)."""
    return 0.0 if value is None else float(value)


def multipliers(name: str, groups: Sequence[Group], values: Sequence[float] | None = None) -> tuple[Multipliers, bool]:
    """(multiplier of each group by the rules above, whether they are a guess).

    values: the groups' values, if they are not `group[name]` (a learning rate that a scheduler has changed).
    """
    has = [_has(group, name) for group in groups]
    if not all(number for _, number in has):
        return [1.0 if there else None for there, _ in has], False
    current = list(values) if values is not None else [_value(group, name) for group in groups]
    declared = [group.get(f"{name}_mult") for group in groups]
    free = [i for i, mult in enumerate(declared) if mult is None and has[i][0]]
    reference = next((current[i] for i in free if current[i]), 0.0)
    guess = False
    mults: Multipliers = [None if mult is None else float(mult) for mult in declared]
    for i in free:
        if not reference or current[i] == reference:
            mults[i] = 1.0
        elif name in _SCALES:
            mults[i] = current[i] / reference
    if name == "weight_decay" and not reference and len(free) > 1:
        matrices = [any(p.ndim > 1 for p in groups[i]["params"]) for i in free]
        if any(matrices) and not all(matrices):
            for i, matrix in zip(free, matrices, strict=True):
                mults[i] = 1.0 if matrix else 0.0
        else:
            guess = all(matrices) and _all_alike([groups[i] for i in free])
    return mults, guess


def assign(name: str, value: Any, groups: Sequence[Group], mults: Multipliers) -> None:
    """Set an option in the groups. (The learning rate is set by `lr_schedulers.set_lr`, as schedulers follow it.)"""
    for group, mult in zip(groups, mults, strict=True):
        if mult is None:
            continue
        new = value if mult == 1 else value * mult
        if name in BETAS:
            pair = list(group["betas"])
            pair[BETAS.index(name)] = new
            group["betas"] = tuple(pair)
        elif hasattr(group[name], "fill_"):
            group[name].fill_(new)
        else:
            group[name] = new


def value_of(name: str, group: Group) -> float | None:
    """A group's value as a number; None if it has none."""
    there, numeric = _has(group, name)
    return _value(group, name) if there and numeric else None


def _has(group: Group, name: str) -> tuple[bool, bool]:
    """(Does the group have this option? Is it a number?)"""
    if name in BETAS:
        return "betas" in group, True
    return name in group, name == "lr" or name not in group or is_number(group[name])


def _value(group: Group, name: str) -> float:
    if name in BETAS:
        return number(group["betas"][BETAS.index(name)]) if "betas" in group else 0.0
    return number(group.get(name))


def _all_alike(groups: Sequence[Group]) -> bool:
    options = [{name: repr(value) for name, value in g.items() if name not in _NO_OPTIONS} for g in groups]
    return all(other == options[0] for other in options)
