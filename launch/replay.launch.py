# SPDX-License-Identifier: Apache-2.0
"""Replays a recording through the policy and the supervisor: `ros2 launch sigma_ros replay.launch.py bag:=DIR`.

The three nodes advance in lockstep, so the report does not depend on the machine's speed. The launch ends
with the replay. Commands go to /sigma/replay_commands: no robot moves.
"""

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import OpaqueFunction, RegisterEventHandler
from launch.event_handlers import OnProcessExit

from sigma_ros.nodes.launch.arguments import COMMON, declared, ends_all, is_true, sigma_node, values
from sigma_ros.nodes.launch.policy import POLICY_ARGUMENTS, policy_and_supervisor

ARGUMENTS = {
    "bag": (None, "the recording: a rosbag2 folder, .mcap or .db3 file"),
    "out": ("report", "folder for report.json, report.html and chunks.parquet"),
    "force": ("false", "replace a report that is there"),
    "task": ("", "what to do, in words; empty: the recorded task"),
    **COMMON,
    **{name: POLICY_ARGUMENTS[name] for name in ("checkpoint", "allow_untrained", "device")},
}


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*declared(ARGUMENTS), OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    given = values(context, ARGUMENTS)
    settings = {name: given[name] for name in ("bag", "out", "contract", "task")} | {"force": is_true(given["force"])}
    # No terminal of a person: it tells its progress in lines.
    replay = sigma_node("replay_node", "sigma_replay", given, settings, emulate_tty=False)
    ended = OnProcessExit(target_action=replay, on_exit=ends_all("the replay"))
    others = given | {"task": "", "dry_run": "true"}  # the replay tells the policy its task
    return [*policy_and_supervisor(context, others, lockstep=True), RegisterEventHandler(ended), replay]
