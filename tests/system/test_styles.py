"""Sound scripts of public styles: each trains by the default command, and the pre-flight finds nothing in it.

A finding on one of these is a bug of the check. The scripts are in tests/styles, as a user of each style would write.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from harness import cli, facts
from run_checker import check_run

pytestmark = pytest.mark.slow

STYLES = Path(__file__).parent.parent / "support" / "styles"
#: what each needs beyond numpy
NEEDS = {
    "amp_ema": "torch", "annealing": "", "compiled": "torch", "conditional": "torch", "config_dataclass": "",
    "config_namespace": "", "config_simple": "", "descent": "", "flax_optax": "jax flax optax", "gan": "torch",
    "hf_bert": "torch transformers accelerate", "jax_top_level": "jax", "lightgbm_continue": "lightgbm sklearn",
    "lightning_module": "torch lightning", "loader_workers": "torch", "mnist_argparse": "torch sklearn",
    "reinforce": "", "sklearn_mlp": "sklearn", "sklearn_sgd": "sklearn", "xgboost_continue": "xgboost sklearn",
}  # fmt: skip
#: of these the members are as few as may be: the start of each costs most. All others have four, with fewer of which
#: the pre-flight does not compare heirs at all, and which cost little beside the import of their libraries
DEAR = {"compiled", "flax_optax", "jax_top_level", "lightning_module"}


def test_every_style_is_launched() -> None:
    assert {path.stem for path in STYLES.glob("*.py")} == set(NEEDS)


def _one(name: str) -> Any:
    """Those whose library takes long, beside another of the same library, are run on demand only."""
    extended = {"compiled", "flax_optax", "jax_top_level", "gan", "amp_ema", "loader_workers", "sklearn_mlp"}
    return pytest.param(name, marks=[pytest.mark.extended] if name in extended else [])


@pytest.mark.parametrize("name", [_one(name) for name in NEEDS])
def test_a_sound_script_trains_without_findings(name: str, tmp_path: Path) -> None:
    missing = [package for package in NEEDS[name].split() if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    population = 2 if name in DEAR else 4
    done = cli(
        "launch", STYLES / f"{name}.py", "--slots", 2, "-q", "--population", population, "--generations", 2,
        cwd=tmp_path, timeout=120,
    )  # fmt: skip
    assert done.status == 0, done.err
    folder = tmp_path / "runs" / f"{name}-1"
    assert len({fact["member"] for fact in facts(folder, "Published")}) == 2 * population, done.err
    assert facts(folder, "Found") == []
    assert check_run(folder) == []
