"""Live pages of runs: an ASGI application on Starlette, and a server for it on the loopback interface.

The charts are the report's, drawn by the same scripts. The report's data arrive as server-sent events: whole at first,
then as patches (live.py). The server is a process of its own, or part of an application; a run does not know of it.
Server-sent events were chosen over a websocket because they are plain HTTP, in one direction, and the browser itself
reconnects; Starlette because FastAPI is made of it, so that `app` can be mounted there.

web_auth.py decides which requests are allowed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import html
import os
import secrets
import time
from functools import cache
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from .. import __version__
from ..analysis.logs import curve, log_tail
from ..analysis.report_data import LOG, POINTS
from ..errors import ExperimentError, FolderError, GPBTError, MissingExtra
from ..storage.control import GPU_REQUESTS, ControlRequest, send
from ..storage.folder import RunFolder, check_name, is_run
from ..storage.gpu_report import read_gpus
from .html_report import SCRIPTS, asset, plotly
from .live import FollowedFolder, FollowedRun, difference, page_json
from .web_auth import HOSTS, TokenAuth, steer_key

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from .live import Followed, P, PageContent


#: seconds between two signs of life on a connection without news
BEAT = 10.0
#: pages that may be open at a time; seconds until a run without an open page is no longer followed
MOST_STREAMS, IDLE = 64, 60.0
#: digits of a member's id; Python refuses to parse thousands of them
LONGEST = 18
#: commands that a POST may send to a run; those about GPUs name one
REQUESTS = {request.replace(" ", "-"): request for request in ControlRequest}
#: the page's scripts, in order; plotly comes last, as the page responds without it
RUN_SCRIPTS = (*SCRIPTS[:-1], "now.js", "stream.js", "live.js")
INDEX_SCRIPTS = ("theme.js", "core.js", "stream.js", "index.js")
ASSETS = {name: "text/javascript" for name in (*RUN_SCRIPTS, *INDEX_SCRIPTS)} | {"report.css": "text/css"}


def app(folder: os.PathLike[str] | str, token: str | None = None, hosts: Sequence[str] = HOSTS) -> Starlette:
    """The pages of one run's folder, or of all runs in a folder, as an ASGI application that can be mounted anywhere.

    folder: need not exist yet; its runs appear as they are launched. token: allows to see runs, and to stop, pause and
    drain; at least 16 characters; None = a new one, `app(...).state.token`. Open `.../?token=TOKEN` once. hosts: host
    names (without ports) of the server. A server cannot end while pages are open: close them by
    `app(...).state.pages.close()`, or set uvicorn's `timeout_graceful_shutdown`.

    Raises MissingExtra without the extra `web`, and ExperimentError for a token that is too short.
    """
    try:
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
    except ImportError:
        raise MissingExtra("serve: needs starlette, which is not installed: pip install 'gpbt-async[web]'") from None
    plotly("serve", "web")  # an error now, and not at the first page
    token = secrets.token_urlsafe(32) if token is None else token
    if len(token) < 16 or not token.isascii() or not token.isprintable() or set(token) & set(' ";,\\'):
        raise ExperimentError.of("token", token, "must have at least 16 letters, digits and signs but ';', ',', '\"'")
    pages = Pages(Path(os.path.abspath(folder)), token)
    web = Starlette(routes=pages.routes(), middleware=[Middleware(TokenAuth, token=token, hosts=tuple(hosts))])
    web.state.token, web.state.pages = token, pages
    return web


class Pages:
    """The handlers of all requests."""

    def __init__(self, path: Path, token: str) -> None:
        self._path, self._token = path, token
        self._index = FollowedFolder(path)
        self._runs: dict[str, FollowedRun] = {}
        self._streams = 0
        #: the timeouts of open pages
        self._beats: set[asyncio.Timeout] = set()
        self._closed = False

    def close(self) -> None:
        """Close all open pages: a server that ends would wait for them."""
        self._closed = True
        for beat in self._beats:
            beat.reschedule(0.0)

    def routes(self) -> list[Any]:
        from starlette.routing import Route

        return [
            Route("/", self.index),
            Route("/events", self.index_events),
            Route("/runs/{run}/", self.page),
            Route("/runs/{run}/events", self.events),
            Route("/runs/{run}/members/{member}", self.member),
            Route("/runs/{run}/{word}", self.control, methods=["POST"]),
            Route("/assets/{name}", self.asset),
        ]

    def _folder(self, request: Request) -> RunFolder:
        """The requested run. A run that was followed is found even if its folder has been deleted."""
        from starlette.exceptions import HTTPException

        name = request.path_params["run"]
        with contextlib.suppress(FolderError):
            if name in self._runs:
                return self._runs[name].folder
            place = self._path if is_run(self._path) else self._path / check_name(name)
            if place.name == name and is_run(place):
                return RunFolder(place)
        raise HTTPException(404, f"no run {name!r:.100} in {self._path}: moved, deleted, or misspelled")

    def _followed(self, folder: RunFolder) -> FollowedRun:
        for name in [n for n, run in self._runs.items() if run.asked < time.monotonic() - IDLE]:
            del self._runs[name]
        return self._runs.setdefault(folder.name, FollowedRun(folder))

    async def index(self, request: Request) -> Response:
        from starlette.responses import HTMLResponse, RedirectResponse

        if is_run(self._path):
            token = request.query_params.get("token")
            return RedirectResponse(f"runs/{quote(self._path.name)}/" + (f"?token={token}" if token else ""), 303)
        names = {"head": _head("", INDEX_SCRIPTS), "title": f"Runs in {self._path.name}"}
        return HTMLResponse(_filled("index.html", names))

    async def page(self, request: Request) -> Response:
        from starlette.responses import HTMLResponse

        folder = self._folder(request)
        head = f'<meta name="gpbt-steer" content="{steer_key(self._token)}">\n{_head("../../", RUN_SCRIPTS)}'
        back = "" if is_run(self._path) else '<a class="back" href="../../" title="All runs">‹ runs</a>'
        page = {
            "title": folder.name,
            "back": back,
            "head": head + f'\n<script defer src="../../assets/plotly-{_digest()}.js"></script>',
            "bar": asset("bar.html"),
            "now": asset("now.html"),
            "tail": "",
            "foot": f"gpbt-async {__version__}, from the run's journal. Numbers are rounded to seven digits; "
            "<code>gpbt-async export</code> has all of them.",
        }
        return HTMLResponse(_filled("report.html", page))

    async def index_events(self, request: Request) -> Response:
        return self._stream(self._index)

    async def events(self, request: Request) -> Response:
        return self._stream(self._followed(self._folder(request)))

    def _stream(self, followed: Followed[P]) -> Response:
        from starlette.responses import PlainTextResponse, StreamingResponse

        if self._streams >= MOST_STREAMS:
            return PlainTextResponse(f"{MOST_STREAMS} pages are open already: close some\n", 503)
        return StreamingResponse(self._news(followed), media_type="text/event-stream")

    async def _news(self, followed: Followed[P]) -> AsyncIterator[str]:
        """A report's data, then patches of it, each when there is news and the browser has taken the one before."""
        self._streams += 1
        try:
            yield "retry: 1000\n\n"
            sent: P | None = None
            while not self._closed:
                try:
                    async with asyncio.timeout(BEAT) as beat:
                        self._beats.add(beat)
                        latest = await followed.newer(sent)
                except TimeoutError:
                    yield ": nothing new\n\n"
                    continue
                finally:
                    self._beats.discard(beat)
                if text := await asyncio.to_thread(_event, sent, latest):
                    yield text
                sent = latest
        finally:
            self._streams -= 1

    async def member(self, request: Request) -> Response:
        """The end of a member's log, and the scores it has reported."""
        from starlette.exceptions import HTTPException
        from starlette.responses import Response

        folder, id = self._folder(request), request.path_params["member"]
        if not (id.isascii() and id.isdecimal() and len(id) <= LONGEST):
            raise HTTPException(404, f"{id!r:.100} is not a member's id")
        place = folder.member(int(id))
        followed = self._runs.get(folder.name)
        page = followed.latest if followed is not None else None
        members = len(page.data["members"]["index"]) if page is not None and page.data is not None else 0
        if int(id) >= members and not os.path.isdir(place.path):  # a waiting member has no folder yet
            raise HTTPException(404, f"{folder.name} has no member {int(id)}")
        metric = request.query_params.get("metric", "")

        def outputs() -> str:
            return page_json({"log": log_tail(place.log, LOG), "curve": curve(place.metrics, metric, POINTS)})

        return Response(await asyncio.to_thread(outputs), media_type="application/json")

    async def control(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        folder, word = self._folder(request), request.path_params["word"]
        try:
            await asyncio.to_thread(_send, folder, word, request.query_params.get("gpu", ""))
        except GPBTError as error:
            return JSONResponse({"error": str(error)}, 409)
        return JSONResponse({"asked": word})

    async def asset(self, request: Request) -> Response:
        from starlette.exceptions import HTTPException
        from starlette.responses import Response

        name = request.path_params["name"]
        if name == f"plotly-{_digest()}.js":  # megabytes, and always the same under this name
            cached = {"cache-control": "private, max-age=31536000, immutable"}
            return Response(plotly("serve", "web"), media_type="text/javascript", headers=cached)
        if name not in ASSETS:
            raise HTTPException(404, "no such asset")
        return Response(asset(name), media_type=ASSETS[name])


def _event(old: PageContent | None, new: PageContent) -> str:
    """A server-sent event; empty if nothing has changed."""
    if old is None:
        return f"event: report_data\ndata: {page_json(new.to_json())}\n\n"
    patch = difference(old.to_json(), new.to_json())
    if patch is None or (isinstance(changed := patch.get("k"), dict) and changed.keys() == {"clock"}):
        return ""
    return f"event: patch\ndata: {page_json(patch)}\n\n"


def _send(folder: RunFolder, word: str, gpu: str) -> None:
    """Send a command to the run. Raises GPBTError."""
    request = REQUESTS.get(word)
    if request is None:
        raise FolderError(f"{word!r:.100} is no command: {', '.join(REQUESTS)}")
    if request in GPU_REQUESTS:
        report = read_gpus(folder)
        if report is None or gpu not in [row.uuid for row in report.gpus]:
            raise FolderError(f"{folder.name} uses no GPU {gpu!r:.100} now")
    else:
        gpu = ""
    send(folder, request, gpu)


def _filled(template: str, names: Mapping[str, str]) -> str:
    title = html.escape(f"{names['title']} – gpbt-async")
    return Template(asset(template)).substitute({**names, "title": title})


def _head(root: str, scripts: Sequence[str]) -> str:
    """Links to a page's assets; root: the relative path to the first page."""
    lines = ['<link rel="icon" href="data:,">', f'<link rel="stylesheet" href="{root}assets/report.css">']
    # the theme must be set before anything is drawn; all other scripts wait for the page
    lines += [
        f'<script{"" if name == "theme.js" else " defer"} src="{root}assets/{name}"></script>' for name in scripts
    ]
    return "\n".join(lines)


@cache
def _digest() -> str:
    return hashlib.sha256(plotly("serve", "web").encode()).hexdigest()[:16]


# ---- the server


def serve(folder: Path, port: int, opened: Callable[[str], object]) -> None:
    """Serve the pages of `folder` at 127.0.0.1 until Ctrl-C or SIGTERM. port: 0 = a free one.

    opened: called with the address once the server listens. Raises MissingExtra, and ExperimentError if the port is
    taken.
    """
    web = app(folder)
    server = _server(web)
    with _listen(port) as listening, contextlib.suppress(KeyboardInterrupt):
        opened(f"http://127.0.0.1:{listening.getsockname()[1]}/?token={web.state.token}")
        server.run(sockets=[listening])


def _server(web: Starlette) -> uvicorn.Server:
    try:
        import uvicorn
    except ImportError:
        raise MissingExtra("serve: needs uvicorn, which is not installed: pip install 'gpbt-async[web]'") from None

    class Server(uvicorn.Server):  # type: ignore[misc,unused-ignore]  # where it is not installed
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            web.state.pages.close()
            await super().shutdown(sockets)

    # no access log: it would contain the token
    config = uvicorn.Config(
        web,
        lifespan="off",
        log_config=None,
        access_log=False,
        ws="none",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=1,
        limit_concurrency=4 * MOST_STREAMS,
    )
    return Server(config)


def _listen(port: int) -> socket.socket:
    import socket

    listening = socket.socket()
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen(128)
    except (OSError, OverflowError) as error:
        listening.close()
        why = (error.strerror or str(error)).lower() if isinstance(error, OSError) else "must be 0 to 65535"
        raise ExperimentError(f"--port {port}: {why}; give another port, or omit --port for a free one") from None
    return listening
