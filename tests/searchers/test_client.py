"""The searcher process may die, hang or answer nonsense: the config is the same nevertheless."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

from gpbt_async.ask import Ask, Observation
from gpbt_async.errors import ExperimentError, LaunchError, SearcherError
from gpbt_async.processes import helper_process
from gpbt_async.processes.helper_main import FD, SchedulerLink
from gpbt_async.searchers import registry, searcher_main
from gpbt_async.searchers.client import SearcherClient, SearcherStarter
from gpbt_async.space import Choice, Float, Int, Space

SPACE = Space({"lr": Float(1e-4, 1.0, log=True), "n": Int(1, 8), "kind": Choice(["a", 1, None])})

#: what fake searcher processes begin with: `lines` to read asks from, `say` to answer with
FAKE = """
import json, os, socket, sys
connection = socket.socket(fileno=int(os.environ["GPBT_FD"]))
lines = connection.makefile("rb")
def say(message):
    connection.sendall(json.dumps(message).encode() + b"\\n")
lines.readline()
good = {"lr": 0.5, "n": 2, "kind": None}
"""
HANGS = FAKE + "lines.readline(); lines.read()"
DIES = FAKE + "lines.readline(); sys.exit(3)"
DIES_AT_ONCE = "pass"
ANSWERS = FAKE + "say({'id': json.loads(lines.readline())['id'], 'config': good}); lines.read()"
ANSWER = {"lr": 0.5, "n": 2, "kind": None}

pytestmark = pytest.mark.slow


def ask(seed=1, n=12, generation=0):
    rng = random.Random(0)
    kin = tuple(Observation((i,), 0, SPACE.sample(rng), "finished", rng.random()) for i in range(n))
    parent = kin[0] if generation else None
    return Ask(SPACE, (n,) if not generation else (0,) * generation + (1,), generation, seed, parent, kin, ())


class Spawns:
    """Plain subprocesses in place of the launcher's: the programs given, one after the other, then the real one."""

    def __init__(self, *programs):
        self.programs = list(programs)
        self.processes = []
        self.second = lambda: None  # called before the second one

    async def __call__(self, argv, env, log=None):
        program = self.programs.pop(0) if self.programs else None
        if isinstance(program, Exception):
            raise program
        if len(self.processes) == 1:
            self.second()
        ours, theirs = socket.socketpair()
        with theirs:
            argv = argv if program is None else [sys.executable, "-c", program]
            env = {**env, FD: str(theirs.fileno())}
            process = subprocess.Popen(argv, env=env, pass_fds=[theirs.fileno()], cwd="/")  # noqa: ASYNC220
        self.processes.append(process)
        return ours, os.pidfd_open(process.pid)


@pytest.fixture
async def room():
    """Makes SearcherClients, and checks at the end that no process and no descriptor of theirs is left."""
    made = []
    before = len(os.listdir("/proc/self/fd"))

    def make(*programs, name="tpe", timeout=60.0, path=()):
        spawns = Spawns(*programs)
        made.append((SearcherClient(SPACE, name, SearcherStarter(spawns).start, timeout, path), spawns))
        return made[-1]

    yield make
    for one, spawns in made:
        await one.close()
        for process in spawns.processes:
            assert process.wait(timeout=10) is not None
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_heavy_ask_gets_the_searchers_own_answer(room):
    one, spawns = room()
    await one.open()
    assert len(spawns.processes) == 1
    for seed in (1, 2, 2**63 - 1):
        assert await one.suggest(ask(seed)) == registry.make("tpe").suggest(ask(seed))
    assert len(spawns.processes) == 1


@pytest.mark.parametrize("name", ["random", "perturb"])
async def test_a_light_searcher_never_starts_a_process(room, name):
    one, spawns = room(name=name)
    await one.open()
    for generation in (0, 1):
        asked = ask(generation=generation)
        assert await one.suggest(asked) == registry.make(name).suggest(asked)
    assert spawns.processes == []


async def test_light_asks_of_a_heavy_searcher_do_not_wait_for_its_process(room):
    one, spawns = room(HANGS, name="local")
    await one.open()
    for asked in (ask(n=0), ask(generation=1)):
        assert await one.suggest(asked) == registry.make("local").suggest(asked)
    assert len(spawns.processes) == 1


async def test_light_asks_run_in_one_thread_of_the_client(room, monkeypatch):
    threads = []

    class Spy(registry.Random):
        def suggest(self, asked):
            threads.append(threading.current_thread().name)
            return super().suggest(asked)

    monkeypatch.setitem(registry._SEARCHERS, "random", Spy)
    one, _ = room(name="random")
    await asyncio.gather(*(one.suggest(ask(seed)) for seed in range(5)))
    assert threads == ["gpbt-searcher_0"] * 5


async def test_several_asks_at_a_time_each_get_their_own_answer(room):
    one, spawns = room()
    got = await asyncio.gather(*(one.suggest(ask(seed)) for seed in range(8)))
    assert got == [registry.make("tpe").suggest(ask(seed)) for seed in range(8)]
    assert len(spawns.processes) == 1


async def test_an_ask_of_megabytes(room):
    program = FAKE + "line = lines.readline(); good['n'] = len(json.loads(line)['ask']['kin']) % 8 + 1\n"
    program += "say({'id': json.loads(line)['id'], 'config': good}); lines.read()"
    one, _ = room(program)
    asked = ask(n=20_005)
    assert len(json.dumps(asked.to_json())) > 2e6
    assert (await one.suggest(asked))["n"] == 20_005 % 8 + 1


# ---- what may go wrong


async def test_a_process_killed_in_mid_ask_is_replaced_and_the_answer_the_same(room):
    """The fake kills itself with the ask in hand, as the kernel does when memory is short."""
    one, spawns = room(FAKE + f"lines.readline(); os.kill(os.getpid(), {int(signal.SIGKILL)})")
    assert await one.suggest(ask()) == registry.make("tpe").suggest(ask())
    assert len(spawns.processes) == 2


async def test_a_process_killed_between_asks_is_replaced(room):
    one, spawns = room()
    first = await one.suggest(ask())
    spawns.processes[0].kill()
    spawns.processes[0].wait()
    assert await one.suggest(ask()) == first
    assert len(spawns.processes) == 2


@pytest.mark.parametrize("reads", [True, False], ids=["reads", "does not read"])
async def test_a_hung_process_is_killed_and_replaced(room, reads):
    program = HANGS if reads else FAKE + "import signal; signal.pause()"
    one, spawns = room(program, ANSWERS, ANSWERS, timeout=0.5)  # the second has half a second too, to start in
    spawns.second = lambda: setattr(one, "_timeout", 60.0)
    assert await one.suggest(ask(n=20_000)) == ANSWER
    assert spawns.processes[0].wait(timeout=10) == -signal.SIGKILL


@pytest.mark.parametrize(
    "nonsense",
    [
        b"what?\n",
        b"\xff\xfe\n",
        b"[]\n",
        b"null\n",
        b"{}\n",
        b'{"id": 99, "config": {}}\n',
        b'{"id": 1}\n',
        b'{"id": 1, "config": 3}\n',
        b'{"id": 1, "config": {"lr": 0.5',
        b"[" * 100_000 + b"\n",
    ],
)
async def test_nonsense_is_a_reason_to_start_again(room, nonsense):
    program = FAKE + f"lines.readline(); connection.sendall({nonsense!r}); connection.shutdown(1); lines.read()"
    one, spawns = room(program, ANSWERS)
    assert await one.suggest(ask()) == ANSWER
    assert spawns.processes[0].wait(timeout=10) == -signal.SIGKILL


async def test_an_answer_without_end_is_nonsense(room, monkeypatch):
    monkeypatch.setattr(helper_process, "LONGEST", 1000)
    program = FAKE + "lines.readline()\nwhile True: connection.sendall(b'x' * 1000)"
    one, _ = room(*[program] * 3)
    with pytest.raises(SearcherError, match="sent an answer that is too long"):
        await one.suggest(ask())


@pytest.mark.parametrize(
    ("program", "cause"),
    [
        (DIES, "gave no answer in 3 tries: the searcher process died"),
        (DIES_AT_ONCE, "gave no answer in 3 tries: the searcher process died"),
        (HANGS, r"did not answer within 0\.5 s"),
        (FAKE + "lines.readline(); connection.sendall(b'?\\n'); lines.read()", "sent an invalid answer"),
        (LaunchError("no more processes"), "could not be started: LaunchError: no more processes"),
    ],
)
async def test_three_tries_then_an_error_that_names_searcher_member_and_cause(room, program, cause):
    one, spawns = room(*[program] * 3, name="local", timeout=0.5 if program is HANGS else 60.0)
    with pytest.raises(SearcherError, match=rf"^searcher 'local', asked for member 12: .*{cause}"):
        await one.suggest(ask())
    assert spawns.programs == []
    assert all(process.wait(timeout=10) is not None for process in spawns.processes)


async def test_an_exception_in_the_searcher_is_raised_after_one_repeat(room):
    program = FAKE + "for n, line in enumerate(lines): say({'id': json.loads(line)['id'], 'error': f'Bang: {n}'})"
    one, spawns = room(program)
    with pytest.raises(SearcherError, match=r"^searcher 'tpe', asked for member 12: raised Bang: 1$"):
        await one.suggest(ask())
    assert len(spawns.processes) == 1


async def test_the_real_process_reports_what_its_searcher_raised_and_goes_on(room):
    one, spawns = room()
    bad = ask()
    odd = Observation((0,), 0, {"lr": 0.5, "n": 2, "kind": "no option"}, "finished", 0.0)
    with pytest.raises(SearcherError, match="raised ValueError: 'no option' is none of"):
        await one.suggest(Ask(SPACE, (3,), 0, 1, None, (odd,), ()))
    assert await one.suggest(bad) == registry.make("tpe").suggest(bad)
    assert len(spawns.processes) == 1


async def test_an_exception_in_a_light_searcher(room):
    one, _ = room(name="local")
    odd = Observation((0,), 0, {"lr": 0.5}, "finished", 0.0)
    with pytest.raises(SearcherError, match=r"^searcher 'local', asked for member 0/1: raised KeyError: 'kind'$"):
        await one.suggest(Ask(SPACE, (0, 1), 1, 1, odd, (), ()))


@pytest.mark.parametrize(
    "config", [{"lr": 0.5}, {"lr": "high", "n": 2, "kind": None}, {"lr": 0.5, "n": 2, "kind": "b"}]
)
async def test_an_answer_outside_the_space_is_an_error(room, config):
    program = FAKE + f"say({{'id': json.loads(lines.readline())['id'], 'config': {config!r}}}); lines.read()"
    one, _ = room(program)
    with pytest.raises(SearcherError, match=r"suggested .*, which is not in the space: "):
        await one.suggest(ask())


# ---- a class of the user's

MINE = """
import os
class Own:
    def suggest(self, ask):
        print("a line of output")
        return {"lr": 0.5, "n": 2, "kind": "a" if "GPBT_FD" in os.environ else None}
class Wild:
    def suggest(self, ask):
        return [None, {"lr": {1}}, {"lr": 0.5}][ask.seed]
class Needs:
    def __init__(self, size): ...
    def suggest(self, ask): ...
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


async def test_a_users_searcher_is_imported_in_the_process_only_from_the_folders_given(room, folder):
    one, spawns = room(name="mine:Own", path=["/nowhere", str(folder)])
    await one.open()
    assert len(spawns.processes) == 1
    for asked in (ask(n=0), ask(generation=1)):
        assert await one.suggest(asked) == {"lr": 0.5, "n": 2, "kind": "a"}
    assert "mine" not in sys.modules
    assert len(spawns.processes) == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mine:Needs", r"class 'Needs' in .*mine.py must be made without arguments: missing .*'size'"),
        ("nowhere:Own", r"there is no module 'nowhere' beside the script or on the import path"),
    ],
)
async def test_a_users_searcher_that_cannot_be_made_is_an_error_at_once(room, folder, name, said):
    one, spawns = room(name=name, path=[str(folder)])
    await one.open()
    with pytest.raises(SearcherError, match=rf"^searcher '{name}': {said}$"):
        await one.suggest(ask())
    assert len(spawns.processes) == 1
    early, spawns = room(name=name, path=[str(folder)])
    with pytest.raises(SearcherError, match=rf"^searcher '{name}': {said}$"):
        await early.check()
    assert len(spawns.processes) == 1


async def test_a_users_searcher_can_be_loaded_before_anything_is_asked(room, folder):
    one, spawns = room(name="mine:Own", path=[str(folder)])
    await one.check()
    assert await one.suggest(ask()) == {"lr": 0.5, "n": 2, "kind": "a"}
    assert len(spawns.processes) == 1
    light, none = room(name="random")
    await light.check()
    assert none.processes == []
    dying, _ = room("import sys; sys.exit(3)", name="mine:Own", path=[str(folder)])
    with pytest.raises(SearcherError, match=r"^searcher 'mine:Own' could not be loaded: the searcher process died"):
        await dying.check()
    await dying.check()
    mute, _ = room("import sys; sys.stdin.read()", name="mine:Own", path=[str(folder)], timeout=0.01)
    with pytest.raises(SearcherError, match=r"^searcher 'mine:Own' could not be loaded within 0.01 s$"):
        await mute.check()


@pytest.mark.parametrize(
    ("seed", "said"),
    [
        (0, "raised TypeError: suggested None, which is no dict"),
        (1, "raised TypeError: suggested {'lr': {1}}, which is not plain JSON: Object of type set is not"),
        (2, "suggested {'lr': 0.5}, which is not in the space: the config and the space differ in kind, n"),
        (3, "raised IndexError: list index out of range"),
    ],
)
async def test_a_users_searcher_that_answers_badly_is_quoted(room, folder, seed, said):
    one, spawns = room(name="mine:Wild", path=[str(folder)])
    with pytest.raises(SearcherError, match=f"^searcher 'mine:Wild', asked for member 12: {re.escape(said)}"):
        await one.suggest(ask(seed))
    assert len(spawns.processes) == 1


async def test_a_missing_package_is_an_error_before_anything_is_asked(room, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ExperimentError, match=r"needs optuna, .*pip install 'gpbt-async\[optuna\]'$"):
        room(name="optuna:tpe")


@pytest.mark.parametrize("name", ["kin", "optuna:tpe", "optuna:gp", "optuna:cmaes", "optuna:qmc"])
async def test_the_process_answers_as_the_searcher_here_does(room, name):
    one, _ = room(name=name)
    asked = ask(3, generation=1)
    assert await one.suggest(asked) == registry.make(name).suggest(asked)


# ---- cancellation, opening and closing


async def test_a_cancelled_ask_does_not_disturb_the_next(room):
    one, spawns = room()
    waiting = asyncio.ensure_future(one.suggest(ask(1)))
    await asyncio.wait([waiting], timeout=0)
    following = asyncio.ensure_future(one.suggest(ask(2)))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await following == registry.make("tpe").suggest(ask(2))
    assert len(spawns.processes) == 1


async def test_closing_ends_a_hung_process_at_once_and_cancels_waiting_asks(room):
    one, spawns = room(HANGS)
    waiting = asyncio.ensure_future(one.suggest(ask()))
    await asyncio.wait([waiting], timeout=0)
    while not spawns.processes:
        await asyncio.wait([waiting], timeout=0)
    await one.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert spawns.processes[0].wait(timeout=10) == -signal.SIGKILL
    await one.close()


async def test_an_ask_that_is_withdrawn_while_it_waits_is_never_sent(room):
    """The process answers one ask only; the second waits for its turn meanwhile, and is not wanted any more then."""
    one, spawns = room(ANSWERS, timeout=10.0)
    wanted = True
    first = asyncio.ensure_future(one.suggest(ask()))
    second = asyncio.ensure_future(one.suggest(ask(2), lambda: wanted))
    await asyncio.wait([first, second], timeout=0)
    wanted = False
    assert await first == ANSWER
    assert await second is None
    assert len(spawns.processes) == 1


async def test_a_process_started_ahead_is_used_once_and_a_new_one_after_its_death(room):
    _, spawns = room()
    starter = SearcherStarter(spawns)
    starter.start_ahead("tpe")
    one = SearcherClient(SPACE, "tpe", starter.start)
    first = await one.suggest(ask())
    assert first == registry.make("tpe").suggest(ask())
    spawns.processes[0].kill()
    spawns.processes[0].wait()
    assert await one.suggest(ask()) == first
    assert len(spawns.processes) == 2
    await one.close()
    await starter.close()


@pytest.mark.parametrize(("name", "started"), [("tpe", 1), ("random", 0), ("mine:Own", 0)])
async def test_a_process_started_ahead_and_not_used_is_ended(room, name, started):
    _, spawns = room()
    starter = SearcherStarter(spawns)
    starter.start_ahead(name)
    await asyncio.sleep(0)  # let it start
    await starter.close()
    assert [process.wait(timeout=10) for process in spawns.processes] == [-signal.SIGKILL] * started


async def test_an_ask_works_after_a_failed_opening(room):
    one, spawns = room(LaunchError("not yet"), ANSWERS)
    await one.open()
    assert await one.suggest(ask()) == ANSWER
    assert len(spawns.processes) == 1


async def test_the_loop_turns_while_an_ask_is_out(room):
    """An ask of megabytes to a process that does not read fills the socket; the loop must not notice."""
    one, _ = room(FAKE + "import signal; signal.pause()")
    waiting = asyncio.ensure_future(one.suggest(ask(n=20_000)))
    for _ in range(100):
        await asyncio.wait([waiting], timeout=0)
    assert not waiting.done()
    await one.close()
    await asyncio.wait([waiting])


# ---- the program of the process


def served(*lines, name="tpe"):
    """What `main` answers to these lines, run here in a thread."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(30)
        server = threading.Thread(target=lambda: searcher_main.serve(SchedulerLink(theirs)))
        server.start()
        hello = {"space": SPACE.to_json(), "searcher": name}
        ours.sendall(b"".join(json.dumps(line).encode() + b"\n" for line in (hello, *lines)))
        ours.shutdown(socket.SHUT_WR)
        server.join(30)
        assert not server.is_alive(), "it ends when its input does"
        theirs.close()
        return [json.loads(line) for line in ours.makefile("rb")]


def test_the_program_answers_in_order_and_ends_with_its_input():
    asked = ask()
    broken = {**asked.to_json(), "kin": [1]}
    first, second, third = served(
        {"id": 1, "ask": asked.to_json()}, {"id": 2, "ask": broken}, {"id": 3, "ask": asked.to_json()}
    )
    assert first == {"id": 1, "config": registry.make("tpe").suggest(asked)}
    assert third == {**first, "id": 3}
    assert second["id"] == 2
    assert second["error"].startswith("TypeError: ")


@pytest.mark.parametrize("whole", [0, 1, 2])
def test_the_program_ends_quietly_when_its_input_ends_in_mid_line(whole):
    """The scheduler was killed while it wrote: its first line, an ask's, or the next one's is torn."""
    lines = [json.dumps({"space": SPACE.to_json(), "searcher": "random"}).encode() + b"\n"]
    lines += [json.dumps({"id": i, "ask": ask().to_json()}).encode() + b"\n" for i in (1, 2)]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"".join(lines[:whole]) + lines[whole][:-9])
        ours.shutdown(socket.SHUT_WR)
        searcher_main.serve(SchedulerLink(theirs))
        theirs.shutdown(socket.SHUT_WR)
        answers = [json.loads(line)["id"] for line in ours.makefile("rb")]
    assert answers == list(range(1, whole))


def test_the_process_ends_quietly_when_the_scheduler_dies_before_its_first_line():
    ours, theirs = socket.socketpair()
    env = {**os.environ, FD: str(theirs.fileno())}
    argv = [sys.executable, "-c", "from gpbt_async.searchers.searcher_main import main; main()"]
    with theirs:
        process = subprocess.Popen(
            argv, env=env, pass_fds=[theirs.fileno()], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    ours.close()
    assert process.communicate(timeout=30) == (b"", None)
    assert process.returncode == 0


def test_importing_the_client_imports_nothing_heavy():
    program = "import sys, gpbt_async.searchers.client; print(*sorted({'numpy', 'hyperopt'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
