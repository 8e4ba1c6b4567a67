"""Facts and telemetry in, findings out: what of a run's first members shows that it will mean nothing.

Pure: no clock, no files. A run folds every fact of its journal and the telemetry of every member that returned; doctor
does the same with its few members. Each finding is told once: a resumed run knows from its journal what it has found.

A check waits for as much evidence as it needs, and no more. One member is enough to say that a hyperparameter is never
read, unless the space has a Choice: then what is read may depend on the option, and the members seen so far must have
covered the options. Two members with different seeds are enough for equal seeds of their own.
"""

from __future__ import annotations

import difflib
import math
from typing import TYPE_CHECKING, Any

from .. import events
from ..declaration.direction import direction
from ..engine import termination
from ..engine.tree import State
from ..findings import Finding, known
from ..space import Choice
from .failures import TOLERATED, failures, kind, lasts, remedy_of, why
from .telemetry import received
from .verdicts import Heirs, coarse, overwritten, splits

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ..engine.engine import Engine
    from ..engine.tree import Node
    from ..experiment import Settings


#: members whose scores must be equal, over different configs, to be called constant
CONSTANT = 4
#: members that are looked at for names that are never read, when options may decide what is read
PATIENCE = 8


class Preflight:
    """settings: of the run. Folds; `found` are the findings not silenced, in order, those of the journal included."""

    def __init__(self, settings: Settings, silence: Iterable[str] = ()) -> None:
        self._settings = settings
        self._silent = frozenset((*settings.silence, *silence))
        self.found: list[Finding] = []
        self._known: set[tuple[str, str]] = set()
        #: by member: config, and telemetry, of those that returned
        self._returned: list[tuple[Node, Mapping[str, Any]]] = []
        self._used: set[str] = set()
        self._digests: dict[int, str] = {}
        #: children whose checkpoint was their parent's, as long as there was no other; then -1
        self._unchanged = 0
        #: the same of children whose weights gpbt.torch saved as it had loaded them, and of those that took no look at
        #: their parent's checkpoint
        self._idle = self._blind = 0
        #: unread hyperparameters that a function of the script names
        self._mentioned: set[str] = set()
        self._scores: dict[str, set[float]] = {}
        self._generations: set[int] = set()
        self._unfinite = 0
        self._heirs = Heirs(settings)
        #: what else was reported, as long as all scores are the same
        self._others: set[str] = set()
        #: two scores differ
        self._varied = False

    # ---- what comes in

    def declared(self) -> Iterator[Finding]:
        """What the declaration alone shows."""
        s = self._settings
        meant = direction(s.score)
        if meant is not None and meant != s.mode and s.replay is None:
            yield from self._new(
                "GPBT005",
                s.score,
                f"the score {s.score!r} is {'maximised' if s.mode == 'max' else 'minimised'} (mode={s.mode!r})",
                f"give mode={meant!r}, or silence GPBT005 if it is meant so",
            )

    def remember(self, fact: events.Found) -> None:
        """A finding of the journal."""
        finding = finding_of(fact)
        if (finding.code, finding.subject) not in self._known:
            self._known.add((finding.code, finding.subject))
            if finding.code not in self._silent:
                self.found.append(finding)

    def heard(self, member: Node, flat: Mapping[str, Any]) -> Iterator[Finding]:
        """A member's training function has returned, and this is what its process noted."""
        telemetry = received(flat)
        for code, subject, text, remedy in telemetry["findings"]:
            if known(code):
                yield from self._new(code, subject, text, remedy, member.id)
        for thread in telemetry["threads"][:1]:
            yield from self._new(
                "GPBT013",
                "threads",
                f"member {member.id} returned from the training function while a thread of it still ran ({thread})",
                "join it before you return: the member's slot is not free until it ends",
                member.id,
            )
        self._used.update(telemetry["read"], telemetry["applied"])
        self._mentioned.update(telemetry["mentioned"])
        first = len(self._returned) < PATIENCE
        if first:
            self._returned.append((member, telemetry))
        yield from self._unread(member)
        if first:
            yield from self._missed(member, telemetry)
        if member.parent is not None and telemetry["unchanged"] is not None:
            yield from self._trained_nothing(member, not telemetry["unchanged"])
        yield from self._same_draws(member, telemetry)
        yield from self._overwritten(member, telemetry)
        others = self._returned if self._settings.generations > 1 else []
        for said in (*overwritten(member, telemetry), *splits(member, telemetry, others)):
            yield from self._new(*said, member.id)
        if member.parent is not None:
            self._blind = -1 if telemetry["parent_used"] or self._blind < 0 else self._blind + 1
        # one child may begin afresh by its config
        if self._blind == min(2, self._settings.population) and self._settings.generations > 1:
            seen = "only asked whether there is" if telemetry["parent_seen"] else "never looked at"
            yield from self._new(
                "GPBT012",
                "parent",
                f"member {member.id} {seen} member.parent, its parent's checkpoint, and neither did any child before "
                "it: they started from nothing",
                "load it: if member.parent is not None: model.load_state_dict(torch.load(member.parent / 'model.pt')), "
                "or gpbt.torch.begin(member, model, optimizer)",
                member.id,
            )

    def fold(self, fact: events.Fact, engine: Engine) -> Iterator[Finding]:
        """A fact that the engine has handled."""
        match fact:
            case events.Found():
                self.remember(fact)
            case events.Trained():
                yield from self.scored(engine.tree.members[fact.member], fact.score, fact.metrics)
            case events.Published():
                yield from self.saved(engine.tree.members[fact.member], fact.size, fact.digest)
        if isinstance(fact, events.Failed | events.Trained | events.Published | events.StoppedEarly | events.Lost):
            member = engine.tree.members[fact.member]
            yield from self._failing(engine, member, member.generation)

    # ---- checks of one member's telemetry

    def _unread(self, member: Node) -> Iterator[Finding]:
        space = self._settings.space
        unread = [name for name in space if name not in self._used and ("GPBT001", name) not in self._known]
        if not unread or not self._covered(unread):
            return
        # a function names it: what it is read for may come in a later generation, or by chance; then nobody may have
        late = len(self._returned) >= min(PATIENCE, self._settings.population)
        late &= member.generation == self._settings.generations - 1
        unread = [name for name in unread if late or name not in self._mentioned]
        missed = [name for _, seen in self._returned for name in seen["missed"]]
        for name in unread:
            close = difflib.get_close_matches(name, missed, 1, 0.6)
            said = f"; it asks for {close[0]!r}: did you mean {name!r}?" if close else ""
            torch = ", and gpbt.torch applied it to nothing" * any(seen["applied"] for _, seen in self._returned)
            first = "" if len(self._returned) == 1 else f"s 0 to {len(self._returned) - 1}"
            who = f"member{first or ' ' + str(member.id)}"
            yield from self._new(
                "GPBT001",
                name,
                f"{who} never read the hyperparameter {name!r}{torch}{said}",
                f"use member.config[{name!r}] in the training function, or take it out of the space",
                member.id,
            )

    def _covered(self, unread: list[str]) -> bool:
        """Have the members so far taken every option that may decide what is read?"""
        choices = {n: d for n, d in self._settings.space.items() if isinstance(d, Choice) and n not in unread}
        if len(self._returned) >= min(PATIENCE, self._settings.population):
            return True
        seen = {n: {(type(m.config[n]), m.config[n]) for m, _ in self._returned} for n in choices}
        return all(len(seen[n]) == len(d.options) for n, d in choices.items())

    def _missed(self, member: Node, telemetry: Mapping[str, Any]) -> Iterator[Finding]:
        space = self._settings.space.names
        for name in telemetry["missed"]:
            close = difflib.get_close_matches(name, space, 1, 0.6)
            # a script's own setting may be looked for in the config first: a beta2 where beta1 is searched, and read
            typo = close and (close[0] not in self._used or sorted(close[0]) == sorted(name))
            if not typo or ("GPBT001", close[0]) in self._known:  # which says it
                continue
            yield from self._new(
                "GPBT002",
                name,
                f"member {member.id} asked its config for {name!r}, which is not in the space; did you mean "
                f"{close[0]!r}?",
                f"read member.config[{close[0]!r}], or add {name!r} to the space",
                member.id,
            )

    def _same_draws(self, member: Node, telemetry: Mapping[str, Any]) -> Iterator[Finding]:
        seeds = telemetry["seeds"]
        for place in dict.fromkeys(place for _, place in seeds.values()):
            for other, theirs in self._returned:
                same = [g for g, seen in seeds.items() if seen[1] == place and theirs["seeds"].get(g) == seen]
                if other.seed != member.seed and same:
                    whose = " and ".join(f"{generator}'s" for generator in same)
                    yield from self._new(
                        "GPBT006",
                        place,
                        f"members {other.id} and {member.id} have different seeds, and both seed {whose} random "
                        f"numbers with {seeds[same[0]][0]} at {place}: all members draw the same",
                        "delete this line (every member is seeded already), or seed from member.seed",
                        member.id,
                    )
                    break

    def _overwritten(self, member: Node, telemetry: Mapping[str, Any]) -> Iterator[Finding]:
        """The same absolute value at the end, whatever was applied, is the script's own."""
        read = set(telemetry["read"])
        for name, (gave, last, by) in telemetry["values"].items():
            if (name in read and by is None) or math.isclose(gave, last, rel_tol=1e-6):
                continue
            for _, theirs in self._returned:
                if name not in theirs["values"] or (name in theirs["read"] and by is None):
                    continue
                other_gave, other_last, _ = theirs["values"][name]
                if not math.isclose(gave, other_gave, rel_tol=1e-3) and math.isclose(last, other_last, rel_tol=1e-6):
                    yield from self._new(
                        "GPBT003",
                        name,
                        f"member {member.id} was to train with {name}={gave:.4g}, and trained with {last:.4g}, as did "
                        f"others whose {name} is another: "
                        + (f"{by} drives it to a value of its own" if by else "the script sets its own after begin"),
                        f"build the {by} after gpbt.torch.begin, from what the optimizer then has, or from the "
                        f"config's value: member.config[{name!r}]"
                        if by
                        else "scale what the optimizer has instead of replacing it, or compute the new value from the "
                        f"config's: group[{name!r}] = factor * member.config[{name!r}]",
                        member.id,
                    )
                    break

    # ---- checks of facts

    def scored(self, member: Node, score: float | None, metrics: Mapping[str, float]) -> Iterator[Finding]:
        """A member's training function has returned with this score, None if none was reported."""
        s = self._settings
        if score is None:
            instead = f"reported {', '.join(map(repr, list(metrics)[:8]))}" if metrics else "reported nothing"
            yield from self._new(
                "GPBT011",
                s.score,
                f"member {member.id} ended without its score {s.score!r}: it {instead}",
                termination.remedy(s, list(metrics)),
                member.id,
            )
            return
        if not math.isfinite(score):
            self._unfinite += 1
            if self._unfinite == CONSTANT and not self._scores:
                yield from self._new(
                    "GPBT014",
                    s.score,
                    f"the first {CONSTANT} members all ended with {s.score}={score}: no config gives a finite one",
                    "look at one member (gpbt-async try SCRIPT); a smaller learning rate, or the data, most likely",
                    member.id,
                )
            return
        if (said := self._heirs.trained(member, score, metrics)) is not None:
            yield from self._new(*said, member.id)
        if self._varied:
            return
        seen = self._scores.setdefault(repr(score), set())
        if len(self._scores) > 1:  # no more to be remembered, however long the run
            self._varied = True
            self._others.clear()
            return
        seen.add(hash(tuple(sorted((name, repr(value)) for name, value in member.config.items()))))
        self._others.add(repr({name: value for name, value in metrics.items() if name != s.score}))
        # a success rate of 0, an accuracy of 1, chance: many tie in the beginning; so whole generations must
        slow = len(self._others) > 1 or coarse(score)
        enough = max(PATIENCE, s.population) if slow else CONSTANT
        soon = not slow or member.generation == s.generations - 1
        if len(seen) >= enough and soon and s.replay is None:
            yield from self._new(
                "GPBT009",
                s.score,
                f"{len(seen)} members with different configs all ended with exactly {s.score}={score:.6g}",
                "the config does not reach the training, or the score cannot tell models apart: take a finer one",
                member.id,
            )

    def saved(self, member: Node, size: int, digest: str) -> Iterator[Finding]:
        """A member's checkpoint was published: its size in bytes, and a digest of all its files."""
        if self._settings.generations == 1:
            return  # nobody inherits
        if size == 0:
            yield from self._new(
                "GPBT007",
                "checkpoint",
                f"member {member.id} left nothing in its checkpoint: every child starts from nothing",
                "write what the next interval goes on from into member.checkpoint (gpbt.torch.save(member, model, "
                "optimizer), or files of your own)",
                member.id,
            )
        parent = member.parent
        if parent is not None and size and parent.id in self._digests:
            changed = self._digests[parent.id] != digest
            self._unchanged = -1 if changed or self._unchanged < 0 else self._unchanged + 1
        # one child that keeps what its parent had may have found nothing better; the first ones all have not trained
        if parent is not None and self._unchanged >= min(CONSTANT, self._settings.population):
            yield from self._new(
                "GPBT008",
                "checkpoint",
                f"the first {self._unchanged} children have trained, and each checkpoint is byte for byte its parent's "
                f"(member {member.id}'s is member {parent.id}'s): nothing was learned, or the files were copied",
                "save the model after it was trained, not the one that was loaded",
                member.id,
            )
        if self._unchanged >= 0:
            self._digests[member.id] = digest

    def _trained_nothing(self, member: Node, changed: bool) -> Iterator[Finding]:
        """A child has saved weights by gpbt.torch: other ones than it had loaded?"""
        self._idle = -1 if changed or self._idle < 0 else self._idle + 1
        if self._idle >= min(CONSTANT, self._settings.population):
            yield from self._new(
                "GPBT008",
                "checkpoint",
                f"the first {self._idle} children saved exactly the weights that they had loaded: they trained nothing",
                "save after training, and train the model that is saved: an optimizer made before the model was "
                "replaced, or only parameters that need no gradient, change nothing",
                member.id,
            )

    def _failing(self, engine: Engine, member: Node, generation: int) -> Iterator[Finding]:
        """Many of a generation for one reason, once all have settled; a reason that lasts, at the first member."""
        if member.state is State.FAILED and member.parent is not None and lasts(member.reason):
            yield from self._new(
                "GPBT010",
                kind(member.reason),
                f"member {member.id} cannot load the checkpoint of its parent, member {member.parent.id}: "
                f"{why(member.reason)}",
                remedy_of(member.reason),
                member.id,
            )
        here = engine.tree.generations[generation]
        if generation in self._generations or not here.complete:
            return
        self._generations.add(generation)
        for each in failures(engine, generation):
            if len(each.members) > 1 and each.share > TOLERATED:
                yield from self._new("GPBT010", kind(each.reason), each.text, each.remedy, each.members[0].id)

    # ----

    def _new(self, code: str, subject: str, text: str, remedy: str, member: int | None = None) -> Iterable[Finding]:
        if (code, subject) in self._known or code in self._silent:
            return ()
        self._known.add((code, subject))
        finding = Finding(code, subject, text, remedy, member)
        self.found.append(finding)
        return (finding,)


def finding_of(fact: events.Found) -> Finding:
    """A finding as the journal has it."""
    return Finding(fact.code, fact.subject, fact.text, fact.remedy, fact.member)
