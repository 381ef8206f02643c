# SPDX-License-Identifier: Apache-2.0
"""Everything of an arm at once, in stages: `ros2 launch sigma_ros bringup.launch.py stage:=shadow checkpoint:=DIR`.

Each stage rests on what was measured in the one before it; see sigma_ros/nodes/launch/stages.py.
"""

import time
from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import LogInfo, OpaqueFunction, RegisterEventHandler
from launch.event_handlers import OnProcessExit

from sigma_ros.errors import UsageError
from sigma_ros.nodes.launch.arguments import declared, ends_all, number, sigma_node, values
from sigma_ros.nodes.launch.bringup import CAMERA_DRIVERS, NONE, camera_nodes, driver_nodes, model_nodes
from sigma_ros.nodes.launch.policy import POLICY_ARGUMENTS, policy_and_supervisor
from sigma_ros.nodes.launch.stages import STAGES, required

OFFERED = ("contract", "namespace", "log_level", "checkpoint", "device", "allow_untrained", "task", "params_file")
ARGUMENTS = {
    **{name: POLICY_ARGUMENTS[name] for name in (*OFFERED, "incidents")},
    "stage": ("shadow", "shadow (only proposes), ghost (commands go nowhere), slow (preset cautious) or full"),
    "evidence": ("evidence", "folder with what each stage measured"),
    "evidence_days": ("7", "evidence that is older does not count"),
    "waive": ("", "take it on yourself: the stage whose evidence is not asked for"),
    "cameras": (NONE, "package that drives the cameras: usb_cam, v4l2_camera or none"),
    "camera_devices": ("", "a device for each camera of the contract: up=/dev/video0,side=/dev/video2"),
    "driver": (NONE, "what moves the arm: so101 (so101_driver), ros2_control, or none (it runs already)"),
    "port": ("/dev/ttyACM0", "so101: serial device of the arm's bus"),
    "calibration": ("", "so101: LeRobot's calibration file of this arm"),
    "zero": ("encoder", "so101: where 0 rad is: encoder (its middle) or range (middle of the recorded range)"),
    "urdf": ("", "the arm's URDF, for robot_state_publisher, RViz and ros2_control; empty: none"),
    "controllers": ("", "ros2_control: parameter file of the controllers"),
    "rviz": ("false", "open RViz with the shipped view"),
}
CHOICES = {
    "stage": STAGES,
    "cameras": (*CAMERA_DRIVERS, NONE),
    "driver": ("so101", "ros2_control", NONE),
}


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*declared(ARGUMENTS, CHOICES), OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    given = values(context, ARGUMENTS)
    stage, folder = given["stage"], Path(given["evidence"]).expanduser()
    rests_on = required(
        stage,
        folder,
        contract=given["contract"],
        checkpoint=given["checkpoint"],
        days=number(given, "evidence_days", float),
        waived=given["waive"],
        now_s=time.time(),
    )
    waived = [LogInfo(msg=f"without evidence of {given['waive']}, as asked")] if given["waive"] else []
    settings = {"contract": given["contract"], "checkpoint": given["checkpoint"], "stage": stage}
    settings |= {"folder": str(folder), "checkpoint_hash": rests_on.checkpoint_hash if rests_on else ""}
    watch = sigma_node("stage_node", "sigma_stage", given, settings)
    drivers = driver_nodes(given)
    ended = [
        RegisterEventHandler(OnProcessExit(target_action=node, on_exit=ends_all(what)))
        for node, what in ((watch, "the stage's gate"), *((driver, "the driver") for driver in drivers[:1]))
    ]
    acting = policy_and_supervisor(context, given | staged(given), rehearsal=stage == "ghost")
    shown = [*camera_nodes(given), *model_nodes(given, ghost=stage == "ghost")]
    return [*waived, *ended, watch, *shown, *acting, *drivers]


def staged(given: dict[str, str]) -> dict[str, str]:
    """What a stage sets; slow brings its own preset."""
    if given["stage"] != "slow":
        return {"shadow": {"supervisor": "false"}, "ghost": {"dry_run": "true"}}.get(given["stage"], {})
    if given["params_file"] not in ("", "cautious"):
        raise UsageError("stage:=slow has its own preset", where="params_file", got=given["params_file"])
    return {"params_file": "cautious"}
