# SPDX-License-Identifier: Apache-2.0
"""What was commanded is what a report judges first: the path, what was held back of the residual, what bounded it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import START_NS, following, synthetic_log

from sigma_ros.evaluation.log import DecisionTrack, ReplayLog
from sigma_ros.evaluation.report.bounded import RESIDUAL_ROW, bounded_strip
from sigma_ros.evaluation.report.document import report_document
from sigma_ros.evaluation.scoring.commands import LIMITS, bounding_limits, commands_at, residual_held_back
from sigma_ros.evaluation.scoring.score import score
from sigma_ros.evaluation.scoring.windows import actions_of

PERIOD_NS = 20_000_000


@pytest.fixture(scope="module")
def log() -> ReplayLog:
    return synthetic_log()


def document_of(log: ReplayLog) -> dict[str, Any]:
    """The content of `report.json`."""
    return report_document([log], score(log), {})


def commanding(log: ReplayLog, command_rad: np.ndarray, **changes: object) -> ReplayLog:
    return replace(log, decisions=replace(log.decisions, command_rad=command_rad, **changes))


def at_rest(log: ReplayLog) -> ReplayLog:
    """Commands that stay in the middle of every joint's range."""
    middle = 0.5 * (log.contract.lower_rad + log.contract.upper_rad)
    return commanding(log, np.repeat(middle[None], len(log.decisions), axis=0))


def on_the_path(log: ReplayLog) -> ReplayLog:
    """Commands that follow the recorded actions exactly at every tick's time."""
    at_s = (log.decisions.stamp_ns - START_NS) * log.contract.fps / 1e9
    ticks = np.arange(len(log.ticks))
    return commanding(log, np.stack([np.interp(at_s, ticks, column) for column in log.ticks.action_rad.T], axis=1))


def test_a_report_judges_the_commands_whatever_was_proposed(log):
    """The chunks are those of a Sigma that wins; what the arm was told to do decides the first line."""
    assert score(log).comparison["mse_trj"].verdict == "better"
    for commands, word, verdict in ((at_rest(log), "is worse than", "worse"), (on_the_path(log), "beats", "better")):
        scores = score(commands)
        document = document_of(commands)
        assert document["verdict"]["headline"].startswith(f"After the supervisor, Sigma {word} its base: mse_trj")
        assert document["commanded"]["comparison"]["mse_trj"]["verdict"] == verdict
        assert "Proposed by Sigma: mse_trj is" in document["verdict"]["supervised"]
        assert f"The commands are {scores.commanded.commanded_rmse_deg:.1f}° off" in document["verdict"]["supervised"]


def test_the_third_column_is_the_distance_of_the_commands(log):
    """By another way than the product's: step by step, in plain Python."""
    resting = at_rest(log)
    middle = 0.5 * (log.contract.lower_rad + log.contract.upper_rad)
    squares = [
        (log.policy.normalise(middle) - log.policy.normalise(log.ticks.action_rad[tick + step])) ** 2
        for tick in range(0, 160, 16)
        for step in range(16)
    ]
    commanded = score(resting).commanded
    assert commanded.windows == 10
    assert commanded.mse_trj == pytest.approx(float(np.mean(squares)), rel=1e-12)


def test_windows_without_a_command_for_every_step_are_left_out_of_the_third_column_alone(log):
    scores = score(log)
    assert (scores.samples, scores.commanded.windows) == (10, 9), "nothing is commanded in the first 0.2 s"
    silent = commanding(log, np.full_like(log.decisions.command_rad, np.nan))
    assert score(silent).commanded.windows == 0
    assert score(silent).sigma == scores.sigma


def test_the_second_line_says_how_much_was_held_back_where_and_why(log):
    applied = log.decisions.applied_scale.copy()
    late = np.arange(len(applied)) >= 200
    applied[late] = 0.2
    reason = tuple(
        "SCALE_RESIDUAL_LARGE" if low else name for low, name in zip(late, log.decisions.reason, strict=True)
    )
    held = replace(log, decisions=replace(log.decisions, applied_scale=applied, reason=reason))
    supervisor = score(held).supervisor
    count, commanded = int(late.sum()), len(applied) - 10
    assert supervisor.held_back_ticks == count
    assert supervisor.held_back_reasons == {"SCALE_RESIDUAL_LARGE": count}
    assert supervisor.held_back_share == pytest.approx(count * 0.6 / (commanded * 0.8))
    text = document_of(held)["verdict"]["supervised"]
    assert f"held back {supervisor.held_back_share:.0%} of the residual, in {count} of {commanded} ticks" in text
    assert f"{count}: the residual is too large, it is turned down (SCALE_RESIDUAL_LARGE)" in text
    assert "held nothing" in document_of(log)["verdict"]["supervised"]


@settings(max_examples=30, deadline=None)
@given(slope=st.floats(-3.0, 3.0), offset_ns=st.integers(0, 10 * PERIOD_NS))
def test_between_two_commands_the_path_is_straight_and_outside_there_is_none(slope, offset_ns):
    track = track_of(slope * np.arange(11)[:, None] * np.ones(6))
    path = commands_at(track, np.array([offset_ns, -1, 10 * PERIOD_NS + 1]), period_ns=PERIOD_NS)
    np.testing.assert_allclose(path[0], slope * offset_ns / PERIOD_NS, atol=1e-9)
    assert np.isnan(path[1:]).all()


def test_a_pause_has_no_path_and_time_that_goes_back_begins_anew():
    command = np.arange(8.0)[:, None] * np.ones(6)
    stamps = np.array([0, 1, 2, 30, 0, 1, 2, 3]) * PERIOD_NS
    asked = np.array([1, 20, 30, 1, 3]) * PERIOD_NS
    path = commands_at(track_of(command, stamps), asked, period_ns=PERIOD_NS)[:, 0]
    np.testing.assert_array_equal(path, [1.0, np.nan, 3.0, 5.0, 7.0])


SHORT = synthetic_log(ticks=48).decisions


def track_of(command_rad: np.ndarray, stamp_ns: np.ndarray | None = None) -> DecisionTrack:
    n = len(command_rad)
    first = {name: getattr(SHORT, name)[:n] for name in ("state", "reason", "clipped", "chunk_id", "host_ns")}
    scales = {name: np.ones(n) for name in ("requested_scale", "scale_ceiling", "applied_scale")}
    stamp_ns = np.arange(n) * PERIOD_NS if stamp_ns is None else stamp_ns
    return replace(SHORT, stamp_ns=stamp_ns, command_rad=command_rad, **first, **scales)


def test_a_bounded_joint_is_said_to_be_at_the_limit_that_it_uses_up(log):
    contract, dt = log.contract, PERIOD_NS / 1e9
    n, j = 12, 0
    time_s = np.arange(n) * dt
    motions = {
        "position": np.full(n, contract.upper_rad[j]),
        "speed": contract.max_velocity_radps[j] * time_s,
        "acceleration": 0.5 * contract.max_acceleration_radps2[j] * time_s**2,
        "room to stop": 0.01 * time_s,
    }
    for name, motion in motions.items():
        command = np.zeros((n, contract.dof))
        command[:, j] = motion
        clipped = np.zeros_like(command, dtype=bool)
        clipped[3, j] = True
        found = bounding_limits(replace(track_of(command), clipped=clipped), contract)
        assert found[3, j] == LIMITS.index(name) + 1, name
        assert np.count_nonzero(found) == 1, "what was not bounded is at no limit"


def test_the_strip_shows_every_bounded_joint_and_the_residual_that_was_held_back(log):
    lowered = replace(log, decisions=replace(log.decisions, applied_scale=log.decisions.applied_scale * 0.5))
    bars = [bar for bar in bounded_strip(lowered)["data"] if len(bar["y"])]
    rows = {row for bar in bars for row in bar["y"]}
    assert rows == {"gripper", RESIDUAL_ROW}
    for bar in bars:
        assert all(length > 0.0 for length in bar["x"])
        assert all("supervisor: " in text for text in bar["text"])
    held = residual_held_back([lowered.decisions])
    assert sum(sum(bar["x"]) for bar in bars if bar["y"][0] == RESIDUAL_ROW) == pytest.approx(held.ticks * 0.02)


def test_commands_that_follow_the_chunks_miss_as_much_as_they_do(log):
    """What the other tests of reports rest on: the synthetic commands are between base and Sigma."""
    scores = score(log).commanded
    assert scores.sigma_rmse_deg < scores.baseline_rmse_deg
    assert scores.commanded_rmse_deg < scores.baseline_rmse_deg
    assert np.isfinite(actions_of(following(log)).commanded_rad[1:]).all()


def test_the_setup_of_a_simulated_recording_is_named(log):
    named = replace(log, bag=replace(log.bag, setup="source"))
    document = document_of(named)
    assert document["bag"]["setup"] == "source"
    assert any("set-up source: the base's own training set-up" in note for note in document["verdict"]["notes"])
    assert not any("set-up" in note for note in document_of(log)["verdict"]["notes"])
