# SPDX-License-Identifier: Apache-2.0
"""The small computer's half of a remote set-up: the arm's driver and, beside it, the supervisor.

`ros2 launch sigma_ros robot.launch.py calibration:=ARM.json` at the robot, and on the machine with the GPU
`ros2 launch sigma_ros policy.launch.py supervisor:=false checkpoint:=DIR`, both with the same ROS_DOMAIN_ID and
`ROS_AUTOMATIC_DISCOVERY_RANGE=SUBNET`. If the network fails, the supervisor is still at the arm and holds it.
"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription, RegisterEventHandler
from launch.conditions import IfCondition
from launch.event_handlers import OnProcessExit
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from sigma_ros.nodes.launching import STOP_TIMEOUTS, declared, ends_all, text

ARGUMENTS = {
    "contract": ("so101", "contract file, or the name of a shipped one"),
    "driver": ("true", "start so101_driver; false where ros2_control drives the arm"),
    "port": ("/dev/ttyACM0", "serial device of the arm's bus"),
    "calibration": ("", "LeRobot's calibration file of this arm"),
    "zero": ("encoder", "where 0 rad is: encoder (its middle) or range (middle of the recorded range)"),
    "params_file": (
        "",
        "YAML file with further parameters, or a shipped one: cautious, research, slow",
    ),
    "log_level": ("info", "debug, info, warn, error or fatal"),
}


def generate_launch_description() -> LaunchDescription:
    driver = Node(
        package="sigma_ros",
        executable="so101_driver",
        name="so101_driver",
        parameters=[
            {
                "contract": text("contract"),
                "port": text("port"),
                "calibration": text("calibration"),
                "zero": text("zero"),
            }
        ],
        ros_arguments=["--log-level", LaunchConfiguration("log_level")],
        condition=IfCondition(LaunchConfiguration("driver")),
        output="screen",
        emulate_tty=True,
        **STOP_TIMEOUTS,
    )
    supervisor = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(Path(__file__).parent / "policy.launch.py")),
        launch_arguments=[
            ("policy", "false"),
            *((name, LaunchConfiguration(name)) for name in ("contract", "params_file", "log_level")),
        ],
    )
    ended = OnProcessExit(target_action=driver, on_exit=ends_all("the driver"))
    arguments = declared(ARGUMENTS, {"zero": ("encoder", "range")})
    return LaunchDescription([*arguments, supervisor, RegisterEventHandler(ended), driver])
