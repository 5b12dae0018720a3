"""Debian's Chromium without a window, driven over its DevTools pipe: pages are loaded, tapped and photographed."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest


class Browser:
    """One page in one browser: `evaluate` runs JavaScript in it and returns the value."""

    def __init__(self, profile: Path) -> None:
        program = shutil.which("chromium")
        if program is None:
            pytest.skip("no chromium here: apt-get install chromium")
        own_read, their_write = os.pipe()
        their_read, own_write = os.pipe()
        # The browser reads commands from descriptor 3 and writes answers to 4; bash puts the pipes there.
        options = "--headless=new --no-sandbox --disable-gpu --remote-debugging-pipe"
        shell = f'exec {program} {options} --user-data-dir="$1" 3<&{their_read} 4>&{their_write}'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", str(profile)],
            pass_fds=(their_read, their_write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(their_read)
        os.close(their_write)
        self._read, self._write = os.fdopen(own_read, "rb"), os.fdopen(own_write, "wb")
        self._count, self._pending = 0, b""
        self.failures: list[str] = []  # what the page's scripts threw
        target = self._send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._send("Runtime.enable")
        self._send("Page.enable")

    _session: str | None = None

    def close(self) -> None:
        """End the browser."""
        self._write.close()  # it exits when its pipe ends
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._read.close()

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._pending:
            part = os.read(self._read.fileno(), 1 << 16)
            assert part, "the browser ended"
            self._pending += part
        text, _, self._pending = self._pending.partition(b"\0")
        message = json.loads(text)
        if message.get("method") == "Runtime.exceptionThrown":
            self.failures.append(json.dumps(message["params"]))
        return message

    def _send(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._write.write(json.dumps(message).encode() + b"\0")
        self._write.flush()
        while True:
            answer = self._message()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, page: Path, width: int, height: int) -> None:
        """Load a file on a screen of this size, without network."""
        self._send("Network.enable")
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        self._send("Network.emulateNetworkConditions", **offline)
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._send("Emulation.setDeviceMetricsOverride", **screen)
        self._send("Page.navigate", url=page.resolve().as_uri())
        while self.evaluate("document.readyState") != "complete":
            pass

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self._send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def tap(self, selector: str) -> None:
        """Scroll to the element and press the mouse on its middle."""
        self.evaluate(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center'}})")
        box = self.evaluate(f"document.querySelector({selector!r}).getBoundingClientRect().toJSON()")
        at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2, "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self._send("Input.dispatchMouseEvent", type=kind, **at)

    def screenshot(self) -> bytes:
        """What the screen shows, as PNG."""
        return base64.b64decode(self._send("Page.captureScreenshot", format="png")["data"])
