# SPDX-License-Identifier: Apache-2.0
"""A scripted teacher: it knows where the brick is, picks it up and puts it into the box.

It steers the arm as a person at a leader arm does, who sees the real fingers and not the encoders: what
gravity sag and a wrong calibration take away is added to the commands.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.sim.arm import JOINTS
from sigma_ros.sim.environment import SimArm
from sigma_ros.sim.motion import ArmKinematics, Grip, JointPath, Waypoint, joint_path
from sigma_ros.sim.setups import BoxConfig, TeacherConfig

OPEN_RAD, CLOSED_RAD = 0.46, -0.14
"""Gripper commands: around the brick, and pressing on it."""

_LOWEST_GRASP_M = 0.0095
"""Height of the fingers' middle at which their tips stay clear of the table."""

_LIFT_M, _LIFT_TILT_RAD = 0.035, 0.45
"""How far over the rim a brick is lifted; the wrist's limit asks for the tilt there."""

_DROP_HEIGHTS_AND_TILTS = ((0.055, 0.65), (0.030, 0.45))
"""Heights over the rim [m] and tilts [rad] over the box and when letting go."""

_MISSED_BY_M, _MISSED_TURN_RAD = (0.015, 0.035), 0.3
"""How far beside the brick a miss closes, and how far it is turned: as far as the trained policy's misses are."""

_MISS_ABOVE = 1
"""Of the waypoints of `plan_miss`: where its fingers are open over the wrong place."""

_SECOND_HOVER_M = 0.03
"""A second try rises no higher: time counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """What differs from one demonstration to the next."""

    speed: float
    hover_m: float
    grasp_shift_m: float
    drop_shift_m: tuple[float, float]
    pause_s: float

    @classmethod
    def drawn(cls, teacher: TeacherConfig, rng: np.random.Generator) -> "Habits":
        """Random habits of one demonstration."""
        x, y = rng.uniform(*teacher.drop_shift_m, 2)
        return cls(
            speed=rng.uniform(*teacher.speed),
            hover_m=rng.uniform(*teacher.hover_m),
            grasp_shift_m=rng.uniform(*teacher.grasp_shift_m),
            drop_shift_m=(float(x), float(y)),
            pause_s=rng.uniform(*teacher.pause_s),
        )


class Expert:
    """Plans one demonstration per episode, from the arm's state right after `SimArm.reset`."""

    def __init__(self, arm: SimArm) -> None:
        self._arm = arm
        self._kinematics = ArmKinematics(arm.model, arm.contract.joint_names)
        self._gripper = int(np.flatnonzero(arm.contract.joint_order(JOINTS) == JOINTS.index("gripper"))[0])

    def plan(self, seed: int, *, missed: JointPath | None = None) -> JointPath:
        """The commands of a whole demonstration, as a path over time [rad, as commanded].

        After a `plan_miss` that was played to its end, `missed`, they begin there: rise while opening, try again.

        Raises:
            SigmaError: brick or box are out of reach.
        """
        habits = self._habits(seed, hover_m=None if missed is None else _SECOND_HOVER_M)
        arm = self._arm
        rest = arm.command_rad
        rim_m = arm.setup.box.size_m[2]
        above, around, lifted = self.grasp_poses(habits, arm.brick_position_m(), arm.brick_yaw_rad(), rim_m=rim_m)
        over, into = self.drop_poses(habits, arm.setup.box)
        pressed, released = self.with_gripper(around, CLOSED_RAD), self.with_gripper(into, OPEN_RAD)
        begin = [Waypoint(phase="rest", angles_rad=rest, pause_s=habits.pause_s)]
        if missed is not None:
            raised = missed.waypoints[_MISS_ABOVE].angles_rad
            begin = [Waypoint(phase="missed", angles_rad=rest), Waypoint(phase="rise", angles_rad=raised)]
            rest = missed.waypoints[0].angles_rad
        return joint_path(
            [
                *begin,
                Waypoint(phase="reach", angles_rad=above),
                Waypoint(phase="lower", angles_rad=around, pause_s=habits.pause_s),
                Waypoint(phase="grasp", angles_rad=pressed, pause_s=habits.pause_s),
                Waypoint(phase="lift", angles_rad=lifted),
                Waypoint(phase="carry", angles_rad=over),
                Waypoint(phase="place", angles_rad=into, pause_s=habits.pause_s),
                Waypoint(phase="release", angles_rad=released, pause_s=0.05),
                Waypoint(phase="return", angles_rad=rest, pause_s=0.2),
            ],
            arm.contract,
            speed=habits.speed,
        )

    def plan_miss(self, seed: int) -> JointPath:
        """The way to fingers that close beside the brick, as those of a policy do that saw it elsewhere.

        Raises:
            SigmaError: that place is out of reach.
        """
        habits = self._habits(seed, hover_m=_SECOND_HOVER_M)
        rng = np.random.default_rng([seed, 3])
        distance_m, angle_rad = rng.uniform(*_MISSED_BY_M), rng.uniform(-math.pi, math.pi)
        beside = distance_m * np.array([math.cos(angle_rad), math.sin(angle_rad), 0.0])
        arm = self._arm
        yaw_rad = arm.brick_yaw_rad() + rng.uniform(-1, 1) * _MISSED_TURN_RAD
        above, around, _ = self.grasp_poses(
            habits, arm.brick_position_m() + beside, yaw_rad, rim_m=arm.setup.box.size_m[2]
        )
        return joint_path(
            [
                Waypoint(phase="rest", angles_rad=arm.command_rad, pause_s=habits.pause_s),
                Waypoint(phase="reach", angles_rad=above),
                Waypoint(phase="lower", angles_rad=around, pause_s=habits.pause_s),
                Waypoint(phase="grasp", angles_rad=self.with_gripper(around, CLOSED_RAD), pause_s=habits.pause_s),
            ],
            arm.contract,
            speed=habits.speed,
        )

    def _habits(self, seed: int, *, hover_m: float | None) -> Habits:
        drawn = Habits.drawn(self._arm.setup.teacher, np.random.default_rng([seed, 1]))
        return drawn if hover_m is None else replace(drawn, hover_m=hover_m)

    def grasp_poses(
        self, habits: Habits, brick: Float64[ndarray, " 3"], yaw_rad: float, *, rim_m: float
    ) -> tuple[ndarray, ndarray, ndarray]:
        """Commands above a brick and around it, fingers straight down and open; then lifted off, over a box's rim.

        `brick` is its middle [m], `yaw_rad` the direction of its long side, `rim_m` the height of the box it is for.
        """
        along = np.array([math.cos(yaw_rad), math.sin(yaw_rad), 0.0])
        outward = self._outward(brick)
        closing = np.array([-math.sin(yaw_rad), math.cos(yaw_rad), 0.0])
        closing *= 1.0 if closing @ outward >= 0.0 else -1.0
        middle = brick + habits.grasp_shift_m * along
        above, around = (
            self._reach(middle, height_m, outward, closing)
            for height_m in (brick[2] + habits.hover_m, max(brick[2] + 0.003, _LOWEST_GRASP_M))
        )
        lifted = self._reach(middle, rim_m + _LIFT_M, outward, closing, tilt_rad=_LIFT_TILT_RAD)
        return (
            self._commanded(above, OPEN_RAD),
            self._commanded(around, OPEN_RAD),
            self._commanded(lifted, CLOSED_RAD),
        )

    def drop_poses(self, habits: Habits, box: BoxConfig) -> tuple[ndarray, ndarray]:
        """Commands over a box and lower into its opening, fingers tilted outwards, closed on the brick."""
        shift_x, shift_y = habits.drop_shift_m
        point = np.array([box.centre_m[0] + shift_x, box.centre_m[1] + shift_y, 0.0])
        outward = self._outward(point)
        over, into = (
            self._reach(point, box.size_m[2] + height_m, outward, outward, tilt_rad=tilt_rad)
            for height_m, tilt_rad in _DROP_HEIGHTS_AND_TILTS
        )
        return self._commanded(over, CLOSED_RAD), self._commanded(into, CLOSED_RAD)

    def touch_poses(self, point_m: tuple[float, float], heights_m: tuple[float, ...]) -> tuple[ndarray, ...]:
        """Commands at some heights over a point of the table, closed fingers straight down."""
        point = np.array([*point_m, 0.0])
        outward = self._outward(point)
        poses = (self._reach(point, height_m, outward, outward) for height_m in heights_m)
        return tuple(self._commanded(pose, CLOSED_RAD) for pose in poses)

    def _outward(self, point_m: Float64[ndarray, " 3"]) -> Float64[ndarray, " 3"]:
        """Unit vector from the pan axis to above or below a point."""
        outward = (point_m - self._kinematics.pan_axis_m) * np.array([1.0, 1.0, 0.0])
        return outward / np.linalg.norm(outward)

    def _reach(
        self, point_m: ndarray, height_m: float, outward: ndarray, closing: ndarray, *, tilt_rad: float = 0.0
    ) -> Float64[ndarray, " dof"]:
        """True joint angles with the fingers at a height over a point, tilted outwards from straight down."""
        up = np.array([0.0, 0.0, 1.0])
        fingers = math.sin(tilt_rad) * outward - math.cos(tilt_rad) * up
        across = closing - (closing @ outward) * outward
        tilted = (closing @ outward) * (math.cos(tilt_rad) * outward + math.sin(tilt_rad) * up) + across
        tolerance_m = 2e-4 if tilt_rad == 0.0 else 6e-3
        grip = Grip(np.array([point_m[0], point_m[1], height_m]), fingers, tilted, tolerance_m)
        return self._kinematics.solve(grip, self._guess(outward))

    def _guess(self, radial: Float64[ndarray, " 3"]) -> Float64[ndarray, " dof"]:
        guess = dict.fromkeys(JOINTS, 0.0) | {"elbow_flex": 0.4, "wrist_flex": 1.1}
        guess["shoulder_pan"] = -math.atan2(radial[1], radial[0])
        order = self._arm.contract.joint_order(JOINTS)
        return np.array([guess[JOINTS[j]] for j in order])

    def _commanded(self, angles_rad: ndarray, gripper_rad: float) -> Float64[ndarray, " dof"]:
        """The command that brings the true joints to `angles_rad` against gravity and calibration error."""
        sag = self._kinematics.gravity_torque_nm(angles_rad) / self._arm.setup.servo.stiffness_nm_per_rad
        command = angles_rad + sag + self._arm.offset_rad
        return self.with_gripper(command, gripper_rad)

    def with_gripper(self, command_rad: ndarray, gripper_rad: float) -> Float64[ndarray, " dof"]:
        """The same command with another gripper angle."""
        changed = command_rad.copy()
        changed[self._gripper] = gripper_rad + self._arm.offset_rad[self._gripper]
        return np.clip(changed, self._arm.contract.lower_rad, self._arm.contract.upper_rad)
