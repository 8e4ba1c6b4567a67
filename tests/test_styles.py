"""Sound scripts of public styles: each trains by the default command, and the pre-flight finds nothing in it.

A finding on one of these is a bug of the check. The scripts are in tests/styles, as a user of each style would write.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from check_run import check_run
from harness import cli, facts

pytestmark = pytest.mark.slow

STYLES = Path(__file__).parent / "styles"
#: what each needs beyond numpy; those that need a compiler, which takes its time
NEEDS = {
    "amp_ema": "torch", "annealing": "", "compiled": "torch", "conditional": "torch", "config_dataclass": "",
    "config_namespace": "", "config_simple": "", "descent": "", "flax_optax": "jax flax optax", "gan": "torch",
    "hf_bert": "torch transformers accelerate", "jax_top_level": "jax", "lightgbm_continue": "lightgbm sklearn",
    "lightning_module": "torch lightning", "loader_workers": "torch", "mnist_argparse": "torch sklearn",
    "reinforce": "", "sklearn_mlp": "sklearn", "sklearn_sgd": "sklearn", "xgboost_continue": "xgboost sklearn",
}  # fmt: skip
#: of these the members and generations are as few as may be: the start of each member costs most
DEAR = {"compiled", "flax_optax", "jax_top_level", "lightning_module"}


def test_every_style_is_launched() -> None:
    assert {path.stem for path in STYLES.glob("*.py")} == set(NEEDS)


@pytest.mark.parametrize("name", NEEDS)
def test_a_sound_script_trains_and_nothing_is_found(name: str, tmp_path: Path) -> None:
    missing = [package for package in NEEDS[name].split() if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    if name == "compiled" and not compiles():
        pytest.skip("no C++ compiler for torch.compile")
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


def compiles() -> bool:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        return bool(get_cpp_compiler())
    except InvalidCxxCompiler:
        return False
