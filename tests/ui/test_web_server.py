"""The live pages as a browser requests them: access, the report's data and its patches, commands to a run."""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import os
import shutil
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

import pytest
from gpu_machine import A
from harness import SCRIPTS, cli, facts, start, until
from hypothesis import given
from hypothesis import strategies as st
from run_factory import embellished, settings, simulated, write
from starlette.applications import Starlette
from starlette.routing import Mount
from web_pages import BEARER, TOKEN, Server, going_on, patched, served

from gpbt_async import events as events_module
from gpbt_async.analysis.reader import RunReader
from gpbt_async.analysis.report_data import report_data
from gpbt_async.errors import ExperimentError, MissingExtra
from gpbt_async.storage.folder import RunFolder
from gpbt_async.ui import live, web_server
from gpbt_async.ui.live import difference, page_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gpu_machine import Machine

    from gpbt_async.events import Fact

# ---- patches


PLAIN = st.recursive(
    st.none() | st.integers(0, 3) | st.floats(allow_nan=True, width=16) | st.sampled_from(["a", "=", "k", "l"]),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(["=", "k", "n", "x"]), inner),
    max_leaves=12,
)


@given(PLAIN, PLAIN)
def test_a_patch_turns_one_value_into_the_other(old: Any, new: Any) -> None:
    patch = difference(old, new)
    made = old if patch is None else patched(old, json.loads(json.dumps(patch)))
    assert same(made) == same(new)
    assert difference(new, new) is None


def same(value: Any) -> str:
    """Equal for what a page takes for the same: 1 and 1.0, 0 and -0, two NaN, and objects in any order."""
    return json.dumps(
        json.loads(json.dumps(value), parse_int=float, parse_float=lambda x: float(x) + 0.0), sort_keys=True
    )


def test_a_patch_of_a_column_that_grew_is_small() -> None:
    old = {"a": [float(i) for i in range(5000)], "b": [[math.nan] * 5000, [1] * 5000]}
    new = {"a": [*old["a"][:100], -1.0, *old["a"][101:], 7.0], "b": [[math.nan] * 5000, [1] * 5000]}
    assert difference(old, new) == {"k": {"a": {"n": 5001, "i": [100, 5000], "v": [-1.0, 7.0]}}}


# ---- fixtures


@pytest.fixture(scope="module")
def made() -> list[Fact]:
    return embellished(simulated(settings(population=10, generations=3), 3, fail=0.1).facts)


@pytest.fixture
def runs(tmp_path: Path, made: list[Fact]) -> Path:
    """Two runs: one has finished, one was broken off in the middle."""
    s = settings(population=10, generations=3)
    write(tmp_path / "runs" / "done", s, made, members=30)
    write(tmp_path / "runs" / "half", s, made[: len(made) // 2], members=30)
    return tmp_path / "runs"


# ---- access


def test_requests_without_the_token_or_for_another_host_are_refused(runs: Path) -> None:
    with served(runs) as server:
        here = f"127.0.0.1:{server.port}"
        for path in ("/", "/events", "/runs/done/", "/runs/done/events", "/assets/core.js", "/runs/done/members/1"):
            assert server.ask(path)[0] == 401
            assert server.ask(path + "?token=" + TOKEN[:-1])[0] == 401
            assert server.ask(path, Authorization="Bearer ä" + TOKEN)[0] == 401
            assert server.ask(path, Cookie=f"gpbt-{server.port}=x; gpbt-0={TOKEN}")[0] == 401
            for host in ("evil.example", f"evil.example:{server.port}", f"127.0.0.1.evil.example:{server.port}", ""):
                status, headers, text = server.ask(path, Host=host, **BEARER)
                assert status == 403
                assert "is not served here" in text
        status, headers, text = server.ask(f"/?token={TOKEN}")
        assert status == 200
        assert headers["set-cookie"] == f"gpbt-{server.port}={TOKEN}; Path=/; HttpOnly; SameSite=Strict"
        assert TOKEN not in text
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert not [name for name in headers if name.startswith("access-control")]
        cookie = headers["set-cookie"].partition(";")[0]
        assert server.ask("/runs/half/", Cookie=cookie, Host=f"localhost:{server.port}")[0] == 200
        status, headers, page = server.ask("/runs/half/", Cookie=cookie)
        assert status == 200
        assert "set-cookie" not in headers
        key = page.partition('gpbt-steer" content="')[2].partition('"')[0]
        steer = "/runs/half/pause"
        assert server.ask(steer, "POST", Cookie=cookie)[0] == 403, "a form of another site could ask so"
        assert server.ask(steer, "POST", Cookie=cookie, X_GPBT_Steer=key, Origin="http://evil.example")[0] == 403
        assert server.ask(steer, "POST", X_GPBT_Steer=key)[0] == 401
        for who in ({"Cookie": cookie, "X_GPBT_Steer": key, "Origin": f"http://{here}"}, BEARER):
            status, _, text = server.ask(steer, "POST", **who)
            assert status == 409
            assert "half is not running" in json.loads(text)["error"]
        assert server.ask("/", "DELETE", **BEARER)[0] == 405
        assert server.ask("/runs/half/stop", **BEARER)[0] == 405, "a GET stops nothing"


def test_only_runs_members_and_assets_are_served(runs: Path) -> None:
    (runs.parent / "secret").write_text("secret")
    (runs / "link").symlink_to(runs.parent)
    with served(runs) as server:
        for path in (
            "/runs/nonesuch/", "/runs/../", "/runs/..%2f..%2fetc/", "/runs/%2e%2e/", "/runs/link/", "/runs/done/x",
            "/assets/..%2fserve.py", "/assets/report.html", "/assets/plotly-0.js", "/runs/done/members/-1",
            "/runs/done/members/x", f"/runs/done/members/{10**17}",
            "/runs/done/members/" + "1" * 5000, "/runs/done/members/%D9%A3",
        ):  # fmt: skip
            assert server.ask(path, **BEARER)[0] in (404, 405), path
        _, _, text = server.ask("/runs/done/members/0?metric=loss", **BEARER)
        left = json.loads(text)
        assert left["log"].startswith("epoch 0")
        assert len(left["curve"]) == 8
        _, _, page = server.ask("/runs/done/", **BEARER)
        assert "http://" not in page
        assert "https://" not in page
        names = [part.partition('"')[0] for part in page.split('src="../../assets/')[1:]]
        assert len(names) == len(web_server.RUN_SCRIPTS) + 1
        for name in (*names, "report.css"):
            assert server.ask(f"/assets/{name}", **BEARER)[0] == 200
        for name in {*web_server.RUN_SCRIPTS, *web_server.INDEX_SCRIPTS}:
            text = server.ask(f"/assets/{name}", **BEARER)[2].replace("http://www.w3.org/2000/svg", "")
            for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "http://", "https://"):
                assert word not in text


def test_bad_tokens_and_missing_extras_raise(runs: Path, monkeypatch: Any) -> None:
    for token in ("", "short", "with a space in it, and long", "ünïcödé-" * 4):
        with pytest.raises(ExperimentError, match="token: got"):
            web_server.app(runs, token=token)
    assert len(web_server.app(runs).state.token) >= 40
    for package in ("starlette.applications", "plotly.offline"):
        with monkeypatch.context() as without:
            without.setitem(sys.modules, package, None)
            with pytest.raises(MissingExtra, match=r"pip install 'gpbt-async\[web\]'"):
                web_server.app(runs)
    made = web_server.app(runs)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingExtra, match=r"serve: needs uvicorn.*\[web\]"):
        web_server._server(made)


# ---- the report's data


def plain(reading: RunReader) -> Any:
    """The report's data as a page gets it, without what is not the journal's."""
    latest = json.loads(page_json(report_data(reading)))
    return {name: latest[name] for name in latest if name != "importance"}


def test_facts_reach_the_page_as_they_are_written(runs: Path, made: list[Fact]) -> None:
    folder, rest = RunFolder(runs / "half"), made[len(made) // 2 :]
    with served(runs) as server, going_on(folder) as journal:
        stream = server.events("/runs/half/events")
        latest = stream.until(lambda latest: latest.get("run"))
        assert latest["run"]["state"] == "running"
        assert latest["now"]["training"]
        assert latest["problem"] == ""
        for i, fact in enumerate(rest):
            journal.append(fact)
            if i % 8 == 0:
                stream.until(lambda latest, t=fact.t: latest["run"]["told"] >= t)
        latest = stream.until(lambda latest: latest["timeline"] == plain(RunReader(folder, history=True))["timeline"])
        held = plain(RunReader(folder, history=True))
        assert {name: latest[name] for name in held} == held
        assert max(stream.sizes[1:]) < stream.sizes[0]
        stream.close()


def test_the_present_activity_does_not_change_with_the_clock(
    tmp_path: Path, made: list[Fact], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a patch would go out each second though nothing happens."""
    asked = [i for i, fact in enumerate(made) if isinstance(fact, events_module.Suggested)]
    folder = write(tmp_path / "r", settings(population=10, generations=3), made[: asked[2]])
    with going_on(folder):
        reading = RunReader(folder)
        now = live._around(reading)
        monkeypatch.setattr("time.time", lambda: made[-1].t + 1e4)
        assert live._around(reading) == now
    assert now["free_until"].startswith("the searcher, asked for member ")
    assert made[0].t <= now["free_since"] <= made[-1].t


def test_the_log_of_an_ended_member_is_read_once(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def traceback(folder: RunFolder, kind: dict[str, Any]) -> str:
        read.append(kind["reason"])
        return ""

    monkeypatch.setattr(live, "traceback", traceback)
    followed = live.FollowedRun(RunFolder(runs / "done"))
    for _ in range(2):
        followed._look()
        assert followed.latest is not None
        assert followed.latest.data is not None
        assert followed._reader is not None
        followed._update(followed._reader, news=True)
    kinds = [kind["reason"] for kind in followed.latest.data["failures"]["list"]]
    assert read == kinds != []
    first = followed.latest.data["failures"]["list"][0]["members"][0]
    followed._reader.engine.tree.members[first].attempt += 1  # it was tried again
    followed._update(followed._reader, news=True)
    assert read == [*kinds, kinds[0]]


def test_the_end_of_a_run_reaches_the_page(runs: Path, made: list[Fact]) -> None:
    folder = RunFolder(runs / "half")
    with served(folder.path) as server:
        status, headers, _ = server.ask(f"/?token={TOKEN}")
        assert (status, headers["location"]) == (303, f"runs/half/?token={TOKEN}")
        assert server.ask("/runs/done/", **BEARER)[0] == 404, "only this one is served"
        stream = server.events("/runs/half/events")
        with going_on(folder) as journal:
            stream.until(lambda latest: latest["run"]["state"] == "running")
            for fact in made[len(made) // 2 :]:
                journal.append(fact)
        latest = stream.until(lambda latest: latest["run"]["state"] == "finished")
        assert latest["importance"] == json.loads(page_json(report_data(RunReader(folder, history=True))))["importance"]
        stream.close()


def test_the_page_says_that_a_run_is_gone_or_damaged(runs: Path) -> None:
    folder = RunFolder(runs / "half")
    with served(runs) as server:
        stream = server.events("/runs/half/events")
        stream.until(lambda latest: latest["run"]["state"] == "interrupted")
        folder.path.rename(runs.parent / "away")
        latest = stream.until(lambda latest: latest["problem"])
        assert latest["problem"].startswith(f"{folder.path} is not there any more: it was moved or deleted.")
        assert latest["run"]["name"] == "half", "the last state stays"
        (runs.parent / "away").rename(folder.path)
        stream.until(lambda latest: not latest["problem"])
        with open(folder.journal, "ab") as file:
            file.write(b"no fact\n")
        latest = stream.until(lambda latest: latest["problem"])
        assert "bring the journal back from a copy" in latest["problem"]
        shutil.rmtree(folder.path)
        stream.until(lambda latest: "is not there any more" in latest["problem"])
        stream.close()


def test_a_folder_may_be_served_before_its_first_run(tmp_path: Path, made: list[Fact]) -> None:
    """As an application does that mounts the pages before it launches the run."""
    with served(tmp_path / "later" / "r") as server:
        assert server.ask("/", **BEARER)[0] == 200
        stream = server.events("/events")
        assert stream.until(lambda latest: True)["runs"] == []
        (tmp_path / "later").mkdir()
        write(tmp_path / "later" / "r", settings(population=10, generations=3), made[:40])
        stream.until(lambda latest: [run.get("state") for run in latest["runs"]] == ["interrupted"])
        assert server.ask("/", **BEARER)[1]["location"] == "runs/r/"
        assert server.ask("/runs/r/", **BEARER)[0] == 200
        stream.close()


def test_all_runs_are_listed_and_new_ones_appear(runs: Path, made: list[Fact]) -> None:
    with served(runs) as server:
        stream = server.events("/events")
        latest = stream.until(lambda latest: all("state" in run for run in latest["runs"]))
        assert [(run["run"], run["state"]) for run in latest["runs"]] == [("done", "finished"), ("half", "interrupted")]
        assert (latest["runs"][0]["members"], latest["runs"][0]["of"]) == (30, 30)
        assert latest["runs"][0]["score"] == pytest.approx(
            RunReader(RunFolder(runs / "done")).engine.best.score, rel=1e-6
        )
        (runs / "half" / "journal.jsonl").write_text("damaged\n")
        write(runs / "another", settings(population=10, generations=3), made[:40])
        with going_on(RunFolder(runs / "another")) as journal:
            latest = stream.until(lambda latest: "running" in [run.get("state") for run in latest["runs"]])
            assert [run["run"] for run in latest["runs"]] == ["another", "done", "half"]
            before = latest["runs"][0]["members"]
            for fact in made[40:100]:
                journal.append(fact)
            stream.until(lambda latest: latest["runs"][0]["members"] > before)
        latest = stream.until(lambda latest: latest["runs"][2]["state"] == "damaged")
        assert "not as it was written" in latest["runs"][2]["error"]
        shutil.rmtree(runs / "another")
        stream.until(lambda latest: [run["run"] for run in latest["runs"]] == ["done", "half"])
        stream.close()


def test_a_browser_that_does_not_read_delays_no_other(runs: Path, made: list[Fact]) -> None:
    folder = RunFolder(runs / "half")
    with served(runs) as server, going_on(folder) as journal:
        asleep = socket.socket()
        asleep.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        asleep.connect(("127.0.0.1", server.port))
        request = f"GET /runs/half/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
        asleep.sendall(request.encode())
        stream = server.events("/runs/half/events")
        for fact in made[len(made) // 2 :]:
            journal.append(fact)
        stream.until(lambda latest: latest["run"]["told"] == made[-1].t)
        stream.close()
        asleep.close()


def test_the_pages_can_be_mounted_in_an_application(runs: Path) -> None:
    made = web_server.app(runs, token=TOKEN)
    outer = Starlette(routes=[Mount("/train/gpbt", made)])
    outer.state.pages = made.state.pages
    server = Server(outer)
    try:
        status, headers, text = server.ask(f"/train/gpbt/?token={TOKEN}")
        assert status == 200
        assert "Path=/train/gpbt;" in headers["set-cookie"]
        assert 'src="assets/core.js"' in text
        cookie = headers["set-cookie"].partition(";")[0]
        assert server.ask("/train/gpbt/runs/done/", Cookie=cookie)[0] == 200
        assert server.ask("/train/gpbt/assets/core.js")[0] == 401
        stream = server.events("/train/gpbt/runs/done/events")
        assert stream.until(lambda latest: True)["run"]["state"] == "finished"
        stream.close()
    finally:
        server.close()


# ---- what can be steered


@pytest.mark.slow
def test_a_real_run_is_paused_goes_on_and_is_stopped(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "r"
    (tmp_path / "hold").touch()
    run = start("launch", SCRIPTS / "sturdy.py", "--name", "r", "--slots", 2, cwd=tmp_path)
    address = ""
    server = start("serve", cwd=tmp_path)
    try:
        until(lambda: len(facts(folder, "Entered")) == 2)
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        port, token = int(address.split(":")[2].partition("/")[0]), address.partition("token=")[2]
        assert address.startswith("http://127.0.0.1:")

        def post(word: str) -> tuple[int, Any]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("POST", f"/runs/r/{word}", headers={"Authorization": f"Bearer {token}"})
            with contextlib.closing(connection), connection.getresponse() as answer:
                return answer.status, json.loads(answer.read())

        assert post("pause") == (200, {"asked": "pause"})
        until(lambda: facts(folder, "Paused"))
        (tmp_path / "hold").unlink()
        until(lambda: len(facts(folder, "Published")) == 2)
        assert len(facts(folder, "Started")) == 2
        (tmp_path / "hold").touch()
        assert post("go-on")[0] == 200
        until(lambda: len(facts(folder, "Entered")) == 4)
        assert post("explode") == (
            409,
            {"error": "'explode' is no command: stop, pause, go-on, drain, drain-now, return"},
        )
        assert "uses no GPU" in post("drain?gpu=0")[1]["error"]
        assert post("stop")[0] == 200
        run.communicate(timeout=60)
        assert run.returncode == 130
        nowhere = cli("serve", "--runs", tmp_path / "nonexist", cwd=tmp_path)
        assert nowhere.status == 2
        assert "/nonexist: there is no such folder" in nowhere.err
        taken = cli("serve", "--port", port, cwd=tmp_path)
        assert taken.status == 2
        assert f"--port {port}: address already in use; give another" in taken.err
        server.send_signal(signal.SIGINT)
        out, err = server.communicate(timeout=60)
        assert (server.returncode, out) == (0, "")
        assert "until Ctrl-C, which does not affect the runs" in err
        assert token not in err
    finally:
        for process in (run, server):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()


@pytest.mark.slow
def test_a_gpu_is_drained_and_returned(machine: Callable[..., Machine]) -> None:
    played = machine(A, population=4, generations=1)
    played.say("hold")
    played.begin()
    folder = played.folder / "runs" / "r"
    until(lambda: len(facts(folder, "Entered")) == 1)
    with served(folder) as server:
        stream = server.events("/runs/r/events")
        rows = stream.until(lambda latest: latest["now"]["gpus"] and latest["now"]["gpus"][0]["members"])["now"]["gpus"]
        assert (rows[0]["uuid"], rows[0]["members"], rows[0]["state"]) == (A, [0], "in use")
        assert server.ask(f"/runs/r/drain?gpu={A}", "POST", **BEARER)[0] == 200
        stream.until(lambda latest: latest["now"]["gpus"] and latest["now"]["gpus"][0]["state"] == "drained")
        assert server.ask(f"/runs/r/return?gpu={A}", "POST", **BEARER)[0] == 200
        stream.until(lambda latest: latest["now"]["gpus"] and latest["now"]["gpus"][0]["state"] == "in use")
        for wrong in ("GPU-nonesuch", "", "x%0astop"):
            status, _, text = server.ask(f"/runs/r/drain?gpu={wrong}", "POST", **BEARER)
            assert status == 409
            assert "r uses no GPU" in text
        stream.close()
