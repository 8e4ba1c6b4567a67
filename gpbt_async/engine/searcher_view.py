"""The Ask that a searcher gets for a child: read off the tree as it is at one moment, without changing anything.

Where a run has adopted another space, older configs are shown clipped into it (adoption.py), so that a searcher never
sees one that it could not have suggested.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..ask import Ask, Path
from .tree import key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..space import Config
    from .adoption import Adoption
    from .tree import Node, Tree


def ask_for(
    adoption: Adoption, tree: Tree, path: Path, generation: int, ready: Mapping[Path, Config], kin: bool
) -> Ask:
    """The Ask for the child at `path`, of this generation.

    ready: suggestions for siblings that are not created yet, by path. kin: whether to include the family history.
    """
    settings, parent = adoption.settings, tree.at(path[:-1])
    space = settings.space
    siblings: Iterable[Node] = tree.pending_roots.values()
    if parent is not None:
        siblings = parent.children if parent.unsettled else ()
    # in the order of their paths: siblings stand in that order, and those that are not created yet come behind them
    pending = [m.config for m in siblings if not m.state.settled]
    pending += [ready[p] for p in sorted(ready) if p != path]
    relatives = tree.kin(parent, settings.history) if kin else []
    return Ask(
        space=space,
        path=path,
        generation=generation,
        seed=key(settings.seed, "ask", path, 63),
        parent=adoption.seen(parent.observation(space)) if parent is not None else None,
        kin=tuple(adoption.seen(m.observation(space)) for m in relatives),
        pending=tuple(adoption.shown(pending)),
        run=key(settings.seed, "run", (), 63),
    )
