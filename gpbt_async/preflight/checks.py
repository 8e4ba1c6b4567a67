"""The checks of the pre-flight: facts and telemetry of the first members go in, and findings come out.

Pure: no clock, no files. A run feeds in every fact of its journal, and the telemetry of every member whose `train`
returns. `doctor` does the same with its few members. Each finding is reported once: a resumed run knows from its
journal what was found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import events
from ..declaration.direction import direction
from ..engine.tree import State
from ..findings import Finding
from ..formatting import parts, report_call, score_text
from ..processes import remedies
from .failures import TOLERATED, failures, kind, remedy_of
from .observations import UNCHANGED, Observations, Streak, TelemetryChecks
from .scores import ScoreChecks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ..engine.engine import Engine
    from ..engine.generalisation import GapRow
    from ..engine.tree import Node
    from ..experiment import Settings


class Preflight:
    """silence: codes that are not reported, beside the settings' own. Its methods yield the findings that are new."""

    def __init__(self, settings: Settings, silence: Iterable[str] = ()) -> None:
        self._settings = settings
        self._silent = frozenset((*settings.silence, *silence))
        #: the findings that are not silenced, in order, those of the journal included
        self.found: list[Finding] = []
        #: codes and subjects
        self._known: set[tuple[str, str]] = set()
        self._telemetry = TelemetryChecks(settings, lambda code, subject: (code, subject) in self._known)
        self._scores = ScoreChecks(settings)
        #: member → its checkpoint's digest; and the children so far whose checkpoints were all their parents'
        self._digests: dict[int, str] = {}
        self._unchanged = Streak()
        #: generations whose failures were judged
        self._judged: set[int] = set()
        #: how many generations have settled, from the first on
        self._complete = 0

    def declared(self) -> Iterator[Finding]:
        """What the declaration alone shows."""
        return self._new(self._direction())

    def remember(self, fact: events.Found) -> None:
        """A finding of the journal."""
        finding = Finding.of(fact)
        if (finding.code, finding.subject) not in self._known:
            self._known.add((finding.code, finding.subject))
            if finding.code not in self._silent:
                self.found.append(finding)

    def heard(self, member: Node, telemetry: Mapping[str, object]) -> Iterator[Finding]:
        """A member's training function has returned, and its process has sent this telemetry, as JSON."""
        return self._new(self._telemetry.heard(member, Observations.received(telemetry)))

    def scored(self, member: Node, score: float | None, metrics: Mapping[str, float]) -> Iterator[Finding]:
        """A member's training function has returned with this score, None if none was reported."""
        return self._new(self._scores.scored(member, score, metrics))

    def saved(self, member: Node, size: int, digest: str) -> Iterator[Finding]:
        """A member's checkpoint was published: its size in bytes, and a digest of all its files."""
        return self._new(self._checkpoint(member, size, digest) if self._settings.generations > 1 else ())

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
            yield from self._new(self._failing(engine, engine.tree.members[fact.member]))
            yield from self._new(self._overfitting(engine))
            yield from self._new(self._unchosen(engine))

    def _new(self, findings: Iterable[Finding]) -> Iterator[Finding]:
        """Those that are neither known nor silenced; one by one, as later checks look at what is known."""
        for finding in findings:
            key = (finding.code, finding.subject)
            if key not in self._known and finding.code not in self._silent:
                self._known.add(key)
                self.found.append(finding)
                yield finding

    # ---- the checks

    def _direction(self) -> Iterator[Finding]:
        s = self._settings
        meant = direction(s.score)
        if meant is not None and meant != s.mode and s.replay is None:
            yield Finding(
                "GPBT005",
                s.score,
                f"the score {s.score!r} is {'maximised' if s.mode == 'max' else 'minimised'} (mode={s.mode!r})",
                f"give mode={meant!r}, or silence GPBT005 if it is meant so",
            )

    def _checkpoint(self, member: Node, size: int, digest: str) -> Iterator[Finding]:
        if size == 0:
            yield Finding(
                "GPBT007",
                "checkpoint",
                f"member {member.id} left nothing in its checkpoint: every child starts from nothing",
                "write what the next interval needs into member.checkpoint (gpbt.torch.save(member, model, optimizer), "
                "or files of your own)",
                member.id,
            )
        parent = member.parent
        if parent is not None and size and parent.id in self._digests:
            self._unchanged.goes_on(self._digests[parent.id] == digest)
        # one child that keeps what its parent had may have found nothing better; the first ones all have not trained
        if parent is not None and self._unchanged.length >= min(UNCHANGED, self._settings.population):
            yield Finding(
                "GPBT008",
                "checkpoint",
                f"the first {self._unchanged.length} children have trained, and each checkpoint is byte for byte its "
                f"parent's (member {member.id}'s is member {parent.id}'s): nothing was learned, or the files were "
                "copied",
                "save the model after it was trained, not the one that was loaded",
                member.id,
            )
        if not self._unchanged.broken:
            self._digests[member.id] = digest

    def _overfitting(self, engine: Engine) -> Iterator[Finding]:
        """Is what the score gains found in the metrics on data of their own? Asked as each generation completes."""
        generations, known, s = engine.tree.generations, engine.generalisation, engine.settings
        while self._complete < len(generations) and generations[self._complete].complete:
            self._complete += 1
            for metric in known.metrics:
                if (rows := known.overfits(s, metric, self._complete)) is not None:
                    yield _overfitted(s, metric, *rows)

    def _unchosen(self, engine: Engine) -> Iterator[Finding]:
        choice = engine.final_choice
        if choice is not None and choice.fallback:
            yield Finding(
                "GPBT021",
                "final choice",
                f"none of the {len(choice.among)} members that the final choice is among reported a finite "
                f"{choice.metric!r}: the score chose member {choice.chosen.id}",
                f"{report_call(choice.metric, '...')} in the last generation, too",
                choice.chosen.id,
            )

    def _failing(self, engine: Engine, member: Node) -> Iterator[Finding]:
        """A reason that every attempt shares, at the first member; other reasons once a generation is complete."""
        if member.state is State.FAILED and member.parent is not None and remedies.lasting(member.reason):
            yield Finding(
                "GPBT010",
                kind(member.reason),
                f"member {member.id} cannot load the checkpoint of its parent, member {member.parent.id}: "
                f"{parts(member.reason)[0]}",
                remedy_of(member.reason),
                member.id,
            )
        if member.generation in self._judged or not engine.tree.generations[member.generation].complete:
            return
        self._judged.add(member.generation)
        for group in failures(engine, member.generation):
            if len(group.members) > 1 and group.share > TOLERATED:
                yield Finding("GPBT010", kind(group.reason), group.text, group.remedy, group.members[0].id)


def _overfitted(settings: Settings, metric: str, before: GapRow, after: GapRow) -> Finding:
    def change(was: float, now: float) -> str:
        return f"from {score_text(was)} to {score_text(now)}"

    score, rows = settings.score, f"generations {before.generation} and {after.generation}"
    remedy = "score on more rows, or on member.fold's; end the run earlier"
    if settings.choose_by is None:
        remedy += f"; choose the model by choose_by={metric!r}"
    return Finding(
        "GPBT023",
        metric,
        f"between {rows} {score!r} of the best {after.members} members improved {change(before.score, after.score)}, "
        f"and {metric!r} went {change(before.metric, after.metric)}: the run overfits the data of its score",
        f"{remedy} (guide method)",
    )
