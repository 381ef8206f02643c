# SPDX-License-Identifier: Apache-2.0
"""`SimArm`: the simulated arm as a robot one can command, read and look at."""

import math
from collections import deque
from collections.abc import Callable
from typing import Self

import mujoco
import numpy as np
from jaxtyping import Float64, UInt8
from numpy import ndarray

from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.errors import SigmaError
from sigma_ros.sim.arm import JOINTS, PADS
from sigma_ros.sim.cameras import Cameras
from sigma_ros.sim.scene import PHYSICS_HZ, brick_pose, build_model
from sigma_ros.sim.setups import SOURCE, BoxConfig, SceneConfig, ServoConfig
from sigma_ros.values import NS_PER_S, frozen_array

# The part of a Feetech servo that MuJoCo's actuator does not model: bus delay, speed limit, encoder.
#
# The position loop itself (stiffness, damping, torque limit, and thereby lag and gravity sag) is the
# actuator that `arm` adds to the model.


class ServoGoals:
    """What each servo is steering to at a physics step, given the commands it was sent."""

    def __init__(self, servo: ServoConfig, start_rad: Float64[ndarray, " dof"], step_s: float) -> None:
        delay_steps = round(servo.bus_delay_s / step_s)
        self._on_the_bus = deque([start_rad.copy()] * delay_steps)
        self._goal_rad = start_rad.copy()
        self._largest_step_rad = servo.max_speed_radps * step_s

    def advance(self, command_rad: Float64[ndarray, " dof"]) -> Float64[ndarray, " dof"]:
        """Sends one command and returns the goals of this physics step [rad]."""
        self._on_the_bus.append(command_rad)
        arrived = self._on_the_bus.popleft()
        change = np.clip(arrived - self._goal_rad, -self._largest_step_rad, self._largest_step_rad)
        self._goal_rad = self._goal_rad + change
        return self._goal_rad


def encoder_reading(angle_rad: Float64[ndarray, " dof"], counts_per_turn: int) -> Float64[ndarray, " dof"]:
    """Angles rounded to the encoder's counts [rad]."""
    count_rad = 2 * math.pi / counts_per_turn
    return np.round(angle_rad / count_rad) * count_rad


_REST_SPEED_MPS = 0.02
"""A brick slower than this lies still."""

_MARGIN_RAD = 1e-3
"""How far inside its limits a joint starts at least."""


class SimArm:
    """A simulated SO-101 with brick and box. The same seed and the same commands give the same episode.

    All joint vectors are in contract order. Readings and commands are in the arm's own calibration,
    which is off from the true angles by the set-up's `joint_offset_rad`. An instance belongs to one
    thread, but `open_cameras` and `snapshot` let another one draw.

    Args:
        setup: What the scene looks like and how its servos behave.
        contract: Joint names, order and limits, camera sizes; the shipped `so101` if None.
        furnish: Adds more to the scene before it is compiled.
    """

    def __init__(
        self,
        setup: SceneConfig = SOURCE,
        *,
        contract: Contract | None = None,
        furnish: Callable[[mujoco.MjSpec], None] | None = None,
    ) -> None:
        self.setup = setup
        self.contract = contract or load_contract("so101")
        self.model = build_model(setup, self.contract, furnish)
        self._data = mujoco.MjData(self.model)
        joints = [self.model.joint(name) for name in self._joint_names()]
        self._qpos = np.array([joint.qposadr[0] for joint in joints])
        self._qvel = np.array([joint.dofadr[0] for joint in joints])
        first = int(self.model.joint("brick").qposadr[0])
        self.brick_state = slice(first, first + 7)
        """Where the brick's pose (x, y, z, quaternion) is in a `snapshot`."""
        self._brick_qvel = int(self.model.joint("brick").dofadr[0])
        order = self.contract.joint_order(JOINTS)
        self.offset_rad = frozen_array(np.array(setup.joint_offset_rad)[order])
        self._rest_rad = np.array(setup.start.rest_rad)[order]
        self._cameras: Cameras | None = None
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Starts an episode: the brick somewhere in front of the arm, the arm near its rest pose, time 0."""
        rng = np.random.default_rng(seed)
        start = self.setup.start
        mujoco.mj_resetData(self.model, self._data)
        rest = self._rest_rad + rng.uniform(-1, 1, len(self._qpos)) * start.rest_spread_rad
        rest = self._true_rad(rest + self.offset_rad, margin_rad=_MARGIN_RAD)
        self._data.qpos[self._qpos] = rest
        pan = self.model.body("shoulder").pos
        self._data.qpos[self.brick_state] = brick_pose(self.setup, (pan[0], pan[1]), rng)
        self._command_rad = rest + self.offset_rad
        self._goals = ServoGoals(self.setup.servo, rest, 1.0 / PHYSICS_HZ)
        self._steps = 0
        self._asked_s = 0.0
        self._data.ctrl[:] = rest
        mujoco.mj_forward(self.model, self._data)

    def start(self, seed: int) -> None:
        """Starts the episode of a seed for whoever plays it: here `reset`."""
        self.reset(seed)

    @property
    def text(self) -> str:
        """What the episode asks for: the contract's first task."""
        return self.contract.tasks[0]

    def look_around(self) -> None:
        """Called at every tick before anything is read: on this table nothing happens by itself."""

    def succeeded(self) -> bool:
        """Whether what was asked for is done."""
        return self.brick_in_box()

    def finished(self) -> bool:
        """Whether nothing that still happens counts."""
        return self.succeeded()

    def step(self, command_rad: Float64[ndarray, " dof"], dt_s: float) -> None:
        """Sends one command and lets `dt_s` pass; over many calls time does not drift.

        Commands outside the joint limits are clamped, as the servo does.

        Raises:
            SigmaError: the command has the wrong length or is not finite; nothing moved.
        """
        command = np.asarray(command_rad, dtype=np.float64)
        if command.shape != self._command_rad.shape or not np.isfinite(command).all():
            raise SigmaError(
                "the simulated arm refuses a command",
                expected=f"{len(self._command_rad)} finite joint positions [rad]",
                got=command_rad,
            )
        self._command_rad = command.copy()
        true_command = self._true_rad(command)
        self._asked_s += dt_s
        while self._steps < round(self._asked_s * PHYSICS_HZ):
            self._data.ctrl[:] = self._goals.advance(true_command)
            mujoco.mj_step(self.model, self._data)
            self._steps += 1

    def positions_rad(self) -> Float64[ndarray, " dof"]:
        """Joint positions as the encoders read them."""
        reading = self._data.qpos[self._qpos] + self.offset_rad
        return encoder_reading(reading, self.setup.servo.counts_per_turn)

    def velocities_radps(self) -> Float64[ndarray, " dof"]:
        """True joint velocities."""
        return self._data.qvel[self._qvel].copy()

    @property
    def command_rad(self) -> Float64[ndarray, " dof"]:
        """The latest command; the start pose before the first."""
        return self._command_rad.copy()

    @property
    def time_ns(self) -> int:
        """Simulated time since `reset`."""
        return round(self._steps * NS_PER_S / PHYSICS_HZ)

    def brick_position_m(self) -> Float64[ndarray, " 3"]:
        """Middle of the brick in the base frame."""
        return self._data.qpos[self.brick_state][:3].copy()

    def brick_yaw_rad(self) -> float:
        """Direction of the brick's long side in the table's plane, from the base's x axis."""
        axis = self._data.body("brick").xmat.reshape(3, 3)[:, 0]
        return float(np.arctan2(axis[1], axis[0]))

    def place_brick(self, position_m: tuple[float, float, float], *, yaw_rad: float) -> None:
        """Puts the brick somewhere else, level and at rest, as a hand would."""
        half = yaw_rad / 2
        self._data.qpos[self.brick_state] = [*position_m, np.cos(half), 0.0, 0.0, np.sin(half)]
        self._data.qvel[self._brick_qvel : self._brick_qvel + 6] = 0.0
        mujoco.mj_forward(self.model, self._data)

    def brick_held(self) -> bool:
        """Whether both fingers press on the brick."""
        return self.holds("brick")

    def holds(self, brick: str) -> bool:
        """Whether both fingers press on the brick of that name."""
        return all(self._touching(pad, brick) for pad in PADS)

    def brick_in_box(self) -> bool:
        """Whether the brick lies still inside the box, let go by both fingers."""
        return self.rests_in("brick", self.setup.box)

    def rests_in(self, brick: str, box: BoxConfig) -> bool:
        """Whether the brick of that name lies still inside a box, let go by both fingers."""
        joint = self._data.joint(brick)
        offset = joint.qpos[:3] - np.array([*box.centre_m, 0.0])
        inside = bool(
            abs(offset[0]) < box.size_m[0] / 2
            and abs(offset[1]) < box.size_m[1] / 2
            and 0.0 < offset[2] < box.size_m[2]
        )
        still = float(np.linalg.norm(joint.qvel[:3])) < _REST_SPEED_MPS
        return inside and still and not any(self._touching(pad, brick) for pad in PADS)

    def snapshot(self) -> Float64[ndarray, " nq"]:
        """What `Cameras.render` needs of this instant; a copy, so that another thread may draw it."""
        return self._data.qpos.copy()

    def render(self, camera: str) -> UInt8[ndarray, "height width 3"]:
        """The picture of a contract camera, in its size; draws on the calling thread."""
        return self.draw(self._data.qpos, camera)

    def draw(self, state: Float64[ndarray, " nq"], camera: str) -> UInt8[ndarray, "height width 3"]:
        """The picture of a contract camera of an earlier `snapshot`."""
        if self._cameras is None:
            self._cameras = self.open_cameras()
        return self._cameras.render(state, camera)

    def open_cameras(self) -> Cameras:
        """A renderer of its own for another thread, with the contract's picture size."""
        first = self.contract.cameras[0]
        return Cameras(self.model, width_px=first.width_px, height_px=first.height_px, shadows=self.setup.shadows)

    def open_beauty(self, *, width_px: int = 1280, height_px: int = 960) -> Cameras:
        """A slow renderer with shadows and smooth edges for documents; its own camera is `scene.BEAUTY`."""
        return Cameras(self.model, width_px=width_px, height_px=height_px, beauty=True)

    def close(self) -> None:
        """Frees what rendering took."""
        if self._cameras is not None:
            self._cameras.close()
            self._cameras = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _true_rad(self, reading_rad: ndarray, *, margin_rad: float = 0.0) -> Float64[ndarray, " dof"]:
        """True angles of a reading or command; neither may leave the joint's limits."""
        lower, upper = self.contract.lower_rad + margin_rad, self.contract.upper_rad - margin_rad
        return np.clip(np.clip(reading_rad, lower, upper) - self.offset_rad, lower, upper)

    def _joint_names(self) -> tuple[str, ...]:
        return tuple(self.model.actuator(i).name for i in range(self.model.nu))

    def _touching(self, pad: str, brick: str) -> bool:
        pad_id, brick_id = self.model.geom(pad).id, self.model.geom(brick).id
        pairs = self._data.contact.geom
        return bool(((pairs == pad_id) | (pairs == brick_id)).all(axis=1).any())
