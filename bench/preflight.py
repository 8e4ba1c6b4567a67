"""What the pre-flight costs a member, in one process, without the noise of starting processes.

    python bench/preflight.py [--members N] [--names N]

For each member: its config and its telemetry are made, every hyperparameter is read once, the End that carries the
telemetry is encoded and decoded, and a run's checks fold it with the member's facts. Beside it the same without any of
it (a plain dict, an End without telemetry). Printed: microseconds a member, the median of 7 rounds, and the difference.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import TYPE_CHECKING

import gpbt_async as gpbt
from gpbt_async.engine.tree import Node
from gpbt_async.experiment import Settings
from gpbt_async.member.config import MemberConfig
from gpbt_async.member.telemetry import Telemetry
from gpbt_async.preflight.checks import Preflight
from gpbt_async.processes import wire
from gpbt_async.space import Space

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 7


def bare(members: list[Node]) -> None:
    for member in members:
        config = dict(member.config)
        for name in config:
            config[name]
        wire.decode(wire.encode(wire.End(wire.Exit.RETURNED, 1.0)))


def checked(settings: Settings, members: list[Node]) -> None:
    checks = Preflight(settings)
    for member in members:
        config = MemberConfig(member.config)
        telemetry = Telemetry(config)
        for name in member.config:
            config[name]
        telemetry.parent_seen = telemetry.parent_used = True
        end = wire.decode(wire.encode(wire.End(wire.Exit.RETURNED, 1.0, telemetry=telemetry.to_json())))
        assert isinstance(end, wire.End)
        found = [*checks.heard(member, end.telemetry), *checks.scored(member, member.id / 7, {"loss": 1.0})]
        found += checks.saved(member, 1 << 20, str(member.id))
        assert not found


def microseconds(work: Callable[[], None], count: int) -> float:
    began = time.perf_counter()
    work()
    return 1e6 * (time.perf_counter() - began) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=2000)
    parser.add_argument("--names", type=int, default=6, help="hyperparameters of the space")
    args = parser.parse_args()
    space = Space({f"x{i}": gpbt.Float(0, 1) for i in range(args.names)})
    settings = Settings(space=space, score="loss", mode="min", population=args.members, generations=2)
    root = Node(0, (), 0, 0, None, dict.fromkeys(space, 0.5), 0)
    members = [root] + [
        Node(i, (0,), i, 1, root, {name: (i + j) / 1e6 for j, name in enumerate(space)}, i)
        for i in range(1, args.members)
    ]
    rows: dict[str, list[float]] = {"without": [], "with": []}
    for _ in range(ROUNDS):  # in turns: a noisy machine is noisy for both
        rows["without"].append(microseconds(lambda: bare(members), len(members)))
        rows["with"].append(microseconds(lambda: checked(settings, members), len(members)))
    without, with_checks = (statistics.median(rows[name]) for name in ("without", "with"))
    print(f"{len(members)} members, {args.names} hyperparameters, median of {ROUNDS} rounds, microseconds a member")
    print(f"  without the pre-flight  {without:8.1f}")
    print(f"  with it                 {with_checks:8.1f}")
    print(f"  the pre-flight          {with_checks - without:8.1f}")


if __name__ == "__main__":
    main()
