# SPDX-License-Identifier: Apache-2.0
"""Oddities of a recording are named where they are, and only there."""

import numpy as np
import pytest
from numpy import ndarray

from sigma_ros.conventions import guessed_units
from sigma_ros.streams.quality import delay_ticks, motion_findings, rhythm

NAMES = ("a", "b", "gripper")
RATE_HZ = 30.0


def motion(rows: int = 400) -> ndarray:
    time_s = np.arange(rows) / RATE_HZ
    noise = 1e-3 * np.random.default_rng(0).standard_normal((rows, 3))
    return np.stack([np.sin(time_s), np.cos(0.7 * time_s), 0.5 * np.sin(1.3 * time_s)], axis=1) + noise


def said(states: ndarray, actions: ndarray | None = None) -> str:
    return " | ".join(motion_findings(NAMES, states, actions, rate_hz=RATE_HZ))


def test_a_clean_recording_has_no_findings() -> None:
    assert said(motion()) == ""


@pytest.mark.parametrize("delay", [1, 4, 9])
def test_the_delay_of_the_state_is_found_to_the_tick(delay: int) -> None:
    states = motion()
    noise = 1e-3 * np.random.default_rng(1).standard_normal(states.shape)
    later = np.roll(states, -delay, axis=0)[:-delay] + noise[:-delay]
    assert delay_ticks(states[:-delay], later) == delay
    assert f"follows the action by {delay} ticks" in said(states[:-delay], later)
    assert f"the action follows the state by {delay} ticks" in said(later, states[:-delay])
    assert f"exactly the state {delay} tick(s) later" in said(states[:-delay], np.roll(states, -delay, 0)[:-delay])


def test_an_action_that_equals_the_state_is_named() -> None:
    assert "equals the state in every row" in said(motion(), motion())


def test_actions_in_another_unit_are_named_joint_by_joint() -> None:
    asked = np.roll(motion(), -2, axis=0)
    asked[:, 1] *= 57.3
    assert "the action of b spans" in said(motion(), asked)
    assert "the action of a spans" not in said(motion(), asked)


def test_two_arms_on_one_topic_are_seen() -> None:
    mixed = motion()
    mixed[1::2] += 0.5
    assert "two arms on one topic" in said(mixed)


def test_joints_that_stand_or_saturate_and_still_stretches_are_named() -> None:
    states = motion()
    constant, clipped, still = states.copy(), states.copy(), states.copy()
    constant[:, 1] = 3.0
    clipped[:, 0] = np.clip(clipped[:, 0], -0.5, 0.5)
    still[100:250] = still[100]
    assert "b never moves" in said(constant)
    assert "a stands at exactly its highest value, 0.5" in said(clipped)
    assert "nothing moves in 37% of the rows, 5.0 s at the longest" in said(still)


def test_holes_are_counted_and_steps_back_are_no_hole() -> None:
    stamps = np.arange(100, dtype=np.int64) * 33_000_000
    found = rhythm(np.delete(stamps, slice(40, 45)))
    assert found is not None
    assert (found.dropped, round(found.longest_gap_s, 3)) == (5, 0.198)
    back = rhythm(np.concatenate([stamps, stamps[:50]]))
    assert back is not None
    assert back.dropped == 0


@pytest.mark.parametrize(
    ("values", "unit", "certain"),
    [
        (motion(), "radians", False),
        (80.0 * motion(), "range_m100_100", False),
        (130.0 * motion(), "degrees", True),
        (np.round(60.0 * motion() / (180.0 / 4095.0)) * (180.0 / 4095.0), "degrees", True),
        (2000.0 * motion(), "unknown", False),
    ],
)
def test_units_are_guessed_with_a_reason(values: ndarray, unit: str, *, certain: bool) -> None:
    guesses = guessed_units(("a", "b", "c"), values)
    assert {(guess.unit, guess.certain) for guess in guesses} == {(unit, certain)}
    assert all(guess.reason for guess in guesses)


def test_a_gripper_is_read_by_itself() -> None:
    values = 80.0 * motion()
    values[:, 2] = np.abs(values[:, 2])
    assert [guess.unit for guess in guessed_units(NAMES, values)] == ["range_m100_100", "range_m100_100", "range_0_100"]
