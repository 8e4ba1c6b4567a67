"""Who may look at the live pages, and steer: ASGI middleware, which stands before all of them.

What keeps others out; all of it must hold:

* The address listened at is 127.0.0.1, which other machines cannot reach, but every user of this one and every page
  that a browser shows can.
* A token, which other users do not know: in the address that is printed, then in a cookie that no other site's request
  carries (SameSite=Strict) and no script reads (HttpOnly). Cookies know no ports: another server at 127.0.0.1 that the
  same browser visits is sent it, too.
* The Host must be a name of this machine's loopback interface, or a name given by the application: a site that has its
  own name lead here (DNS rebinding) is refused. There are no CORS headers, so no other site's script reads an answer.
* What steers a run (stop, pause, GPUs) is a POST that names a second secret, which only the page itself holds.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import HTTPConnection
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


#: names under which the server may be asked for, if the application gives no others
HOSTS = ("127.0.0.1", "localhost", "::1")
POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; img-src data: blob:; "
    "font-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class TokenAuth:
    """Lets nobody through who does not know the token, or asks under another name."""

    def __init__(self, app: ASGIApp, token: str, hosts: Sequence[str]) -> None:
        self._app, self._token, self._hosts = app, token, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.requests import HTTPConnection
        from starlette.responses import PlainTextResponse

        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return
        asked = HTTPConnection(scope)
        refusal = self._refusal(asked)
        set_cookie = ""
        if not refusal and _same(asked.query_params.get("token", ""), self._token):
            path = scope.get("root_path", "") or "/"
            secure = "; Secure" if asked.url.scheme == "https" else ""
            set_cookie = f"{_cookie(asked)}={self._token}; Path={path}; HttpOnly; SameSite=Strict{secure}"

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                there = {name for name, _ in message["headers"]}
                more = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in there]
                if set_cookie:
                    more.append((b"set-cookie", set_cookie.encode()))
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        if refusal:
            status, text = refusal
            await PlainTextResponse(text + "\n", status)(scope, receive, sent)
        else:
            await self._app(scope, receive, sent)

    def _refusal(self, asked: HTTPConnection) -> tuple[int, str] | None:
        """Status and reason; None for who may come in."""
        host, method = asked.headers.get("host", ""), asked.scope["method"]
        if _name(host) not in self._hosts:
            return 403, f"Host {host!r:.200} is not served here: use {self._hosts[0]}, or localhost"
        if method not in ("GET", "HEAD", "POST"):
            return 405, f"{method:.20} is not served here"
        kind, _, bearer = asked.headers.get("authorization", "").partition(" ")
        bearer = bearer if kind.lower() == "bearer" else ""
        given = (bearer, asked.query_params.get("token", ""), asked.cookies.get(_cookie(asked), ""))
        if not any([_same(each, self._token) for each in given]):
            return 401, "the token is missing or wrong: open the address that `gpbt-async serve` has printed"
        if method == "POST":
            origin = asked.headers.get("origin")
            if origin is not None and urlsplit(origin).netloc != host:
                return 403, f"a page of {origin!r:.200} may not steer runs"
            if not _same(bearer, self._token) and not _same(
                asked.headers.get("x-gpbt-steer", ""), steer_key(self._token)
            ):
                return 403, "the page is of another server: load it again"
        return None


def _same(given: str, wanted: str) -> bool:
    """Compared in a time that does not tell how much of it was right."""
    return hmac.compare_digest(given.encode(errors="replace"), wanted.encode())


def steer_key(token: str) -> str:
    """What the page names when it steers; a cookie alone does not say it."""
    return hmac.new(token.encode(), b"steer", hashlib.sha256).hexdigest()


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0].lower()


def _cookie(asked: HTTPConnection) -> str:
    """The cookie's name; cookies know no ports, and there may be a server at another."""
    return f"gpbt-{asked.url.port or 0}"
