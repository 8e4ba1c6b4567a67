"""The family tree: members, generations, and who is kin to whom.

Pure bookkeeping under the engine: `lineage.py` decides, this room remembers. Nothing here knows of slots, clocks or
files, and nothing is ever removed: the tree only grows, and a member's place in it (its path) never changes.

The one surprise: a member's *generation* is the round it was issued in. With comma selection that is its depth. With
plus selection a parent that was not beaten goes on having children in later rounds; such a child's generation is one
more than the round its parent survived, so each round still has exactly n members, and its schedule is shorter.

A replay is a tree of stems: n roots, and of each one child a generation, with the schedule's config. One that breaks
off has no descendants: the generations below it are narrower.
"""

from __future__ import annotations

import enum
import hashlib
import math
from bisect import bisect_left, insort
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
#: what was reported, where nothing was
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

    WAITING = "waiting"  # issued; to be started, or started again
    TRAINING = "training"  # holds a slot
    TRAINED = "trained"  # the slot is free again; its checkpoint is being published
    FINISHED = "finished"  # published: it may be a parent
    STOPPED = "stopped"  # ended early; never a parent
    FAILED = "failed"  # all attempts failed, or no finite score; never a parent

    def __init__(self, text: str) -> None:
        #: is it for good? (an attribute, because it is read a hundred times a fact)
        self.settled = text in ("finished", "stopped", "failed")


@dataclass(slots=True, eq=False)
class Node:
    """One node of the tree. The first seven attributes never change, but for the config of one that has not been
    trained yet when another space is adopted (adoption.py). Members are ordered by rank, the best first."""

    id: int
    #: its parent's path, one tuple for all of a parent's children (a path for each would be a third of a long run's
    #: memory); and its number among them
    family: Path
    index: int
    generation: int
    parent: Node | None
    config: Config
    seed: int
    state: State = State.WAITING
    #: number of the current or last attempt, from 1; 0 before the first
    attempt: int = 0
    #: loss of its first report, and whether it was told to stop then; None while early stopping has not asked
    first_loss: float | None = None
    stop_verdict: bool | None = None
    #: how many attempts failed by the member's own doing
    failures: int = 0
    #: how many were lost through no fault of its own
    lost_attempts: int = 0
    #: how many of them since the last attempt that failed
    lost_in_a_row: int = 0
    #: as reported, None before training ends; the loss is the score with its sign turned so that less is better
    score: float | None = None
    loss: float = math.inf
    #: as reported, for as long as it may be the best: they are let go of with its checkpoint, and stay in the journal
    metrics: Mapping[str, float] = field(default_factory=lambda: NOTHING)
    #: time inside `train`, of the attempt that counts
    seconds: float = 0.0
    reason: str = ""
    #: its published checkpoint was found not to be what it was
    damaged: bool = False
    slot: int | None = None
    #: by child index; a list from the first child on, which most members never have
    children: Sequence[Node] = ()
    #: children issued and not settled
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
        """Seconds to wait before its next attempt. The first loss costs nothing: it was no doing of the member's."""
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
        """The configs along the ancestry: what to train with, interval after interval, to get this member."""
        return [member.config for member in self.ancestry]

    def observation(self, space: Space) -> Observation:
        """What a searcher over the space is told of it: no constants, which are nothing to search."""
        config = space.searched(self.config)
        if self.state is State.FINISHED:
            return Observation(self.path, self.generation, config, "finished", self.loss)
        if self.state is State.STOPPED and math.isfinite(self.loss):
            return Observation(self.path, self.generation, config, "stopped", self.loss)
        return Observation(self.path, self.generation, config, "failed", None)


@dataclass(slots=True)
class Generation:
    """One round of n members, or fewer if an early stop closed it: `size` is how many it has or will have."""

    size: int
    members: list[Node] = field(default_factory=list)
    #: how many have finished or failed
    settled: int = 0
    #: those that may be parents, best first
    ranking: list[Node] = field(default_factory=list)
    #: the same, and the parents of its members, with whom they compete under plus selection
    with_parents: list[Node] = field(default_factory=list)
    #: first reports as losses, sorted; inf if not finite
    first_losses: list[float] = field(default_factory=list)
    #: children issued in this generation, by the parent's id
    by_parent: dict[int, int] = field(default_factory=dict)

    @property
    def issued(self) -> int:
        return len(self.members)

    @property
    def full(self) -> bool:
        """Is every member of it issued?"""
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
        #: roots issued and not settled, by id; the other members' children are few
        self.pending_roots: dict[int, Node] = {}

    def add(self, generation: int, parent: Node | None, config: Config, seed: int) -> Node:
        siblings = parent.children if parent is not None else self.generations[0].members
        family = siblings[0].family if siblings else parent.path if parent is not None else ()
        index = len(siblings)
        own = self.replay.intervals[generation].seed if self.replay is not None and not any((*family, index)) else None
        number = key(seed, "member", (*family, index), 32) if own is None else own
        member = Node(len(self.members), family, index, generation, parent, config, number)
        self.members.append(member)
        self.generations[generation].members.append(member)
        self.unsettled += 1
        if parent is None:
            self.pending_roots[member.id] = member
        else:
            parent.children = self._with(parent.children, member)
            parent.unsettled += 1
            counts = self.generations[generation].by_parent
            if parent.id not in counts:
                insort(self.generations[generation].with_parents, parent)
            counts[parent.id] = counts.get(parent.id, 0) + 1
        return member

    @staticmethod
    def _with(children: Sequence[Node], child: Node) -> Sequence[Node]:
        if isinstance(children, list):
            children.append(child)
            return children
        return [child]

    def at(self, path: Path) -> Node | None:
        """Who has this path; None if nobody has yet."""
        here: Sequence[Node] = self.generations[0].members
        found: Node | None = None
        for index in path:
            if index >= len(here):
                return None
            found = here[index]
            here = found.children
        return found

    def settle(self, member: Node, state: State) -> None:
        """The member has finished or failed, for good."""
        member.state = state
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
        """Less is better. A replay's best is whoever has come furthest: it is trained to be had whole."""
        return (-member.generation if self.replay is not None else 0, member)

    @property
    def came_to_the_end(self) -> bool:
        """Of a replay: has any?"""
        return self.replay is None or bool(self.generations[-1].ranking)

    def narrow(self) -> None:
        """Of a replay: who breaks off has no descendants, and nobody has them instead."""
        if self.replay is not None:
            for above, below in zip(self.generations, self.generations[1:], strict=False):
                gone = [m for m in above.members if m.state.settled and (m.state is not State.FINISHED or m.damaged)]
                below.size = max(1, above.size - sum(not m.children for m in gone))

    def unsettle(self, member: Node) -> None:
        """A member that failed for good gets another chance."""
        self.generations[member.generation].settled -= 1
        self.unsettled += 1
        if member.parent is None:
            self.pending_roots = {m.id: m for m in self.generations[0].members if m is member or not m.state.settled}
        else:
            member.parent.unsettled += 1
        member.state = State.WAITING
        self.narrow()

    def damage(self, member: Node, reason: str, kept: Iterable[Node]) -> None:
        """Its checkpoint is lost; kept: whose checkpoints there are. The best is the best of those that are left."""
        member.damaged, member.reason = True, reason
        if member is self.best:
            left = (m for m in kept if m.state is State.FINISHED and not m.damaged)
            self.best = min(left, key=self._worth, default=None)
        self.narrow()

    def rivals(self, generation: int, plus: bool) -> list[Node]:
        """Who competes to be parents of the generation after `generation`, best first.

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
        global: everybody. `parent` None stands for the virtual parent of generation 0.
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
            # in the order of their paths, without comparing any: whoever is no older than an ancestor, what is below
            # that, and then the ancestor's younger siblings
            first: list[Node] = []
            last: list[Node] = []
            here: Sequence[Node] = roots
            for elder in parent.ancestry:
                first += here[: elder.index + 1]
                last = [*here[elder.index + 1 :], *last]
                here = elder.children
            families = [*first, *here, *last]
        return sorted((m for m in families if m.state.settled), key=attrgetter("generation"))

    def best_of(self, generation: int) -> Node | None:
        ranking = self.generations[generation].ranking
        return ranking[0] if ranking else None

    def first_failed(self, generation: int) -> Node | None:
        """Who failed first: in the generation, or else anywhere; or else who was stopped first, or damaged."""
        for state in (State.FAILED, State.STOPPED):
            for members in (self.generations[generation].members, self.members):
                for member in members:
                    if member.state is state:
                        return member
        return next((m for m in self.generations[generation].members if m.damaged), None)

    def check(self, *spaces: Space) -> None:
        """Assert that all the counts and lists agree with the members, and every config lies inside one of the spaces.

        spaces: those that the run has had; who is to be trained lies inside the last.
        """
        assert self.unsettled == sum(not m.state.settled for m in self.members)
        roots = self.generations[0].members if self.generations else []
        assert list(self.pending_roots) == [m.id for m in roots if not m.state.settled]
        for generation in self.generations:
            assert generation.settled == sum(m.state.settled for m in generation.members)
            assert generation.first_losses == sorted(
                m.first_loss for m in generation.members if m.first_loss is not None
            )
            assert generation.ranking == sorted(m for m in generation.members if m.state is State.FINISHED)
            rivals = {*generation.ranking, *(self.members[id] for id in generation.by_parent)}
            assert generation.with_parents == sorted(rivals)
        for member in self.members:
            assert self.at(member.path) is member
            assert member.unsettled == sum(not c.state.settled for c in member.children)
            settled = member.state.settled or member.state is State.TRAINED
            assert any(space.holds(member.config) for space in (spaces if settled else spaces[-1:]))
            if member.parent is not None:
                assert member.parent.state is State.FINISHED
                assert member.parent.children[member.index] is member
                above = [member.parent.config, *(space.clip(member.parent.config) for space in spaces[1:])]
                above += [space.clip(config) for space in spaces[2:] for config in above]
                assert member.index > 0 or self.replay is not None or member.config in above
            assert self.replay is None or member.config == self.replay[member.generation]
