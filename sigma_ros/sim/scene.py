# SPDX-License-Identifier: Apache-2.0
"""Arm, table, brick, transparent box, lamp and cameras of a `SceneConfig`, compiled into one MuJoCo model."""

import math
from collections.abc import Callable

import mujoco
import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.contract import Contract
from sigma_ros.sim.arm import add_arm
from sigma_ros.sim.setups import BoxConfig, BrickConfig, SceneConfig, ViewConfig
from sigma_ros.sim.shapes import ARM, BRICK, COLLISION_GROUP, STATIC, VISUAL_GROUP, Point, Pose

PHYSICS_HZ = 600
"""Physics steps per second: a whole number of them fits 30, 50, 60 and 100 Hz ticks."""

BEAUTY_VIEW = ViewConfig(position_m=(0.62, 0.44, 0.33), target_m=(0.145, -0.03, 0.095), fovy_deg=35.0)
BEAUTY = "beauty"
_BOX_FLOOR_M = 0.04
_STUD_PITCH_M, _STUD_RADIUS_M, _STUD_HEIGHT_M = 0.0080, 0.0024, 0.0017


def build_model(
    setup: SceneConfig, contract: Contract, furnish: Callable[[mujoco.MjSpec], None] | None = None
) -> mujoco.MjModel:
    """The whole set-up as a model; the brick is body `brick` with a free joint of the same name.

    `furnish` may add more to the scene before it is compiled.
    """
    spec = mujoco.MjSpec()
    spec.modelname = f"so101_{setup.name}"
    _options(spec, setup)
    _materials(spec, setup)
    add_arm(spec, contract, setup)
    _table(spec)
    _room(spec.worldbody)
    add_box(spec.worldbody, setup.box)
    add_brick(spec.worldbody, setup.brick)
    _light(spec, setup)
    for name, view in (*setup.cameras, (BEAUTY, BEAUTY_VIEW)):
        rotation = _looking(view)
        spec.worldbody.add_camera(
            name=name, pos=view.position_m, quat=Pose(rotation, np.zeros(3)).quaternion(), fovy=view.fovy_deg
        )
    if furnish is not None:
        furnish(spec)
    return spec.compile()


def _options(spec: mujoco.MjSpec, setup: SceneConfig) -> None:
    spec.compiler.degree = False
    spec.option.timestep = 1.0 / PHYSICS_HZ
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 10.0
    spec.option.noslip_iterations = 2
    spec.visual.global_.offwidth, spec.visual.global_.offheight = 1280, 960
    spec.visual.quality.offsamples = 0
    spec.visual.quality.shadowsize = 1024
    spec.visual.quality.numslices, spec.visual.quality.numstacks = 12, 2
    spec.visual.map.znear, spec.visual.map.zfar = 0.05, 20.0
    spec.stat.extent, spec.stat.center = 0.6, (0.2, 0.0, 0.1)
    spec.visual.headlight.ambient = setup.light.room_rgb
    spec.visual.headlight.diffuse = (0.18, 0.18, 0.18)
    spec.visual.headlight.specular = (0.05, 0.05, 0.05)


def _materials(spec: mujoco.MjSpec, setup: SceneConfig) -> None:
    plain = {
        "printed": (setup.printed_rgb, 0.15),
        "accent": (setup.accent_rgb, 0.15),
        "servo": ((0.085, 0.085, 0.095), 0.35),
        "servo_edge": ((0.15, 0.15, 0.16), 0.3),
        "metal": ((0.66, 0.67, 0.70), 0.7),
        "board": ((0.05, 0.24, 0.42), 0.3),
        "brick": (setup.brick.rgb, 0.35),
        "room": ((0.74, 0.76, 0.78), 0.0),
    }
    for name, (rgb, specular) in plain.items():
        spec.add_material(name=name, rgba=(*rgb, 1.0), specular=specular, shininess=0.3)
    spec.add_material(name="glass", rgba=setup.box.rgba, specular=0.6, shininess=0.6)
    red, green, blue, alpha = setup.box.rgba
    spec.add_material(name="rim", rgba=(red, green, blue, min(1.0, alpha + 0.35)), specular=0.6, shininess=0.6)
    spec.add_texture(
        name="grain",
        type=mujoco.mjtTexture.mjTEXTURE_2D,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_FLAT,
        mark=mujoco.mjtMark.mjMARK_RANDOM,
        random=0.02,
        rgb1=(1.0, 1.0, 1.0),
        markrgb=(0.93, 0.93, 0.93),
        width=256,
        height=256,
    )
    table = spec.add_material(name="table", rgba=(*setup.table_rgb, 1.0), specular=0.1, shininess=0.1, texrepeat=(2, 2))
    table.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "grain"


def _table(spec: mujoco.MjSpec) -> None:
    spec.worldbody.add_geom(
        name="table",
        type=mujoco.mjtGeom.mjGEOM_BOX,
        pos=(0.22, 0.0, -0.015),
        size=(0.42, 0.50, 0.015),
        material="table",
        contype=STATIC,
        conaffinity=0,
        friction=(0.6, 0.005, 1e-4),
        group=VISUAL_GROUP,
    )


def _room(world: mujoco.MjsBody) -> None:
    """Floor and two walls to look at: cheaper to draw than a sky."""
    walls: dict[str, tuple[Point, tuple[float, float, float, float]]] = {
        "floor": ((0.0, 0.0, -0.72), (1.0, 0.0, 0.0, 0.0)),
        "back_wall": ((-1.6, 0.0, 0.0), (1.0, 0.0, 1.0, 0.0)),
        "right_wall": ((0.0, -1.6, 0.0), (1.0, -1.0, 0.0, 0.0)),
    }
    for name, (position, quaternion) in walls.items():
        pose = Pose.of(position, quaternion)
        world.add_geom(
            name=name,
            type=mujoco.mjtGeom.mjGEOM_PLANE,
            pos=position,
            quat=pose.quaternion(),
            size=(6, 6, 3.0),
            material="room",
            contype=STATIC if name == "floor" else 0,
            conaffinity=0,
            group=VISUAL_GROUP,
        )


def add_box(world: mujoco.MjsBody, box: BoxConfig, *, name: str = "box") -> None:
    """A transparent box that stands on the table, as a body of that name."""
    length, width, height = box.size_m
    wall = box.wall_m
    body = world.add_body(name=name, pos=(*box.centre_m, 0.0))
    body.add_geom(  # thicker than it looks: a falling brick must not sink through a thin floor
        type=mujoco.mjtGeom.mjGEOM_BOX,
        pos=(0, 0, wall - _BOX_FLOOR_M / 2),
        size=(length / 2, width / 2, _BOX_FLOOR_M / 2),
        contype=STATIC,
        conaffinity=0,
        group=COLLISION_GROUP,
    )
    body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_BOX,
        pos=(0, 0, wall / 2),
        size=(length / 2, width / 2, wall / 2),
        material="glass",
        contype=0,
        conaffinity=0,
        group=VISUAL_GROUP,
    )
    pieces: list[tuple[Point, Point]] = []
    rims: list[tuple[Point, Point]] = []
    for side in (-1, 1):
        x, y = side * (length - wall) / 2, side * (width - wall) / 2
        pieces += [((x, 0, height / 2), (wall, width, height)), ((0, y, height / 2), (length - 2 * wall, wall, height))]
        rims += [((x, 0, height), (2.2 * wall, width, wall)), ((0, y, height), (length, 2.2 * wall, wall))]
    for centre, size in pieces:
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX,
            pos=centre,
            size=np.array(size) / 2,
            material="glass",
            contype=STATIC,
            conaffinity=0,
            group=VISUAL_GROUP,
        )
    for centre, size in rims:
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX,
            pos=centre,
            size=np.array(size) / 2,
            material="rim",
            contype=0,
            conaffinity=0,
            group=VISUAL_GROUP,
        )


def add_brick(world: mujoco.MjsBody, brick: BrickConfig, *, name: str = "brick", material: str = "brick") -> None:
    """A loose brick as a body, joint and geom of that name."""
    body = world.add_body(name=name, pos=(0.25, 0.0, brick.size_m[2] / 2))
    body.add_freejoint(name=name)
    body.add_geom(
        name=name,
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=np.array(brick.size_m) / 2,
        mass=brick.mass_kg,
        material=material,
        contype=BRICK,
        conaffinity=STATIC | ARM,
        condim=4,
        friction=(brick.friction, 0.01, 1e-4),
        group=VISUAL_GROUP,
    )
    counts = [max(1, round(side / _STUD_PITCH_M)) for side in brick.size_m[:2]]
    top = brick.size_m[2] / 2 + _STUD_HEIGHT_M / 2
    for i in range(counts[0]):
        for j in range(counts[1]):
            body.add_geom(
                type=mujoco.mjtGeom.mjGEOM_CYLINDER,
                pos=((i - (counts[0] - 1) / 2) * _STUD_PITCH_M, (j - (counts[1] - 1) / 2) * _STUD_PITCH_M, top),
                size=(_STUD_RADIUS_M, _STUD_HEIGHT_M / 2, 0),
                mass=0.0,
                material=material,
                contype=0,
                conaffinity=0,
                group=VISUAL_GROUP,
            )


def _light(spec: mujoco.MjSpec, setup: SceneConfig) -> None:
    position = np.array(setup.light.position_m)
    aim = np.array([0.18, 0.0, 0.0]) - position
    spec.worldbody.add_light(
        name="lamp",
        pos=position,
        dir=aim / np.linalg.norm(aim),
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
        castshadow=True,
        diffuse=setup.light.lamp_rgb,
        specular=(0.35, 0.35, 0.35),
    )


def _looking(view: ViewConfig) -> Float64[ndarray, "3 3"]:
    """Camera axes as columns: right, up, and backwards from the target."""
    back = np.array(view.position_m, dtype=np.float64) - np.array(view.target_m)
    back /= np.linalg.norm(back)
    right = np.cross(np.array(view.up, dtype=np.float64), back)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(back, right), back], axis=1)


def brick_pose(setup: SceneConfig, pan_axis_m: tuple[float, float], rng: np.random.Generator) -> ndarray:
    """A random start pose of the brick, lying on the table: x, y, z [m] and quaternion (w, x, y, z)."""
    start = setup.start
    radius = rng.uniform(*start.brick_radius_m)
    azimuth = rng.uniform(*start.brick_azimuth_rad)
    yaw = azimuth + math.pi / 2 + rng.uniform(*start.brick_yaw_rad)
    x, y = pan_axis_m[0] + radius * math.cos(azimuth), pan_axis_m[1] + radius * math.sin(azimuth)
    return np.array([x, y, setup.brick.size_m[2] / 2, math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)])
