# SPDX-License-Identifier: Apache-2.0
"""The independent oracle finds what it must, finds nothing where there is nothing, and is independent."""

import ast
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from safety import campaign, oracle
from safety.attacks import ATTACKS
from safety.storms import STORMS

ROOT = Path(__file__).resolve().parents[2]


pytestmark = pytest.mark.slow

SHIPPED = oracle.Limits.read(ROOT / "config" / "oracle_so101.yaml")
LIMITS = replace(SHIPPED, acceleration=np.full(6, 10.0), jerk=np.full(6, 100.0))
"""Low enough that motions can be made which break one limit and no other."""
REST = [np.zeros(6)] * 10


def moved(stream: np.ndarray) -> list[np.ndarray | None]:
    """The first joint moves, the others rest."""
    commands = np.zeros((len(stream), 6))
    commands[:, 0] = stream
    return list(commands)


def judge(commands: list[np.ndarray | None], state: str = "RUN") -> oracle.Report:
    return oracle.check(LIMITS, commands, [state] * len(commands))


def jerk_motion(jerk: float, ticks: int) -> np.ndarray:
    """Rest, then constant jerk, by the definition of the third difference."""
    j = np.concatenate([np.zeros(3), np.full(ticks, jerk)])
    return np.cumsum(np.cumsum(np.cumsum(j) * 0.02) * 0.02) * 0.02


def test_the_oracle_imports_nothing_of_ours() -> None:
    tree = ast.parse((ROOT / "safety" / "oracle.py").read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not [name for name in names if name.startswith(("sigma_ros", "attacks", "storms", "campaign"))]


def test_rest_and_gentle_motion_are_clean() -> None:
    assert judge(REST).violations == 0
    assert judge(moved(jerk_motion(99.9, 5))).violations == 0


@pytest.mark.parametrize(
    ("kind", "stream"),
    [
        ("jerk", jerk_motion(100.1, 3)),
        ("acceleration", jerk_motion(99.9, 6)),
        ("velocity", np.concatenate([jerk_motion(99.0, 5), jerk_motion(99.0, 5)[-1] + 0.041 * np.arange(1, 30)])),
        ("position", np.full(5, 1.93)),
        ("position", np.full(5, -1.93)),
    ],
)
def test_each_limit_is_noticed(kind: str, stream: np.ndarray) -> None:
    report = judge(moved(stream))
    assert report.found[kind] > 0
    assert report.first


def test_a_thousandth_of_a_permille_is_enough() -> None:
    assert judge(moved(jerk_motion(100.0 + 5e-6, 3))).found["jerk"] == 3
    assert judge(moved(jerk_motion(100.0 + 5e-7, 3))).violations == 0


@pytest.mark.parametrize("state", ["HOLD", "STOPPED", "ESTOP"])
def test_motion_long_after_a_stop_is_noticed(state: str) -> None:
    creeping = moved(np.cumsum(np.full(100, 1e-6)))
    states = ["RUN"] * 20 + [state] * 80
    report = oracle.check(LIMITS, creeping, states)
    assert report.found["motion_at_rest"] == 50
    assert oracle.check(LIMITS, creeping[:50], states[:50]).violations == 0


def test_going_from_one_stop_to_the_next_does_not_grant_more_time() -> None:
    states = ["HOLD", "STOPPED"] * 50
    assert oracle.check(LIMITS, moved(np.cumsum(np.full(100, 1e-6))), states).found["motion_at_rest"] == 70


def test_a_command_while_disengaged_nan_and_silence_are_noticed() -> None:
    assert judge(REST, "DISENGAGED").found["motion_at_rest"] == 10
    assert judge([*REST, np.full(6, np.nan)]).found["not_finite"] == 1
    stamps = [0, 20_000_000, 1_100_000_000]
    assert oracle.check(LIMITS, REST[:3], ["RUN"] * 3, stamps).found["silence"] == 1


def test_after_a_pause_a_new_motion_begins() -> None:
    there = [np.full(6, 0.5)] * 5
    assert judge([*REST, None, *there]).violations == 0
    assert judge([*REST, *there]).violations > 0
    assert judge([*REST, None, *there]).motions == 2


def test_the_program_reads_json_lines_and_says_so_with_its_exit_code(tmp_path: Path) -> None:
    lines = [{"stamp_ns": 20_000_000 * i, "state": "RUN", "command": list(c)} for i, c in enumerate(REST)]
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    good.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    lines[5]["command"] = [1.0] * 6
    bad.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    limits = ["--limits", str(ROOT / "config" / "oracle_so101.yaml")]
    assert oracle.main([str(good), *limits]) == 0
    assert oracle.main([str(bad), *limits]) == 1
    assert oracle.main([str(tmp_path / "none"), *limits]) == 2
    bad.write_text("{", encoding="utf-8")
    assert oracle.main([str(bad), *limits]) == 2


def test_a_small_campaign_with_every_adversary_finds_no_violation(tmp_path: Path) -> None:
    assert campaign.main(["--ticks", "2300", "--out", str(tmp_path), "--quiet"]) == 0
    document = json.loads((tmp_path / "campaign.json").read_text(encoding="utf-8"))
    assert document["violations"] == 0
    assert document["ticks"] >= 2300
    names = {row["adversary"] for row in document["adversaries"]}
    assert names == {*ATTACKS, *STORMS, "hill_climb", "random_limits", "tool_limits"}
    assert len(names) >= 12
    table = (tmp_path / "campaign.md").read_text(encoding="utf-8")
    assert all(name in table for name in names)


def test_the_campaign_notices_a_supervisor_without_its_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guard that believes every step to be safe must be caught, or the campaign proves nothing."""
    from sigma_ros.supervisor.stop_plan import StopPlanner  # noqa: PLC0415

    original = StopPlanner.certify

    def blind(self, recent, candidates, within=None):  # type: ignore[no-untyped-def]
        _, stops = original(self, recent, candidates, within)
        return np.ones(candidates.shape, dtype=bool), stops

    monkeypatch.setattr(StopPlanner, "certify", blind)
    rows = campaign.run(4600, 0, quiet=True)
    caught = [row.adversary for row in rows if row.report.violations]
    assert len(caught) >= 12


def test_the_campaign_refuses_senseless_arguments() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "safety.campaign", "--ticks", "0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )
    assert done.returncode == 2
    assert "--ticks" in done.stderr


@given(
    steps=hnp.arrays(np.float64, (40, 6), elements=st.floats(-0.05, 0.05)),
    pauses=st.sets(st.integers(0, 39), max_size=3),
    states=st.lists(st.sampled_from(["RUN", "HOLD", "ESTOP", "DISENGAGED"]), min_size=40, max_size=40),
)
def test_the_running_oracle_finds_exactly_what_the_one_on_records_finds(steps, pauses, states) -> None:
    commands = [None if i in pauses else q for i, q in enumerate(np.cumsum(steps, axis=0))]
    live = oracle.Live(LIMITS)
    for index, (state, command) in enumerate(zip(states, commands, strict=True)):
        live.tick(20_000_000 * index, state, command)
    recorded = oracle.check(LIMITS, commands, states)
    kinds = ("position", "velocity", "acceleration", "jerk")
    assert [live.report.found[kind] for kind in kinds] == [recorded.found[kind] for kind in kinds]
    assert live.report.motions == recorded.motions


def test_a_hole_in_what_the_running_oracle_heard_is_no_violation() -> None:
    live = oracle.Live(LIMITS)
    for index, q in enumerate(jerk_motion(50.0, 8)):
        if index == 6:
            live.miss()
            continue
        live.tick(20_000_000 * index, "RUN", np.full(6, q))
    assert live.report.violations == 0


def test_silence_counts_unless_the_supervisor_was_ended_on_purpose() -> None:
    live = oracle.Live(LIMITS)
    live.tick(0, "HOLD", np.zeros(6))
    live.tick(2_000_000_000, "HOLD", np.zeros(6))
    assert live.report.found["silence"] == 1
    live.forget_silence()
    live.tick(9_000_000_000, "HOLD", np.zeros(6))
    assert live.report.found["silence"] == 1


def test_a_first_command_off_the_measured_pose_is_noticed_and_differentiated() -> None:
    poses = [np.zeros((5, 6))] * 10
    near, far = np.full(6, 0.0005), np.full(6, 0.05)
    check = oracle.check
    assert check(SHIPPED, [near] * 10, ["RUN"] * 10, measured=poses).violations == 0
    report = check(SHIPPED, [far] * 10, ["RUN"] * 10, measured=poses)
    assert report.found["start"] == 1
    assert report.found["velocity"] > 0, "the step to it is a command like any other"


def test_a_pose_outside_the_range_may_only_come_back() -> None:
    start = np.zeros(6)
    start[0] = SHIPPED.upper[0] + 0.04
    poses = [np.array([start] * 5)] * 30
    way_in = [start - np.array([0.001 * min(i, 45), 0, 0, 0, 0, 0]) for i in range(30)]
    way_out = [start + np.array([0.001 * i, 0, 0, 0, 0, 0]) for i in range(30)]
    slow = replace(SHIPPED, jerk=np.full(6, 1e6), acceleration=np.full(6, 1e3))
    assert oracle.check(slow, way_in, ["RUN"] * 30, measured=poses).found["position"] == 0
    assert oracle.check(slow, way_out, ["RUN"] * 30, measured=poses).found["position"] > 0
    assert oracle.check(slow, way_in, ["RUN"] * 30).found["position"] > 0, "nobody said that the arm was there"


@pytest.mark.parametrize(("rests", "kind"), [(True, "velocity"), (False, "promise")])
def test_a_promised_limit_is_judged_from_the_first_rest_which_must_come(rests: bool, kind: str) -> None:
    fast = np.cumsum(np.full(50, 0.03))
    rest = np.full(5 if rests else 0, fast[-1])
    after = fast[-1] + np.cumsum(np.full(60, 0.03))
    run = moved(np.concatenate([fast, rest, after]))
    loose = replace(SHIPPED, jerk=np.full(6, 1e9), acceleration=np.full(6, 1e9), upper=np.full(6, 100.0))
    tight = replace(loose, speed=loose.speed * 0.1)
    states = ["RUN"] * len(run)
    assert oracle.check(loose, run, states).violations == 0
    assert oracle.check(loose, run, states, promises=[(48, tight)]).found[kind] > 0


@pytest.mark.parametrize(("engaged", "found"), [([0], 1), ([0, 40], 0)])
def test_a_motion_that_begins_long_after_the_last_leave_is_noticed(engaged: list[int], found: int) -> None:
    run = moved(np.concatenate([np.zeros(60), np.cumsum(np.full(5, 1e-4))]))
    report = oracle.check(LIMITS, run, ["RUN"] * len(run), engaged=engaged, leave_s=0.5)
    assert report.found["leave"] == found
