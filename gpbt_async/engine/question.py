"""What a searcher is shown for a child that is wanted: the Ask, read off the tree as it stands at one moment.

Pure, as the engine is: it looks at a lineage and changes nothing. Where a run has adopted another space, the configs of
before are shown inside it (adoption.py), so that a searcher never meets one it could not have suggested.
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


def question(
    adoption: Adoption, tree: Tree, path: Path, generation: int, ready: Mapping[Path, Config], kin: bool
) -> Ask:
    """The Ask for the child at `path`, of this generation.

    ready: configs that were answered for children not issued yet, by path. kin: whether to gather the family history.
    """
    s, parent, fit = adoption.settings, tree.at(path[:-1]), adoption.fit
    siblings = parent.children if parent is not None else tree.pending_roots.values()
    pending = {m.path: s.space.searched(fit(m.config)) for m in siblings if not m.state.settled}
    pending |= {p: s.space.searched(config) for p, config in ready.items() if p[:-1] == path[:-1] and p != path}
    seen = tree.kin(parent, s.history) if kin else []
    return Ask(
        space=s.space,
        path=path,
        generation=generation,
        seed=key(s.seed, "ask", path, 63),
        parent=adoption.seen(parent.observation(s.space)) if parent is not None else None,
        kin=tuple(adoption.seen(m.observation(s.space)) for m in seen),
        pending=tuple(pending[p] for p in sorted(pending)),
        run=key(s.seed, "run", (), 63),
    )
