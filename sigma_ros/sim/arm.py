# SPDX-License-Identifier: Apache-2.0
"""The SO-101 as MuJoCo bodies: link frames, masses, inertias and joint axes of the real arm.

Numbers are facts of TheRobotStudio's SO-ARM100 repository (Simulation/SO101, "new calibration": zero
is the middle of each joint's range), Apache-2.0. Joint names and limits come from the contract. The
shapes are drawn in `arm_shapes`; no mesh file is used.
"""

from dataclasses import dataclass

import mujoco
import numpy as np

from sigma_ros.contract import Contract
from sigma_ros.sim.arm_shapes import PAINTERS
from sigma_ros.sim.setups import SceneConfig
from sigma_ros.sim.shapes import Pen, Point, Pose

GRASP_SITE = "grasp"
"""Where a held brick's middle is: between the finger tips, 4.5 mm off the fixed one's centre line."""

PADS = ("fixed_pad", "moving_pad")
JOINT_ARMATURE_KGM2 = 0.028
JOINT_DAMPING_NMSPRAD = 0.60
JOINT_FRICTION_NM = 0.052
"""Of the STS3215 behind its gears, from the same source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One body: frame in its parent, the joint that moves it about its own z axis, and its mass.

    `inertia_kgm2` is (xx, yy, zz, xy, xz, yz) about the centre of mass.
    """

    name: str
    joint: str | None
    position_m: Point
    quaternion: tuple[float, float, float, float]
    mass_kg: float
    centre_m: Point
    inertia_kgm2: tuple[float, float, float, float, float, float]


LINKS = (
    Link(
        name="base",
        joint=None,
        position_m=(0.0, 0.0, 0.0),
        quaternion=(1, 0, 0, 0),
        mass_kg=0.147,
        centre_m=(0.0137179, -5.19711e-05, 0.0334843),
        inertia_kgm2=(1.14686e-4, 1.36117e-4, 1.30364e-4, -4.59787e-7, 4.97151e-6, 9.75275e-8),
    ),
    Link(
        name="shoulder",
        joint="shoulder_pan",
        position_m=(0.0388353, 0.0, 0.0624),
        quaternion=(0, 0, -1, 0),
        mass_kg=0.100006,
        centre_m=(-0.0307604, -1.66727e-05, -0.0252713),
        inertia_kgm2=(8.3759e-5, 8.10403e-5, 2.39783e-5, 7.55525e-8, -1.16342e-6, 1.54663e-7),
    ),
    Link(
        name="upper_arm",
        joint="shoulder_lift",
        position_m=(-0.0303992, -0.0182778, -0.0542),
        quaternion=(1, -1, -1, -1),
        mass_kg=0.103,
        centre_m=(-0.0898471, -0.00838224, 0.0184089),
        inertia_kgm2=(4.08002e-5, 1.47318e-4, 1.42487e-4, -1.97819e-5, -4.03016e-8, 8.97326e-9),
    ),
    Link(
        name="lower_arm",
        joint="elbow_flex",
        position_m=(-0.11257, -0.028, 0.0),
        quaternion=(1, 0, 0, 1),
        mass_kg=0.104,
        centre_m=(-0.0980701, 0.00324376, 0.0182831),
        inertia_kgm2=(2.87438e-5, 1.59844e-4, 1.45290e-4, 7.41152e-6, 1.26409e-6, -4.90188e-8),
    ),
    Link(
        name="wrist",
        joint="wrist_flex",
        position_m=(-0.1349, 0.0052, 0.0),
        quaternion=(1, 0, 0, -1),
        mass_kg=0.079,
        centre_m=(-0.000103312, -0.0386143, 0.0281156),
        inertia_kgm2=(3.68263e-5, 2.5391e-5, 2.1e-5, 1.7893e-8, -5.28128e-8, 3.6412e-6),
    ),
    Link(
        name="hand",
        joint="wrist_roll",
        position_m=(0.0, -0.0611, 0.0181),
        quaternion=(0.0172091, -0.0172091, 0.706897, 0.706897),
        mass_kg=0.087,
        centre_m=(0.000213627, 0.000245138, -0.025187),
        inertia_kgm2=(2.75087e-5, 4.33657e-5, 3.45059e-5, -3.35241e-7, -5.7352e-6, -5.17847e-8),
    ),
    Link(
        name="moving_jaw",
        joint="gripper",
        position_m=(0.0202, 0.0188, -0.0234),
        quaternion=(1, 1, 0, 0),
        mass_kg=0.012,
        centre_m=(-0.00157495, -0.0300244, 0.0192755),
        inertia_kgm2=(6.61427e-6, 1.89032e-6, 5.28738e-6, -3.19807e-7, -5.90717e-9, -1.09945e-7),
    ),
)

JOINTS = tuple(link.joint for link in LINKS if link.joint is not None)
"""The arm's joints in its own order; a contract may order them otherwise."""

_HAND_DRAWING = Pose(np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]]), np.zeros(3))
"""Drawing frame of hand and jaw: x towards the finger tips, z from the fixed jaw to the moving one."""


def add_arm(spec: mujoco.MjSpec, contract: Contract, setup: SceneConfig) -> None:
    """Adds the arm at the origin, with one position servo per joint in contract order."""
    order = contract.joint_order(JOINTS)
    ranges = {JOINTS[j]: (joint.lower_rad, joint.upper_rad) for joint, j in zip(contract.joints, order, strict=True)}
    parent = spec.worldbody
    parent_from_zero, hand_from_zero = Pose.of((0, 0, 0)), None
    for link in LINKS:
        parent = _add_body(parent, link, ranges)
        parent_from_zero = Pose.of(link.position_m, link.quaternion).inverse() @ parent_from_zero
        if link.name == "hand":
            hand_from_zero = _HAND_DRAWING
        elif hand_from_zero is not None:
            hand_from_zero = Pose.of(link.position_m, link.quaternion).inverse() @ hand_from_zero
        PAINTERS[link.name](Pen(spec, parent, hand_from_zero or parent_from_zero))
    for j in order:
        _add_servo(spec, JOINTS[j], ranges[JOINTS[j]], setup)


def _add_body(parent: mujoco.MjsBody, link: Link, ranges: dict[str, tuple[float, float]]) -> mujoco.MjsBody:
    quat = np.array(link.quaternion, dtype=np.float64)
    body = parent.add_body(name=link.name, pos=link.position_m, quat=quat / np.linalg.norm(quat))
    body.explicitinertial = True
    body.mass = link.mass_kg
    body.ipos = link.centre_m
    body.fullinertia = link.inertia_kgm2
    if link.joint is not None:
        body.add_joint(
            name=link.joint,
            type=mujoco.mjtJoint.mjJNT_HINGE,
            axis=[0, 0, 1],
            limited=mujoco.mjtLimited.mjLIMITED_TRUE,
            range=ranges[link.joint],
            armature=JOINT_ARMATURE_KGM2,
            damping=[JOINT_DAMPING_NMSPRAD, 0, 0],
            frictionloss=JOINT_FRICTION_NM,
        )
    return body


def _add_servo(spec: mujoco.MjSpec, joint: str, limits: tuple[float, float], setup: SceneConfig) -> None:
    servo = setup.servo
    stiffness = servo.stiffness_nm_per_rad
    # A ramp is followed (gain_v + joint damping) / stiffness seconds late; the rest of the lag is the bus.
    gain_v = max(0.0, stiffness * (servo.lag_s - servo.bus_delay_s) - JOINT_DAMPING_NMSPRAD)
    torque = servo.gripper_torque_nm if joint == "gripper" else servo.max_torque_nm
    actuator = spec.add_actuator(name=joint, target=joint, trntype=mujoco.mjtTrn.mjTRN_JOINT)
    actuator.gaintype = mujoco.mjtGain.mjGAIN_FIXED
    actuator.biastype = mujoco.mjtBias.mjBIAS_AFFINE
    actuator.gainprm[0] = stiffness
    actuator.biasprm[1] = -stiffness
    actuator.biasprm[2] = -gain_v
    actuator.forcelimited = mujoco.mjtLimited.mjLIMITED_TRUE
    actuator.forcerange = [-torque, torque]
    actuator.ctrllimited = mujoco.mjtLimited.mjLIMITED_TRUE
    actuator.ctrlrange = limits
