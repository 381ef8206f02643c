# SPDX-License-Identifier: Apache-2.0
"""MOCK of an arm with position servos, whose joint states can lie or vanish."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy import ndarray
from sensor_msgs.msg import JointState

from sigma_ros.nodes.shared.sensor_messages import joint_state_message

LAG_S = 0.06
_HOUR_NS = 3_600_000_000_000


@dataclass(frozen=True, slots=True)
class Saying:
    """What a joint state says."""

    at_ns: int
    names: tuple[str, ...]
    pose_rad: ndarray


def _nan(said: Saying, index: int | slice) -> Saying:
    pose = np.array(said.pose_rad)
    pose[index] = np.nan
    return replace(said, pose_rad=pose)


def _shifted(said: Saying, by_rad: float) -> Saying:
    pose = np.array(said.pose_rad)
    pose[0] += by_rad
    return replace(said, pose_rad=pose)


LIES: dict[str, Callable[[Saying], Saying]] = {
    "nan": lambda said: _nan(said, slice(None)),
    "one_nan": lambda said: _nan(said, 2),
    "degrees": lambda said: replace(said, pose_rad=np.degrees(said.pose_rad) + 20.0),
    "jump": lambda said: _shifted(said, 0.8),
    "turned": lambda said: _shifted(said, 2.0 * np.pi),
    "other_names": lambda said: replace(said, names=tuple(f"j{i}" for i in range(6))),
    "duplicate_names": lambda said: replace(said, names=(said.names[0],) * 6),
    "shuffled": lambda said: replace(said, names=said.names[::-1], pose_rad=said.pose_rad[::-1]),
    "swapped_values": lambda said: replace(said, pose_rad=said.pose_rad[::-1]),
    "five_joints": lambda said: replace(said, names=said.names[:5], pose_rad=said.pose_rad[:5]),
    "bare": lambda said: replace(said, pose_rad=np.zeros(0)),
    "future": lambda said: replace(said, at_ns=said.at_ns + _HOUR_NS),
    "skewed_ahead": lambda said: replace(said, at_ns=said.at_ns + 500_000_000),
    "skewed_behind": lambda said: replace(said, at_ns=said.at_ns - 500_000_000),
    "zero_stamp": lambda said: replace(said, at_ns=0),
}
"""Joint states gone wrong, by name."""


class MockArm:
    """A first-order lag on the commanded positions that holds the last one.

    `mode` is `normal`, `silent` (no joint states), `stalled` (it does not move), `frozen` (it moves, its joint states
    do not) or one of `LIES`.
    """

    def __init__(self, pose_rad: ndarray) -> None:
        self.mode = "normal"
        self._frozen_rad = pose_rad
        self.put(pose_rad)

    def put(self, pose_rad: ndarray) -> None:
        """Somebody moves it by hand."""
        self.pose_rad = np.array(pose_rad)
        self._points_rad = np.array(pose_rad)[None]
        self._age_s, self._period_s = 0.0, 1.0

    def follow(self, points_rad: ndarray, period_s: float) -> None:
        """Takes new goals, one per period from now on; the last one is held."""
        self._points_rad, self._period_s, self._age_s = points_rad, period_s, 0.0

    def move(self, dt_s: float) -> None:
        """Approaches its goal, unless it is stalled."""
        index = min(int(self._age_s / self._period_s + 1e-6), len(self._points_rad) - 1)
        self._age_s += dt_s
        if self.mode != "stalled":
            self.pose_rad = self.pose_rad + min(1.0, dt_s / LAG_S) * (self._points_rad[index] - self.pose_rad)

    def message(self, at_ns: int, names: tuple[str, ...]) -> JointState | None:
        """Its joint state as the mode wants it."""
        if self.mode == "silent":
            return None
        if self.mode != "frozen":
            self._frozen_rad = self.pose_rad
        said = Saying(at_ns, names, self._frozen_rad)
        said = LIES[self.mode](said) if self.mode in LIES else said
        return joint_state_message(at_ns=said.at_ns, names=said.names, positions_rad=said.pose_rad)
