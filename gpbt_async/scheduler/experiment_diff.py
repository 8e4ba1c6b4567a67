"""Edits at a resume: the fields in which the declaration differs from the one that the run began with.

A run continues with the settings that it began with. The user may have edited the script and expect the new settings.
So a warning names each field that differs, with both values. The user can adopt some of these fields
(engine/adoption.py); for the others an error gives the reason. The two declarations are compared without the options of
the command line. If these options set a field, the warning also names the value in force.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..engine.adoption import ADOPTABLE, unfit
from ..errors import ExperimentError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..engine.engine import Engine
    from ..experiment import Settings
    from ..space import DimensionRecord, Space
    from ..storage.run_config import RunConfig


#: why a field stays what it was
_WHY = {
    **dict.fromkeys(("score", "mode"), "members are ranked by it"),
    **dict.fromkeys(("population", "generations", "ratio", "selection"), "the tree has grown by it"),
    **dict.fromkeys(("schedule", "evidence"), "generations have opened by it"),
    **dict.fromkeys(("searcher", "history"), "configs were chosen by it"),
    "seed": "every member's seed comes from it",
    "resources": "a resume has --gpus, --share and --vram for it",
}
#: no fields of their own: a preset's are named one by one, and functions are the script's, whatever their names
_NOT_COMPARED = ("target", "validate", "preset", "replay", "mode_given", "fold_seed")


def compare(
    record: RunConfig, engine: Engine, now: Settings, adopt: Sequence[str], script: bool, warn: Callable[[str], None]
) -> dict[str, object]:
    """Warn of what a run that is resumed declares otherwise now; the fields to adopt, as JSON.

    record, engine: of the run. The rest, and what it raises, as of `differences`.
    """
    began = {**(record.declared.to_json() if record.declared is not None else {}), **engine.adoption.fields}
    sentences, changes = differences(began, now, engine.settings, adopt, script=script)
    if "choose_by" in changes and engine.tree.generations[-1].ranking:
        option = _option("choose_by", script)
        raise ExperimentError(f"{option}: members of the last generation have finished, and not all are still stored")
    if "space" in changes:
        sentences.append(outside(engine, now.space))
    for sentence in filter(None, sentences):
        warn(sentence)
    return changes


def differences(
    was: Mapping[str, object], now: Settings, current: Settings, adopt: Sequence[str], *, script: bool
) -> tuple[list[str], dict[str, object]]:
    """A sentence about each field that differs, and the fields to adopt, as JSON.

    was: the former declaration, as JSON. now: the one of today. current: the settings in force. adopt: names of fields.
    script: the declaration is a script's, not an application's. Raises ExperimentError when a field cannot be adopted.
    """
    where = "in the script" if script else "in the experiment"
    declared, inforce = now.to_json(), current.to_json()
    sentences: list[str] = []
    for name in adopt:
        _refuse(name, now, current, script)
    changes = {name: declared[name] for name in adopt if declared[name] != inforce[name]}
    for name, value in declared.items():
        if name in _NOT_COMPARED or name not in was or (was[name] == value and name not in changes):
            continue
        if name in changes:
            done = "adopted from now on"
        elif value == inforce[name]:
            continue  # an option of the command line has the same value, or it was adopted before
        elif name not in ADOPTABLE:
            done = f"{_kept(was[name], inforce[name])} ({_WHY.get(name, 'it cannot change along a run')})"
        elif problem := _problem(name, current, now):
            done = f"{_kept(was[name], inforce[name])}: {problem}"
        else:
            done = f"{_kept(was[name], inforce[name])}; {_option(name, script)} takes the new one"
        sentences.append(f"{_both(name, (inforce if name in changes else was)[name], value, where)}: {done}")
    return sentences, changes


def _refuse(name: str, now: Settings, current: Settings, script: bool) -> None:
    """Raises ExperimentError when the field cannot be adopted."""
    if name not in ADOPTABLE:
        why = f": {_WHY[name]}" if name in _WHY else ""
        known = name in current.to_json()
        wrong = f"cannot be adopted by a run under way{why}" if known else "is no field of an experiment"
        raise ExperimentError(f"{_option(name, script)}: {name} {wrong}; adopted can be {', '.join(ADOPTABLE)}")
    if problem := _problem(name, current, now):
        raise ExperimentError(f"{_option(name, script)}: {problem}; begin a new run for it")


def outside(engine: Engine, space: Space) -> str:
    """A sentence: which members' configs lie outside a space that is to be adopted, and what is done about them."""
    members = [m for m in engine.tree.members if not space.holds(m.config)]
    waiting = [m.id for m in members if not m.state.settled and m.state.value != "trained"]
    stored = [m.id for m in members if m.id in engine.stored]
    if not members:
        return ""
    effects = []
    if waiting:
        effects.append(f"{_members(waiting)}, not trained yet, train{'s' * (len(waiting) == 1)} with a clipped one")
    if stored:
        effects.append(f"what {_members(stored)} hand{'s' * (len(stored) == 1)} down to children is clipped")
    many = f"the config{'s' * (len(members) > 1)} of {len(members)} member{'s' * (len(members) > 1)}"
    lie = "lie" if len(members) > 1 else "lies"
    return f"{many} {lie} outside the adopted space" + (f": {'; '.join(effects)}" if effects else "")


def _members(ids: list[int]) -> str:
    shown = ", ".join(map(str, ids[:10])) + (f" and {len(ids) - 10} more" if len(ids) > 10 else "")
    return f"member{'s' * (len(ids) > 1)} {shown}"


def _problem(name: str, current: Settings, now: Settings) -> str:
    """Why a field that a run may adopt cannot be adopted as it is declared now; empty if it can be."""
    if name == "space":
        return unfit(current.space, now.space)
    if name == "command" and (current.command is None) != (now.command is None):
        return "a command and a training function cannot replace one another along a run"
    return ""


def _option(name: str, script: bool) -> str:
    return f"--adopt {name}" if script else f"adopt=({name!r},)"


def _kept(was: object, inforce: object) -> str:
    return "the run goes on with the former" if was == inforce else f"the run goes on with {inforce!r}, by an option"


def _both(name: str, was: object, now: object, where: str) -> str:
    """Both values of a field, as JSON; of a space, of each hyperparameter that differs."""
    if name != "space" or not isinstance(was, dict) or not isinstance(now, dict):
        return f"{name} was {was!r} and is {now!r} {where} now"
    sentences = []
    for hyperparameter in {**was, **now}:
        old, new = was.get(hyperparameter), now.get(hyperparameter)
        if old == new:
            continue
        before = f"was {described(old)}" if old is not None else "was not there"
        after = f"is {described(new)} {where} now" if new is not None else f"is not {where} any more"
        sentences.append(f"space.{hyperparameter} {before} and {after}")
    return "; ".join(sentences) or f"the order of the space has changed {where}"


def described(dimension: DimensionRecord) -> str:
    """A dimension, given as JSON, as it is declared: Float(0.01, 0.5, log=True)."""
    if dimension["kind"] == "constant":
        return repr(dimension["value"])
    if dimension["kind"] == "choice":
        return f"Choice({list(dimension['options'])!r})"
    more = ", log=True" if dimension["log"] else ""
    more += f", step={dimension['step']!r}" if dimension["step"] not in (None, 1) else ""
    return f"{dimension['kind'].capitalize()}({dimension['low']!r}, {dimension['high']!r}{more})"
