# SPDX-License-Identifier: Apache-2.0
"""The scene of all tasks: two bricks, two boxes, three buttons with a lamp each, and a lamp that says go.

A lamp is a body on a slide joint: out of sight below the table when it is off. So it is part of the positions from
which pictures are drawn, touches nothing, and the arm moves the same whether it is on or off.
"""

import math
from dataclasses import replace

import mujoco
import numpy as np
from jaxtyping import Float32, Float64
from numpy import ndarray

from sigma_ros.contract import Contract
from sigma_ros.sim.arm import PADS
from sigma_ros.sim.environment import SimArm
from sigma_ros.sim.scene import add_box, add_brick
from sigma_ros.sim.setups import TARGET, BoxConfig, SceneConfig
from sigma_ros.sim.shapes import VISUAL_GROUP
from sigma_ros.sim.tasks.task import GO, BrickPlace, Flash, TaskEpisode, TaskEvent

BRICK_NAMES = ("pink", "blue")
BOX_NAMES = ("front", "back")
BUTTON_NAMES = ("left", "middle", "right")

PAN_AXIS_M = (0.0388353, 0.0)
"""Where the pan axis meets the table."""

BUTTON_RADIUS_M = 0.225
_BUTTON_AZIMUTHS_RAD = (0.65, 0.25, -0.15)
_SECOND_BOX_M = (0.059, -0.229)
_BRICK_BODIES = ("brick", "second_brick")
_BRICK_RGB = ((0.90, 0.30, 0.66), (0.20, 0.35, 0.85))
_LAMP_RGB = (0.98, 0.85, 0.20)
_GO_RGB = (0.20, 0.80, 0.30)
_GO_PLACE_M = (0.30, 0.20)
_LAMP_HALF_M = (0.011, 0.003)
_ON_M, _OFF_M = 0.003, -0.05
_PARKED = (BrickPlace(-0.10, 0.38, 0.0), BrickPlace(-0.10, 0.44, 0.0))

TAP_M, TAP_OVER_M = 0.025, 0.065
"""Heights of the finger tips when a button is pressed, and over it before and after."""

_PRESSED_M, _RELEASED_M, _NEAR_M = 0.037, 0.052, 0.030

FEATURES = 14
"""Numbers of one scene token: see `TaskArm.tokens`."""

TOKENS = 9


def button_place(button: int) -> tuple[float, float]:
    """Where a button is on the table [m]."""
    azimuth = _BUTTON_AZIMUTHS_RAD[button]
    x, y = PAN_AXIS_M
    return x + BUTTON_RADIUS_M * math.cos(azimuth), y + BUTTON_RADIUS_M * math.sin(azimuth)


class TaskArm(SimArm):
    """The simulated arm with the scene of all tasks; `begin` starts an episode instead of `reset`.

    Args:
        setup: Servos, light, the first brick and the first box; the second ones are made like them.
    """

    def __init__(self, setup: SceneConfig = TARGET, *, contract: Contract | None = None) -> None:
        self.boxes: tuple[BoxConfig, ...] = (setup.box, replace(setup.box, centre_m=_SECOND_BOX_M))
        super().__init__(setup, contract=contract, furnish=self._furnish)
        self._lamps: dict[int | str, int] = {
            lamp: int(self.model.joint(f"lamp_{lamp}").qposadr[0]) for lamp in (*range(len(BUTTON_NAMES)), GO)
        }
        self._flashes: tuple[Flash, ...] = ()
        self._watch = _Watch()

    def begin(self, episode: TaskEpisode) -> None:
        """Puts everything where the episode starts, time 0."""
        self.reset(episode.seed)
        for name, place, parked in zip(_BRICK_BODIES, episode.bricks, _PARKED, strict=True):
            self._lay(name, place or parked)
        self._flashes = episode.flashes
        self._watch = _Watch()
        self.look_around()

    def look_around(self) -> None:
        """Switches the lamps that are due and notes what has happened; call it at every tick, before `tokens`."""
        now_s = self.time_ns * 1e-9 + 1e-9
        lit = {flash.lamp for flash in self._flashes if flash.start_s <= now_s < flash.end_s}
        for lamp, address in self._lamps.items():
            self._data.qpos[address] = _ON_M if lamp in lit else _OFF_M
        mujoco.mj_forward(self.model, self._data)
        self._watch.note(self, now_s)

    @property
    def events(self) -> tuple[TaskEvent, ...]:
        """What has happened in this episode, in order."""
        return tuple(self._watch.events)

    def fingers_m(self) -> Float64[ndarray, " 3"]:
        """The point between the finger tips."""
        return np.mean([self._data.geom(pad).xpos for pad in PADS], axis=0)

    def brick_pose(self, brick: int) -> tuple[Float64[ndarray, " 3"], float]:
        """Middle of a brick [m] and the direction of its long side in the table's plane."""
        body = self._data.body(_BRICK_BODIES[brick])
        axis = body.xmat.reshape(3, 3)[:, 0]
        return body.xpos.copy(), float(np.arctan2(axis[1], axis[0]))

    def holds_brick(self, brick: int) -> bool:
        """Whether both fingers press on a brick."""
        return self.holds(_BRICK_BODIES[brick])

    def brick_rests_in(self, brick: int, box: int) -> bool:
        """Whether a brick lies still in a box, let go."""
        return self.rests_in(_BRICK_BODIES[brick], self.boxes[box])

    def tokens(self) -> Float32[ndarray, "tokens features"]:
        """The scene as `TOKENS` rows of `FEATURES` numbers, a function of the positions alone: what pictures show.

        Rows: bricks, boxes, lamps of the buttons, go lamp, hand. Numbers: there; kind (brick, box, lamp, hand);
        colour (3); x, y, z from the middle of the work space in units of 0.125 m (3); held; cosine and sine of twice
        the yaw. What is out of sight is a row of zeros.
        """
        held = [self.holds_brick(brick) for brick in range(len(_BRICK_BODIES))]
        rows = [_row(0, _BRICK_RGB[i], *self.brick_pose(i), held=held[i]) for i in range(len(_BRICK_BODIES))]
        rows += [_row(1, box.rgba[:3], np.array([*box.centre_m, 0.0]), 0.0) for box in self.boxes]
        rows += [self._lamp_row(lamp, address) for lamp, address in self._lamps.items()]
        rows.append(_row(3, (0.0, 0.0, 0.0), self.fingers_m(), 0.0, held=any(held)))
        return np.stack(rows)

    def _lamp_row(self, lamp: int | str, address: int) -> Float32[ndarray, " features"]:
        if self._data.qpos[address] < 0.0:
            return np.zeros(FEATURES, dtype=np.float32)
        colour, place = (_GO_RGB, _GO_PLACE_M) if isinstance(lamp, str) else (_LAMP_RGB, button_place(lamp))
        return _row(2, colour, np.array([*place, _ON_M]), 0.0)

    def _lay(self, name: str, place: BrickPlace) -> None:
        height, half = self.setup.brick.size_m[2] / 2, place.yaw_rad / 2
        joint = self._data.joint(name)
        joint.qpos[:] = [place.x_m, place.y_m, height, math.cos(half), 0.0, 0.0, math.sin(half)]
        joint.qvel[:] = 0.0

    def _furnish(self, spec: mujoco.MjSpec) -> None:
        for name, rgb in (("second_brick", _BRICK_RGB[1]), ("lamp", _LAMP_RGB), ("go", _GO_RGB)):
            spec.add_material(name=name, rgba=(*rgb, 1.0), specular=0.3, shininess=0.3)
        add_brick(spec.worldbody, TARGET.brick, name="second_brick", material="second_brick")
        add_box(spec.worldbody, self.boxes[1], name="second_box")
        for button in range(len(BUTTON_NAMES)):
            _add_lamp(spec, f"lamp_{button}", "lamp", button_place(button))
        _add_lamp(spec, f"lamp_{GO}", "go", _GO_PLACE_M)


def _row(
    kind: int,
    rgb: tuple[float, ...],
    position_m: Float64[ndarray, " 3"],
    yaw_rad: float,
    *,
    held: bool = False,
) -> Float32[ndarray, " features"]:
    kinds = [float(kind == k) for k in range(4)]
    place = (position_m - np.array([0.2, 0.0, 0.0])) * 8.0
    turned = [math.cos(2 * yaw_rad), math.sin(2 * yaw_rad)]
    return np.array([1.0, *kinds, *rgb, *place, float(held), *turned], dtype=np.float32)


def _add_lamp(spec: mujoco.MjSpec, name: str, material: str, place_m: tuple[float, float]) -> None:
    body = spec.worldbody.add_body(name=name, pos=(*place_m, 0.0), gravcomp=1.0)
    body.add_joint(name=name, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=(0, 0, 1), damping=1.0)
    body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_CYLINDER,
        size=(*_LAMP_HALF_M, 0),
        mass=0.01,
        material=material,
        contype=0,
        conaffinity=0,
        group=VISUAL_GROUP,
    )


class _Watch:
    """Turns positions into events."""

    def __init__(self) -> None:
        self.events: list[TaskEvent] = []
        self._resting: set[tuple[int, int]] = set()
        self._down: int | None = None

    def note(self, arm: TaskArm, now_s: float) -> None:
        for brick in range(len(_BRICK_BODIES)):
            for box in range(len(arm.boxes)):
                if (brick, box) not in self._resting and arm.brick_rests_in(brick, box):
                    self._resting.add((brick, box))
                    self.events.append(TaskEvent("placed", brick, box, now_s))
        self._note_fingers(arm.fingers_m(), now_s)

    def _note_fingers(self, fingers_m: Float64[ndarray, " 3"], now_s: float) -> None:
        near = next((b for b in range(len(BUTTON_NAMES)) if math.dist(button_place(b), fingers_m[:2]) < _NEAR_M), None)
        if self._down is None and near is not None and fingers_m[2] < _PRESSED_M:
            self._down = near
            self.events.append(TaskEvent("tapped", near, near, now_s))
        elif fingers_m[2] > _RELEASED_M:
            self._down = None
