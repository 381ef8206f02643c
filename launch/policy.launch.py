# SPDX-License-Identifier: Apache-2.0
"""Starts the supervisor and then the policy: `ros2 launch sigma_ros policy.launch.py checkpoint:=DIR`.

Nothing moves until the supervisor is engaged:
`ros2 service call /sigma_supervisor/engage std_srvs/srv/Trigger`. With `dry_run:=true` the commands
go to /sigma/dry_run instead of the contract's command topic.
"""

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import OpaqueFunction

from sigma_ros.nodes.launch.arguments import declared, values
from sigma_ros.nodes.launch.policy import POLICY_ARGUMENTS, policy_and_supervisor

ARGUMENTS = POLICY_ARGUMENTS


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*declared(ARGUMENTS), OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    return policy_and_supervisor(context, values(context, ARGUMENTS))
