# SPDX-License-Identifier: Apache-2.0
"""Episodes of the expert without pictures: about sixty times faster than real time, judged by physics."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from sigma_ros.contract import Contract
from sigma_ros.errors import SigmaError
from sigma_ros.sim.environment import SimArm
from sigma_ros.sim.expert import Expert
from sigma_ros.sim.motion import JointPath
from sigma_ros.values import NS_PER_S, WINDOW_TICKS, frozen_array

_SETTLE_S = 0.6
"""Time for the brick to come to rest after the last command, before success is judged."""

_FREE_PHASES = ("reach", "lower", "carry", "return")
_NEAR_BRICK_RAD = 0.05
"""Lowering is pushed by no more than this: 12 mm at the fingers, from where 25 of 25 demonstrations came back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    """One simulated episode on the contract's ticks, without pictures.

    `states` are MuJoCo's positions of each tick, from which it can be drawn.
    """

    seed: int
    success: bool
    states: Float64[ndarray, "ticks nq"]
    positions_rad: Float64[ndarray, "ticks dof"]
    velocities_radps: Float64[ndarray, "ticks dof"]
    commands_rad: Float64[ndarray, "ticks dof"]

    @property
    def ticks(self) -> int:
        """Number of ticks."""
        return len(self.states)


def demonstrate(arm: SimArm, seed: int, *, disturbance_rad: float = 0.0, missed_share: float = 0.0) -> Demonstration:
    """Lets the expert do one episode. At each tick: read the arm, then send that tick's command.

    Success is judged by physics, a moment after the last tick. `seed` is that of the start and of the expert's habits.
    Free movements are pushed off the path by at most `disturbance_rad`; the commands kept are the expert's own, which
    lead back to it: a policy learns to recover (DART, arXiv:1703.09327). For the same reason this share of the episodes
    begins where fingers have just closed beside the brick: a window's ticks of the miss, then the way back.

    Raises:
        SigmaError: brick or box are out of reach, or a miss took the brick all the same.
    """
    arm.reset(seed)
    expert, rows = Expert(arm), _Rows(arm)
    missed = None
    if np.random.default_rng([seed, 4]).uniform() < missed_share:
        missed = expert.plan_miss(seed)
        rows.play(missed, lambda _time_s: 0.0)
        if arm.brick_held():
            raise SigmaError("a miss that was to be shown took the brick", got=f"episode seed {seed}")
        del rows.kept[:-WINDOW_TICKS]
    path = expert.plan(seed, missed=missed)
    rows.play(path, Push(path, seed, disturbance_rad, gripper=arm.contract.joint_names.index("gripper")).at)
    arm.step(arm.command_rad, _SETTLE_S)
    columns = zip(*rows.kept, strict=True)
    states, positions, velocities, commands = (frozen_array(np.array(column)) for column in columns)
    return Demonstration(
        seed=seed,
        success=arm.brick_in_box(),
        states=states,
        positions_rad=positions,
        velocities_radps=velocities,
        commands_rad=commands,
    )


class _Rows:
    """Ticks as they are played: state, measured positions and velocities, command."""

    def __init__(self, arm: SimArm) -> None:
        self._arm, self._tick = arm, 0
        self.kept: list[tuple[ndarray, ndarray, ndarray, ndarray]] = []

    def play(self, path: JointPath, push: Callable[[float], ndarray | float]) -> None:
        """Sends a path's commands from now to its end."""
        arm, contract = self._arm, self._arm.contract
        start_ns = contract.tick_offset_ns(self._tick)
        while (since_ns := contract.tick_offset_ns(self._tick) - start_ns) <= path.duration_s * NS_PER_S:
            time_s = since_ns / NS_PER_S
            command = path.at(time_s)
            self.kept.append((arm.snapshot(), arm.positions_rad(), arm.velocities_radps(), command))
            arm.step(command + push(time_s), tick_s(contract, self._tick))
            self._tick += 1


class Push:
    """A smooth push off the path, in a random direction on each free leg, gone at both of its ends."""

    def __init__(self, path: JointPath, seed: int, size_rad: float, *, gripper: int) -> None:
        self._path = path
        rng = np.random.default_rng([seed, 2])
        self._directions_rad = size_rad * rng.uniform(-1, 1, (len(path.waypoints), len(path.at(0.0))))
        self._directions_rad[:, gripper] = 0.0
        self._directions_rad[[w.phase not in _FREE_PHASES for w in path.waypoints]] = 0.0
        lowering = [w.phase == "lower" for w in path.waypoints]
        self._directions_rad[lowering] *= min(1.0, _NEAR_BRICK_RAD / max(size_rad, _NEAR_BRICK_RAD))

    def at(self, time_s: float) -> Float64[ndarray, " dof"]:
        """What is added to the command at a time."""
        leg, part = self._path.progress(time_s)
        return self._directions_rad[leg] * math.sin(math.pi * part) ** 2


def tick_s(contract: Contract, tick: int) -> float:
    """Seconds from a tick to the next one."""
    return (contract.tick_offset_ns(tick + 1) - contract.tick_offset_ns(tick)) / NS_PER_S


def episode_seed(seed: int, attempt: int) -> int:
    """Seed of one episode of a recording; recordings with different seeds share no episode."""
    return int(np.random.SeedSequence([seed, attempt]).generate_state(1)[0])


def demonstrations(
    arm: SimArm, seed: int, *, disturbance_rad: float = 0.0, missed_share: float = 0.0
) -> Iterator[Demonstration | None]:
    """Endless episodes of a recording with this seed; None where the expert could not even plan."""
    return attempts(seed, partial(demonstrate, arm, disturbance_rad=disturbance_rad, missed_share=missed_share))


def attempts[T](seed: int, show: Callable[[int], T]) -> Iterator[T | None]:
    """What `show` makes of each episode's seed of a recording, endlessly; None where it could not."""
    for attempt in itertools.count():
        try:
            yield show(episode_seed(seed, attempt))
        except SigmaError:
            yield None
