# SPDX-License-Identifier: Apache-2.0
import math

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigma_ros.errors import SigmaError
from sigma_ros.sim.arm import GRASP_SITE
from sigma_ros.sim.environment import SimArm
from sigma_ros.sim.motion import ArmKinematics, Grip

DOWN = np.array([0.0, 0.0, -1.0])
GUESS = np.array([0.0, 0.0, 0.4, 1.1, 0.0, 0.3])


def over(radius_m: float, azimuth_rad: float, height_m: float, turn_rad: float) -> Grip:
    outward = np.array([math.cos(azimuth_rad), math.sin(azimuth_rad), 0.0])
    closing = np.array([math.cos(azimuth_rad + turn_rad), math.sin(azimuth_rad + turn_rad), 0.0])
    return Grip(np.array([0.0388, 0.0, height_m]) + radius_m * outward, DOWN, closing)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.14, 0.235), st.floats(-1.2, 1.2), st.floats(0.01, 0.055), st.floats(-1.2, 1.2))
def test_the_hand_goes_where_it_was_asked_to(
    arm: SimArm, radius_m: float, azimuth_rad: float, height_m: float, turn_rad: float
) -> None:
    kinematics = ArmKinematics(arm.model, arm.contract.joint_names)
    grip = over(radius_m, azimuth_rad, height_m, turn_rad)
    guess = GUESS.copy()
    guess[0] = -azimuth_rad
    angles = kinematics.solve(grip, guess)
    data = mujoco.MjData(arm.model)
    data.qpos[:6] = angles
    mujoco.mj_kinematics(arm.model, data)
    site = data.site(GRASP_SITE)
    assert np.linalg.norm(site.xpos - grip.position_m) < 3e-4
    assert site.xmat.reshape(3, 3)[:, 0] == pytest.approx(DOWN, abs=2e-3)
    assert site.xmat.reshape(3, 3)[:, 2] == pytest.approx(grip.closing, abs=2e-3)
    assert np.all(angles >= arm.contract.lower_rad)
    assert np.all(angles <= arm.contract.upper_rad)
    assert angles[5] == GUESS[5]


def test_a_point_out_of_reach_is_refused_with_what_is_left(arm: SimArm) -> None:
    kinematics = ArmKinematics(arm.model, arm.contract.joint_names)
    with pytest.raises(SigmaError, match=r"cannot reach.*mm and .* left"):
        kinematics.solve(over(0.45, 0.0, 0.02, 0.0), GUESS)


def test_gravity_torque_is_the_weight_times_its_lever(arm: SimArm) -> None:
    kinematics = ArmKinematics(arm.model, arm.contract.joint_names)
    torque = kinematics.gravity_torque_nm(np.zeros(6))
    model, data = arm.model, mujoco.MjData(arm.model)
    mujoco.mj_forward(model, data)
    moved = [model.body(name).id for name in ("upper_arm", "lower_arm", "wrist", "hand", "moving_jaw")]
    axis_x = data.body("upper_arm").xpos[0]
    expected = sum(model.body_mass[i] * 9.81 * (data.xipos[i][0] - axis_x) for i in moved)
    assert -torque[1] == pytest.approx(expected, rel=1e-3)  # gravity pulls forwards, the servo must pull back
    assert torque[0] == pytest.approx(0.0, abs=1e-6)
