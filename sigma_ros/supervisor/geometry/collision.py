# SPDX-License-Identifier: Apache-2.0
"""How far the arm's links are from each other, from the table and from keep-out boxes, and how near they may come.

Links are capsules (the contract's). A *clearance* is the distance between two of these; from one command to the next it
may not fall below the margin. Two poses are special:

- An arm may stand too near, by its pose at engage or by limits that were tightened. There a clearance must grow with
  each step, by `_RISE_M_PER_RAD` at least: the arm can move away, not nearer and not along. (Along the table it can.)
- Capsules are larger than the links, and a folded arm lies on itself. Where it stood when it was engaged nothing
  touched, so within `_HOME_RAD` of that pose, by the joints between the two links, a clearance may be as small as it
  was there less `_HOME_SLACK_M`; above the table as small as it was, anywhere.

Between two commands the joints pass through straight lines. These are judged at least every `_STEP_RAD`, so that the
way between two judged poses takes less than the margin off a clearance.
"""

import copy
import math
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from sigma_ros.contract import Contract
from sigma_ros.kinematics import Capsule, ForwardKinematics, KeepOut, Kinematics, ToolPoint

_STEP_RAD = 0.02
_RISE_M_PER_RAD = 0.02
_HOME_RAD = 0.3
_HOME_SLACK_M = 5e-4
"""All joints leave a fold together and may pass by this much nearer; two encoder counts move the gripper as far."""

_TOLERANCE_M = 1e-9
_BALLS_PER_RADIUS = 2.0
"""A capsule is inside balls along it, this many a radius apart: they are 3 % thicker than it."""


class Collisions:
    """Clearances of many poses at once. Holds constants, and where the arm stood when it was engaged."""

    def __init__(
        self,
        kinematics: Kinematics,
        joint_names: tuple[str, ...],
        *,
        keep_out: tuple[KeepOut, ...] = (),
        plane_height_m: float = -math.inf,
        margin_m: float,
        fastest_step_rad: float,
    ) -> None:
        self._links = _CapsuleEnds(kinematics, joint_names)
        self._margin_m = margin_m
        self._steps = max(1, math.ceil(fastest_step_rad / _STEP_RAD - 1e-9))
        self._keep_out = keep_out
        self._plane_m = plane_height_m
        self._pairs = _Pairs(kinematics)
        self._moving = _Moving(kinematics)
        self.names = (
            *(f"the {_words(a)} would meet the {_words(b)}" for a, b in self._pairs.names),
            *(f"the {_words(link)} would meet the table" for link in self._moving.names if self._has_plane),
            *(f"the {_words(link)} would enter {box.name}" for box in keep_out for link in self._moving.names),
        )
        """What each clearance's loss means, in words."""
        self._between = self._joints_between(kinematics, joint_names)
        self._stood: tuple[ndarray, ndarray] | None = None

    @property
    def _has_plane(self) -> bool:
        return self._plane_m > -math.inf

    def _joints_between(self, kinematics: Kinematics, joint_names: tuple[str, ...]) -> Bool[ndarray, "clearances dof"]:
        """Which joints move the two of each clearance against each other; none for the table, which is level."""
        depth = _depths(kinematics)
        spans = [sorted((depth[a], depth[b])) for a, b in self._pairs.names]
        spans += [[0, 0]] * len(self._moving.names) * int(self._has_plane)
        spans += [[0, depth[link]] for link in self._moving.names] * len(self._keep_out)
        between = np.zeros((len(spans), len(joint_names)), dtype=np.bool_)
        for row, (low, high) in zip(between, spans, strict=True):
            row[[joint_names.index(link.joint) for link in kinematics.links[low:high]]] = True
        return between

    def standing_at(self, positions_rad: Float64[ndarray, " dof"]) -> "Collisions":
        """The same for an arm that was engaged at this pose."""
        here = copy.copy(self)
        here._stood = (np.array(positions_rad), self.clearances_m(positions_rad[None])[0])  # noqa: SLF001 (its own)
        return here

    def clearances_m(self, positions_rad: Float64[ndarray, "poses dof"]) -> Float64[ndarray, "poses clearances"]:
        """For each of `names` the least distance; negative: they overlap."""
        starts, ends = self._links.places_m(positions_rad)
        found = [self._pairs.clearances_m(starts, ends)]
        if self._has_plane:
            found.append(self._moving.above_m(starts, ends, self._plane_m))
        found += [self._moving.outside_m(starts, ends, box) for box in self._keep_out]
        return np.concatenate(found).T

    def shortfalls_m(self, runs_rad: Float64[ndarray, "runs ticks dof"]) -> Float64[ndarray, "runs clearances"]:
        """By how much each clearance falls below what it must be, at the worst place of a run; above 0 is refused.

        The first command of each run was published already.
        """
        runs, _, dof = runs_rad.shape
        shares = np.arange(1, self._steps + 1)[:, None] / self._steps
        before, after = runs_rad[:, :-1, None], runs_rad[:, 1:, None]
        way = (before + (after - before) * shares).reshape(runs, -1, dof)
        poses = np.concatenate((runs_rad[:, :1], way), axis=1)
        clear = self.clearances_m(poses.reshape(-1, dof)).reshape(runs, poses.shape[1], -1)
        shortfalls: Float64[ndarray, "runs clearances"] = (self._needed_m(poses, clear[:, :-1]) - clear[:, 1:]).max(
            axis=1
        )
        return shortfalls - _TOLERANCE_M

    def _needed_m(
        self, poses: Float64[ndarray, "runs poses dof"], before_m: Float64[ndarray, "runs earlier clearances"]
    ) -> Float64[ndarray, "runs earlier clearances"] | float:
        """What each clearance must be at each pose but the first, given those at the pose before it."""
        is_folded = self._stood is not None and bool((self._stood[1] < self._margin_m).any())
        if not is_folded and (before_m >= self._margin_m).all():
            return self._margin_m
        moved = np.where(self._between, np.abs(np.diff(poses, axis=1))[:, :, None], 0.0).max(axis=3)
        needed = np.minimum(before_m + _RISE_M_PER_RAD * moved, self._margin_m)
        if self._stood is None:
            return needed
        stood_rad, stood_m = self._stood
        away = np.where(self._between, np.abs(poses[:, 1:, None] - stood_rad), 0.0).max(axis=3)
        lowest_m = stood_m - _HOME_SLACK_M * self._between.any(axis=1)
        home_m = np.minimum(np.minimum(before_m, lowest_m), self._margin_m)
        return np.where(away < _HOME_RAD, home_m, needed)

    def obstacle(self, run_rad: Float64[ndarray, "ticks dof"]) -> str:
        """What would be met on a run, in words; empty where nothing is."""
        moves = np.flatnonzero((run_rad[1:] != run_rad[:-1]).any(axis=1))
        if not moves.size:
            return ""
        shortfalls = self.shortfalls_m(run_rad[None, : moves[-1] + 2])[0]
        worst = int(shortfalls.argmax())
        return self.names[worst] if shortfalls[worst] > 0.0 else ""


def collisions_of(
    contract: Contract, *, margin_m: float, plane_height_m: float, fastest_step_rad: float
) -> Collisions | None:
    """A robot's collisions; None where its contract has no capsules."""
    if contract.kinematics is None or not contract.capsules:
        return None
    return Collisions(
        contract.kinematics,
        contract.joint_names,
        keep_out=contract.keep_out,
        plane_height_m=plane_height_m,
        margin_m=margin_m,
        fastest_step_rad=fastest_step_rad,
    )


def _words(link: str) -> str:
    return link.replace("_", " ")


def _depths(kinematics: Kinematics) -> dict[str, int]:
    """How many joints move each link."""
    joints = [link.joint for link in kinematics.links]
    return {c.link: 0 if c.joint is None else joints.index(c.joint) + 1 for c in kinematics.capsules}


class _CapsuleEnds:
    """Both ends of every capsule, in the contract's order."""

    def __init__(self, kinematics: Kinematics, joint_names: tuple[str, ...]) -> None:
        capsules = kinematics.capsules
        points, self._still = [], np.zeros((3, 2 * len(capsules)))
        for number, capsule in enumerate(capsules):
            for end, place in enumerate((capsule.start_m, capsule.end_m)):
                column = 2 * number + end
                if capsule.joint is None:
                    self._still[:, column] = place
                else:
                    points.append(ToolPoint(name=str(column), joint=capsule.joint, position_m=place))
        self._forward = ForwardKinematics(replace(kinematics, points=tuple(points)), joint_names)
        self._columns = np.array([int(name) for name in self._forward.names], dtype=np.intp)

    def places_m(
        self, positions_rad: Float64[ndarray, "poses dof"]
    ) -> tuple[Float64[ndarray, "3 capsules poses"], Float64[ndarray, "3 capsules poses"]]:
        """Where they start and end."""
        places = np.repeat(self._still[:, :, None], len(positions_rad), axis=2)
        places[:, self._columns] = self._forward.points_m(positions_rad).transpose(1, 2, 0)
        return places[:, 0::2], places[:, 1::2]


class _Pairs:
    """Capsules of links that could meet, link pair by link pair."""

    def __init__(self, kinematics: Kinematics) -> None:
        capsules, depth = kinematics.capsules, _depths(kinematics)
        links = sorted(depth, key=lambda link: depth[link])
        apart = [(a, b) for i, a in enumerate(links) for b in links[i + 1 :] if depth[b] > depth[a] + 1]
        self.names = kinematics.pairs or tuple(apart)
        of = {link: [i for i, c in enumerate(capsules) if c.link == link] for link in links}
        pairs = [[(i, j) for i in of[a] for j in of[b]] for a, b in self.names]
        self._first = np.array([i for group in pairs for i, _ in group], dtype=np.intp)
        self._second = np.array([j for group in pairs for _, j in group], dtype=np.intp)
        self._groups = np.concatenate(([0], np.cumsum([len(group) for group in pairs])[:-1])).astype(np.intp)
        radii = np.array([c.radius_m for c in capsules])
        lengths = np.array([np.sum(np.subtract(c.end_m, c.start_m) ** 2) for c in capsules]) + 1e-18
        self._reach = (radii[self._first] + radii[self._second])[:, None]
        self._a, self._e = lengths[self._first, None], lengths[self._second, None]

    def clearances_m(
        self, starts: Float64[ndarray, "3 capsules poses"], ends: Float64[ndarray, "3 capsules poses"]
    ) -> Float64[ndarray, "pairs poses"]:
        """Least distance between the capsules of each pair of links (Ericson, Real-Time Collision Detection, 5.1.9)."""
        # Points s1 + s d1 and s2 + t d2, r = s1 - s2, a = d1 d1, e = d2 d2, b = d1 d2, c = d1 r, f = d2 r: the distance
        # is least for s = (b f - c e) / (a e - b b) and t = (b s + f) / e, each kept within [0, 1]; its square is
        # r r + s (a s + 2 c - 2 b t) + t (e t - 2 f).
        if not self.names:
            return np.zeros((0, starts.shape[2]))
        a, e, ways = self._a, self._e, ends - starts
        d1, d2 = ways.take(self._first, axis=1), ways.take(self._second, axis=1)
        r = starts.take(self._first, axis=1) - starts.take(self._second, axis=1)
        b, c, f, square = (_dot(x, y) for x, y in ((d1, d2), (d1, r), (d2, r), (r, r)))
        s = np.clip((b * f - c * e) / np.maximum(a * e - b * b, 1e-18), 0.0, 1.0)
        t = np.clip((b * s + f) / e, 0.0, 1.0)
        s = np.clip((b * t - c) / a, 0.0, 1.0)
        square += s * (a * s + 2.0 * (c - b * t)) + t * (e * t - 2.0 * f)
        distances = np.sqrt(np.maximum(square, 0.0)) - self._reach
        return np.asarray(np.minimum.reduceat(distances, self._groups, axis=0))


def _dot(x: Float64[ndarray, "3 pairs poses"], y: Float64[ndarray, "3 pairs poses"]) -> Float64[ndarray, "pairs poses"]:
    product = x * y
    return np.asarray(product[0] + product[1] + product[2])


class _Moving:
    """Capsules of the links that move, against what stands still."""

    def __init__(self, kinematics: Kinematics) -> None:
        depth = _depths(kinematics)
        self.names = tuple(sorted((link for link in depth if depth[link]), key=lambda link: depth[link]))
        own = [(i, c) for link in self.names for i, c in enumerate(kinematics.capsules) if c.link == link]
        self._capsules = np.array([i for i, _ in own], dtype=np.intp)
        self._radii = np.array([c.radius_m for _, c in own])[:, None]
        self._groups = self._first_of([c.link for _, c in own])
        self._set_balls([c for _, c in own])

    @staticmethod
    def _first_of(links: list[str]) -> Int64[ndarray, " links"]:
        return np.array([k for k, link in enumerate(links) if k == 0 or links[k - 1] != link], dtype=np.intp)

    def _set_balls(self, capsules: list[Capsule]) -> None:
        """Balls along each capsule that together hold it."""
        owner, shares, radii = [], [], []
        for number, capsule in enumerate(capsules):
            length, radius = math.dist(capsule.start_m, capsule.end_m), capsule.radius_m
            count = 1 + math.ceil(_BALLS_PER_RADIUS * length / radius)
            spacing = length / max(1, count - 1)
            owner += [number] * count
            shares += list(np.linspace(0.0, 1.0, count))
            radii += [math.hypot(radius, 0.5 * spacing)] * count
        self._owner, self._ball_groups = (
            np.array(owner, dtype=np.intp),
            self._first_of([capsules[k].link for k in owner]),
        )
        self._shares, self._ball_radii = np.array(shares)[:, None], np.array(radii)[:, None]

    def above_m(self, starts: ndarray, ends: ndarray, height_m: float) -> Float64[ndarray, "links poses"]:
        """How far each link is above a level plane."""
        lowest = np.minimum(starts[2], ends[2])[self._capsules] - self._radii
        return np.asarray(np.minimum.reduceat(lowest, self._groups, axis=0) - height_m)

    def outside_m(self, starts: ndarray, ends: ndarray, box: KeepOut) -> Float64[ndarray, "links poses"]:
        """How far each link is outside a box."""
        owner = self._capsules[self._owner]
        centres = starts[:, owner] + self._shares * (ends - starts)[:, owner]
        low, high = (np.array(corner)[:, None, None] for corner in (box.low_m, box.high_m))
        beyond = np.maximum(low - centres, centres - high)
        outside = np.sqrt((np.maximum(beyond, 0.0) ** 2).sum(axis=0)) + np.minimum(beyond.max(axis=0), 0.0)
        return np.asarray(np.minimum.reduceat(outside - self._ball_radii, self._ball_groups, axis=0))
