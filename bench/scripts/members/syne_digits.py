"""The same 80 intervals by Syne Tune's PBT on its local backend: `syne_digits.py FOLDER`.

A trial is a process of syne_trial.py: it trains interval after interval until the scheduler stops it. Syne Tune asks
for news every 0.1 s here; left to its default of 5 s it takes several times as long.
"""

import os
import sys
from pathlib import Path

os.environ["SYNETUNE_FOLDER"] = os.path.abspath(sys.argv[1])  # read when the package is imported

from syne_tune import StoppingCriterion, Tuner
from syne_tune.backend import LocalBackend
from syne_tune.config_space import loguniform
from syne_tune.optimizer.schedulers.pbt import PopulationBasedTraining

pbt = PopulationBasedTraining(
    config_space={"lr": loguniform(1e-3, 1.0)}, metric="loss", time_attr="epoch", max_t=10, population_size=8,
    perturbation_interval=1,
)  # fmt: skip
Tuner(
    LocalBackend(str(Path(__file__).with_name("syne_trial.py"))),
    pbt,
    StoppingCriterion(max_num_evaluations=80),
    n_workers=2,
    sleep_time=0.1,
    save_tuner=False,
).run()
