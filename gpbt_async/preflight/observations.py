"""Findings from observations in members' processes, of one member or compared between members.

A member's process sends its telemetry as plain JSON (member/telemetry.py). It runs the user's script, so nothing in it
is trusted: `Observations.received` keeps what has the right shape.

A check waits for as much evidence as it needs, and no longer. One member is enough to show that a hyperparameter is
never read, unless the space has a Choice: then what is read may depend on the option, so members with every option must
have trained first. Two members with different seeds are enough to show that the script seeds itself.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from ..findings import Finding, known
from ..processes.wire import LONGEST
from ..space import Choice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ..engine.tree import Node
    from ..experiment import Settings


#: members whose telemetry is kept to be compared; after so many, a name that no member has read is never read
PATIENCE = 8
#: children whose weights or checkpoints must all be their parents', to be called unchanged
UNCHANGED = 4


@dataclass(frozen=True, slots=True)
class Observations:
    """What one member's process observed; fields as in member/telemetry.py, empty where they were missing or malformed.

    unchanged: gpbt.torch saved the weights that it had loaded; None if it did not do both. overwritten: name, searched
    value, the script's. values: name → value applied, value during training, the scheduler's class. An unknown
    parent_seen or parent_used is True, as it must not make a finding.
    """

    read: list[str]
    applied: list[str]
    missed: list[str]
    threads: list[str]
    mentioned: list[str]
    parent_seen: bool
    parent_used: bool
    folds: bool
    unchanged: bool | None
    overwritten: list[tuple[str, str, str]]
    splits: dict[str, str]
    seeds: dict[str, tuple[str, str]]
    values: dict[str, tuple[float, float, str | None]]
    findings: list[tuple[str, str, str, str]]

    @classmethod
    def received(cls, flat: Mapping[str, object]) -> Observations:
        """flat: what the member's process sent, which may be any JSON object."""
        return cls(**{field.name: _SHAPES[field.name](flat.get(field.name)) for field in fields(cls)})


def _texts(value: Any) -> list[str]:
    return [text[:LONGEST] for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _is_row(value: Any, length: int) -> bool:
    return isinstance(value, list) and len(value) == length and all(isinstance(item, str) for item in value)


def _rows(length: int) -> Callable[[Any], list[Any]]:
    return lambda value: [row for row in value if _is_row(row, length)] if isinstance(value, list) else []


def _by_name(fits: Callable[[Any], bool]) -> Callable[[Any], dict[str, object]]:
    return lambda value: {name: row for name, row in value.items() if fits(row)} if isinstance(value, dict) else {}


def _is_value(row: Any) -> bool:
    if not isinstance(row, list) or len(row) != 3 or not isinstance(row[2], str | None):
        return False
    return all(isinstance(number, int | float) and abs(number) < 1e300 for number in row[:2])  # an int has any size


_SHAPES: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("read", "applied", "missed", "threads", "mentioned"), _texts),
    **dict.fromkeys(("parent_seen", "parent_used"), lambda value: value is not False),
    "folds": lambda value: value is True,
    "unchanged": lambda value: value if isinstance(value, bool) else None,
    "overwritten": _rows(3),
    "splits": _by_name(lambda mark: isinstance(mark, str)),
    "seeds": _by_name(lambda row: _is_row(row, 2)),
    "values": _by_name(_is_value),
    "findings": _rows(4),
}


class TelemetryChecks:
    """Folds the telemetry of members that have returned. is_known: whether a code has been found for a subject."""

    def __init__(self, settings: Settings, is_known: Callable[[str, str], bool]) -> None:
        self._settings, self._is_known = settings, is_known
        #: the first members that returned, and what their processes observed
        self._returned: list[tuple[Node, Observations]] = []
        #: hyperparameters that were read or applied; and those that a function of the script names
        self._used: set[str] = set()
        self._mentioned: set[str] = set()
        #: children so far that all saved the weights they had loaded; that all ignored their parent's checkpoint
        self._unchanged, self._ignoring = Streak(), Streak()

    def heard(self, member: Node, seen: Observations) -> Iterator[Finding]:
        """A member's training function has returned."""
        yield from self._own(member, seen)
        self._used.update(seen.read, seen.applied)
        self._mentioned.update(seen.mentioned)
        first = len(self._returned) < PATIENCE
        if first:
            self._returned.append((member, seen))
        yield from self._unread(member)
        if first:
            yield from self._unknown(member, seen)
        if member.parent is not None and seen.unchanged is not None:
            yield from self._trained_nothing(member, seen.unchanged)
        yield from self._same_draws(member, seen)
        yield from self._driven(member, seen)
        if self._settings.generations > 1:
            yield from self._splits(member, seen)
            yield from self._folds(member, seen)
        if member.parent is not None:
            yield from self._parent_ignored(member, seen)

    def _own(self, member: Node, seen: Observations) -> Iterator[Finding]:
        """What one member shows by itself."""
        for code, subject, text, remedy in seen.findings:
            if known(code):
                yield Finding(code, subject, text, remedy, member.id)
        for thread in seen.threads[:1]:
            yield Finding(
                "GPBT013",
                "threads",
                f"member {member.id} returned from the training function while a thread of it still ran ({thread})",
                "join it before you return: the member's slot is not free until it ends",
                member.id,
            )
        for name, searched, given in seen.overwritten:
            yield Finding(
                "GPBT020",
                name,
                f"member {member.id} should train with {name}={searched}, but the script set {given} before it read it",
                "let the searched values come last ({**defaults, **member.config}), or take "
                f"{name!r} out of the space",
                member.id,
            )

    def _unread(self, member: Node) -> Iterator[Finding]:
        unread = [n for n in self._settings.space if n not in self._used and not self._is_known("GPBT001", n)]
        if not unread or not self._covered(unread):
            return
        # a later generation may read what a function names, and so may chance; at the end there is no later one
        late = len(self._returned) >= min(PATIENCE, self._settings.population)
        late &= member.generation == self._settings.generations - 1
        missed = [name for _, seen in self._returned for name in seen.missed]
        applied = ", and gpbt.torch applied it to nothing" * any(seen.applied for _, seen in self._returned)
        count = len(self._returned)
        who = f"member {member.id}" if count == 1 else f"members 0 to {count - 1}"
        for name in unread:
            if name in self._mentioned and not late:
                continue
            close = difflib.get_close_matches(name, missed, 1, 0.6)
            typo = f"; it asks for {close[0]!r}: did you mean {name!r}?" if close else ""
            yield Finding(
                "GPBT001",
                name,
                f"{who} never read the hyperparameter {name!r}{applied}{typo}",
                f"use member.config[{name!r}] in the training function, or take it out of the space",
                member.id,
            )

    def _covered(self, unread: list[str]) -> bool:
        """Have the members so far taken every option that may decide what is read?"""
        if len(self._returned) >= min(PATIENCE, self._settings.population):
            return True
        choices = {n: d for n, d in self._settings.space.items() if isinstance(d, Choice) and n not in unread}
        taken = {n: {(type(m.config[n]), m.config[n]) for m, _ in self._returned} for n in choices}
        return all(len(taken[n]) == len(d.options) for n, d in choices.items())

    def _unknown(self, member: Node, seen: Observations) -> Iterator[Finding]:
        for name in seen.missed:
            close = difflib.get_close_matches(name, self._settings.space.names, 1, 0.6)
            # a script may look for a setting of its own in the config: a beta2 where beta1 is searched, and read
            typo = close and (close[0] not in self._used or sorted(close[0]) == sorted(name))
            if not typo or self._is_known("GPBT001", close[0]):  # which says it
                continue
            yield Finding(
                "GPBT002",
                name,
                f"member {member.id} asked its config for {name!r}, which is not in the space; did you mean "
                f"{close[0]!r}?",
                f"read member.config[{close[0]!r}], or add {name!r} to the space",
                member.id,
            )

    def _trained_nothing(self, member: Node, unchanged: bool) -> Iterator[Finding]:
        if self._unchanged.goes_on(unchanged) >= min(UNCHANGED, self._settings.population):
            yield Finding(
                "GPBT008",
                "checkpoint",
                f"the first {self._unchanged.length} children saved exactly the weights that they had loaded: they "
                "trained nothing",
                "save after training, and train the model that is saved: an optimizer made before the model was "
                "replaced, or only parameters that need no gradient, change nothing",
                member.id,
            )

    def _same_draws(self, member: Node, seen: Observations) -> Iterator[Finding]:
        for place in dict.fromkeys(place for _, place in seen.seeds.values()):
            for other, theirs in self._returned:
                same = [g for g, seed in seen.seeds.items() if seed[1] == place and theirs.seeds.get(g) == seed]
                if other.seed != member.seed and same:
                    whose = " and ".join(f"{generator}'s" for generator in same)
                    yield Finding(
                        "GPBT006",
                        place,
                        f"members {other.id} and {member.id} have different seeds, and both seed {whose} random "
                        f"numbers with {seen.seeds[same[0]][0]} at {place}: all members draw the same",
                        "delete this line (every member is seeded already), or seed from member.seed",
                        member.id,
                    )
                    break

    def _driven(self, member: Node, seen: Observations) -> Iterator[Finding]:
        """If members end at the same value, whatever was applied, the script or a scheduler sets that value."""
        for name, (applied, last, by) in seen.values.items():
            if (name in seen.read and by is None) or math.isclose(applied, last, rel_tol=1e-6):
                continue
            if not any(self._alike(name, applied, last, by, theirs) for _, theirs in self._returned):
                continue
            how = f"{by} drives it to a value of its own" if by else "the script sets its own after begin"
            remedy = (
                "scale what the optimizer has instead of replacing it, or compute the new value from the config's: "
                f"group[{name!r}] = factor * member.config[{name!r}]"
            )
            if by:
                remedy = f"build the {by} after gpbt.torch.begin, from what the optimizer then has, or from the "
                remedy += f"config's value: member.config[{name!r}]"
            yield Finding(
                "GPBT003",
                name,
                f"member {member.id} should train with {name}={applied:.4g}, but trained with {last:.4g}, as did "
                f"members with another {name}: {how}",
                remedy,
                member.id,
            )

    @staticmethod
    def _alike(name: str, applied: float, last: float, by: str | None, theirs: Observations) -> bool:
        """Did another member, to which another value was applied, train with the same value?"""
        if name not in theirs.values or (name in theirs.read and by is None):
            return False
        their_applied, their_last, _ = theirs.values[name]
        return not math.isclose(applied, their_applied, rel_tol=1e-3) and math.isclose(last, their_last, rel_tol=1e-6)

    def _splits(self, member: Node, seen: Observations) -> Iterator[Finding]:
        """A split that is the same for two members at any place may be the one that judges them."""
        for other, theirs in self._returned:
            common = seen.splits.keys() & theirs.splits.keys()
            if other.seed == member.seed or any(theirs.splits[place] == seen.splits[place] for place in common):
                continue
            for place in common:
                yield Finding(
                    "GPBT017",
                    "split",
                    f"members {other.id} and {member.id} split the data differently at {place}: each is judged by "
                    "other data, and a child by what its parent has trained on",
                    "draw the split from its own seed (generator=torch.Generator().manual_seed(0), random_state=0)",
                    member.id,
                )

    def _folds(self, member: Node, seen: Observations) -> Iterator[Finding]:
        """A generation's own rows make its scores comparable with each other, and not with another generation's."""
        s = self._settings
        compares = {
            "the best of the run (without choose_by)": s.choose_by is None,
            "selection='plus'": s.selection == "plus",
            "early_stop='generation'": "generation" in s.early_stop,
        }
        if seen.folds and s.replay is None and any(compares.values()):
            yield Finding(
                "GPBT022",
                "fold",
                f"member {member.id} is scored on the rows of member.fold, which each generation has of its own, but "
                f"{' and '.join(what for what, does in compares.items() if does)} compares scores of different "
                "generations",
                "name a metric on rows that no fold contains, as choose_by='holdout_loss', and use selection='comma' "
                "without early_stop='generation'",
                member.id,
            )

    def _parent_ignored(self, member: Node, seen: Observations) -> Iterator[Finding]:
        """One child may start from nothing because of its config; two do so whatever their configs."""
        self._ignoring.goes_on(not seen.parent_used)
        if self._ignoring.length != min(2, self._settings.population) or self._settings.generations == 1:
            return
        how = "only asked whether there is" if seen.parent_seen else "never looked at"
        yield Finding(
            "GPBT012",
            "parent",
            f"member {member.id} {how} member.parent, its parent's checkpoint, and neither did any child before it: "
            "they started from nothing",
            "load it: if member.parent is not None: model.load_state_dict(torch.load(member.parent / 'model.pt')), or "
            "gpbt.torch.begin(member, model, optimizer)",
            member.id,
        )


class Streak:
    """How many members so far were all alike, from the first on. length: 0 for good once one was not."""

    def __init__(self) -> None:
        self.length = 0
        self.broken = False

    def goes_on(self, alike: bool) -> int:
        self.broken |= not alike
        self.length = 0 if self.broken else self.length + 1
        return self.length
