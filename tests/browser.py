"""A headless Chromium over its debugging pipe (Chrome DevTools Protocol): no driver, no port, no network.

Messages are JSON objects that end in a null byte; the browser reads them from file descriptor 3 and answers on 4.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars --remote-debugging-pipe"
).split()
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 60.0  # seconds for one answer, on a machine with other work


class Page:
    """One tab. `complaints`: errors and warnings of the console, exceptions, and whatever the page asked the network for."""

    def __init__(self, to: int, back: int):
        self._to, self._back, self._last, self._unread = to, back, 0, b""
        self.complaints: list[str] = []
        self._events: list[dict[str, Any]] = []
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = None
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")

    def open(self, path: Path) -> None:
        self._events.clear()
        self._ask("Page.navigate", url=path.resolve().as_uri())
        until = time.monotonic() + PATIENCE
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._read(until)

    def look(self, width: int, *, dark: bool = False, paper: bool = False) -> None:
        """As on a screen of `width` pixels."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self._ask("Emulation.setDeviceMetricsOverride", **size)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._ask("Emulation.setEmulatedMedia", media="print" if paper else "", features=features)

    def run(self, code: str) -> Any:
        """The value of an expression of JavaScript, by the debugger: the page's policy does not bind it."""
        answer = self._ask("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        code = {"Tab": 9, "ArrowRight": 39, "ArrowUp": 38, "Enter": 13}[key]
        for kind in ("rawKeyDown", "keyUp"):
            self._ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)
        if key == "Enter":
            self._ask("Input.dispatchKeyEvent", type="char", key=key, text="\r")

    def move(self, x: float, y: float) -> None:
        self._ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def picture(self, path: Path) -> None:
        found = self._ask("Page.captureScreenshot", captureBeyondViewport=True, clip={
            "x": 0, "y": 0, "width": self.run("innerWidth"), "height": self.run("document.documentElement.scrollHeight"), "scale": 1
        })  # fmt: skip
        path.write_bytes(base64.b64decode(found["data"]))

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if getattr(self, "_session", None):
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + PATIENCE
        while True:
            answer = self._read(until)
            if answer.get("id") == self._last:
                assert "error" not in answer, answer
                return answer["result"]

    def _read(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._back], [], [], max(0.0, until - time.monotonic()))
            assert ready, "Chromium does not answer"
            more = os.read(self._back, 1 << 20)
            assert more, "Chromium has ended"
            self._unread += more
        line, _, self._unread = self._unread.partition(b"\0")
        message = json.loads(line)
        if "method" in message:
            self._events.append(message)
            self._note(message["method"], message["params"])
        return message

    def _note(self, method: str, found: dict[str, Any]) -> None:
        if method == "Runtime.consoleAPICalled":
            self.complaints.append(f"console.{found['type']}: {found['args']}")
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(f"exception: {found['exceptionDetails']}")
        elif method == "Log.entryAdded":
            self.complaints.append(f"{found['entry']['level']}: {found['entry']['text']}")
        elif method == "Page.javascriptDialogOpening":
            self.complaints.append(f"dialog: {found['message']}")
        elif method == "Network.requestWillBeSent" and not found["request"]["url"].startswith(
            ("file:", "about:", "data:")
        ):
            self.complaints.append(f"network: {found['request']['url']}")


def _pipe() -> tuple[int, int]:
    """Both ends above the descriptors that the browser's ends are put on."""
    ends = os.pipe()
    moved = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return moved[0], moved[1]


@contextmanager
def browser() -> Iterator[Page]:
    """A browser with an empty profile, ended with everything it started."""
    assert CHROMIUM is not None
    (to_read, to_write), (back_read, back_write) = _pipe(), _pipe()
    with tempfile.TemporaryDirectory(prefix="lipcert-browser-", ignore_cleanup_errors=True) as profile:
        # the shell puts the pipes where Chromium looks for them
        line = f'exec "$@" 3<&{to_read} 4>&{back_write} {to_read}<&- {back_write}>&-'
        process = subprocess.Popen(
            ["bash", "-c", line, "chromium", CHROMIUM, *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(to_read, back_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(to_read)
        os.close(back_write)
        try:
            yield Page(to_write, back_read)
        finally:
            os.close(to_write)  # Chromium ends where its pipe ends
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(back_read)
