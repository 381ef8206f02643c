# SPDX-License-Identifier: Apache-2.0
"""What can differ between two simulated set-ups, as frozen values, and the three that ship.

`SOURCE` stands for the data a base model was trained on, `TARGET` for the arm on somebody's table:
other camera poses and light, another brick and box, joints calibrated a little off, softer and slower
servos, bricks in a smaller region and a steadier teacher. `BUMPED` is that table after somebody ran into
it on a duller day: no model has seen it, and what foresees failures is judged there. All describe the same
task, so that what a policy must correct for is exactly this list.
"""

from dataclasses import dataclass, field, replace

from sigma_ros.errors import UsageError

Triple = tuple[float, float, float]

LARGEST_PUSH_RAD = 0.3
"""Demonstrations may be pushed off their path by so much; further the expert fails."""


def _refuse(problems: list[str], where: str) -> None:
    if problems:
        raise UsageError("the simulated set-up makes no sense", where=where, got=" | ".join(problems))


@dataclass(frozen=True, slots=True, kw_only=True)
class ServoConfig:
    """A Feetech STS3215 under its own position loop, as seen from outside.

    Defaults follow public recordings of commanded against achieved positions of a sister arm: the
    state lags a moving command by three frames at 30 Hz (0.1 s) and hangs 0.5-4 degrees below a
    static one where gravity pulls. `stiffness_nm_per_rad` sets that sag, `lag_s` that delay.

    Attributes:
        stiffness_nm_per_rad: Proportional gain of the position loop.
        lag_s: Delay of the achieved behind a steadily moving command, bus delay included. A command that
            is held for a tick adds half a tick.
        bus_delay_s: Part of `lag_s` that is pure transport.
        max_speed_radps: Speed at which the servo runs after a jump of its goal.
        max_torque_nm: Stall torque of the five arm servos (7.4 V).
        gripper_torque_nm: Torque limit of the gripper servo; LeRobot sets half of the stall torque.
        counts_per_turn: Resolution of the magnetic encoder that readings are rounded to.
    """

    stiffness_nm_per_rad: float = 30.0
    lag_s: float = 0.085
    bus_delay_s: float = 0.01
    max_speed_radps: float = 4.8
    max_torque_nm: float = 2.94
    gripper_torque_nm: float = 1.2
    counts_per_turn: int = 4096

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be above 0, got {getattr(self, name)}"
            for name in ("stiffness_nm_per_rad", "max_speed_radps", "max_torque_nm", "gripper_torque_nm")
            if not getattr(self, name) > 0.0
        ]
        if not 0.0 <= self.bus_delay_s <= self.lag_s <= 0.5:
            problems.append(f"0 <= bus_delay_s <= lag_s <= 0.5 must hold, got {self.bus_delay_s}, {self.lag_s}")
        if self.counts_per_turn < 16:
            problems.append(f"counts_per_turn must be at least 16, got {self.counts_per_turn}")
        _refuse(problems, "ServoConfig")


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewConfig:
    """One camera: where it is, what it looks at [m, base frame], and how wide it sees vertically."""

    position_m: Triple
    target_m: Triple
    fovy_deg: float
    up: Triple = (0.0, 0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LightConfig:
    """A lamp above the table and the room's diffuse light, both as RGB in [0, 1]."""

    position_m: Triple = (0.75, 0.25, 1.2)
    lamp_rgb: Triple = (0.56, 0.55, 0.52)
    room_rgb: Triple = (0.42, 0.42, 0.44)


@dataclass(frozen=True, slots=True, kw_only=True)
class BrickConfig:
    """The brick to pick: a 2x4 stud toy brick. `size_m` is its full length, width, height without studs."""

    size_m: Triple = (0.0318, 0.0158, 0.0114)
    rgb: Triple = (0.98, 0.25, 0.58)
    mass_kg: float = 0.005
    friction: float = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxConfig:
    """The transparent box to put it into, standing on the table. `size_m` is outer length, width, height."""

    size_m: Triple = (0.12, 0.12, 0.055)
    centre_m: tuple[float, float] = (0.215, -0.150)
    wall_m: float = 0.0025
    rgba: tuple[float, float, float, float] = (0.72, 0.86, 0.96, 0.30)


@dataclass(frozen=True, slots=True, kw_only=True)
class StartConfig:
    """Where an episode may start: the brick in polar coordinates about the pan axis, the arm near its rest pose.

    `brick_yaw_rad` is the angle of the brick's long side from the tangent of that circle; `rest_rad`
    is the folded pose in which LeRobot's recordings start, in the arm's order; `rest_spread_rad` the
    largest random deviation from it.
    """

    brick_radius_m: tuple[float, float] = (0.150, 0.225)
    brick_azimuth_rad: tuple[float, float] = (-0.10, 0.85)
    brick_yaw_rad: tuple[float, float] = (-0.7, 0.7)
    rest_rad: tuple[float, ...] = (0.0, -1.65, 1.55, 1.15, 0.0, 0.05)
    rest_spread_rad: float = 0.06


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherConfig:
    """How much one demonstration of the scripted teacher differs from the next: ranges of what it draws.

    Attributes:
        speed: As a share of the contract's limits.
        hover_m: Height over the brick from which it is approached.
        grasp_shift_m: Along the brick, from its middle.
        drop_shift_m: From the middle of the box, along both axes.
        pause_s: Before and after closing the fingers.
    """

    speed: tuple[float, float] = (0.85, 0.98)
    hover_m: tuple[float, float] = (0.045, 0.060)
    grasp_shift_m: tuple[float, float] = (-0.003, 0.003)
    drop_shift_m: tuple[float, float] = (-0.015, 0.015)
    pause_s: tuple[float, float] = (0.10, 0.20)


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneConfig:
    """One simulated set-up. Joint values are in the arm's own order (`arm.JOINTS`).

    `joint_offset_rad` is what a calibration got wrong: reading minus true angle.
    """

    name: str
    servo: ServoConfig = field(default_factory=ServoConfig)
    cameras: tuple[tuple[str, ViewConfig], ...] = ()
    light: LightConfig = field(default_factory=LightConfig)
    brick: BrickConfig = field(default_factory=BrickConfig)
    box: BoxConfig = field(default_factory=BoxConfig)
    start: StartConfig = field(default_factory=StartConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    joint_offset_rad: tuple[float, ...] = (0.0,) * 6
    printed_rgb: Triple = (0.93, 0.92, 0.89)
    accent_rgb: Triple = (0.98, 0.42, 0.07)
    table_rgb: Triple = (0.76, 0.66, 0.52)
    shadows: bool = False

    def __post_init__(self) -> None:
        problems = []
        if len(self.joint_offset_rad) != 6 or len(self.start.rest_rad) != 6:
            problems.append("joint_offset_rad and start.rest_rad need six values")
        if not all(abs(offset) <= 0.3 for offset in self.joint_offset_rad):
            problems.append(f"joint offsets must stay within 0.3 rad, got {self.joint_offset_rad}")
        if not self.cameras:
            problems.append("at least one camera is needed")
        _refuse(problems, f"SceneConfig {self.name}")

    @property
    def camera_names(self) -> tuple[str, ...]:
        """Names of the cameras, in order."""
        return tuple(name for name, _ in self.cameras)


UP_VIEW = ViewConfig(position_m=(0.16, 0.0, 0.75), target_m=(0.155, 0.0, 0.0), fovy_deg=33.0, up=(1.0, 0.0, 0.0))
SIDE_VIEW = ViewConfig(position_m=(0.56, 0.46, 0.33), target_m=(0.17, -0.015, 0.065), fovy_deg=38.0)

_TARGET_UP_VIEW = ViewConfig(
    position_m=(0.185, -0.03, 0.72), target_m=(0.165, -0.005, 0.0), fovy_deg=34.5, up=(1.0, 0.06, 0.0)
)
_TARGET_SIDE_VIEW = ViewConfig(position_m=(0.60, 0.41, 0.36), target_m=(0.16, -0.005, 0.06), fovy_deg=39.0)

SOURCE = SceneConfig(name="source", cameras=(("up", UP_VIEW), ("side", SIDE_VIEW)))
"""The set-up of the demonstrations a base model learns from."""

TARGET = SceneConfig(
    name="target",
    servo=ServoConfig(stiffness_nm_per_rad=18.0, lag_s=0.115, max_speed_radps=4.2),
    cameras=(("up", _TARGET_UP_VIEW), ("side", _TARGET_SIDE_VIEW)),
    light=LightConfig(position_m=(0.1, -0.6, 1.0), lamp_rgb=(0.66, 0.56, 0.42), room_rgb=(0.34, 0.33, 0.36)),
    brick=BrickConfig(size_m=(0.0238, 0.0158, 0.0114), rgb=(0.90, 0.30, 0.66), mass_kg=0.004),
    box=BoxConfig(size_m=(0.13, 0.11, 0.05), centre_m=(0.205, -0.160), rgba=(0.80, 0.92, 0.86, 0.26)),
    start=StartConfig(brick_radius_m=(0.165, 0.210), brick_azimuth_rad=(0.15, 0.60), brick_yaw_rad=(-0.35, 0.35)),
    teacher=TeacherConfig(
        speed=(0.90, 0.98),
        hover_m=(0.048, 0.056),
        grasp_shift_m=(-0.0015, 0.0015),
        drop_shift_m=(-0.008, 0.008),
        pause_s=(0.10, 0.16),
    ),
    joint_offset_rad=(0.035, -0.045, 0.040, -0.030, 0.050, 0.020),
    printed_rgb=(0.86, 0.87, 0.90),
    accent_rgb=(0.95, 0.50, 0.16),
    table_rgb=(0.66, 0.62, 0.57),
)
"""The set-up a deployed policy meets; every field differs from `SOURCE` as a real table does."""

BUMPED = replace(
    TARGET,
    name="bumped",
    cameras=(
        ("up", replace(_TARGET_UP_VIEW, position_m=(0.189, -0.026, 0.72), target_m=(0.167, -0.003, 0.0))),
        ("side", replace(_TARGET_SIDE_VIEW, position_m=(0.594, 0.416, 0.363), target_m=(0.162, -0.003, 0.06))),
    ),
    light=replace(TARGET.light, lamp_rgb=(0.57, 0.485, 0.37), room_rgb=(0.295, 0.285, 0.31)),
    box=replace(TARGET.box, centre_m=(0.208, -0.156)),
)
"""`TARGET` with both cameras moved by half a centimetre, the box too, and an eighth less light: not for training."""

SETUPS = {setup.name: setup for setup in (SOURCE, TARGET, BUMPED)}


def setup_named(name: str) -> SceneConfig:
    """The shipped set-up of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in SETUPS:
        raise UsageError("no such simulated set-up", expected=" or ".join(SETUPS), got=name)
    return SETUPS[name]
