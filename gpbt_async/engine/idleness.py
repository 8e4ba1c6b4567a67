"""Why a slot that is free stays free: the engine's own answer, one word of `Cause`.

Part of the engine, a function of its state alone; `usage` adds up the seconds by these words, `waits` says them with
names and numbers, and the watchdog holds them against what is outstanding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from .tree import State

if TYPE_CHECKING:
    from .engine import Engine


#: why a slot stands idle: the searcher has not answered; the generation above is still being published; too few of it
#: have finished, or it is in doubt whether any member ever will; or nothing is left to issue (or as many members train
#: as the population allows)
Cause = Literal["searcher", "checkpoint", "evidence", "no_work"]


def cause(engine: Engine, shallowest: int) -> Cause:
    """shallowest: the generation with members to issue that is issued now, or how many generations there are."""
    training, settings = len(engine.training), engine.settings
    if engine.ended or shallowest == settings.generations or training >= engine.width:
        return "no_work"
    if engine.ending.doubtful:
        return "evidence"  # of whether the script works: there is more to issue, and none of it is
    if next(engine.rule.upcoming(shallowest), None) is not None:
        return "searcher"
    above = max(0, shallowest - 1)
    trained = [m.generation for m in engine.stored.values() if m.state is State.TRAINED]
    if above in trained and engine.rule.evident(above, more=trained.count(above)):
        return "checkpoint"
    if trained and not training and settings.schedule == "sync":
        return "checkpoint"  # of an elder sibling: the younger's ask must know how it ended
    return "evidence"
