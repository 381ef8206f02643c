# SPDX-License-Identifier: Apache-2.0
"""The course as the arm is asked to follow it: slowed where it would break a limit, and joined where it jumped.

Bounding each joint alone bends the path that the policy chose; slowing all of them along it does not (path-consistent
supervision, PACS, arXiv 2511.06385). The course `C` is a function of its own time `tau`, which passes at a rate `r` of
1 at most: `tau_k = tau_(k-1) + r_k dt`. The largest rate is taken, now and over the longest stop, for which the
literal commands `C(tau_k)` keep the limits. Time lost so is made up for by the next chunk (`ChunkStream.offer`).

Where the course itself jumped (a new chunk, a scale that fell) no rate helps. Then all joints are led to it together:
`C(tau_k) + e(k dt)`, where `e` is the quintic that leaves with the offset, velocity and acceleration which the commands
have against the course, and ends at rest on it after a time `D`, the shortest that keeps the limits:
`e(u D) = (1 - u)^3 (e0 (1 + 3u + 6u^2) + v0 D u (1 + 3u) + a0 D^2 u^2 / 2)`.

All of this is a request: the guard certifies every command (`guard`), and bounds joint by joint what fits no limit.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from sigma_ros.supervisor.guard import MotionGuard, Reach, Track
from sigma_ros.supervisor.trajectory import ApproachRamp, ChunkStream
from sigma_ros.values import NS_PER_S

_RATES = np.linspace(1.0, 0.0, 17)
_LOOK_BEYOND_TICKS = 3

_JOIN_TICKS = (3, 4, 5, 6, 7, 8, 10, 12, 14, 17, 20, 24, 29, 35, 42, 50, 60, 80, 100, 130)
_LONGEST_JOIN_S = 0.2
"""Beyond the time of the longest stop; what takes longer is no path, and each joint alone is there sooner."""

_Course = Callable[[Int64[ndarray, " times"]], Float64[ndarray, "times dof"]]


class PathFollower:
    """Which place of the course each command is for; one per motion. `period_ns` is the control period."""

    def __init__(self, guard: MotionGuard, period_ns: int) -> None:
        self._guard = guard
        self._period_ns = period_ns
        stop = guard.stop_ticks
        longest = stop + round(_LONGEST_JOIN_S * NS_PER_S / period_ns)
        self._joins = np.array([ticks for ticks in _JOIN_TICKS if ticks <= longest])
        self._ahead = stop + _LOOK_BEYOND_TICKS
        self._lengths = np.array(sorted({1, max(1, stop // 3), stop}))[:, None]
        self.calm()

    def calm(self) -> None:
        """Nothing is followed: the next motion begins at rest, on the course."""
        self._rates = (1.0, 1.0)
        self._offsets_rad: Float64[ndarray, "ticks dof"] | None = None
        self._last_ns: int | None = None

    @property
    def rate(self) -> float:
        """How fast the course's time passes now, as a share of real time."""
        return self._rates[1]

    def follow(
        self,
        stream: ChunkStream,
        track: Track,
        now_ns: int,
        *,
        scale: float,
        lead: ApproachRamp | None,
        reach: Reach | None,
    ) -> Float64[ndarray, "3 dof"]:
        """The targets of this tick and the next two; the course's own time is set back where the arm is slowed.

        `now_ns` is of the observation clock; `scale` and `lead` as in `ChunkStream.request`. A joint whose course
        leaves its range or its reach is bounded alone: the others do not wait for it.
        """
        last_ns = now_ns - self._period_ns if self._last_ns is None else self._last_ns
        began_ns, at_ns = stream.course_ns(last_ns), stream.course_ns(now_ns)
        self._last_ns = now_ns
        course = partial(stream.course_rad, scale=scale, lead=lead)
        plain = course(at_ns + self._period_ns * np.arange(self._ahead, dtype=np.int64))
        judged = self._guard.has_inside(plain)
        if reach is not None:
            judged &= (plain[0] >= reach.lower_rad) & (plain[0] <= reach.upper_rad)
        whole = self._led(plain[None])
        if self._rates == (1.0, 1.0) and self._guard.keeps(track, whole, judged).all():
            self._go_on(1.0)
            return whole[0, :3]
        targets = self._slowed(course, track, began_ns, judged)
        if targets is None:
            targets = self._joined(partial(course, alone=True), track, began_ns, judged)
            if targets is None:
                self.calm()
                return plain[:3]
            stream.go_alone()
        stream.set_back(at_ns - began_ns - round(self.rate * self._period_ns), now_ns)
        return targets

    def _go_on(self, rate: float) -> None:
        self._rates = (self.rate, rate)
        self._offsets_rad = None if self._offsets_rad is None or len(self._offsets_rad) < 2 else self._offsets_rad[1:]

    def _led(self, runs_rad: Float64[ndarray, "runs ticks dof"]) -> Float64[ndarray, "runs ticks dof"]:
        """Places on the course, with what is left of the way onto it."""
        if self._offsets_rad is None:
            return runs_rad
        led = runs_rad.copy()
        count = min(len(self._offsets_rad), led.shape[1])
        led[:, :count] += self._offsets_rad[:count]
        return led

    def _slowed(
        self, course: _Course, track: Track, began_ns: int, judged: Bool[ndarray, " dof"]
    ) -> Float64[ndarray, "3 dof"] | None:
        """The targets on the way that gets furthest in the time of the longest stop; None where none can be kept."""
        rates = slowings(self._rates, self._lengths, self._ahead)
        times = began_ns + np.rint(self._period_ns * rates.cumsum(axis=1)).astype(np.int64)
        runs = self._led(course(times.ravel()).reshape(*times.shape, -1))
        fits = self._guard.keeps(track, runs, judged).all(axis=1)
        if not fits.any():
            return None
        best = int(np.where(fits, rates.sum(axis=1), -1.0).argmax())
        self._go_on(float(rates[best, 0]))
        return runs[best, :3]

    def _joined(
        self, course: _Course, track: Track, began_ns: int, judged: Bool[ndarray, " dof"]
    ) -> Float64[ndarray, "3 dof"] | None:
        """The targets of the shortest way onto the course that keeps the limits; None where there is none."""
        longest = int(self._joins[-1])
        is_over = np.arange(1, longest + 1) > self._joins[:, None] + 2
        positions = course(began_ns + self._period_ns * np.arange(-2, longest + 1, dtype=np.int64))
        offsets = ways_back(track.recent_rad - positions[:3], self._joins)
        runs = positions[3:] + offsets
        fits = (self._guard.keeps(track, runs, judged) | is_over).all(axis=1)
        if not fits.any():
            return None
        best = int(fits.argmax())
        self._rates, self._offsets_rad = (1.0, 1.0), offsets[best, 1:]
        return runs[best, :3]


def slowings(
    rates: tuple[float, float], lengths: Int64[ndarray, "lengths 1"], ticks: int
) -> Float64[ndarray, "ways ticks"]:
    """Rates of the ticks to come: from the last two on to each of `_RATES`, in each number of ticks.

    From rate r0, which changes by r1 a tick, to R in N ticks, with u = k / N:
    `r(u) = R + (r0 - R) (1 + 2u) (1 - u)^2 + r1 N u (1 - u)^2`.
    """
    before, rate = rates
    aim = _RATES[:, None, None]
    u = np.minimum(np.arange(1, ticks + 1) / lengths, 1.0)
    bend = (rate - before) * lengths * u
    found = aim + ((rate - aim) * (1.0 + 2.0 * u) + bend) * (1.0 - u) ** 2
    return np.clip(found, 0.0, 1.0).reshape(-1, ticks)


def ways_back(
    offsets_rad: Float64[ndarray, "3 dof"], lengths: Int64[ndarray, " lengths"]
) -> Float64[ndarray, "lengths ticks dof"]:
    """What is left of an offset, its velocity and acceleration: `e` of the module's head, from the newest three on."""
    k, d = np.arange(1, int(lengths[-1]) + 1), lengths[:, None, None]
    u = np.minimum(k[:, None] / d, 1.0)
    e2, e1, e0 = offsets_rad
    v0, a0 = (3.0 * e0 - 4.0 * e1 + e2) / 2.0, e0 - 2.0 * e1 + e2
    left = e0 * (1.0 + 3.0 * u + 6.0 * u**2) + v0 * d * u * (1.0 + 3.0 * u) + a0 * (d * u) ** 2 / 2.0
    return left * (1.0 - u) ** 3
