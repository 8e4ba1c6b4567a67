"""The hyperparameter space: the hyperparameters that vary, their bounds and scales, and the constants.

Three dimensions (Float, Int, Choice) and a Space that names them. Pure: no clock, no files, no global random numbers;
a method that draws takes a `random.Random`, so the same seed gives the same config.

A plain value in a space, or a Choice of one option, is a *constant*. Every config contains the constants, but a Space
that is iterated over gives only its dimensions. `clip` and the methods that draw configs add the constants.

Every dimension maps its values onto the interval from 0 to 1. A logarithmic dimension maps the logarithms of its
values; integers and grids have bins of equal width. Searchers take their steps in this interval, so one step width fits
a learning rate as well as a number of layers. `clip` then brings each suggestion back into the space: between the
bounds, on the grid, with the dimension's own type.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Required, TypedDict

from .declaration.arguments import checked, integral, plain, real
from .declaration.foreign import BOUNDS, bounded, meant, scalar
from .errors import ExperimentError

if TYPE_CHECKING:
    import random


#: a value in a config: a JSON scalar
Scalar = str | int | float | bool | None
#: a hyperparameter configuration: one point of the space
Config = dict[str, Scalar]


def _comparable(value: Scalar) -> int | float:
    """`value` if it is a number. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise ValueError(f"{value!r} is not a number")
    return value


def reflect(u: float) -> float:
    """Fold a real number into [0, 1] by mirroring at the borders."""
    u = math.fmod(abs(u), 2.0)
    return 2.0 - u if u > 1.0 else u


@checked(**BOUNDS)
@dataclass(frozen=True, slots=True)
class Float:
    """A real number in [low, high], uniform, or log-uniform with `log`; on a grid low, low+step, … with `step`.

    Scalars of numpy and torch are accepted everywhere. Raises ExperimentError when low >= high, a bound or high - low
    is not finite, log with low <= 0 or more than 300 decades, or step is not in (0, high - low] or makes more than 1e9
    steps.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    kind: ClassVar[str] = "float"

    def __post_init__(self) -> None:
        for name in ("low", "high", "step"):
            object.__setattr__(self, name, plain(getattr(self, name)))
        bounded("Float", self.low, self.high, "both bounds must be finite numbers")
        if self.log and self.low <= 0:
            raise ExperimentError.of("Float", self.low, "with log=True low must be greater than 0")
        if not math.isfinite(float(self.high) - float(self.low)):
            raise ExperimentError.of("Float", (self.low, self.high), "high - low must be finite")
        if self.log and not self.high / self.low < 1e300:
            raise ExperimentError.of("Float", (self.low, self.high), "with log=True high / low must be less than 1e300")
        if self.step is not None and not (real(self.step) and 0 < self.step <= self.high - self.low):
            raise ExperimentError.of("Float.step", self.step, "must be greater than 0 and at most high - low")
        if self.step is not None and not (self.high - self.low) / self.step <= 1e9:
            raise ExperimentError.of(
                "Float.step", self.step, "makes more than 1e9 steps: leave it out, or take a wider one"
            )
        for name in ("low", "high", "step"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, float(getattr(self, name)))

    def _grid(self) -> int:
        """The index of the last grid point; the small slack keeps 0.1 * 3 <= 0.3."""
        assert self.step is not None
        return int((self.high - self.low) / self.step * (1 + 1e-12))

    def clip(self, value: Scalar) -> float:
        """The nearest value inside, on the grid. Raises ValueError for what is no number."""
        value = float(min(max(_comparable(value), self.low), self.high))
        if self.step is None:
            return value
        index = min(round((value - self.low) / self.step), self._grid())
        return min(self.low + index * self.step, self.high)

    def to_unit(self, value: Scalar) -> float:
        """The place of the clipped value in [0, 1]."""
        value = self.clip(value)
        if self.log:
            u = math.log(value / self.low) / math.log(self.high / self.low)
        elif self.step is not None:
            u = ((value - self.low) / self.step + 0.5) / (self._grid() + 1)
        else:
            u = (value - self.low) / (self.high - self.low)
        return min(max(u, 0.0), 1.0)

    def from_unit(self, u: float) -> float:
        """The value at u in [0, 1]."""
        if self.log:
            return self.clip(self.low * math.exp(u * math.log(self.high / self.low)))
        if self.step is not None:
            return self.clip(self.low + min(int(u * (self._grid() + 1)), self._grid()) * self.step)
        return self.clip(self.low + u * (self.high - self.low))

    def scale(self, value: Scalar, factor: float) -> float:
        """PBT's explore: value · factor, clipped; on a grid it moves by one step at least."""
        old = self.clip(value)
        new = self.clip(old * factor)
        if new == old and self.step is not None:
            new = self.clip(old + math.copysign(self.step, factor - 1.0))
        return new


@checked(**BOUNDS)
@dataclass(frozen=True, slots=True)
class Int:
    """An integer in [low, high], both included, uniform, or log-uniform with `log`; low, low+step, … with `step`.

    Whole floats such as 1e3 and numpy's scalars are accepted. Raises ExperimentError when low >= high, a bound is no
    whole number, log with low < 1, or step is not in [1, high - low].
    """

    low: int
    high: int
    log: bool = False
    step: int = 1
    kind: ClassVar[str] = "int"

    def __post_init__(self) -> None:
        for name in ("low", "high", "step"):
            object.__setattr__(self, name, integral(getattr(self, name)))
        bounded("Int", self.low, self.high, "both bounds must be whole numbers")
        if self.log and self.low < 1:
            raise ExperimentError.of("Int", self.low, "with log=True low must be at least 1")
        if isinstance(self.step, bool) or not isinstance(self.step, int) or not 1 <= self.step <= self.high - self.low:
            raise ExperimentError.of("Int.step", self.step, "must be a whole number from 1 to high - low")

    def _grid(self) -> int:
        return (self.high - self.low) // self.step

    def clip(self, value: Scalar) -> int:
        """The nearest value inside, on the grid. Raises ValueError for what is no number."""
        bounded = min(max(_comparable(value), self.low), self.high)
        return self.low + min(round((bounded - self.low) / self.step), self._grid()) * self.step

    def _ends(self) -> tuple[float, float]:
        """The logarithms of the outer edges of the first and the last bin."""
        return math.log(self.low - 0.5), math.log(self.low + self._grid() * self.step + 0.5)

    def to_unit(self, value: Scalar) -> float:
        """The place of the clipped value in [0, 1]: the middle of its bin."""
        clipped = self.clip(value)
        if self.log:
            first, last = self._ends()
            return (math.log(clipped) - first) / (last - first)
        return ((clipped - self.low) / self.step + 0.5) / (self._grid() + 1)

    def from_unit(self, u: float) -> int:
        """The value at u in [0, 1]."""
        if self.log:
            first, last = self._ends()
            return self.clip(math.exp(first + u * (last - first)))
        return self.low + min(int(u * (self._grid() + 1)), self._grid()) * self.step

    def scale(self, value: Scalar, factor: float) -> int:
        """PBT's explore: value · factor, rounded and clipped; by one step at least, or small ints would never move."""
        old = self.clip(value)
        new = self.clip(old * factor)
        return new if new != old else self.clip(old + int(math.copysign(self.step, factor - 1.0)))


@checked(**dict.fromkeys(("values", "categories", "choices", "categorical"), "did you mean options?"))
@dataclass(frozen=True, slots=True)
class Choice:
    """One of some options: JSON scalars (str, int, float, bool, None), no two alike. Only one: a constant.

    Options of different type are different (1, 1.0 and True are three options); numpy's scalars are stored as Python's.
    Anything else, such as a class or a function, is a declaration error: choose by name and look the name up in the
    training function.
    """

    options: tuple[Scalar, ...]
    kind: ClassVar[str] = "choice"

    def __init__(self, options: Any) -> None:
        if isinstance(options, str | set | frozenset) or not hasattr(options, "__iter__"):  # a set has no order to keep
            raise ExperimentError.of("Choice", options, "must be a list of options")
        listed = tuple(map(plain, options))
        for option in listed:
            if not scalar(option):
                raise ExperimentError.of(
                    "Choice",
                    option,
                    "an option must be a str, int, finite float, bool or None; name the thing and look it up in train",
                )
        if not listed:
            raise ExperimentError.of("Choice", [], "needs at least one option")
        if len({(type(o), o) for o in listed}) < len(listed):
            raise ExperimentError.of("Choice", list(listed), "no two options may be alike")
        object.__setattr__(self, "options", listed)

    def index(self, value: Scalar) -> int:
        """The number of the option that equals value, from 0. Raises ValueError when none does."""
        for i, option in enumerate(self.options):
            if type(option) is type(value) and option == value:
                return i
        raise ValueError(f"{value!r} is none of {list(self.options)!r}")

    def clip(self, value: Scalar) -> Scalar:
        """The option equal to value, of the same type. Raises ValueError when it is none of them."""
        return self.options[self.index(value)]

    def to_unit(self, value: Scalar) -> float:
        """The middle of the option's share of [0, 1]. Raises ValueError when value is none of them."""
        return (self.index(value) + 0.5) / len(self.options)

    def from_unit(self, u: float) -> Scalar:
        """The value at u in [0, 1]."""
        return self.options[min(int(u * len(self.options)), len(self.options) - 1)]

    def scale(self, value: Scalar, factor: float) -> Scalar:
        """PBT's explore of a list: value's neighbour on the side factor points to, or the same at the end."""
        i = self.index(value) + (1 if factor > 1.0 else -1)
        return self.options[min(max(i, 0), len(self.options) - 1)]


Dimension = Float | Int | Choice


class DimensionRecord(TypedDict, total=False):
    """A dimension in JSON, or a constant, whose kind is "constant". It has what its kind has."""

    kind: Required[str]
    low: float
    high: float
    log: bool
    step: float | None
    options: list[Scalar]
    value: Scalar


class Space(Mapping[str, Dimension]):
    """An ordered mapping name → dimension. The order is the declaration's; it never changes what is drawn for a name.

    dimensions: name → Float, Int or Choice, or a plain value (str, int, finite float, bool or None), which is constant.
    Constants, and a Choice of one option, are in `constants`, not in the mapping. Raises ExperimentError when empty, or
    when a name is not a string or a value neither a dimension nor a constant.
    """

    def __init__(self, dimensions: Mapping[str, Dimension | Scalar]) -> None:
        if not isinstance(dimensions, Mapping) or not dimensions:
            must = "must be a non-empty dict, name: Float, Int or Choice (or a constant)"
            raise ExperimentError.of("space", dimensions, must)
        #: hyperparameters that are searched
        self._dimensions: dict[str, Dimension] = {}
        #: values that are in every config and are not searched
        self.constants: Config = {}
        #: all names, in the declaration's order
        self.names: tuple[str, ...] = tuple(dimensions)
        for name, given in dimensions.items():
            if not isinstance(name, str) or not name:
                raise ExperimentError.of("space", name, "a hyperparameter's name must be a non-empty string")
            value = plain(given)
            if isinstance(value, Choice) and len(value.options) == 1:
                self.constants[name] = value.options[0]
            elif isinstance(value, Float | Int | Choice):
                self._dimensions[name] = value
            elif scalar(value):
                self.constants[name] = value
            else:
                raise ExperimentError.of(f"space[{name!r}]", given, meant(value))

    def __getitem__(self, name: str) -> Dimension:
        return self._dimensions[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._dimensions)

    def __len__(self) -> int:
        return len(self._dimensions)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Space):
            return self._dimensions == other._dimensions and _same(self.constants, other.constants)
        return not self.constants and self._dimensions == other

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Space({ {name: self._dimensions.get(name, self.constants.get(name)) for name in self.names}!r})"

    def sample(self, rng: random.Random) -> Config:
        """A config drawn uniformly (in each dimension's own scale) by rng."""
        return self._ordered({name: self[name].from_unit(rng.random()) for name in sorted(self)})

    def _ordered(self, config: Config) -> Config:
        """The config in the declaration's order. (Draws are made by name, so that this order does not change them.)"""
        return {name: config[name] if name in self._dimensions else self.constants[name] for name in self.names}

    def searched(self, config: Config) -> Config:
        """The config without constants; itself where there are none."""
        return {name: config[name] for name in self._dimensions} if self.constants else config

    def clip(self, config: Mapping[str, Scalar]) -> Config:
        """`config` with each value inside its dimension, on its grid and in its type. A constant may be left out.

        Raises ValueError when a name is missing or unknown, a value is not of the dimension's kind, or a constant is
        given another value.
        """
        odd = sorted((config.keys() ^ self._dimensions.keys()) - self.constants.keys())
        if odd:
            raise ValueError(f"the config and the space differ in {', '.join(odd)}")
        for name, value in self.constants.items():
            if not _same(config.get(name, value), value):
                raise ValueError(f"{name}: {config[name]!r} is not the constant {value!r}")
        clipped: Config = {}
        for name, dimension in self._dimensions.items():
            try:
                clipped[name] = dimension.clip(config[name])
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        return self._ordered(clipped)

    def holds(self, config: Mapping[str, Scalar]) -> bool:
        """Is the config a point of the space, without clipping?"""
        try:
            return self.clip(config) == config
        except ValueError:
            return False

    def hull(self, other: Space) -> Space:
        """A space that holds every config of this one and other; both have the same names and kinds."""
        whole: dict[str, Dimension] = {}
        for name in self.names:
            mine, theirs = self._options(name), other._options(name)
            if isinstance(mine, Choice) and isinstance(theirs, Choice):
                options = [(type(o), o) for o in mine.options]
                whole[name] = Choice([*mine.options, *(o for o in theirs.options if (type(o), o) not in options)])
            elif isinstance(mine, Int) and isinstance(theirs, Int):
                low, high = min(mine.low, theirs.low), max(mine.high, theirs.high)
                same = mine.step == theirs.step and mine.low == theirs.low
                whole[name] = Int(low, high, theirs.log and low >= 1, mine.step if same else 1)
            elif isinstance(mine, Float) and isinstance(theirs, Float):
                least, most = min(mine.low, theirs.low), max(mine.high, theirs.high)
                same = mine.step == theirs.step and mine.low == theirs.low and mine.high == theirs.high
                whole[name] = Float(least, most, theirs.log and least > 0, mine.step if same else None)
            else:
                raise ValueError(f"{name} is of different kinds")
        return Space(whole)

    def _options(self, name: str) -> Dimension:
        """A name's dimension; for a constant a Choice of it alone."""
        return self._dimensions[name] if name in self._dimensions else Choice([self.constants[name]])

    def encode(self, config: Mapping[str, Scalar]) -> list[float]:
        """The config as a point of the unit cube, one coordinate a dimension (a constant has none), in their order."""
        return [d.to_unit(config[name]) for name, d in self._dimensions.items()]

    def decode(self, units: list[float]) -> Config:
        """The config at a point of the unit cube (units); `decode(encode(c)) == c` up to rounding of floats."""
        return self._ordered(
            {name: d.from_unit(u) for (name, d), u in zip(self._dimensions.items(), units, strict=True)}
        )

    def perturb(self, config: Mapping[str, Scalar], rng: random.Random, resample: float = 0.25) -> Config:
        """PBT's explore of config (Jaderberg et al. 2017), by rng: × 0.8 or 1.2; redrawn with probability resample."""
        moved: Config = {}
        for name in sorted(self):
            dimension = self[name]
            u, again, up = rng.random(), rng.random(), rng.random()
            factor = 1.2 if up < 0.5 else 0.8
            moved[name] = dimension.from_unit(u) if again < resample else dimension.scale(config[name], factor)
        return self._ordered(moved)

    def step(self, config: Mapping[str, Scalar], rng: random.Random, width: float, redraw: float) -> Config:
        """One Gaussian step around config, by rng, mirrored at the borders.

        width: the standard deviation in the unit cube, > 0. redraw: the probability that a Choice is redrawn (the
        result may be the same option).
        """
        moved: Config = {}
        for name in sorted(self):
            dimension = self[name]
            if isinstance(dimension, Choice):
                again, u = rng.random(), rng.random()
                moved[name] = dimension.from_unit(u) if again < redraw else config[name]
            else:
                moved[name] = dimension.from_unit(
                    reflect(dimension.to_unit(config[name]) + width * rng.gauss(0.0, 1.0))
                )
        return self._ordered(moved)

    def to_json(self) -> dict[str, DimensionRecord]:
        """A JSON object, name → {kind, …}; `from_json` gives an equal space back."""
        described: dict[str, DimensionRecord] = {}
        for name in self.names:
            d = self._dimensions.get(name)
            if d is None:
                described[name] = {"kind": "constant", "value": self.constants[name]}
            elif isinstance(d, Choice):
                described[name] = {"kind": d.kind, "options": list(d.options)}
            else:
                described[name] = {"kind": d.kind, "low": d.low, "high": d.high, "log": d.log, "step": d.step}
        return described

    @classmethod
    def from_json(cls, described: Mapping[str, Mapping[str, Any]]) -> Space:
        """The space that `to_json` described. Raises ExperimentError, KeyError, TypeError."""
        kinds = {"float": Float, "int": Int, "choice": Choice}
        dimensions: dict[str, Dimension | Scalar] = {}
        for name, d in described.items():
            more = {key: value for key, value in d.items() if key != "kind"}
            dimensions[name] = more["value"] if d["kind"] == "constant" else kinds[d["kind"]](**more)
        return cls(dimensions)


def _same(one: object, other: object) -> bool:
    """Equal, and of equal type: 1, 1.0 and True are three values."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    return type(one) is type(other) and one == other
