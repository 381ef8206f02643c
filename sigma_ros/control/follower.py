# SPDX-License-Identifier: Apache-2.0
"""A command that is only imagined: how far a request would be missed if it were followed within the motion limits."""

from dataclasses import dataclass

from sigma_ros.control.motion_guard import MotionGuard, Request, Track

_USUAL_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Follower:
    """An imagined course from tick to tick. `usual_miss_rad` is the mean miss of about the last second."""

    track: Track | None = None
    miss_rad: float = 0.0
    usual_miss_rad: float = 0.0

    def after(self, request: Request | None, arm: Track | None, guard: MotionGuard, *, dt_s: float) -> "Follower":
        """A tick later. It begins where the arm is; without a request nothing is followed, and nothing missed."""
        if request is None or arm is None:
            return Follower()
        step = guard.advance(self.track or arm, request)
        miss_rad = float(step.miss_rad.max())
        usual_rad = self.usual_miss_rad + (miss_rad - self.usual_miss_rad) * min(1.0, dt_s / _USUAL_S)
        return Follower(track=step.track, miss_rad=miss_rad, usual_miss_rad=usual_rad)
