# SPDX-License-Identifier: Apache-2.0
"""Two simulated arms in two namespaces of one domain pick at the same time, each its own brick."""

import os
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from node_fakes import PatientOperator, small_so101, spin_until
from rclpy.node import Node
from sensor_msgs.msg import JointState
from sigma_ros.msg import ActionChunk
from std_msgs.msg import String
from test_live_loop import process

from sigma_ros.nodes.shared import qos, topics

pytestmark = [pytest.mark.ros, pytest.mark.gl, pytest.mark.slow]
HERE = Path(__file__).resolve().parent
SEEDS = {"arm1": 3, "arm2": 8}
# A shared machine holds processes up; how the supervisor judges that is held elsewhere.
SIMULATED = "--start_ramp true --max_residual_rad 3.2 --bound_lead false --authority_ages false --check_tracking false"
PATIENT = (
    "--heartbeat_timeout_s 0.2 --max_tick_gap_s 1.0 --joint_hold_s 1.0 --max_chunk_delay_s 1.0 --max_chunk_age_s 1.6"
)
PICKED_S = 300.0
BUSIEST = 1.0
"""Load per core beyond which six processes have no real time."""


class ArmWatcher(Node):
    """Of one arm: engages it, and sees what becomes of it."""

    def __init__(self, namespace: str) -> None:
        super().__init__("test_watcher", namespace=namespace)
        self.outcome = ""
        self.poses: list[np.ndarray] = []
        self.chunks: set[str] = set()
        self.create_subscription(String, f"{topics.SIM_NODE}/outcome", self._on_outcome, qos.LATCHED)
        self.create_subscription(JointState, "joint_states", self._on_joints, qos.SENSOR)
        self.create_subscription(ActionChunk, topics.ACTION_CHUNK, self._on_chunk, qos.CHUNK)
        self.operator = PatientOperator(self)

    def _on_outcome(self, message: String) -> None:
        self.outcome = message.data

    def _on_joints(self, message: JointState) -> None:
        self.poses.append(np.array(message.position))

    def _on_chunk(self, message: ActionChunk) -> None:
        self.chunks.add(message.policy_instance)


def test_two_simulated_arms_pick_at_the_same_time_and_never_cross(executor, tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    if os.getloadavg()[0] > BUSIEST * (os.cpu_count() or 1):
        pytest.skip(f"load {os.getloadavg()[0]:.0f}: no real time on this machine now")
    contract = str(small_so101(tmp_path))
    watchers = {name: ArmWatcher(name) for name in SEEDS}
    with ExitStack() as stack:
        for name, seed in SEEDS.items():
            executor.add_node(watchers[name])
            place = ("--ros-args", "-r", f"__ns:=/{name}")
            world = f"sigma_ros.nodes.sim_node --contract {contract} --setup source --seed {seed}".split()
            supervisor = f"sigma_ros.nodes.supervisor_node --contract {contract} {SIMULATED} {PATIENT}".split()
            stack.enter_context(process("-m", *world, *place))
            stack.enter_context(process("-m", *supervisor, *place))
            stack.enter_context(process(str(HERE / "expert_policy.py"), f"{contract}@{name}", str(seed), *place))
        done = lambda: all(one.outcome == "brick in box" for one in watchers.values())  # noqa: E731
        spin_until(executor, done, what="both bricks in their boxes", timeout_s=PICKED_S)
    first, second = watchers.values()
    assert len(first.chunks) == len(second.chunks) == 1
    assert not first.chunks & second.chunks, "each supervisor heard one policy, and not the other's"
    for one in watchers.values():
        state = one.operator.state
        assert state is not None
        assert state.violations == 0
        assert state.other_policies == []
        assert np.ptp(np.array(one.poses), axis=0).max() > 0.5
