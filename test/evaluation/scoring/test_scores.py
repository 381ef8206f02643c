# SPDX-License-Identifier: Apache-2.0
"""Laws of the scores, on synthetic replays."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import policy_facts, synthetic_log, with_scale

from sigma_ros.contract_file import load_contract
from sigma_ros.evaluation.log import ReplayLog, TickTrack
from sigma_ros.evaluation.scoring import metrics
from sigma_ros.evaluation.scoring.score import score
from sigma_ros.evaluation.scoring.scores import Scores
from sigma_ros.evaluation.scoring.windows import actions_of, missed, windows_of

pytestmark = pytest.mark.slow

MSES = ("mse_vec", "mse_chk", "mse_trj")


@pytest.fixture(scope="module")
def log() -> ReplayLog:
    return synthetic_log()


def without_residual(log: ReplayLog) -> ReplayLog:
    return with_chunks(log, lambda chunk, _: replace(chunk, residual_rad=np.zeros_like(chunk.residual_rad)))


def with_chunks(log: ReplayLog, change) -> ReplayLog:
    entries = tuple(replace(entry, chunk=change(entry.chunk, i)) for i, entry in enumerate(log.inferences))
    return replace(log, inferences=entries)


def errors(scores: Scores) -> list[tuple[float, float]]:
    return [(getattr(scores.baseline, name), getattr(scores.sigma, name)) for name in MSES]


def test_a_zero_residual_leaves_sigma_equal_to_its_base_bit_for_bit(log):
    scores = score(without_residual(log))
    assert all(base == sigma for base, sigma in errors(scores))
    assert scores.baseline.step_mse == scores.sigma.step_mse
    assert {comparison.verdict for comparison in scores.comparison.values()} == {"equal"}


def test_scale_zero_leaves_sigma_equal_to_its_base_bit_for_bit(log):
    assert all(base == sigma for base, sigma in errors(score(with_scale(log, 0.0))))


def test_the_base_does_not_depend_on_the_scale(log):
    low, high = score(with_scale(log, 0.1)), score(with_scale(log, 0.9))
    assert [base for base, _ in errors(low)] == [base for base, _ in errors(high)]


def test_a_perfect_policy_has_no_error(log):
    perfect = score(synthetic_log(base_noise_rad=0.0))
    assert perfect.samples > 0
    assert all(base == sigma == 0.0 for base, sigma in errors(perfect))
    repaired = score(with_scale(synthetic_log(residual_share=1.0), 1.0))
    assert repaired.baseline.mse_trj > 1e-5
    assert repaired.sigma.mse_trj < 1e-30


def test_the_three_errors_average_over_1_8_and_16_steps(log):
    arm = score(log).baseline
    assert arm.mse_vec == pytest.approx(arm.step_mse[0], rel=1e-12)
    assert arm.mse_chk == pytest.approx(np.mean(arm.step_mse[:8]), rel=1e-12)
    assert arm.mse_trj == pytest.approx(np.mean(arm.step_mse), rel=1e-12)


def test_errors_are_those_of_a_plain_loop(log):
    """Reference: the definition written out, one number at a time."""
    total, count = 0.0, 0
    by_tick = {entry.chunk.tick: entry.chunk for entry in log.inferences}
    span = log.contract.upper_rad - log.contract.lower_rad
    for tick in range(0, 160 - 15, 16):
        for step in range(16):
            for joint in range(6):
                miss = by_tick[tick].base_rad[step, joint] - log.ticks.action_rad[tick + step, joint]
                total += (2.0 * miss / span[joint]) ** 2
                count += 1
    assert score(log).baseline.mse_trj == pytest.approx(total / count, rel=1e-9)
    assert score(log).samples == count / 96 == 10


def test_the_order_of_inferences_does_not_matter(log):
    shuffled = replace(log, inferences=tuple(reversed(log.inferences)))
    one, other = score(log), score(shuffled)
    assert one.baseline == other.baseline
    assert one.sigma == other.sigma
    assert one.comparison == other.comparison


def test_the_order_of_recordings_does_not_matter_beyond_rounding():
    logs = [synthetic_log(seed=seed) for seed in range(3)]
    for (a, b), (c, d) in zip(errors(score(*logs)), errors(score(*reversed(logs))), strict=True):
        assert a == pytest.approx(c, rel=1e-12)
        assert b == pytest.approx(d, rel=1e-12)


@settings(max_examples=20, deadline=None)
@given(factor=st.floats(0.1, 10.0))
def test_errors_grow_with_the_square_of_the_unit(factor):
    log = synthetic_log(ticks=48)
    facts = policy_facts(log.contract)
    scaled = replace(log, policy=replace(facts, action_scale=facts.action_scale * factor))
    before, after = score(log), score(scaled)
    assert after.baseline.mse_trj == pytest.approx(before.baseline.mse_trj * factor**2, rel=1e-9)
    assert after.baseline.joint_rmse_deg == before.baseline.joint_rmse_deg


def test_an_error_of_one_degree_is_one_degree(log):
    target = actions_of(log).target_rad
    errors = missed(target + np.radians(1.0), target, log.policy.normalise)
    np.testing.assert_allclose(metrics.joint_rmse_deg(errors.degrees, 16), 1.0, rtol=1e-9)


def test_a_window_needs_sixteen_recorded_actions_of_its_own_epoch():
    ticks = synthetic_log(ticks=160).ticks
    assert metrics.scored_ticks(ticks).tolist() == list(range(0, 160, 16))
    assert metrics.scored_ticks(cut(ticks, 159)).tolist() == list(range(0, 144, 16))
    assert metrics.scored_ticks(cut(ticks, 15)).tolist() == []
    hole = replace(ticks, action_rad=np.where(np.arange(160)[:, None] == 20, np.nan, ticks.action_rad))
    assert metrics.scored_ticks(hole).tolist() == [0, *range(32, 160, 16)]
    epochs = replace(
        ticks, epoch=(np.arange(160) >= 40).astype(np.int64), tick=np.r_[np.arange(40), np.arange(120)].astype(np.int64)
    )
    assert metrics.scored_ticks(epochs).tolist() == [0, 16, *range(40, 160 - 15, 16)]


def cut(ticks: TickTrack, length: int) -> TickTrack:
    columns = {name: getattr(ticks, name)[:length] for name in ("epoch", "tick", "stamp_ns", "valid")}
    return replace(ticks, **columns, joints_rad=ticks.joints_rad[:length], action_rad=ticks.action_rad[:length])


def test_an_unusable_tick_is_not_scored_and_counts_as_a_loss():
    log = synthetic_log(gaps=(16, 17))
    assert metrics.scored_ticks(log.ticks).tolist() == [0, *range(32, 160, 16)]
    assert log.losses == {"invalid_ticks": 2}


def test_batches_of_four_round_up():
    """The model card: 723 samples are 181 batches."""
    assert score(synthetic_log(ticks=160)).batches == 3
    assert -(-723 // 4) == 181


def test_a_recording_too_short_to_score_gives_no_number_instead_of_a_wrong_one():
    scores = score(synthetic_log(ticks=10))
    assert scores.samples == scores.batches == 0
    assert np.isnan(scores.baseline.mse_trj)
    assert np.isnan(scores.sigma.mse_trj)


def test_a_chunk_that_follows_the_old_plan_makes_no_jump(log):
    def continuing(chunk, _):
        line = np.radians(np.arange(chunk.tick, chunk.tick + 50))[:, None] * np.ones(6)
        return replace(chunk, base_rad=line, residual_rad=np.zeros_like(line))

    scores = score(with_chunks(log, continuing))
    assert scores.smoothness.baseline_jump_max_deg == pytest.approx(0.0, abs=1e-9)

    def stepping(chunk, i):
        return replace(chunk, base_rad=np.full((50, 6), np.radians(i)), residual_rad=np.zeros((50, 6)))

    assert score(with_chunks(log, stepping)).smoothness.baseline_jump_mean_deg == pytest.approx(1.0)


def test_jerk_of_a_cubic_is_constant():
    time_s = np.arange(50)[:, None] * 0.02
    peaks, rms = metrics.derivative_peaks([time_s**3 / 6.0 * np.ones(6)], 0.02, 3, 6)
    np.testing.assert_allclose(peaks, 1.0, rtol=1e-6)
    assert rms == pytest.approx(1.0, rel=1e-6)


def test_derivatives_stop_at_a_pause_in_the_commands():
    commands = np.zeros((20, 6))
    commands[10] = np.nan
    commands[11:] = 1.0
    assert [len(run) for run in metrics.command_runs(commands)] == [10, 9]
    assert metrics.derivative_peaks(metrics.command_runs(commands), 0.02, 1, 6)[1] == 0.0


def test_the_report_counts_broken_limits_by_itself():
    contract = load_contract("so101")
    still = np.zeros((10, 6))
    assert metrics.limit_breaches(still, contract) == 0
    beyond = still.copy()
    beyond[:, 0] = contract.upper_rad[0] + 0.01
    assert metrics.limit_breaches(beyond, contract) == 10
    led_inside = still.copy()
    led_inside[:, 0] = contract.upper_rad[0] + np.linspace(0.01, -0.02, 10)
    assert metrics.limit_breaches(led_inside, contract) == 0
    assert metrics.limit_breaches(led_inside[::-1], contract) == 3
    fast = still.copy()
    fast[5:, 1] = 0.1
    assert metrics.limit_breaches(fast, contract) == 1


def test_a_perfect_risk_correlates_with_the_error(log):
    errors = windows_of(log)
    by_tick = {int(tick): error for tick, error in zip(errors.tick, errors.sigma.spans[:, -1], strict=True)}

    def knowing(chunk, _):
        risk = replace(chunk.risk, residual_term=by_tick.get(chunk.tick, 0.0), alignment_term=0.0, factor_term=0.0)
        return replace(chunk, risk=risk)

    assert score(with_chunks(log, knowing)).adapter.risk_error_rho == pytest.approx(1.0)


def test_the_scale_histogram_counts_every_published_chunk(log):
    scores = score(log)
    assert sum(scores.adapter.histogram) == sum(entry.published for entry in log.inferences)
    assert score(with_scale(log, 1.0)).adapter.histogram[-1] == 20
