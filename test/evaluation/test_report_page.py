# SPDX-License-Identifier: Apache-2.0
"""The report in a real browser: no console errors, every plot drawn, nothing wider than the screen, light and dark.

Chromium runs headless without a network. It cannot make a window narrower than 500 px, so the page stands in
a frame of the wanted width and tells its parent what it measures.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from synthetic import synthetic_log

from sigma_ros.evaluation.report.write import write_report
from sigma_ros.evaluation.scoring.score import score

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt-get install chromium)"),
]

PROBE = """
<script>
(async () => {
  const root = document.documentElement;
  for (let i = 0; i < 400 && root.dataset.plots === undefined; i++) await new Promise((done) => setTimeout(done, 50));
  const own = (e) => !e.closest(".scroll, .js-plotly-plot, details:not([open])");
  const wide = [...document.querySelectorAll("main *")]
    .filter((e) => own(e) && e.getBoundingClientRect().right > root.clientWidth + 1)
    .map((e) => e.tagName + "." + e.className);
  const plots = [...document.querySelectorAll(".js-plotly-plot")];
  const curves = plots.map((plot) => [plot.id, plot.querySelectorAll(".plot path").length]);
  const label = () => document.querySelector(".shots output").textContent;
  const before = label();
  const plot = document.getElementById("e0-joint-elbow_flex"), drag = plot.querySelector(".nsewdrag");
  const box = drag.getBoundingClientRect(), at = plot._fullLayout.xaxis.l2p(100 / 30);
  drag.dispatchEvent(new MouseEvent("mousemove", { clientX: box.left + at, clientY: box.top + 50, bubbles: true }));
  await new Promise((done) => setTimeout(done, 200));
  const hovered = { before, after: label(), picture: document.querySelector(".shots img").src.slice(0, 22) };
  parent.postMessage(JSON.stringify({
    hovered,
    plots: root.dataset.plots, wide, curves, scroll: root.scrollWidth, client: root.clientWidth,
    text: getComputedStyle(document.body).color, back: getComputedStyle(document.body).backgroundColor,
    first: document.body.innerText.trim().split("\\n")[0],
    images: [...document.images].every((image) => image.complete && image.naturalWidth > 0),
  }), "*");
})();
</script>
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    logs = [synthetic_log(seed=seed, name=f"episode_{seed:06d}", trained=False) for seed in range(2)]
    path = write_report(logs, score(*logs), folder, conditions={"command": "sigma replay --bag recording"}).page
    probed = folder / "probed.html"
    probed.write_text(path.read_text().replace("</body>", PROBE + "</body>"))
    return probed


def visit(page: Path, folder: Path, *, width_px: int, dark: bool) -> dict:
    """Loads the page in a frame and gives its measurements, plus whatever the console said."""
    outer = folder / "outer.html"
    outer.write_text(
        f"<!doctype html><iframe src='{page.as_uri()}' style='width:{width_px}px;height:900px;border:0'></iframe>"
        "<script>onmessage = (event) => { document.documentElement.dataset.found = event.data; };</script>"
    )
    command = [
        str(CHROMIUM),
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={folder / 'profile'}",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--window-size=1400,1000",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        "--virtual-time-budget=30000",
        "--enable-logging=stderr",
        "--dump-dom",
        outer.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    found = re.search(r'data-found="([^"]*)"', done.stdout)
    assert found, f"the page told nothing: {done.stderr[-2000:]}"
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return {**json.loads(found.group(1).replace("&quot;", '"').replace("&amp;", "&")), "console": console}


@pytest.mark.parametrize("width_px", [1280, 390])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_draws_everything_and_fits(page, tmp_path, width_px, dark):
    seen = visit(page, tmp_path, width_px=width_px, dark=dark)
    assert seen["console"] == []
    assert int(seen["plots"]) == 17, "6 summary figures; 6 joints, a strip and 4 timelines of the open recording"
    assert all(paths > 0 for _, paths in seen["curves"])
    assert seen["images"]
    assert (seen["hovered"]["before"], seen["hovered"]["picture"]) == ("0.00 s", "data:image/jpeg;base64")
    assert seen["hovered"]["after"] == "3.33 s", "the picture nearest to tick 100 of 30 a second"
    assert seen["wide"] == []
    assert seen["scroll"] <= seen["client"]
    assert seen["first"].startswith("UNTRAINED MODEL")
    assert (luminance(seen["back"]) < 0.5) is dark
    assert contrast(seen["text"], seen["back"]) > 7.0


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    channels = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
