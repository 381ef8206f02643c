# SPDX-License-Identifier: Apache-2.0
"""Contact, seen from positions alone: how far a command may be ahead of its joint, and whether a joint is blocked.

A position servo pushes with a torque that grows with the distance from joint to command, so bounding that distance
bounds the force. A healthy servo is behind as well: by its lag (0.1 s on an SO-107, so 0.1 rad at 1 rad/s) and by its
sag, what gravity and friction take (0.045 rad at rest, up to 0.17 rad in motion on the same arm). The lag is allowed
for in proportion to the *measured* speed: a joint that stands has none. The sag is learned, slowly and up to a bound:
where the joint was beside its command as motion began, and on average since.
"""

from collections import deque

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from sigma_ros.contract import Contract
from sigma_ros.supervisor.chunks import ACCEPTED, Verdict, refused
from sigma_ros.supervisor.guard import Reach
from sigma_ros.supervisor.inputs import ENCODER_COUNT_RAD, JointReading
from sigma_ros.supervisor.limits import MotionLimits, SupervisorLimits
from sigma_ros.supervisor.reasons import Reason
from sigma_ros.values import NS_PER_S

_SPEED_NS = NS_PER_S // 20
"""The measured speed is taken over at least this long."""

_WINDOW_NS = NS_PER_S // 5
"""Commanded and measured motion are compared over this long: at 0.1 rad/s 13 encoder counts."""

_LAG_SHARES = (0.0, 1.0 / 3.0, 2.0 / 3.0, 1.0)
"""Lags that a servo may have, of the longest: a blocked one ignores what was asked with any of them."""

_ASKED_RAD = 0.016
"""Less commanded motion in the window than this says nothing: friction alone can hold a joint back for it."""

_MOVED_SHARE = 0.2
_STUCK_NS, _FIRM_NS = 2 * NS_PER_S // 25, 3 * NS_PER_S // 50
_FIRM_SHARE = 0.75
"""Friction alone holds a joint of a real arm back for 0.28 s, at less than this share of the lead: it must last."""

_STILL_RAD = 2.0 * ENCODER_COUNT_RAD
"""A joint that moved less than that share, or no more than that, did not follow."""

_SAG_S = 1.0
_LARGEST_SAG_RAD = 0.1

_HELD_BACK_NS = NS_PER_S // 10
_STANDS_NS = 3 * NS_PER_S // 20
"""A joint that did not move for the second while its request was beyond its reach for the first is blocked."""

_KEPT_NS = NS_PER_S
_LARGEST_AGE_S = 0.1


class ContactWatch:
    """What was asked for, commanded and measured in the last second, and what follows from it.

    `sag_rad`: how far joints are beside their commands without being blocked; None until the first motion.
    """

    def __init__(
        self, contract: Contract, limits: SupervisorLimits, *, sag_rad: Float64[ndarray, " dof"] | None = None
    ) -> None:
        self._names = contract.joint_names
        self._limits = limits
        self.sag_rad = sag_rad
        self._judged = np.array([name not in limits.untracked_joints for name in self._names])
        self._is_on = limits.bound_lead and limits.check_tracking
        self._samples: deque[JointReading] = deque(maxlen=64)
        self._commands: deque[tuple[int, ndarray]] = deque(maxlen=256)
        self._held_back_since_ns: Int64[ndarray, " dof"] = np.full(contract.dof, -1, dtype=np.int64)
        self._ignored_since_ns: Int64[ndarray, " dof"] = np.full(contract.dof, -1, dtype=np.int64)
        self._period_s = contract.command_period_ns / NS_PER_S

    def calm(self) -> None:
        """Nothing is asked for: what was seen means nothing any more. The sag stays; what presses now is none of it."""
        self._samples.clear()
        self._commands.clear()
        self._held_back_since_ns[:] = -1
        self._ignored_since_ns[:] = -1

    def reach(self, sample: JointReading | None, observation_now_ns: int, motion: MotionLimits) -> Reach | None:
        """The bound around the measured joints; None where none is asked for, or nothing is measured.

        On the side to which a joint moves at speed v it is wider by `v (lag + age)`, what a healthy servo is behind
        by then, and by `v^2 / 2a + v a / 2j`, what a stop from v takes.
        """
        if not self._is_on or sample is None:
            return None
        if not self._samples or sample.stamp_ns > self._samples[-1].stamp_ns:
            self._samples.append(sample)
        while len(self._samples) > 2 and sample.stamp_ns - self._samples[1].stamp_ns >= _WINDOW_NS:
            self._samples.popleft()
        speed = self._speed(sample)
        age_s = min(max(0, observation_now_ns - sample.stamp_ns) / NS_PER_S, _LARGEST_AGE_S)
        acceleration, jerk = motion.acceleration_radps2, motion.jerk_radps3
        fast = np.abs(speed)
        ahead = fast * (self._limits.servo_lag_s + age_s)
        ahead = ahead + fast**2 / (2.0 * acceleration) + fast * acceleration / (2.0 * jerk)
        lead = np.where(self._judged, self._limits.max_lead_rad, np.inf)
        aim_rad = sample.positions_rad if self.sag_rad is None else sample.positions_rad + self.sag_rad
        return Reach(
            lower_rad=aim_rad - lead - np.where(speed < 0.0, ahead, 0.0),
            upper_rad=aim_rad + lead + np.where(speed > 0.0, ahead, 0.0),
            speed_radps=speed,
        )

    def judge(self, command_rad: Float64[ndarray, " dof"], held_back: Bool[ndarray, " dof"], now_ns: int) -> Verdict:
        """Whether a joint is blocked, once per tick with what was published.

        `held_back`: joints whose request lies beyond their reach. Blocked is a joint that is pressed and did not follow
        what was commanded throughout the window, whether its servo lags or not; or that stands while held back.
        """
        if not self._is_on or not self._samples:
            return ACCEPTED
        self._commands.append((now_ns, command_rad))
        while len(self._commands) > 1 and now_ns - self._commands[0][0] > _KEPT_NS:
            self._commands.popleft()
        moved = self._moved_since(now_ns - _WINDOW_NS)
        sag_rad = self._learn_sag(now_ns, moves=moved > _STILL_RAD)
        asked_rad = self._asked(now_ns)
        asked = np.abs(asked_rad)
        ahead_rad = command_rad - self._samples[-1].positions_rad
        pressing_rad = ahead_rad - sag_rad
        least_rad = self._limits.contact_lead_rad
        presses = pressing_rad * np.sign(asked_rad) >= least_rad
        ignored = presses & (asked >= _ASKED_RAD) & (moved < np.maximum(_MOVED_SHARE * asked, _STILL_RAD))
        self._ignored_since_ns = np.where(ignored & (self._ignored_since_ns >= 0), self._ignored_since_ns, now_ns)
        firm = np.abs(pressing_rad) >= _FIRM_SHARE * self._limits.max_lead_rad
        stuck = now_ns - self._ignored_since_ns >= np.where(firm, _FIRM_NS, _STUCK_NS)
        self._ignored_since_ns = np.where(ignored, self._ignored_since_ns, -1)
        ignored &= stuck
        held_back = held_back & (np.abs(pressing_rad) >= least_rad)
        blocked = self._judged & (ignored | self._stands_held_back(held_back, now_ns))
        if not blocked.any():
            return ACCEPTED
        joint = int(np.argmax(blocked))
        return refused(Reason.CONTACT, f"{self._names[joint]} is {abs(ahead_rad[joint]):.3f} rad behind its command")

    def _asked(self, now_ns: int) -> Float64[ndarray, " dof"]:
        """What a servo has been asked to move in the window, whatever its lag: the least of all; 0 if they disagree.

        One that starts or turns is asked to go one way by its newest commands and another by those that it is at.
        """
        lags_ns = [round(share * self._limits.servo_lag_s * NS_PER_S) for share in _LAG_SHARES]
        ends, begins = ([self._commanded_at(now_ns - lag_ns - back) for lag_ns in lags_ns] for back in (0, _WINDOW_NS))
        asked_rad = np.subtract(ends, begins)
        agree = (np.sign(asked_rad) == np.sign(asked_rad[0])).all(axis=0)
        return np.where(agree, np.sign(asked_rad[0]) * np.abs(asked_rad).min(axis=0), 0.0)

    def _learn_sag(self, now_ns: int, *, moves: Bool[ndarray, " dof"]) -> Float64[ndarray, " dof"]:
        """How far joints are beside commands that they have had the time to follow, on average while they move.

        One that stands teaches nothing: it may be blocked, and what presses on it would be taken for its sag.
        """
        lag_ns = round(self._limits.servo_lag_s * NS_PER_S)
        beside_rad = self._commanded_at(now_ns - lag_ns) - self._samples[-1].positions_rad
        before = beside_rad if self.sag_rad is None else self.sag_rad
        learned = before + np.where(moves, beside_rad - before, 0.0) * min(1.0, self._period_s / _SAG_S)
        self.sag_rad = np.clip(learned, -_LARGEST_SAG_RAD, _LARGEST_SAG_RAD)
        return self.sag_rad

    def _stands_held_back(self, held_back: Bool[ndarray, " dof"], now_ns: int) -> Bool[ndarray, " dof"]:
        moved = self._moved_since(now_ns - _STANDS_NS)
        waits = held_back & (moved <= _STILL_RAD)
        since = np.where(waits & (self._held_back_since_ns >= 0), self._held_back_since_ns, now_ns)
        self._held_back_since_ns = np.where(waits, since, -1)
        return waits & (now_ns - since >= _HELD_BACK_NS)

    def _speed(self, newest: JointReading) -> Float64[ndarray, " dof"]:
        older = self._samples[0]
        for sample in reversed(self._samples):
            if newest.stamp_ns - sample.stamp_ns >= _SPEED_NS:
                older = sample
                break
        passed_s = (newest.stamp_ns - older.stamp_ns) / NS_PER_S
        if passed_s <= 0.0:
            return np.zeros_like(newest.positions_rad)
        return (newest.positions_rad - older.positions_rad) / passed_s

    def _moved_since(self, now_ns: int) -> Float64[ndarray, " dof"]:
        """How far apart the joint states lie that arrived since then, and the one in force then."""
        had = sum(sample.now_ns <= now_ns for sample in self._samples)
        recent = [sample.positions_rad for sample in self._samples][max(0, had - 1) :]
        moved: Float64[ndarray, " dof"] = np.ptp(np.array(recent), axis=0)
        return moved

    def _commanded_at(self, now_ns: int) -> Float64[ndarray, " dof"]:
        """The command in force then, or the oldest that is kept."""
        had = [command for at_ns, command in self._commands if at_ns <= now_ns]
        return had[-1] if had else self._commands[0][1]
