# SPDX-License-Identifier: Apache-2.0
"""`sigma_stage`: measures a stage of the bring-up, writes its evidence, and ends it for another checkpoint's policy.

Started by `bringup.launch.py`, whose every process ends with this one: a policy with another checkpoint than the
evidence speaks of does not stay. In the stage ghost it also tells RViz where the commands would have led the arm.
"""

import json
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, String

from sigma_ros.contract_file import load_contract
from sigma_ros.errors import UsageError
from sigma_ros.msg import ActionChunk, SupervisorState
from sigma_ros.nodes.launch.stages import Evidence, contract_hash
from sigma_ros.nodes.shared import qos, topics
from sigma_ros.nodes.shared.node_options import StageOptions
from sigma_ros.nodes.shared.parameters import BoundParameters
from sigma_ros.nodes.shared.process import run_node
from sigma_ros.nodes.shared.qos import HEARTBEAT_PERIOD_NS, steady_clock
from sigma_ros.nodes.shared.sensor_messages import joint_state_message, stamp_ns
from sigma_ros.supervisor.limits import SupervisorLimits
from sigma_ros.supervisor.reasons import State
from sigma_ros.values import NS_PER_S

WRITE_S = 5.0
LATE_NS = round(SupervisorLimits().max_chunk_delay_s * NS_PER_S)


class StageMeter:
    """Counts what the stage is judged by. Shadow: chunks and heartbeats; the others: the supervisor's ticks."""

    def __init__(self, *, tick_s: float) -> None:
        self._tick_s = tick_s
        self._chunks = self._late = self._beats = self._unhealthy = 0
        self._moving = self._held = self._stops = self._violations = 0
        self._violations_before: int | None = None
        self._was_stopped = False

    def chunk(self, delay_ns: int) -> None:
        """A chunk came this long after its observation."""
        self._chunks += 1
        self._late += delay_ns > LATE_NS

    def heartbeat(self, *, healthy: bool) -> None:
        """The policy lives, and says whether it can act."""
        self._beats += bool(self._chunks)
        self._unhealthy += bool(self._chunks) and not healthy

    def tick(self, state: State, violations: int) -> None:
        """A tick of the supervisor; `violations`: since its start."""
        if self._violations_before is None:
            self._violations_before = violations
        self._violations = violations - self._violations_before
        self._moving += state in (State.RUN, State.BASE_ONLY)
        self._held += state is State.HOLD
        self._stops += state.is_latched and not self._was_stopped
        self._was_stopped = state.is_latched

    def measured(self, stage: str) -> dict[str, float]:
        """The numbers that `stages` judges."""
        if stage == "shadow":
            seconds = self._beats * HEARTBEAT_PERIOD_NS / NS_PER_S
            late, unhealthy = self._late / max(1, self._chunks), self._unhealthy / max(1, self._beats)
            return {"seconds": seconds, "late_share": late, "unhealthy_share": unhealthy}
        held = self._held / max(1, self._held + self._moving)
        counts = {"violations": float(self._violations), "stops": float(self._stops)}
        return {"seconds": self._moving * self._tick_s, "held_share": held, **counts}


class StageNode(Node):
    """See the module."""

    def __init__(self, parameter_overrides: Sequence[Parameter] = ()) -> None:
        super().__init__(topics.STAGE_NODE, parameter_overrides=list(parameter_overrides))
        self._options = BoundParameters(self, StageOptions(), state=lambda: "measuring").value
        name = topics.contract_name(self, self._options.contract)
        self._contract, self._contract_hash = load_contract(name), contract_hash(name)
        self.exit_code = 0
        self.finished = False
        self.meter = StageMeter(tick_s=self._contract.command_period_ns / NS_PER_S)
        self._run = uuid.uuid4().hex
        self._checkpoint_hash = ""
        self.create_subscription(String, topics.POLICY_INFO, self._on_info, qos.LATCHED)
        self.create_subscription(ActionChunk, topics.ACTION_CHUNK, self._on_chunk, qos.CHUNK)
        self.create_subscription(Bool, topics.POLICY_HEARTBEAT, self._on_heartbeat, qos.HEARTBEAT)
        self.create_subscription(SupervisorState, topics.SUPERVISOR_STATE, self._on_state, qos.LATCHED)
        is_ghost = self._options.stage == "ghost"
        self._ghost = self.create_publisher(JointState, topics.GHOST, qos.EVENT) if is_ghost else None
        self.create_timer(WRITE_S, self._write, clock=steady_clock())
        self.get_logger().info(f"stage {self._options.stage}; evidence goes to {self._options.folder}")

    def stop(self) -> bool:
        """Last words: the evidence."""
        self._write()
        return True

    def _on_info(self, message: String) -> None:
        self._knows(str(json.loads(message.data)["checkpoint_hash"]))

    def _knows(self, checkpoint_hash: str) -> None:
        asked = self._options.checkpoint_hash or self._checkpoint_hash
        if asked and checkpoint_hash != asked:
            refusal = UsageError(
                "the policy has another checkpoint than this stage rests on",
                expected=asked[:16],
                got=checkpoint_hash[:16],
                remedy="begin with stage:=shadow",
            )
            self.get_logger().fatal(str(refusal))
            self.exit_code, self.finished = refusal.exit_code, True
        self._checkpoint_hash = checkpoint_hash

    def _on_chunk(self, message: ActionChunk) -> None:
        self._knows(message.checkpoint_hash)
        self.meter.chunk(self.get_clock().now().nanoseconds - stamp_ns(message.header.stamp))

    def _on_heartbeat(self, message: Bool) -> None:
        self.meter.heartbeat(healthy=message.data)

    def _on_state(self, message: SupervisorState) -> None:
        self.meter.tick(State(message.state), message.violations)
        if self._ghost is not None and len(message.command) == self._contract.dof:
            at_ns, names = stamp_ns(message.header.stamp), self._contract.joint_names
            self._ghost.publish(joint_state_message(at_ns=at_ns, names=names, positions_rad=message.command))

    def _write(self) -> None:
        """What a run that is too short for praise has to say is only what was wrong."""
        options = self._options
        evidence = Evidence(
            stage=options.stage,
            contract=self._contract.name,
            contract_hash=self._contract_hash,
            checkpoint=options.checkpoint,
            checkpoint_hash=self._checkpoint_hash,
            run=self._run,
            ended_s=time.time(),
            measured=self.meter.measured(options.stage),
        )
        if self.finished or not self._checkpoint_hash or (evidence.is_short and not evidence.failures):
            return
        file = evidence.write(Path(options.folder))
        for line in evidence.failures:
            self.get_logger().warning(line, throttle_duration_sec=60.0)
        self.get_logger().info(f"{evidence.measured['seconds']:.0f} s measured: {file}", throttle_duration_sec=60.0)


def main(args: Sequence[str] | None = None) -> int:
    """Starts the node; returns the exit code."""
    return run_node(StageNode, StageOptions, args, __doc__)


if __name__ == "__main__":
    sys.exit(main())
