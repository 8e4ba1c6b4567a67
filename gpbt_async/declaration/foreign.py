"""Foreign values in a space, and what was probably meant by them.

A list where Choice was meant, a pair of bounds, a sweep's {"min": …, "max": …}, a class that was not called, or the
distribution of another tuner: Optuna, Ray Tune, hyperopt, ConfigSpace, SciPy and others. None of their packages is
imported; their objects are recognised by their modules, and by the attributes that hold their bounds.
"""

from __future__ import annotations

from typing import Any

from ..errors import ExperimentError
from .arguments import plain, real

#: other tuners' words for the arguments of Float and Int → a hint
BOUNDS = {
    **dict.fromkeys(("min", "minimum", "lower", "start", "a"), "did you mean low?"),
    **dict.fromkeys(("max", "maximum", "upper", "stop", "end", "b"), "did you mean high?"),
    **dict.fromkeys(("q", "quantum"), "did you mean step?"),
}
#: packages that have a space of their own
TUNERS = {
    "optuna": "Optuna",
    "ray": "Ray Tune",
    "hyperopt": "hyperopt",
    "ConfigSpace": "ConfigSpace",
    "skopt": "scikit-optimize",
    "scipy": "SciPy",
    "nevergrad": "Nevergrad",
    "keras_tuner": "KerasTuner",
    "syne_tune": "Syne Tune",
    "nni": "NNI",
    "wandb": "Weights & Biases",
}
_MUST = "must be gpbt.Float(low, high), gpbt.Int(low, high), gpbt.Choice([...]), or a constant: a number or a text"
_ATTRIBUTES = (("low", "high"), ("lower", "upper"), ("min_value", "max_value"))


def scalar(value: object) -> bool:
    """May `value` be in a config: is it a str, int, finite float, bool or None?"""
    return value is None or isinstance(value, str | bool) or real(value)


def bounded(kind: str, low: Any, high: Any, must: str) -> None:
    """Check the bounds of a Float or an Int (kind); must: the message for bounds of a wrong type.

    Raises ExperimentError.
    """
    text = [each for each in (low, high) if isinstance(each, str)]
    if text:
        must += f", not text: write {text[0].strip()} without quotes (YAML reads 1e-3 as text, and 1.0e-3 as a number)"
    right = real(low) and real(high) and (kind == "Float" or (isinstance(low, int) and isinstance(high, int)))
    if not right:
        raise ExperimentError.of(kind, (low, high), must)
    if low == high:
        must = f"low must be less than high; for a constant give the value itself, {low!r}, instead of a {kind}"
        raise ExperimentError.of(kind, (low, high), must)
    if low > high:
        raise ExperimentError.of(kind, (low, high), f"low must be less than high: did you mean {kind}({high}, {low})?")


def meant(value: Any) -> str:
    """What to write instead of a value that a space does not take."""
    kind = type(value)
    package = kind.__module__.partition(".")[0]
    if package in TUNERS:
        return f"is {TUNERS[package]}'s, and this space takes its own: {_instead(value)}"
    if isinstance(value, type):
        if value.__module__.startswith("gpbt_async"):
            return f"is not called: give its arguments, gpbt.{value.__name__}(...)"
        return f"is a class: name it (the text {value.__name__!r}), and look the name up in train"
    if isinstance(value, tuple | list) and value and all(scalar(plain(each)) for each in value):
        return _of_list([plain(each) for each in value], pair=isinstance(value, tuple) and len(value) == 2)
    if isinstance(value, range) or (hasattr(value, "tolist") and getattr(value, "ndim", 0) == 1):
        return "did you mean gpbt.Choice of it?"
    if isinstance(value, dict):
        return _of_dict(value)
    if isinstance(value, float):
        return "a constant must be finite, or JSON cannot say it"
    if callable(value):
        return "is a function: give gpbt.Float(low, high), gpbt.Int(low, high) or gpbt.Choice([...]), which draw for it"
    return _MUST


def _of_list(values: list[Any], pair: bool) -> str:
    """The hint for some values. pair: two of them in a tuple, which are bounds if they are numbers in order."""
    choice = f"gpbt.Choice({values!r})"
    if pair and all(map(real, values)) and values[0] < values[1]:
        kind = "Int" if all(isinstance(each, int) for each in values) else "Float"
        log = ", log=True" if values[0] > 0 and values[1] / values[0] >= 100 else ""
        return f"did you mean gpbt.{kind}({values[0]!r}, {values[1]!r}{log}), or {choice}?"
    return f"did you mean {choice}?"


def _of_dict(value: dict[Any, Any]) -> str:
    low, high = value.get("min", value.get("low", value.get("lower"))), value.get("max", value.get("high"))
    high = value.get("upper") if high is None else high
    if real(low) and real(high):
        kind = "Int" if isinstance(low, int) and isinstance(high, int) else "Float"
        return f"did you mean gpbt.{kind}({low!r}, {high!r})?"
    for name in ("values", "choices", "options"):
        if isinstance(value.get(name), list):
            return f"did you mean gpbt.Choice({value[name]!r})?"
    if set(value) == {"value"} and scalar(plain(value["value"])):
        return f"for a constant give the value itself: {value['value']!r}"
    return "a space is flat: give each hyperparameter a name of its own in it"


def _instead(value: Any) -> str:
    for options in ("choices", "categories"):
        listed = getattr(value, options, None)
        if isinstance(listed, list | tuple):
            return f"did you mean gpbt.Choice({list(listed)!r})?"
    for names in _ATTRIBUTES:
        low, high = (plain(getattr(value, name, None)) for name in names)
        if real(low) and real(high):
            whole = isinstance(low, int) and isinstance(high, int)
            log = bool(getattr(value, "log", False)) or "log" in type(getattr(value, "sampler", None)).__name__.lower()
            return f"did you mean gpbt.{'Int' if whole else 'Float'}({low!r}, {high!r}{', log=True' if log else ''})?"
    return "gpbt.Float(low, high, log=True), gpbt.Int(low, high) or gpbt.Choice([...])"
