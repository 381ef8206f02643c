# SPDX-License-Identifier: Apache-2.0
"""Forward kinematics: where the tool's points are, for many poses at once. Constants only, numpy only."""

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.chain import ChainLink, Kinematics, ToolPoint


class ForwardKinematics:
    """Tool points from joint positions. Joints that move no link have no influence.

    A link's transform is linear in (1, cos, sin) of its joint: `still + cos * across + sin * turned`.
    """

    def __init__(self, kinematics: Kinematics, joint_names: tuple[str, ...]) -> None:
        joints = [link.joint for link in kinematics.links]
        points = sorted(kinematics.points, key=lambda point: -joints.index(point.joint))
        self.names = tuple(point.name for point in points)
        """The points in the order of `points_m`: those of the outermost link first."""
        self._parts = np.stack([_linear_parts(link) for link in kinematics.links]).reshape(-1, 3, 16)
        self._columns = np.array([joint_names.index(joint) for joint in joints], dtype=np.intp)
        self._carried = [_homogeneous([point for point in points if point.joint == joint]) for joint in joints]

    def points_m(self, positions_rad: Float64[ndarray, "poses dof"]) -> Float64[ndarray, "poses 3 points"]:
        """Each point's place in the base's frame, z up [m]."""
        poses = positions_rad.shape[0]
        angles = positions_rad.T[self._columns]
        terms = np.ones((angles.shape[0], poses, 3))
        np.cos(angles, out=terms[:, :, 1])
        np.sin(angles, out=terms[:, :, 2])
        frames = (terms @ self._parts).reshape(-1, poses, 4, 4)
        points = np.zeros((poses, 4, 0))
        for frame, own in zip(frames[::-1], self._carried[::-1], strict=True):
            if own.shape[1]:
                points = np.concatenate((points, np.broadcast_to(own, (poses, *own.shape))), axis=2)
            points = frame @ points
        places: Float64[ndarray, "poses 3 points"] = points[:, :3]
        return places


def _linear_parts(link: ChainLink) -> Float64[ndarray, "3 4 4"]:
    """The constant, the cosine's and the sine's 4 x 4 part of a link's transform (Rodrigues)."""
    u = np.array(link.axis)
    along = np.outer(u, u)
    cross = np.array([[0.0, -u[2], u[1]], [u[2], 0.0, -u[0]], [-u[1], u[0], 0.0]])
    fixed = np.eye(4)
    fixed[:3, :3], fixed[:3, 3] = _rotation(link.quaternion), link.position_m
    parts = np.zeros((3, 4, 4))
    parts[:, :3, :3] = along, np.eye(3) - along, cross
    parts[0, 3, 3] = 1.0
    return fixed @ parts


def _rotation(quaternion: tuple[float, float, float, float]) -> Float64[ndarray, "3 3"]:
    w, x, y, z = quaternion
    return np.array(
        [
            [1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - w * z), 2.0 * (x * z + w * y)],
            [2.0 * (x * y + w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - w * x)],
            [2.0 * (x * z - w * y), 2.0 * (y * z + w * x), 1.0 - 2.0 * (x * x + y * y)],
        ]
    )


def _homogeneous(points: list[ToolPoint]) -> Float64[ndarray, "4 points"]:
    columns = np.ones((4, len(points)))
    for index, point in enumerate(points):
        columns[:3, index] = point.position_m
    return columns
