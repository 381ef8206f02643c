# SPDX-License-Identifier: Apache-2.0
"""Joint states as evidence: are they there, finite, fresh and plausible, and does the arm follow?"""

from collections import deque
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.contract import Contract
from sigma_ros.control.chunk_check import ACCEPTED, Verdict, refused
from sigma_ros.control.limits import SupervisorLimits
from sigma_ros.control.reasons import Reason
from sigma_ros.values import NS_PER_S, frozen_array

_STAMP_BOUND_NS = 1 << 62
_JUMP_RAD = 0.1
"""A change below this is never a teleport, however close two stamps are."""

ENCODER_COUNT_RAD = 2.0 * np.pi / 4096.0
"""One step of the STS3215's encoder."""

_POSE_SAMPLES = (3, 5)
"""A resting pose is the mean of at least and at most so many joint states."""

_REST_COUNTS = 3
"""Joint states of a resting arm differ by at most this many encoder counts."""

_TRACKING_NS = NS_PER_S // 2
_FROZEN_NS = 3 * NS_PER_S // 10
_FROZEN_COMMAND_RAD = 0.1
_FROZEN_MEASURED_RAD = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One accepted joint state: `now_ns` is its arrival on the supervisor's clock."""

    stamp_ns: int
    now_ns: int
    positions_rad: Float64[ndarray, " dof"]


class JointWatch:
    """Keeps the newest joint state and the evidence about tracking."""

    def __init__(self, contract: Contract, limits: SupervisorLimits) -> None:
        self._names = contract.joint_names
        self._limits = limits
        span = contract.upper_rad - contract.lower_rad
        self._low, self._high = contract.lower_rad - span, contract.upper_rad + span
        self.hold_ns = round(limits.joint_hold_s * NS_PER_S) or contract.joint_state_max_age_ns
        self._judged = np.array([name not in limits.untracked_joints for name in self._names])
        self.sample: Sample | None = None
        self._recent: deque[ndarray] = deque(maxlen=_POSE_SAMPLES[1])
        self.refusals = 0
        self._off_since_ns: int | None = None
        self._pairs: deque[tuple[int, ndarray, ndarray]] = deque(maxlen=64)

    def push(self, stamp_ns: int, positions_rad: ndarray, now_ns: int) -> Verdict:
        """Takes positions in contract order, or says why not. JOINTS_IMPLAUSIBLE must stop the arm."""
        verdict = self._judge(stamp_ns, positions_rad)
        if verdict.accepted:
            positions = frozen_array(np.array(positions_rad, dtype=np.float64))
            self.sample = Sample(stamp_ns=stamp_ns, now_ns=now_ns, positions_rad=positions)
            self._recent.append(positions)
        else:
            self.refusals += 1
        return verdict

    def forget(self) -> None:
        """Drops what was measured, after a clock jump or a reset."""
        self.sample = None
        self._recent.clear()
        self.calm()

    def calm(self) -> None:
        """Drops the evidence about tracking: nothing is commanded, or commands start anew."""
        self._off_since_ns = None
        self._pairs.clear()

    def resting_pose(self) -> Float64[ndarray, " dof"] | Verdict:
        """Where the arm rests [rad]: the mean of the newest joint states, which must agree; or why that is not known.

        Where joints do not follow commands (a recording), the newest joint state.
        """
        if self.sample is None:
            return refused(Reason.JOINTS_MISSING)
        newest = self.sample.positions_rad
        if not self._limits.check_tracking:
            return newest
        if len(self._recent) < _POSE_SAMPLES[0]:
            return refused(Reason.JOINTS_MISSING, f"{len(self._recent)} of {_POSE_SAMPLES[0]} that are needed")
        off = np.abs(np.array(self._recent) - newest)
        agree = (off <= _REST_COUNTS * ENCODER_COUNT_RAD).all(axis=1)[::-1]
        count = len(agree) if agree.all() else int(np.argmin(agree))
        if count < _POSE_SAMPLES[0]:
            worst = int(np.argmax(off.max(axis=0)))
            return refused(Reason.JOINTS_MOVING, f"{self._names[worst]} by {off[:, worst].max():.4f} rad")
        pose: Float64[ndarray, " dof"] = np.mean(list(self._recent)[-count:], axis=0)
        return pose

    def age_ns(self, now_ns: int) -> int | None:
        """Time since the newest joint state arrived; None without one."""
        return None if self.sample is None else max(0, now_ns - self.sample.now_ns)

    def tracking(self, command_rad: Float64[ndarray, " dof"], now_ns: int) -> Verdict:
        """Whether the measured joints follow the commands, called once per tick with what was published."""
        if not self._limits.check_tracking or self.sample is None:
            return ACCEPTED
        measured = self.sample.positions_rad
        error = np.where(self._judged, np.abs(command_rad - measured), 0.0)
        worst = int(np.argmax(error))
        if error[worst] <= self._limits.tracking_error_rad:
            self._off_since_ns = None
        elif self._off_since_ns is None:
            self._off_since_ns = now_ns
        elif now_ns - self._off_since_ns >= _TRACKING_NS:
            return refused(Reason.TRACKING, f"{self._names[worst]} is {error[worst]:.3f} rad from its command")
        return self._frozen(command_rad, measured, now_ns)

    def _frozen(self, command: Float64[ndarray, " dof"], measured: Float64[ndarray, " dof"], now_ns: int) -> Verdict:
        self._pairs.append((now_ns, command, measured))
        while len(self._pairs) > 1 and now_ns - self._pairs[1][0] >= _FROZEN_NS:
            self._pairs.popleft()
        if now_ns - self._pairs[0][0] < _FROZEN_NS:
            return ACCEPTED
        commanded = np.array([pair[1] for pair in self._pairs])
        moved = np.ptp(np.array([pair[2] for pair in self._pairs]), axis=0)
        asked = np.where(self._judged, np.ptp(commanded, axis=0), 0.0)
        stuck = (asked > _FROZEN_COMMAND_RAD) & (moved < _FROZEN_MEASURED_RAD)
        if stuck.any():
            return refused(Reason.JOINTS_FROZEN, f"{self._names[int(np.argmax(stuck))]}")
        return ACCEPTED

    def _judge(self, stamp_ns: int, positions_rad: ndarray) -> Verdict:
        if not isinstance(stamp_ns, int) or abs(stamp_ns) >= _STAMP_BOUND_NS:
            return refused(Reason.JOINTS_STAMP, f"{stamp_ns!r}")
        try:
            positions = np.asarray(positions_rad, dtype=np.float64)
        except (TypeError, ValueError):
            return refused(Reason.JOINTS_SHAPE, "not numbers")
        if positions.shape != (len(self._names),):
            return refused(Reason.JOINTS_SHAPE, f"shape {positions.shape}, {len(self._names)} joints expected")
        finite = np.isfinite(positions)
        if not finite.all():
            return refused(Reason.JOINTS_NOT_FINITE, self._names[int(np.argmin(finite))])
        foreign = (positions < self._low) | (positions > self._high)
        if foreign.any():
            worst = int(np.argmax(foreign))
            return refused(Reason.JOINTS_UNITS, f"{self._names[worst]} at {positions[worst]:.3g} rad")
        return ACCEPTED if self.sample is None else self._judge_motion(stamp_ns, positions, self.sample)

    def _judge_motion(self, stamp_ns: int, positions: Float64[ndarray, " dof"], last: Sample) -> Verdict:
        if stamp_ns <= last.stamp_ns:
            return refused(Reason.JOINTS_STAMP, f"{(last.stamp_ns - stamp_ns) / 1e6:.1f} ms before the last one")
        change = np.abs(positions - last.positions_rad)
        worst = int(np.argmax(change))
        speed = float(change[worst]) / ((stamp_ns - last.stamp_ns) / NS_PER_S)
        if change[worst] > _JUMP_RAD and speed > self._limits.max_measured_speed_radps:
            return refused(
                Reason.JOINTS_IMPLAUSIBLE, f"{self._names[worst]} by {change[worst]:.3f} rad, {speed:.1f} rad/s"
            )
        return ACCEPTED
