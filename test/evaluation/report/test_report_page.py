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
  const seconds = (id) => {
    const place = document.getElementById(id), line = place.querySelector(".cursor").getBoundingClientRect();
    const axis = place._fullLayout.xaxis;
    return Math.round(100 * axis.p2l(line.left - place.getBoundingClientRect().left - axis._offset)) / 100;
  };
  const lines = ["e0-joint-gripper", "e0-bounded", "e0-scale", "e0-risk", "e0-tau", "e0-sem"].map(seconds);
  const episode = document.querySelector("details.episode");
  const press = (key) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  episode.scrollIntoView();
  press("Home"); press("ArrowRight"); press(".");
  const keyed = label();
  document.querySelector(".shots select").value = "0.25";
  press(" ");
  await new Promise((done) => setTimeout(done, 1000));
  press(" ");
  const played = parseFloat(label());
  document.querySelector(".frames img").click();
  const enlarged = document.getElementById("large").open;
  document.getElementById("large").close();
  const saved = [];
  HTMLAnchorElement.prototype.click = function () { saved.push([this.download, decodeURIComponent(this.href)]); };
  for (const exported of document.querySelectorAll(".scroll + .export")[0].children) exported.click();
  const contents = [...document.querySelectorAll("#contents a")].map((a) => document.querySelector(a.hash) !== null);
  const unexplained = [...document.querySelectorAll("abbr")].filter((a) => !a.dataset.why).length;
  parent.postMessage(JSON.stringify({
    hovered, lines, keyed, played, enlarged, saved, contents, unexplained,
    charts: document.querySelectorAll(".card .export").length,
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
    after_s = float(seen["hovered"]["after"].removesuffix(" s"))
    assert after_s == pytest.approx(100 / 30, abs=0.02), "tick 100 of 30 a second, or the command nearest to it"
    assert seen["wide"] == []
    assert seen["scroll"] <= seen["client"]
    assert seen["first"].startswith("UNTRAINED MODEL")
    assert (luminance(seen["back"]) < 0.5) is dark
    assert contrast(seen["text"], seen["back"]) > 7.0


def test_one_clock_moves_everything_and_tables_leave_the_page(page, tmp_path):
    seen = visit(page, tmp_path, width_px=1280, dark=False)
    assert seen["lines"] == pytest.approx([3.33] * 6, abs=0.02), "the pointer moves the line in every figure"
    assert seen["keyed"] == "0.13 s", "a tenth of a second, then a tick"
    assert seen["played"] > 0.13, "it plays"
    assert seen["enlarged"]
    assert len(seen["contents"]) >= 4
    assert all(seen["contents"])
    assert seen["unexplained"] == 0
    assert seen["charts"] == int(seen["plots"])
    (csv_name, csv), (tex_name, tex) = seen["saved"]
    assert (csv_name, tex_name) == ("table-1.csv", "table-1.tex")
    assert csv.split(",", 1)[1].splitlines()[1].startswith("mse_vec (next step),")
    assert r"mse\_vec (next step) &" in tex
    assert r"\begin{tabular}" in tex


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    channels = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
