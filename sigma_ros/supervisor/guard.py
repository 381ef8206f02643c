# SPDX-License-Identifier: Apache-2.0
"""One control tick: the command closest to what is asked for that leaves a certified stop behind it.

What is asked for is followed exactly while it keeps the limits. When it does not, the arm goes for the
moving goal in the goal's own frame: it takes the step after which stopping relative to the goal would
end on the goal, so it neither rings around it nor trails behind it. That choice is about quality;
safety rests on the certificate alone (`stop_plan`), which every step must pass.

With limits of the tool (`workspace`) a second certificate comes on top, of all joints together: the step
and the stop behind it must keep them. A step that is too fast is shortened towards the stored stop's next
command, by the same share in every joint; one that leads below the plane is not taken at all;
nor is one that leads a link nearer than the margin to another or to what it must keep out of (`collision`).
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray

from sigma_ros.supervisor.limits import MotionLimits
from sigma_ros.supervisor.stop_plan import StopPlanner
from sigma_ros.values import frozen_array

CLIP_TOLERANCE_RAD = 1e-9
"""A joint counts as clipped when its command differs by more than this from the request."""

_FAN = 9
_ROUNDS = 2
_TOOL_ROUNDS = 3
_RANGE_TOLERANCE_RAD = 1e-12
_UNREACHABLE_RAD = 1e3
_LARGEST = 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Where the arm should be at this tick and the next two, and how it should move there.

    `velocity_radps` and `acceleration_radps2` describe the goal's motion around now (smoothed: they
    only steer the approach while the goal cannot be followed exactly). The miss is measured from `course_rad`, if it is
    given: the goal itself, where the positions only lead there.
    """

    upcoming_rad: Float64[ndarray, "3 dof"]
    velocity_radps: Float64[ndarray, " dof"]
    acceleration_radps2: Float64[ndarray, " dof"]
    course_rad: Float64[ndarray, " dof"] | None = None

    @classmethod
    def at(cls, positions_rad: Float64[ndarray, " dof"]) -> "Request":
        """A goal that stands still."""
        zero = np.zeros_like(positions_rad)
        return cls(upcoming_rad=np.stack([positions_rad] * 3), velocity_radps=zero, acceleration_radps2=zero)

    @property
    def goal_rad(self) -> Float64[ndarray, " dof"]:
        """What was asked for, before it was changed to lead there."""
        return self.upcoming_rad[0] if self.course_rad is None else self.course_rad

    def held_back(self, reach: "Reach") -> "Request":
        """The same goal within a reach; where that holds it back, the goal moves as the joint was measured to."""
        bounded = np.clip(self.upcoming_rad, reach.lower_rad, reach.upper_rad)
        is_held = bounded[0] != self.upcoming_rad[0]
        return Request(
            upcoming_rad=bounded,
            velocity_radps=np.where(is_held, reach.speed_radps, self.velocity_radps),
            acceleration_radps2=np.where(is_held, 0.0, self.acceleration_radps2),
            course_rad=self.course_rad,
        )

    @property
    def is_usable(self) -> bool:
        """Whether every number is finite and none is so large that arithmetic with it could overflow."""
        parts = (self.upcoming_rad, self.velocity_radps, self.acceleration_radps2)
        return all(bool((np.abs(part) < _LARGEST).all()) for part in parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Where commands, and the stops behind them, may lie now [rad]; infinite for joints that are not bounded.

    `speed_radps` is the measured one.
    """

    lower_rad: Float64[ndarray, " dof"]
    upper_rad: Float64[ndarray, " dof"]
    speed_radps: Float64[ndarray, " dof"]

    def around(
        self, stop_rad: Float64[ndarray, "ticks dof"]
    ) -> tuple[Float64[ndarray, " dof"], Float64[ndarray, " dof"]]:
        """The reach, widened to a stop that is certified already: from beyond it, any way back is a better one."""
        return np.minimum(self.lower_rad, stop_rad.min(axis=0)), np.maximum(self.upper_rad, stop_rad.max(axis=0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """The last three commands (oldest first) and the stored stop that follows them."""

    recent_rad: Float64[ndarray, "3 dof"]
    stop_rad: Float64[ndarray, "ticks dof"]

    @property
    def command_rad(self) -> Float64[ndarray, " dof"]:
        """The newest command."""
        return self.recent_rad[2]

    @property
    def is_resting(self) -> bool:
        """Whether the last three commands and the stored stop are all the same position."""
        return bool((self.recent_rad == self.recent_rad[2]).all() and (self.stop_rad == self.recent_rad[2]).all())


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardedStep:
    """A tick's outcome: `track.command_rad` is what to publish.

    `miss_rad` is the distance to the request (0 without one); `clipped` marks joints where it is not 0.
    `too_fast`, `too_low`: what the tool's limits had against the step that was wanted; `obstacle`: what it or the stop
    behind it would have met, in words.
    """

    track: Track
    clipped: Bool[ndarray, " dof"]
    miss_rad: Float64[ndarray, " dof"]
    too_fast: bool = False
    too_low: bool = False
    obstacle: str = ""


class MotionGuard:
    """Turns requests into commands that keep every limit; see the module's text. Holds constants only."""

    def __init__(self, limits: MotionLimits) -> None:
        self.limits = limits
        self._planner = StopPlanner(limits)
        self._chaser = StopPlanner(limits, speed_factor=2.0)
        self._fan = np.linspace(0.0, 1.0, _FAN)[:, None]

    @property
    def stop_ticks(self) -> int:
        """Control periods of the longest stop."""
        return self._planner.ticks

    def has_inside(self, course_rad: Float64[ndarray, "ticks dof"]) -> Bool[ndarray, " dof"]:
        """Joints that a course leaves inside their position limits throughout."""
        inside = (course_rad >= self._planner.lower) & (course_rad <= self._planner.upper)
        return np.asarray(inside.all(axis=0))

    def keeps(
        self, track: Track, runs_rad: Float64[ndarray, "runs ticks dof"], judged: Bool[ndarray, " dof"]
    ) -> Bool[ndarray, "runs ticks"]:
        """Which commands of some runs, published next, keep the tool's speed and the limits of the judged joints."""
        before = np.broadcast_to(track.recent_rad, (len(runs_rad), *track.recent_rad.shape))
        streams = np.concatenate((before, runs_rad), axis=1)
        kept = (self._planner.keep_each(streams) | ~judged).all(axis=2)
        workspace = self.limits.workspace
        return kept if workspace is None else kept & ~workspace.is_too_fast(streams[:, 2:])

    def rest(self, positions_rad: Float64[ndarray, " dof"]) -> Track:
        """A track that stands still; the position is taken as given (the caller gates it)."""
        at = np.array(positions_rad, dtype=np.float64)
        return Track(
            recent_rad=frozen_array(np.stack([at] * 3)),
            stop_rad=frozen_array(np.repeat(at[None], self._planner.ticks, axis=0)),
        )

    def advance(self, track: Track, request: Request | None, reach: Reach | None = None) -> GuardedStep:
        """The next command. Without a request, or with one that cannot be used, the stored stop is played.

        `reach` narrows where the arm may be led, as far as the stored stop permits; it never widens a limit.
        """
        command = track.stop_rad[0]
        stop = np.concatenate((track.stop_rad[1:], track.stop_rad[-1:]))
        dof = command.size
        if request is None or not request.is_usable:
            return self._finish(track, command, stop, np.zeros(dof))
        asked_rad = request.goal_rad
        within = None if reach is None else reach.around(track.stop_rad)
        request = request if reach is None else request.held_back(reach)
        wanted = self._wanted(track, request)
        low, high = self._planner.step_range(track.recent_rad)
        in_range = (wanted >= low - _RANGE_TOLERANCE_RAD) & (wanted <= high + _RANGE_TOLERANCE_RAD)
        certified, stops = self._planner.certify(track.recent_rad[1:], wanted[None], within)
        take = in_range & certified[0]
        if not take.all():
            wanted, better, nearer = self._nearest(track, np.clip(wanted, low, high), wanted, take, within)
            stops = np.where(take[:, None], stops[0], nearer)
            take = take | better
        else:
            stops = stops[0]
        taken = np.where(take, wanted, command), np.where(take, stops.T, stop)
        too_fast = too_low = np.zeros(1, dtype=np.bool_)
        if self.limits.workspace is not None:
            too_fast, too_low = self._judge_tool(track, taken[0][None], taken[1][None])
        if too_low[0]:
            taken = command, stop
        elif too_fast[0]:
            taken = self._slower(track, (command, stop), taken[0], take)
        obstacle = self._obstacle(track, *taken) if take.any() and not too_low[0] else ""
        if obstacle:
            taken = command, stop
        step = self._finish(track, *taken, asked_rad - taken[0])
        return replace(step, too_fast=bool(too_fast[0]), too_low=bool(too_low[0]), obstacle=obstacle)

    def _obstacle(self, track: Track, command: Float64[ndarray, " dof"], stop: Float64[ndarray, "ticks dof"]) -> str:
        """What a command or the stop behind it would meet, in words."""
        if self.limits.collisions is None:
            return ""
        return self.limits.collisions.obstacle(np.concatenate((track.command_rad[None], command[None], stop)))

    def _judge_tool(
        self,
        track: Track,
        commands: Float64[ndarray, "candidates dof"],
        stops: Float64[ndarray, "candidates ticks dof"],
    ) -> tuple[Bool[ndarray, " candidates"], Bool[ndarray, " candidates"]]:
        """(too fast, too low) of commands and the stops behind them."""
        assert self.limits.workspace is not None
        here = np.broadcast_to(track.command_rad, (len(commands), 1, commands.shape[1]))
        return self.limits.workspace.judge(np.concatenate((here, commands[:, None], stops), axis=1))

    def _slower(
        self,
        track: Track,
        stored: tuple[Float64[ndarray, " dof"], Float64[ndarray, "ticks dof"]],
        wanted: Float64[ndarray, " dof"],
        take: Bool[ndarray, " dof"],
    ) -> tuple[Float64[ndarray, " dof"], Float64[ndarray, "ticks dof"]]:
        """The longest step found from the stored stop's next command towards the wanted one that the tool may take."""
        best, near, far = stored, stored[0], wanted
        for _ in range(_TOOL_ROUNDS):
            fan = near + (far - near) * self._fan
            certified, stops = self._planner.certify(track.recent_rad[1:], fan)
            stops = np.where(take[:, None], stops, stored[1].T).swapaxes(1, 2)
            too_fast, too_low = self._judge_tool(track, fan, stops)
            fits = (certified | ~take).all(axis=1) & ~too_fast & ~too_low
            last = int(np.flatnonzero(fits)[-1]) if fits.any() else 0
            if fits[last]:
                best = fan[last], stops[last]
            near, far = fan[last], fan[min(last + 1, _FAN - 1)]
        return best

    def _finish(
        self,
        track: Track,
        command: Float64[ndarray, " dof"],
        stop: Float64[ndarray, "ticks dof"],
        miss: Float64[ndarray, " dof"],
    ) -> GuardedStep:
        recent = np.concatenate((track.recent_rad[1:], command[None]))
        after = Track(recent_rad=frozen_array(recent), stop_rad=frozen_array(stop))
        distance = np.abs(miss)
        return GuardedStep(track=after, clipped=distance > CLIP_TOLERANCE_RAD, miss_rad=distance)

    def _wanted(self, track: Track, request: Request) -> Float64[ndarray, " dof"]:
        """The request itself where it can be followed for three ticks, else the step of the chase."""
        goal = request.upcoming_rad[0]
        exact = self._planner.keeps_limits(np.concatenate((track.recent_rad, request.upcoming_rad)))
        if exact.all():
            return goal
        return np.where(exact, goal, self._chase(track, request))

    def _chase(self, track: Track, request: Request) -> Float64[ndarray, " dof"]:
        """The step after which the shortest stop relative to the moving goal ends on the goal."""
        # f(u) = (u - goal) + what the shortest stop relative to the goal goes on, from w' = (u - q) - w_goal and
        # b' = (u - q) - w - b_goal, braking with b_max - |b_goal|. f rises with u; its zero is found on a fan, twice
        # refined, and by a straight line in the last interval: u* = low - f(low) (high - low) / (f(high) - f(low)).
        dt = self.limits.period_s
        planner = self._chaser
        b_goal = np.clip(request.acceleration_radps2 * dt**2, -0.9 * planner.b_max, 0.9 * planner.b_max)
        w_goal = request.velocity_radps * dt - 0.5 * b_goal
        recent = track.recent_rad
        w = recent[2] - recent[1]
        low, high = planner.step_range(recent)
        high = np.maximum(low, high)
        columns = np.arange(low.size)
        for _ in range(_ROUNDS):
            fan = low + (high - low) * self._fan
            ahead = self._miss_after_stop(fan - request.upcoming_rad[0], fan - recent[2], w, w_goal, b_goal)
            above = np.clip((ahead <= 0.0).sum(axis=0), 1, _FAN - 1)
            low, high = fan[above - 1, columns], fan[above, columns]
            ahead_low, ahead_high = ahead[above - 1, columns], ahead[above, columns]
            if ((ahead_low > 0.0) | (ahead_high < 0.0)).all():
                break
        rise = ahead_high - ahead_low
        share = np.where(rise > 0.0, np.clip(-ahead_low / np.where(rise > 0.0, rise, 1.0), 0.0, 1.0), 0.5)
        step: Float64[ndarray, " dof"] = low + share * (high - low)
        return step

    def _miss_after_stop(
        self,
        miss: Float64[ndarray, "fan dof"],
        w_after: Float64[ndarray, "fan dof"],
        w: Float64[ndarray, " dof"],
        w_goal: Float64[ndarray, " dof"],
        b_goal: Float64[ndarray, " dof"],
    ) -> Float64[ndarray, "fan dof"]:
        """Where, relative to the goal, the joint would end if it matched the goal's motion as fast as it can."""
        w_relative = w_after - w_goal
        b_relative = w_after - w - b_goal
        b_max = self._chaser.b_max - np.abs(b_goal)
        found, sequence = self._chaser.shortest_stop(w_relative, b_relative, np.broadcast_to(b_max, miss.shape))
        drift = (w_relative[:, :, None] + sequence.cumsum(axis=2)).sum(axis=2)
        ahead: Float64[ndarray, "fan dof"] = miss + np.where(found, drift, np.sign(w_relative) * _UNREACHABLE_RAD)
        return ahead

    def _nearest(
        self,
        track: Track,
        bounded: Float64[ndarray, " dof"],
        wanted: Float64[ndarray, " dof"],
        take: Bool[ndarray, " dof"],
        within: tuple[Float64[ndarray, " dof"], Float64[ndarray, " dof"]] | None,
    ) -> tuple[Float64[ndarray, " dof"], Bool[ndarray, " dof"], Float64[ndarray, "dof ticks"]]:
        """Certified commands between the stored stop's next one and the wanted one, as near to it as found."""
        # Fan c_i = near + i / (n - 1) (far - near); i* = the last i with all of c_0..c_i certified. Then again between
        # c_i* and c_(i*+1): after r rounds the command is within |far - near| / (n - 1)^r of the last certified one.
        columns = np.arange(wanted.size)
        near, far = track.stop_rad[0], bounded
        best = np.where(take, wanted, near)
        better = np.zeros(wanted.size, dtype=np.bool_)
        stops: ndarray = np.zeros((wanted.size, self._planner.ticks))
        for _ in range(_ROUNDS):
            fan = near + (far - near) * self._fan
            certified, fan_stops = self._planner.certify(track.recent_rad[1:], fan, within)
            certified[0] = True
            last = np.logical_and.accumulate(certified, axis=0).sum(axis=0) - 1
            found = (last > 0) & ~take
            best = np.where(found, fan[last, columns], best)
            stops = np.where(found[:, None], fan_stops[last, columns], stops)
            better |= found
            near, far = fan[last, columns], fan[np.minimum(last + 1, _FAN - 1), columns]
        return best, better, stops
