# SPDX-License-Identifier: Apache-2.0
"""Rates over training seeds count only what every run has, and refuse to mix conditions."""

import json
from pathlib import Path
from typing import Any

import pytest

from sigma_ros.errors import UsageError
from training.trials.pooled import main, markdown, pooled

SAME = {"setup": "target", "stitching": "crossfade", "crossfade_steps": 15, "replan_ticks": 15, "limits": {}}


def run_of(good: dict[float, str], **conditions: Any) -> dict[str, Any]:
    """A document with an episode for each letter: `+` succeeded, `-` failed."""
    episodes = [
        {"arm": "sigma", "latency_ms": latency, "seed": seed, "success": mark == "+", "held": True, "violations": 0}
        | {"duration_s": 6.0, "jerk_rms": 400.0, "clipped_share": 0.2, "scale_mean": 0.9}
        for latency, marks in good.items()
        for seed, mark in enumerate(marks)
    ]
    return {"conditions": {**SAME, "time_limit_s": 9.0, **conditions}, "episodes": episodes}


def test_each_latency_is_pooled_over_the_runs() -> None:
    zero, late = pooled([run_of({0.0: "+++-", 300.0: "+---"}), run_of({0.0: "++++", 300.0: "++--"})])
    assert zero["successes"] == [3, 4]
    assert (late["latency_ms"], late["rate"], late["grasped"]) == (300.0, 3 / 8, 8)
    assert late["low"] < late["rate"] < late["high"]


def test_runs_that_differ_among_training_seeds_have_the_wider_interval() -> None:
    [alike] = pooled([run_of({0.0: "+-" * 10})] * 3)
    [apart] = pooled([run_of({0.0: "+" * 20}), run_of({0.0: "+-" * 10}), run_of({0.0: "-" * 20})])
    assert alike["rate"] == apart["rate"] == 0.5
    assert apart["high"] - apart["low"] > 1.5 * (alike["high"] - alike["low"])


def test_a_dozen_successes_out_of_a_dozen_are_not_certainty() -> None:
    [row] = pooled([run_of({300.0: "++++"})] * 3)
    assert (row["rate"], row["high"]) == (1.0, 1.0)
    assert row["low"] == pytest.approx(0.7575, abs=1e-3)


def test_an_episode_that_one_run_lacks_at_one_latency_does_not_count() -> None:
    rows = pooled([run_of({0.0: "+++", 300.0: "++"}), run_of({0.0: "++++", 300.0: "++++"})])
    assert [row["episodes"] for row in rows] == [2, 2]


def test_other_conditions_and_nothing_in_common_are_refused() -> None:
    with pytest.raises(UsageError, match="differ in replan_ticks"):
        pooled([run_of({0.0: "+"}), run_of({0.0: "+"}, replan_ticks=8)])
    with pytest.raises(UsageError, match="no episode seed in common"):
        pooled([run_of({0.0: "+", 300.0: ""}), run_of({0.0: "", 300.0: "+"})])


def test_the_command_prints_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    for folder, marks in zip(folders, ("++-", "+++"), strict=True):
        folder.mkdir()
        (folder / "sim.json").write_text(json.dumps(run_of({0.0: marks})))
    assert main(["--runs", *map(str, folders)]) == 0
    assert "| sigma, 0 ms | 5 of 6 = 83% | 2, 3 of 3 |" in capsys.readouterr().out
    (tmp_path / "one" / "sim.json").write_text("{}")
    assert main(["--runs", *map(str, folders)]) == 2


def choices(marks: str) -> dict[str, Any]:
    """`+` chose rightly, `t` as the twin was asked, `-` not at all."""
    run = run_of({0.0: "+" * len(marks)})
    for episode, mark in zip(run["episodes"], marks, strict=True):
        episode |= {"goal": 1, "other": 0, "chosen": {"+": 1, "t": 0, "-": None}[mark], "success": mark == "+"}
    return run


def test_of_a_task_with_a_choice_only_those_that_chose_count() -> None:
    [row] = pooled([choices("++t-"), choices("+t--")])
    assert (row["chose"][0], row["right"][0], row["as_twin"][0]) == (5, 3, 2)
    assert row["right"][1] < 3 / 5 < row["right"][2]
    assert markdown([row]).splitlines()[-1].startswith("| sigma, 0 ms | 5 of 8 = 62% (")
    [nobody] = pooled([choices("----")] * 2)
    assert "| 0 of 0 | 0 of 0 |" in markdown([nobody])
    with pytest.raises(UsageError, match="differ in intervention"):
        pooled([choices("+"), choices("+") | {"conditions": {**SAME, "intervention": "swap"}}])


def test_the_table_has_a_line_for_each_row() -> None:
    assert len(markdown(pooled([run_of({0.0: "+", 300.0: "-"})])).splitlines()) == 4
