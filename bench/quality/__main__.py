"""python -m bench.quality run BLOCK --seeds 0-19 | admit TASK | again | report"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

RESULTS = Path(__file__).parent.parent / "results"


def seeds_of(text: str) -> list[int]:
    """ "0-2,7" → 0, 1, 2, 7"""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    if not found:
        raise ValueError(f"{text}: no seed is among these")
    return found


def main() -> None:
    from . import admission, again, driver, protocol, report, tasks

    parser = argparse.ArgumentParser(prog="python -m bench.quality", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of rows, tables and plots")
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="run what is missing of a block; interrupt it at any time")
    running.add_argument("block", choices=list(protocol.BLOCKS))
    running.add_argument("--seeds", type=seeds_of, default=range(3), help="such as 0-19 (default: 0-2)")
    running.add_argument("--methods", type=lambda text: text.split(";"), default=[], help="some, with ; between")
    running.add_argument("--tasks", type=lambda text: text.split(","), default=[])
    running.add_argument("--minutes", type=float, default=1e9, help="begin no run after these")
    admitting = commands.add_parser("admit", help="can a task tell? Fixed config, known schedule and random search")
    admitting.add_argument("task", choices=list(tasks.WHERE))
    admitting.add_argument("--seeds", type=seeds_of, default=range(12), help="such as 0-11 (the default)")
    admitting.add_argument("--anew", action="store_true", help="the task was changed: choose again, forget its rows")
    repeating = commands.add_parser("again", help="run a share of the stored rows anew; do they come out?")
    repeating.add_argument("--share", type=float, default=0.05)
    repeating.add_argument("--minutes", type=float, default=1e9, help="begin no run after these")
    commands.add_parser("report", help="tables and plots of the rows there are")
    args = parser.parse_args()
    if args.command == "report":
        print(report.write(args.results))
        print(f"in {args.results}: tables.md with the above, and the plots if matplotlib is installed", file=sys.stderr)
        return
    if args.command == "again":
        print(again.told(again.again(args.results, args.share, args.minutes * 60)))
        return
    try:
        if args.command == "admit":
            print(admission.admit(args.task, args.seeds, args.results, args.anew))
            return
        cases = list(protocol.cases(args.block, args.seeds, args.methods, args.tasks))
    except ValueError as error:
        parser.error(str(error))
    ran = driver.run(cases, args.results, args.results / f"{args.block}.jsonl", args.minutes * 60)
    print(f"{ran} of {len(cases)} runs; the others have their rows, or had no time")


if __name__ == "__main__":
    main()
