"""The Ask that a searcher gets for a child: read off the tree as it is at one moment, without changing anything.

Where a run has adopted another space, older configs are shown clipped into it (adoption.py), so that a searcher never
sees one that it could not have suggested.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..ask import Ask, Path
from .tree import key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..space import Config
    from .adoption import Adoption
    from .tree import Tree


def ask_for(
    adoption: Adoption, tree: Tree, path: Path, generation: int, ready: Mapping[Path, Config], kin: bool
) -> Ask:
    """The Ask for the child at `path`, of this generation.

    ready: suggestions for children that are not created yet, by path. kin: whether to include the family history.
    """
    settings, parent = adoption.settings, tree.at(path[:-1])
    space = settings.space
    siblings = parent.children if parent is not None else tree.pending_roots.values()
    pending = {m.path: space.searched(adoption.fit(m.config)) for m in siblings if not m.state.settled}
    pending |= {p: space.searched(config) for p, config in ready.items() if p[:-1] == path[:-1] and p != path}
    relatives = tree.kin(parent, settings.history) if kin else []
    return Ask(
        space=space,
        path=path,
        generation=generation,
        seed=key(settings.seed, "ask", path, 63),
        parent=adoption.seen(parent.observation(space)) if parent is not None else None,
        kin=tuple(adoption.seen(m.observation(space)) for m in relatives),
        pending=tuple(pending[p] for p in sorted(pending)),
        run=key(settings.seed, "run", (), 63),
    )
