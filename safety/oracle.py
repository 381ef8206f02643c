#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The independent oracle: sees only what was published, recomputes everything, and says whether a run was safe.

It shares no code and no limits file with the package. Input: JSON lines, one per supervisor tick,
`{"stamp_ns": 0, "state": "RUN", "command": [rad, ...] or null}`, from a file or standard input; or arrays
through `check`. Exit codes: 0 safe, 1 not safe, 2 the input cannot be judged.

    python safety/oracle.py --limits config/oracle_so101.yaml run.jsonl

Rules. Between commands one period apart: positions inside the range, speed, acceleration and jerk (first, second and
third difference of the published numbers) inside their limits. Before its first command the arm is taken to stand
there. A command after a pause (null) begins a new motion. In HOLD, STOPPED and ESTOP the arm may only come to rest:
it may move for `rest_within_s` after the state was entered, and not again. In DISENGAGED nothing is published. Where
the measured poses are given, the first command of a motion is one of them to an encoder count, they are its history,
and a pose outside the range may only come back inside. Limits that were promised during the run hold from the first
rest after the promise, which must come within `rest_within_s`. Where it is known when somebody engaged, no motion
begins later than `leave_s` after that, or after the motion before. The supervisor is never silent for longer than
`silence_s`. Where the limits file has a `tool` with a `max_speed_mps` or a `min_height_m`, its points are placed by
the arm's joints (as a URDF gives them: place, then roll, pitch, yaw, then the turn about z) and held to them.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy import ndarray

KINDS = (
    "position",
    "velocity",
    "acceleration",
    "jerk",
    "not_finite",
    "motion_at_rest",
    "silence",
    "tool",
    "start",
    "promise",
    "leave",
)
ENCODER_COUNT_RAD = 2.0 * math.pi / 4096.0
RESTING_STATES = ("HOLD", "STOPPED", "ESTOP")


@dataclass(frozen=True, kw_only=True)
class Tool:
    """Where the joints are, which points are looked at, and what they may do.

    `frames[i]` is joint i's frame in the one before it (4 x 4); `points` are (number of joints that move it, place).
    """

    frames: tuple[ndarray, ...]
    points: tuple[tuple[int, ndarray], ...]
    max_speed_mps: float
    min_height_m: float

    @classmethod
    def read(cls, raw: dict[str, Any]) -> "Tool | None":
        """From the limits file; None where it bounds nothing."""
        if raw["max_speed_mps"] is None and raw["min_height_m"] is None:
            return None
        return cls(
            frames=tuple(_frame(joint["xyz"], joint["rpy"]) for joint in raw["joints"]),
            points=tuple((int(p["after_joints"]), np.array([*p["xyz"], 1.0])) for p in raw["points"]),
            max_speed_mps=math.inf if raw["max_speed_mps"] is None else float(raw["max_speed_mps"]),
            min_height_m=-math.inf if raw["min_height_m"] is None else float(raw["min_height_m"]),
        )

    def places(self, q: ndarray) -> ndarray:
        """The points' places for each row of joint positions: rows x points x 3."""
        rows = []
        for angles in q:
            frame, frames = np.eye(4), [np.eye(4)]
            for fixed, angle in zip(self.frames, angles, strict=True):
                frame = frame @ fixed @ _turn("z", angle)
                frames.append(frame)
            rows.append([(frames[after] @ point)[:3] for after, point in self.points])
        return np.array(rows)


def _turn(axis: str, angle: float) -> ndarray:
    first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    turn = np.eye(4)
    turn[first, first] = turn[second, second] = math.cos(angle)
    turn[second, first], turn[first, second] = math.sin(angle), -math.sin(angle)
    return turn


def _frame(xyz: Sequence[float], rpy: Sequence[float]) -> ndarray:
    shift = np.eye(4)
    shift[:3, 3] = xyz
    return shift @ _turn("z", rpy[2]) @ _turn("y", rpy[1]) @ _turn("x", rpy[0])


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The oracle's own idea of the arm."""

    joints: tuple[str, ...]
    lower: ndarray
    upper: ndarray
    speed: ndarray
    acceleration: ndarray
    jerk: ndarray
    period_s: float
    tolerance: float = 1e-6
    rest_within_s: float = 0.6
    silence_s: float = 1.0
    tool: Tool | None = None

    @classmethod
    def read(cls, path: Path) -> "Limits":
        """Reads the limits file."""
        raw: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        return cls(
            joints=tuple(raw["joint_names"]),
            lower=np.array(raw["lower_rad"], dtype=float),
            upper=np.array(raw["upper_rad"], dtype=float),
            speed=np.array(raw["max_speed_radps"], dtype=float),
            acceleration=np.array(raw["max_acceleration_radps2"], dtype=float),
            jerk=np.array(raw["max_jerk_radps3"], dtype=float),
            period_s=float(raw["period_s"]),
            tolerance=float(raw["tolerance"]),
            rest_within_s=float(raw["rest_within_s"]),
            silence_s=float(raw["silence_s"]),
            tool=Tool.read(raw["tool"]) if "tool" in raw else None,
        )


@dataclass(kw_only=True)
class Report:
    """Counts per kind, the worst use of each limit (1.0 is the limit itself), and the first finding."""

    ticks: int = 0
    commands: int = 0
    motions: int = 0
    found: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    used: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("velocity", "acceleration", "jerk"), 0.0))
    first: str = ""

    @property
    def violations(self) -> int:
        """All findings together."""
        return sum(self.found.values())

    def note(self, kind: str, where: str) -> None:
        """Counts one finding."""
        self.found[kind] += 1
        self.first = self.first or f"{kind}: {where}"

    def add(self, other: "Report") -> None:
        """Adds another run's counts."""
        self.ticks += other.ticks
        self.commands += other.commands
        self.motions += other.motions
        for kind in KINDS:
            self.found[kind] += other.found[kind]
        for kind, value in other.used.items():
            self.used[kind] = max(self.used[kind], value)
        self.first = self.first or other.first


def check(
    limits: Limits,
    commands: Sequence[ndarray | None],
    states: Sequence[str],
    stamps_ns: Sequence[int] | None = None,
    *,
    measured: Sequence[ndarray] | None = None,
    promises: Sequence[tuple[int, Limits]] = (),
    engaged: Sequence[int] | None = None,
    leave_s: float = math.inf,
) -> Report:
    """Judges a run given as one entry per tick.

    `measured`: for each tick the last few poses before it (poses x joints); `promises`: limits that were accepted
    before a tick, in order; `engaged`: ticks before which somebody engaged.
    """
    report = Report(ticks=len(commands))
    if stamps_ns is not None:
        for index in range(1, len(stamps_ns)):
            if stamps_ns[index] - stamps_ns[index - 1] > limits.silence_s * 1e9:
                report.note("silence", f"before tick {index}")
    if engaged is not None:
        _check_leave(limits, commands, engaged, leave_s, report)
    start = 0
    while start < len(commands):
        if commands[start] is None:
            start += 1
            continue
        end = start
        while end < len(commands) and commands[end] is not None:
            end += 1
        q = np.array(commands[start:end], dtype=float)
        history = None if measured is None else _measured_start(q[0], measured[start], start, report)
        report.motions += 1
        for first, last, in_force in _pieces(limits, q, start, promises, report):
            piece, known = q[first:last], history if first == 0 else q[first]
            _check_motion(in_force, piece, states[start + first : start + last], start + first, report, history=known)
        start = end
    return report


def _check_leave(
    limits: Limits, commands: Sequence[ndarray | None], engaged: Sequence[int], leave_s: float, report: Report
) -> None:
    """Motions that begin long after the last leave to move, or motion."""
    given, last = set(engaged), -math.inf
    for tick in range(1, len(commands)):
        last = tick if tick in given else last
        before, now = commands[tick - 1], commands[tick]
        if before is None or now is None or (before == now).all():
            continue
        if (tick - last) * limits.period_s > leave_s:
            report.note("leave", f"tick {tick}: {(tick - last) * limits.period_s:.2f} s after the last one")
        last = tick


def _measured_start(first: ndarray, poses: ndarray, tick: int, report: Report) -> ndarray:
    """The measured pose that the first command stands for; notes a command that is not where the arm is."""
    pose = np.clip(first, poses.min(axis=0), poses.max(axis=0))
    off = float(np.abs(first - pose).max())
    if not off <= ENCODER_COUNT_RAD:
        report.note("start", f"tick {tick}: the first command is {off:.4f} rad from the arm")
    return pose


def _pieces(
    limits: Limits, q: ndarray, first_tick: int, promises: Sequence[tuple[int, Limits]], report: Report
) -> list[tuple[int, int, Limits]]:
    """A motion cut where promised limits come into force: at the first rest after each promise."""
    pieces, begun, in_force = [], 0, limits
    allowed = math.ceil(limits.rest_within_s / limits.period_s)
    for tick, promised in promises:
        since = tick - first_tick
        if since >= len(q):
            break
        rests = (
            i for i in range(max(since, begun, 2), len(q)) if (q[i] == q[i - 1]).all() and (q[i] == q[i - 2]).all()
        )
        at = 0 if since <= 0 else next(rests, len(q))
        if at - max(since, 0) > allowed:
            report.note("promise", f"tick {tick}: the arm did not rest within {limits.rest_within_s:g} s")
        if at > begun:
            pieces.append((begun, at, in_force))
        begun, in_force = max(begun, at), promised
    if begun < len(q):
        pieces.append((begun, len(q), in_force))
    return pieces


def _check_motion(
    limits: Limits,
    q: ndarray,
    states: Sequence[str],
    first_tick: int,
    report: Report,
    *,
    history: ndarray | None = None,
) -> None:
    report.commands += len(q)
    bad = ~np.isfinite(q).all(axis=1)
    if bad.any():
        report.note("not_finite", f"tick {first_tick + int(bad.argmax())}")
        return
    before = q[0] if history is None else history
    padded = np.vstack([before, before, before, q])
    h = limits.period_s
    here, one, two, three = padded[3:], padded[2:-1], padded[1:-2], padded[:-3]
    ratios = {
        "velocity": (np.abs(here - one) / h, limits.speed),
        "acceleration": (np.abs(here - 2.0 * one + two) / h**2, limits.acceleration),
        "jerk": (np.abs(here - 3.0 * one + 3.0 * two - three) / h**3, limits.jerk),
    }
    _note(
        report,
        "position",
        _beyond(limits, q) > _allowed_beyond(limits, q, history) + limits.tolerance,
        limits,
        first_tick,
    )
    for kind, (value, limit) in ratios.items():
        report.used[kind] = max(report.used[kind], float((value / limit).max()))
        _note(report, kind, value > limit + limits.tolerance, limits, first_tick)
    if limits.tool is not None:
        _check_tool(limits, limits.tool, q, first_tick, report)
    _check_rest(limits, here - one, states, first_tick, report)


def _beyond(limits: Limits, q: ndarray) -> ndarray:
    """How far each joint is outside its range; 0 inside."""
    return np.maximum(np.maximum(q - limits.upper, limits.lower - q), 0.0)


def _allowed_beyond(limits: Limits, q: ndarray, history: ndarray | None) -> ndarray:
    """No further outside than the arm was measured, nor than any command before."""
    if history is None:
        return np.zeros_like(q)
    return np.minimum.accumulate(_beyond(limits, np.vstack([history, q[:-1]])), axis=0)


def _check_tool(limits: Limits, tool: Tool, q: ndarray, first_tick: int, report: Report, *, judged: int = 0) -> None:
    """Speeds between rows, and heights of the rows after those that were `judged` before."""
    places = tool.places(q)
    speeds = np.linalg.norm(np.diff(places, axis=0), axis=2) / limits.period_s
    for tick, point in np.argwhere(speeds > tool.max_speed_mps + limits.tolerance):
        report.note("tool", f"tick {first_tick + int(tick) + 1}, point {point}: {speeds[tick, point]:.6f} m/s")
    for row, point in np.argwhere(places[judged:, :, 2] < tool.min_height_m - limits.tolerance):
        tick = int(row) + judged
        report.note("tool", f"tick {first_tick + tick}, point {point} at {places[tick, point, 2]:.6f} m")


def _check_rest(limits: Limits, steps: ndarray, states: Sequence[str], first_tick: int, report: Report) -> None:
    allowed = math.ceil(limits.rest_within_s / limits.period_s)
    entered = 0
    for index, state in enumerate(states):
        resting = state in RESTING_STATES
        if resting and (index == 0 or states[index - 1] not in RESTING_STATES):
            entered = index
        moved = bool(np.any(steps[index] != 0.0))
        if resting and moved and index - entered >= allowed:
            report.note("motion_at_rest", f"tick {first_tick + index} in {state}")
        if state == "DISENGAGED":
            report.note("motion_at_rest", f"tick {first_tick + index}: a command while DISENGAGED")


def _note(report: Report, kind: str, over: ndarray, limits: Limits, first_tick: int) -> None:
    if over.any():
        tick, joint = (int(i) for i in np.argwhere(over)[0])
        report.note(kind, f"tick {first_tick + tick}, {limits.joints[joint]}")
        report.found[kind] += int(over.sum()) - 1


class Live:
    """The same judgement on a running stream, one supervisor tick at a time, in constant memory."""

    def __init__(self, limits: Limits) -> None:
        self.report = Report()
        self._limits = limits
        self._recent: list[ndarray] = []
        self._fresh = True
        self._resting_ticks = 0
        self._last_ns: int | None = None

    def tick(self, stamp_ns: int, state: str, command: ndarray | None) -> None:
        """One tick: `command` is None when nothing was published in it."""
        report, limits = self.report, self._limits
        where = f"tick {report.ticks} in {state}"
        report.ticks += 1
        if self._last_ns is not None and stamp_ns - self._last_ns > limits.silence_s * 1e9:
            report.note("silence", f"{(stamp_ns - self._last_ns) / 1e9:.3f} s before {where}")
        self._last_ns = stamp_ns
        self._resting_ticks = self._resting_ticks + 1 if state in RESTING_STATES else 0
        if command is None:
            self.cut()
            return
        report.commands += 1
        if not np.isfinite(command).all():
            report.note("not_finite", where)
            self.cut()
            return
        if state == "DISENGAGED":
            report.note("motion_at_rest", f"{where}: a command")
        if self._fresh:
            report.motions += 1
            self._recent, self._fresh = [command] * 3, False
        self._judge([*self._recent, command], where)
        self._recent = [*self._recent, command][-3:]

    def cut(self) -> None:
        """Commands end here; the next one begins a new motion from rest."""
        self._recent, self._fresh = [], True

    def miss(self) -> None:
        """Commands were lost on the way to the oracle: differences across the hole mean nothing."""
        self._recent = []

    def forget_silence(self) -> None:
        """The supervisor was ended on purpose: the time until the next one speaks is not its silence."""
        self._last_ns = None

    def _judge(self, q: list[ndarray], where: str) -> None:
        limits, h = self._limits, self._limits.period_s
        over = {"position": (q[-1] > limits.upper + limits.tolerance) | (q[-1] < limits.lower - limits.tolerance)}
        differences = (("velocity", limits.speed), ("acceleration", limits.acceleration), ("jerk", limits.jerk))
        for order, (kind, limit) in enumerate(differences, start=1):
            if len(q) > order:
                value = np.abs(np.diff(np.array(q[-order - 1 :]), order, axis=0)[0]) / h**order
                over[kind] = value > limit + limits.tolerance
                self.report.used[kind] = max(self.report.used[kind], float((value / limit).max()))
        for kind, joints in over.items():
            for joint in np.flatnonzero(joints):
                self.report.note(kind, f"{where}, {limits.joints[int(joint)]}")
        if limits.tool is not None:
            pair = np.array(q[-2:])
            _check_tool(limits, limits.tool, pair, self.report.ticks - len(pair), self.report, judged=len(pair) - 1)
        allowed = math.ceil(limits.rest_within_s / h)
        if self._resting_ticks > allowed and len(q) > 1 and np.any(q[-1] != q[-2]):
            self.report.note("motion_at_rest", where)


def read_lines(lines: Iterable[str]) -> tuple[list[ndarray | None], list[str], list[int]]:
    """JSON lines to commands, states and stamps."""
    commands: list[ndarray | None] = []
    states: list[str] = []
    stamps: list[int] = []
    for line in lines:
        if not line.strip():
            continue
        entry = json.loads(line)
        command = entry["command"]
        commands.append(None if command is None else np.array(command, dtype=float))
        states.append(str(entry["state"]))
        stamps.append(int(entry["stamp_ns"]))
    return commands, states, stamps


def main(arguments: Sequence[str] | None = None) -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="JSON lines, or - for standard input")
    parser.add_argument("--limits", type=Path, default=Path("config/oracle_so101.yaml"))
    options = parser.parse_args(arguments)
    try:
        limits = Limits.read(options.limits)
        if options.run == "-":
            run = read_lines(sys.stdin)
        else:
            run = read_lines(Path(options.run).read_text(encoding="utf-8").splitlines())
        report = check(limits, *run)
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.stderr.write(f"the run cannot be judged: {type(error).__name__}: {error}\n")
        return 2
    sys.stdout.write(json.dumps(report.__dict__ | {"violations": report.violations}, indent=2) + "\n")
    return 1 if report.violations or not report.commands else 0


if __name__ == "__main__":
    sys.exit(main())
