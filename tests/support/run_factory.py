"""Run folders without processes: what the simulator's engine decides, written down as a real run would have."""

from __future__ import annotations

import json
import math
import random
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from gpbt_async import events
from gpbt_async.experiment import Settings
from gpbt_async.simulate import Landscape, Simulation, VirtualInterval, heavy_tailed
from gpbt_async.space import Choice, Config, Float, Int, Space
from gpbt_async.storage.folder import RunFolder
from gpbt_async.storage.journal import Journal
from gpbt_async.storage.run_config import RunConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from gpbt_async.ask import Ask
    from gpbt_async.engine.tree import Node
    from gpbt_async.events import Fact

#: when all of them began
EPOCH = 1_760_000_000.0
SPACE = Space(
    {
        "lr": Float(1e-4, 1.0, log=True),
        "momentum": Float(0.0, 0.99),
        "weight_decay": Float(1e-6, 1e-2, log=True),
        "dropout": Float(0.0, 0.6),
        "layers": Int(1, 6),
        "optimizer": Choice(["sgd", "adam", "lamb", None]),
    }
)
REASONS = [
    "RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB (train.py:57)",
    "ValueError: Expected more than 1 value per channel when training (model.py:112)",
    "FloatingPointError: loss is nan (train.py:63)",
]


@dataclass(frozen=True)
class Stepping:
    """A searcher that steps a little around the parent, by chance alone."""

    space: Space

    def suggest(self, ask: Ask) -> Config:
        rng = random.Random(ask.seed)
        return self.space.step(ask.parent.config, rng, 0.12, 0.15) if ask.parent else self.space.sample(rng)


def simulated(
    settings: Settings, slots: int, *, seed: int = 0, fail: float = 0.03, interval: float = 60.0,
    crashes: Iterable[float] = (),
) -> Simulation:  # fmt: skip
    """A run on the virtual clock: `interval` seconds each on average, some of which fail; crashes as in Simulation."""
    landscape = Landscape(seed, seconds=lambda rng: heavy_tailed(rng, interval)).over(settings.space)

    def train(member: Node, state: Any) -> VirtualInterval:
        rng = random.Random(f"{seed}:{member.seed}:{member.attempt}:fails")
        done = landscape(member, state)
        return replace(done, fails_at=rng.uniform(0.05, 0.9)) if rng.random() < fail else done

    asking = 0.02 * interval
    searcher = Stepping(settings.space)
    return Simulation(
        settings, train, searcher, slots, ask_seconds=asking / slots, publish_seconds=0.01 * interval,
        start_seconds=0.005 * interval, crashes=crashes, uses_kin=False,
    ).run()  # fmt: skip


def embellished(facts: Sequence[Fact], pause: float = 0.0) -> list[Fact]:
    """Simulated facts as a real scheduler would have told them: dated, with metrics and reasons.

    pause: seconds that a run lay still before each resume.
    """
    told: list[Fact] = []
    rng, moment = random.Random(0), EPOCH
    for fact in facts:
        if isinstance(fact, events.Opened) and told:
            moment += pause
        fact = replace(fact, t=fact.t + moment)
        if isinstance(fact, events.Trained) and fact.score is not None:
            accuracy = 1 / (1 + abs(fact.score)) if math.isfinite(fact.score) else math.nan
            fact = replace(
                fact, metrics={"loss": fact.score, "accuracy": accuracy, "grad norm": rng.lognormvariate(0, 1)}
            )
        elif isinstance(fact, events.Failed):
            fact = replace(fact, reason=rng.choice(REASONS))
        told.append(fact)
    return told


def write(path: Path, settings: Settings, facts: Sequence[Fact], *, members: int = 0) -> RunFolder:
    """A run's folder: experiment.json, the journal, and what the first `members` members left (all of those failed)."""
    folder = RunFolder.create(path)
    config = RunConfig(run="0" * 16, cwd=str(path.parent))
    record = {**asdict(config), "settings": settings.to_json(), "options": config.options.to_json()}
    folder.experiment.write_text(json.dumps(record))
    with Journal.open(folder.journal, version="written") as journal:
        for fact in facts:
            journal.append(fact)
    for fact in facts:
        if isinstance(fact, events.Trained | events.Failed) and (
            fact.member < members or isinstance(fact, events.Failed)
        ):
            _leave(folder, fact)
    return folder


def _leave(folder: RunFolder, fact: events.Trained | events.Failed) -> None:
    """The log and the metrics of one attempt."""
    place = folder.member(fact.member)
    place.path.mkdir(exist_ok=True)
    steps = 8
    score = fact.score if isinstance(fact, events.Trained) and fact.score is not None else 1.0
    losses = [score * (1 + 1.5 * math.exp(-step)) for step in range(steps)]
    place.metrics.write_text("".join(json.dumps({"loss": loss, "epoch": i}) + "\n" for i, loss in enumerate(losses)))
    lines = [f"epoch {i}: loss {loss:.5f}" for i, loss in enumerate(losses)]
    if isinstance(fact, events.Failed):
        lines += ["Traceback (most recent call last):", '  File "train.py", line 57, in train', fact.reason]
    place.log.write_text("\n".join(lines) + "\n")


def settings(**changes: Any) -> Settings:
    return Settings(**{"space": SPACE, "score": "loss", "mode": "min", "population": 10, "generations": 3, **changes})
