# SPDX-License-Identifier: Apache-2.0
"""Replays a recording through the policy and the supervisor: `ros2 launch sigma_ros replay.launch.py bag:=DIR`.

The three nodes advance in lockstep, so the report does not depend on the machine's speed. The launch ends
with the replay. Commands go to /sigma/replay_commands: no robot moves.
"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription, RegisterEventHandler
from launch.event_handlers import OnProcessExit
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from sigma_ros.nodes.launching import STOP_TIMEOUTS, declared, ends_all, text

ARGUMENTS = {
    "bag": (None, "the recording: a rosbag2 folder, .mcap or .db3 file"),
    "out": ("report", "folder for report.json, report.html and chunks.parquet"),
    "force": ("false", "replace a report that is there"),
    "contract": ("so101", "contract file, or the name of a shipped one (so101, cr5)"),
    "checkpoint": ("mini", "Sigma checkpoint folder, pi0.5 folder or Hub id, or mini (the small shipped model)"),
    "allow_untrained": ("false", "accept a checkpoint with random weights"),
    "task": ("", "what to do, in words; empty: the recorded task"),
    "device": ("auto", "where the model runs: auto, cpu, cuda, cuda:0"),
    "log_level": ("info", "debug, info, warn, error or fatal"),
}


def generate_launch_description() -> LaunchDescription:
    replay = Node(
        package="sigma_ros",
        executable="replay_node",
        name="sigma_replay",
        parameters=[
            {
                "bag": text("bag"),
                "out": text("out"),
                "force": LaunchConfiguration("force"),
                "contract": text("contract"),
                "task": text("task"),
            }
        ],
        ros_arguments=["--log-level", LaunchConfiguration("log_level")],
        output="screen",
        emulate_tty=True,
        **STOP_TIMEOUTS,
    )
    ended = OnProcessExit(target_action=replay, on_exit=ends_all("the replay"))
    policy = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(Path(__file__).parent / "policy.launch.py")),
        launch_arguments=[
            ("lockstep", "true"),
            ("dry_run", "true"),
            *(
                (name, LaunchConfiguration(name))
                for name in ("contract", "checkpoint", "allow_untrained", "device", "log_level")
            ),
        ],
    )
    return LaunchDescription([*declared(ARGUMENTS), policy, RegisterEventHandler(ended), replay])
