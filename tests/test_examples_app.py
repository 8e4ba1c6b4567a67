"""The example of a web application: a real server, spoken to over HTTP, and what is left when it ends."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from harness import LONG, alive, facts, run_id
from run_checker import check_run

if TYPE_CHECKING:
    from collections.abc import Iterator

APP = Path(__file__).parent.parent / "examples" / "app.py"
#: a run that ends only when it is stopped
LONG_RUN = {"experiment": "tour", "slots": 1, "population": 4, "generations": 1000}

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")


class Server:
    """The application in a process of its own, on a port that was free."""

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self.process = subprocess.Popen(
            [sys.executable, APP, "--port", "0", "--runs", runs],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        answer = self.process.stdout.readline()
        address, _, token = answer.strip().removeprefix("APP=http://").partition(" TOKEN=")
        self.host, _, port = address.partition(":")
        self.port = int(port)
        self.headers = dict([token.strip("'").split(": ", 1)])
        self.streams: list[Stream] = []

    def ask(self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None) -> Any:
        """(status, JSON) of one request."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=LONG)
        try:
            text = json.dumps(body) if body is not None else None
            connection.request(method, path, text, self.headers if headers is None else headers)
            answer = connection.getresponse()
            text = answer.read().decode()
            return answer.status, json.loads(text) if text else None
        finally:
            connection.close()

    def start(self, body: object) -> str:
        status, answer = self.ask("POST", "/runs", body)
        assert status == 201, answer
        return str(answer["run"])

    def events(self, run: str) -> Stream:
        self.streams.append(Stream(self, run))
        return self.streams[-1]

    def close(self) -> None:
        """Whatever has become of it."""
        for stream in self.streams:
            stream.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def end(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Its exit status and what it had to complain of."""
        self.process.send_signal(how)
        _, err = self.process.communicate(timeout=LONG)
        return self.process.returncode, err


class Stream:
    """A run's events, as they come."""

    def __init__(self, server: Server, run: str) -> None:
        self.connection = http.client.HTTPConnection(server.host, server.port, timeout=LONG)
        self.connection.request("GET", f"/runs/{run}/events", headers=server.headers)
        self.answer = self.connection.getresponse()
        assert self.answer.status == 200
        assert self.answer.headers.get_content_type() == "text/event-stream"
        name, state = next(iter(self))
        assert (name, state["run"], state["state"]) == ("State", run, "running")

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        event = ""
        while line := self.answer.readline().decode():
            field, _, value = line.strip().partition(": ")
            if field == "event":
                event = value
            elif field == "data":
                yield event, json.loads(value)

    def close(self) -> None:
        self.answer.close()
        self.connection.close()

    def until(self, kind: str) -> Any:
        """The next fact of this kind."""
        for name, fact in self:
            if name == kind:
                assert fact["fact"] == kind
                return fact
        raise AssertionError(f"it ended without {kind}")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "runs")
    try:
        yield made
    finally:
        made.close()


@pytest.mark.slow
def test_a_run_is_started_watched_cancelled_and_resumed(server: Server) -> None:
    name = server.start(LONG_RUN)
    assert name == "embed-1"
    folder = server.runs / name
    events = server.events(name)
    first = events.until("Published")["member"]
    assert server.ask("GET", f"/runs/{name}")[1]["state"] == "running", "events come while it trains"
    assert alive(run_id(folder))

    status, answer = server.ask("DELETE", f"/runs/{name}")
    assert (status, answer["state"]) == (200, "interrupted")
    assert alive(run_id(folder)) == [], "answered when its members are gone"
    assert events.until("Closed")["how"] == "interrupted"
    assert list(events) == []
    assert server.ask("DELETE", f"/runs/{name}") == (200, answer), "as well when it has ended"
    assert server.ask("GET", f"/runs/{name}/events")[0] == 204

    status, resumed = server.ask("POST", f"/runs/{name}/resume")
    assert (status, resumed["state"]) == (200, "running")
    assert server.ask("POST", f"/runs/{name}/resume")[0] == 200, "twice does no harm"
    events = server.events(name)
    assert events.until("Published")["member"] > first, "it went on"
    status, answer = server.ask("DELETE", f"/runs/{name}")
    best = min((f for f in facts(folder, "Trained")), key=lambda f: f["score"])
    assert (answer["score"], answer["best_member"]) == (best["score"], best["member"])
    assert len(facts(folder, "Opened")) == 2
    assert server.end() == (-signal.SIGTERM, "")


@pytest.mark.slow
def test_ctrl_c_shows_no_traceback_and_frees_the_port(server: Server) -> None:
    assert server.ask("GET", "/runs") == (200, {"runs": []})
    assert server.end(signal.SIGINT) == (0, "")
    refused = subprocess.run([sys.executable, APP, "--port", "99999"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "--port 99999: must be from 0 to 65535" in refused.stderr


def test_a_client_that_goes_away_does_not_hurt_its_run(server: Server) -> None:
    name = server.start({"experiment": "tour", "slots": 1, "population": 3, "generations": 2, "seed": 7})
    leaving, staying = server.events(name), server.events(name)
    leaving.until("Started")
    leaving.close()
    assert staying.until("Closed")["how"] == "finished"
    assert list(staying) == []
    assert server.ask("GET", f"/runs/{name}")[1]["state"] == "finished"
    assert server.end() == (-signal.SIGTERM, "")
    assert check_run(server.runs / name) == []


@pytest.mark.slow
def test_runs_beside_each_other_end_with_the_application(server: Server) -> None:
    names = [server.start(LONG_RUN) for _ in range(2)]
    streams = [server.events(name) for name in names]
    for stream in streams:
        stream.until("Entered")
    answer = server.ask("GET", "/runs")[1]["runs"]
    assert [(run["run"], run["state"]) for run in answer] == [(name, "running") for name in names]
    assert all(alive(run_id(server.runs / name)) for name in names)
    assert server.end() == (-signal.SIGTERM, "")
    for name, stream in zip(names, streams, strict=True):
        assert alive(run_id(server.runs / name)) == []
        assert stream.until("Closed")["how"] == "interrupted"
    again = Server(server.runs)
    try:
        assert {run["state"] for run in again.ask("GET", "/runs")[1]["runs"]} == {"interrupted"}
        assert again.ask("POST", f"/runs/{names[0]}/resume")[1]["state"] == "running"
        assert again.end() == (-signal.SIGTERM, "")
    finally:
        again.close()
    assert alive(run_id(server.runs / names[0])) == []


def test_bad_requests_are_refused(server: Server) -> None:
    assert server.host == "127.0.0.1"
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": "Bearer ü"}):
        status, answer = server.ask("GET", "/runs", headers=headers)
        assert (status, answer) == (401, {"error": "send the header Authorization: Bearer TOKEN"})
    for body, said in (
        (None, "give a JSON object with an experiment of tour, valley"),
        ([1], "give a JSON object with an experiment of tour, valley"),
        ({"experiment": "../embed.py"}, "give a JSON object with an experiment of tour, valley"),
        ({"experiment": ["tour"]}, "give a JSON object with an experiment of tour, valley"),
        ({"experiment": "tour", "disk": "1KiB"}, "'disk' is none of slots, generations, population, seed"),
    ):
        assert server.ask("POST", "/runs", body) == (400, {"error": said})
    status, answer = server.ask("POST", "/runs", {"experiment": "tour", "slots": "many"})
    assert (status, answer) == (409, {"error": "slots='many': must be a whole number of at least 1"})
    for path in ("/runs/nonesuch", "/runs/%2e%2e", "/runs/nonesuch/events"):
        assert server.ask("GET", path)[0] == 404
    assert server.ask("POST", "/runs/nonesuch/resume") == (404, {"error": "no run 'nonesuch'"})
    assert server.ask("GET", "/runs") == (200, {"runs": []}), "nothing was begun"
    assert server.end() == (-signal.SIGTERM, "")
