# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import mujoco
import numpy as np
import pytest

from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import ContractError
from sigma_ros.sim.environment import SimArm
from sigma_ros.sim.scene import build_model
from sigma_ros.sim.setups import SOURCE

# World positions [m] and masses [kg] of TheRobotStudio's so101_new_calib.xml with all joints at zero.
PUBLIC_BODIES = {
    "base": ((0.0, 0.0, 0.0), 0.147),
    "shoulder": ((0.0388, 0.0, 0.0624), 0.100),
    "upper_arm": ((0.0692, -0.0183, 0.1166), 0.103),
    "lower_arm": ((0.0972, -0.0183, 0.2292), 0.104),
    "wrist": ((0.2321, -0.0183, 0.2344), 0.079),
    "hand": ((0.2932, -0.0002, 0.2344), 0.087),
    "moving_jaw": ((0.3166, 0.0176, 0.2555), 0.012),
}
PUBLIC_AXES = {
    "shoulder_pan": (0.0, 0.0, -1.0),
    "shoulder_lift": (0.0, 1.0, 0.0),
    "elbow_flex": (0.0, 1.0, 0.0),
    "wrist_flex": (0.0, 1.0, 0.0),
    "wrist_roll": (-1.0, 0.0, 0.0),
    "gripper": (0.0, -0.9988, -0.0487),
}


def at_zero(model: mujoco.MjModel) -> mujoco.MjData:
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return data


def test_joints_and_limits_are_the_contracts_in_its_order(arm: SimArm, contract: Contract) -> None:
    names = [arm.model.actuator(i).name for i in range(arm.model.nu)]
    assert names == list(contract.joint_names)
    for joint in contract.joints:
        assert arm.model.joint(joint.name).range == pytest.approx((joint.lower_rad, joint.upper_rad))
        assert arm.model.actuator(joint.name).ctrlrange == pytest.approx((joint.lower_rad, joint.upper_rad))


def test_links_stand_where_the_public_model_has_them(arm: SimArm) -> None:
    data = at_zero(arm.model)
    for name, (position_m, mass_kg) in PUBLIC_BODIES.items():
        assert data.body(name).xpos == pytest.approx(position_m, abs=1e-4), name
        assert arm.model.body(name).mass == pytest.approx(mass_kg, abs=1e-3), name


def test_joints_turn_about_the_public_models_axes(arm: SimArm) -> None:
    data = at_zero(arm.model)
    for name, axis in PUBLIC_AXES.items():
        assert data.joint(name).xaxis == pytest.approx(axis, abs=1e-3), name


def test_drawn_parts_have_no_weight_of_their_own(arm: SimArm) -> None:
    total = sum(mass for _, mass in PUBLIC_BODIES.values())
    bodies = [arm.model.body(name).mass[0] for name in PUBLIC_BODIES]
    assert sum(bodies) == pytest.approx(total, abs=2e-3)


def test_a_contract_that_orders_joints_otherwise_gets_them_in_its_own_order(contract: Contract) -> None:
    turned = replace(contract, joints=tuple(reversed(contract.joints)))
    there, back = SimArm(SOURCE, contract=contract), SimArm(SOURCE, contract=turned)
    pose = np.array([0.3, -0.9, 0.8, 0.6, -0.2, 0.4])
    for _ in range(60):
        there.step(pose, 1 / 30)
        back.step(pose[::-1], 1 / 30)
    assert np.allclose(back.positions_rad()[::-1], there.positions_rad(), atol=0.01)


def test_an_arm_with_other_joints_is_refused() -> None:
    with pytest.raises(ContractError, match="joint"):
        build_model(SOURCE, load_contract("cr5"))
