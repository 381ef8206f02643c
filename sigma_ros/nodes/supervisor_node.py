# SPDX-License-Identifier: Apache-2.0
"""`sigma_supervisor`: the only publisher of commands. A process of its own, without torch, on one executor thread.

It wires; every decision is `control.supervisor.Supervisor`'s. On a robot it starts disengaged: nothing moves
until `~/engage`. With `lockstep` it follows a replay's clock and cannot reach the robot's command topic.
"""

import gc
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress

from rclpy.node import Node
from rclpy.parameter import Parameter

from sigma_ros.contract_file import load_contract
from sigma_ros.nodes.shared import topics
from sigma_ros.nodes.shared.parameters import BoundParameters, given
from sigma_ros.nodes.shared.process import run_node, use_shipped_dds_profile
from sigma_ros.nodes.supervisor.live import LiveDrive
from sigma_ros.nodes.supervisor.lockstep import LockstepDrive
from sigma_ros.nodes.supervisor.options import SupervisorOptions, supervisor_options
from sigma_ros.supervisor.limits import SupervisorLimits

# Lets the supervisor's thread run before others where the system permits, and keeps the garbage collector short.


def take_priority(level: int) -> str:
    """Gives the calling thread SCHED_FIFO at `level` (1..99, 0: leaves it), else a better niceness; says what it got.

    The middleware's threads hold locks that this one waits for, so they run before other programs too, one level below:
    with a niceness of -10 they waited for a processor at load 25, and this thread for them, for up to 1.3 s.
    """
    if level == 0:
        return "ordinary scheduling, as asked"
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(level))
        for thread in {int(name) for name in os.listdir("/proc/self/task")} - {threading.get_native_id()}:
            with suppress(ProcessLookupError):
                os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(max(1, level - 1)))
    except (OSError, AttributeError):
        return _better_niceness()
    return f"real-time scheduling, SCHED_FIFO {level}"


def freeze_garbage() -> None:
    """What exists now is never looked at again by the garbage collector, so its pauses stay short."""
    gc.collect()
    gc.freeze()


def _better_niceness() -> str:
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    except (OSError, AttributeError):
        return "ordinary scheduling: the system permits nothing else (docs/safety.md)"
    return "niceness -10: the system does not permit real-time scheduling"


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

    def destroy_node(self) -> None:
        """As a node's, action clients too; a start that was refused has no drive."""
        drive = getattr(self, "drive", None)
        if isinstance(drive, LiveDrive):
            drive.close()
        super().destroy_node()

    def _refuse_change(self, old: SupervisorOptions, new: SupervisorOptions) -> str | None:
        return self.drive.refuse_change(old, new)


def main(args: Sequence[str] | None = None) -> int:
    """Starts the node; returns the exit code."""
    use_shipped_dds_profile("fastdds_supervisor.xml")
    return run_node(lambda overrides: SupervisorNode(overrides).be_prompt(), SupervisorOptions, args, __doc__)


if __name__ == "__main__":
    sys.exit(main())
