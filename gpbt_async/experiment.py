"""The experiment: the user's declaration, checked once, with clear errors.

An Experiment declares the training function (or a command line), the space, the score, and the rules by which the
population grows. All of it can be written as JSON, except the training function. The function never leaves the process
that imported it: the scheduler gets its file and qualified name instead. A value that JSON cannot hold is refused, with
the line that declares it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict

from .declaration import standalone
from .declaration.arguments import checked, one_of, plain, real, whole
from .declaration.direction import direction
from .declaration.resources import Resources as Resources
from .declaration.target import Target as Target
from .declaration.target import target_of as target_of
from .errors import ExperimentError
from .findings import CATALOGUE, known
from .schedule import Schedule  # noqa: TC001 (the codec evaluates annotations)
from .space import Dimension, Scalar, Space

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


#: the built-in searchers by name, beside a user's `module:Name`
SEARCHERS = (
    "local", "tpe", "kin", "perturb", "random", "optuna:tpe", "optuna:gp", "optuna:cmaes", "optuna:qmc",
)  # fmt: skip
#: the largest population and number of generations: a larger number is a typing error
MOST = 1_000_000
HISTORIES = ("inherit", "reset", "global")
SELECTIONS = ("comma", "plus")
#: values of `schedule`: when a generation opens. (Schedule, the class, is a sequence of configs.)
ORDERS = ("async", "sync")
#: the rules of early stopping (engine/early_stopping.py), of which any number may be on
STOP_RULES = ("median", "generation")
#: presets of settings by name; an option given beside a preset wins
PRESETS: dict[str, dict[str, str | tuple[str, ...]]] = {
    # Scardigli et al.: a barrier, TPE with one start-up trial, inherited history, parents from the last generation only
    "paper": {"schedule": "sync", "searcher": "tpe", "history": "inherit", "selection": "comma", "early_stop": ()},
}
#: what a command may contain in braces beside hyperparameters
PLACEHOLDERS = ("parent", "checkpoint", "metrics", "config", "seed", "generation", "member")


class Changes(TypedDict, total=False):
    """Fields of the settings that are replaced after the declaration: by options of a command, or by a replay."""

    space: Space
    mode: str
    population: int
    generations: int
    ratio: float
    searcher: str
    history: str
    selection: str
    evidence: float
    early_stop: str | Sequence[str]
    schedule: str
    seed: int
    preset: str | None
    choose_by: str | Sequence[str] | None
    resources: Resources
    attempts: int
    stall_timeout: float | None
    member_timeout: float | None
    silence: str | Sequence[str]
    replay: Schedule
    fold_seed: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """An Experiment without its function: everything that decides what a run does, writable as JSON."""

    space: Space
    score: str
    mode: str
    #: False: the mode is derived from the score's name (declaration.direction), which the user sees (`notice`)
    mode_given: bool = True
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
    #: the metric and mode of the final choice (engine/final_choice.py); None: the score
    choose_by: tuple[str, ...] | None = None
    resources: Resources = field(default_factory=Resources)
    attempts: int = 3
    stall_timeout: float | None = None
    member_timeout: float | None = None
    #: findings of the pre-flight that are not shown (findings.py)
    silence: tuple[str, ...] = ()
    command: tuple[str, ...] | None = None
    target: Target | None = None
    #: validates a checkpoint without training; then a finished run keeps the best k of its last two generations
    validate: Target | None = None
    #: a schedule to train along once more, instead of searching for one (cli/replay.py)
    replay: Schedule | None = None
    #: decides member.fold in place of `seed`: a replay has the folds of its original
    fold_seed: int | None = None

    def __post_init__(self) -> None:
        _check_settings(self)

    @property
    def parents(self) -> int:
        """k = min(n, max(1, floor(sqrt(n / c)))): how many members of a generation become parents."""
        quotient = self.population / self.ratio
        if quotient >= self.population**2:  # also keeps a tiny ratio from overflowing
            return self.population
        # 14 / 0.14 is 99.99999999999999, and its root is 10 all the same
        return max(1, math.isqrt(math.floor(quotient * (1 + 1e-12))))

    @property
    def seed_of_folds(self) -> int:
        """What decides member.fold: the run's seed, or for a replay that of the run that it repeats."""
        return self.seed if self.fold_seed is None else self.fold_seed

    @property
    def synchronous(self) -> bool:
        """Does a generation open only when the one above is complete?"""
        return self.schedule == "sync"

    @property
    def notice(self) -> str:
        """A sentence on the mode if it was not given; else ""."""
        if self.mode_given:
            return ""
        way = "maximised" if self.mode == "max" else "minimised"
        return f"mode was not given: the score {self.score!r} is {way}"

    def replaced(self, **changes: Any) -> Settings:
        """A copy with some fields changed, and checked again. A preset among them changes what it names.

        Raises ExperimentError.
        """
        if changes.get("preset") is not None:
            one_of("preset", changes["preset"], tuple(PRESETS))
            changes = {**PRESETS[changes["preset"]], **changes}
        if "mode" in changes:
            changes["mode_given"] = True
        if "early_stop" in changes:
            changes["early_stop"] = stop_rules(changes["early_stop"])
        if "choose_by" in changes:
            changes["choose_by"] = chosen_by(changes["choose_by"])
        if "silence" in changes:
            changes["silence"] = tuple(dict.fromkeys((*self.silence, *silenced(changes["silence"]))))
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return Settings(**{**fields, **changes})

    def with_options(self, changes: Changes) -> Settings:
        """`replaced` by options of the command line: an error names the option instead of a script's line."""
        try:
            return self.replaced(**changes)
        except ExperimentError as error:
            option, _, rest = error.said.replace(", or None for no limit", "").partition(":")
            raise ExperimentError(f"--{option.replace('_', '-')}:{rest}" if rest else str(error)) from None

    def to_json(self) -> dict[str, object]:
        from .codec import encoded  # not before: every training script imports this module

        return encoded(self)

    @classmethod
    def from_json(cls, flat: Mapping[str, object]) -> Settings:
        """Raises ExperimentError, KeyError, TypeError and ValueError when they are damaged."""
        from .codec import decoded

        return decoded(cls, flat)


class _Default(str):
    """A default that the caller has not chosen, so a preset may replace it; otherwise an ordinary string."""

    __slots__ = ()


@checked(
    **dict.fromkeys(("metric", "objective", "monitor"), "did you mean score?"),
    **dict.fromkeys(("direction", "goal"), "did you mean mode?"),
    **dict.fromkeys(("param_space", "search_space", "config", "params", "parameters"), "did you mean space?"),
    **dict.fromkeys(("population_size", "n_trials", "num_samples", "num_trials"), "did you mean population?"),
    **dict.fromkeys(("n_generations", "num_generations", "iterations", "rounds"), "did you mean generations?"),
    **dict.fromkeys(("sampler", "algorithm", "search_alg"), "did you mean searcher?"),
    **dict.fromkeys(("random_state", "random_seed"), "did you mean seed?"),
    **dict.fromkeys(("evaluate", "validation", "evaluation"), "did you mean validate?"),
    **dict.fromkeys(("pruner", "early_stopping"), "did you mean early_stop?"),
    **dict.fromkeys(("retries", "max_retries"), "did you mean attempts?"),
    **dict.fromkeys(("gpus", "cpus", "share", "vram"), "give it by resources=gpbt.Resources(...)"),
    **dict.fromkeys(("slots", "name", "runs"), "it is an option of gpbt-async launch and of gpbt.Run"),
    **dict.fromkeys(("function", "trainable", "fn", "func"), "give the training function first, as train"),
)
class Experiment:
    """What to train, over which space, towards which score, and how the population is bred.

    train: a function of one Member, defined at the top level of a file. command: instead of train, a program and its
    arguments, one word each, with {placeholders}. space: name → Float, Int or Choice, or a constant. score: the
    reported metric that counts. mode: "max" or "min"; it may be left out where the score's name can mean one only, as
    "val_loss" or "accuracy"; the run then shows which. resources: what one member needs; None = one GPU, or a CPU slot
    where there is none.

    population n >= 1 members train in each of generations T >= 1. ratio c > 0: children per parent over number of
    parents, so k = floor(sqrt(n / c)) members of a generation become parents. searcher: who chooses configs, by name,
    or a class of yours as "module:Name". history: the members whose results a searcher gets: the parent's family
    ("inherit"), its own children ("reset"), or all ("global"). selection: "comma" (parents come from the previous
    generation) or "plus" (a parent not beaten stays). evidence in [0, 1]: the share of a generation that must have
    finished before the next one opens. schedule: "async" or "sync" (the paper's barrier). early_stop: None, "median" (a
    member, by its first report), "generation" (no more children), or both with a comma. seed >= 0: of everything
    random. preset: "paper" is the authors' algorithm; what is given beside it wins. choose_by: a reported metric, such
    as "holdout_loss", or ("holdout_fit", "max") where its name does not imply the mode. The final choice among the last
    generation's best is made by it, and nothing else is.

    attempts >= 1: how often a failing member is tried. stall_timeout: seconds without a report, member_timeout: seconds
    inside `train`, after which an attempt is ended and has failed; None = never. silence: names of findings of the
    pre-flight not to show, as ["GPBT009"] (guide "findings"). validate: a function of one Member that trains nothing,
    and reports the score of the checkpoint in member.parent, for `best --merge` and `best --ensemble` (guide "member").
    Source of the method: Scardigli et al., arXiv 2109.14925.

    Raises ExperimentError, naming the field, the value, what is allowed, and the line.
    """

    def __init__(
        self,
        train: Callable[[Any], object] | None = None,
        *,
        command: Sequence[str] | None = None,
        space: Mapping[str, Dimension | Scalar],
        score: str,
        mode: str | None = None,
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
        choose_by: str | Sequence[str] | None = None,
        resources: Resources | None = None,
        attempts: int = 3,
        stall_timeout: float | None = None,
        member_timeout: float | None = None,
        silence: str | Sequence[str] = (),
        validate: Callable[[Any], object] | None = None,
    ) -> None:
        standalone.declared()
        if (train is None) == (command is None):
            given = "neither" if train is None else "both"
            raise ExperimentError.of("train, command", given, "give exactly one: a training function, or a command")
        if command is not None and not (
            isinstance(command, list | tuple) and all(isinstance(word, str) for word in command)
        ):
            raise ExperimentError.of("command", command, "must be a list of words, e.g. ['./solver', '--lr', '{lr}']")
        if validate is not None and train is None:
            raise ExperimentError.saying("validate: needs a training function, and this experiment declares a command")
        self.train, self.validate = train, validate
        chosen: dict[str, Any] = {
            "searcher": searcher,
            "history": history,
            "selection": selection,
            "schedule": schedule,
            "early_stop": stop_rules(early_stop),
        }
        if preset is not None:
            one_of("preset", preset, tuple(PRESETS))
            unchosen = {name for name, value in chosen.items() if isinstance(value, _Default) or value == ()}
            chosen |= {name: value for name, value in PRESETS[preset].items() if name in unchosen}
        chosen = {name: str(value) if isinstance(value, _Default) else value for name, value in chosen.items()}
        self.settings = Settings(
            space=space if isinstance(space, Space) else Space(space),
            score=scored(score),
            mode=mode if mode is not None else direction_of(score),
            mode_given=mode is not None,
            population=plain(population),
            generations=plain(generations),
            ratio=plain(ratio),
            evidence=plain(evidence),
            seed=plain(seed),
            preset=preset,
            choose_by=chosen_by(choose_by),
            resources=resources if resources is not None else Resources(),
            attempts=plain(attempts),
            stall_timeout=plain(stall_timeout),
            member_timeout=plain(member_timeout),
            silence=silenced(silence),
            command=tuple(command) if command is not None else None,
            target=target_of(train) if train is not None else None,
            validate=target_of(validate, "validate") if validate is not None else None,
            **chosen,
        )

    def __repr__(self) -> str:
        s = self.settings
        what = s.target.qualname if s.target else " ".join(s.command or ())
        return f"Experiment({what}, population={s.population}, generations={s.generations})"

    def to_json(self) -> dict[str, object]:
        """The declaration as a JSON object, the training function as its Target."""
        return self.settings.to_json()


def scored(score: object) -> str:
    """The score's name, checked. Raises ExperimentError."""
    must = "must be the name of a reported metric, e.g. score='accuracy'"
    if isinstance(score, list | tuple | dict) and score:
        must += ": one, by which members are ranked (report the others beside it, they are kept)"
    if not isinstance(score, str) or not score.strip():
        raise ExperimentError.of("score", score, must)
    if score != score.strip():
        raise ExperimentError.of("score", score, f"begins or ends with a space: did you mean {score.strip()!r}?")
    return str(score)


def direction_of(score: str) -> str:
    """The mode that the score's name implies. Raises ExperimentError where it implies none."""
    mode = direction(scored(score))
    if mode is None:
        raise ExperimentError.saying(
            f"mode: not given, and the name of the score {score!r} does not say which way is better: "
            "add mode='max' or mode='min'"
        )
    return mode


def chosen_by(given: object) -> tuple[str, str] | None:
    """Metric and mode of the final choice, from None, "holdout_loss", "holdout_fit:max", or a pair.

    Raises ExperimentError.
    """
    if given is None or given == "none":
        return None
    metric, mode = given, None
    if isinstance(given, list | tuple) and len(given) == 2:
        metric, mode = given
    elif isinstance(given, str) and given.endswith((":max", ":min")):
        metric, _, mode = given.rpartition(":")
    if not isinstance(metric, str) or not metric.strip() or metric != metric.strip():
        raise ExperimentError.of("choose_by", given, "must be the name of a reported metric, e.g. 'holdout_loss'")
    mode = direction(metric) if mode is None else mode
    if mode is None:
        must = f"its name does not say which way is better: give ({metric!r}, 'max') or ({metric!r}, 'min')"
        raise ExperimentError.of("choose_by", given, must)
    one_of("choose_by", mode, ("max", "min"))
    return metric, mode


def stop_rules(given: object) -> tuple[str, ...]:
    """Rules of early stopping, from None, "median", "median,generation", or a list. Raises ExperimentError."""
    if given is None or given == "none":
        return ()
    names = given.split(",") if isinstance(given, str) else given
    if not isinstance(names, list | tuple):
        raise ExperimentError.of("early_stop", given, f"must be None, or of {', '.join(map(repr, STOP_RULES))}")
    for name in names:
        one_of("early_stop", name, STOP_RULES, ", or both with a comma, or 'none'")
    return tuple(rule for rule in STOP_RULES if rule in names)


def silenced(given: object) -> tuple[str, ...]:
    """Names of findings, from "GPBT009", several with commas, or a list. Raises ExperimentError."""
    names = given.replace(" ", "").split(",") if isinstance(given, str) else given
    if not isinstance(names, list | tuple | set | frozenset):
        raise ExperimentError.of("silence", given, "must be names of findings, such as ['GPBT009']")
    names = [name.upper() if isinstance(name, str) else name for name in names]
    for name in names:
        if not isinstance(name, str) or not known(name):
            raise ExperimentError.of("silence", name, f"is no finding; there are {', '.join(CATALOGUE)}")
    return tuple(dict.fromkeys(names))


def _users_own(searcher: object) -> bool:
    """Does the name have the form `module:Name`, with dotted names? (The prefix "optuna:" names built-in ones.)"""
    if not isinstance(searcher, str) or searcher.startswith("optuna:"):
        return False
    module, colon, name = searcher.partition(":")
    return bool(colon) and all(part.isidentifier() for dotted in (module, name) for part in dotted.split("."))


def _check_settings(s: Settings) -> None:
    scored(s.score)
    one_of("mode", s.mode, ("max", "min"))
    whole("population", s.population, 1, MOST)
    whole("generations", s.generations, 1, MOST)
    whole("attempts", s.attempts, 1)
    whole("seed", s.seed, 0)
    if not real(s.ratio) or s.ratio <= 0:
        raise ExperimentError.of("ratio", s.ratio, "must be a number greater than 0")
    if not real(s.evidence) or not 0 <= s.evidence <= 1:
        raise ExperimentError.of("evidence", s.evidence, "must be a number from 0 to 1")
    if not _users_own(s.searcher):
        one_of("searcher", s.searcher, SEARCHERS, ", or 'module:Name' of a class of yours with suggest(ask)")
    one_of("history", s.history, HISTORIES)
    one_of("selection", s.selection, SELECTIONS)
    one_of("schedule", s.schedule, ORDERS)
    if s.preset is not None:
        one_of("preset", s.preset, tuple(PRESETS))
    if s.choose_by is not None and (chosen_by(s.choose_by) or "")[0] == s.score:
        must = "is the score, by which parents are selected: give a metric on rows of its own"
        raise ExperimentError.of("choose_by", s.choose_by[0], must)
    for name in ("stall_timeout", "member_timeout"):
        seconds = getattr(s, name)
        if seconds is not None and not (real(seconds) and 0 < seconds < math.inf):
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
    for name in space.names:
        if name in PLACEHOLDERS:
            raise ExperimentError.of("space", name, f"is reserved in a command ({', '.join(PLACEHOLDERS)}): rename it")
    for word in command:
        for name in re.findall(r"\{([^{}]*)\}", word.replace("{{", "").replace("}}", "")):
            if name not in space.names and name not in PLACEHOLDERS:
                names = ", ".join((*space.names, *PLACEHOLDERS))
                must = f"is no placeholder; known: {names}; a brace is {{{{"
                raise ExperimentError.of("command", "{" + name + "}", must)
