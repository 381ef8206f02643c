# SPDX-License-Identifier: Apache-2.0
"""Chromium without a screen, driven over its DevTools socket: opens a page, runs script in it, takes its picture."""

import asyncio
import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0")
START_S = 60.0


class Tab:
    """One page; each call waits for the browser's answer."""

    def __init__(self, loop: asyncio.AbstractEventLoop, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._loop, self._socket, self._calls = loop, socket, 0
        self.errors: list[str] = []
        """What the page's console has had to complain about."""

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._calls += 1
        return self._loop.run_until_complete(self._call(self._calls, method, parameters))

    async def _call(self, number: int, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            answer = json.loads((await asyncio.wait_for(self._socket.receive(), START_S)).data)
            if answer.get("method") == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(answer["params"]["exceptionDetails"])[:500])
            if answer.get("id") == number:
                assert "error" not in answer, answer["error"]
                return dict(answer["result"])

    def open(self, url: str, *, width_px: int = 1280, height_px: int = 900, dark: bool = False) -> None:
        screen = {"width": width_px, "height": height_px, "deviceScaleFactor": 1, "mobile": width_px < 500}
        self.call("Emulation.setDeviceMetricsOverride", **screen)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, script: str, timeout_s: float = 30.0) -> Any:
        """Waits for an expression to become true."""
        end_s = time.monotonic() + timeout_s
        while not (value := self.run(script)):
            assert time.monotonic() < end_s, f"{script} did not become true: {self.run('document.body?.innerText')}"
        return value

    def click(self, selector: str) -> None:
        """With the mouse, where the element is on the screen."""
        middle = (
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect();"
            " return [b.left + b.width / 2, b.top + b.height / 2]; })()"
        )
        x, y = self.run(middle)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def picture(self, file: Path, *, quality: int = 80) -> None:
        """The page as it is now, as JPEG."""
        shot = self.call("Page.captureScreenshot", format="jpeg", quality=quality)
        file.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def chromium(folder: Path) -> Iterator[Tab]:
    """A browser with one empty page; ended in every case."""
    assert CHROMIUM is not None
    profile = folder / "profile"
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    loop = asyncio.new_event_loop()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        session, socket = loop.run_until_complete(_connected(profile / "DevToolsActivePort"))
        tab = Tab(loop, socket)
        for part in ("Page", "Runtime"):
            tab.call(f"{part}.enable")
        yield tab
        loop.run_until_complete(session.close())
    finally:
        process.terminate()
        process.wait(30)
        loop.close()


async def _connected(port_file: Path) -> tuple[aiohttp.ClientSession, aiohttp.ClientWebSocketResponse]:
    end_s = time.monotonic() + START_S
    while not (port_file.is_file() and port_file.read_text()):
        assert time.monotonic() < end_s, "Chromium did not start"
        await asyncio.sleep(0.05)
    port = port_file.read_text().split()[0]
    session = aiohttp.ClientSession()
    async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
        pages = [entry for entry in await answer.json() if entry["type"] == "page"]
    return session, await session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0)
