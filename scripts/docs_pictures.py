# SPDX-License-Identifier: Apache-2.0
"""`make docs-pictures`: every picture of the docs anew, from the shipped model: report, summary, film, trials, panel.

Needs Chromium. Not made here: `study.svg`, which is of a study of hours (`make study`), and `timeline.svg`,
a drawing.
"""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "test" / "support" / "live"))
from browser import chromium  # noqa: E402

IMAGES, OUT = ROOT / "docs" / "images", ROOT / "out" / "pictures"
MOVING_S, TRIES = 4.0, 300
SEED, BAGS, WIDTH_PX, HEIGHT_PX, JPEG = 7, 6, 1280, 2600, 82

SHOTS = {
    "summary.jpg": ("evaluation/summary.html", "[...document.querySelectorAll('main > *')].slice(0, 10)"),
    "score_errors.jpg": ("report/report.html", "part('errors').slice(0, 2)"),
    "score_motion.jpg": ("report/report.html", "[first('.legend'), first('.shots'), ...cards('.joint', 2)]"),
    "score_timeline.jpg": ("report/report.html", "[...cards('[id$=-scale]', 1), ...cards('[id$=-risk]', 1)]"),
    "score_worst.jpg": ("report/report.html", "[...document.querySelectorAll('.strip')].slice(0, 2)"),
    "score_adapter.jpg": ("report/report.html", "part('adapter-and-telepathy').slice(0, 1)"),
    "score_checks.jpg": ("report/report.html", "part('adapter-and-telepathy').slice(1, 2)"),
    "score_latency.jpg": ("report/report.html", "part('late-chunks')"),
    "sim.jpg": ("sim/sim.html", "[first('table.scores'), ...cards('[id^=map-]', 2)]"),
}
"""Picture -> page below `OUT`, and which of its elements are kept."""

KEEP = """
<script>
(async () => {
  const root = document.documentElement;
  while (root.dataset.plots === undefined) await new Promise((done) => setTimeout(done, 50));
  const part = (id) => {
    const found = [];
    for (let e = document.getElementById(id).nextElementSibling; e && e.tagName !== "H2"; e = e.nextElementSibling)
      if (!e.matches("p, .export")) found.push(e);
    return found;
  };
  const first = (selector) => document.querySelector(selector);
  const cards = (plots, count) =>
    [...document.querySelectorAll(`.plot${plots}`)].slice(0, count).map((e) => e.closest(".card"));
  const kept = KEPT;
  for (const e of document.querySelectorAll("main *, nav, .warning"))
    if (!kept.some((k) => k.contains(e) || e.contains(k))) e.style.display = "none";
  for (const e of kept) Object.assign(e.style, { position: "static", marginTop: "8px" });
})();
</script>
"""


def command(*words: object) -> list[str]:
    """A command of ours."""
    return [sys.executable, "-m", "sigma_ros.cli.main", *map(str, words)]


def sigma(*words: object) -> None:
    """Runs a command of ours; a recording with losses (3) is one of what is shown."""
    done = subprocess.run(command(*words), cwd=ROOT, check=False)
    if done.returncode not in (0, 3):
        sys.exit(f"error: sigma {words[0]} left with {done.returncode}")


def shoot(page: Path, kept: str, picture: Path) -> None:
    """A page with only `kept` shown, as a JPEG without empty rows below."""
    text = page.read_text(encoding="utf-8").replace("</body>", KEEP.replace("KEPT", kept) + "</body>")
    part, raw = page.with_name("part.html"), OUT / "raw.png"
    part.write_text(text, encoding="utf-8")
    browser = shutil.which("chromium") or shutil.which("google-chrome") or sys.exit("error: no Chromium is installed")
    options = "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars"
    size = f"--window-size={WIDTH_PX},{HEIGHT_PX}"
    command = [browser, *options.split(), size, "--virtual-time-budget=30000", f"--screenshot={raw}", part.as_uri()]
    subprocess.run(command, check=True, capture_output=True)
    pixels = cv2.imread(str(raw))
    assert pixels is not None
    used = np.flatnonzero((pixels != pixels[-1, -1]).any(axis=(1, 2)))
    if len(used) < 40:
        sys.exit(f"error: {picture.name} would be empty")
    cv2.imwrite(str(picture), pixels[: used[-1] + 16], [cv2.IMWRITE_JPEG_QUALITY, JPEG])


def panel() -> None:
    """The panel while the shipped model drives the simulated arm, on a screen and on a phone."""
    words = ("run", "--sim", "--panel", "--no-browser", "--log", OUT / "run")
    page, live = "http://127.0.0.1:8700/", "document.documentElement?.dataset.live"
    runs = "document.getElementById('state')?.textContent === 'RUN'"
    with subprocess.Popen(command(*words), cwd=OUT, stdin=subprocess.DEVNULL) as running, chromium(OUT) as tab:
        run = partial(_until, lambda: tab.run(runs), lambda: tab.click("[data-order=engage]"))
        try:
            _until(lambda: tab.run(live), lambda: tab.open(page, width_px=1280, height_px=1000))
            run()  # engaging is refused until all has started
            time.sleep(MOVING_S)
            run()  # a small machine holds the arm now and then
            tab.run("scrollTo(0, 0)")
            tab.picture(IMAGES / "panel.jpg", quality=JPEG)
            tab.open(page, width_px=390, height_px=844)
            tab.until(f"{live} && document.images[0].naturalWidth > 0")
            run()
            tab.run("scrollTo(0, 0)")
            tab.picture(IMAGES / "panel_phone.jpg", quality=JPEG)
        finally:
            running.send_signal(signal.SIGINT)


def _until(done: Callable[[], object], act: Callable[[], object]) -> None:
    for _ in range(TRIES):
        if done():
            return
        act()
        time.sleep(1.0)
    sys.exit("error: the arm does not come to move")


def record() -> None:
    """Recordings of the target set-up, and one that lost its end."""
    bags = OUT / "bags"
    sigma("record", "--sim", "--episodes", BAGS, "--seed", SEED, "--out", bags)
    broken = bags / "episode_broken"
    broken.mkdir()
    whole = next((bags / "episode_000000").glob("*.mcap"))
    (broken / "episode_broken.mcap").write_bytes(whole.read_bytes()[:4096])


def main() -> None:
    """Makes all of them."""
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    record()
    first = ("--bag", OUT / "bags/episode_000000", "--checkpoint", "mini", "--out", OUT / "report")
    sigma("replay", *first, "--latency", "0,100,100~30,300")
    sigma("evaluate", OUT / "bags", "--checkpoint", "mini", "--out", OUT / "evaluation", "--workers", 0)
    sigma("sim", "--episodes", 6, "--seed", SEED, "--time-limit-s", 9, "--out", OUT / "sim")
    shutil.copy(OUT / "sim" / "film.gif", IMAGES / "demo.gif")
    for name, (page, kept) in SHOTS.items():
        shoot(OUT / page, kept, IMAGES / name)
    panel()
    subprocess.run([sys.executable, "bench/plot_stitching.py"], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
