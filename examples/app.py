"""A web application that trains: runs are started, watched, cancelled and resumed over HTTP, in its own event loop.

    pip install 'gpbt-async[web]'
    python examples/app.py                                               # prints its address and a token
    curl -H "$TOKEN" -d '{"experiment": "tour", "slots": 1}' $APP/runs   # start a run; several may run at a time
    curl -H "$TOKEN" -N $APP/runs/embed-1/events                         # its facts as they happen
    curl -H "$TOKEN" -X DELETE $APP/runs/embed-1                         # cancel it; answers when it is gone
    curl -H "$TOKEN" -X POST $APP/runs/embed-1/resume                    # go on
    curl -H "$TOKEN" $APP/runs/embed-1                                   # its state; $APP/runs: that of all runs

Starlette; FastAPI, which is made of it, would have the same routes. A run is a task of the loop and belongs to no
request: it goes on when a client leaves. When the application ends, every run is stopped, can be resumed, and has left
no process. Cancelling the task is all that this needs.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import secrets
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

import gpbt_async as gpbt
from gpbt_async.codec import to_json

log = logging.getLogger("app")
HERE = Path(__file__).parent
#: experiments that may be started: clients give one of these names, and never a path
EXPERIMENTS = {"tour": HERE / "embed.py", "valley": HERE / "valley.py"}
#: settings that clients may change
CHANGES = {"population", "generations", "seed"}
#: seconds between two signs of life on a stream with no news
BEAT = 10.0


class Trainer:
    """The runs of this application that go on, each a task."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.going: dict[str, tuple[gpbt.Run, asyncio.Task[None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # also of runs that are just beginning

    async def start(self, run: gpbt.Run) -> str:
        """Begin a run; returns its name. Raises gpbt.GPBTError if it cannot begin."""
        begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._train(run, begun))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.wait([begun, task], return_when=asyncio.FIRST_COMPLETED)
        if not begun.done():
            await task  # raises the error that prevented the beginning
        return run.name

    async def _train(self, run: gpbt.Run, begun: "asyncio.Future[None]") -> None:
        try:
            async with run:
                task = asyncio.current_task()
                assert task is not None
                self.going[run.name] = run, task
                begun.set_result(None)
                await run.wait()
        except gpbt.GPBTError as error:
            if not begun.done():
                raise
            log.warning("%s: %s", run.name, error)
        finally:
            if begun.done():
                del self.going[run.name]

    async def cancel(self, name: str) -> None:
        """End a run that can be resumed, and wait until its members are gone."""
        _, task = self.going[name]
        await self._end({task})

    async def close(self) -> None:
        await self._end(self._tasks)

    async def _end(self, tasks: set[asyncio.Task[None]]) -> None:
        for task in tasks:
            if not task.cancelling():  # a second time would mean: without grace
                task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def names(self) -> list[str]:
        return sorted(path.parent.name for path in self.folder.glob("*/experiment.json"))

    def state(self, name: str) -> dict[str, Any]:
        """The state of a run: of a run that goes on from the Run, of another from its summary.json."""
        if name in self.going:
            run, _ = self.going[name]
            return {"run": name, "state": run.how or "running", **short(run.summary())}
        with contextlib.suppress(FileNotFoundError):  # a run that was killed has not written one
            summary = json.loads((self.folder / name / "summary.json").read_text())
            return {"run": name, "state": summary["how"], **short(summary)}
        return {"run": name, "state": "interrupted"}


def short(summary: dict[str, Any]) -> dict[str, Any]:
    return {key: summary[key] for key in ("metric", "mode", "score", "best_member", "members", "generations", "wall_s")}


# ---- requests


async def index(request: Request) -> Response:
    trainer: Trainer = request.app.state.trainer
    return JSONResponse({"runs": [trainer.state(name) for name in trainer.names()]})


async def start(request: Request) -> Response:
    trainer: Trainer = request.app.state.trainer
    try:
        wanted = dict(await request.json())
        script, slots = EXPERIMENTS[wanted.pop("experiment")], wanted.pop("slots", None)
    except (ValueError, TypeError, KeyError):
        raise HTTPException(400, f"give a JSON object with an experiment of {', '.join(EXPERIMENTS)}") from None
    if strange := set(wanted) - CHANGES:
        raise HTTPException(400, f"{min(strange)!r} is none of slots, {', '.join(sorted(CHANGES))}")
    name = await trainer.start(gpbt.Run(script, runs=trainer.folder, slots=slots, changes=wanted))
    return JSONResponse({"run": name}, 201, headers={"Location": f"/runs/{name}"})


def known(request: Request) -> tuple[Trainer, str]:
    trainer: Trainer = request.app.state.trainer
    name = request.path_params["run"]
    if name not in trainer.names():  # so no path leads out of the folder
        raise HTTPException(404, f"no run {name!r:.100}")
    return trainer, name


async def show(request: Request) -> Response:
    trainer, name = known(request)
    return JSONResponse(trainer.state(name))


async def cancel(request: Request) -> Response:
    trainer, name = known(request)
    if name in trainer.going:  # it may have ended already, which is fine
        await trainer.cancel(name)
    return JSONResponse(trainer.state(name))


async def resume(request: Request) -> Response:
    trainer, name = known(request)
    if name not in trainer.going:
        await trainer.start(gpbt.Run(None, trainer.folder / name, resume="must"))
    return JSONResponse(trainer.state(name))


async def events(request: Request) -> Response:
    trainer, name = known(request)
    if name not in trainer.going:
        return Response(status_code=204)  # nothing happens in it; an EventSource does not reconnect
    run, _ = trainer.going[name]
    return StreamingResponse(
        stream(trainer, run), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


async def stream(trainer: Trainer, run: gpbt.Run) -> AsyncIterator[str]:
    """The run's state, and then every fact. A slow reader misses some, and gets a Missed: the run does not wait."""
    facts = aiter(run)
    yield sent("State", trainer.state(run.name))
    while True:
        try:
            async with asyncio.timeout(BEAT):
                fact = await anext(facts, None)
        except TimeoutError:
            yield ": no news\n\n"  # a client that has gone is noticed when something is sent to it
            continue
        if fact is None:
            return
        yield sent(type(fact).__name__, to_json(fact))


def sent(event: str, data: dict[str, Any]) -> str:
    return f"event: {event}\ndata: {json.dumps(data, allow_nan=False)}\n\n"


# ---- the application


def refused(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(getattr(error, "detail", error))}, getattr(error, "status_code", 409))


class Token:
    """Refuses requests without the token, which other users of this machine and pages in a browser do not know."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.expected = app, f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.app
        if scope["type"] == "http":
            given = Headers(scope=scope).get("authorization", "").encode()
            if not secrets.compare_digest(given, self.expected):
                app = JSONResponse({"error": "send the header Authorization: Bearer TOKEN"}, 401)
        await app(scope, receive, send)


def application(folder: Path, token: str) -> Starlette:
    trainer = Trainer(folder)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await trainer.close()

    app = Starlette(
        routes=[
            Route("/runs", index),
            Route("/runs", start, methods=["POST"]),
            Route("/runs/{run}", show),
            Route("/runs/{run}", cancel, methods=["DELETE"]),
            Route("/runs/{run}/resume", resume, methods=["POST"]),
            Route("/runs/{run}/events", events),
        ],
        middleware=[Middleware(Token, token=token)],
        exception_handlers={gpbt.GPBTError: refused, HTTPException: refused},
        lifespan=lifespan,
    )
    app.state.trainer = trainer
    return app


class Server(uvicorn.Server):
    """Ends the runs first: a server waits for its streams, and they for the runs, before it ends the application."""

    def handle_exit(self, *args: Any) -> None:
        trainer: Trainer = self.config.app.state.trainer  # type: ignore[union-attr]
        asyncio.run_coroutine_threadsafe(trainer.close(), asyncio.get_running_loop())
        super().handle_exit(*args)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train over HTTP.")
    parser.add_argument("--port", type=int, default=8000, help="0: a free one")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    args = parser.parse_args()
    if not 0 <= args.port <= 65535:
        parser.error(f"--port {args.port}: must be from 0 to 65535")
    token = os.environ.get("APP_TOKEN") or secrets.token_urlsafe()
    with socket.create_server(("127.0.0.1", args.port)) as listening:
        host, port = listening.getsockname()
        print(f"APP=http://{host}:{port} TOKEN='Authorization: Bearer {token}'", flush=True)
        with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C: the server has ended in order
            Server(uvicorn.Config(application(args.runs, token), log_level="warning")).run(sockets=[listening])


if __name__ == "__main__":
    main()
