# SPDX-License-Identifier: Apache-2.0
"""`sigma run` in a terminal of its own, watched over ROS: what tests of the live verbs and of the panel share."""

import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from node_fakes import small_so101
from sensor_msgs.msg import JointState
from sigma_ros.msg import SupervisorState

from sigma_ros.cli.main import main
from sigma_ros.cli.robot import run as live
from sigma_ros.cli.robot.run import ArmOptions, planned
from sigma_ros.contract import Contract
from sigma_ros.nodes.shared import qos
from sigma_ros.nodes.shared.listen import Monitor, listening
from sigma_ros.supervisor.reasons import State

SUPPORT = Path(__file__).resolve().parents[1]
ROOT = SUPPORT.parents[1]
START_S = 150.0
"""A loaded machine takes this long to start five processes, one of them with torch."""
MOVING = (State.RUN, State.BASE_ONLY, State.ENGAGING)


def sigma(*words: str) -> list[str]:
    return [sys.executable, "-m", "sigma_ros.cli.main", *words]


@dataclass
class Watched:
    """A running `sigma run`, its keyboard, and what its graph says."""

    process: subprocess.Popen[bytes]
    keyboard: int
    out: Path
    spin: Callable[[float], None]
    monitor: Monitor
    joints: list[tuple[float, ...]] = field(default_factory=list)
    stops: list[tuple[float, ...]] = field(default_factory=list)
    """The command of every message of a latched state."""

    @property
    def state(self) -> State | None:
        told = self.monitor.seen.supervisor
        return None if told is None else State(told.state)

    def press(self, key: str) -> None:
        os.write(self.keyboard, key.encode())

    def until(self, condition: Callable[[], object], what: str, timeout_s: float = 30.0) -> None:
        end_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end_s, f"{what} did not come; state {self.state}\n{self.said()}"
            assert self.process.poll() is None, self.said()
            self.spin(0.05)

    def until_started(self) -> None:
        seen = self.monitor.seen
        self.until(lambda: seen.chunk and seen.supervisor and self.joints, "a chunk, a state and joints", START_S)

    def engage(self) -> None:
        """ENTER until it is taken: a policy that has just begun is refused for a moment."""
        self.press_until("\n", lambda: self.state in MOVING, "motion", START_S)

    def press_until(self, key: str, condition: Callable[[], object], what: str, timeout_s: float = 60.0) -> None:
        """A key twice a second until it shows: a stalled machine's supervisor rightly refuses, or stops by itself."""
        end_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end_s, f"{what} did not come; state {self.state}\n{self.said()}"
            self.press("r" + key if self.state is State.STOPPED else key)
            self.spin(0.5)

    def moved_rad(self) -> float:
        """The largest way of a joint since the start."""
        return float(np.ptp(np.array(self.joints), axis=0).max())

    def said(self) -> str:
        logs = sorted((self.out / "log").glob("*.log"))
        return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-1500:]}" for log in logs)


def waving(options: ArmOptions, contract: Contract) -> Iterator[tuple[str, list[str]]]:
    """The processes of `sigma run`, with a policy that waves on the busiest machine in place of a model."""
    for name, command in planned(options, contract):
        stand_in = [sys.executable, str(SUPPORT / "waving_policy.py"), options.contract, "20"]
        yield name, stand_in if name == "policy" else command


@contextmanager
def running(out: Path, *words: str, model: bool = False) -> Iterator[Watched]:
    """`sigma run --sim` with more words, in the ROS domain of the environment; ended in every case.

    `model`: with the real policy and its small model; else with one that waves.
    """
    keyboard, terminal = pty.openpty()
    places = ("--log", str(out / "log"), "--incidents", str(out / "incidents"), "--contract", str(small_so101(out)))
    slow = ("--preset", "slow")  # the tests' machine may be busy
    path = os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    with (out / "said").open("wb") as said:
        command = sigma("run", "--sim", *places, *slow, *words)
        command = command if model else [sys.executable, __file__, *command[3:]]
        process = subprocess.Popen(command, stdin=terminal, stdout=said, stderr=said, cwd=ROOT, env=environment)
    os.close(terminal)
    try:
        with listening("test_watcher") as (node, spin):
            watched = Watched(process, keyboard, out, spin, Monitor(node))

            def on_state(message: SupervisorState) -> None:
                if State(message.state).is_latched:
                    watched.stops.append(tuple(message.command))

            node.create_subscription(
                JointState, "joint_states", lambda m: watched.joints.append(tuple(m.position)), qos.SENSOR
            )
            node.create_subscription(SupervisorState, "sigma/supervisor_state", on_state, qos.LATCHED)
            yield watched
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(60)
        os.close(keyboard)


if __name__ == "__main__":
    live.planned = waving
    main()
