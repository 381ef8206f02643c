# SPDX-License-Identifier: Apache-2.0
"""Records what replay needs until Ctrl-C: `ros2 launch sigma_ros record.launch.py out:=BAG task:="..."`."""

from launch import LaunchDescription
from launch.actions import RegisterEventHandler
from launch.event_handlers import OnProcessExit
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from sigma_ros.nodes.launching import STOP_TIMEOUTS, declared, ends_all, text

ARGUMENTS = {
    "out": (None, "the bag's folder, which must not exist"),
    "contract": ("so101", "contract file, or the name of a shipped one"),
    "task": ("", "what is being done, in words; empty: the contract's first task"),
    "seconds": ("0.0", "length in seconds; 0: until it is stopped"),
    "log_level": ("info", "debug, info, warn, error or fatal"),
}


def generate_launch_description() -> LaunchDescription:
    recorder = Node(
        package="sigma_ros",
        executable="record_node",
        name="sigma_record",
        parameters=[
            {
                "out": text("out"),
                "contract": text("contract"),
                "task": text("task"),
                "seconds": LaunchConfiguration("seconds"),
            }
        ],
        ros_arguments=["--log-level", LaunchConfiguration("log_level")],
        output="screen",
        emulate_tty=True,
        **STOP_TIMEOUTS,
    )
    ended = OnProcessExit(target_action=recorder, on_exit=ends_all("the recording"))
    return LaunchDescription([*declared(ARGUMENTS), RegisterEventHandler(ended), recorder])
