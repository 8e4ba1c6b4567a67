"""Rows → tables (Markdown) and plots (PNG), each block for itself."""

from __future__ import annotations

import importlib.util
import math
import statistics as stats
from collections import Counter
from typing import TYPE_CHECKING

from . import admission, protocol, rows, tasks
from .environment import Known
from .statistics import Paired, by_task, holm, log_ratios, paired, percent, pooled

if TYPE_CHECKING:
    from pathlib import Path

    from .methods import Method
    from .rows import Row

#: what rows are paired by: the seed and the environment, those that give the same rows counting as one
Unit = tuple[int, str]
#: by method's digest, task and slots: the rows by unit
Found = dict[tuple[str, str, int], dict[Unit, "Row"]]


def write(folder: Path) -> str:
    """Write tables.md and, where matplotlib is installed, a plot for each block and task; returns the tables."""
    found = collect(folder)
    parts = ["Written by `python -m bench.quality report`; bench/README.md says what is what.\n"]
    if admitted := admission.published(folder):
        parts.append("## Which tasks can tell\n\n" + "\n".join(admitted) + "\n")
    for name, block in protocol.BLOCKS.items():
        tables = []
        for task in block.tasks:
            for slots in block.slots:
                lines = table(found, block, task, slots)
                if lines:
                    tables.append(f"### {name}: {task}, {slots or 'n'} slots\n\n" + "\n".join(lines) + "\n")
        if tables:
            parts += [f"## {name}\n", *tables]
            for slots in block.slots:
                ranks = mean_ranks(found, block, slots)
                if ranks:
                    parts.append(f"### {name}: mean ranks, {slots or 'n'} slots\n\n" + "\n".join(ranks) + "\n")
            if name in protocol.ONCE:
                for family in protocol.families(name):
                    lines = confirmation(found, block, family)
                    if lines:
                        parts.append(f"### {name}: {family.question}\n\n" + "\n".join(lines) + "\n")
            if importlib.util.find_spec("matplotlib"):
                plot(found, name, block, folder)
    text = "\n".join(parts)
    (folder / "tables.md").write_text(text)
    return text


def collect(folder: Path) -> Found:
    """All rows of a folder."""
    known, found = Known(folder), Found()
    for row in rows.read_all(folder):
        unit = row["seed"], known.group(rows.environment(row))
        found.setdefault((row["digest"], row["task"], row["slots"]), {})[unit] = row
    return found


def seen(found: Found, block: protocol.Block, method: Method, task: str, slots: int) -> dict[Unit, Row]:
    """The method's rows, of the block's seeds alone; none of a task that is not there."""
    if task not in tasks.WHERE:
        return {}
    every = found.get((method.on(task).digest, task, slots), {})
    return {unit: row for unit, row in every.items() if unit[0] in block.seeds}


def column(some: dict[Unit, Row], what: str) -> dict[Unit, float]:
    return {unit: row[what] for unit, row in some.items()}


def table(found: Found, block: protocol.Block, task: str, slots: int) -> list[str]:
    """A row a method, the lowest test loss first: of the seeds it has (compare seeds before means), then the paired
    difference from the reference, of the seeds both have."""
    reference = protocol.reference()
    base = column(seen(found, block, reference, task, slots), "test")
    lines = []
    for method in block.methods:
        mine = seen(found, block, method, task, slots)
        if not mine:
            continue
        tests, vals = [r["test"] for r in mine.values()], [r["val"] for r in mine.values()]
        against = paired(column(mine, "test"), base)
        entry = [method.name, str(len(tests)), spread(tests), spread(vals)]
        entry.append(spread([r["error"] * 100 for r in mine.values()]) if "error" in next(iter(mine.values())) else "")
        if against is None or method.digest == reference.digest:
            entry += ["", "", ""]
        else:
            entry += [difference(against), f"{against.p:.2g}", f"{against.wins:.0%}"]
        entry += [f"{stats.mean(r['spent'] for r in mine.values()) * method.length:.0f}"]
        entry += [f"{stats.mean(r['span'] for r in mine.values()):.1f}"]
        entry += [f"{stats.mean(r['cpu'] for r in mine.values()):.1f}"]
        lines.append((stats.mean(map(math.log, tests)), "| " + " | ".join(entry) + " |"))
    if not lines:
        return []
    head = [
        "method",
        "seeds",
        "test loss",
        "validation loss",
        "test error, %",
        f"test loss against {protocol.REFERENCE}, %",
    ]
    head += ["p", "wins", "standard intervals", "virtual time", "CPU, s"]
    told = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *(line for _, line in sorted(lines))]
    return [*told, *environments(found, block, task, slots)]


def environments(found: Found, block: protocol.Block, task: str, slots: int) -> list[str]:
    """A sentence where a table's rows come from several environments that were not found to give the same rows."""
    counts = Counter(name for m in block.methods for _, name in seen(found, block, m, task, slots))
    if len(counts) < 2:
        return []
    each = ", ".join(f"{n} of {name}" for name, n in counts.most_common())
    return ["", f"Rows of several environments ({each}): a seed is paired within one environment only."]


def spread(values: list[float]) -> str:
    """Mean ± sample standard deviation."""
    sd = f"{stats.stdev(values):.2g}" if len(values) > 1 else "?"
    return f"{stats.mean(values):.4g} ± {sd}"


def mean_ranks(found: Found, block: protocol.Block, slots: int) -> list[str]:
    """The rank of each method's test loss among all, over the (task, seed) that all methods have; 1 = the lowest."""
    by_method = {
        m.name: {
            (task, unit): r["test"] for task in block.tasks for unit, r in seen(found, block, m, task, slots).items()
        }
        for m in block.methods
    }
    by_method = {name: tests for name, tests in by_method.items() if tests}
    if len(by_method) < 2:
        return []
    everywhere = sorted(set.intersection(*(set(tests) for tests in by_method.values())))
    shared = list({(task, unit[0]): (task, unit) for task, unit in everywhere}.values())  # a seed once
    if not shared:
        return []
    ranks: dict[str, list[float]] = {name: [] for name in by_method}
    for at in shared:
        for name, tests in by_method.items():
            better = sum(other[at] < tests[at] for other in by_method.values())
            equal = sum(other[at] == tests[at] for other in by_method.values())
            ranks[name].append(better + (equal + 1) / 2)
    tasks = [task for task in block.tasks if any(task == at[0] for at in shared)]
    head = ["method", "mean rank", *tasks]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for name, all_ranks in sorted(ranks.items(), key=lambda entry: stats.mean(entry[1])):
        each = [stats.mean(r for r, at in zip(all_ranks, shared, strict=True) if at[0] == task) for task in tasks]
        lines.append(f"| {name} | {stats.mean(all_ranks):.2f} | " + " | ".join(f"{r:.2f}" for r in each) + " |")
    return [f"{len(shared)} pairs of task and seed.", "", *lines]


def confirmation(found: Found, block: protocol.Block, family: protocol.Family) -> list[str]:
    """Each pair on each task, p corrected by Holm over all of the family; below them, all tasks of a pair pooled.

    Pooled p are of single tests, uncorrected.
    """
    told: list[tuple[str, str, str, Paired, Paired]] = []
    pooled_lines = []
    for method, other in family.pairs:
        each: dict[str, list[float]] = {}
        for task in block.tasks:
            mine, base = (seen(found, block, m, task, block.slots[0]) for m in (method, other))
            tests, vals = (paired(column(mine, what), column(base, what)) for what in ("test", "val"))
            if tests is not None and vals is not None:
                told.append((method.name, other.name, task, tests, vals))
                each[task] = log_ratios(column(mine, "test"), column(base, "test"))
        held = [each[task] for task in (*protocol.HELD, *protocol.LONG_HELD) if task in each]
        if len(each) > 1 and held:
            over, alone = pooled(list(each.values())), pooled(held)
            pooled_lines.append(
                f"| {method.name} | {other.name} | {len(each)} | {over.mean:+.2f} | {over.p:.2g} "
                f"| {by_task(list(each.values())):.2g} | {alone.mean:+.2f} | {alone.p:.2g} |"
            )
    if not told:
        return []
    head = ["method", "against", "task", "seeds", "test loss, %", "p", "p, Holm", "wins", "validation loss, %"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for (name, other_name, task, c, v), p in zip(told, holm([c.p for _, _, _, c, _ in told]), strict=True):
        lines.append(
            f"| {name} | {other_name} | {task} | {c.n} | {difference(c)} | {c.p:.2g} | {p:.2g} | {c.wins:.0%} "
            f"| {difference(v)} |"
        )
    if pooled_lines:
        head = ["method", "against", "tasks", "mean difference, in standard deviations of its task", "p", "p, by task"]
        head += ["on the held tasks alone", "p"]
        lines += ["", "| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *pooled_lines]
    return lines


def difference(c: Paired) -> str:
    return f"{percent(c.mean):+.1f} [{percent(c.low):+.1f}, {percent(c.high):+.1f}]"


def plot(found: Found, name: str, block: protocol.Block, folder: Path) -> None:
    """For each task: the median over seeds of the best validation loss so far, by intervals and by virtual time."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    for slots in block.slots:
        tasks = [t for t in block.tasks if any(seen(found, block, m, t, slots) for m in block.methods)]
        if not tasks:
            continue
        figure, axes = plt.subplots(2, len(tasks), figsize=(5 * len(tasks), 8), squeeze=False)
        for column, task in enumerate(tasks):
            for number, method in enumerate(block.methods):
                mine = list(seen(found, block, method, task, slots).values())
                marks = min((len(r["vals"]) for r in mine), default=0)
                if not marks:
                    continue
                vals = [stats.median(r["vals"][i] for r in mine) for i in range(marks)]
                times = [stats.median(r["times"][i] for r in mine) for i in range(marks)]
                budget = method.population * (method.on(task).generations or 0)
                style = {"label": method.name, "color": f"C{number % 10}", "ls": ("-", "--", ":")[number // 10]}
                axes[0][column].plot([budget * (i + 1) / 10 for i in range(marks)], vals, **style)
                axes[1][column].plot(times, vals, **style)
            for axis, what in zip(axes[:, column], ("intervals", "virtual time"), strict=True):
                axis.set(title=task, xlabel=what, ylabel="best validation loss", yscale="log")
        axes[0][0].legend(fontsize=7)
        figure.tight_layout()
        figure.savefig(folder / f"{name}-{slots or 'n'}.png", dpi=70)
        plt.close(figure)
