"""The same 80 intervals by Ray Tune's PBT with reused actors: 8 trials of 10 intervals. `ray_digits.py FOLDER`.

Ray keeps the model in its actor while a trial goes on, and writes and reads a checkpoint whenever it pauses one: with 8
trials on 2 processors that is after every interval. Ray's processes listen on every interface there is, so this refuses
to run where there is another one than loopback.
"""

import os
import socket
import sys

import network
import ray
from ray import tune


class Trained(tune.Trainable):
    def setup(self, config):
        self.model, self.optimizer = network.build(config["lr"])

    def reset_config(self, config):
        self.setup(config)
        return True

    def step(self):
        return {"loss": network.fit(self.model, self.optimizer)}

    def save_checkpoint(self, folder):
        network.save(folder, self.model, self.optimizer)

    def load_checkpoint(self, folder):
        network.load(folder, self.model, self.optimizer)


if [name for _, name in socket.if_nameindex() if name != "lo"]:
    sys.exit("Ray would listen on every network interface: run it in a network namespace of its own")
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
pbt = tune.schedulers.PopulationBasedTraining(
    time_attr="training_iteration", metric="loss", mode="min", perturbation_interval=1,
    hyperparam_mutations={"lr": tune.loguniform(1e-3, 1.0)}, log_config=False,
)  # fmt: skip
tune.Tuner(
    tune.with_resources(Trained, {"cpu": 1}),
    param_space={"lr": tune.loguniform(1e-3, 1.0)},
    tune_config=tune.TuneConfig(scheduler=pbt, num_samples=8, reuse_actors=True),
    run_config=tune.RunConfig(storage_path=os.path.abspath(sys.argv[1]), stop={"training_iteration": 10}, verbose=0),
).fit()
