# SPDX-License-Identifier: Apache-2.0
"""Pictures of set-ups drawn at random, and where brick, box and fingers are in them.

A base model has seen more tables than one. What it learned there of where things are is what a target set-up's
pictures are read with; ranges are our choice, about twice what `TARGET` differs from `SOURCE` by.
"""

import colorsys
from collections.abc import Iterator
from dataclasses import dataclass, replace

import mujoco
import numpy as np
from jaxtyping import Float32, Float64, UInt8
from numpy import ndarray

from sigma_ros.contract import Contract
from sigma_ros.errors import SigmaError
from sigma_ros.sim.arm import GRASP_SITE
from sigma_ros.sim.demonstration import demonstrate
from sigma_ros.sim.environment import SimArm
from sigma_ros.sim.scene import brick_pose
from sigma_ros.sim.setups import BoxConfig, BrickConfig, LightConfig, SceneConfig, StartConfig, Triple, ViewConfig
from sigma_ros.streams.images import letterbox

PLACES = (
    *("brick_x", "brick_y", "box_x", "box_y", "fingers_x", "fingers_y"),
    *("brick_cos_2_angle", "brick_sin_2_angle"),
)
"""What is known of a picture: places in it, from -1 (left, top) to 1, and the direction of the brick's long side."""

_START = StartConfig(brick_radius_m=(0.140, 0.240), brick_azimuth_rad=(-0.20, 0.90))
_MOVED_SHARE = 0.6
"""Share of the pictures where the brick has been put somewhere else, so that the arm does not give it away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One instant of one set-up, in every camera's picture; `places` are `PLACES`."""

    images: UInt8[ndarray, "cameras size size 3"]
    places: Float32[ndarray, "cameras places"]


def random_setup(setup: SceneConfig, rng: np.random.Generator) -> SceneConfig:
    """`setup` on another table: cameras, light, brick, box and colours are drawn anew around it."""

    def about(values: tuple[float, ...], spread: float) -> Triple:
        x, y, z = np.array(values) + rng.uniform(-spread, spread, 3)
        return (float(x), float(y), float(z))

    def tinted(rgb: Triple, spread: float = 0.12) -> Triple:
        r, g, b = np.clip(about(rgb, spread), 0.02, 1.0)
        return (float(r), float(g), float(b))

    def view(old: ViewConfig) -> ViewConfig:
        return ViewConfig(
            position_m=about(old.position_m, 0.06),
            target_m=about(old.target_m, 0.025),
            fovy_deg=old.fovy_deg * float(rng.uniform(0.92, 1.10)),
            up=about(old.up, 0.08),
        )

    hue = float(rng.uniform(0.82, 0.98))
    lamp, room = setup.light.lamp_rgb, setup.light.room_rgb
    length, width, height = setup.box.size_m
    return replace(
        setup,
        name="random",
        cameras=tuple((name, view(old)) for name, old in setup.cameras),
        light=LightConfig(
            position_m=(float(rng.uniform(-0.6, 1.0)), float(rng.uniform(-0.8, 0.8)), float(rng.uniform(0.8, 1.4))),
            lamp_rgb=tinted(lamp, 0.15),
            room_rgb=tinted(room),
        ),
        brick=BrickConfig(
            size_m=(float(rng.uniform(0.022, 0.034)), 0.0158, 0.0114),
            rgb=colorsys.hsv_to_rgb(hue, float(rng.uniform(0.5, 0.85)), float(rng.uniform(0.75, 1.0))),
        ),
        box=BoxConfig(
            size_m=(length + float(rng.uniform(-0.01, 0.015)), width + float(rng.uniform(-0.01, 0.015)), height),
            centre_m=(
                setup.box.centre_m[0] + float(rng.uniform(-0.02, 0.02)),
                setup.box.centre_m[1] + float(rng.uniform(-0.02, 0.02)),
            ),
            rgba=(*tinted(setup.box.rgba[:3]), float(rng.uniform(0.22, 0.36))),
        ),
        start=_START,
        printed_rgb=tinted(setup.printed_rgb),
        accent_rgb=tinted(setup.accent_rgb),
        table_rgb=tinted(setup.table_rgb, 0.15),
    )


def random_scenes(
    setup: SceneConfig, contract: Contract, *, seed: tuple[int, ...], per_setup: int, size_px: int
) -> Iterator[list[Scene]]:
    """Endless groups of scenes, each group from one random set-up; the same seed gives the same ones."""
    rng = np.random.default_rng(seed)
    while True:
        with SimArm(random_setup(setup, rng), contract=contract) as arm:
            try:
                states = demonstrate(arm, int(rng.integers(1 << 31))).states
            except SigmaError:  # brick or box out of reach there
                continue
            yield [_scene(arm, states[i], rng, size_px) for i in rng.integers(len(states), size=per_setup)]


def _scene(arm: SimArm, state: Float64[ndarray, " nq"], rng: np.random.Generator, size_px: int) -> Scene:
    state = state.copy()
    if rng.random() < _MOVED_SHARE:
        pan = arm.model.body("shoulder").pos
        state[arm.brick_state] = brick_pose(arm.setup, (pan[0], pan[1]), rng)
    data = mujoco.MjData(arm.model)
    data.qpos[:] = state
    mujoco.mj_kinematics(arm.model, data)
    mujoco.mj_camlight(arm.model, data)
    names = [camera.name for camera in arm.contract.cameras]
    return Scene(
        images=np.stack([letterbox(arm.draw(state, name), size_px) for name in names]),
        places=np.stack([_places(arm, data, name) for name in names]).astype(np.float32),
    )


def _places(arm: SimArm, data: mujoco.MjData, camera: str) -> Float64[ndarray, " places"]:
    brick = data.body("brick")
    half = 0.5 * arm.setup.brick.size_m[0] * brick.xmat.reshape(3, 3)[:, 0]
    box = np.array([*arm.setup.box.centre_m, arm.setup.box.size_m[2]])
    points = np.stack([brick.xpos, box, data.site(GRASP_SITE).xpos, brick.xpos - half, brick.xpos + half])
    x, y = in_picture(arm, data, camera, points).T
    angle = 2.0 * np.arctan2(y[4] - y[3], x[4] - x[3])
    return np.array([x[0], y[0], x[1], y[1], x[2], y[2], np.cos(angle), np.sin(angle)])


def in_picture(
    arm: SimArm, data: mujoco.MjData, camera: str, points_m: Float64[ndarray, "points 3"]
) -> Float64[ndarray, "points 2"]:
    """Where points of the base frame are in the letterboxed picture: x to the right and y down, -1 to 1."""
    pose, fovy_rad = data.camera(camera), np.deg2rad(arm.model.camera(camera).fovy[0])
    sight = (points_m - pose.xpos) @ pose.xmat.reshape(3, 3)  # to the right, up, backwards
    first = arm.contract.cameras[0]
    half_size = np.tan(fovy_rad / 2) * max(first.width_px, first.height_px) / first.height_px
    return sight[:, :2] * (1.0, -1.0) / (-sight[:, 2:] * half_size)
