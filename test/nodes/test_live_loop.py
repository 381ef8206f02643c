# SPDX-License-Identifier: Apache-2.0
"""The live closed loop as it is started: simulated arm, supervisor and policy as processes, over DDS, in real time."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from node_fakes import PatientOperator, call, small_so101, spin_until
from rclpy.node import Node
from sensor_msgs.msg import JointState
from sigma_ros.msg import ActionChunk, SupervisorState

from sigma_ros.nodes.shared import qos, topics

pytestmark = pytest.mark.ros
HERE = Path(__file__).parent
ENDS_S = 30.0
BUSY_S = 60.0
BUSIEST = 4.0


class Watcher(Node):
    """Sees what an operator sees, and can call the supervisor's services."""

    def __init__(self) -> None:
        super().__init__("test_watcher")
        self.state: SupervisorState | None = None
        self.chunks: list[ActionChunk] = []
        self.poses: list[np.ndarray] = []
        self.create_subscription(SupervisorState, topics.SUPERVISOR_STATE, self._on_state, qos.LATCHED)
        self.create_subscription(ActionChunk, topics.ACTION_CHUNK, self.chunks.append, qos.CHUNK)
        self.create_subscription(JointState, "/joint_states", self._on_joints, qos.SENSOR)

    def is_in(self, state: int) -> bool:
        return self.state is not None and self.state.state == state

    def moved_rad(self) -> float:
        return float(np.ptp(np.array(self.poses), axis=0).max()) if self.poses else 0.0

    def _on_state(self, message: SupervisorState) -> None:
        self.state = message

    def _on_joints(self, message: JointState) -> None:
        self.poses.append(np.array(message.position))


@contextmanager
def process(*command: str) -> Iterator[subprocess.Popen]:
    started = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


@pytest.mark.parametrize("inference_ms", [30, 350])
def test_the_loop_engages_moves_the_arm_and_ends_cleanly(tmp_path: Path, executor, inference_ms: int) -> None:
    """Also with an inference that takes longer than the eight ticks between two chunks."""
    pytest.importorskip("mujoco")
    if os.getloadavg()[0] > BUSIEST * (os.cpu_count() or 1):
        pytest.skip(f"load {os.getloadavg()[0]:.0f}: no real time on this machine now")
    contract = str(small_so101(tmp_path))
    watcher = Watcher()
    executor.add_node(watcher)
    with ExitStack() as stack:
        nodes = [
            stack.enter_context(process("-m", "sigma_ros.nodes.sim_node", "--contract", contract)),
            stack.enter_context(process("-m", "sigma_ros.nodes.supervisor_node", "--contract", contract)),
            stack.enter_context(
                process(str(HERE.parent / "support" / "waving_policy.py"), contract, str(inference_ms))
            ),
        ]
        wait = partial(spin_until, executor, timeout_s=BUSY_S)
        wait(lambda: len(watcher.chunks) >= 2, what="chunks")
        operator = PatientOperator(watcher)
        wait(lambda: watcher.is_in(SupervisorState.RUN), what="RUN")
        watcher.poses.clear()
        wait(lambda: watcher.moved_rad() > 0.15, what="the arm to swing")
        accepted = watcher.state.accepted_chunks
        wait(lambda: watcher.state.accepted_chunks >= accepted + 3, what="three more chunks")
        assert watcher.state.violations == 0
        operator.present = False
        wait(lambda: call(executor, watcher, topics.RELEASE).success, what="release to be granted")
        wait(lambda: watcher.is_in(SupervisorState.DISENGAGED), what="DISENGAGED")
        for node in reversed(nodes):
            node.send_signal(signal.SIGINT)
            assert node.wait(ENDS_S) == 0, node.communicate()[0]
