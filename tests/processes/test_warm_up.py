"""A zygote that learns: what members import while they train is imported once, for all that are forked later."""

from __future__ import annotations

import itertools
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from launching import DECLARE, Open, reported, trained, write
from scripts.harness import begin, dead

from gpbt_async.member import warm_up
from gpbt_async.processes import wire

if TYPE_CHECKING:
    from pathlib import Path

#: a script with a folder of installed packages beside it; its members import what their config says
SCRIPT = """
import importlib, os, sys
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "site-packages"))
def train(member):
    loaded = {name: name in sys.modules for name in NAMES}
    for name in member.config.get("variables", "").split():
        os.environ[name] = "set in train"
    for name in member.config.get("imports", "").split():
        importlib.import_module(name)
    member.report(score=0, **loaded)
"""


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    return folder


def script(folder: Path, *names: str) -> Path:
    return write(folder, f"NAMES = {names!r}\n{SCRIPT}{DECLARE.format(train='train')}")


async def member(launcher: Open, folder: Path, id: int, imports: str = "", variables: str = "") -> dict[str, Any]:
    """Train a member that imports these modules: which modules it found loaded, and, as "end", its End."""
    worker = await launcher.start(begin(folder, id, imports=imports, variables=variables))
    found: dict[str, Any] = {}
    async with worker:
        async for message in worker:
            if isinstance(message, wire.Report):
                found |= message.metrics
    assert worker.outcome.how in ("returned", "lost"), worker.outcome
    return {**found, "end": worker.end}


async def test_what_a_member_imports_is_imported_once_for_all_later_ones(tmp_path: Path, packages: Path) -> None:
    write(packages, "import inner_part", "outer.py")
    write(packages, "", "inner_part.py")
    async with Open(tmp_path) as launcher:
        await launcher.open_script(script(tmp_path, "outer", "inner_part"))
        first = await member(launcher, tmp_path, 0, "outer")
        assert first["end"].imports == ("outer",), "the outermost name brings the rest"
        assert first["end"].start["imports"] > 0
        second = await member(launcher, tmp_path, 1, "outer")
    assert (first["outer"], first["inner_part"]) == (False, False)
    assert (second["outer"], second["inner_part"]) == (True, True)
    assert second["end"].imports == ()
    assert launcher.said == []


async def test_of_the_users_own_module_the_packages_below_it_are_learned(tmp_path: Path, packages: Path) -> None:
    write(packages, "", "wanted.py")
    write(tmp_path, "import wanted\n", "mine_too.py")
    async with Open(tmp_path) as launcher:
        await launcher.open_script(script(tmp_path, "wanted", "mine_too"))
        assert (await member(launcher, tmp_path, 0, "mine_too"))["end"].imports == ("wanted",)
        second = await member(launcher, tmp_path, 1)
    assert (second["wanted"], second["mine_too"]) == (True, False)


async def test_a_package_that_imports_a_file_of_the_users_is_not_learned(tmp_path: Path, packages: Path) -> None:
    (packages / "host").mkdir()
    write(packages / "host", "from . import core\nimport mine_too, harmless", "__init__.py")
    write(packages / "host", "", "core.py")
    write(packages, "", "harmless.py")
    write(tmp_path, "", "mine_too.py")
    async with Open(tmp_path) as launcher:
        await launcher.open_script(script(tmp_path, "host", "mine_too", "harmless"))
        assert (await member(launcher, tmp_path, 0, "host"))["end"].imports == ("harmless",)
        second = await member(launcher, tmp_path, 1, "host")
    assert (second["host"], second["mine_too"], second["harmless"]) == (False, False, True)


async def test_what_is_imported_after_a_variable_was_set_is_not_learned(tmp_path: Path, packages: Path) -> None:
    write(packages, "import os; os.environ['OF_THE_LIBRARY'] = '1'", "sets.py")
    write(packages, "", "reads.py")
    async with Open(tmp_path) as launcher:
        await launcher.open_script(script(tmp_path, "sets", "reads"))
        first = await member(launcher, tmp_path, 0, "sets")
        assert (first["end"].imports, first["end"].variable) == (("sets",), "")
        second = await member(launcher, tmp_path, 1, "reads", variables="HOME OTHER")
        assert (second["end"].imports, second["end"].variable) == ((), "HOME")
        assert not (await member(launcher, tmp_path, 2))["reads"]
        fourth = await member(launcher, tmp_path, 3, variables="OTHER")
        assert fourth["end"].variable == "", "nothing was imported after it"


async def test_what_cannot_be_imported_there_is_skipped_and_logged_once(tmp_path: Path, packages: Path) -> None:
    write(packages, "import os\nif 'GPBT_MEMBER' not in os.environ: raise OSError('no member')", "picky.py")
    write(packages, "", "other.py")
    log = tmp_path / "zygote.log"
    async with Open(tmp_path) as launcher:
        await launcher.open_script(script(tmp_path, "picky", "other"))
        launcher.log_to(log)
        for id in range(3):
            found = await member(launcher, tmp_path, id, "picky other")
        assert (found["picky"], found["other"]) == (False, True)
    assert log.read_text() == "gpbt-async: members import picky each for itself: OSError: no member\n"
    assert launcher.said == []


async def test_a_module_that_starts_a_thread_is_left_to_members(tmp_path: Path, packages: Path) -> None:
    text = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    write(packages, text, "threaded.py")
    write(packages, "", "harmless.py")
    async with Open(tmp_path) as launcher:
        await launcher.open_script(script(tmp_path, "threaded", "harmless"))
        zygote = launcher.pids()["zygote"]
        await member(launcher, tmp_path, 0, "harmless threaded")
        after = [await member(launcher, tmp_path, id, "threaded") for id in (1, 2, 3)]
        assert [found["threaded"] for found in after] == [False] * 3
        assert after[-1]["harmless"], "the next zygote knows what else was imported"
        assert launcher.pids()["zygote"] not in (None, zygote)
        assert not launcher.exec
    assert launcher.said == [
        "members import threaded each for itself: its import starts a thread, which a fork does not have"
    ]


async def test_those_that_train_go_on_when_an_import_ends_forking(tmp_path: Path, packages: Path) -> None:
    write(
        packages, "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()", "thread_.py"
    )
    text = """
def train(member):
    import pathlib, time
    if member.id == 0:
        import thread_
    else:
        while not pathlib.Path(member.config["until"]).exists():
            time.sleep(0.01)
    member.report(score=0)
"""
    path = f"import sys; sys.path.append({str(packages)!r})\n{text}{DECLARE.format(train='train')}"
    async with Open(tmp_path) as launcher:
        await launcher.open_script(write(tmp_path, path))
        async with await launcher.start(begin(tmp_path, 1, until=str(tmp_path / "go"))) as trains:
            assert (await trained(launcher, tmp_path, 0)).outcome.how == "returned"
            await launcher.says()
            assert (await trained(launcher, tmp_path, 2, until=str(tmp_path))).outcome.how == "returned"
            (tmp_path / "go").touch()
            async for _ in trains:
                pass
        assert trains.outcome.how == "returned"


async def test_a_failed_import_that_leaves_a_part_behind_ends_the_zygote(tmp_path: Path, packages: Path) -> None:
    (packages / "halved").mkdir()
    write(
        packages / "halved", "from . import inner\nimport os\nif 'GPBT_MEMBER' not in os.environ: 1 / 0", "__init__.py"
    )
    write(packages / "halved", "", "inner.py")
    async with Open(tmp_path) as launcher:
        await launcher.open_script(script(tmp_path, "halved", "halved.inner"))
        for id in range(3):
            found = await member(launcher, tmp_path, id, "halved")
            assert (found["halved"], found["halved.inner"]) == (False, False)
    assert launcher.said == ["members import halved each for itself: ZeroDivisionError: division by zero"]


async def test_an_import_that_draws_random_numbers_changes_no_results(tmp_path: Path, packages: Path) -> None:
    write(packages, "import random; random.random()", "draws.py")
    text = f"""
import sys; sys.path.append({str(packages)!r})
def train(member):
    import random
    import draws
    member.report(score=random.random())
"""
    async with Open(tmp_path) as launcher:
        await launcher.open_script(write(tmp_path, text + DECLARE.format(train="train")))
        scores = []
        for id in range(2):
            async with await launcher.start(begin(tmp_path, id, seed=7)) as worker:
                scores.append((await reported(worker))["score"])
                async for _ in worker:
                    pass
    assert scores[0] == scores[1]


async def test_variables_that_a_library_sets_for_the_user_count_and_so_does_the_path(
    tmp_path: Path, packages: Path
) -> None:
    write(packages, "import os\ndef load(): os.environ['HOME'] = 'there'", "dotenv_like.py")
    write(packages, "", "after.py")
    text = f"""
import sys; sys.path.append({str(packages)!r})
import dotenv_like
def train(member):
    sys.path.append("elsewhere") if member.id else dotenv_like.load()
    import after
    member.report(score=0)
"""
    async with Open(tmp_path) as launcher:
        await launcher.open_script(write(tmp_path, text + DECLARE.format(train="train")))
        ends = [(await trained(launcher, tmp_path, id)).end for id in (0, 1)]
    assert [end.imports for end in ends if end is not None] == [(), ()]


async def test_a_zygote_that_is_killed_hands_what_it_knew_to_the_next(tmp_path: Path, packages: Path) -> None:
    write(packages, "", "wanted.py")
    async with Open(tmp_path) as launcher:
        await launcher.open_script(script(tmp_path, "wanted"))
        await member(launcher, tmp_path, 0, "wanted")
        assert (await member(launcher, tmp_path, 1))["wanted"]
        zygote = launcher.pids()["zygote"]
        assert zygote is not None
        pidfd = os.pidfd_open(zygote)
        os.kill(zygote, 9)
        assert dead(pidfd, 10.0)  # and with it all that it had forked
        os.close(pidfd)
        ids = itertools.count(2)
        while "wanted" not in (found := await member(launcher, tmp_path, next(ids))):
            pass  # a fork of the killed zygote, and lost with it
        assert not found["wanted"], "the first member is not kept waiting"
        assert (await member(launcher, tmp_path, next(ids)))["wanted"]


@pytest.mark.parametrize("how", ["os._exit(7)", "os.kill(os.getpid(), 11)"])
async def test_a_module_that_kills_the_zygote_is_left_to_members(tmp_path: Path, packages: Path, how: str) -> None:
    write(packages, f"import os\nif 'GPBT_MEMBER' not in os.environ: {how}", "killer.py")
    write(packages, "", "harmless.py")
    async with Open(tmp_path) as launcher:
        await launcher.open_script(script(tmp_path, "killer", "harmless"))
        lost, found = 0, []
        for id in range(6):
            found.append(await member(launcher, tmp_path, id, "harmless killer"))
            lost += "killer" not in found[-1]
        assert lost <= 1, "a fork of the zygote that died"
        assert (found[-1]["killer"], found[-1]["harmless"]) == (False, True)
    assert launcher.said == ["members import killer each for itself: the process that forks them died while it did"]


async def test_a_variable_that_keeps_imports_from_being_shared_is_named(tmp_path: Path, packages: Path) -> None:
    write(packages, "import time; time.sleep(0.2)", "slow_import.py")
    async with Open(tmp_path) as launcher:
        await launcher.open_script(script(tmp_path, "slow_import"))
        for id in (0, 1):
            await member(launcher, tmp_path, id, "slow_import", variables="HOME")
    (said,) = launcher.said
    assert said.startswith("train sets os.environ['HOME'] before it imports, so each member imports for itself (0.")


async def test_fresh_interpreters_have_no_zygote_to_learn(tmp_path: Path, packages: Path) -> None:
    write(packages, "", "wanted.py")
    async with Open(tmp_path, start="exec") as launcher:
        await launcher.open_script(script(tmp_path, "wanted"))
        for id in (0, 1):
            found = await member(launcher, tmp_path, id, "wanted")
            assert (found["wanted"], found["end"].imports) == (False, ("wanted",))


@pytest.mark.slow
async def test_sklearn_imported_in_train_is_imported_once(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    text = """
def train(member):
    from sklearn.linear_model import SGDClassifier
    model = SGDClassifier(max_iter=2, tol=None)
    model.fit([[0.0], [1.0], [2.0]], [0, 1, 1])
    member.report(score=model.score([[2.0]], [1]))
"""
    async with Open(tmp_path) as launcher:
        await launcher.open_script(write(tmp_path, text + DECLARE.format(train="train")))
        ends = [(await trained(launcher, tmp_path, id)).end for id in range(3)]
    assert [bool(end and end.imports) for end in ends] == [True, False, False]
    assert launcher.said == []


# -- without processes


def test_an_import_that_takes_too_long_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "import threading\nthreading.Event().wait()\n", "endless_import.py")
    write(tmp_path, "", "after_the_endless.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(warm_up, "SECONDS", 0.05)
    skipped, hazard = warm_up.warm_up(["endless_import", "after_the_endless"], print)
    assert hazard == "endless_import", "half of it may be loaded"
    assert "after_the_endless" not in skipped
    assert skipped["endless_import"].startswith("its import took longer than the 0.05 s")
    assert "endless_import" not in sys.modules


def test_a_module_that_opens_a_gpu_is_a_hazard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, f"file = open({str(tmp_path / 'nvidia0')!r}, 'w')\n", "opens_a_gpu.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(warm_up, "GPU_FILES", str(tmp_path / "nvidia"))
    skipped, hazard = warm_up.warm_up(["opens_a_gpu"], print)
    sys.modules.pop("opens_a_gpu").file.close()
    assert hazard == "opens_a_gpu"
    assert skipped == {"opens_a_gpu": "its import opens a GPU, which a fork cannot use"}


def test_a_thread_that_has_ended_is_no_hazard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "import threading\nthread = threading.Thread(target=print)\nthread.start()\nthread.join()\n"
    write(tmp_path, text, "joins_its_thread.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = threading.active_count()
    assert warm_up.warm_up(["joins_its_thread"], print) == ({}, "")
    assert threading.active_count() == before
    del sys.modules["joins_its_thread"]
