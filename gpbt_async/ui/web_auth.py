"""Access to the live pages: ASGI middleware in front of all of them.

These barriers keep others out; all of them must hold:

* The server listens at 127.0.0.1, which other machines cannot reach. Every user of this machine can, and every page
  that a browser shows.
* A token, which other users do not know: first in the printed address, then in a cookie that requests from other sites
  do not carry (SameSite=Strict) and scripts cannot read (HttpOnly). Cookies do not depend on the port: the browser also
  sends it to other servers at 127.0.0.1.
* The Host header must be a name of the loopback interface, or a name given by the application, so a site whose name
  resolves to this machine (DNS rebinding) is refused. There are no CORS headers, so no other site's script can read a
  response.
* Controlling a run (stop, pause, GPUs) is a POST with a second secret, which only the page itself holds.
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


#: host names of the server, if the application gives no others
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
    """Refuses requests without the token, or for another host name."""

    def __init__(self, app: ASGIApp, token: str, hosts: Sequence[str]) -> None:
        self._app, self._token, self._hosts = app, token, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.requests import HTTPConnection
        from starlette.responses import PlainTextResponse

        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return
        request = HTTPConnection(scope)
        refusal = self._refusal(request)
        set_cookie = ""
        if not refusal and _same(request.query_params.get("token", ""), self._token):
            path = scope.get("root_path", "") or "/"
            secure = "; Secure" if request.url.scheme == "https" else ""
            set_cookie = f"{_cookie(request)}={self._token}; Path={path}; HttpOnly; SameSite=Strict{secure}"

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name for name, _ in message["headers"]}
                more = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in names]
                if set_cookie:
                    more.append((b"set-cookie", set_cookie.encode()))
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        if refusal:
            status, text = refusal
            await PlainTextResponse(text + "\n", status)(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)

    def _refusal(self, request: HTTPConnection) -> tuple[int, str] | None:
        """Status and reason of a refusal; None if the request is allowed."""
        host, method = request.headers.get("host", ""), request.scope["method"]
        if _name(host) not in self._hosts:
            return 403, f"Host {host!r:.200} is not served here: use {self._hosts[0]}, or localhost"
        if method not in ("GET", "HEAD", "POST"):
            return 405, f"{method:.20} is not served here"
        kind, _, bearer = request.headers.get("authorization", "").partition(" ")
        bearer = bearer if kind.lower() == "bearer" else ""
        tokens = (bearer, request.query_params.get("token", ""), request.cookies.get(_cookie(request), ""))
        if not any([_same(token, self._token) for token in tokens]):
            return 401, "the token is missing or wrong: open the address that `gpbt-async serve` has printed"
        if method == "POST":
            origin, key = request.headers.get("origin"), request.headers.get("x-gpbt-steer", "")
            if origin is not None and urlsplit(origin).netloc != host:
                return 403, f"a page of {origin!r:.200} may not control runs"
            if not _same(bearer, self._token) and not _same(key, steer_key(self._token)):
                return 403, "this page comes from another server: load it again"
        return None


def _same(given: str, wanted: str) -> bool:
    """Compare in a time that does not show how much was right."""
    return hmac.compare_digest(given.encode(errors="replace"), wanted.encode())


def steer_key(token: str) -> str:
    """The secret that a page sends with a POST, in addition to the cookie."""
    return hmac.new(token.encode(), b"steer", hashlib.sha256).hexdigest()


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0].lower()


def _cookie(request: HTTPConnection) -> str:
    """The cookie's name, by port, as there may be servers at several."""
    return f"gpbt-{request.url.port or 0}"
