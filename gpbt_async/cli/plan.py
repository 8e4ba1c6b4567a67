"""`gpbt-async plan`: how long would a run take, and how busy would the slots be? forecast.py simulates it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..formatting import counted
from . import completion
from .options import AsModule, Json, Runs, Script, option, real, takes, whole
from .output import emit, span

if TYPE_CHECKING:
    from ..experiment import Changes
    from .forecast import Forecast

Slots = Annotated[
    int,
    typer.Option(
        "--slots", "--gpus", metavar="N", parser=whole("--slots"), help="How many members train at the same time."
    ),
]
From = Annotated[
    str | None,
    option("--from", metavar="RUN", help="Use the durations of the intervals of RUN.", autocompletion=completion.runs),
]
Seconds = Annotated[
    float | None,
    option("--seconds", metavar="S", parser=real("--seconds"), help="An interval takes S seconds on average."),
]
Spread = Annotated[
    float,
    typer.Option(
        "--spread",
        metavar="SHARE",
        parser=real("--spread", ""),
        help="With --seconds: the standard deviation of the duration, divided by the average.",
    ),
]


@takes(changes=("population", "generations", "ratio", "evidence", "schedule", "seed"))
def plan(
    script: Script,
    *,
    as_module: AsModule = False,
    slots: Slots = 1,
    run: From = None,
    seconds: Seconds = None,
    spread: Spread = 0.3,
    changes: Changes,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Simulate how long a run would take.

    An interval is the training of one member. Give its duration by --seconds, or --from an earlier RUN. The result also
    shows how busy the slots would be; a slot trains one member at a time.

    Examples:
      gpbt-async plan train.py --gpus 4 --seconds 600 --spread 0.5
      gpbt-async plan train.py --slots 8 --from train-1 --population 50
    """
    from ..declaration.address import find
    from . import forecast

    address = find(script, module=as_module)
    planned = forecast.plan(address, slots, run=run, runs=runs, seconds=seconds, spread=spread, changes=changes)
    emit(planned, text, as_json)


def text(p: Forecast) -> str:
    low, high = p.wall_s_range
    most = "at most " if p.at_most else ""
    idle = ", ".join(f"{cause} {share:.0%}" for cause, share in p.idle.items() if share >= 0.005)
    return "\n".join(
        [
            f"{p.generations} generations of {p.population} members, {p.schedule}, on {counted(p.slots, 'slot')}",
            f"  wall time    {most}{span(p.wall_s)} ({span(low)} to {span(high)} in {p.simulated_runs} simulations)",
            f"  work         {span(p.work_s)} of training, an interval about {p.interval_s:.3g} s",
            *(["               early stopping will save what the scores allow"] if most else []),
            f"  slots busy   {p.utilisation:.0%}" + (f"; idle: {idle}" if idle else ""),
        ]
    )
