# SPDX-License-Identifier: Apache-2.0
"""How an episode ended, and the page of a run: every episode in one kind, and the numbers of sim.json on the page."""

import base64
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from sigma_ros.sim.trial_report import ENDINGS, FILM, _maps, document, ending, page, write, write_page
from sigma_ros.sim.trials import AT_BOX, DROPPED, IN_HAND, Result, trials

GOOD = Result(
    arm="sigma", latency_ms=0.0, seed=1, success=True, held=True, duration_s=6.0, jerk_rms=300.0, path_rad=5.0,
    clipped_share=0.1, off_path_share=0.1, scale_mean=0.9, violations=0, refused_chunks=0, holds=0, stops=0,
    inference_ms=100.0, ended="success",
)  # fmt: skip
FAILED = replace(GOOD, success=False, ended="RUN: OK", lost=DROPPED)
CONDITIONS = {"setup": "<b>target</b>", "checkpoint": "mini", "trained": True}
STARTS = {1: (0.25, -0.05), 2: (0.3, 0.1)}


def content(*results: Result):
    return document(CONDITIONS, results, trials(("base", "sigma"), (0.0,)), starts=STARTS)


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        (GOOD, "success"),
        (FAILED, DROPPED),
        (replace(FAILED, lost=AT_BOX), AT_BOX),
        (replace(FAILED, lost=IN_HAND), IN_HAND),
        (replace(FAILED, lost=""), "placed nothing"),
        (replace(FAILED, held=False), "never grasped"),
        (replace(FAILED, held=False, ended="HOLD: CONTACT"), "held or stopped"),
        (replace(FAILED, ended="ESTOP: ESTOP_PRESSED"), "held or stopped"),
    ],
)
def test_every_episode_ends_in_one_way(result: Result, kind: str) -> None:
    assert ending(asdict(result)) == kind
    assert kind in ENDINGS


def test_the_page_is_a_report_and_asks_nobody() -> None:
    shown = page(content(GOOD, replace(FAILED, seed=2)))
    assert "1/2 = 50%" in shown
    assert "<b>target</b>" not in shown
    assert "default-src &#39;none&#39;" in shown or "default-src 'none'" in shown
    assert 'data-figure="endings"' in shown
    assert "<img" not in shown


def test_every_episode_is_a_dot_on_the_map_of_its_arm_where_its_brick_lay() -> None:
    made = content(GOOD, replace(FAILED, seed=2), replace(FAILED, arm="base", held=False))
    maps = _maps(made)
    dots = {
        (name, trace["name"]): list(zip(trace["x"], trace["y"], strict=True))
        for name, drawn in maps.items()
        for trace in drawn["data"]  # type: ignore[attr-defined]
    }
    assert dots == {
        ("sigma, 0 ms", "success"): [(0.05, 0.25)],
        ("sigma, 0 ms", DROPPED): [(-0.1, 0.3)],
        ("base, 0 ms", "never grasped"): [(0.05, 0.25)],
    }


def test_the_page_shows_the_film_that_lies_beside_it(tmp_path: Path) -> None:
    write(tmp_path, content(GOOD))
    assert "<img" not in (tmp_path / "sim.html").read_text(encoding="utf-8")
    (tmp_path / FILM).write_bytes(b"GIF89a")
    write_page(tmp_path)
    shown = (tmp_path / "sim.html").read_text(encoding="utf-8")
    assert f"data:image/gif;base64,{base64.b64encode(b'GIF89a').decode()}" in shown


def test_a_run_without_episodes_has_a_page_too() -> None:
    assert "0 episodes" in page(document(CONDITIONS, [], (), starts={}))
