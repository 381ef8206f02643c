# SPDX-License-Identifier: Apache-2.0
"""What `bringup.launch.py` starts beside policy and supervisor: cameras, the arm's driver, its model, RViz.

Packages of others are named here alone; they are needed only where an argument asks for them.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from launch_ros.actions import Node

from sigma_ros.contract_text import contract_document, shipped_config_dir
from sigma_ros.errors import UsageError
from sigma_ros.nodes.launch.arguments import Given, is_true, sigma_node
from sigma_ros.nodes.shared.parameter_files import camera_devices

NONE = "none"
GHOST = "sigma/ghost/joint_states"  # topics.GHOST, which a launch file cannot import


def _usb_cam(camera: Mapping[str, Any], device: str, fps: float) -> dict[str, object]:
    size = {"image_width": camera["width_px"], "image_height": camera["height_px"]}
    return {"video_device": device, "framerate": float(fps), "camera_name": camera["name"], **size}


def _v4l2_camera(camera: Mapping[str, Any], device: str, _fps: float) -> dict[str, object]:
    return {"video_device": device, "image_size": [camera["width_px"], camera["height_px"]]}


CAMERA_DRIVERS: Mapping[str, tuple[str, Callable[[Mapping[str, Any], str, float], dict[str, object]]]] = {
    "usb_cam": ("usb_cam_node_exe", _usb_cam),
    "v4l2_camera": ("v4l2_camera_node", _v4l2_camera),
}
"""Package -> its executable, and its parameters for a camera of a contract on a device."""


def camera_nodes(given: Given) -> list[Node]:
    """A driver for each camera of the contract.

    Raises:
        UsageError: a camera has no device.
    """
    if given["cameras"] == NONE:
        return []
    executable, parameters = CAMERA_DRIVERS[given["cameras"]]
    document: Any = contract_document(given["contract"])[1]
    devices = camera_devices(
        given["camera_devices"], [camera["name"] for camera in document["cameras"]], where="camera_devices"
    )
    return [
        Node(
            package=given["cameras"],
            executable=executable,
            name=f"{camera['name']}_camera",
            namespace=given["namespace"] or None,
            parameters=[parameters(camera, devices[camera["name"]], document["fps"])],
            remappings=[(_offered(camera), camera["topic"])],
            output="screen",
        )
        for camera in document["cameras"]
    ]


def _offered(camera: Mapping[str, Any]) -> str:
    """The driver's own topic with the type that the contract asks for."""
    return "image_raw/compressed" if str(camera["type"]).endswith("CompressedImage") else "image_raw"


def description(given: Given) -> str:
    """The arm's URDF; empty: none.

    Raises:
        UsageError: it cannot be read, or is xacro.
    """
    if not given["urdf"]:
        return ""
    file = Path(given["urdf"]).expanduser()
    if file.suffix == ".xacro":
        raise UsageError("a URDF is asked for", where=file, got="xacro", remedy=f"xacro {file} > {file.stem}")
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("the URDF cannot be read", where=file, got=error) from error


def model_nodes(given: Given, *, ghost: bool) -> list[Node]:
    """`robot_state_publisher` where there is a URDF, one more for the ghost, and RViz."""
    namespace, urdf = given["namespace"] or None, description(given)
    found = []
    for prefix, topic in [("", "joint_states"), *([("ghost/", GHOST)] if ghost else [])] if urdf else []:
        found.append(
            Node(
                package="robot_state_publisher",
                executable="robot_state_publisher",
                name=f"{prefix.replace('/', '_')}robot_state_publisher",
                namespace=namespace,
                parameters=[{"robot_description": urdf, "frame_prefix": prefix}],
                remappings=[("joint_states", topic), ("robot_description", f"{prefix}robot_description")],
            )
        )
    if is_true(given["rviz"]):
        view = str(shipped_config_dir() / "sigma.rviz")
        found.append(Node(package="rviz2", executable="rviz2", namespace=namespace, arguments=["-d", view]))
    return found


def driver_nodes(given: Given) -> list[Node]:
    """What moves the arm; the first one's end ends everything.

    Raises:
        UsageError: ros2_control lacks its URDF or its controllers.
    """
    if given["driver"] == "so101":
        settings = {name: given[name] for name in ("contract", "port", "calibration", "zero")}
        return [sigma_node("so101_driver", "so101_driver", given, settings)]
    return _ros2_control(given) if given["driver"] == "ros2_control" else []


def _ros2_control(given: Given) -> list[Node]:
    namespace, urdf, controllers = given["namespace"] or None, description(given), given["controllers"]
    if not urdf or not Path(controllers).is_file():
        expected = "urdf:=FILE controllers:=FILE"
        raise UsageError("ros2_control needs the arm's URDF and controllers", where="driver", expected=expected)
    document: Any = contract_document(given["contract"])[1]
    command = document["command"]
    places = [str(part.get("action", part["topic"])) for part in command.get("parts") or [command]]
    wanted = list(dict.fromkeys(place.strip("/").split("/")[-2] for place in places))
    manager = Node(
        package="controller_manager",
        executable="ros2_control_node",
        namespace=namespace,
        parameters=[{"robot_description": urdf}, controllers],
    )
    spawner = Node(
        package="controller_manager",
        executable="spawner",
        namespace=namespace,
        arguments=["joint_state_broadcaster", *wanted],
    )
    return [manager, spawner]
