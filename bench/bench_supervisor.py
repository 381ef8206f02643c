# SPDX-License-Identifier: Apache-2.0
"""What the supervisor costs: the stop-plan check, a guarded step and a whole tick.

Asked: the check for 6 joints together <= 0.1 ms median and <= 2 ms p99; a tick well below the added 10 ms p99.
Times are of this thread's processor, so that a busy machine does not count; `--wall` takes the wall clock.
Run: python bench/bench_supervisor.py
"""

import argparse
import time
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np

from sigma_ros.contract_file import load_contract
from sigma_ros.risk import plain_chunk
from sigma_ros.supervisor.guard import MotionGuard, Request
from sigma_ros.supervisor.limits import SupervisorLimits
from sigma_ros.supervisor.reasons import State
from sigma_ros.supervisor.stop_plan import StopPlanner
from sigma_ros.supervisor.supervisor import Supervisor

CONTRACT = load_contract("so101")
FREE = SupervisorLimits()
MOTION = FREE.motion(CONTRACT)
TOOL = SupervisorLimits(cap_tool_speed=True, max_tool_speed_mps=5.0, keep_above_plane=True, plane_height_m=-2.0)
"""Limits of the tool that cost what they cost and bound nothing; `SLOW` bounds a wild motion at nearly every tick."""
SLOW = SupervisorLimits(cap_tool_speed=True, keep_above_plane=True, plane_height_m=-2.0)
CLEAR = SupervisorLimits(avoid_collisions=True)
MIDDLE = 0.5 * (CONTRACT.lower_rad + CONTRACT.upper_rad)
Clock = Callable[[], int]


def states(count: int, seed: int = 0) -> np.ndarray:
    """Three commands each: positions, speeds and accelerations at random shares of their limits."""
    rng = np.random.default_rng(seed)
    dt = MOTION.period_s
    q = MIDDLE + 0.5 * (CONTRACT.upper_rad - MIDDLE) * rng.uniform(-1.0, 1.0, (count, 6))
    w = 0.6 * MOTION.velocity_radps * dt * rng.uniform(-1.0, 1.0, (count, 6))
    b = 0.6 * MOTION.acceleration_radps2 * dt**2 * rng.uniform(-1.0, 1.0, (count, 6))
    return np.stack([q - 2.0 * w + b, q - w, q], axis=1)


def timed(calls: Iterable[Callable[[], object]], clock: Clock) -> list[int]:
    times = []
    for call in calls:
        start = clock()
        call()
        times.append(clock() - start)
    return times


def stop_check(count: int, clock: Clock) -> list[int]:
    planner = StopPlanner(MOTION)
    return timed((partial(planner.certify, recent[:2], recent[2:]) for recent in states(count)), clock)


def tool_check(count: int, clock: Clock) -> list[int]:
    """The stop-plan check and that of the tool on the same stop."""
    motion = TOOL.motion(CONTRACT)
    planner, workspace = StopPlanner(motion), motion.workspace
    assert workspace is not None

    def check(recent: np.ndarray) -> None:
        _, stops = planner.certify(recent[:2], recent[2:])
        workspace.judge(np.concatenate((recent[None, 1:], stops.swapaxes(1, 2)), axis=1))

    return timed((partial(check, recent) for recent in states(count)), clock)


def collision_check(count: int, clock: Clock) -> list[int]:
    """Clearances along a step and the longest stop behind it."""
    motion = CLEAR.motion(CONTRACT)
    assert motion.collisions is not None
    planner = StopPlanner(motion)
    runs = (np.concatenate((recent[1:], planner.certify(recent[:2], recent[2:])[1][0].T)) for recent in states(count))
    return timed((partial(motion.collisions.obstacle, run) for run in runs), clock)


def guarded(count: int, clock: Clock, *, wild: bool, limits: SupervisorLimits = FREE) -> list[int]:
    guard = MotionGuard(limits.motion(CONTRACT))
    track = guard.rest(MIDDLE)
    rng = np.random.default_rng(0)
    times = []
    for tick in range(count):
        phase = 0.02 * (tick + np.arange(3))[:, None]
        calm = Request(
            upcoming_rad=MIDDLE + 0.2 * (1.0 - np.cos(phase)) * np.ones(6),
            velocity_radps=np.full(6, 0.2 * np.sin(phase[0, 0])),
            acceleration_radps2=np.full(6, 0.2 * np.cos(phase[0, 0])),
        )
        request = Request.at(MIDDLE + rng.uniform(-2.0, 2.0, 6)) if wild else calm
        start = clock()
        track = guard.advance(track, request).track
        times.append(clock() - start)
    return times


def ticks(count: int, clock: Clock) -> list[int]:
    supervisor = Supervisor(CONTRACT, SupervisorLimits(require_heartbeat=False, check_tracking=True))
    period = CONTRACT.command_period_ns
    t = np.arange(50)[:, None] * CONTRACT.tick_period_ns / 1e9
    pose, now, times, moving = MIDDLE, period, [], 0
    for tick in range(count):
        now += period
        supervisor.on_joints(now, pose, now)
        start = clock()
        if tick % 13 == 0:
            base = MIDDLE + 0.3 * np.sin(0.5 * (now / 1e9 + t)) * np.ones(6)
            supervisor.on_chunk(
                plain_chunk(CONTRACT, base, stamp_ns=now, chunk_id=tick, residual_rad=0.01 * base, scale=1.0), now
            )
        decision = supervisor.tick(now)
        times.append(clock() - start)
        moving += decision.state is State.RUN
        if decision.state is State.DISENGAGED:
            supervisor.engage(now)
        pose = pose if decision.command_rad is None else decision.command_rad
    if moving < 0.9 * count:
        raise SystemExit(f"the supervisor ran in {moving} of {count} ticks only: nothing is measured")
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--wall", action="store_true")
    options = parser.parse_args()
    clock = time.perf_counter_ns if options.wall else time.thread_time_ns
    rows = {
        "stop-plan check, 6 joints": stop_check(options.count, clock),
        "the same and the tool's": tool_check(options.count, clock),
        "collisions on the same stop": collision_check(options.count, clock),
        "guarded step, request followed": guarded(options.count, clock, wild=False),
        "the same with the tool's limits": guarded(options.count, clock, wild=False, limits=TOOL),
        "guarded step, wild request": guarded(options.count, clock, wild=True),
        "the same, its tool held to 0.25 m/s": guarded(options.count, clock, wild=True, limits=SLOW),
        "supervisor tick, chunks included": ticks(options.count, clock),
    }
    print(f"{'':36s} {'p50 ms':>8s} {'p99 ms':>8s} {'max ms':>8s}")
    for name, times in rows.items():
        p50, p99, worst = np.percentile(np.array(times) / 1e6, [50, 99, 100])
        print(f"{name:36s} {p50:8.3f} {p99:8.3f} {worst:8.3f}")


if __name__ == "__main__":
    main()
