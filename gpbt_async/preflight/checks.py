"""Facts and telemetry in, findings out: what of a run's first members shows that it will mean nothing.

Pure: no clock, no files. A run folds every fact of its journal and the telemetry of every member that returned; doctor
does the same with its few members. Each finding is told once: a resumed run knows from its journal what it has found.

A check waits for as much evidence as it needs, and no more. One member is enough to say that a hyperparameter is never
read, unless the space has a Choice: then what is read may depend on the option, and the members that have been seen must
have covered the options. Two members with different seeds are enough for equal seeds of their own.
"""

from __future__ import annotations

import difflib
import math
import re
from typing import TYPE_CHECKING, Any

from .. import events
from ..space import Choice
from .findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ..experiment import Settings
    from ..lineage import Lineage
    from ..tree import Member

#: members whose scores must be equal, over different configs, to be called constant
CONSTANT = 4
#: members that are looked at for names that are never read, when options may decide what is read
PATIENCE = 8
#: the share of a generation that may fail for one reason
TOLERATED = 0.1
#: words of a score's name that can mean one direction only
LOWER = frozenset(
    "loss losses error errors err mse rmse mae mape nll perplexity ppl wer cer fid regret crossentropy bpc bpb logloss "
    "cost distance divergence kl elo_loss energy residual".split()
)
HIGHER = frozenset(
    "accuracy acc auc auroc auprc f1 fbeta precision recall return returns reward rewards r2 bleu rouge rougel iou miou "
    "map ndcg mcc kappa dice ssim psnr sharpe success likelihood elbo score_ratio top1 top5 winrate".split()
)


def direction(score: str) -> str | None:
    """"min" or "max" where the name of a score can mean only one; None where it can mean both, or neither.

    The last word that says something decides: val_loss, eval/accuracy, loss_ratio (none). Keras' and Hugging Face's
    conventions agree with it: a name that ends with "loss" is minimised.
    """
    words = [word for word in re.split(r"[^a-z0-9]+", re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", score).lower()) if word]
    known = [("min" if word in LOWER else "max") for word in words if word in LOWER or word in HIGHER]
    if not words or not known or (words[-1] not in LOWER and words[-1] not in HIGHER and len(set(known)) > 1):
        return None
    if words[0] in ("neg", "negative", "minus") and known[-1] == "min":
        return "max"
    return known[-1]


class Preflight:
    """settings: of the run. Folds; `found` are the findings not silenced, in order, those of the journal included."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._silent = frozenset(settings.silence)
        self.found: list[Finding] = []
        self._known: set[tuple[str, str]] = set()
        #: by member: config, and telemetry, of those that returned
        self._returned: list[tuple[Member, Mapping[str, Any]]] = []
        self._used: set[str] = set()
        self._digests: dict[int, str] = {}
        self._scores: dict[str, set[float]] = {}
        self._generations: set[int] = set()
        self._unfinite = 0

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
            self.found.append(finding)

    def heard(self, member: Member, telemetry: Mapping[str, Any]) -> Iterator[Finding]:
        """A member's training function has returned, and this is what its process noted."""
        for code, subject, text, remedy in telemetry.get("findings", ()):
            yield from self._new(code, subject, text, remedy, member.id)
        for thread in telemetry.get("threads", ())[:1]:
            yield from self._new(
                "GPBT013",
                "threads",
                f"member {member.id} returned from the training function while a thread of it still ran ({thread})",
                "join it before you return: what it writes afterwards may not be in the checkpoint",
                member.id,
            )
        self._used.update(telemetry.get("read", ()), telemetry.get("applied", ()))
        if len(self._returned) < PATIENCE:
            self._returned.append((member, telemetry))
            yield from self._unread(member)
            yield from self._missed(member, telemetry)
        yield from self._same_draws(member, telemetry)
        yield from self._overwritten(member, telemetry)
        if member.parent is not None and telemetry.get("parent_seen") is False:
            yield from self._new(
                "GPBT012",
                "parent",
                f"member {member.id} never looked at member.parent, its parent's checkpoint: it started from nothing",
                "load it: if member.parent is not None: model.load_state_dict(torch.load(member.parent / 'model.pt')), "
                "or gpbt.torch.begin(member, model, optimizer)",
                member.id,
            )

    def fold(self, fact: events.Fact, lineage: Lineage) -> Iterator[Finding]:
        """A fact that the engine has handled."""
        match fact:
            case events.Found():
                self.remember(fact)
            case events.Trained():
                yield from self._scored(lineage.tree.members[fact.member], fact)
            case events.Published():
                yield from self._saved(lineage.tree.members[fact.member], fact)
        if isinstance(fact, events.Failed | events.Trained | events.Published | events.Stopped | events.Lost):
            yield from self._failing(lineage, lineage.tree.members[fact.member].generation)

    # ---- checks of one member's telemetry

    def _unread(self, member: Member) -> Iterator[Finding]:
        space = self._settings.space
        unread = [name for name in space if name not in self._used]
        if not unread or not self._covered(unread):
            return
        missed = [name for _, seen in self._returned for name in seen.get("missed", ())]
        for name in unread:
            close = difflib.get_close_matches(name, missed, 1, 0.6)
            said = f"; it asks for {close[0]!r}: did you mean {name!r}?" if close else ""
            first = "" if len(self._returned) == 1 else f"s 0 to {len(self._returned) - 1}"
            yield from self._new(
                "GPBT001",
                name,
                f"member{first or ' ' + str(member.id)} never read the hyperparameter {name!r}, and gpbt.torch applied "
                f"it to nothing{said}",
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

    def _missed(self, member: Member, telemetry: Mapping[str, Any]) -> Iterator[Finding]:
        space = list(self._settings.space)
        for name in telemetry.get("missed", ()):
            close = difflib.get_close_matches(name, space, 1, 0.6)
            if not close:  # a script's own settings may be looked for in the config first
                continue
            yield from self._new(
                "GPBT002",
                name,
                f"member {member.id} asked its config for {name!r}, which is not in the space; did you mean "
                f"{close[0]!r}?",
                f"read member.config[{close[0]!r}], or add {name!r} to the space",
                member.id,
            )

    def _same_draws(self, member: Member, telemetry: Mapping[str, Any]) -> Iterator[Finding]:
        for generator, (seed, place) in telemetry.get("seeds", {}).items():
            for other, theirs in self._returned:
                if other.seed != member.seed and theirs.get("seeds", {}).get(generator) == [seed, place]:
                    yield from self._new(
                        "GPBT006",
                        generator,
                        f"members {other.id} and {member.id} have different seeds, and both seed {generator}'s random "
                        f"numbers with {seed} at {place}: all members draw the same",
                        "delete this line (every member is seeded already), or seed from member.seed",
                        member.id,
                    )
                    break

    def _overwritten(self, member: Member, telemetry: Mapping[str, Any]) -> Iterator[Finding]:
        """The same absolute value at the end, whatever was applied, is the script's own."""
        read = set(telemetry.get("read", ()))
        for name, (gave, last) in telemetry.get("values", {}).items():
            if name in read or math.isclose(gave, last, rel_tol=1e-6):
                continue
            for _, theirs in self._returned:
                if name not in theirs.get("values", {}) or name in theirs.get("read", ()):
                    continue
                other_gave, other_last = theirs["values"][name]
                if not math.isclose(gave, other_gave, rel_tol=1e-3) and math.isclose(last, other_last, rel_tol=1e-6):
                    yield from self._new(
                        "GPBT003",
                        name,
                        f"gpbt.torch.begin applied {name}={gave:.4g} to member {member.id}'s optimizer, and at its end "
                        f"it was {last:.4g}, as in other members with another {name}: the script sets its own",
                        f"multiply what the optimizer has (group[{name!r}] after begin) instead, or read "
                        f"member.config[{name!r}]",
                        member.id,
                    )
                    break

    # ---- checks of facts

    def _scored(self, member: Member, fact: events.Trained) -> Iterator[Finding]:
        s = self._settings
        if fact.score is None:
            close = difflib.get_close_matches(s.score, list(fact.metrics), 1, 0.4)
            instead = f"reported {', '.join(map(repr, list(fact.metrics)[:8]))}" if fact.metrics else "reported nothing"
            yield from self._new(
                "GPBT011",
                s.score,
                f"member {member.id} ended without its score {s.score!r}: it {instead}",
                (f"did you mean score={close[0]!r}? " if close else "")
                + f"Report it: member.report({s.score if s.score.isidentifier() else '**{...}'}=...)",
                member.id,
            )
            return
        if not math.isfinite(fact.score):
            self._unfinite += 1
            if self._unfinite == CONSTANT and not self._scores:
                yield from self._new(
                    "GPBT014",
                    s.score,
                    f"the first {CONSTANT} members all ended with {s.score}={fact.score}: no config gives a finite one",
                    "look at one member (gpbt-async try SCRIPT); a smaller learning rate, or the data, most likely",
                    member.id,
                )
            return
        seen = self._scores.setdefault(repr(fact.score), set())
        seen.add(hash(tuple(sorted((name, repr(value)) for name, value in member.config.items()))))
        if len(self._scores) == 1 and len(seen) == CONSTANT and s.replay is None:
            yield from self._new(
                "GPBT009",
                s.score,
                f"{CONSTANT} members with different configs all ended with exactly {s.score}={fact.score:.6g}",
                "the config does not reach the training, or the score cannot tell models apart (take a loss)",
                member.id,
            )

    def _saved(self, member: Member, fact: events.Published) -> Iterator[Finding]:
        if self._settings.generations == 1:
            return  # nobody inherits
        if fact.size == 0:
            yield from self._new(
                "GPBT007",
                "checkpoint",
                f"member {member.id} left nothing in its checkpoint: every child starts from nothing",
                "write what the next interval goes on from into member.checkpoint (gpbt.torch.save(member, model, "
                "optimizer), or files of your own)",
                member.id,
            )
        parent = member.parent
        if parent is not None and fact.size and self._digests.get(parent.id) == fact.digest:
            yield from self._new(
                "GPBT008",
                "checkpoint",
                f"member {member.id} has trained, and its checkpoint is byte for byte its parent's (member "
                f"{parent.id}): nothing was learned, or the parent's files were copied",
                "save the model after it was trained, not the one that was loaded",
                member.id,
            )
        self._digests[member.id] = fact.digest

    def _failing(self, lineage: Lineage, generation: int) -> Iterator[Finding]:
        here = lineage.tree.generations[generation]
        if generation in self._generations or not here.complete:
            return
        self._generations.add(generation)
        reasons: dict[str, list[Member]] = {}
        for member in here.members:
            if member.state.value == "failed" and member.score is None and member.reason:
                reasons.setdefault(_kind(member.reason), []).append(member)
        for members in reasons.values():
            if len(members) > TOLERATED * here.size and len(members) > 1:
                yield from self._new(
                    "GPBT010",
                    f"generation {generation}",
                    f"{len(members)} of {here.size} members of generation {generation} failed for one reason: "
                    f"{members[0].reason}",
                    lineage_remedy(members[0].reason),
                    members[0].id,
                )

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


def _kind(reason: str) -> str:
    """A reason without its figures: what many failures have in common."""
    return re.sub(r"0x[0-9a-f]+|\d[\d.e+-]*", "#", reason.split("\n", 1)[0])


def lineage_remedy(reason: str) -> str:
    """What to do about a failure that many have in common."""
    if re.search(r"size mismatch|shape '?\[|shapes? .*(match|mismatch)|Missing key\(s\)|Unexpected key\(s\)", reason):
        return (
            "a hyperparameter that changes the model's shape cannot be inherited: take it out of the space, and give "
            "each shape a run of its own"
        )
    return "gpbt-async doctor SCRIPT trains a child whose config differs from its parent's in every dimension"
