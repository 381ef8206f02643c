# SPDX-License-Identifier: Apache-2.0
"""What a stage measures becomes its evidence; a policy with another checkpoint ends the stage."""

from pathlib import Path

import pytest
from node_fakes import AUTHOR, make_chunk, small_contract, spin_until
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState
from sigma_ros.msg import ActionChunk, SupervisorState
from std_msgs.msg import String

from sigma_ros.nodes.launch.stages import read_evidence, required
from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.messages import chunk_message
from sigma_ros.nodes.stage_node import LATE_NS, StageMeter, StageNode
from sigma_ros.supervisor.reasons import State

pytestmark = pytest.mark.ros


def shadowed(seconds: float = 90.0, *, late: int = 0, unhealthy: int = 0) -> StageMeter:
    meter = StageMeter(tick_s=0.02)
    for k in range(round(seconds * 30)):
        meter.chunk(LATE_NS + 1 if k < late else LATE_NS)
        meter.heartbeat(healthy=k >= unhealthy)
    return meter


def test_shadow_measures_lateness_and_whether_the_policy_could_act() -> None:
    measured = shadowed(late=27, unhealthy=270).measured("shadow")
    assert measured["seconds"] == pytest.approx(89.1, abs=0.1)
    assert measured["late_share"] == pytest.approx(0.01)
    assert measured["unhealthy_share"] == pytest.approx(0.1)


def test_before_the_first_chunk_the_policy_only_loads() -> None:
    meter = StageMeter(tick_s=0.02)
    for _ in range(500):
        meter.heartbeat(healthy=False)
    assert meter.measured("shadow") == {"seconds": 0.0, "late_share": 0.0, "unhealthy_share": 0.0}


def test_motion_is_counted_and_every_stop_once() -> None:
    meter = StageMeter(tick_s=0.02)
    for state, ticks in ((State.RUN, 900), (State.HOLD, 100), (State.STOPPED, 50), (State.BASE_ONLY, 100)):
        for _ in range(ticks):
            meter.tick(state, 7)
    meter.tick(State.ESTOP, 9)
    assert meter.measured("slow") == {"seconds": 20.0, "held_share": 100 / 1100, "violations": 2.0, "stops": 2.0}


class Policy(Node):
    """Says which checkpoint it has, and a supervisor's state."""

    def __init__(self) -> None:
        super().__init__("test_policy")
        self.info = self.create_publisher(String, topics.POLICY_INFO, qos.LATCHED)
        self.chunks = self.create_publisher(ActionChunk, topics.ACTION_CHUNK, qos.CHUNK)
        self.states = self.create_publisher(SupervisorState, topics.SUPERVISOR_STATE, qos.LATCHED)
        self.ghosts: list[JointState] = []
        self.create_subscription(JointState, topics.GHOST, self.ghosts.append, qos.EVENT)

    def says(self, checkpoint_hash: str) -> None:
        self.info.publish(String(data=f'{{"checkpoint_hash": "{checkpoint_hash}"}}'))


@pytest.fixture
def rig(executor, tmp_path: Path):
    policy = Policy()
    executor.add_node(policy)

    def make(**options: object) -> StageNode:
        given = {"folder": str(tmp_path), "checkpoint": "me/pick", **options}
        node = StageNode([Parameter(name, value=value) for name, value in given.items()])
        executor.add_node(node)
        return node

    return make, policy, tmp_path


def test_what_a_stage_writes_opens_the_next(rig, executor) -> None:
    make, policy, folder = rig
    node = make(stage="shadow")
    policy.says("abc")
    spin_until(executor, lambda: node._checkpoint_hash == "abc", what="the policy's word")
    node.stop()
    assert not list(folder.iterdir()), "too short to say anything good, and nothing was wrong"
    node.meter = shadowed()
    node.stop()
    found = read_evidence(folder / "shadow.json")
    given = {"contract": "so101", "checkpoint": "me/pick", "days": 1.0, "waived": "", "now_s": found.ended_s + 1.0}
    assert required("ghost", folder, **given) == found
    assert (found.checkpoint_hash, found.failures) == ("abc", [])


@pytest.mark.parametrize("how", ["said", "seen in a chunk", "changed"])
def test_law_a_policy_with_another_checkpoint_ends_the_stage_without_evidence(rig, executor, how: str) -> None:
    make, policy, folder = rig
    node = make(stage="slow", checkpoint_hash="" if how == "changed" else "abc")
    node.meter = shadowed()
    if how == "changed":
        policy.says("abc")
        spin_until(executor, lambda: node._checkpoint_hash, what="the first word")
    if how == "seen in a chunk":
        spin_until(executor, policy.chunks.get_subscription_count, what="the chunks' reader")
        policy.chunks.publish(chunk_message(make_chunk(small_contract(), checkpoint_hash="other"), AUTHOR))
    else:
        policy.says("other")
    spin_until(executor, lambda: node.finished, what="the end")
    assert node.exit_code == 2
    node.stop()
    assert not list(folder.iterdir())


def test_the_ghost_shows_where_commands_would_lead_and_a_violation_is_written_at_once(rig, executor) -> None:
    make, policy, folder = rig
    node = make(stage="ghost")
    policy.says("abc")
    for violations in (0, 1):
        policy.states.publish(SupervisorState(state=SupervisorState.RUN, command=[0.1] * 6, violations=violations))
        spin_until(executor, lambda n=violations: len(policy.ghosts) > n, what="the ghost")
    assert list(policy.ghosts[-1].position) == [0.1] * 6
    spin_until(executor, lambda: node._checkpoint_hash, what="the policy's word")
    node.stop()
    assert read_evidence(folder / "ghost.json").failures == ["1 limit violations, none is allowed"]
