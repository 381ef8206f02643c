# SPDX-License-Identifier: Apache-2.0
"""`sigma_supervisor`: the only publisher of commands. A process of its own, without torch, on one executor thread.

It wires; every decision is `control.supervisor.Supervisor`'s. On a robot it starts disengaged: nothing moves
until `~/engage`. With `lockstep` it follows a replay's clock and cannot reach the robot's command topic.
"""

import sys
from collections.abc import Sequence

from rclpy.node import Node
from rclpy.parameter import Parameter

from sigma_ros.contract_file import load_contract
from sigma_ros.control.limits import SupervisorLimits
from sigma_ros.nodes import topics
from sigma_ros.nodes.node_options import SupervisorOptions, supervisor_options
from sigma_ros.nodes.parameters import BoundParameters, given
from sigma_ros.nodes.process import run_node, use_shipped_dds_profile
from sigma_ros.nodes.supervisor_live import LiveDrive
from sigma_ros.nodes.supervisor_lockstep import LockstepDrive
from sigma_ros.nodes.supervisor_priority import freeze_garbage, take_priority


class SupervisorNode(Node):
    """See the module. In lockstep the settings' defaults are those of `SupervisorLimits.for_replay`."""

    def __init__(self, parameter_overrides: Sequence[Parameter] = ()) -> None:
        super().__init__(topics.SUPERVISOR_NODE, parameter_overrides=list(parameter_overrides))
        lockstep = given(self, "lockstep", default=False)
        limits = SupervisorLimits.for_replay() if lockstep else SupervisorLimits()
        bound = BoundParameters(
            self, supervisor_options(limits), state=lambda: self.drive.state, refuse=self._refuse_change
        )
        self._lockstep = lockstep
        contract = load_contract(topics.contract_name(self, bound.value.contract))
        make = LockstepDrive if lockstep else LiveDrive
        self.drive: LiveDrive | LockstepDrive = make(self, contract, bound.value)

    def be_prompt(self) -> "SupervisorNode":
        """For a process of its own: see `supervisor_priority`. Lockstep has no deadlines."""
        level = 0 if self._lockstep else int(self.get_parameter("realtime_priority").value)
        self.get_logger().info(take_priority(level))
        freeze_garbage()
        return self

    def stop(self) -> bool:
        """Last words: brings the arm to rest with certified commands; True once it rests."""
        return self.drive.stop()

    def _refuse_change(self, old: SupervisorOptions, new: SupervisorOptions) -> str | None:
        return self.drive.refuse_change(old, new)


def main(args: Sequence[str] | None = None) -> int:
    """Starts the node; returns the exit code."""
    use_shipped_dds_profile("fastdds_supervisor.xml")
    return run_node(lambda overrides: SupervisorNode(overrides).be_prompt(), SupervisorOptions, args, __doc__)


if __name__ == "__main__":
    sys.exit(main())
