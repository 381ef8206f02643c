# SPDX-License-Identifier: Apache-2.0
"""The simulated SO-101 with the policy and the supervisor: `ros2 launch sigma_ros sim.launch.py`.

The supervisor has the settings of `sigma sim`: a robot's, and `start_ramp`, for the policy begins from a rest pose that
its first chunk may lie far from; nobody stands beside it, so it goes on by itself after a pause.
"""

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import OpaqueFunction, RegisterEventHandler
from launch.event_handlers import OnProcessExit

from sigma_ros.nodes.launch.arguments import COMMON, declared, ends_all, number, sigma_node, values
from sigma_ros.nodes.launch.policy import POLICY_ARGUMENTS, policy_and_supervisor

OFFERED = ("checkpoint", "device", "allow_untrained", "task", "params_file", "incidents")
ARGUMENTS = {
    **COMMON,
    "setup": ("target", "which simulated set-up: source (the base policy's own), target or bumped"),
    "seed": ("0", "seed of the first episode: where the brick lies"),
    **{name: POLICY_ARGUMENTS[name] for name in OFFERED},
}


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*declared(ARGUMENTS), OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    given = values(context, ARGUMENTS)
    settings = {"contract": given["contract"], "setup": given["setup"], "seed": number(given, "seed", int)}
    simulator = sigma_node("sim_node", "sigma_sim", given, settings)
    ended = OnProcessExit(target_action=simulator, on_exit=ends_all("the simulator"))
    return [*policy_and_supervisor(context, given, simulated=True), RegisterEventHandler(ended), simulator]
