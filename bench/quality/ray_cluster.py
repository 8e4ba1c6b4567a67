"""Ray Tune's PBT run by Ray itself, as a check on ray_tune.py: score per interval only, as nobody controls its clock.

    unshare -n sh -c 'ip link set lo up && python -m bench.quality.ray_cluster digits --seeds 0-4'

Ray's processes listen on every interface there is; so this refuses to run unless loopback is all there is. Trials end
at depth T, as Ray's users have it; since a clone takes over the other's count of iterations, the number of intervals a
run takes is not n · T exactly, and is told.
"""

from __future__ import annotations

import argparse
import os
import random
import socket
import tempfile
from pathlib import Path
from typing import Any

from . import rows, tasks
from .__main__ import RESULTS, seeds_of
from .ray_tune import _pbt, _seed

#: stands for the machine's slots in a row
SLOTS = -1


def trainable() -> type:
    from ray import tune

    class Trained(tune.Trainable):  # type: ignore[misc]
        def setup(self, config: dict[str, Any]) -> None:
            self._task = tasks.make(config["task"], config["seed"])
            self._state = self._task.initial(tasks.key(config["seed"], config["index"]))

        def step(self) -> dict[str, Any]:
            told = {name: self.config[name] for name in self._task.space}
            serial = tasks.key("cluster", self.config["seed"], self.iteration, list(told.values()))
            outcome = self._task.interval(self._state, self._task.space.clip(told), serial)
            self._state = outcome.state
            return {"loss": outcome.val, "test_loss": self._task.test(outcome.state)}

        def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
            return {"state": self._state}

        def load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            self._state = checkpoint["state"]

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.config = new_config
            return True

    return Trained


def run(task: str, seed: int, folder: str, population: int = 25, generations: int = 10) -> dict[str, Any]:
    """One run by Ray; its row without names."""
    from ray import tune

    space = tasks.make(task, seed).space
    configs = [space.sample(random.Random(tasks.key("config", seed, i))) for i in range(population)]

    def first(name: str) -> Any:
        return tune.sample_from(lambda spec: configs[spec.config.index][name])

    seen: list[tuple[float, float]] = []

    class Watch(tune.Callback):  # type: ignore[misc]
        """The results as they come: an exploit makes Ray lose some of its files."""

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
            seen.append((float(result["loss"]), float(result["test_loss"])))

    _seed(tasks.key("ray", seed) % 2**32)
    tuner = tune.Tuner(
        tune.with_resources(trainable(), {"cpu": 1}),
        param_space={
            "task": task,
            "seed": seed,
            "index": tune.grid_search(list(range(population))),
            **{name: first(name) for name in space},
        },
        tune_config=tune.TuneConfig(scheduler=_pbt(space, {}), reuse_actors=True),
        run_config=tune.RunConfig(
            storage_path=folder, stop={"training_iteration": generations}, verbose=0, callbacks=[Watch()]
        ),
    )
    tuner.fit()
    val, test = min(seen)
    return {"val": val, "test": test, "spent": len(seen)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.quality.ray_cluster")
    parser.add_argument("task", choices=list(tasks.WHERE))
    parser.add_argument("--seeds", type=seeds_of, default=[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    others = [name for _, name in socket.if_nameindex() if name != "lo"]
    if others:
        parser.error(
            f"Ray would listen on {', '.join(others)}: run this in a network namespace of its own (unshare -n)"
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    args.results.mkdir(parents=True, exist_ok=True)
    file = args.results / "ray_cluster.jsonl"
    done = {(row["task"], row["seed"]) for row in rows.read(file)} if file.exists() else set()
    # the working directory comes with the driver: this package is importable in Ray's processes
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    for seed in args.seeds:
        if (args.task, seed) not in done:
            with tempfile.TemporaryDirectory() as folder:
                told = run(args.task, seed, folder)
            named = {"task": args.task, "method": "ray pbt, by Ray", "slots": SLOTS, "seed": seed, "digest": "cluster"}
            rows.append(file, {**named, **told, "cpu": 0})
            print(args.task, seed, told, flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main()
