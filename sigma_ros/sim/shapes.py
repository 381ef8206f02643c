# SPDX-License-Identifier: Apache-2.0
"""Draws parts onto bodies in one drawing frame, whatever frame each body itself uses.

The arm's public link frames point in odd directions. Parts are therefore drawn where they stand when
all joints are at zero (x forward, y left, z up) and carried into their body's frame here.
"""

import math
from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Float64
from numpy import ndarray

VISUAL_GROUP, DETAIL_GROUP = 0, 1
"""Details are drawn for people only: a policy's camera cannot tell a screw, and each costs 20 microseconds."""

COLLISION_GROUP = 3
STATIC, ARM, BRICK = 1, 2, 4
"""Contact bits: static things touch arm and brick, arm and brick touch each other, the arm not itself."""

Point = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Pose:
    """A rigid transform: rotation matrix and translation [m]."""

    rotation: Float64[ndarray, "3 3"]
    translation_m: Float64[ndarray, " 3"]

    @classmethod
    def of(cls, position_m: Point, quaternion: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)) -> "Pose":
        """From a position and a (w, x, y, z) quaternion, which is normalised."""
        quat = np.array(quaternion, dtype=np.float64)
        matrix = np.zeros(9)
        mujoco.mju_quat2Mat(matrix, quat / np.linalg.norm(quat))
        return cls(matrix.reshape(3, 3), np.array(position_m, dtype=np.float64))

    def __matmul__(self, other: "Pose") -> "Pose":
        return Pose(self.rotation @ other.rotation, self.rotation @ other.translation_m + self.translation_m)

    def inverse(self) -> "Pose":
        """The transform that undoes this one."""
        return Pose(self.rotation.T, -self.rotation.T @ self.translation_m)

    def quaternion(self) -> Float64[ndarray, " 4"]:
        """The rotation as (w, x, y, z)."""
        quat = np.zeros(4)
        mujoco.mju_mat2Quat(quat, self.rotation.reshape(9))
        return quat


@dataclass(frozen=True, slots=True)
class Pen:
    """Draws on one body; every coordinate is in the drawing frame, in metres."""

    spec: mujoco.MjSpec
    body: mujoco.MjsBody
    body_from_drawing: Pose

    def box(self, centre_m: Point, size_m: Point, material: str, *, detail: bool = False) -> None:
        """A box of full `size_m`."""
        self.body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=np.array(size_m) / 2,
            material=material,
            group=DETAIL_GROUP if detail else VISUAL_GROUP,
            **self._place(centre_m),
            **_DRAWN,
        )

    def rod(self, start_m: Point, end_m: Point, radius_m: float, material: str, *, detail: bool = False) -> None:
        """A cylinder between two points."""
        ends = np.concatenate([self._point(start_m), self._point(end_m)])
        self.body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_CYLINDER,
            fromto=ends,
            size=[radius_m, 0, 0],
            material=material,
            group=DETAIL_GROUP if detail else VISUAL_GROUP,
            **_DRAWN,
        )

    def plate(self, outline_m: list[tuple[float, float]], y_m: tuple[float, float], material: str) -> None:
        """A plate with a convex outline in the x-z plane, between two values of y."""
        corners = np.array([(x, y, z) for y in y_m for x, z in outline_m])
        self.hull(corners, material)

    def hull(self, corners_m: Float64[ndarray, "corner 3"], material: str) -> None:
        """The convex hull of points."""
        local = corners_m @ self.body_from_drawing.rotation.T + self.body_from_drawing.translation_m
        name = f"{self.body.name}_hull_{len(self.spec.meshes)}"
        self.spec.add_mesh(name=name, uservert=local.reshape(-1), inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_CONVEX)
        self.body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_MESH, meshname=name, material=material, group=VISUAL_GROUP, **_DRAWN
        )

    def bumper(self, start_m: Point, end_m: Point, radius_m: float) -> None:
        """An invisible capsule with which the arm touches table, box and brick."""
        ends = np.concatenate([self._point(start_m), self._point(end_m)])
        self.body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_CAPSULE,
            fromto=ends,
            size=[radius_m, 0, 0],
            friction=[0.6, 0.005, 1e-4],
            **_TOUCH,
        )

    def pad(self, name: str, centre_m: Point, size_m: Point, *, friction: float) -> None:
        """An invisible box with which a jaw holds the brick: soft enough to hold, rough enough not to slip."""
        self.body.add_geom(
            name=name,
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=np.array(size_m) / 2,
            friction=[friction, 0.02, 1e-4],
            condim=4,
            priority=1,
            solref=[0.004, 1.0],
            solimp=[0.95, 0.99, 0.0005, 0.5, 2.0],
            **self._place(centre_m),
            **_TOUCH,
        )

    def site(self, name: str, centre_m: Point) -> None:
        """A named frame, parallel to the drawing frame at zero pose."""
        self.body.add_site(name=name, group=COLLISION_GROUP, **self._place(centre_m))

    def _point(self, point_m: Point) -> ndarray:
        return self.body_from_drawing.rotation @ np.array(point_m) + self.body_from_drawing.translation_m

    def _place(self, centre_m: Point) -> dict[str, ndarray]:
        pose = self.body_from_drawing @ Pose.of(centre_m)
        return {"pos": pose.translation_m, "quat": pose.quaternion()}


_DRAWN = {"contype": 0, "conaffinity": 0, "mass": 0.0}
_TOUCH = {"contype": ARM, "conaffinity": STATIC, "group": COLLISION_GROUP, "mass": 0.0}


def arc(centre: tuple[float, float], radius_m: float, start_deg: float, end_deg: float) -> list[tuple[float, float]]:
    """Points on a circle in the x-z plane, every 30 degrees; 0 degrees is +x, 90 degrees +z."""
    steps = max(1, round(abs(end_deg - start_deg) / 30))
    angles = np.radians(np.linspace(start_deg, end_deg, steps + 1))
    return [(centre[0] + radius_m * math.cos(a), centre[1] + radius_m * math.sin(a)) for a in angles]
