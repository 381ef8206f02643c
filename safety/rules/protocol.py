# SPDX-License-Identifier: Apache-2.0
"""The rules that others publish for bounding commands, and ours, on the same targets, judged by the same oracle.

    python -m safety.rules.protocol --ticks 1000000 --seed 0

Targets come from the campaign's attacks, which see our guard, and from calm courses with and without jumps where a new
chunk takes over. Every rule gets each target at the same tick and continues from its own last command; velocity and
acceleration are differences of its commands. What is not finite and is passed on counts, and the arm stands for it.

The rules are our own expression of the originals' documentation and source, checked with cases of their published
tests (`test_protocol.py`); nothing was run against the originals:

- `ros2_control`: joint saturation limiter, position interface (ros-controls/ros2_control `joint_limits`, Apache-2.0).
- `libfranka`: `limitRate` for joint positions (frankaemika/libfranka `rate_limiting.h`, Apache-2.0), at our period; it
  was made for 1 ms, and keeps its speed limit only where jerk / acceleration x period is below 1 (here 1.33).
- `lerobot`: `max_relative_target` (huggingface/lerobot `robots/utils.py`, Apache-2.0), set to one period at full speed.
- `reject`: what leaves the range or is too fast is refused, the last command stays. No original.
- `latch`: the same, and nothing follows until the next motion, as after a protective stop. No original.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy import ndarray
from numpy.random import Generator

from safety import oracle
from safety.attacks import ATTACKS, View
from sigma_ros.contract_file import load_contract
from sigma_ros.supervisor.guard import MotionGuard, Request
from sigma_ros.supervisor.limits import MotionLimits, SupervisorLimits

LIMITS_FILE = Path(__file__).resolve().parents[2] / "config" / "oracle_so101.yaml"
MOTION_TICKS = 500
_SEAM_TICKS = 15
_JOINED_RAD = 2e-3


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Limits per joint, in SI units of a joint's angle, and the period."""

    lower: ndarray
    upper: ndarray
    speed: ndarray
    acceleration: ndarray
    deceleration: ndarray
    jerk: ndarray
    period_s: float


@dataclass(frozen=True, kw_only=True)
class Now:
    """Where a joint was last told to be, and how it moved."""

    position: ndarray
    velocity: ndarray
    acceleration: ndarray


Rule = Callable[[ndarray, Now, Bounds], ndarray]


def ros2_control(goal: ndarray, now: Now, bounds: Bounds) -> ndarray:
    """Clamps position, speed, acceleration in turn; brakes all joints where one could not stop before its end."""
    dt = bounds.period_s

    def drift(acceleration: ndarray) -> ndarray:
        return np.asarray(now.position + now.velocity * dt + 0.5 * acceleration * dt**2)

    goal = np.clip(goal, bounds.lower, bounds.upper)
    velocity = np.clip((goal - now.position) / dt, -bounds.speed, bounds.speed)
    wanted = now.position + velocity * dt
    acceleration = (velocity - now.velocity) / dt
    brakes = acceleration * now.velocity < 0.0
    most = np.where(brakes, bounds.deceleration, bounds.acceleration)
    bounded = np.abs(acceleration) > most
    acceleration = np.clip(acceleration, -most, most)
    wanted = np.where(bounded, drift(acceleration), wanted)
    velocity = np.where(bounded, now.velocity + acceleration * dt, velocity)
    room = np.where(velocity < 0.0, now.position - bounds.lower, bounds.upper - now.position)
    if (room < velocity**2 / bounds.deceleration)[velocity != 0.0].any():
        return drift(np.clip(-now.velocity / dt, -bounds.deceleration, bounds.deceleration))
    return wanted


def libfranka(goal: ndarray, now: Now, bounds: Bounds) -> ndarray:
    """Clamps jerk, then acceleration so that the speed limit can be met; knows no range. Not finite ends the motion."""
    if not np.isfinite(goal).all():
        return now.position
    dt = bounds.period_s
    velocity = (goal - now.position) / dt
    jerk = np.clip(((velocity - now.velocity) / dt - now.acceleration) / dt, -bounds.jerk, bounds.jerk)
    ratio = bounds.jerk / bounds.acceleration
    highest = np.minimum(ratio * (bounds.speed - now.velocity), bounds.acceleration)
    lowest = np.maximum(ratio * (-bounds.speed - now.velocity), -bounds.acceleration)
    acceleration = np.maximum(np.minimum(now.acceleration + jerk * dt, highest), lowest)
    return np.asarray(now.position + (now.velocity + acceleration * dt) * dt)


def lerobot(goal: ndarray, now: Now, bounds: Bounds) -> ndarray:
    """Caps the distance between target and arm."""
    most = bounds.speed * bounds.period_s
    return np.asarray(now.position + np.clip(goal - now.position, -most, most))


def _is_fit(goal: ndarray, now: Now, bounds: Bounds) -> bool:
    fast = np.abs(goal - now.position) > bounds.speed * bounds.period_s
    return bool(((goal >= bounds.lower) & (goal <= bounds.upper) & ~fast).all())


def reject(goal: ndarray, now: Now, bounds: Bounds) -> ndarray:
    """Takes a target as it is or not at all."""
    return goal if _is_fit(goal, now, bounds) else now.position


RULES: dict[str, Rule] = {"ros2_control": ros2_control, "libfranka": libfranka, "lerobot": lerobot, "reject": reject}
OURS, LATCH = "ours", "latch"


@dataclass(kw_only=True)
class RuleScore:
    """What a rule let through."""

    report: oracle.Report = field(default_factory=oracle.Report)
    not_finite: int = 0
    frozen: int = 0
    late_ticks: int = 0
    jumps: int = 0


def calm(limits: MotionLimits, rng: Generator, *, jumps: bool) -> ndarray:
    """A course at up to half of the limits from rest; with jumps of up to 0.05 rad where a chunk takes over."""
    middle, half = 0.5 * (limits.lower_rad + limits.upper_rad), 0.5 * (limits.upper_rad - limits.lower_rad)
    t = np.arange(MOTION_TICKS)[:, None] * limits.period_s
    turns = 2.0 * np.pi * rng.uniform(0.1, 0.4, limits.dof)
    size = np.minimum(0.5 * half, 0.4 * limits.velocity_radps / turns)
    course = middle + size * (1.0 - np.cos(turns * t)) * np.minimum(1.0, t) - size
    if jumps:
        seams = rng.uniform(-0.05, 0.05, (MOTION_TICKS // _SEAM_TICKS + 1, limits.dof))
        seams[0] = 0.0
        course = course + np.repeat(seams, _SEAM_TICKS, axis=0)[:MOTION_TICKS]
    return np.asarray(course)


def targets(name: str, limits: MotionLimits, rng: Generator) -> Iterator[tuple[ndarray, ndarray]]:
    """Targets of one motion, and what our guard makes of them; the first of both is where the arm stands."""
    guard = MotionGuard(limits)
    if name in ATTACKS:
        start = limits.lower_rad + (limits.upper_rad - limits.lower_rad) * rng.uniform(0.0, 1.0, limits.dof)
        course = None
    else:
        course = calm(limits, rng, jumps=name == "seams")
        start = course[0]
    view = View(limits=limits, track=guard.rest(start))
    yield start, start
    for view.tick in range(MOTION_TICKS):
        if course is None:
            request = ATTACKS[name](rng, view)
        else:
            upcoming = course[np.minimum(np.arange(view.tick, view.tick + 3), MOTION_TICKS - 1)]
            speed = (upcoming[2] - upcoming[0]) / (2.0 * limits.period_s)
            bend = (upcoming[2] - 2.0 * upcoming[1] + upcoming[0]) / limits.period_s**2
            request = Request(upcoming_rad=upcoming, velocity_radps=speed, acceleration_radps2=bend)
        view.track = guard.advance(view.track, request).track
        yield (view.position if request is None else request.upcoming_rad[0]), view.position


def commands_of(rule: Rule, goals: ndarray, bounds: Bounds, *, latches: bool = False) -> tuple[ndarray, int]:
    """A rule's commands for a motion's targets, and how many of them were not finite."""
    dt, lost, latched = bounds.period_s, 0, False
    commands = np.repeat(goals[:1], 3, axis=0).tolist()
    for goal in goals[1:]:
        before, last, newest = np.array(commands[-3:])
        velocity = (newest - last) / dt
        now = Now(position=newest, velocity=velocity, acceleration=(velocity - (last - before) / dt) / dt)
        latched = latched or (latches and not _is_fit(goal, now, bounds))
        command = newest if latched else rule(goal, now, bounds)
        if not np.isfinite(command).all():
            lost += 1
            command = np.where(np.isfinite(command), command, newest)
        commands.append(command.tolist())
    return np.array(commands[2:]), lost


def judge(row: RuleScore, limits: oracle.Limits, goals: ndarray, commands: ndarray, *, has_jumps: bool) -> None:
    """Adds a motion to a row."""
    report = oracle.check(limits, list(commands), ["RUN"] * len(commands))
    report.ticks -= 1
    row.report.add(report)
    away_rad = np.abs(np.nan_to_num(goals[1:], nan=1e9) - commands[1:]).max(axis=1)
    row.frozen += int(((away_rad > _JOINED_RAD) & (commands[1:] == commands[:-1]).all(axis=1)).sum())
    if has_jumps:
        row.late_ticks += int((away_rad > _JOINED_RAD).sum())
        row.jumps += MOTION_TICKS // _SEAM_TICKS


def run(ticks: int, seed: int) -> dict[str, RuleScore]:
    """All rules on the same targets, attack by attack in turn."""
    contract = load_contract("so101")
    motion, limits = SupervisorLimits().motion(contract), oracle.Limits.read(LIMITS_FILE)
    bounds = Bounds(
        lower=motion.lower_rad,
        upper=motion.upper_rad,
        speed=motion.velocity_radps,
        acceleration=motion.acceleration_radps2,
        deceleration=motion.acceleration_radps2,
        jerk=motion.jerk_radps3,
        period_s=motion.period_s,
    )
    rows = {name: RuleScore() for name in (*RULES, LATCH, OURS)}
    names = [*ATTACKS, "calm", "seams"]
    for turn in range(max(1, -(-ticks // MOTION_TICKS))):
        name = names[turn % len(names)]
        rng = np.random.default_rng([seed, turn])
        goals, ours = (np.array(part) for part in zip(*targets(name, motion, rng), strict=True))
        judge(rows[OURS], limits, goals, ours, has_jumps=name == "seams")
        for rule, row in rows.items():
            if rule != OURS:
                with np.errstate(invalid="ignore", over="ignore"):
                    commands, lost = commands_of(RULES.get(rule, reject), goals, bounds, latches=rule == LATCH)
                row.not_finite += lost
                judge(row, limits, goals, commands, has_jumps=name == "seams")
    return rows


def table(rows: dict[str, RuleScore], period_s: float = 0.02) -> str:
    """The result as Markdown; violations are joint-ticks, the delay is the time away from the target after a jump."""
    lines = [
        "| rule | position | velocity | acceleration | jerk | not finite | delay | frozen |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in rows.items():
        found, late = row.report.found, 1e3 * period_s * row.late_ticks / max(1, row.jumps)
        kinds = " | ".join(f"{found[kind]:,}" for kind in ("position", "velocity", "acceleration", "jerk"))
        lines.append(f"| {name} | {kinds} | {row.not_finite:,} | {late:.0f} ms | {row.frozen / row.report.ticks:.1%} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; 1 where ours let anything through."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ticks", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.ticks < 1:
        parser.error("--ticks must be at least 1")
    rows = run(options.ticks, options.seed)
    sys.stdout.write(f"{rows[OURS].report.ticks:,} ticks of six joints\n\n{table(rows)}")
    return 1 if rows[OURS].report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
