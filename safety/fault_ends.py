# SPDX-License-Identifier: Apache-2.0
"""Faults that need a bench of their own: the supervisor's own end, clocks that lie, settings that are absurd."""

import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rosgraph_msgs.msg import Clock

from safety.faults import Fault, FaultTrial, attempt, is_in
from safety.rig import ROOT, Process, Rig, Setup, rig
from sigma_ros.nodes.shared.qos import steady_clock
from sigma_ros.nodes.shared.sensor_messages import to_time
from sigma_ros.supervisor.reasons import State

MOST_MOTION_RAD = 0.15
_AT_REST_RAD = 1e-4
_FAST_RADPS = 1.4
_COMES_TO_REST_S = 0.8


def trajectory_contract(folder: Path) -> Path:
    """The SO-101 with a trajectory controller instead of a position forwarder."""
    text = (ROOT / "config" / "so101.yaml").read_text(encoding="utf-8")
    path = folder / "so101_trajectory.yaml"
    path.write_text(
        text.replace("std_msgs/msg/Float64MultiArray", "trajectory_msgs/msg/JointTrajectory").replace(
            "/forward_position_controller/commands", "/arm_controller/joint_trajectory"
        ),
        encoding="utf-8",
    )
    return path


def supervisor_ends(log: Path) -> list[FaultTrial]:
    """F29: killed, stopped and terminated in motion, for both kinds of command; then started again."""
    with tempfile.TemporaryDirectory() as folder:
        kinds = (("array", "so101"), ("trajectory", str(trajectory_contract(Path(folder)))))
        return [
            _ended(log, name=f"supervisor_{word}_{kind}", contract=contract, number=number)
            for kind, contract in kinds
            for word, number in (("sigkill", signal.SIGKILL), ("sigstop", signal.SIGSTOP), ("sigterm", signal.SIGTERM))
        ]


def _ended(log: Path, *, name: str, contract: str, number: signal.Signals) -> FaultTrial:
    with rig(log, setup=Setup(contract=contract)) as bench:
        assert bench.supervisor is not None
        bench.policy_mode("fast")
        bench.wait(lambda: _speed(bench) > _FAST_RADPS, "motion", timeout_s=10.0)
        at_rad, began_s = np.array(bench.arm.pose_rad), time.monotonic()
        bench.supervisor.signal(number)
        still_s, last = began_s, at_rad
        while time.monotonic() - began_s < _COMES_TO_REST_S + 0.3:
            bench.rest(0.02)
            if float(np.abs(bench.arm.pose_rad - last).max()) > _AT_REST_RAD:
                still_s = time.monotonic()
            last = np.array(bench.arm.pose_rad)
        moved_rad, took_s = float(np.abs(last - at_rad).max()), still_s - began_s
        bench.supervisor.end()
        restarted = _state_after_restart(bench)
        problems = [
            text
            for text, bad in (
                (f"{moved_rad:.3f} rad of motion", moved_rad > MOST_MOTION_RAD),
                (f"still moving after {took_s:.2f} s", took_s > _COMES_TO_REST_S),
                (f"{restarted.name} after the restart", restarted is not State.DISENGAGED),
                (f"oracle: {bench.oracle.report.first}", bench.oracle.report.violations > 0),
            )
            if bad
        ]
        return FaultTrial(
            fault="F29",
            name=name,
            expected=f"at most {MOST_MOTION_RAD} rad of motion, then rest; a new one starts DISENGAGED",
            ok=not problems,
            state=restarted.name,
            text=f"moved {moved_rad:.4f} rad in {took_s:.2f} s",
            detection_ms=round(1e3 * took_s, 1),
            limit_ms=1e3 * _COMES_TO_REST_S,
            violations=bench.oracle.report.violations,
            why="; ".join(problems),
        )


def _speed(bench: Rig) -> float:
    if len(bench.commands) < 2:
        return 0.0
    return float(np.abs(bench.commands[-1][1] - bench.commands[-2][1]).max()) / 0.02


def _state_after_restart(bench: Rig) -> State:
    bench.start_supervisor()
    bench.rest(0.6)
    return bench.state


class LyingClock:
    """`/clock` of the bench: paused, turned back or put forward on request. Time goes on from where it was put."""

    def __init__(self) -> None:
        self.offset_ns = 0
        self.paused_at_ns: int | None = None

    def start(self, bench: Rig) -> None:
        """Publishes from now on, 100 times a second."""
        self._publisher = bench.create_publisher(Clock, "/clock", 10)
        bench.create_timer(0.01, self._tick, clock=steady_clock())

    @property
    def _now_ns(self) -> int:
        return time.time_ns() + self.offset_ns

    def _tick(self) -> None:
        at_ns = self._now_ns if self.paused_at_ns is None else self.paused_at_ns
        self._publisher.publish(Clock(clock=to_time(at_ns)))

    def pause(self, _bench: Rig) -> None:
        """Time stands still."""
        self.paused_at_ns = self._now_ns

    def go_on(self, _bench: Rig) -> None:
        """Time goes on from where it stood."""
        assert self.paused_at_ns is not None
        self.offset_ns = self.paused_at_ns - time.time_ns()
        self.paused_at_ns = None

    def put(self, seconds: float) -> Callable[[Rig], None]:
        """Puts the clock forward or back."""

        def jump(_bench: Rig) -> None:
            self.offset_ns += round(seconds * 1e9)

        return jump


def clocks(log: Path) -> list[FaultTrial]:
    """F34-F36 and F40: the supervisor on a simulated time that stops, goes back, jumps, or has two masters."""
    clock = LyingClock()
    setup = Setup(sim_time=True)
    jumped = is_in(State.HOLD, "CLOCK_JUMP")
    faults = (
        Fault(
            row="F34",
            name="clock_paused",
            expected="HOLD: safety timers are steady; resumes with the clock",
            inject=clock.pause,
            heal=clock.go_on,
            seen=is_in(State.HOLD, "JOINTS_STALE", "CHUNK_EXPIRED", "HEARTBEAT_LOST"),
            within_s=2.5,
            dwell_s=0.5,
        ),
        Fault(
            row="F35",
            name="clock_back",
            expected="HOLD, what was stamped before is forgotten",
            inject=clock.put(-30.0),
            seen=jumped,
            within_s=0.1,
        ),
        Fault(
            row="F36",
            name="clock_forward",
            expected="HOLD, no catching up",
            inject=clock.put(3600.0),
            seen=jumped,
            within_s=0.1,
        ),
        Fault(
            row="F40",
            name="two_clocks",
            expected="told in /diagnostics",
            inject=_second_clock,
            heal=_no_second_clock,
            seen=lambda _said, _before: True,
            within_s=0.5,
            diagnosed="supervisor/clock",
        ),
    )
    with rig(log, setup=setup, before=clock.start) as bench:
        trials = []
        for fault in faults:
            bench.prepare_policy()
            trials.append(attempt(bench, fault))
        return trials


def _second_clock(bench: Rig) -> None:
    bench.foreign = bench.create_publisher(Clock, "/clock", 10)


def _no_second_clock(bench: Rig) -> None:
    bench.destroy_publisher(bench.foreign)


ABSURD = {
    "reversed range": ("lower_rad: -1.91986, upper_rad: 1.91986", "lower_rad: 1.9, upper_rad: -1.9"),
    "speed zero": ("max_velocity_radps: 2.0", "max_velocity_radps: 0.0"),
    "speed not a number": ("max_velocity_radps: 2.0", "max_velocity_radps: .nan"),
    "negative jerk": ("max_jerk_radps3: 2000.0", "max_jerk_radps3: -1.0"),
    "jerk so low that it cannot stop": ("max_jerk_radps3: 2000.0", "max_jerk_radps3: 0.001"),
}


def absurd_limits(log: Path) -> list[FaultTrial]:
    """F57: a contract with absurd limits never becomes a running supervisor."""
    trials = []
    with tempfile.TemporaryDirectory() as folder:
        good = (ROOT / "config" / "so101.yaml").read_text(encoding="utf-8")
        for name, (old, new) in ABSURD.items():
            assert old in good, old
            path = Path(folder) / "absurd.yaml"
            path.write_text(good.replace(old, new), encoding="utf-8")
            began_s = time.monotonic()
            process = Process("-m", "sigma_ros.nodes.supervisor_node", "--contract", str(path), log=log)
            code = process.popen.wait(30)
            took_ms = round(1e3 * (time.monotonic() - began_s))
            ok = code == 2
            trials.append(
                FaultTrial(
                    fault="F57",
                    name=f"contract: {name}",
                    expected="refused at start, exit code 2",
                    ok=ok,
                    state="not started",
                    text=f"exit code {code}",
                    detection_ms=took_ms,
                    limit_ms=30_000.0,
                    why="" if ok else f"exit code {code}",
                )
            )
    return trials
