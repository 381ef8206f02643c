# SPDX-License-Identifier: Apache-2.0
"""Where the contract's capsules come from: the simulator's shapes of each link, held by a few capsules.

    python -m safety.collision.fit

prints `capsules` and `pairs` of config/so101.yaml; it takes half a minute. At first each of a link's shapes (boxes,
rods, hulls and what the simulator collides with; broad ones in pieces) has a capsule of its own. The two whose common
capsule takes up least more room are joined, and what lies inside another's is added to it, until `CAPSULES` are left. A
capsule is convex, so it holds a shape when it holds its corners. Pairs are links, not neighbours in the chain, that
come nearer than `NEAR_M` in some pose.
"""

import itertools
import sys
from collections.abc import Iterator

import mujoco
import numpy as np
from numpy import ndarray
from scipy.optimize import minimize
from scipy.spatial import ConvexHull

from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.sim.arm import LINKS
from sigma_ros.sim.scene import build_model
from sigma_ros.sim.setups import SOURCE

CAPSULES = {"base": 6, "shoulder": 6, "upper_arm": 5, "lower_arm": 5, "wrist": 4, "hand": 7, "moving_jaw": 4}
PIECE_M = {"shoulder": 0.02, "hand": 0.02}
"""Links whose shapes are cut into pieces of at most that before: broad parts that others fold onto."""

NAMES = {"hand": "gripper"}
"""Where the contract calls a link otherwise than the simulator does."""

NEAR_M = 0.005
_POSES = 1500
_ROUNDING_M = 2e-4
"""Written numbers have four digits."""

Fitted = tuple[ndarray, ndarray, float]
"""Start, end and radius of a capsule [m]."""


def shapes_m(model: mujoco.MjModel, link: str) -> list[ndarray]:
    """The corners of each shape of a link, in its own frame (corners x 3); round ones as polygons around them."""
    body = model.body(link).id
    return [_corners(model, geom) for geom in range(model.ngeom) if model.geom_bodyid[geom] == body]


def _corners(model: mujoco.MjModel, geom: int) -> ndarray:
    kind, size, mesh = model.geom_type[geom], model.geom_size[geom], model.geom_dataid[geom]
    if kind == mujoco.mjtGeom.mjGEOM_MESH:
        first = model.mesh_vertadr[mesh]
        corners = np.array(model.mesh_vert[first : first + model.mesh_vertnum[mesh]], dtype=np.float64)
    elif kind == mujoco.mjtGeom.mjGEOM_BOX:
        corners = size * np.array(list(itertools.product((-1.0, 1.0), repeat=3)))
    elif kind == mujoco.mjtGeom.mjGEOM_CYLINDER:
        corners = np.concatenate([_ring(size[0], side * size[1]) for side in (-1.0, 1.0)])
    else:
        assert kind == mujoco.mjtGeom.mjGEOM_CAPSULE, f"a shape of kind {kind} is not known"
        ups = np.linspace(0.0, np.pi / 2.0, 5)
        corners = np.concatenate(
            [_ring(size[0] * np.cos(up), side * (size[1] + size[0] * np.sin(up))) for up in ups for side in (-1.0, 1.0)]
        )
    turn = np.zeros(9)
    mujoco.mju_quat2Mat(turn, model.geom_quat[geom])
    return np.asarray(corners @ turn.reshape(3, 3).T + model.geom_pos[geom])


def _ring(radius_m: float, height_m: float) -> ndarray:
    """A polygon around a circle about z."""
    turns = np.arange(24) * np.pi / 12.0
    outer = radius_m / np.cos(np.pi / 24.0)
    return np.stack([outer * np.cos(turns), outer * np.sin(turns), np.full(24, height_m)], axis=1)


def distances_m(points: ndarray, start: ndarray, end: ndarray) -> ndarray:
    """From each point to a segment."""
    along = end - start
    share = np.clip((points - start) @ along / max(float(along @ along), 1e-12), 0.0, 1.0)
    return np.asarray(np.linalg.norm(points - start - share[:, None] * along, axis=1))


def _volume(ends: ndarray, points: ndarray) -> float:
    radius = float(distances_m(points, ends[:3], ends[3:]).max())
    return float(np.pi * radius**2 * (np.linalg.norm(ends[3:] - ends[:3]) + 4.0 / 3.0 * radius))


def _along_an_axis(points: ndarray) -> tuple[float, ndarray]:
    """Volume and ends of the least capsule along one of the points' own axes."""
    middle, found = points.mean(axis=0), []
    for axis in np.linalg.svd(points - middle, full_matrices=False)[2]:
        along = (points - middle) @ axis
        across = points - middle - np.outer(along, axis)
        centre = middle + (across.max(axis=0) + across.min(axis=0)) / 2.0
        radius = np.linalg.norm(points - centre - np.outer((points - centre) @ axis, axis), axis=1).max()
        low, high = along.min() + 0.75 * radius, along.max() - 0.75 * radius
        low, high = (low, high) if low < high else ((low + high) / 2.0,) * 2
        ends = np.concatenate((centre + low * axis, centre + high * axis))
        found.append((_volume(ends, points), ends))
    return min(found, key=lambda each: each[0])


def enclosing(points: ndarray) -> Fitted:
    """A small capsule around points."""
    first = _along_an_axis(points)[1]
    simplex = np.vstack([first, first + 0.004 * np.eye(6)])
    options = {"maxiter": 600, "xatol": 1e-4, "fatol": 1e-9, "initial_simplex": simplex}
    ends = np.round(minimize(_volume, first, args=(points,), method="Nelder-Mead", options=options).x, 4)
    start, end = ends[:3], ends[3:]
    return start, end, round(float(distances_m(points, start, end).max()) + _ROUNDING_M, 4)


def pieces_m(points: ndarray, longest_m: float) -> list[ndarray]:
    """A convex shape, halved across its longest side until no side is longer."""
    points = points[ConvexHull(points).vertices]
    axes = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)[2]
    axis = axes[np.argmax([np.ptp(points @ each) for each in axes])]
    along = points @ axis
    if np.ptp(along) <= longest_m:
        return [points]
    middle = (along.max() + along.min()) / 2.0
    low, high = points[along <= middle], points[along > middle]
    i, j = (each.ravel() for each in np.indices((len(low), len(high))))
    share = (middle - low[i] @ axis) / ((high[j] - low[i]) @ axis)
    between = low[i] + share[:, None] * (high[j] - low[i])
    return [*pieces_m(np.vstack((low, between)), longest_m), *pieces_m(np.vstack((between, high)), longest_m)]


_Group = tuple[int, ndarray, float, ndarray]
"""A number of its own, points, and the volume and ends of their capsule."""


def cover(shapes: list[ndarray], count: int) -> list[Fitted]:
    """`count` capsules that together hold some shapes."""
    numbers = itertools.count()
    groups = _outer([(next(numbers), points, *_along_an_axis(points)) for points in shapes], numbers)
    known: dict[tuple[int, int], _Group] = {}
    while len(groups) > count:
        best, least = (0, 1), np.inf
        for i, j in itertools.combinations(range(len(groups)), 2):
            key = groups[i][0], groups[j][0]
            if key not in known:
                points = _hull(groups[i][1], groups[j][1])
                known[key] = (next(numbers), points, *_along_an_axis(points))
            grown = known[key][2] - max(groups[i][2], groups[j][2])
            best, least = ((i, j), grown) if grown < least else (best, least)
        joined = known[groups[best[0]][0], groups[best[1]][0]]
        groups = _outer([*(group for k, group in enumerate(groups) if k not in best), joined], numbers)
    return [enclosing(points) for _, points, _, _ in groups]


def _hull(first: ndarray, second: ndarray) -> ndarray:
    """The corners of two sets of points together."""
    points = np.concatenate((first, second))
    return np.asarray(points[ConvexHull(points).vertices])


def _outer(groups: list[_Group], numbers: Iterator[int]) -> list[_Group]:
    """The groups without those that lie inside the capsule of a larger one, which holds their points from now on."""
    kept: list[_Group] = []
    for group in sorted(groups, key=lambda each: -each[2]):
        for k, (_, points, volume, ends) in enumerate(kept):
            radius = distances_m(points, ends[:3], ends[3:]).max()
            if distances_m(group[1], ends[:3], ends[3:]).max() <= radius:
                kept[k] = (next(numbers), _hull(points, group[1]), volume, ends)
                break
        else:
            kept.append(group)
    return kept


def pairs(model: mujoco.MjModel, contract: Contract) -> list[tuple[str, str]]:
    """Links that come near each other, by the distances of the simulator's shapes in random poses and at the limits."""
    data, rng = mujoco.MjData(model), np.random.default_rng(0)
    links = [link.name for link in LINKS]
    geoms = {name: [g for g in range(model.ngeom) if model.geom_bodyid[g] == model.body(name).id] for name in links}
    apart = [(a, b) for i, a in enumerate(links) for b in links[i + 2 :]]
    near: set[tuple[str, str]] = set()
    for _ in range(_POSES):
        shares = np.clip(rng.uniform(-0.2, 1.2, contract.dof), 0.0, 1.0)
        pose = contract.lower_rad + shares * (contract.upper_rad - contract.lower_rad)
        for name, angle in zip(contract.joint_names, pose, strict=True):
            data.qpos[model.joint(name).qposadr[0]] = angle
        mujoco.mj_kinematics(model, data)
        for a, b in set(apart) - near:
            least = min(mujoco.mj_geomDistance(model, data, g, h, 2 * NEAR_M, None) for g in geoms[a] for h in geoms[b])
            near |= {(a, b)} if least < NEAR_M else set()
    return [pair for pair in apart if pair in near]


def main() -> int:
    """Prints the entries."""
    contract = load_contract("so101")
    model = build_model(SOURCE, contract)
    sys.stdout.write("  capsules:\n")
    for link in LINKS:
        shapes = shapes_m(model, link.name)
        if link.name in PIECE_M:
            shapes = [piece for shape in shapes for piece in pieces_m(shape, PIECE_M[link.name])]
        for start, end, radius in cover(shapes, CAPSULES[link.name]):
            places = (", ".join(f"{x + 0.0:.4f}" for x in place) for place in (start, end))
            name, joint = NAMES.get(link.name, link.name), link.joint or "null"
            ends = ", ".join(f"{key}: [{place}]" for key, place in zip(("start_m", "end_m"), places, strict=True))
            sys.stdout.write(f"    - {{link: {name}, joint: {joint}, {ends}, radius_m: {radius:.4f}}}\n")
    words = (f"[{NAMES.get(a, a)}, {NAMES.get(b, b)}]" for a, b in pairs(model, contract))
    sys.stdout.write(f"  pairs: [{', '.join(words)}]\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
