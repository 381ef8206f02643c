# SPDX-License-Identifier: Apache-2.0
"""Adversaries for the safety campaign: each asks the supervisor's guard for motion meant to break a limit.

An attack is a function `(rng, view) -> Request | None` called once per tick. The view shows everything, also
what a real policy could not know: the last commands and the limits.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy import ndarray
from numpy.random import Generator

from sigma_ros.supervisor.guard import Request, Track
from sigma_ros.supervisor.limits import MotionLimits


@dataclass(kw_only=True)
class View:
    """What an attack sees, and its own memory."""

    limits: MotionLimits
    track: Track
    tick: int = 0
    memory: dict[str, ndarray] = field(default_factory=dict)

    @property
    def position(self) -> ndarray:
        """The newest command."""
        return self.track.recent_rad[2]

    @property
    def velocity(self) -> ndarray:
        """Its velocity, rad/s."""
        return (self.track.recent_rad[2] - self.track.recent_rad[1]) / self.limits.period_s

    @property
    def acceleration(self) -> ndarray:
        """Its acceleration, rad/s^2."""
        recent = self.track.recent_rad
        return (recent[2] - 2.0 * recent[1] + recent[0]) / self.limits.period_s**2

    @property
    def middle(self) -> ndarray:
        """Middle of the ranges."""
        return 0.5 * (self.limits.lower_rad + self.limits.upper_rad)

    @property
    def half(self) -> ndarray:
        """Half of the ranges."""
        return 0.5 * (self.limits.upper_rad - self.limits.lower_rad)

    @property
    def seconds(self) -> float:
        """Time since the attack's start."""
        return self.tick * self.limits.period_s


Attack = Callable[[Generator, View], Request | None]


def still(target: ndarray) -> Request:
    """A goal without motion."""
    return Request.at(target)


def moving(target: ndarray, velocity: ndarray, view: View) -> Request:
    """A goal with constant velocity."""
    ahead = view.limits.period_s * np.arange(3)[:, None] * velocity
    return Request(upcoming_rad=target + ahead, velocity_radps=velocity, acceleration_radps2=np.zeros_like(velocity))


def uniform_noise(rng: Generator, view: View) -> Request:
    """White noise over three times the range."""
    return still(view.middle + 3.0 * view.half * rng.uniform(-1.0, 1.0, view.half.size))


def reversing(rng: Generator, view: View) -> Request:
    """End to end, reversed after random times, each joint on its own."""
    flip = rng.random(view.half.size) < 0.06
    side = view.memory.setdefault("side", np.ones(view.half.size))
    side[flip] *= -1.0
    return still(view.middle + 1.5 * view.half * side)


def bang_bang(rng: Generator, view: View) -> Request:
    """Full speed to one end, reversed at the worst moment: when speed and acceleration are highest."""
    side = view.memory.setdefault("side", np.sign(rng.uniform(-1.0, 1.0, view.half.size)))
    fast = np.abs(view.velocity) > 0.95 * view.limits.velocity_radps
    turn = fast & (rng.random(view.half.size) < 0.3)
    side[turn] *= -1.0
    return moving(view.middle + 2.0 * view.half * side, 10.0 * side * view.limits.velocity_radps, view)


def nyquist(rng: Generator, view: View) -> Request:
    """A square wave at half the control rate, of random size."""
    size = 10.0 ** rng.uniform(-4.0, 1.0)
    return still(view.position + size * (-1.0) ** view.tick)


def not_finite(rng: Generator, view: View) -> Request:
    """NaN, infinities, giants and subnormals in any part of an otherwise lively request."""
    base = moving(view.middle + view.half * np.sin(3.0 * view.seconds + np.arange(view.half.size)), view.velocity, view)
    parts = [np.array(base.upcoming_rad), np.array(base.velocity_radps), np.array(base.acceleration_radps2)]
    poison = rng.choice([np.nan, np.inf, -np.inf, 1e308, -1e308, 5e-324, -0.0])
    part = parts[rng.integers(3)]
    part.flat[rng.integers(part.size)] = poison
    return Request(upcoming_rad=parts[0], velocity_radps=parts[1], acceleration_radps2=parts[2])


def resonance(rng: Generator, view: View) -> Request:
    """Sine sweeps through the frequencies at which limits of speed, acceleration and jerk meet."""
    del rng
    frequency = 0.1 * 10.0 ** (2.2 * ((view.seconds / 20.0) % 1.0))
    phase = 2.0 * math.pi * frequency * view.seconds + np.arange(view.half.size)
    speed = view.half * 2.0 * math.pi * frequency * np.cos(phase)
    return moving(view.middle + view.half * np.sin(phase), speed, view)


def drift(rng: Generator, view: View) -> Request:
    """Slowly into a position limit, then trembling on it, then to the other one."""
    phase = 0.02 * view.seconds * 2.0 * math.pi + 0.3 * np.arange(view.half.size)
    target = view.middle + 1.02 * view.half * np.clip(3.0 * np.sin(phase), -1.0, 1.0)
    return still(target + rng.normal(0.0, 10.0 ** rng.uniform(-6.0, -2.0), view.half.size))


def huge_step(rng: Generator, view: View) -> Request:
    """Steps of up to a million radians, now and then."""
    if view.tick % 25 == 0 or "target" not in view.memory:
        view.memory["target"] = rng.choice([-1.0, 1.0], view.half.size) * 10.0 ** rng.uniform(-3.0, 6.0, view.half.size)
    return still(view.memory["target"])


def all_joints(rng: Generator, view: View) -> Request:
    """All joints together to the same end at full speed, all reversed together."""
    if "side" not in view.memory or rng.random() < 0.02:
        view.memory["side"] = np.full(view.half.size, rng.choice([-1.0, 1.0]))
    return still(view.middle + 2.0 * view.half * view.memory["side"])


def cornering(rng: Generator, view: View) -> Request:
    """Reads the state and pushes to where it hurts: on towards the nearer end, harder the closer, then back late."""
    ahead = np.where(view.velocity >= 0.0, view.limits.upper_rad - view.position, view.position - view.limits.lower_rad)
    braking = view.velocity**2 / (2.0 * view.limits.acceleration_radps2)
    late = ahead < braking * rng.uniform(0.8, 1.5)
    direction = np.where(view.velocity >= 0.0, 1.0, -1.0) * np.where(late & (rng.random(late.size) < 0.2), -1.0, 1.0)
    return moving(view.position + direction * rng.uniform(0.0, 1.0), direction * 100.0, view)


def lying_hints(rng: Generator, view: View) -> Request:
    """A plausible goal whose announced velocity and acceleration are absurd, and whose future contradicts it."""
    target = view.middle + 0.8 * view.half * np.sin(view.seconds + np.arange(view.half.size))
    return Request(
        upcoming_rad=np.stack([target, target + rng.normal(0.0, 0.1, target.size), -target]),
        velocity_radps=rng.normal(0.0, 10.0 ** rng.uniform(-1.0, 6.0), target.size),
        acceleration_radps2=rng.normal(0.0, 10.0 ** rng.uniform(-1.0, 8.0), target.size),
    )


def stutter(rng: Generator, view: View) -> Request | None:
    """A good course that keeps vanishing: the stored stop is entered and left at random moments."""
    if rng.random() < 0.3:
        return None
    phase = 4.0 * view.seconds + np.arange(view.half.size)
    return moving(view.middle + view.half * np.sin(phase), 4.0 * view.half * np.cos(phase), view)


def edge_of_limits(rng: Generator, view: View) -> Request:
    """The next step at exactly, or by a hair more than, what jerk allows: always the extreme of the four limits."""
    dt, limits = view.limits.period_s, view.limits
    side = view.memory.setdefault("side", np.ones(view.half.size))
    side[rng.random(side.size) < 0.1] *= -1.0
    jerk = side * limits.jerk_radps3 * (1.0 + rng.choice([0.0, 1e-9, -1e-9, 1e-6]))
    acceleration = np.clip(view.acceleration + jerk * dt, -limits.acceleration_radps2, limits.acceleration_radps2)
    velocity = np.clip(view.velocity + acceleration * dt, -limits.velocity_radps, limits.velocity_radps)
    target = view.position + velocity * dt
    steps = np.arange(3)[:, None] * velocity * dt
    return Request(upcoming_rad=target + steps, velocity_radps=velocity, acceleration_radps2=acceleration)


ATTACKS: dict[str, Attack] = {
    attack.__name__: attack
    for attack in (
        uniform_noise,
        reversing,
        bang_bang,
        nyquist,
        not_finite,
        resonance,
        drift,
        huge_step,
        all_joints,
        cornering,
        lying_hints,
        stutter,
        edge_of_limits,
    )
}
