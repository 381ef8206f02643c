# SPDX-License-Identifier: Apache-2.0
"""Starts the supervisor and then the policy: `ros2 launch sigma_ros policy.launch.py checkpoint:=DIR`.

Nothing moves until the supervisor is engaged:
`ros2 service call /sigma_supervisor/engage std_srvs/srv/Trigger`. With `dry_run:=true` the commands
go to /sigma/dry_run instead of the contract's command topic.
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import LogInfo, OpaqueFunction, RegisterEventHandler
from launch.event_handlers import OnProcessExit, OnProcessStart
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from sigma_ros.contract_file import load_contract, shipped_config_dir
from sigma_ros.errors import UsageError
from sigma_ros.nodes.launching import STOP_TIMEOUTS, declared, ends_all

ARGUMENTS = {
    "contract": ("so101", "contract file, or the name of a shipped one (so101, cr5)"),
    "checkpoint": ("mini", "Sigma checkpoint folder, pi0.5 folder or Hub id, or mini (the small shipped model)"),
    "device": ("auto", "where the model runs: auto, cpu, cuda, cuda:0"),
    "allow_untrained": ("false", "accept a checkpoint with random weights"),
    "task": ("", "what to do, in words; empty: the contract's first task"),
    "params_file": ("", "YAML file with further parameters of both nodes, or a shipped one: cautious, research, slow"),
    "autostart": ("true", "configure and activate the policy; false: a lifecycle manager does"),
    "policy": ("true", "start the policy too; false on the robot's computer, where another machine has the GPU"),
    "supervisor": ("true", "start the supervisor too; without it nothing commands the robot"),
    "simulated": ("false", "the supervisor has the settings of `sigma sim`; sim.launch.py says so"),
    "dry_run": ("false", "send commands to /sigma/dry_run instead of the robot"),
    "lockstep": ("false", "advance with a replay instead of the clock"),
    "incidents": ("incidents", "folder for bags of the half minute before each stop; none: none are kept"),
    "log_level": ("info", "debug, info, warn, error or fatal"),
}
SIMULATED = {"start_ramp": True, "max_residual_rad": 3.2}
NO_INCIDENTS = "none"  # `ros2 launch` takes no empty value
DRY_RUN_TOPIC = "/sigma/dry_run"
WRONG_USAGE = 2
RESPAWN_DELAY_S = 2.0
RESPAWN_MAX_RETRIES = 5


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*declared(ARGUMENTS), OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    contract = load_contract(given["contract"])  # a wrong one stops here, before any process starts
    policy = policy_node(given)
    kept = given["incidents"] not in ("", NO_INCIDENTS) and not is_true(given["lockstep"])
    recorder = [incident_recorder(given)] if kept else []
    if not is_true(given["policy"]):
        supervisor = supervisor_node(given, command_topic=contract.command_topic)
        ended = OnProcessExit(target_action=supervisor, on_exit=ends_all("the supervisor"))
        return [*recorder, RegisterEventHandler(ended), supervisor]
    if not is_true(given["supervisor"]):
        return [LogInfo(msg="no supervisor: the policy only proposes"), policy]
    supervisor = supervisor_node(given, command_topic=contract.command_topic)
    return [
        *recorder,
        RegisterEventHandler(OnProcessStart(target_action=supervisor, on_start=policy)),
        RegisterEventHandler(OnProcessExit(target_action=supervisor, on_exit=ends_all("the supervisor"))),
        supervisor,
    ]


def supervisor_node(given: dict[str, str], *, command_topic: str) -> Node:
    """The only publisher of commands. It is not started again: its end ends everything."""
    return Node(
        package="sigma_ros",
        executable="supervisor_node",
        name="sigma_supervisor",
        parameters=[
            {"contract": given["contract"], "lockstep": is_true(given["lockstep"])},
            SIMULATED if is_true(given["simulated"]) else {},
            *params_file(given),
        ],
        remappings=[(command_topic, DRY_RUN_TOPIC)] if is_true(given["dry_run"]) else [],
        **common(given),
    )


def policy_node(given: dict[str, str]) -> Node:
    """Is started again after a crash, while the supervisor holds the arm; not after a refusal."""
    return Node(
        package="sigma_ros",
        executable="policy_node",
        name="sigma_policy",
        parameters=[
            {
                "contract": given["contract"],
                "checkpoint": given["checkpoint"],
                "device": given["device"],
                "allow_untrained": is_true(given["allow_untrained"]),
                "task": given["task"],
                "autostart": is_true(given["autostart"]),
                "lockstep": is_true(given["lockstep"]),
            },
            *params_file(given),
        ],
        respawn=True,
        respawn_delay=RESPAWN_DELAY_S,
        respawn_max_retries=RESPAWN_MAX_RETRIES,
        on_exit=shutdown_if_refused,
        **common(given),
    )


def incident_recorder(given: dict[str, str]) -> Node:
    """Keeps the last half minute and writes it on a stop; its end or failure changes nothing for the others."""
    return Node(
        package="sigma_ros",
        executable="incident_recorder",
        name="sigma_incidents",
        parameters=[{"contract": given["contract"], "folder": given["incidents"]}],
        **common(given),
    )


def shutdown_if_refused(event: ProcessExited, context: LaunchContext) -> LaunchDescriptionEntity | None:
    """Starting again cannot help where the policy says that its arguments are wrong."""
    return ends_all("the policy")(event, context) if event.returncode == WRONG_USAGE else None


def common(given: dict[str, str]) -> dict[str, object]:
    return {
        "output": "screen",
        "emulate_tty": True,
        "ros_arguments": ["--log-level", given["log_level"]],
        **STOP_TIMEOUTS,
    }


def params_file(given: dict[str, str]) -> list[str]:
    """A missing file is refused: launch_ros would only warn, and start the nodes without it."""
    name = given["params_file"]
    if not name:
        return []
    shipped = shipped_config_dir() / f"{name}.yaml"
    file = shipped if shipped.is_file() else Path(name).expanduser()
    if not file.is_file():
        raise UsageError("no such parameter file", where=name, expected="a YAML file, or cautious, research or slow")
    return [str(file)]


def is_true(text: str) -> bool:
    return text.lower() == "true"
