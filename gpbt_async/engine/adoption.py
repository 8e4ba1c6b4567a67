"""Adoption: settings that a run takes over from an edited script at a resume, and their effect on configs.

experiment.json keeps the settings that the run began with. Each adoption is a fact of the journal (events.Adopted): a
replay uses the old settings before that fact and the new ones after it. `ADOPTABLE` lists the fields that may be
adopted. Population, score and seed are not among them, because the existing tree depends on them.

In a space, the bounds, scales and steps may change, and options may be added; names and kinds may not change. An older
config may then lie outside the space. `fit` brings it inside when it is used again: when a waiting member starts, when
a child repeats its parent's config, and when a searcher sees it. A member that has trained keeps its config."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import ExperimentError, JournalError
from ..experiment import Settings
from ..space import Choice
from .tree import State

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..ask import Observation
    from ..space import Config, Space
    from .tree import Node


#: fields of the settings that may change along a run
ADOPTABLE = ("space", "early_stop", "attempts", "stall_timeout", "member_timeout", "silence", "command", "choose_by")


class Adoption:
    """The settings in force, and all spaces of the run, the first one first."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.spaces: list[Space] = [settings.space]
        #: everything adopted so far, by field, as JSON
        self.fields: dict[str, object] = {}

    @property
    def hull(self) -> Space:
        """A space that holds every config of the run."""
        whole = self.spaces[0]
        for space in self.spaces[1:]:
            whole = whole.hull(space)
        return whole

    def fit(self, config: Config) -> Config:
        """The config clipped into the space in force; itself while there was no other."""
        space = self.settings.space
        return config if len(self.spaces) == 1 else space.clip(space.searched(config))  # with its constants

    def seen(self, observed: Observation) -> Observation:
        """An observation as a searcher sees it: its config inside the space in force."""
        if len(self.spaces) == 1:
            return observed
        return replace(observed, config=self.settings.space.searched(self.fit(observed.config)))

    def shown(self, configs: list[Config]) -> list[Config]:
        """Configs as a searcher sees them: inside the space in force, without constants."""
        space = self.settings.space
        if len(self.spaces) == 1 and not space.constants:
            return configs  # a root's ask shows as many as there are slots
        return [space.searched(self.fit(config)) for config in configs]

    def take(self, changes: Mapping[str, object], members: Iterable[Node] = ()) -> Settings:
        """Put these fields (JSON) in force, and return the new settings. Raises JournalError when they do not fit.

        members: of the run; the configs of those that have not trained yet are clipped.
        """
        fixed = [name for name in changes if name not in ADOPTABLE]
        try:
            now = Settings.from_json({**self.settings.to_json(), **changes})
        except (ExperimentError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise JournalError(f"what was adopted is no part of an experiment: {error}") from None
        wrong = f"{', '.join(fixed)} cannot be adopted" if fixed else unfit(self.spaces[-1], now.space)
        if (now.command is None) != (self.settings.command is None):
            wrong = "a command and a training function cannot replace one another"
        if wrong:
            raise JournalError(f"what was adopted does not fit the run: {wrong}: written by another version?")
        if now.space != self.settings.space:
            self.spaces.append(now.space)
        self.settings = now
        self.fields.update(changes)
        for member in members:
            if member.state in (State.WAITING, State.TRAINING):
                member.config = self.fit(member.config)
        return now


def unfit(was: Space, now: Space) -> str:
    """Why a run in one space cannot go on in another; "" if it can."""
    added, removed = [n for n in now.names if n not in was.names], [n for n in was.names if n not in now.names]
    if added:
        return f"a hyperparameter cannot be added to a run under way ({', '.join(added)})"
    if removed:
        return f"a hyperparameter cannot be taken out of a run under way ({', '.join(removed)})"
    for name in was.names:
        if (name in was) != (name in now):
            return f"{name} cannot become a constant, or cease to be one, in a run under way"
    for name, dimension in was.items():
        other = now[name]
        if dimension.kind != other.kind:
            return f"{name} cannot become {_a(other.kind)} where it was {_a(dimension.kind)}"
        if isinstance(dimension, Choice) and isinstance(other, Choice):
            kinds = [(type(option), option) for option in other.options]
            gone = [option for option in dimension.options if (type(option), option) not in kinds]
            if gone:
                return f"an option cannot be taken out of a run under way ({name}: {', '.join(map(repr, gone))})"
    return ""


def _a(kind: str) -> str:
    return f"an {kind.capitalize()}" if kind == "int" else f"a {kind.capitalize()}"
