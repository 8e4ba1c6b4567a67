"""The family tree: members, generations, and which members are kin.

The engine decides, and the tree keeps the result. It knows nothing of slots, clocks or files. It only grows, and a
member's place in it (its path) never changes.

The one surprise: a member's *generation* is the round that it was created in. With comma selection that is its depth.
With plus selection a parent that was not beaten has more children in later rounds; the generation of such a child is
one more than the round that its parent survived, so each round still has n members, and the ancestry is shorter.

A replay is a tree of stems: n roots, and one child of each in every generation, with the schedule's config. A stem that
breaks off has no descendants: the generations below it are narrower.

A member is *settled* when it has finished, was stopped early, or has failed in its last attempt.
"""

from __future__ import annotations

import enum
import hashlib
import math
from bisect import bisect_left, insort
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING

from ..ask import Observation, Path, path_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..schedule import Schedule
    from ..space import Config, Space


#: seconds before the second attempt; four times as long before each further one, up to. Short, because a member that
#: waits holds a slot already
FIRST_DELAY, LONGEST_DELAY = 0.25, 4.0
#: the metrics of a member that has none, or whose metrics are not kept
NOTHING: Mapping[str, float] = MappingProxyType({})


def key(seed: int, purpose: str, path: Path, bits: int) -> int:
    """A number in [0, 2**bits) for (seed, purpose, path): the same on every machine, unrelated between paths."""
    digest = hashlib.blake2b(f"{seed}:{purpose}:{path_text(path)}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - bits)


def retry_delay(attempts: int) -> float:
    """Seconds to wait after so many failed attempts: a file server or a full memory may need them to recover."""
    return min(LONGEST_DELAY, FIRST_DELAY * 4.0 ** min(attempts - 1, 8)) if attempts > 0 else 0.0


class State(enum.Enum):
    """Where a member is in its life. FINISHED, STOPPED and FAILED are for good."""

    WAITING = "waiting"  # created; to be started, or started again
    TRAINING = "training"  # holds a slot
    TRAINED = "trained"  # the slot is free again; its checkpoint is being published
    FINISHED = "finished"  # published: it may be a parent
    STOPPED = "stopped"  # ended early; never a parent
    FAILED = "failed"  # all attempts failed, or no finite score; never a parent

    def __init__(self, text: str) -> None:
        #: for good? (an attribute, because it is read a hundred times a fact)
        self.settled = text in ("finished", "stopped", "failed")


@dataclass(slots=True, eq=False)
class Node:
    """One member. Its first seven attributes never change, except that the config of a member that has not trained yet
    is clipped when another space is adopted (adoption.py). Members are ordered by rank, the best first."""

    id: int
    #: the parent's path, one tuple shared by all its children (a path each would be a third of a long run's memory);
    #: and the number among them
    family: Path
    index: int
    generation: int
    parent: Node | None
    config: Config
    seed: int
    state: State = State.WAITING
    #: number of the current or last attempt, from 1; 0 before the first
    attempt: int = 0
    #: loss of the first report, and whether the verdict on it was to stop; None before there is a verdict
    first_loss: float | None = None
    stop_verdict: bool | None = None
    #: attempts that failed through the member's own fault
    failures: int = 0
    #: attempts that were lost through no fault of the member, and how many of them since one that failed
    lost_attempts: int = 0
    lost_in_a_row: int = 0
    #: as reported, None before training ends; the loss is the score with its sign turned so that less is better
    score: float | None = None
    loss: float = math.inf
    #: as reported; dropped with the checkpoint, since they stay in the journal
    metrics: Mapping[str, float] = field(default_factory=lambda: NOTHING)
    #: time inside `train`, of the attempt that counts
    seconds: float = 0.0
    #: why it failed, or is damaged
    reason: str = ""
    #: its published checkpoint is no longer what was published
    damaged: bool = False
    slot: int | None = None
    #: by child index; a list from the first child on, which most members never have
    children: Sequence[Node] = ()
    #: children that are not settled
    unsettled: int = 0

    @property
    def path(self) -> Path:
        return (*self.family, self.index)

    def __lt__(self, other: Node) -> bool:
        if self.loss != other.loss:
            return self.loss < other.loss
        return (self.generation, self.path) < (other.generation, other.path)

    @property
    def retry_delay(self) -> float:
        """Seconds to wait before the next attempt; none after one that was lost for the first time."""
        return retry_delay(self.failures + max(0, self.lost_in_a_row - 1))

    @property
    def ancestry(self) -> list[Node]:
        """From the root to this member."""
        chain = [self]
        while chain[-1].parent is not None:
            chain.append(chain[-1].parent)
        return chain[::-1]

    @property
    def schedule(self) -> list[Config]:
        """The configs along the ancestry: those to train with, interval after interval, to get this member."""
        return [member.config for member in self.ancestry]

    def observation(self, space: Space) -> Observation:
        """The member as a searcher over the space sees it: without constants, which are not searched."""
        config = space.searched(self.config)
        if self.state is State.FINISHED:
            return Observation(self.path, self.generation, config, "finished", self.loss)
        if self.state is State.STOPPED and math.isfinite(self.loss):
            return Observation(self.path, self.generation, config, "stopped", self.loss)
        return Observation(self.path, self.generation, config, "failed", None)


@dataclass(slots=True)
class Generation:
    """One round of n members, or fewer if early stopping closed it: `size` is how many it has or will have."""

    size: int
    members: list[Node] = field(default_factory=list)
    #: how many have settled, and how many are publishing their checkpoints
    settled: int = 0
    publishing: int = 0
    #: those that may be parents, best first
    ranking: list[Node] = field(default_factory=list)
    #: these and the parents of the members, with which they compete under plus selection
    with_parents: list[Node] = field(default_factory=list)
    #: losses of first reports, sorted; inf if not finite
    first_losses: list[float] = field(default_factory=list)
    #: children in this generation, by the parent's id
    by_parent: dict[int, int] = field(default_factory=dict)

    @property
    def issued(self) -> int:
        return len(self.members)

    @property
    def full(self) -> bool:
        """Is every member of it created?"""
        return len(self.members) == self.size

    @property
    def complete(self) -> bool:
        """Has every member of it settled?"""
        return self.settled == self.size


class Tree:
    """All members by id and by path, and the generations they fill."""

    def __init__(self, generations: int, population: int, replay: Schedule | None = None) -> None:
        self.replay = replay
        self.members: list[Node] = []
        self.generations = [Generation(population) for _ in range(generations)]
        self.best: Node | None = None
        self.unsettled = 0
        #: members whose checkpoint is lost
        self.damaged = 0
        #: roots that are not settled, by id (of another member's few children there is no such list)
        self.pending_roots: dict[int, Node] = {}

    def add(self, generation: int, parent: Node | None, config: Config, seed: int) -> Node:
        """Create a member: the next child of `parent`, a root without one. seed: the run's."""
        siblings = parent.children if parent is not None else self.generations[0].members
        family = siblings[0].family if siblings else parent.path if parent is not None else ()
        index = len(siblings)
        first_stem = self.replay is not None and not any((*family, index))  # trains with the seeds of the original
        own = self.replay.intervals[generation].seed if self.replay is not None and first_stem else None
        number = key(seed, "member", (*family, index), 32) if own is None else own
        member = Node(len(self.members), family, index, generation, parent, config, number)
        self.members.append(member)
        self.generations[generation].members.append(member)
        self.unsettled += 1
        if parent is None:
            self.pending_roots[member.id] = member
        else:
            if isinstance(parent.children, list):
                parent.children.append(member)
            else:
                parent.children = [member]
            parent.unsettled += 1
            counts = self.generations[generation].by_parent
            if parent.id not in counts:
                insort(self.generations[generation].with_parents, parent)
            counts[parent.id] = counts.get(parent.id, 0) + 1
        return member

    def at(self, path: Path) -> Node | None:
        """The member with this path; None if there is none yet."""
        siblings: Sequence[Node] = self.generations[0].members
        member: Node | None = None
        for index in path:
            if index >= len(siblings):
                return None
            member = siblings[index]
            siblings = member.children
        return member

    def enter(self, member: Node, state: State) -> None:
        """The member's state changes."""
        change = (state is State.TRAINED) - (member.state is State.TRAINED)
        self.generations[member.generation].publishing += change
        member.state = state

    def settle(self, member: Node, state: State) -> None:
        """The member has ended for good, in this state."""
        self.enter(member, state)
        generation = self.generations[member.generation]
        generation.settled += 1
        self.unsettled -= 1
        if member.parent is None:
            del self.pending_roots[member.id]
        else:
            member.parent.unsettled -= 1
        if state is State.FINISHED:
            insort(generation.ranking, member)
            insort(generation.with_parents, member)
            if self.best is None or self._worth(member) < self._worth(self.best):
                self.best = member
        self.narrow()

    def _worth(self, member: Node) -> tuple[int, Node]:
        """Less is better. A replay's best is the member that has come furthest: the aim is the whole schedule."""
        return (-member.generation if self.replay is not None else 0, member)

    @property
    def replay_complete(self) -> bool:
        """Has any stem of a replay reached its end? (True of a run that is none.)"""
        return self.replay is None or bool(self.generations[-1].ranking)

    def narrow(self) -> None:
        """Make the generations of a replay as narrow as the stems that go on: no other stem gets more children."""
        if self.replay is not None:
            for above, below in zip(self.generations, self.generations[1:], strict=False):
                broken = [m for m in above.members if m.state.settled and (m.state is not State.FINISHED or m.damaged)]
                below.size = max(1, above.size - sum(not m.children for m in broken))

    def unsettle(self, member: Node) -> None:
        """A member that failed for good gets its attempts again."""
        self.generations[member.generation].settled -= 1
        self.unsettled += 1
        if member.parent is None:
            self.pending_roots = {m.id: m for m in self.generations[0].members if m is member or not m.state.settled}
        else:
            member.parent.unsettled += 1
        member.state = State.WAITING
        self.narrow()

    def damage(self, member: Node, reason: str, kept: Iterable[Node]) -> None:
        """The member's checkpoint is lost. kept: members with checkpoints, of which the best is best from now on."""
        member.damaged, member.reason = True, reason
        self.damaged += 1
        if member is self.best:
            left = (m for m in kept if m.state is State.FINISHED and not m.damaged)
            self.best = min(left, key=self._worth, default=None)
        self.narrow()

    def rivals(self, generation: int, plus: bool) -> list[Node]:
        """The members that compete to be parents of the generation after `generation`, best first.

        With plus selection the parents of `generation` compete with their children.
        """
        own = self.generations[generation]
        return own.with_parents if plus else own.ranking

    def rank(self, member: Node, generation: int, plus: bool) -> int:
        """The member's place, from 0, among the rivals of `generation`."""
        return bisect_left(self.rivals(generation, plus), member)

    def kin(self, parent: Node | None, history: str) -> list[Node]:
        """The settled members a searcher for a child of `parent` is shown, by (generation, path).

        inherit: generation 0, and all children of the parent and of every ancestor. reset: the parent's own children.
        global: all members. `parent` None stands for the virtual parent of generation 0.
        """
        roots = self.generations[0].members
        families: Iterable[Node]
        if history == "global":
            families = sorted(self.members, key=attrgetter("path"))
        elif parent is None:
            families = roots
        elif history == "reset":
            families = parent.children
        else:
            # in the order of their paths, without comparing any: an ancestor and its elder siblings, what is below the
            # ancestor, and then its younger siblings
            before: list[Node] = []
            after: list[Node] = []
            siblings: Sequence[Node] = roots
            for ancestor in parent.ancestry:
                before += siblings[: ancestor.index + 1]
                after = [*siblings[ancestor.index + 1 :], *after]
                siblings = ancestor.children
            families = [*before, *siblings, *after]
        return sorted((m for m in families if m.state.settled), key=attrgetter("generation"))

    def best_of(self, generation: int) -> Node | None:
        ranking = self.generations[generation].ranking
        return ranking[0] if ranking else None

    def first_failed(self, generation: int) -> Node | None:
        """The first member of the generation, or else of all, that failed; or else was stopped; or else is damaged."""
        for state in (State.FAILED, State.STOPPED):
            for members in (self.generations[generation].members, self.members):
                for member in members:
                    if member.state is state:
                        return member
        return next((m for m in self.generations[generation].members if m.damaged), None)

    def check(self, *spaces: Space) -> None:
        """Assert that all counts and lists agree with the members, and every config lies inside one of the spaces.

        spaces: those that the run has had, the one in force last; a member to be trained lies inside the last.
        """
        assert self.unsettled == sum(not m.state.settled for m in self.members)
        assert self.damaged == sum(m.damaged for m in self.members)
        roots = self.generations[0].members if self.generations else []
        assert list(self.pending_roots) == [m.id for m in roots if not m.state.settled]
        assert sum(len(g.members) for g in self.generations) == len(self.members)
        for index, generation in enumerate(self.generations):
            self._check_generation(index, generation)
        for id, member in enumerate(self.members):
            assert member.id == id
            self._check_member(member, spaces)
        if self.best is not None:
            assert self.best.state is State.FINISHED
            assert not self.best.damaged

    def _check_generation(self, index: int, generation: Generation) -> None:
        assert all(m.generation == index for m in generation.members)
        assert generation.issued <= generation.size <= self.generations[0].size
        assert generation.settled == sum(m.state.settled for m in generation.members)
        assert generation.publishing == sum(m.state is State.TRAINED for m in generation.members)
        first_losses = sorted(m.first_loss for m in generation.members if m.first_loss is not None)
        assert generation.first_losses == first_losses
        assert generation.ranking == sorted(m for m in generation.members if m.state is State.FINISHED)
        assert generation.by_parent == Counter(m.parent.id for m in generation.members if m.parent is not None)
        rivals = {*generation.ranking, *(self.members[id] for id in generation.by_parent)}
        assert generation.with_parents == sorted(rivals)

    def _check_member(self, member: Node, spaces: Sequence[Space]) -> None:
        assert self.at(member.path) is member
        assert member.unsettled == sum(not c.state.settled for c in member.children)
        trained = member.state.settled or member.state is State.TRAINED
        assert any(space.holds(member.config) for space in (spaces if trained else spaces[-1:]))
        assert trained or member.score is None
        assert math.isfinite(member.loss) or member.state not in (State.TRAINED, State.FINISHED)
        assert member.slot is None or member.state is State.TRAINING
        assert member.attempt > 0 or not trained or member.state is State.FAILED  # with its parent, before it began
        assert member.state is not State.TRAINING or member.attempt > 0
        assert member.first_loss is None or member.attempt > 0
        assert (member.first_loss is None) == (member.stop_verdict is None)
        assert 0 <= member.lost_in_a_row <= member.lost_attempts
        assert not member.damaged or member.state is State.FINISHED
        assert self.replay is None or member.config == self.replay[member.generation]
        if (parent := member.parent) is not None:
            assert parent.state is State.FINISHED
            assert parent.children[member.index] is member
            to_begin = member.state is State.WAITING or (member.state is State.TRAINING and member.slot is None)
            assert not (parent.damaged and to_begin)
            inherited = [parent.config]
            for space in spaces[1:]:
                for config in tuple(inherited):
                    with suppress(ValueError):  # an option that is younger than the space
                        inherited.append(space.clip(config))
            assert member.index > 0 or self.replay is not None or member.config in inherited
