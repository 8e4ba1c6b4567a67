"""Upcoming: the members that the breeding rule would create next, and what the searcher is asked for them.

`Selection.upcoming` derives the next members from the tree. With a thousand slots the engine looks a thousand members
ahead; to derive them again after every fact would cost a hundred times as much as all the rest. So this class keeps
them between two facts, as a line. Two things change the line. A member is created: it was the first of the line, and
the others stay as they are. Or something that the rule depends on changes (`Selection.basis`): then the line is derived
again. That is rare, because few of the members that finish are among the best.

The one surprise: the rule yields more than the line holds. Where fewer members are wanted than a moment ago, the last
ones leave the line, and their asks and answers are forgotten; they are kept in `_beyond`, to be wanted again.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from .. import events

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..ask import Path
    from ..space import Config
    from .selection import Offspring, Selection


class Upcoming:
    """asks: unanswered ones, by the path of the child, at most one a parent. ready: suggestions that are not used yet,
    by path, with the child's generation: with plus selection a later generation may want the path.

    Both are for members in the line that need a suggestion; the others repeat their parent's config.
    """

    def __init__(self, selection: Selection) -> None:
        self.asks: dict[Path, events.Suggest] = {}
        self.ready: dict[Path, tuple[int, Config]] = {}
        self._selection = selection
        #: what the line was derived from; None: it must be derived again
        self._basis: tuple[object, ...] | None = None
        #: the members to be created next, in order; what the rule has yielded behind them, the last one first; the rest
        self._line: deque[Offspring] = deque()
        self._beyond: list[Offspring] = []
        self._rest: Iterator[Offspring] = iter(())
        #: has the line been derived again, but not yet what is wanted for it?
        self._renewed = False
        #: generation of each child in the line that needs a suggestion, and its place in the order of creation
        self._wanted: dict[Path, tuple[int, int]] = {}
        self._places = 0
        #: those of them without an answer, in order, by the parent's path: the first of each parent is asked for, since
        #: an ask for a younger sibling must know its elder's config as pending
        self._unanswered: dict[Path, deque[Path]] = {}
        #: parents whose first unanswered child may not be asked for yet
        self._due: list[Path] = []

    def forget(self) -> None:
        """Derive everything again: something has changed that `Selection.basis` does not show."""
        self._basis = None

    def clear(self) -> None:
        """Nothing is asked for any more."""
        self.asks.clear()
        self.ready.clear()
        self.forget()

    # ---- the line

    def first(self, shallowest: int) -> Offspring | None:
        """The member to be created next, if there is one. shallowest: the first generation with members to create."""
        self._refresh(shallowest)
        if self._line:
            return self._line[0]
        choice = self._pull()
        if choice is not None:
            self._beyond.append(choice)
        return choice

    def take(self, choice: Offspring) -> Config | None:
        """Take `first` out of the line, to create it now. Returns its config; None, and it stays, if there is none."""
        config = self._selection.given(choice)
        if config is None:
            path = choice.path
            generation, config = self.ready.get(path, (-1, {}))
            if generation != choice.generation:
                return None
            del self.ready[path]
            self._wanted.pop(path, None)
        if self._line:
            self._line.popleft()
        else:
            self._beyond.pop()
        return config

    def _refresh(self, shallowest: int) -> None:
        basis = self._selection.basis(shallowest)
        if basis != self._basis:
            self._basis = basis
            self._line.clear()
            self._beyond.clear()
            self._rest = self._selection.upcoming(shallowest)
            self._renewed = True

    def _pull(self) -> Offspring | None:
        return self._beyond.pop() if self._beyond else next(self._rest, None)

    # ---- asks

    @property
    def asked(self) -> list[events.Suggest]:
        """The unanswered asks, in the order in which the children would be created."""
        return sorted(self.asks.values(), key=lambda ask: self._wanted[ask.path][1])

    def answer(self, path: Path, config: Config) -> None:
        """The searcher has answered the ask for the child at `path`."""
        self.ready[path] = (self.asks.pop(path).generation, config)
        family = path[:-1]
        if (unanswered := self._unanswered.get(family)) is not None:
            unanswered.popleft()
            self._due.append(family)

    def suggests(self, shallowest: int, length: int, since: int) -> list[events.Command]:
        """Ask for what the next `length` members need; forget asks and answers for others.

        since: the number of facts before a new ask. Returns the new asks, in the order of the children's creation.
        """
        self._refresh(shallowest)
        before: dict[Path, events.Suggest] = {}
        renewed, self._renewed = self._renewed, False
        if renewed:
            before = dict(self.asks)
            self.asks.clear()
            self._wanted.clear()
            self._unanswered.clear()
        while len(self._line) > length:
            self._shorten()
        while len(self._line) < length and (choice := self._pull()) is not None:
            self._lengthen(choice)
        if renewed:
            for path in [p for p, (g, _) in self.ready.items() if self._wanted.get(p, (-1, 0))[0] != g]:
                del self.ready[path]
        return self._due_asks(before, since)

    def _lengthen(self, choice: Offspring) -> None:
        self._line.append(choice)
        path = choice.path
        # a survivor's children of two generations share a path: the earlier one first
        if self._selection.given(choice) is not None or path in self._wanted:
            return
        self._places += 1
        self._wanted[path] = (choice.generation, self._places)
        if self.ready.get(path, (-1,))[0] != choice.generation:
            self._unanswered.setdefault(path[:-1], deque()).append(path)
            self._due.append(path[:-1])

    def _shorten(self) -> None:
        choice = self._line.pop()
        self._beyond.append(choice)
        path = choice.path
        if path not in self._wanted or self._wanted[path][0] != choice.generation:
            return
        del self._wanted[path]
        if self.ready.pop(path, None) is None:  # then it is the last one of its parent that is unanswered
            self._unanswered[path[:-1]].pop()
            self.asks.pop(path, None)

    def _due_asks(self, before: dict[Path, events.Suggest], since: int) -> list[events.Command]:
        """Ask for the first unanswered child of each parent that is due. before: asks that go on."""
        if not self._due:
            return []
        due = {unanswered[0] for family in self._due if (unanswered := self._unanswered.get(family))}
        self._due.clear()
        new: list[events.Command] = []
        for path in sorted(due - self.asks.keys(), key=self._place):
            ask = before.get(path)
            generation = self._wanted[path][0]
            if ask is None or ask.generation != generation:
                ask = events.Suggest(path, generation, since)
                new.append(ask)
            self.asks[path] = ask
        return new

    def _place(self, path: Path) -> int:
        return self._wanted[path][1]

    def check(self, shallowest: int, length: int, ended: bool) -> None:
        """Assert that what is kept is what would be derived again."""
        wanted: dict[Path, int] = {}
        for choice in islice(self._selection.upcoming(shallowest), length):
            if self._selection.given(choice) is None:
                wanted.setdefault(choice.path, choice.generation)
        assert all(wanted.get(path) == generation for path, (generation, _) in self.ready.items())
        assert all((ask.path, ask.generation) == (path, wanted.get(path)) for path, ask in self.asks.items())
        assert len({path[:-1] for path in self.asks}) == len(self.asks), "one ask a parent"
        assert not self.asks.keys() & self.ready.keys()
        assert all(self._selection.tree.at(path) is None for path in wanted), "a wanted child exists already"
        if self._basis == self._selection.basis(shallowest) and not self._renewed and not ended:
            assert list(self._line) == list(islice(self._selection.upcoming(shallowest), length))
            seen = [*self._line, *reversed(self._beyond)]
            assert seen == list(islice(self._selection.upcoming(shallowest), len(seen)))
            assert {path: generation for path, (generation, _) in self._wanted.items()} == wanted
            assert sorted(self._wanted, key=self._place) == list(wanted)
            first: dict[Path, list[Path]] = {}
            for path in wanted:
                if path not in self.ready:
                    first.setdefault(path[:-1], []).append(path)
            assert {family: [*paths] for family, paths in self._unanswered.items() if paths} == first
            assert self.asks.keys() == {paths[0] for paths in first.values()}
            assert not self._due
