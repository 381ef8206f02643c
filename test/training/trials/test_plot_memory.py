# SPDX-License-Identifier: Apache-2.0
"""The picture says what the runs say."""

from pathlib import Path

from test_pooled import choices

from training.trials.plot_memory import draw


def test_the_picture_has_every_arm_with_its_counts(tmp_path: Path) -> None:
    rows = [{"pictures": 1.0, "memory": 1.0}, {"pictures": 0.5, "memory": 1.0}]
    runs = {"Sigma": [choices("++t-"), choices("++++")], "twin's memory": [choices("ttt-")] * 2}
    draw({"readout": {"with foresight": rows, "without": rows}, "runs": runs}, tmp_path / "memory.svg")
    text = (tmp_path / "memory.svg").read_text(encoding="utf-8")
    for part in ("Sigma", "twin's memory", ">6/7<", ">1/7<", ">0/6<", ">6/6<"):
        assert part in text, part
