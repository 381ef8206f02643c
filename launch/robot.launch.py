# SPDX-License-Identifier: Apache-2.0
"""The small computer's half of a remote set-up: the arm's driver and, beside it, the supervisor.

`ros2 launch sigma_ros robot.launch.py calibration:=ARM.json` at the robot, and on the machine with the GPU
`ros2 launch sigma_ros policy.launch.py supervisor:=false checkpoint:=DIR`, both with the same ROS_DOMAIN_ID and
`ROS_AUTOMATIC_DISCOVERY_RANGE=SUBNET`. If the network fails, the supervisor is still at the arm and holds it.
"""

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import OpaqueFunction, RegisterEventHandler
from launch.event_handlers import OnProcessExit

from sigma_ros.contract_text import shipped_config_dir
from sigma_ros.nodes.launch.arguments import COMMON, declared, ends_all, is_true, sigma_node, values
from sigma_ros.nodes.launch.policy import POLICY_ARGUMENTS, policy_and_supervisor

ARGUMENTS = {
    **COMMON,
    "driver": ("true", "start so101_driver; false where ros2_control drives the arm"),
    "port": ("/dev/ttyACM0", "serial device of the arm's bus"),
    "calibration": ("", "LeRobot's calibration file of this arm"),
    "zero": ("encoder", "where 0 rad is: encoder (its middle) or range (middle of the recorded range)"),
    **{name: POLICY_ARGUMENTS[name] for name in ("params_file", "incidents")},
}


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*declared(ARGUMENTS), OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    given = values(context, ARGUMENTS)
    supervisor = policy_and_supervisor(context, given | {"policy": "false"})
    if not is_true(given["driver"]):
        return supervisor
    settings = {name: given[name] for name in ("contract", "port", "calibration", "zero")}
    preset = shipped_config_dir() / f"{given['params_file']}_driver.yaml"
    files = [preset] if preset.is_file() else []
    driver = sigma_node("so101_driver", "so101_driver", given, settings, files=files)
    ended = OnProcessExit(target_action=driver, on_exit=ends_all("the driver"))
    return [*supervisor, RegisterEventHandler(ended), driver]
