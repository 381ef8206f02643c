# SPDX-License-Identifier: Apache-2.0
"""The page's server: STOP waits for nothing, only the panel's own page gives orders, others need the token."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sigma_ros.errors import MachineError, SigmaError
from sigma_ros.nodes.panel.server import Server, is_loopback


class Backend:
    """Notes what is asked; `hangs` makes everything but STOP wait."""

    def __init__(self) -> None:
        self.acts: list[tuple[str, Any]] = []
        self.stops = 0
        self.hangs = threading.Event()
        self.free = threading.Event()
        self.refusal: SigmaError | None = None

    def view(self) -> dict[str, Any]:
        return {"state": "RUN"}

    def picture(self, camera: str) -> bytes | None:
        if self.hangs.is_set():
            self.free.wait(30)
        return b"jpeg" if camera == "up" else None

    async def act(self, order: str, value: Any) -> str:
        if self.hangs.is_set():
            await asyncio.sleep(3600)
        if self.refusal is not None:
            raise self.refusal
        self.acts.append((order, value))
        return "done"

    def emergency_stop(self) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.stops += 1


@pytest.fixture
def served() -> Iterator[tuple[Backend, Server]]:
    backend = Backend()
    server = Server(backend, "127.0.0.1", 0)
    yield backend, server
    backend.free.set()
    server.close()


def browse(act: Callable[[aiohttp.ClientSession], Awaitable[Any]]) -> Any:
    async def visit() -> Any:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(20)) as session:
            return await act(session)

    return asyncio.run(visit())


def post(url: str, body: str = "null", **headers: str) -> tuple[int, str]:
    async def send(session: aiohttp.ClientSession) -> tuple[int, str]:
        async with session.post(url, data=body, headers=headers) as answer:
            return answer.status, await answer.text()

    return browse(send)


def get(url: str, **headers: str) -> tuple[int, bytes]:
    async def ask(session: aiohttp.ClientSession) -> tuple[int, bytes]:
        async with session.get(url, headers=headers) as answer:
            return answer.status, await answer.read()

    return browse(ask)


def test_the_page_its_pictures_and_its_orders(served: tuple[Backend, Server]) -> None:
    backend, server = served
    assert b"STOP" in get(server.url)[1]
    assert get(server.url + "camera/up") == (200, b"jpeg")
    assert get(server.url + "camera/front")[0] == 404
    assert post(server.url + "order/scale", "0.5") == (200, '{"said": "done"}')
    assert backend.acts == [("scale", 0.5)]


def test_stop_is_sent_while_everything_else_hangs(served: tuple[Backend, Server]) -> None:
    backend, server = served
    backend.hangs.set()

    async def press(session: aiohttp.ClientSession) -> int:
        waiting = [asyncio.ensure_future(session.get(server.url + "camera/up")) for _ in range(20)]
        waiting += [asyncio.ensure_future(session.post(server.url + "order/engage", data="null")) for _ in range(20)]
        await asyncio.sleep(0)
        async with aiohttp.ClientSession() as other, other.post(server.url + "stop") as answer:
            status = answer.status
        for task in waiting:
            assert not task.done()
            task.cancel()
        return status

    assert browse(press) == 200
    assert backend.stops == 1


def test_stop_is_a_form_that_needs_no_script(served: tuple[Backend, Server]) -> None:
    page = get(served[1].url)[1].decode()
    assert '<form id="stop" method="post" action="stop"' in page
    origin = served[1].url.rstrip("/")
    assert post(served[1].url + "stop", "", Origin=origin)[0] == 200


def test_a_refusal_comes_back_in_words_and_bad_orders_as_one(served: tuple[Backend, Server]) -> None:
    backend, server = served
    backend.refusal = SigmaError("nobody answers", where="/sigma_supervisor/engage")
    for path in ("order/engage", "stop"):
        status, text = post(server.url + path)
        assert status == 409
        assert "nobody answers" in json.loads(text)["said"]
    assert post(server.url + "order/scale", "not json")[0] == 409
    assert post(server.url + "order/task", json.dumps("x" * 9999))[0] == 413


@pytest.mark.parametrize("path", ["order/engage", "stop"])
def test_no_other_site_in_the_users_browser_gives_orders(served: tuple[Backend, Server], path: str) -> None:
    backend, server = served
    port = server.url.rstrip("/").rpartition(":")[2]
    for headers in ({"Origin": "https://example.org"}, {"Host": f"evil.example:{port}"}, {"Origin": "null"}):
        assert post(server.url + path, **headers)[0] == 403
    assert get(server.url, Host=f"evil.example:{port}")[0] == 403, "nor by a name that leads here"
    assert backend.acts == []
    assert backend.stops == 0


def test_what_the_page_shows_comes_again_and_again(served: tuple[Backend, Server]) -> None:
    async def listen(session: aiohttp.ClientSession) -> list[Any]:
        async with session.ws_connect(served[1].url + "live") as live:
            return [json.loads((await live.receive()).data) for _ in range(3)]

    assert browse(listen) == [{"state": "RUN"}] * 3


def test_beyond_this_machine_the_token_opens_and_nothing_else() -> None:
    backend = Backend()
    server = Server(backend, "0.0.0.0", 0)
    try:
        address, _, token = server.url.replace("0.0.0.0", "127.0.0.1").partition("?token=")
        assert len(token) >= 20
        for url in (address, f"{address}order/engage", f"{address}stop"):
            assert get(url)[0] == 403
            assert post(url)[0] == 403
            assert post(f"{url}?token=wrong")[0] == 403

        async def visit(session: aiohttp.ClientSession) -> int:
            session._cookie_jar = aiohttp.CookieJar(unsafe=True)  # aiohttp keeps none of a bare address otherwise
            async with session.get(f"{address}?token={token}") as page:
                assert page.status == 200
                assert "httponly" in page.headers["Set-Cookie"].lower()
            async with session.post(f"{address}order/engage", data="null") as answer:
                return answer.status

        assert browse(visit) == 200
        assert backend.acts == [("engage", None)]
    finally:
        server.close()


def test_a_port_in_use_is_one_clear_error() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(MachineError, match="the panel cannot listen"):
            Server(Backend(), "127.0.0.1", other.getsockname()[1])


@pytest.mark.parametrize(
    ("host", "own"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False), ("robot", False)],
)
def test_which_addresses_are_this_machines_own(host: str, own: bool) -> None:
    assert is_loopback(host) is own


OPEN = "import sys, threading; from sigma_ros.nodes.panel.server import open_in_browser as show; \
print(show(sys.argv[1])); [t.join(60) for t in threading.enumerate() if t.name == 'browser']"


@pytest.mark.parametrize("display", [True, False])
def test_the_page_opens_where_there_is_a_display_and_only_there(display: bool, tmp_path: Path) -> None:
    """The user's own browser is asked, by the address with its token; in a bare terminal nothing may take it over."""
    browser, seen = tmp_path / "browser", tmp_path / "seen"
    browser.write_text(f'#!/bin/sh\necho "$1" > {seen}\n', encoding="utf-8")
    browser.chmod(0o755)
    environment = {n: v for n, v in os.environ.items() if n not in ("DISPLAY", "WAYLAND_DISPLAY")}
    environment |= {"BROWSER": f"{browser} %s"} | ({"DISPLAY": ":7"} if display else {})
    words = [sys.executable, "-c", OPEN, "http://127.0.0.1:8700/?token=x"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == str(display)
    assert seen.exists() == display
    if display:
        assert seen.read_text(encoding="utf-8").strip() == words[-1]
