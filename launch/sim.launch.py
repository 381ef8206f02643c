# SPDX-License-Identifier: Apache-2.0
"""The simulated SO-101 with the policy and the supervisor: `ros2 launch sigma_ros sim.launch.py`.

The supervisor has the settings of `sigma sim`: `start_ramp`, for the policy begins from a rest pose that its first
chunk may lie far from, and no bound on the size of a correction (`max_residual_rad`), for the small base is far off.
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
    "contract": ("so101", "contract file, or the name of a shipped one"),
    "checkpoint": ("mini", "Sigma checkpoint folder, pi0.5 folder or Hub id, or mini (the small shipped model)"),
    "allow_untrained": ("false", "accept a checkpoint with random weights"),
    "params_file": ("", "YAML file with further parameters of policy and supervisor, or a shipped one: cautious, slow"),
    "setup": ("target", "which simulated set-up: source (the base policy's own) or target (differs from it)"),
    "seed": ("0", "seed of the first episode: where the brick lies"),
    "log_level": ("info", "debug, info, warn, error or fatal"),
}


def generate_launch_description() -> LaunchDescription:
    simulator = Node(
        package="sigma_ros",
        executable="sim_node",
        name="sigma_sim",
        parameters=[{"contract": text("contract"), "setup": text("setup"), "seed": LaunchConfiguration("seed")}],
        ros_arguments=["--log-level", LaunchConfiguration("log_level")],
        output="screen",
        emulate_tty=True,
        **STOP_TIMEOUTS,
    )
    policy = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(Path(__file__).parent / "policy.launch.py")),
        launch_arguments=[
            ("simulated", "true"),
            *(
                (name, LaunchConfiguration(name))
                for name in ("contract", "checkpoint", "allow_untrained", "params_file", "log_level")
            ),
        ],
    )
    ended = OnProcessExit(target_action=simulator, on_exit=ends_all("the simulator"))
    arguments = declared(ARGUMENTS, {"setup": ("source", "target")})
    return LaunchDescription([*arguments, policy, RegisterEventHandler(ended), simulator])
