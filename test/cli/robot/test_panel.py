# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser beside a real graph: it engages, slides, stops, fits a phone; its end changes nothing."""

import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from sigma_ros.cli.processes import free_domain

if find_spec("rclpy") is None or find_spec("sigma_ros.msg") is None:
    pytest.skip("needs rclpy and the built messages: make setup, then . ./env.sh", allow_module_level=True)

from browser import CHROMIUM, Tab, chromium
from live_run import MOVING, ROOT, START_S, Watched, running, sigma
from processes import node_processes

from sigma_ros.supervisor.reasons import State

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ros,
    pytest.mark.gl,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt-get install chromium)"),
]


@contextmanager
def serving(out: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`sigma panel` beside what runs in `out`, and its address."""
    log = out / "panel.log"
    words = ("panel", "--port", "0", "--contract", str(out / "small.yaml"))
    with log.open("wb") as said:
        process = subprocess.Popen(sigma(*words), stdout=said, stderr=said, cwd=ROOT)
    try:
        end_s = time.monotonic() + 60.0
        while not (found := re.search(r"open (http://\S+)", log.read_text())):
            assert time.monotonic() < end_s, log.read_text()
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        yield process, found[1]
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(30)


def shown(tab: Tab, state: State) -> None:
    tab.until(f"document.getElementById('state').textContent === '{state.name}'")


def click_until(tab: Tab, order: str, arm: Watched, done: Callable[[], object]) -> None:
    """A click twice a second until it shows: on a stalled machine the supervisor rightly refuses for a while."""
    end_s = time.monotonic() + START_S
    while not done():
        assert time.monotonic() < end_s, arm.said()
        for word in ("reset", order) if arm.state is State.STOPPED else (order,):
            tab.click(f"[data-order={word}]")
        arm.spin(0.5)


def test_the_page_engages_slides_and_stops_and_its_death_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(free_domain()))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    with running(tmp_path) as arm, serving(tmp_path) as (panel, url), chromium(tmp_path) as tab:
        arm.until_started()
        tab.open(url)
        tab.until("document.documentElement.dataset.live")
        shown(tab, State.DISENGAGED)
        tab.until("[...document.images].filter((image) => image.naturalWidth === 64).length === 2")
        assert arm.moved_rad() < 0.02, "the arm moved before ENGAGE"

        click_until(tab, "engage", arm, lambda: arm.moved_rad() > 0.05)
        tab.run("(() => { const e = document.getElementById('scale'); e.value = 0.3; e.onchange(); })()")
        arm.until(lambda: arm.monitor.seen.supervisor.scale_ceiling <= 0.3, "the lower ceiling")

        tab.click("#stop button")
        arm.until(lambda: arm.state is State.ESTOP, "the stop", 10.0)
        shown(tab, State.ESTOP)
        click_until(tab, "reset", arm, lambda: arm.state is State.DISENGAGED)

        click_until(tab, "engage", arm, lambda: arm.state in MOVING)
        panel.kill()
        panel.wait(10)
        tab.until("!document.getElementById('lost').hidden")
        arm.spin(0.5)
        assert arm.state is not State.ESTOP, "a dead page is no emergency"
        assert subprocess.run(sigma("stop"), cwd=ROOT, check=False).returncode == 0
        arm.until(lambda: arm.state is State.ESTOP, "the stop of another user", 10.0)
        assert tab.errors == []
        arm.press("q")
        assert arm.process.wait(60) == 0
    assert node_processes(tmp_path / "log") == []


@pytest.mark.parametrize("width_px", [390, 1280])
def test_the_page_fits_its_screen_without_a_graph_and_stop_is_always_in_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width_px: int
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(free_domain()))
    (tmp_path / "small.yaml").write_text("extends: so101\nname: so101\n")
    with serving(tmp_path) as (panel, url), chromium(tmp_path) as tab:
        tab.open(url, width_px=width_px, height_px=700)
        tab.until("document.documentElement.dataset.live")
        assert tab.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        assert "no supervisor is heard" in tab.run("document.getElementById('reason').textContent")
        stop = "document.querySelector('#stop button').getBoundingClientRect()"
        for position in (0, 100_000):
            tab.run(f"scrollTo(0, {position})")
            assert tab.run(f"{stop}.bottom <= innerHeight && {stop}.height >= 60 && {stop}.width > 0.9 * innerWidth")
        tab.click("#stop button")
        tab.until("document.getElementById('said').textContent.includes('nobody answers')")
        assert tab.errors == []
        panel.send_signal(signal.SIGINT)
        assert panel.wait(30) == 0
