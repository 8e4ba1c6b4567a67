"""The public name of the ASGI application: `from gpbt_async.serve import app` (extra `web`)."""

from .ui.web_server import app as app

__all__ = ["app"]
