# SPDX-License-Identifier: Apache-2.0
"""Forward kinematics: where the tool's points are, for many poses at once. Constants only, numpy only.

Where the joints of an arm sit is the optional `kinematics` of a contract: only what turns joint angles into the places
of tool points and of the capsules around the links, no masses. Lengths are in metres, in the frame of the arm's base
with z up.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.border import one_line

Triple = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]

_FARTHEST_M = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainLink:
    """A link that `joint` turns about `axis` (unit vector, own frame); the frame's place in the link before it.

    `quaternion` is (w, x, y, z), of length 1.
    """

    joint: str
    position_m: Triple
    quaternion: Quaternion
    axis: Triple


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolPoint:
    """A point of the tool, fixed to the link that `joint` turns."""

    name: str
    joint: str
    position_m: Triple


@dataclass(frozen=True, slots=True, kw_only=True)
class Capsule:
    """A shape around a part of `link`: all places within `radius_m` of the line from `start_m` to `end_m`.

    It is fixed to what `joint` turns, in that frame; without a joint to the base.
    """

    link: str
    joint: str | None
    start_m: Triple
    end_m: Triple
    radius_m: float


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepOut:
    """A box that no link may enter, its sides along the axes of the base's frame: its lowest and highest corner."""

    name: str
    low_m: Triple
    high_m: Triple


@dataclass(frozen=True, slots=True, kw_only=True)
class Kinematics:
    """Links from the base outwards, each carried by the one before it, and the points to look after.

    `capsules` are around the links; `pairs` names links that could meet, none: all that are no neighbours.
    """

    links: tuple[ChainLink, ...]
    points: tuple[ToolPoint, ...]
    capsules: tuple[Capsule, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()


def read_kinematics(entry: object, joint_names: tuple[str, ...], problems: list[str]) -> Kinematics | None:
    """A contract's `kinematics`; None where it has none, or where it adds to `problems`."""
    if entry is None:
        return None
    found = len(problems)
    links = _each(entry, "links", _link, problems)
    points = _each(entry, "points", _point, problems)
    optional = entry if isinstance(entry, dict) else {}
    capsules = _each(entry, "capsules", _capsule, problems) if "capsules" in optional else ()
    pairs = _each(entry, "pairs", _pair, problems) if "pairs" in optional else ()
    problems += [
        f"kinematics.{key} is not known, expected links, points, capsules or pairs"
        for key in optional.keys() - {"links", "points", "capsules", "pairs"}
    ]
    moved = [link.joint for link in links]
    problems += [f"kinematics.links: '{one_line(name)}' is no joint" for name in moved if name not in joint_names]
    problems += [
        f"kinematics.links: '{one_line(name)}' moves two links" for name in sorted(set(moved)) if moved.count(name) > 1
    ]
    problems += [
        f"kinematics.points: {point.name} sits on '{one_line(point.joint)}', which moves no link"
        for point in points
        if point.joint not in moved
    ]
    problems += _strange_capsules(capsules, pairs, moved)
    if len(problems) > found:
        return None
    return Kinematics(links=links, points=points, capsules=capsules, pairs=pairs)


def _strange_capsules(
    capsules: tuple[Capsule, ...], pairs: tuple[tuple[str, str], ...], moved: list[str]
) -> Iterator[str]:
    """What is wrong with capsules and pairs as a whole."""
    joint_of: dict[str, str | None] = {}
    for capsule in capsules:
        if capsule.joint is not None and capsule.joint not in moved:
            yield f"kinematics.capsules: {capsule.link} sits on '{one_line(capsule.joint)}', which moves no link"
        if joint_of.setdefault(capsule.link, capsule.joint) != capsule.joint:
            yield f"kinematics.capsules: {capsule.link} sits on two joints"
    for first, second in pairs:
        for name in sorted({first, second} - joint_of.keys()):
            yield f"kinematics.pairs: '{one_line(name)}' has no capsule"
        if first == second:
            yield f"kinematics.pairs: {first} is paired with itself"


def read_keep_out(entry: object, problems: list[str]) -> tuple[KeepOut, ...]:
    """A contract's `keep_out`; empty where it has none, or where it adds to `problems`."""
    return () if entry is None else _each({"keep_out": entry}, "keep_out", _keep_out, problems, place="")


def _each[T](
    entry: object,
    key: str,
    read: Callable[[object, str, list[str]], T | None],
    problems: list[str],
    *,
    place: str = "kinematics.",
) -> tuple[T, ...]:
    """The entries of a list that are right."""
    items = (read(item, f"{place}{key}[{i}]", problems) for i, item in enumerate(_list(entry, key, place, problems)))
    return tuple(item for item in items if item is not None)


def _list(entry: object, key: str, place: str, problems: list[str]) -> list[object]:
    value = entry.get(key) if isinstance(entry, dict) else None
    if isinstance(value, list) and value:
        return value
    problems.append(f"{place}{key} must be a list with at least one entry, got {one_line(value)}")
    return []


def _link(item: object, where: str, problems: list[str]) -> ChainLink | None:
    keys = {"joint", "position_m", "quaternion", "axis"}
    if not _is_mapping(item, keys, where, problems):
        return None
    assert isinstance(item, dict)
    quaternion = _vector(item, "quaternion", 4, where, problems, unit=True)
    axis = _vector(item, "axis", 3, where, problems, unit=True)
    position = _vector(item, "position_m", 3, where, problems)
    if quaternion is None or axis is None or position is None:
        return None
    return ChainLink(joint=str(item["joint"]), position_m=position, quaternion=quaternion, axis=axis)  # type: ignore[arg-type]


def _point(item: object, where: str, problems: list[str]) -> ToolPoint | None:
    if not _is_mapping(item, {"name", "joint", "position_m"}, where, problems):
        return None
    assert isinstance(item, dict)
    position = _vector(item, "position_m", 3, where, problems)
    if position is None:
        return None
    return ToolPoint(name=str(item["name"]), joint=str(item["joint"]), position_m=position)  # type: ignore[arg-type]


def _capsule(item: object, where: str, problems: list[str]) -> Capsule | None:
    if not _is_mapping(item, {"link", "joint", "start_m", "end_m", "radius_m"}, where, problems):
        return None
    assert isinstance(item, dict)
    start, end = (_vector(item, key, 3, where, problems) for key in ("start_m", "end_m"))
    radius = _vector({"radius_m": [item["radius_m"]]}, "radius_m", 1, where, problems)
    if start is None or end is None or radius is None:
        return None
    if not 0.0 < radius[0] <= 1.0:
        problems.append(f"{where}.radius_m must be within (0, 1], got {radius[0]:g}")
        return None
    joint = None if item["joint"] is None else str(item["joint"])
    return Capsule(link=str(item["link"]), joint=joint, start_m=start, end_m=end, radius_m=radius[0])  # type: ignore[arg-type]


def _pair(item: object, where: str, problems: list[str]) -> tuple[str, str] | None:
    if isinstance(item, list) and len(item) == 2:
        return str(item[0]), str(item[1])
    problems.append(f"{where} must be the names of two links, got {one_line(item)}")
    return None


def _keep_out(item: object, where: str, problems: list[str]) -> KeepOut | None:
    if not _is_mapping(item, {"name", "low_m", "high_m"}, where, problems):
        return None
    assert isinstance(item, dict)
    low, high = (_vector(item, key, 3, where, problems) for key in ("low_m", "high_m"))
    if low is None or high is None:
        return None
    if not all(a < b for a, b in zip(low, high, strict=True)):
        problems.append(f"{where}.low_m must be below high_m in every direction, got {low} and {high}")
        return None
    return KeepOut(name=str(item["name"]), low_m=low, high_m=high)  # type: ignore[arg-type]


def _is_mapping(item: object, keys: set[str], where: str, problems: list[str]) -> bool:
    if isinstance(item, dict) and item.keys() == keys:
        return True
    problems.append(f"{where} must be a mapping with exactly {', '.join(sorted(keys))}, got {one_line(item)}")
    return False


def _vector(
    item: dict[str, object], key: str, size: int, where: str, problems: list[str], *, unit: bool = False
) -> tuple[float, ...] | None:
    """`size` finite numbers; a direction or rotation (`unit`) is brought to length 1."""
    value = item[key]
    numbers = value if isinstance(value, list) and len(value) == size else []
    good = [
        float(x) for x in numbers if isinstance(x, int | float) and not isinstance(x, bool) and abs(x) <= _FARTHEST_M
    ]
    length = math.hypot(*good)
    if len(good) < size or (unit and length < 1e-6):
        kind = "numbers that are not all 0" if unit else "numbers"
        problems.append(
            f"{where}.{key} must be {size} {kind} within [-{_FARTHEST_M:g}, {_FARTHEST_M:g}], got {one_line(value)}"
        )
        return None
    return tuple(x / length for x in good) if unit else tuple(good)


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
