"""The user's declaration, checked once, with clear errors.

An Experiment says what is trained (a function of one Member, or a command line), over which space, towards which
score, and how the population is bred. It is pure data with one exception, the training function, which never leaves
the process that imported it: the scheduler gets the declaration as JSON and the function as file + qualified name.
So everything here must be sayable in JSON, and what is not is refused where it is declared, naming the line.
"""

from __future__ import annotations

import inspect
import math
import os
import re
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from . import standalone
from .errors import ExperimentError
from .preflight.findings import CATALOGUE, known
from .schedule import Schedule
from .sizes import parse_bytes
from .space import Dimension, Space

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

#: searchers by name, beside a user's `module:Name`; searchers.py holds what they do
SEARCHERS = (
    "local", "tpe", "kin", "perturb", "random", "optuna:tpe", "optuna:gp", "optuna:cmaes", "optuna:qmc",
)  # fmt: skip
#: no population and no generations are larger: what is asked for beyond is a slip of the finger
MOST = 1_000_000
#: no more members share a GPU: CUDA's own context alone takes hundreds of MiB in each; and none takes less memory
MOST_A_GPU = 1000
LEAST_VRAM = 1 << 20
HISTORIES = ("inherit", "reset", "global")
SELECTIONS = ("comma", "plus")
SCHEDULES = ("async", "sync")
#: rules of early stopping, of which any number may be on; stopping.py says what they do
STOP_RULES = ("median", "generation")
#: settings by name; what is given explicitly beside a preset wins over it
PRESETS: dict[str, dict[str, Any]] = {
    # Scardigli et al.: a barrier, TPE with one start-up trial, inherited history, parents from the last generation only
    "paper": {"schedule": "sync", "searcher": "tpe", "history": "inherit", "selection": "comma", "early_stop": ()},
}
#: code flags of functions whose call only makes an object: async ones and generators
_NEVER_RUNS = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
#: what a command line may hold in braces beside hyperparameters
PLACEHOLDERS = ("parent", "checkpoint", "metrics", "config", "seed", "generation", "member")


@dataclass(frozen=True, slots=True)
class Resources:
    """What one member needs.

    gpus: 1 = one GPU each (the default; CPU slots on a machine without NVIDIA's driver), 0 = CPU slots, more = so many
    for each member, given together. share >= 1: how many members may be on one GPU at a time; None = one, or with vram
    as many as fit. vram: the GPU memory a member takes on each of its GPUs, as "6GiB" or "500MiB", or "auto": members
    train alone until one has finished, and the greatest peak seen decides. cpus >= 1: threads a member may use, None =
    the cores divided among the slots. Raises ExperimentError.
    """

    gpus: int = 1
    share: int | None = None
    vram: str | None = None
    cpus: int | None = None

    def __post_init__(self) -> None:
        _whole("resources.gpus", self.gpus, 0)
        if self.share is not None:
            _whole("resources.share", self.share, 1, MOST_A_GPU)
        if self.vram is not None:
            try:
                if not isinstance(self.vram, str) or (self.vram != "auto" and parse_bytes(self.vram) < LEAST_VRAM):
                    raise ValueError
            except ValueError:
                must = "must be an amount of at least 1MiB with its unit, such as '6GiB' or '500MiB', or 'auto'"
                raise ExperimentError.of("resources.vram", self.vram, must) from None
        if self.cpus is not None:
            _whole("resources.cpus", self.cpus, 1)


@dataclass(frozen=True, slots=True)
class Target:
    """Where to import the training function: a module by name, or a file when the module is a script.

    file: absolute path. module: importable name, or None to import the file under a name that is not __main__.
    qualname: the function's name. sys_path: the entries a child's import path must have.
    """

    file: str
    module: str | None
    qualname: str
    sys_path: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"file": self.file, "module": self.module, "qualname": self.qualname, "sys_path": list(self.sys_path)}

    @classmethod
    def from_json(cls, t: Mapping[str, Any]) -> Target:
        return cls(t["file"], t["module"], t["qualname"], tuple(t["sys_path"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """An Experiment without its function: everything that decides what a run does, as JSON says it."""

    space: Space
    score: str
    mode: str = "max"
    population: int = 25
    generations: int = 10
    ratio: float = 1.0
    searcher: str = "local"
    history: str = "inherit"
    selection: str = "comma"
    evidence: float = 0.75
    early_stop: tuple[str, ...] = ()
    schedule: str = "async"
    seed: int = 0
    preset: str | None = None
    resources: Resources = field(default_factory=Resources)
    attempts: int = 3
    stall_timeout: float | None = None
    member_timeout: float | None = None
    #: findings of the pre-flight that are not told (preflight.findings)
    silence: tuple[str, ...] = ()
    command: tuple[str, ...] | None = None
    target: Target | None = None
    #: a run that trains along a schedule once more instead of searching for one; replaying.py declares it
    replay: Schedule | None = None

    def __post_init__(self) -> None:
        _check_settings(self)

    @property
    def parents(self) -> int:
        """k = min(n, max(1, floor(sqrt(n / c)))): how many members of a generation become parents."""
        return self.parents_within(1e-12)  # 14 / 0.14 is 99.99999999999999, and its root is 10 all the same

    def parents_within(self, slack: float) -> int:
        """k, for a quotient n / c that may be too small by this share. (Runs begun under rules 0 have none.)"""
        quotient = self.population / self.ratio
        if quotient >= self.population**2:  # also keeps a tiny ratio from overflowing
            return self.population
        return max(1, math.isqrt(math.floor(quotient * (1 + slack))))

    def replaced(self, **changes: Any) -> Settings:
        """A copy with some fields changed, and checked again. A preset among them changes what it names.

        Raises ExperimentError.
        """
        if changes.get("preset") is not None:
            _one_of("preset", changes["preset"], tuple(PRESETS))
            changes = {**PRESETS[changes["preset"]], **changes}
        if "early_stop" in changes:
            changes["early_stop"] = stop_rules(changes["early_stop"])
        if "silence" in changes:
            changes["silence"] = tuple(dict.fromkeys((*self.silence, *silenced(changes["silence"]))))
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return Settings(**{**fields, **changes})

    def with_options(self, changes: Mapping[str, Any]) -> Settings:
        """`replaced` by options of the command line: an error names the option, as no line of a script is to blame."""
        try:
            return self.replaced(**changes)
        except ExperimentError as error:
            option, _, rest = error.said.replace(", or None for no limit", "").partition(":")
            raise ExperimentError(f"--{option.replace('_', '-')}:{rest}" if rest else str(error)) from None

    def to_json(self) -> dict[str, Any]:
        flat = {name: getattr(self, name) for name in self.__dataclass_fields__}
        r = self.resources
        flat["space"] = self.space.to_json()
        flat["resources"] = {"gpus": r.gpus, "share": r.share, "vram": r.vram, "cpus": r.cpus}
        flat["early_stop"] = list(self.early_stop)
        flat["silence"] = list(self.silence)
        flat["command"] = list(self.command) if self.command else None
        flat["target"] = self.target.to_json() if self.target else None
        flat["replay"] = self.replay.to_json() if self.replay else None
        return flat

    @classmethod
    def from_json(cls, flat: Mapping[str, Any]) -> Settings:
        fields = {name: flat[name] for name in cls.__dataclass_fields__ if name in flat}
        fields["space"] = Space.from_json(flat["space"])
        fields["resources"] = Resources(**flat["resources"])
        fields["early_stop"] = tuple(flat.get("early_stop") or ())
        fields["silence"] = tuple(flat.get("silence") or ())
        fields["command"] = tuple(flat["command"]) if flat.get("command") else None
        fields["target"] = Target.from_json(flat["target"]) if flat.get("target") else None
        fields["replay"] = Schedule.from_json(flat["replay"]) if flat.get("replay") else None
        return cls(**fields)


class _Default(str):
    """A default the caller has not chosen, so that a preset may replace it; reads as the value it is."""

    __slots__ = ()


class Experiment:
    """What to train, over which space, towards which score, and how the population is bred.

    train: a function of one Member, defined at the top level of a file. command: instead of train, a program and its
    arguments, one word each, with {placeholders}. space: name → Float, Int or Choice. score: the reported metric that
    counts; mode: "max" or "min". resources: what one member needs; None = one GPU, or a CPU slot where there is none.

    population n >= 1 members train in each of generations T >= 1. ratio c > 0: children per parent over number of
    parents, so k = floor(sqrt(n / c)) members of a generation become parents. searcher: who chooses configs, by name,
    or a class of yours as "module:Name". history: which members a searcher is told about: the parent's family
    ("inherit"), its own children ("reset"), or everybody ("global"). selection: "comma" (parents come from the last
    generation) or "plus" (a parent not beaten stays). evidence in [0, 1]: the share of a generation that must have
    finished before the next one opens. schedule: "async" or "sync" (the paper's barrier). early_stop: None, "median"
    (a member, by its first report), "generation" (no more children), or both with a comma. seed >= 0: of everything
    random. preset: "paper" is the authors' algorithm; what is given beside it wins.

    attempts >= 1: how often a failing member is tried. stall_timeout: seconds without a report, member_timeout: seconds
    inside `train`, after which an attempt is ended and has failed; None = never. silence: names of findings of the
    pre-flight that are not to be told, as ["GPBT009"] (guide "findings"). Source of the method: Scardigli et al.,
    arXiv 2109.14925.

    Raises ExperimentError, naming the field, the value, what is allowed, and the line.
    """

    def __init__(
        self,
        train: Callable[[Any], object] | None = None,
        *,
        command: Sequence[str] | None = None,
        space: Mapping[str, Dimension],
        score: str,
        mode: str = "max",
        population: int = 25,
        generations: int = 10,
        ratio: float = 1.0,
        searcher: str = _Default("local"),
        history: str = _Default("inherit"),
        selection: str = _Default("comma"),
        evidence: float = 0.75,
        early_stop: str | Sequence[str] | None = None,
        schedule: str = _Default("async"),
        seed: int = 0,
        preset: str | None = None,
        resources: Resources | None = None,
        attempts: int = 3,
        stall_timeout: float | None = None,
        member_timeout: float | None = None,
        silence: str | Sequence[str] = (),
    ) -> None:
        standalone.declared()
        if (train is None) == (command is None):
            given = "neither" if train is None else "both"
            raise ExperimentError.of("train, command", given, "give exactly one: a training function, or a command")
        if command is not None and not (
            isinstance(command, list | tuple) and all(isinstance(word, str) for word in command)
        ):
            raise ExperimentError.of("command", command, "must be a list of words, e.g. ['./solver', '--lr', '{lr}']")
        self.train = train
        chosen: dict[str, Any] = {
            "searcher": searcher,
            "history": history,
            "selection": selection,
            "schedule": schedule,
            "early_stop": stop_rules(early_stop),
        }
        if preset is not None:
            _one_of("preset", preset, tuple(PRESETS))
            unchosen = {name for name, value in chosen.items() if isinstance(value, _Default) or value == ()}
            chosen |= {name: value for name, value in PRESETS[preset].items() if name in unchosen}
        chosen = {name: str(value) if isinstance(value, _Default) else value for name, value in chosen.items()}
        self.settings = Settings(
            space=space if isinstance(space, Space) else Space(space),
            score=score,
            mode=mode,
            population=population,
            generations=generations,
            ratio=ratio,
            evidence=evidence,
            seed=seed,
            preset=preset,
            resources=resources if resources is not None else Resources(),
            attempts=attempts,
            stall_timeout=stall_timeout,
            member_timeout=member_timeout,
            silence=silenced(silence),
            command=tuple(command) if command is not None else None,
            target=target_of(train) if train is not None else None,
            **chosen,
        )

    def __repr__(self) -> str:
        s = self.settings
        what = s.target.qualname if s.target else " ".join(s.command or ())
        return f"Experiment({what}, population={s.population}, generations={s.generations})"

    def to_json(self) -> dict[str, Any]:
        """The declaration as a JSON object, the training function as its Target."""
        return self.settings.to_json()


def target_of(train: Callable[[Any], object]) -> Target:
    """Where another process finds the training function. Raises ExperimentError when it cannot be found there."""
    name = getattr(train, "__qualname__", None)
    code = getattr(inspect.unwrap(train), "__code__", None)  # a decorator's code is in another file
    if name is None or code is None or hasattr(train, "__self__") or code.co_flags & _NEVER_RUNS:
        raise ExperimentError.of("train", train, "must be a plain function; wrap it: def train(member): ...")
    if "<lambda>" in name or "<locals>" in name:
        raise ExperimentError.of(
            "train", name, "must be defined with def at the top level of a file, not inside a function"
        )
    file = os.path.abspath(code.co_filename)
    if code.co_filename.startswith("<") or not os.path.isfile(file):
        raise ExperimentError.of(
            "train", name, "is not in a file (a notebook cell or a prompt?): put it in a file and import it from there"
        )
    module: str | None = train.__module__
    if module == "__main__":
        spec = getattr(sys.modules.get("__main__"), "__spec__", None)
        # `python -m app` has a spec, and its function can be imported by that name; `python app.py` has none
        module = spec.name if spec is not None else None
        if module is not None and module.endswith(".__main__"):
            module = None
    return Target(file, module, name, tuple(os.path.abspath(entry or ".") for entry in sys.path))


def stop_rules(given: object) -> tuple[str, ...]:
    """Rules of early stopping as named: None, "median", "median,generation", or a list. Raises ExperimentError."""
    if given is None or given == "none":
        return ()
    names = given.split(",") if isinstance(given, str) else given
    if not isinstance(names, list | tuple):
        raise ExperimentError.of("early_stop", given, f"must be None, or of {', '.join(map(repr, STOP_RULES))}")
    for name in names:
        _one_of("early_stop", name, STOP_RULES, ", or both with a comma, or 'none'")
    return tuple(rule for rule in STOP_RULES if rule in names)


def silenced(given: object) -> tuple[str, ...]:
    """Findings by name: "GPBT009", several with a comma, or a list. Raises ExperimentError."""
    names = given.replace(" ", "").split(",") if isinstance(given, str) else given
    if not isinstance(names, list | tuple | set | frozenset):
        raise ExperimentError.of("silence", given, "must be names of findings, such as ['GPBT009']")
    for name in names:
        if not isinstance(name, str) or not known(name):
            raise ExperimentError.of("silence", name, f"is no finding; there are {', '.join(CATALOGUE)}")
    return tuple(dict.fromkeys(names))


def _whole(name: str, value: object, least: int, most: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ExperimentError.of(name, value, f"must be a whole number of at least {least}")
    if most is not None and value > most:
        raise ExperimentError.of(name, value, f"must be at most {most}")


def _one_of(name: str, value: object, allowed: Sequence[str], more: str = "") -> None:
    if not isinstance(value, str) or value not in allowed:
        raise ExperimentError.of(name, value, f"must be one of {', '.join(map(repr, allowed))}{more}")


def _users(searcher: object) -> bool:
    """Whether this has the shape of `module:Name`, in dotted names; Optuna's prefix is ours."""
    if not isinstance(searcher, str) or searcher.startswith("optuna:"):
        return False
    module, colon, name = searcher.partition(":")
    return bool(colon) and all(part.isidentifier() for dotted in (module, name) for part in dotted.split("."))


def _real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _check_settings(s: Settings) -> None:
    if not isinstance(s.score, str) or not s.score:
        raise ExperimentError.of("score", s.score, "must be the name of a reported metric, e.g. score='accuracy'")
    _one_of("mode", s.mode, ("max", "min"))
    _whole("population", s.population, 1, MOST)
    _whole("generations", s.generations, 1, MOST)
    _whole("attempts", s.attempts, 1)
    _whole("seed", s.seed, 0)
    if not _real(s.ratio) or s.ratio <= 0:
        raise ExperimentError.of("ratio", s.ratio, "must be a number greater than 0")
    if not _real(s.evidence) or not 0 <= s.evidence <= 1:
        raise ExperimentError.of("evidence", s.evidence, "must be a number from 0 to 1")
    if not _users(s.searcher):
        _one_of("searcher", s.searcher, SEARCHERS, ", or 'module:Name' of a class of yours with suggest(ask)")
    _one_of("history", s.history, HISTORIES)
    _one_of("selection", s.selection, SELECTIONS)
    _one_of("schedule", s.schedule, SCHEDULES)
    if s.preset is not None:
        _one_of("preset", s.preset, tuple(PRESETS))
    for name in ("stall_timeout", "member_timeout"):
        seconds = getattr(s, name)
        if seconds is not None and not (_real(seconds) and 0 < seconds < math.inf):
            raise ExperimentError.of(name, seconds, "must be a number of seconds above 0, or None for no limit")
    if not isinstance(s.resources, Resources):
        raise ExperimentError.of("resources", s.resources, "must be gpbt.Resources(...)")
    for i, config in enumerate(s.replay or ()):
        if not s.space.holds(config):
            raise ExperimentError.of(f"schedule[{i}]", config, f"is not in the space {s.space!r}")
    if s.command is not None:
        _check_command(s.command, s.space)


def _check_command(command: Sequence[str], space: Space) -> None:
    if not command:
        raise ExperimentError.of("command", command, "needs at least a program")
    for name in space:
        if name in PLACEHOLDERS:
            raise ExperimentError.of("space", name, f"is reserved in a command ({', '.join(PLACEHOLDERS)}): rename it")
    for word in command:
        for name in re.findall(r"\{([^{}]*)\}", word.replace("{{", "").replace("}}", "")):
            if name not in space and name not in PLACEHOLDERS:
                known = ", ".join((*space, *PLACEHOLDERS))
                raise ExperimentError.of(
                    "command", "{" + name + "}", f"is no placeholder; known: {known}; a brace is {{{{"
                )
