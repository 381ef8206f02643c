# SPDX-License-Identifier: Apache-2.0
"""How an episode ended, and the page of a run: every episode in one kind, and the numbers of sim.json on the page."""

from dataclasses import asdict, replace

import pytest

from sigma_ros.sim.trial_report import ENDINGS, document, ending, page
from sigma_ros.sim.trials import Result, trials

GOOD = Result(
    arm="sigma", latency_ms=0.0, seed=1, success=True, held=True, duration_s=6.0, jerk_rms=300.0, path_rad=5.0,
    clipped_share=0.1, off_path_share=0.1, scale_mean=0.9, violations=0, refused_chunks=0, holds=0, stops=0,
    inference_ms=100.0, ended="success",
)  # fmt: skip
FAILED = replace(GOOD, success=False, ended="RUN: OK")


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        (GOOD, "success"),
        (FAILED, "placed nothing"),
        (replace(FAILED, held=False), "never grasped"),
        (replace(FAILED, held=False, ended="HOLD: CONTACT"), "held or stopped"),
        (replace(FAILED, ended="ESTOP: ESTOP_PRESSED"), "held or stopped"),
    ],
)
def test_every_episode_ends_in_one_way(result: Result, kind: str) -> None:
    assert ending(asdict(result)) == kind
    assert kind in ENDINGS


def test_the_page_is_a_report_and_asks_nobody() -> None:
    conditions = {"setup": "<b>target</b>", "checkpoint": "mini", "trained": True}
    results = [replace(GOOD, seed=1), replace(FAILED, seed=2)]
    shown = page(document(conditions, results, trials(("sigma",), (0.0,))))
    assert "1/2 = 50%" in shown
    assert "<b>target</b>" not in shown
    assert "default-src &#39;none&#39;" in shown or "default-src 'none'" in shown
    assert 'data-figure="endings"' in shown


def test_a_run_without_episodes_has_a_page_too() -> None:
    assert "0 episodes" in page(document({"setup": "s", "checkpoint": "mini", "trained": True}, [], ()))
