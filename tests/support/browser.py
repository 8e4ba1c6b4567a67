"""Chromium, driven by tests and benchmarks through a pipe; nothing is installed for it, and nothing listens."""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

#: seconds after which a browser that says nothing is taken for dead
LONG = 60.0
#: the codes of keys that are no characters
KEYS = {
    "Tab": 9, "Enter": 13, "Escape": 27, "PageUp": 33, "PageDown": 34, "Home": 36,
    "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40,
}  # fmt: skip


def found() -> str | None:
    """A browser's program, if there is one."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """Chromium without a window, spoken to through a pipe (the DevTools protocol)."""

    def __init__(self, program: str, profile: Path) -> None:
        ours, theirs = os.pipe(), os.pipe()
        self._write, self._read = ours[1], theirs[0]
        # the browser reads from its descriptor 3 and writes to its 4
        shell = f'exec "$0" "$@" 3<&{ours[0]} 4>&{theirs[1]}'
        options = [
            "--headless",
            "--no-sandbox",
            "--remote-debugging-pipe",
            "--enable-unsafe-swiftshader",
            f"--user-data-dir={profile}",
        ]
        self.process = subprocess.Popen(
            ["bash", "-c", shell, program, *options, "--hide-scrollbars", "about:blank"],
            pass_fds=(ours[0], theirs[1]), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(ours[0])
        os.close(theirs[1])
        self._ids, self._rest, self.events = itertools.count(1), b"", []
        self.session: str | None = None
        self._target: str | None = None

    def call(self, method: str, **params: Any) -> Any:
        id = next(self._ids)
        message = {
            "id": id,
            "method": method,
            "params": params,
            **({"sessionId": self.session} if self.session else {}),
        }
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == id:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def _next(self) -> Any:
        while b"\0" not in self._rest:
            if not select.select([self._read], [], [], LONG)[0]:
                raise RuntimeError(f"the browser has said nothing for {LONG:g} s")
            data = os.read(self._read, 1 << 20)
            if not data:
                raise RuntimeError("the browser is gone")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\0")
        return json.loads(line)

    def page(self, width: int = 1440, height: int = 900, scheme: str = "light") -> None:
        self.session, left = None, self._target
        self._target = target = self.call("Target.createTarget", url="about:blank")["targetId"]
        if left is not None:
            self.call("Target.closeTarget", targetId=left)
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def until(self, expression: str) -> Any:
        """The first true value of an expression."""
        deadline = time.monotonic() + LONG
        while not (value := self.do(expression)):
            if time.monotonic() > deadline:
                raise RuntimeError(f"it never came to {expression}; errors: {self.errors()}")
            select.select([], [], [], 0.01)  # leave the core to the browser
        return value

    def press(self, key: str, code: int = 0) -> None:
        """A key, as from a keyboard: a character, or a name such as Enter with its code."""
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        shared = {"key": key, "windowsVirtualKeyCode": code or KEYS.get(key, 0)}
        self.call("Input.dispatchKeyEvent", type="keyDown", **shared, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **shared)

    def do(self, expression: str) -> Any:
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"])
        return result["result"].get("value")

    def errors(self) -> list[str]:
        errors = []
        for event in self.events:
            if event.get("method") == "Runtime.exceptionThrown":
                errors.append(event["params"]["exceptionDetails"]["exception"].get("description", "?"))
            elif event.get("method") == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
                errors.append(event["params"]["entry"]["text"])
        return errors

    def shoot(self, path: Path, whole: bool = True) -> None:
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **self._clip(whole))
        path.write_bytes(base64.b64decode(shot["data"]))

    def _clip(self, whole: bool) -> dict[str, Any]:
        if not whole:
            return {}
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}

    def close(self) -> None:
        os.close(self._write)
        os.close(self._read)
        self.process.terminate()
        self.process.wait()
