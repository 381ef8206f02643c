# SPDX-License-Identifier: Apache-2.0
"""The page's web server, on a thread of its own: the page, its pictures, what it shows ten times a second, its orders.

Whoever may open the page may move the arm. So it listens on this machine alone and takes orders from its own page only
(`Origin`, `Host`); at any other address it also wants a token, which the start prints. STOP is a plain request that
waits for nothing the page shows or loads.
"""

import asyncio
import hmac
import ipaddress
import json
import os
import secrets
import sys
import threading
import webbrowser
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web

from sigma_ros.errors import MachineError, SigmaError

PAGE = Path(__file__).with_name("page.html")
VIEW_PERIOD_S = 0.1
START_S = 10.0
_COOKIE = "sigma_token"
_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")


class Backend(Protocol):
    """What the server needs of the node; called in the server's thread."""

    def view(self) -> dict[str, Any]:
        """What the page shows now."""

    def picture(self, camera: str) -> bytes | None:
        """The newest picture of a camera as JPEG; None before the first, or if there is no such camera."""

    async def act(self, order: str, value: Any) -> str:
        """Gives an order and says what was answered.

        Raises:
            SigmaError: it was refused, or nobody answers.
        """

    def emergency_stop(self) -> None:
        """Sends the emergency stop and waits for nothing.

        Raises:
            SigmaError: no supervisor is known.
        """


def open_in_browser(url: str) -> bool:
    """Shows the page on this machine's display; False where there is none. Waits for no browser."""
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False  # only a browser for terminals could come, into the terminal that drives the arm
    threading.Thread(target=webbrowser.open, args=(url,), name="browser", daemon=True).start()
    return True


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Serves from the moment it is made until `close`.

    Args:
        port: TCP port; 0: any that is free.

    Raises:
        MachineError: the address cannot be listened at.
    """

    def __init__(self, backend: Backend, host: str, port: int) -> None:
        self._backend = backend
        self._host, self._port = host, port
        self.token = "" if is_loopback(host) else secrets.token_urlsafe(16)
        self._loop = asyncio.new_event_loop()
        self._up = threading.Event()
        self._failure: OSError | None = None
        self._thread = threading.Thread(target=self._serve, name="panel", daemon=True)
        self._thread.start()
        if not self._up.wait(START_S) or self._failure is not None:
            raise MachineError(
                "the panel cannot listen", where=f"{host}:{port}", got=self._failure, remedy="give another --port"
            )

    @property
    def url(self) -> str:
        """Where the page is, with its token if it needs one."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}/" + (f"?token={self.token}" if self.token else "")

    def close(self) -> None:
        """Ends it."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_S)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._listen())
        except OSError as error:
            self._failure = error
            return
        finally:
            self._up.set()
        self._loop.run_forever()

    async def _listen(self) -> None:
        app = web.Application(middlewares=[self._guard], client_max_size=4096)
        app.add_routes(
            [
                web.get("/", self._page),
                web.get("/live", self._live),
                web.get("/camera/{name}", self._camera),
                web.post("/stop", self._stop),
                web.post("/order/{name}", self._order),
            ]
        )
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, self._host, self._port)
        await site.start()
        self._port = runner.addresses[0][1]

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Lets in the page itself alone: no other site in the user's browser, nobody without the token."""
        given = request.query.get("token") or request.cookies.get(_COOKIE, "")
        if self.token and not hmac.compare_digest(given.encode(), self.token.encode()):
            raise web.HTTPForbidden(text="the address with its token is what sigma panel printed")
        if not self.token and request.host.rpartition(":")[0] not in _LOCAL_NAMES:
            raise web.HTTPForbidden(text="not this machine's own name")
        origin = request.headers.get("Origin")
        if origin not in (None, f"http://{request.host}"):
            raise web.HTTPForbidden(text="orders are taken from the panel's own page alone")
        return await handler(request)

    async def _page(self, _request: web.Request) -> web.StreamResponse:
        response = web.Response(text=PAGE.read_text(encoding="utf-8"), content_type="text/html")
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Frame-Options"] = "SAMEORIGIN"
        if self.token:
            response.set_cookie(_COOKIE, self.token, httponly=True, samesite="Strict")
        return response

    async def _live(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(heartbeat=5.0)
        await socket.prepare(request)
        with suppress(ConnectionResetError):  # the page has gone
            while not socket.closed:
                await socket.send_str(json.dumps(self._backend.view(), allow_nan=False))
                await asyncio.sleep(VIEW_PERIOD_S)
        return socket

    async def _camera(self, request: web.Request) -> web.StreamResponse:
        jpeg = await asyncio.to_thread(self._backend.picture, request.match_info["name"])
        if jpeg is None:
            raise web.HTTPNotFound(text="no picture yet")
        return web.Response(body=jpeg, content_type="image/jpeg", headers={"Cache-Control": "no-store"})

    async def _stop(self, _request: web.Request) -> web.StreamResponse:
        try:
            self._backend.emergency_stop()
        except SigmaError as error:
            return _refused(error)
        return web.json_response({"said": "stop sent"})

    async def _order(self, request: web.Request) -> web.StreamResponse:
        try:
            value = json.loads(await request.text() or "null")
            said = await self._backend.act(request.match_info["name"], value)
        except (SigmaError, ValueError) as error:
            return _refused(error)
        return web.json_response({"said": said})


def _refused(error: Exception) -> web.Response:
    return web.json_response({"said": str(error)}, status=409)


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own, which nobody else reaches."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
