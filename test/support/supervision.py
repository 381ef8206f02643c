# SPDX-License-Identifier: Apache-2.0
"""SYNTHETIC surroundings for the supervisor: an arm that follows, a policy that proposes, time that is passed in."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import settings
from numpy import ndarray

from sigma_ros.contract import Contract
from sigma_ros.contract_file import load_contract
from sigma_ros.risk import assess, plain_chunk
from sigma_ros.supervisor.guard import MotionGuard, Request, Track
from sigma_ros.supervisor.limits import MotionLimits, SupervisorLimits
from sigma_ros.supervisor.reasons import Decision, State
from sigma_ros.supervisor.supervisor import Supervisor
from sigma_ros.values import Chunk

MS = 1_000_000
PERIOD = 20 * MS
CALM = assess(residual_ratio=1.0, factor_ratio=1.0, alignment=1.0)
CONTRACT = load_contract("so101")
MIDDLE = 0.5 * (CONTRACT.lower_rad + CONTRACT.upper_rad)
EASY = SupervisorLimits(require_heartbeat=False)

LAW = settings(derandomize=True, deadline=None, max_examples=60, database=None)
QUICK_LAW = settings(derandomize=True, deadline=None, max_examples=20, database=None)


def motion_limits(dof: int = 3, **changes: Any) -> MotionLimits:
    one = np.ones(dof)
    fields: dict[str, Any] = {
        "lower_rad": -1.5 * one,
        "upper_rad": 1.5 * one,
        "velocity_radps": 2.0 * one,
        "acceleration_radps2": 10.0 * one,
        "jerk_radps3": 100.0 * one,
        "period_s": 0.02,
    }
    return MotionLimits(**(fields | changes))


def chunk_of(base: ndarray, **changes: Any) -> Chunk:
    fields = {"stamp_ns": 0, "tick": 0, "scale": 1.0, "risk": CALM, "checkpoint_hash": "synthetic"}
    return plain_chunk(CONTRACT, np.asarray(base, dtype=np.float64), **(fields | changes))


def resting_chunk(pose: ndarray = MIDDLE, horizon: int = 50, **changes: Any) -> Chunk:
    return chunk_of(np.repeat(np.asarray(pose)[None], horizon, axis=0), **changes)


@dataclass
class Bench:
    """A supervisor with both clocks, an arm that does what it is told, and everything it said."""

    limits: SupervisorLimits = EASY
    contract: Contract = CONTRACT
    now_ns: int = 5_000 * MS
    offset_ns: int = 1_700_000_000_000 * MS
    pose: ndarray = field(default_factory=MIDDLE.copy)
    heartbeat: bool = True
    joints: bool = True
    next_id: int = 0
    epoch: int = 0
    decisions: list[Decision] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.supervisor = Supervisor(self.contract, self.limits)

    @property
    def stamp_ns(self) -> int:
        return self.now_ns + self.offset_ns

    @property
    def last(self) -> Decision:
        return self.decisions[-1]

    @property
    def commands(self) -> ndarray:
        return np.array([d.command_rad for d in self.decisions if d.command_rad is not None])

    @property
    def states(self) -> list[State]:
        return [d.state for d in self.decisions]

    def tick(self, count: int = 1) -> Decision:
        for _ in range(count):
            self.now_ns += PERIOD
            if self.joints:
                self.supervisor.on_joints(self.stamp_ns, self.pose, self.now_ns)
            if self.heartbeat:
                self.supervisor.on_policy_heartbeat(self.now_ns)
            decision = self.supervisor.tick(self.now_ns, self.stamp_ns)
            self.decisions.append(decision)
            if decision.command_rad is not None:
                self.pose = decision.command_rad
        return self.last

    def offer(self, base: ndarray | None = None, **changes: Any) -> Any:
        """The policy's next chunk, stamped now; without `base` it rests at the pose."""
        fields: dict[str, Any] = {"chunk_id": self.next_id, "epoch": self.epoch, "stamp_ns": self.stamp_ns}
        self.next_id += 1
        base = np.repeat(self.pose[None], 50, axis=0) if base is None else base
        return self.supervisor.on_chunk(chunk_of(base, **(fields | changes)), self.now_ns, self.stamp_ns)

    def engage(self) -> Any:
        """Of an arm whose joint states have been coming for a while: three at least."""
        for number in (1, 2) if self.joints else ():
            self.supervisor.on_joints(self.stamp_ns + number, self.pose, self.now_ns)
        return self.supervisor.engage(self.now_ns)

    def running(self) -> "Bench":
        """Engaged and in RUN on a chunk that rests."""
        self.tick(2)
        assert self.engage().success
        self.tick()
        self.offer()
        self.tick(15)
        assert self.last.state is State.RUN, self.last.reason_text
        return self

    def sway(self, *, size: float = 0.3, period_s: float = 4.0, horizon: int = 50) -> ndarray:
        """A smooth motion of all joints that begins at rest where the arm is."""
        t = np.arange(horizon)[:, None] * CONTRACT.tick_period_ns / 1e9
        return self.pose + size * (1.0 - np.cos(2.0 * np.pi * t / period_s))


def excess(commands: ndarray, motion: MotionLimits) -> float:
    """By how much a motion that began at rest breaks a limit; at most about 0 if it does not."""
    q = np.concatenate([np.repeat(commands[:1], 3, axis=0), commands])
    dt = motion.period_s
    v, a, j = (np.diff(q, n, axis=0) / dt**n for n in (1, 2, 3))
    return max(
        float((q - motion.upper_rad).max()),
        float((motion.lower_rad - q).max()),
        float((np.abs(v) - motion.velocity_radps).max()),
        float((np.abs(a) - motion.acceleration_radps2).max()),
        float((np.abs(j) - motion.jerk_radps3).max()),
    )


def follow(guard: MotionGuard, start: ndarray, goals: ndarray) -> tuple[ndarray, ndarray, Track]:
    """Drives a guard from rest through goals, one per tick; commands, clipped ticks, and where it ended."""
    track = guard.rest(start)
    commands, clipped = [track.command_rad], []
    for index in range(len(goals)):
        upcoming = goals[np.minimum(np.arange(index, index + 3), len(goals) - 1)]
        before, after = goals[max(index - 5, 0)], goals[min(index + 5, len(goals) - 1)]
        dt = guard.limits.period_s
        request = Request(
            upcoming_rad=upcoming,
            velocity_radps=(after - before) / (10.0 * dt),
            acceleration_radps2=(after - 2.0 * goals[index] + before) / (5.0 * dt) ** 2,
        )
        step = guard.advance(track, request)
        track = step.track
        commands.append(track.command_rad)
        clipped.append(step.clipped)
    return np.array(commands), np.array(clipped), track
