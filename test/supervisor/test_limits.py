# SPDX-License-Identifier: Apache-2.0
"""Settings: every senseless one is named, limits can be tightened but not loosened, and the own check bites."""

import importlib
import math
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from supervision import CONTRACT, LAW, motion_limits

from sigma_ros.errors import ContractError
from sigma_ros.supervisor.limits import TIGHTENED, SupervisorLimits, limit_excess

NUMBERS = [entry for entry in fields(SupervisorLimits) if entry.metadata]


def test_the_defaults_are_the_contracts_limits() -> None:
    motion = SupervisorLimits().motion(CONTRACT)
    np.testing.assert_array_equal(motion.lower_rad, CONTRACT.lower_rad)
    np.testing.assert_array_equal(motion.upper_rad, CONTRACT.upper_rad)
    np.testing.assert_array_equal(motion.jerk_radps3, CONTRACT.max_jerk_radps3)
    assert (motion.dof, motion.period_s) == (6, 0.02)


def test_scales_and_margin_tighten_every_limit() -> None:
    tighter = SupervisorLimits(
        position_margin_rad=0.1, velocity_scale=0.5, acceleration_scale=1.0 / 6.0, jerk_scale=0.025
    )
    motion = tighter.motion(CONTRACT)
    np.testing.assert_allclose(motion.velocity_radps, 1.0)
    np.testing.assert_allclose(motion.acceleration_radps2, 5.0)
    np.testing.assert_allclose(motion.jerk_radps3, 50.0)
    np.testing.assert_allclose(motion.lower_rad, CONTRACT.lower_rad + 0.1)
    np.testing.assert_allclose(motion.upper_rad, CONTRACT.upper_rad - 0.1)


@pytest.mark.parametrize("entry", NUMBERS, ids=lambda entry: entry.name)
def test_each_setting_is_held_to_its_range_exactly(entry: Any) -> None:
    low, high = entry.metadata["low"], entry.metadata["high"]
    for bad in (math.nan, math.inf, -math.inf, low - 1e-6, high + 1e-6, "1", None, True):
        with pytest.raises(ContractError, match=entry.name):
            SupervisorLimits(**{entry.name: bad})
    assert low <= entry.default <= high
    assert entry.metadata["text"]


def test_every_problem_is_listed_at_once() -> None:
    with pytest.raises(ContractError, match=r"2 problem.*velocity_scale.*joint_stop_s"):
        SupervisorLimits(joint_stop_s=math.nan, velocity_scale=2.0)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"joint_hold_s": 0.9, "joint_stop_s": 0.5}, "joint_hold_s"),
        ({"max_chunk_age_s": 0.2}, "max_chunk_delay_s"),
        ({"start_tolerance_rad": 0.4, "max_start_offset_rad": 0.3}, "start_tolerance_rad"),
    ],
)
def test_settings_must_fit_each_other(changes: dict[str, float], named: str) -> None:
    with pytest.raises(ContractError, match=named):
        SupervisorLimits(**changes)  # type: ignore[arg-type]


def test_a_margin_that_leaves_no_range_is_refused_with_the_joints_name() -> None:
    narrow = replace(
        CONTRACT, joints=(replace(CONTRACT.joints[0], lower_rad=-0.3, upper_rad=0.3), *CONTRACT.joints[1:])
    )
    with pytest.raises(ContractError, match="shoulder_pan"):
        SupervisorLimits(position_margin_rad=0.3).motion(narrow)


def test_the_heartbeat_timeout_cannot_be_long() -> None:
    with pytest.raises(ContractError, match="heartbeat_timeout_s"):
        SupervisorLimits(heartbeat_timeout_s=0.201)


@LAW
@given(st.floats(0.01, 1.0), st.floats(0.01, 1.0))
def test_scales_can_only_be_lowered(old: float, new: float) -> None:
    limits = SupervisorLimits(velocity_scale=old)
    if new <= old:
        assert limits.tightened(velocity_scale=new).velocity_scale == new
    else:
        with pytest.raises(ContractError, match="loosen"):
            limits.tightened(velocity_scale=new)


def test_the_margin_can_only_be_raised() -> None:
    limits = SupervisorLimits(position_margin_rad=0.1)
    assert limits.tightened(position_margin_rad=0.2).position_margin_rad == 0.2
    with pytest.raises(ContractError, match="loosen"):
        limits.tightened(position_margin_rad=0.05)


@pytest.mark.parametrize("changes", [{"heartbeat_timeout_s": 0.05}, {"nonsense": 1.0}, {"jerk_scale": math.nan}])
def test_only_motion_limits_can_be_tightened(changes: dict[str, float]) -> None:
    with pytest.raises(ContractError, match=next(iter(changes))):
        SupervisorLimits().tightened(**changes)


def test_each_motion_limit_gets_tighter_in_one_direction_alone() -> None:
    """Speeds and accelerations downwards, distances kept and what is switched on upwards."""
    assert sorted(name for name, way in TIGHTENED.items() if way > 0) == [
        "avoid_collisions",
        "cap_tool_speed",
        "collision_margin_m",
        "keep_above_plane",
        "plane_height_m",
        "position_margin_rad",
    ]
    assert set(TIGHTENED.values()) == {1, -1}
    with pytest.raises(ContractError, match="avoid_collisions"):
        SupervisorLimits(avoid_collisions=True).tightened(avoid_collisions=False)


STILL = np.zeros((4, 3))


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (np.array([0.0, 0.0, 0.0, 0.0]), -1.5),
        (np.array([1.6, 1.6, 1.6, 1.6]), 0.1),
        (np.array([-1.7, -1.7, -1.7, -1.7]), 0.2),
        (0.05 * np.arange(4), 0.5),
        (np.array([0.0, 0.0, 0.005, 0.015]), 2.5),
        (np.array([0.0, 0.0, 0.0, 0.0016]), 100.0),
    ],
)
def test_the_own_check_says_by_how_much_a_limit_is_broken(stream: np.ndarray, expected: float) -> None:
    assert limit_excess(motion_limits(), stream[:, None] * np.ones(3)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("joint", [0, 1, 2])
def test_the_own_check_sees_every_joint(joint: int) -> None:
    stream = np.array(STILL)
    stream[3, joint] = 0.01
    assert limit_excess(motion_limits(), stream) > 0.0
    assert limit_excess(motion_limits(), STILL) <= 0.0


def test_the_own_check_measures_acceleration_too() -> None:
    parabola = 0.5 * 11.0 * (0.02 * np.arange(4)) ** 2
    assert limit_excess(motion_limits(), parabola[:, None] * np.ones(3)) == pytest.approx(1.0, abs=1e-6)


def test_what_is_on_and_what_is_off_by_default() -> None:
    defaults = SupervisorLimits()
    assert defaults.require_heartbeat
    assert defaults.check_tracking
    assert defaults.bound_lead
    assert defaults.untracked_joints == ("gripper", "left_gripper", "right_gripper")
    for switch in ("require_estop_heartbeat", "start_ramp", "cap_tool_speed", "keep_above_plane", "avoid_collisions"):
        assert not getattr(defaults, switch), switch


CORE = "chunks command_loop contact guard inputs limits reasons scale_limiter state_machine trajectory"


@pytest.mark.parametrize("name", [*CORE.split(), "geometry.workspace", "geometry.collision"])
def test_values_of_the_core_are_frozen_without_room_for_more_and_built_by_name(name: str) -> None:
    module = importlib.import_module(f"sigma_ros.supervisor.{name}")
    own = [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__]
    for value in filter(is_dataclass, own):
        assert value.__dataclass_params__.frozen, value  # type: ignore[attr-defined]
        assert "__slots__" in vars(value), value
        assert all(entry.kw_only for entry in fields(value)), value


def test_a_replay_meets_its_recording_wherever_it_begins() -> None:
    limits = SupervisorLimits.for_replay()
    assert limits.start_ramp
    assert limits.max_start_offset_rad == 3.2
    assert not limits.require_heartbeat
    assert not limits.check_tracking
