"""Damaged and invented input through everything that reads bytes: journal, wire, metrics files, our other processes.

    python bench/fuzz.py [--inputs 1000000] [--seed S] [--json FILE] [--jobs N] [--only WORD]

Only errors of our own may come out, nothing may take longer than a deadline, and the address space is limited. How an
input is made stands in tests/fuzzing.py; each is made from (seed, decoder, number) alone, and one that brings anything
else to light is told by that: `--again DECODER NUMBER` runs it alone, without a net. Exit status 1 if there was any.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from fuzzing import DECODERS, rng_of

#: seconds one input may take, on a loaded machine
DEADLINE = 10.0
#: of address space a job may have beyond what it has when it begins
ROOM = 1 << 30
#: inputs a job takes at a time
BATCH = 2000


class Hung(BaseException):
    """An input took longer than DEADLINE."""


def _hung(*_: object) -> None:
    raise Hung


def _limit() -> None:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, size + ROOM))
    signal.signal(signal.SIGALRM, _hung)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def batch(job: tuple[str, int, int, int]) -> tuple[str, Counter[str], list[tuple[int, str]], float, float]:
    """Some inputs of one decoder: what came of them, what should not have, seconds, and the longest."""
    decoder, seed, first, last = job
    make, method, _ = DECODERS[decoder]
    room, counts, found, longest = make(), Counter[str](), [], 0.0
    take = getattr(room, method)
    began = time.monotonic()
    for number in range(first, last):
        start = time.monotonic()
        try:
            signal.setitimer(signal.ITIMER_REAL, DEADLINE)
            try:
                what = take(rng_of(seed, decoder, number))
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except (Exception, Hung) as error:
            what = f"!! {type(error).__name__}"
            found.append((number, "".join(traceback.format_exception(error, limit=-4))))
        counts[what] += 1
        longest = max(longest, time.monotonic() - start)
    seconds = time.monotonic() - began
    room.close()
    return decoder, counts, found, seconds, longest


def main() -> None:
    parser = argparse.ArgumentParser(description="Damaged input through everything that reads bytes.")
    parser.add_argument("--inputs", type=int, default=1_000_000, metavar="N", help="of all decoders together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", metavar="WORD", help="decoders with this word in their name")
    parser.add_argument("--again", nargs=2, metavar=("DECODER", "NUMBER"), help="run one input alone")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    if options.again:
        make, method, _ = DECODERS[options.again[0]]
        print(getattr(make(), method)(rng_of(options.seed, options.again[0], int(options.again[1]))))
        return
    chosen = [name for name in DECODERS if options.only in name]
    shares = sum(DECODERS[name][2] for name in chosen)
    jobs = []
    for name in chosen:
        total = -(-options.inputs * DECODERS[name][2] // shares)
        jobs += [(name, options.seed, at, min(at + BATCH, total)) for at in range(0, total, BATCH)]
    counts = {name: Counter[str]() for name in chosen}
    seconds, longest = dict.fromkeys(chosen, 0.0), dict.fromkeys(chosen, 0.0)
    found: list[tuple[str, int, str]] = []
    began = time.monotonic()
    with multiprocessing.Pool(options.jobs, _limit) as pool:
        for name, counted, strange, took, most in pool.imap_unordered(batch, jobs):
            counts[name] += counted
            seconds[name] += took
            longest[name] = max(longest[name], most)
            found += [(name, number, text) for number, text in strange]
    wall = time.monotonic() - began
    print(f"  {'decoder':30} {'inputs':>8} {'per s':>7} {'longest':>9}  came out")
    for name in chosen:
        told = ", ".join(f"{what} {count}" for what, count in counts[name].most_common())
        size = counts[name].total()
        print(f"  {name:30} {size:8} {size / seconds[name]:7.0f} {longest[name] * 1000:6.0f} ms  {told}")
    total = sum(each.total() for each in counts.values())
    print(f"  {total} inputs, seed {options.seed}, {options.jobs} jobs, {wall:.0f} s, {total / wall:.0f} inputs/s")
    told_of: set[str] = set()
    for name, number, text in found:
        last = text.strip().splitlines()[-1][:60] + name
        if last not in told_of:
            told_of.add(last)
            print(f"\n  --seed {options.seed} --again {name!r} {number}\n{text[:3000]}")
    print(f"  errors that are not ours, deadlines, memory: {len(found)}")
    if options.json is not None:
        figures: dict[str, Any] = {
            name: {"counts": counts[name], "seconds": seconds[name], "longest": longest[name]} for name in chosen
        }
        told_all = {"inputs": total, "seed": options.seed, "wall": wall, "decoders": figures, "found": found}
        options.json.write_text(json.dumps(told_all, indent=1) + "\n")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
